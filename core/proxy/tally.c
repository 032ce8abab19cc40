/* Tally: see tally.h. Everything by name is worked out when the configuration changes; a request follows pointers. */
#include "proxy/tally.h"

void tally_place(struct exchange *exchange, struct traffic *traffic) {
  struct span none = {NULL, 0}, matched = exchange->host ? exchange->host->name : none;
  exchange->traffic = traffic_place(traffic, matched, exchange->host_name, &exchange->traffic_host) ? traffic : NULL;
}

void tally_alternative(struct exchange *exchange, const struct weighted_upstream *upstream) {
  if (exchange->traffic && upstream->traffic) exchange->traffic = upstream->traffic;
}

void tally_keep(struct exchange *exchange) {
  if (!exchange->traffic) return;
  exchange->traffic_host = arena_span(&exchange->arena, exchange->traffic_host);
  traffic_pin(exchange->traffic);
  exchange->is_traffic_pinned = true;
}

void tally_end(struct exchange *exchange, int status) {
  struct traffic *traffic = exchange->traffic;
  if (!traffic) return;
  struct traffic_sample sample = {.host = exchange->traffic_host,
                                  .method = exchange->request->method,
                                  .status = status,
                                  .request_us = exchange_duration_us(exchange),
                                  .request_bytes = exchange->request_bytes,
                                  .response_bytes = exchange->bytes_sent,
                                  .response_us = -1,
                                  .connect_us = -1,
                                  .header_us = -1};
  if (exchange->try_count == 1) { /* times of several tries are no number, as in the reference */
    sample.response_us = exchange->tries[0].response_us;
    sample.connect_us = exchange->tries[0].connect_us;
    sample.header_us = exchange->tries[0].header_us;
  }
  enum counter limit = traffic_count(traffic, exchange->worker->number, &sample);
  if (limit != COUNTER_COUNT) counter_add(exchange->worker->options.counters, limit, 1);
  if (exchange->is_traffic_pinned) traffic_unpin(traffic);
  exchange->traffic = NULL;
}
