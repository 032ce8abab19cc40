/* Change times: how long changes took, from when the sync thread took them in until every worker had them. The publisher notes, the admin thread reads. */
#ifndef APP_CHANGE_TIMES_H
#define APP_CHANGE_TIMES_H

#include "base/histogram.h"

#define CHANGE_TIMES_PENDING 256

struct change_times {
  struct histogram_bounds bounds;
  _Atomic uint64_t cells[HISTOGRAM_BOUNDS + 2];
  struct {
    uint64_t taken_us, generation; /* 0: not in a root yet */
  } pending[CHANGE_TIMES_PENDING];
  unsigned count;
};

void change_times_init(struct change_times *times);
/* A message was taken over; monotonic microseconds, 0: nobody knows. */
void change_times_taken(struct change_times *times, uint64_t taken_us);
/* What was taken since the last call is in this root. */
void change_times_published(struct change_times *times, uint64_t generation);
/* No root older than this one is held any more. */
void change_times_live(struct change_times *times, uint64_t oldest_live, uint64_t now_us);
/* Any thread. */
void change_times_write(const struct change_times *times, struct buffer *out);

#endif
