/* Change times: see change_times.h. Pure, but for what the caller says about time. */
#include "app/change_times.h"

#include "base/check.h"
#include "base/exposition.h"

void change_times_init(struct change_times *times) {
  char error[128];
  *times = (struct change_times){0};
  must(histogram_bounds_parse(&times->bounds, SPAN("0.001,0.002,0.005,0.01,0.02,0.05,0.1,0.2,0.5,1,2,5,10"), 6, error, sizeof error) == 0);
}

void change_times_taken(struct change_times *times, uint64_t taken_us) {
  /* When so many wait, a worker is stuck: the oldest say enough. */
  if (taken_us == 0 || times->count == CHANGE_TIMES_PENDING) return;
  times->pending[times->count].taken_us = taken_us;
  times->pending[times->count++].generation = 0;
}

void change_times_published(struct change_times *times, uint64_t generation) {
  for (unsigned i = times->count; i > 0 && times->pending[i - 1].generation == 0; i--) times->pending[i - 1].generation = generation;
}

void change_times_live(struct change_times *times, uint64_t oldest_live, uint64_t now_us) {
  unsigned kept = 0;
  for (unsigned i = 0; i < times->count; i++) {
    uint64_t generation = times->pending[i].generation, taken_us = times->pending[i].taken_us;
    if (generation == 0 || generation > oldest_live) times->pending[kept++] = times->pending[i];
    else histogram_observe(&times->bounds, times->cells, now_us > taken_us ? now_us - taken_us : 0);
  }
  times->count = kept;
}

void change_times_write(const struct change_times *times, struct buffer *out) {
  const struct span name = SPAN("moongate_change_to_live_seconds");
  uint64_t cells[HISTOGRAM_BOUNDS + 2];
  for (unsigned i = 0; i < histogram_cells(&times->bounds); i++) cells[i] = atomic_load_explicit(&times->cells[i], memory_order_relaxed);
  exposition_family(out, name, "histogram", "Seconds from when the sync thread took a change in until every worker had it.");
  histogram_write(out, &times->bounds, cells, name, (struct span){NULL, 0});
}
