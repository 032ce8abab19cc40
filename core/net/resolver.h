/* Resolver: names to addresses with their TTL, over c-ares on a loop of its own thread (the publisher's). */
#ifndef NET_RESOLVER_H
#define NET_RESOLVER_H

#include <uv.h>

#include "base/address.h"

struct resolver;

/* `servers`: "ADDR:PORT[,...]" or NULL for /etc/resolv.conf. */
struct resolver *resolver_new(uv_loop_t *loop, const char *servers, int *error);
/* A and AAAA. Calls back once, never from inside: count 0 with an error code, or the addresses (port 0) and the smallest TTL in seconds. */
void resolver_lookup(struct resolver *resolver, const char *name,
                     void (*done)(void *context, int error, const struct address *addresses, size_t count, unsigned ttl), void *context);
/* Pending lookups call back with ERROR_CANCELLED. */
void resolver_free(struct resolver *resolver);

#endif
