/* Detach: a long exchange stops pinning configuration. */
#ifndef PROXY_DETACH_H
#define PROXY_DETACH_H

#include "proxy/exchange.h"

enum { DETACH_AFTER_MS = 10000 };

/* Copies what the log and the rest of the relay need into the arena, runs the log hooks, drops the leases. Once. */
void detach_exchange(struct exchange *exchange);
/* Drops the leases, at detach or at the end. */
void detach_drop_leases(struct exchange *exchange);

#endif
