/* Access log: one line per exchange, into the worker's ring. */
#ifndef PROXY_ACCESS_LOG_H
#define PROXY_ACCESS_LOG_H

#include "proxy/exchange.h"

/* ingress-nginx's line. */
extern const char access_log_default_format[];
void access_log_write(struct exchange *exchange);

#endif
