/* Tunnel: after a 101, bytes both ways until both ends are done or nothing moves for read_timeout. Detached: pins no configuration. */
#ifndef PROXY_TUNNEL_H
#define PROXY_TUNNEL_H

#include "proxy/exchange.h"

/* The 101 was sent: switches both streams. */
void tunnel_begin(struct exchange *exchange);
enum step_result step_tunnel(struct exchange *exchange);

#endif
