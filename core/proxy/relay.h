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
/* Both streams are done with the answer; the connection goes back to the pool if it can carry another. */
void relay_leave_upstream(struct exchange *exchange);
void relay_drop_body(struct exchange *exchange);
/* Counts bytes that are held for an exchange in the process-wide budget. */
void relay_charge(struct exchange *exchange, int64_t amount);
bool relay_is_budget_spent(const struct exchange *exchange);
/* Asks the client for its body, if it waits to be asked. */
void relay_want_body(struct exchange *exchange);

/* For a hook: the whole body, held, if it has at most `most` bytes. */
enum relay_body {
  RELAY_BODY_THERE = 0,     /* it is exchange->body */
  RELAY_BODY_COMES = 1,     /* relay_await_body, then ask again */
  RELAY_BODY_TOO_LARGE = 2, /* for `most`, or for the route */
  RELAY_BODY_NO_ROOM = 3    /* the budget of held bodies is used up */
};
enum relay_body relay_body(const struct exchange *exchange, uint64_t most);
/* Lets it come; exchange_hook_resume is called once when it is no longer coming. */
void relay_await_body(struct exchange *exchange, uint64_t most);
/* What has not come yet waits for who asks next. */
void relay_leave_body(struct exchange *exchange);

#endif
