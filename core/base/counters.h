/* Counters: declared once, with their help text. One block per thread, summed at the scrape; series bounded.
 * A block is written by its thread only (relaxed atomics, plain adds on amd64 and arm64). */
#ifndef BASE_COUNTERS_H
#define BASE_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/limits.h"

/* X(NAME, prometheus name, help). Gauges are COUNTER_... that also go down. */
#define COUNTERS(X) \
  X(CONNECTIONS_ACCEPTED, "moongate_connections_accepted_total", "Client connections accepted.") \
  X(CONNECTIONS_CLOSED, "moongate_connections_closed_total", "Client connections closed.") \
  X(HEADS_WAITED, "moongate_request_heads_waited_total", "Request heads that did not come in one piece.") \
  X(HEADS_WAITED_ENDED, "moongate_request_heads_waited_ended_total", "Of them, those that nobody waits for any more.") \
  X(REQUESTS, "moongate_requests_total", "Requests whose head was read.") \
  X(EXCHANGES_ENDED, "moongate_exchanges_ended_total", "Exchanges that ended, whatever their outcome.") \
  X(ANSWERS_1XX, "moongate_answers_1xx_total", "Upgrades.") \
  X(ANSWERS_2XX, "moongate_answers_2xx_total", "Answers with a 2xx status.") \
  X(ANSWERS_3XX, "moongate_answers_3xx_total", "Answers with a 3xx status.") \
  X(ANSWERS_4XX, "moongate_answers_4xx_total", "Answers with a 4xx status.") \
  X(ANSWERS_5XX, "moongate_answers_5xx_total", "Answers with a 5xx status.") \
  X(CLIENT_ABORTS, "moongate_client_aborts_total", "Clients that left before their answer was complete (499).") \
  X(BYTES_RECEIVED, "moongate_client_received_bytes_total", "Bytes received from clients.") \
  X(BYTES_SENT, "moongate_client_sent_bytes_total", "Bytes sent to clients.") \
  X(UPSTREAM_CONNECTS, "moongate_upstream_connects_total", "Connections opened to endpoints.") \
  X(UPSTREAM_REUSED, "moongate_upstream_reused_total", "Requests sent over a pooled connection.") \
  X(UPSTREAM_FAILURES, "moongate_upstream_failures_total", "Tries that failed.") \
  X(UPSTREAM_RETRIES, "moongate_upstream_retries_total", "Tries that were repeated.") \
  X(TUNNELS_OPENED, "moongate_tunnels_opened_total", "Connections upgraded to tunnels.") \
  X(TUNNELS_CLOSED, "moongate_tunnels_closed_total", "Tunnels that ended.") \
  X(TLS_HANDSHAKES, "moongate_tls_handshakes_total", "TLS handshakes completed.") \
  X(TLS_RESUMED, "moongate_tls_resumed_total", "TLS handshakes that resumed a session.") \
  X(TLS_FAILED, "moongate_tls_failed_total", "TLS handshakes that failed.") \
  X(HOOK_ERRORS, "moongate_hook_errors_total", "Uncaught errors in policy hooks.") \
  X(HOOK_WAITS, "moongate_hook_waits_total", "Waits of policy hooks: sleep, request bodies, HTTP requests.") \
  X(HOOK_WAITS_ENDED, "moongate_hook_waits_ended_total", "Of them, those that are over.") \
  X(MIRRORS, "moongate_mirrors_total", "Copies of requests that were begun (exchange:mirror).") \
  X(MIRRORS_ENDED, "moongate_mirrors_ended_total", "Of them, those that are over.") \
  X(MIRRORS_FAILED, "moongate_mirrors_failed_total", "Of them, those without an answer.") \
  X(MIRRORS_SKIPPED, "moongate_mirrors_skipped_total", "Copies that were not sent: no body at hand, too many on their way, nowhere to send them.") \
  X(ROOTS_TAKEN, "moongate_roots_taken_total", "Snapshot roots taken by workers.") \
  X(EXCHANGES_DETACHED, "moongate_exchanges_detached_total", "Long exchanges that gave back their leases.") \
  X(REVIEWS_ALLOWED, "moongate_reviews_allowed_total", "Admission reviews that were answered with yes.") \
  X(REVIEWS_REFUSED, "moongate_reviews_refused_total", "Admission reviews that were answered with no.") \
  X(REVIEWS_UNANSWERED, "moongate_reviews_unanswered_total", "Admission reviews that got no answer: not ready, not in time, or no review at all.") \
  X(LOG_DROPPED, "moongate_log_lines_dropped_total", "Log lines dropped because a ring was full.")

enum counter {
#define X(name, prometheus, help) COUNTER_##name,
  COUNTERS(X)
#undef X
      COUNTER_LIMITS_, /* the first limit's: they follow in the order of enum limit_reached */
  COUNTER_LAST_NAMED_ = COUNTER_LIMITS_ - 1,
#define X(name, value, unit, answer, what) COUNTER_LIMIT_##name,
  LIMITS(X)
#undef X
      COUNTER_COUNT
};

struct counters {
  _Atomic uint64_t value[COUNTER_COUNT];
};

static inline void counter_add(struct counters *counters, enum counter which, uint64_t amount) {
  uint64_t now = atomic_load_explicit(&counters->value[which], memory_order_relaxed);
  atomic_store_explicit(&counters->value[which], now + amount, memory_order_relaxed);
}
static inline uint64_t counter_get(const struct counters *counters, enum counter which) {
  return atomic_load_explicit(&counters->value[which], memory_order_relaxed);
}

/* Counts a limit that was reached; REACHED_NONE is nothing. */
static inline void counter_limit(struct counters *counters, enum limit_reached which) {
  if (which != REACHED_NONE) counter_add(counters, (enum counter)(COUNTER_LIMITS_ + which - 1), 1);
}

/* Name and help of a counter for the exposition; the limits' are moongate_limit_<name>_total. */
const char *counter_name(enum counter which);
const char *counter_help(enum counter which);

#endif
