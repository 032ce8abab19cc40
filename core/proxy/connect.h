/* Connect: choosing an endpoint, getting a connection to it, and the bookkeeping of tries. Worker's thread only. */
#ifndef PROXY_CONNECT_H
#define PROXY_CONNECT_H

#include "proxy/exchange.h"

enum step_result step_balancer(struct exchange *exchange);
enum step_result step_connect(struct exchange *exchange);
enum step_result step_send_head(struct exchange *exchange);
enum step_result step_retry(struct exchange *exchange);
/* Whether the current try, which failed or got an answer that is not passed on yet, may be repeated. */
bool connect_may_retry(const struct exchange *exchange);
/* Called by the pool when dialling ended: 0, or why not. */
void connect_opened(struct exchange *exchange, int status);
/* Notes how the current try ended, gives back its share of the endpoint's load. Nothing happens without a current try. */
void connect_end_try(struct exchange *exchange, int error);
/* The last try, whether it runs or is over; NULL before the first. */
struct try_record *connect_current_try(struct exchange *exchange);

#endif
