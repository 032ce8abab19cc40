/* Loop: libuv's loop with the buffers, the timer wheel, the flush list and the deferred calls that its links share.
 * Owns what it allocates in loop_init; links and listeners own themselves. One loop belongs to one thread. */
#include "net/loop.h"

#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "net/link_internal.h"

#define LOOP_MAGIC MAGIC('l', 'o', 'o', 'p')
#define DEFERRED_ROUNDS 16 /* rounds of deferred calls before the loop looks at its sockets again */
#define HANDLES 4

static struct loop *loop_of(uv_handle_t *handle) {
  struct loop *loop = handle->data;
  must(loop->magic == LOOP_MAGIC);
  return loop;
}

/* Runs what is deferred now; what these calls defer waits for the next round. */
static void run_deferred(struct loop *loop) {
  struct list batch;
  list_init(&batch);
  for (int round = 0; round < DEFERRED_ROUNDS && !list_is_empty(&loop->deferred); round++) {
    while (!list_is_empty(&loop->deferred)) {
      struct list *node = loop->deferred.next;
      list_remove(node);
      list_insert_last(&batch, node);
    }
    while (!list_is_empty(&batch)) {
      struct deferred *deferred = container_of(batch.next, struct deferred, node);
      list_remove(&deferred->node);
      deferred->run(deferred);
    }
  }
}

static void on_wheel_timer(uv_timer_t *timer);

/* Arms the one uv timer for the wheel's next deadline. */
static void arm_wheel(struct loop *loop) {
  int64_t next = wheel_next(loop->wheel);
  if (next < 0) {
    uv_timer_stop(&loop->wheel_timer);
    return;
  }
  uint64_t now = loop_now_ms(loop);
  uint64_t behind = now - loop->wheel_now_ms; /* the wheel counts from when it was last advanced */
  uint64_t delay = (uint64_t)next > behind ? (uint64_t)next - behind : 0;
  if (uv_is_active((uv_handle_t *)&loop->wheel_timer) && uv_timer_get_due_in(&loop->wheel_timer) == delay) return;
  uv_timer_start(&loop->wheel_timer, on_wheel_timer, delay, 0);
}

static void on_wheel_timer(uv_timer_t *timer) {
  struct loop *loop = loop_of((uv_handle_t *)timer);
  loop->wheel_now_ms = loop_now_ms(loop);
  wheel_advance(loop->wheel, loop->wheel_now_ms);
  loop_flush(loop);
}

static void on_idle(uv_idle_t *idle) { (void)idle; }

static void on_prepare(uv_prepare_t *prepare) {
  struct loop *loop = loop_of((uv_handle_t *)prepare);
  loop->turn++;
  if (loop->on_turn) loop->on_turn(loop, loop->turn_context);
  run_deferred(loop);
  loop_flush(loop);
  /* A flush may find a dead connection and defer its end: then the poll must not block. */
  if (!list_is_empty(&loop->deferred)) {
    uv_idle_start(&loop->idle, on_idle);
  } else if (uv_is_active((uv_handle_t *)&loop->idle)) {
    uv_idle_stop(&loop->idle);
  }
  arm_wheel(loop);
}

int loop_init(struct loop *loop, struct counters *counters, struct log *log) {
  *loop = (struct loop){.magic = LOOP_MAGIC, .counters = counters, .log = log};
  int error = uv_loop_init(&loop->uv);
  if (error) return error;
  list_init(&loop->deferred);
  list_init(&loop->flush);
  list_init(&loop->lingering);
  loop->read_buffer = malloc(LOOP_READ_BUFFER);
  loop->plain_buffer = malloc(LOOP_READ_BUFFER);
  loop->cipher_buffer = malloc(LOOP_READ_BUFFER);
  if (!loop->read_buffer || !loop->plain_buffer || !loop->cipher_buffer) abort();
  loop->wheel_now_ms = uv_now(&loop->uv);
  loop->wheel = wheel_new(loop->wheel_now_ms);
  uv_timer_init(&loop->uv, &loop->wheel_timer);
  uv_timer_init(&loop->uv, &loop->turn_timer);
  uv_prepare_init(&loop->uv, &loop->prepare);
  uv_idle_init(&loop->uv, &loop->idle);
  loop->wheel_timer.data = loop->turn_timer.data = loop->prepare.data = loop->idle.data = loop;
  uv_prepare_start(&loop->prepare, on_prepare);
  return 0;
}

void loop_run(struct loop *loop) {
  /* A stop asked for before the first turn counts too. */
  while (!loop->is_stopping) uv_run(&loop->uv, UV_RUN_DEFAULT);
  loop->is_stopping = false;
}

static void on_turn_timer(uv_timer_t *timer) { (void)timer; }

void loop_run_once(struct loop *loop, int timeout_ms) {
  if (timeout_ms <= 0) {
    uv_run(&loop->uv, UV_RUN_NOWAIT);
    return;
  }
  uv_update_time(&loop->uv);
  /* Repeating: libuv runs timers before it polls, so one that is due by then would leave the poll without a bound. */
  uv_timer_start(&loop->turn_timer, on_turn_timer, (uint64_t)timeout_ms, (uint64_t)timeout_ms);
  uv_run(&loop->uv, UV_RUN_ONCE);
  uv_timer_stop(&loop->turn_timer);
}

void loop_stop(struct loop *loop) {
  loop->is_stopping = true;
  uv_stop(&loop->uv);
}

void loop_free(struct loop *loop) {
  must(loop->magic == LOOP_MAGIC);
  loop->on_turn = NULL;
  while (!list_is_empty(&loop->lingering)) link_close(container_of(loop->lingering.next, struct link, node));
  for (int turn = 0; loop->live_links > 0; turn++) {
    must(turn < 10000); /* a link was not closed by its owner */
    loop_run_once(loop, 1);
  }
  uv_handle_t *handles[HANDLES] = {(uv_handle_t *)&loop->wheel_timer, (uv_handle_t *)&loop->turn_timer, (uv_handle_t *)&loop->prepare,
                                   (uv_handle_t *)&loop->idle};
  for (int i = 0; i < HANDLES; i++) uv_close(handles[i], NULL);
  uv_run(&loop->uv, UV_RUN_DEFAULT);
  int left = uv_loop_close(&loop->uv);
  must(left == 0); /* somebody else's handle is still open */
  link_wire_free_chunks(loop);
  link_tls_free_method(loop);
  wheel_free(loop->wheel);
  free(loop->read_buffer);
  free(loop->plain_buffer);
  free(loop->cipher_buffer);
  loop->magic = 0;
}

uint64_t loop_now_ms(const struct loop *loop) { return uv_now(&loop->uv) + loop->skipped_ms; }

uint64_t loop_now_us(const struct loop *loop) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000 + loop->skipped_ms * 1000;
}

void loop_skip(struct loop *loop, uint64_t ms) { loop->skipped_ms += ms; }

void loop_timer_start(struct loop *loop, struct timer *timer, uint64_t delay_ms) {
  /* The wheel may have slept: its now lies behind ours, and no timer may fire early. */
  wheel_start(loop->wheel, timer, delay_ms + (loop_now_ms(loop) - loop->wheel_now_ms));
}

void loop_timer_stop(struct loop *loop, struct timer *timer) { wheel_stop(loop->wheel, timer); }

void deferred_init(struct deferred *deferred, void (*run)(struct deferred *deferred)) {
  list_init(&deferred->node);
  deferred->run = run;
}

void loop_defer(struct loop *loop, struct deferred *deferred) {
  if (list_is_empty(&deferred->node)) list_insert_last(&loop->deferred, &deferred->node);
}

void deferred_cancel(struct deferred *deferred) { list_remove(&deferred->node); }

void loop_flush(struct loop *loop) {
  while (!list_is_empty(&loop->flush)) {
    struct link *link = container_of(loop->flush.next, struct link, node);
    list_remove(&link->node);
    link_flush(link);
  }
}
