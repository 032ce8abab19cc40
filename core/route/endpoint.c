/* Endpoint records: health and load. All threads write them with relaxed atomics: a lost update costs one wrong guess, never memory. The publisher alone makes
 * and frees them. */
#include "route/endpoint.h"

#include "base/check.h"

#define ROW_MS 10000
#define ROW_FAILURES 3
#define OUT_MS 10000
#define EWMA_DECAY_MS 10000.0

#define GET(field) atomic_load_explicit(&(field), memory_order_relaxed)
#define SET(field, value) atomic_store_explicit(&(field), (value), memory_order_relaxed)

void endpoint_pin(struct endpoint_record *record) {
  must(record->magic == ENDPOINT_MAGIC);
  atomic_fetch_add_explicit(&record->pins, 1, memory_order_relaxed);
}

void endpoint_unpin(struct endpoint_record *record) {
  must(record->magic == ENDPOINT_MAGIC);
  /* Release: who sees 0 and frees must see all that was done under the pin. */
  must(atomic_fetch_sub_explicit(&record->pins, 1, memory_order_release) > 0);
}

void endpoint_failed(struct endpoint_record *record, uint64_t now_ms) {
  must(record->magic == ENDPOINT_MAGIC);
  uint32_t failures = atomic_fetch_add_explicit(&record->failures, 1, memory_order_relaxed) + 1;
  uint64_t third = GET(record->first_failure_ms);
  SET(record->first_failure_ms, GET(record->last_failure_ms));
  SET(record->last_failure_ms, now_ms);
  /* One that was out and fails again, on trial or because all are out, stays out. */
  bool was_out = GET(record->out_until_ms) != 0;
  if (!was_out && (failures < ROW_FAILURES || now_ms - third > ROW_MS)) return;
  SET(record->out_until_ms, now_ms + OUT_MS);
  SET(record->is_on_trial, false);
}

void endpoint_succeeded(struct endpoint_record *record) {
  must(record->magic == ENDPOINT_MAGIC);
  /* Looked at before written: on the way of every request a store would take the line from all other workers. */
  if (GET(record->failures) != 0) SET(record->failures, 0);
  if (GET(record->out_until_ms) != 0) SET(record->out_until_ms, 0);
  if (GET(record->is_on_trial)) SET(record->is_on_trial, false);
}

bool endpoint_is_healthy(const struct endpoint_record *record, uint64_t now_ms) {
  (void)now_ms; /* a time out ends with a trial that works, not by the clock */
  return GET(record->out_until_ms) == 0;
}

bool endpoint_is_due(const struct endpoint_record *record, uint64_t now_ms) {
  uint64_t until = GET(record->out_until_ms);
  return until != 0 && now_ms >= until;
}

bool endpoint_try(struct endpoint_record *record, uint64_t now_ms) {
  uint64_t until = GET(record->out_until_ms);
  if (until == 0 || now_ms < until) return false;
  /* The one who moves the end of the time out has the trial: a trial that is never reported (the client left) blocks nobody for longer than that. */
  if (!atomic_compare_exchange_strong_explicit(&record->out_until_ms, &until, now_ms + OUT_MS, memory_order_relaxed, memory_order_relaxed)) return false;
  SET(record->is_on_trial, true);
  return true;
}

/* Close to exp(-elapsed / decay), without libm. */
static double weight(uint64_t elapsed_ms) {
  double x = (double)elapsed_ms / EWMA_DECAY_MS;
  return 1.0 / (1.0 + x + x * x / 2);
}

void endpoint_observe(struct endpoint_record *record, uint64_t now_ms, uint64_t microseconds) {
  must(record->magic == ENDPOINT_MAGIC);
  uint64_t at = GET(record->ewma_at_ms), old = GET(record->ewma_us), next = microseconds;
  if (at != 0 && microseconds < old) { /* a peak counts at once, what is better only slowly */
    double w = weight(now_ms > at ? now_ms - at : 0);
    /* Several answers in one millisecond: w is 1 and nothing would move. */
    if (w > 0.999) w = 0.999;
    next = (uint64_t)((double)old * w + (double)microseconds * (1 - w));
  }
  SET(record->ewma_us, next);
  SET(record->ewma_at_ms, now_ms ? now_ms : 1);
}

uint64_t endpoint_ewma(const struct endpoint_record *record, uint64_t now_ms) {
  uint64_t at = GET(record->ewma_at_ms);
  return (uint64_t)((double)GET(record->ewma_us) * weight(now_ms > at ? now_ms - at : 0));
}
