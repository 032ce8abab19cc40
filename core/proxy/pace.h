/* Pace: answers of endpoints go out no faster than their route allows (limit_rate, limit_rate_after). What came faster is held, no more than one read of the
 * upstream's link, which is then paused with PAUSE_RATE. Worker's thread. */
#ifndef PROXY_PACE_H
#define PROXY_PACE_H

#include "proxy/exchange.h"

/* Whether the route has a pace. Never for tunnels. */
bool pace_is_set(const struct exchange *exchange);
/* A part of the answer's body has come. */
void pace_forward(struct exchange *exchange, struct span data);
/* Whether something of the answer is held. */
bool pace_holds(const struct exchange *exchange);
/* Drops what is held, at the end of the exchange. */
void pace_stop(struct exchange *exchange);

#endif
