/* Access log: one line per exchange, into the worker's ring. */
#ifndef PROXY_ACCESS_LOG_H
#define PROXY_ACCESS_LOG_H

#include "proxy/exchange.h"

void access_log_write(struct exchange *exchange);

#endif
