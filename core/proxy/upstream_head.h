/* Upstream head: the request head as it goes to an endpoint (reference: controller behaviour, headers sent upstream). */
#ifndef PROXY_UPSTREAM_HEAD_H
#define PROXY_UPSTREAM_HEAD_H

#include "proxy/exchange.h"

/* Made anew for each try, in the exchange's arena. */
struct request_head *upstream_head_make(struct exchange *exchange);
/* What upstreams are told of the client's address (X-Forwarded-For). */
struct span upstream_head_forwarded_for(struct exchange *exchange);
/* The request's trailers as the endpoint may have them; NULL for none. Some applications read trailers as if they had stood in the head: so none may say
 * what the head says, what was taken out of it, nor what only a head may say. The head must have been sent. */
struct headers *upstream_head_trailers(const struct exchange *exchange);

#endif
