/* Upstream head: the request head as it goes to an endpoint (reference: controller behaviour, headers sent upstream). */
#ifndef PROXY_UPSTREAM_HEAD_H
#define PROXY_UPSTREAM_HEAD_H

#include "proxy/exchange.h"

/* Made anew for each try, in the exchange's arena. */
struct request_head *upstream_head_make(struct exchange *exchange);

#endif
