/* Response head: what is done to every answer's fields before it goes to the client. */
#ifndef PROXY_RESPONSE_HEAD_H
#define PROXY_RESPONSE_HEAD_H

#include "proxy/exchange.h"

/* Removes Server and hidden fields of an upstream's answer, applies fixed edits, adds Date. Once per answer. */
void response_head_finish(struct exchange *exchange);

#endif
