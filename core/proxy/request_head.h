/* Request head: from what the client sent to what policies and routing look at. */
#ifndef PROXY_REQUEST_HEAD_H
#define PROXY_REQUEST_HEAD_H

#include "proxy/exchange.h"

/* Our name in CDN-Loop (RFC 8586): one for each time that a request went through here to an upstream that may lead back. */
#define REQUEST_HEAD_PASS SPAN("moongate")

/* Client address, scheme, forwarded host and port: needed for every request, bad ones included. */
void request_head_client(struct exchange *exchange);
/* Host, URI, request id. 0, or the status to refuse with and why. */
int request_head_parse(struct exchange *exchange, const char **why);

/* The address that a list such as X-Forwarded-For speaks of, as nginx's realip with recursion: from the right, skipping trusted ones. False if nothing in it is
 * an address. Pure. */
struct ip_set;
bool request_head_real_address(struct span list, const struct ip_set *trusted, struct address *address);

#endif
