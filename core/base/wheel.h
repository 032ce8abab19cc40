/* Timer wheel: thousands of coarse timeouts for one thread. Insert, move and stop are O(1). Resolution 16 ms:
 * a timer fires no earlier than asked and at most one tick plus the loop's delay later. */
#ifndef BASE_WHEEL_H
#define BASE_WHEEL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

#define WHEEL_TICK_MS 16

struct timer {
  struct list node;
  uint64_t deadline_ms;
  void (*fire)(struct timer *timer); /* may start, stop or free any timer, itself included */
};

struct wheel; /* opaque; one per loop */

struct wheel *wheel_new(uint64_t now_ms);
void wheel_free(struct wheel *wheel);
void timer_init(struct timer *timer, void (*fire)(struct timer *timer));
/* Starts or moves. `delay_ms` from the wheel's now; any length. */
void wheel_start(struct wheel *wheel, struct timer *timer, uint64_t delay_ms);
void wheel_stop(struct wheel *wheel, struct timer *timer);
bool timer_is_active(const struct timer *timer);
/* Fires what is due. */
void wheel_advance(struct wheel *wheel, uint64_t now_ms);
/* Milliseconds until the next timer may be due, or -1 when there is none. May be early, never late by more than a tick. */
int64_t wheel_next(const struct wheel *wheel);

#endif
