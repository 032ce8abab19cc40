/* Relay: both directions side by side, with back-pressure; the held request body. Worker's thread only. */
#ifndef PROXY_RELAY_H
#define PROXY_RELAY_H

#include "proxy/exchange.h"

extern const struct codec_events relay_client_events, relay_upstream_events;

enum step_result step_buffer(struct exchange *exchange);
enum step_result step_relay(struct exchange *exchange);
/* After the upstream's stream took the head: sends what is held, lets the rest come. */
void relay_begin(struct exchange *exchange);
void relay_timer_start(struct exchange *exchange);
/* exchange->timer's function. */
void relay_timer_fired(struct timer *timer);
void relay_drop_body(struct exchange *exchange);
/* Asks the client for its body, if it waits to be asked. */
void relay_want_body(struct exchange *exchange);

#endif
