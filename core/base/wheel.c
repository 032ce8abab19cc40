/* Timer wheel: levels of 64 slots; a timer lies on the level of the highest 6-bit digit in which its tick differs from the current
 * one, so a level's slots are all ahead of the current digit and the first occupied slot of the lowest occupied level is the next
 * event. Timers belong to their owners; the wheel only links them. One thread.
 * A timer that is moved to later stays where it lies and is put on when its old slot comes up: restarting an idle timeout at each
 * request costs one store. */
#include "base/wheel.h"

#include <stdlib.h>

#include "base/check.h"

enum { DIGIT = 6, SLOTS = 1 << DIGIT, LEVELS = 7 };
#define LAST_TICK (((uint64_t)1 << (DIGIT * LEVELS)) - 1) /* some 2,200 years */

struct wheel {
  uint32_t magic;
  bool advancing;
  uint64_t start_ms; /* ticks are counted from here */
  uint64_t now_ms;
  uint64_t tick; /* everything up to this one was fired */
  uint64_t occupied[LEVELS];
  struct list due;
  struct list slots[LEVELS][SLOTS];
};

#define WHEEL_MAGIC MAGIC('w', 'h', 'e', 'l')

struct wheel *wheel_new(uint64_t now_ms) {
  struct wheel *wheel = check_memory(calloc(1, sizeof *wheel));
  wheel->magic = WHEEL_MAGIC;
  wheel->start_ms = wheel->now_ms = now_ms;
  list_init(&wheel->due);
  for (int level = 0; level < LEVELS; level++)
    for (int slot = 0; slot < SLOTS; slot++) list_init(&wheel->slots[level][slot]);
  return wheel;
}

void wheel_free(struct wheel *wheel) {
  if (!wheel) return;
  must(wheel->magic == WHEEL_MAGIC && !wheel->advancing);
  /* Timers outlive the wheel as stopped ones. */
  for (int level = 0; level < LEVELS; level++)
    for (int slot = 0; slot < SLOTS; slot++)
      while (!list_is_empty(&wheel->slots[level][slot])) list_remove(wheel->slots[level][slot].next);
  wheel->magic = 0;
  free(wheel);
}

void timer_init(struct timer *timer, void (*fire)(struct timer *timer)) {
  list_init(&timer->node);
  timer->deadline_ms = 0;
  timer->fire = fire;
}

bool timer_is_active(const struct timer *timer) { return !list_is_empty(&timer->node); }

/* Links by deadline, relative to the current tick; what is due already goes to the due list. */
static void place(struct wheel *wheel, struct timer *timer) {
  uint64_t ahead = timer->deadline_ms - wheel->start_ms;
  uint64_t tick = ahead / WHEEL_TICK_MS + (ahead % WHEEL_TICK_MS != 0);
  if (tick > LAST_TICK) tick = LAST_TICK;
  if (tick <= wheel->tick) {
    list_insert_last(&wheel->due, &timer->node);
    return;
  }
  unsigned level = (63u - (unsigned)__builtin_clzll(tick ^ wheel->tick)) / DIGIT;
  unsigned slot = (unsigned)(tick >> (level * DIGIT)) & (SLOTS - 1);
  list_insert_last(&wheel->slots[level][slot], &timer->node);
  wheel->occupied[level] |= (uint64_t)1 << slot;
}

static void unlink_timer(struct wheel *wheel, struct timer *timer) {
  struct list *other = timer->node.next;
  bool is_last = other == timer->node.previous;
  list_remove(&timer->node);
  if (!is_last) return;
  /* The list had one node, so `other` is its head: a slot's, or that of the due list. */
  uintptr_t base = (uintptr_t)&wheel->slots[0][0], at = (uintptr_t)other;
  if (at < base || at >= base + sizeof wheel->slots || !list_is_empty(other)) return;
  size_t index = (at - base) / sizeof(struct list);
  wheel->occupied[index / SLOTS] &= ~((uint64_t)1 << (index % SLOTS));
}

void wheel_start(struct wheel *wheel, struct timer *timer, uint64_t delay_ms) {
  if (delay_ms == 0) delay_ms = 1; /* never in the turn that is being fired */
  uint64_t deadline = wheel->now_ms + delay_ms;
  if (deadline < delay_ms) deadline = UINT64_MAX;
  if (timer_is_active(timer)) {
    bool is_later = deadline >= timer->deadline_ms;
    timer->deadline_ms = deadline;
    if (is_later) return;
    unlink_timer(wheel, timer);
  }
  timer->deadline_ms = deadline;
  place(wheel, timer);
}

void wheel_stop(struct wheel *wheel, struct timer *timer) {
  if (timer_is_active(timer)) unlink_timer(wheel, timer);
}

/* The next tick at which a slot comes up, to be fired (level 0) or spread over the lower levels. */
static bool next_event(const struct wheel *wheel, uint64_t *tick, unsigned *level, unsigned *slot) {
  for (unsigned l = 0; l < LEVELS; l++) {
    if (wheel->occupied[l] == 0) continue;
    unsigned shift = l * DIGIT;
    *level = l;
    *slot = (unsigned)__builtin_ctzll(wheel->occupied[l]);
    *tick = ((wheel->tick >> shift & ~(uint64_t)(SLOTS - 1)) | *slot) << shift;
    return true;
  }
  return false;
}

static void fire_due(struct wheel *wheel) {
  while (!list_is_empty(&wheel->due)) {
    struct timer *timer = container_of(wheel->due.next, struct timer, node);
    list_remove(&timer->node);
    uint64_t reached = wheel->tick * WHEEL_TICK_MS;
    if (timer->deadline_ms - wheel->start_ms > reached) {
      place(wheel, timer); /* was moved to later; not due again, as no tick is clamped this early */
      continue;
    }
    timer->fire(timer); /* may have freed it */
  }
}

void wheel_advance(struct wheel *wheel, uint64_t now_ms) {
  must(wheel->magic == WHEEL_MAGIC && !wheel->advancing);
  if (now_ms <= wheel->now_ms) return;
  wheel->advancing = true;
  wheel->now_ms = now_ms;
  uint64_t target = (now_ms - wheel->start_ms) / WHEEL_TICK_MS;
  must(target < LAST_TICK);
  uint64_t tick;
  unsigned level, slot;
  while (next_event(wheel, &tick, &level, &slot) && tick <= target) {
    must(tick > wheel->tick);
    wheel->tick = tick;
    struct list *head = &wheel->slots[level][slot];
    wheel->occupied[level] &= ~((uint64_t)1 << slot);
    while (!list_is_empty(head)) {
      struct timer *timer = container_of(head->next, struct timer, node);
      list_remove(&timer->node);
      place(wheel, timer);
    }
    fire_due(wheel);
  }
  /* Nothing lies between here and the target, and what lies beyond keeps its highest differing digit: no list has to move. */
  wheel->tick = target;
  wheel->advancing = false;
}

int64_t wheel_next(const struct wheel *wheel) {
  uint64_t tick;
  unsigned level, slot;
  if (!list_is_empty(&wheel->due)) return 0;
  if (!next_event(wheel, &tick, &level, &slot)) return -1;
  uint64_t at = wheel->start_ms + tick * WHEEL_TICK_MS;
  return at <= wheel->now_ms ? 0 : (int64_t)(at - wheel->now_ms);
}
