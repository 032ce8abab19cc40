/* Timer wheel: no timer early, none later than a tick, over long spans; starting, stopping and freeing inside fire. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/wheel.h"

struct probe {
  struct timer timer;
  struct wheel *wheel;
  uint64_t *now;
  uint64_t asked, fired_at;
  int fired, rearm;
  uint64_t rearm_delay;
  struct probe *other;
  bool stops_other, frees_itself;
};

static void fire(struct timer *timer) {
  struct probe *p = container_of(timer, struct probe, timer);
  assert_false(timer_is_active(timer));
  p->fired++;
  p->fired_at = *p->now;
  if (p->rearm > 0) {
    p->rearm--;
    wheel_start(p->wheel, timer, p->rearm_delay);
  }
  if (p->stops_other) wheel_stop(p->wheel, &p->other->timer);
  if (p->frees_itself) free(p);
}

static void fires_in_time_over_long_spans(void **state) {
  (void)state;
  enum { COUNT = 2000 };
  static const uint64_t spans[] = {10, 1000, 70000, 5000000, 400000000, 30000000000, 2000000000000};
  uint64_t now = 987654321012;
  struct wheel *wheel = wheel_new(now);
  struct probe *probes = calloc(COUNT, sizeof *probes);
  struct random random = {5};
  for (int i = 0; i < COUNT; i++) {
    probes[i] = (struct probe){.wheel = wheel, .now = &now};
    timer_init(&probes[i].timer, fire);
    uint64_t delay = random_below(&random, spans[i % 7]);
    probes[i].asked = now + delay;
    wheel_start(wheel, &probes[i].timer, delay);
    if (i % 5 == 0) { /* moved: to later, or to sooner */
      delay = random_below(&random, spans[i / 5 % 7]);
      probes[i].asked = now + delay;
      wheel_start(wheel, &probes[i].timer, delay);
    }
    if (i % 11 == 0) wheel_stop(wheel, &probes[i].timer);
  }
  int64_t wait;
  int steps = 0;
  while ((wait = wheel_next(wheel)) >= 0) {
    now += (uint64_t)wait; /* exactly when told, so what is late here is the wheel's fault */
    wheel_advance(wheel, now);
    assert_true(++steps < COUNT * 20);
  }
  for (int i = 0; i < COUNT; i++) {
    if (i % 11 == 0) {
      assert_int_equal(probes[i].fired, 0);
      continue;
    }
    assert_int_equal(probes[i].fired, 1);
    assert_true(probes[i].fired_at >= probes[i].asked);
    assert_true(probes[i].fired_at <= probes[i].asked + WHEEL_TICK_MS);
  }
  free(probes);
  wheel_free(wheel);
}

static void catches_up_after_a_stall(void **state) {
  (void)state;
  enum { COUNT = 3000 };
  uint64_t now = 0;
  struct wheel *wheel = wheel_new(now);
  struct probe *probes = calloc(COUNT, sizeof *probes);
  struct random random = {6};
  int total = 0;
  for (int i = 0; i < COUNT; i++) {
    probes[i] = (struct probe){.wheel = wheel, .now = &now};
    timer_init(&probes[i].timer, fire);
  }
  for (int step = 0; step < 2000; step++) { /* steps of any size, restarts of any timer at any time */
    for (int k = 0; k < 20; k++) {
      struct probe *p = &probes[random_below(&random, COUNT)];
      uint64_t delay = random_below(&random, 1u << random_below(&random, 22));
      p->asked = now + delay;
      p->fired = 0;
      wheel_start(wheel, &p->timer, delay);
    }
    now += random_below(&random, 1u << random_below(&random, 17));
    wheel_advance(wheel, now);
    for (int i = 0; i < COUNT; i++) {
      struct probe *p = &probes[i];
      if (p->fired) total++;
      if (p->fired) assert_true(p->fired_at >= p->asked);
      if (timer_is_active(&p->timer)) assert_true(p->asked + WHEEL_TICK_MS > now); /* nothing due was left behind */
    }
  }
  assert_true(total > 1000);
  wheel_free(wheel); /* the rest is left stopped */
  for (int i = 0; i < COUNT; i++) assert_false(timer_is_active(&probes[i].timer));
  free(probes);
}

static void rearms_inside_fire(void **state) {
  (void)state;
  uint64_t now = 1000;
  struct wheel *wheel = wheel_new(now);
  struct probe p = {.wheel = wheel, .now = &now, .rearm = 1000000, .rearm_delay = 0};
  timer_init(&p.timer, fire);
  wheel_start(wheel, &p.timer, 0);
  assert_int_equal(p.fired, 0);
  for (int i = 1; i <= 100; i++) {
    now += 1600; /* many ticks at once: still one fire, for the delay counts from now */
    wheel_advance(wheel, now);
    assert_int_equal(p.fired, i);
  }
  wheel_stop(wheel, &p.timer);
  wheel_stop(wheel, &p.timer);
  assert_int_equal(wheel_next(wheel), -1);
  now += 100000;
  wheel_advance(wheel, now);
  assert_int_equal(p.fired, 100);
  wheel_free(wheel);
}

static void stops_and_frees_inside_fire(void **state) {
  (void)state;
  uint64_t now = 0;
  struct wheel *wheel = wheel_new(now);
  struct probe first = {.wheel = wheel, .now = &now, .stops_other = true}, second = {.wheel = wheel, .now = &now, .stops_other = true};
  first.other = &second;
  second.other = &first;
  timer_init(&first.timer, fire);
  timer_init(&second.timer, fire);
  struct probe *gone = calloc(1, sizeof *gone);
  *gone = (struct probe){.wheel = wheel, .now = &now, .frees_itself = true};
  timer_init(&gone->timer, fire);
  wheel_start(wheel, &first.timer, 100);
  wheel_start(wheel, &second.timer, 100);
  wheel_start(wheel, &gone->timer, 100);
  now = 200;
  wheel_advance(wheel, now);
  assert_int_equal(first.fired + second.fired, 1); /* due in the same tick: whoever came first stopped the other */
  assert_int_equal(wheel_next(wheel), -1);
  wheel_free(wheel);
}

static void moves_later_while_due(void **state) {
  (void)state;
  uint64_t now = 0;
  struct wheel *wheel = wheel_new(now);
  struct probe p = {.wheel = wheel, .now = &now};
  timer_init(&p.timer, fire);
  for (int i = 0; i < 1000; i++) { /* an idle timeout that each request puts off */
    wheel_start(wheel, &p.timer, 1000);
    now += 500;
    wheel_advance(wheel, now);
    assert_int_equal(p.fired, 0);
  }
  now += 499;
  wheel_advance(wheel, now);
  assert_int_equal(p.fired, 0);
  now += WHEEL_TICK_MS + 1;
  wheel_advance(wheel, now);
  assert_int_equal(p.fired, 1);
  wheel_start(wheel, &p.timer, UINT64_MAX); /* any length */
  assert_true(wheel_next(wheel) > 1000000000);
  wheel_start(wheel, &p.timer, 5);
  now += 32;
  wheel_advance(wheel, now);
  assert_int_equal(p.fired, 2);
  wheel_advance(wheel, 3); /* a clock that goes back does nothing */
  wheel_free(wheel);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(fires_in_time_over_long_spans), cmocka_unit_test(catches_up_after_a_stall),
                                     cmocka_unit_test(rearms_inside_fire), cmocka_unit_test(stops_and_frees_inside_fire),
                                     cmocka_unit_test(moves_later_while_due)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
