/* Tally: an exchange's part in the request metrics (route/traffic.h). Worker's thread. */
#ifndef PROXY_TALLY_H
#define PROXY_TALLY_H

#include "proxy/worker.h"

/* A host that may count under another name than its own. */
void tally_place(struct exchange *exchange, struct traffic *traffic);
/* The route is chosen, or that there is none: where the exchange will count. */
static inline void tally_begin(struct exchange *exchange) {
  struct traffic *traffic = exchange->route ? exchange->route->traffic : exchange->worker->options.nobodys_traffic;
  if (!traffic) return;
  if (traffic->is_plain && exchange->host == exchange->owner) exchange->traffic = traffic;
  else tally_place(exchange, traffic);
}
/* An alternative of the route serves it. */
void tally_alternative(struct exchange *exchange, const struct weighted_upstream *upstream);
/* The exchange is about to give back its leases and goes on. */
void tally_keep(struct exchange *exchange);
/* It is over: counts it. */
void tally_end(struct exchange *exchange, int status);

#endif
