/* Loop: one thread's libuv loop with what every connection on it shares: one read buffer (an idle connection owns none),
 * one timer wheel driven by one uv timer, the list of links to flush, and deferred calls. One per worker. */
#ifndef NET_LOOP_H
#define NET_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "base/counters.h"
#include "base/list.h"
#include "base/log.h"
#include "base/wheel.h"

#define LOOP_READ_BUFFER 65536

/* A call to make once, soon, outside the current callback (before the loop polls again). Embedded in its owner. */
struct deferred {
  struct list node;
  void (*run)(struct deferred *deferred);
};

struct loop {
  uint32_t magic;
  uv_loop_t uv;
  struct wheel *wheel;
  uv_timer_t wheel_timer;
  uv_prepare_t prepare;
  uv_idle_t idle;                                    /* active while deferred calls wait: keeps the poll from blocking */
  struct list deferred;                              /* struct deferred */
  struct list flush;                                 /* links with staged bytes */
  char *read_buffer;                                 /* LOOP_READ_BUFFER: received bytes (ciphertext on TLS links) */
  char *plain_buffer;                                /* LOOP_READ_BUFFER: plaintext of TLS links */
  char *cipher_buffer;                               /* LOOP_READ_BUFFER: records on their way out */
  struct counters *counters;                         /* keeps; the owner's */
  struct log *log;                                   /* keeps */
  void (*on_turn)(struct loop *loop, void *context); /* once a turn, before polling (worker: take a new root) */
  void *turn_context;
  uint64_t turn;             /* counts them */
  unsigned live_links;       /* links not yet freed, closed ones included */
  struct list lingering;     /* links that close gracefully: nobody else knows them any more */
  struct link_chunk *chunks; /* spare blocks for staged and unsent bytes (link_wire.c) */
  unsigned spare_chunks;
  struct bio_method_st *bio_method; /* of TLS links (link_tls.c) */
  uv_timer_t turn_timer;            /* bounds loop_run_once */
  uint64_t wheel_now_ms;            /* up to when the wheel was advanced */
  uint64_t skipped_ms;              /* added to the clock: loop_skip */
  bool is_stopping;
};

/* 0 or a libuv code. */
int loop_init(struct loop *loop, struct counters *counters, struct log *log);
/* Runs until loop_stop. */
void loop_run(struct loop *loop);
/* One turn without blocking longer than `timeout_ms` (specs and tests). */
void loop_run_once(struct loop *loop, int timeout_ms);
void loop_stop(struct loop *loop);
/* All links must be closed; runs the remaining close callbacks. */
void loop_free(struct loop *loop);

uint64_t loop_now_ms(const struct loop *loop); /* cached, monotonic */
uint64_t loop_now_us(const struct loop *loop); /* read from the clock */
/* Moves the clock, and with it every timer: for specs. */
void loop_skip(struct loop *loop, uint64_t ms);
void loop_timer_start(struct loop *loop, struct timer *timer, uint64_t delay_ms);
void loop_timer_stop(struct loop *loop, struct timer *timer);
void deferred_init(struct deferred *deferred, void (*run)(struct deferred *deferred));
void loop_defer(struct loop *loop, struct deferred *deferred); /* at most once pending */
void deferred_cancel(struct deferred *deferred);
/* Writes out all staged bytes. Every libuv callback of ours ends with it (links do it themselves); so must those of others. */
void loop_flush(struct loop *loop);

#endif
