/* Upstream units: built by the publisher of a packed body (docs/seam.md) and of the process's endpoint records. */
#ifndef ROUTE_UPSTREAM_H
#define ROUTE_UPSTREAM_H

#include <stddef.h>

#include "route/endpoint.h"

/* The publisher's registry of records: the one of the upstream with that key at `address`, made if it is new (with its name, keys and index). NULL leaves the
 * endpoint out (an address that must not be dialled, such as our own listener). */
typedef struct endpoint_record *(*upstream_record)(void *context, const struct address *address, struct span upstream);

/* The name of the upstream with this key: the dashes between the parts could stand within one of them, so that only a key can be asked for. */
struct span upstream_shown(struct span key, struct arena *arena);

/* Endpoints are listed once each, ready before draining, sorted by address, so that the same set gives the same list. NULL with a message naming the field.
 * With an external name there are none yet: `external_name` and `external_port` say what to resolve. */
struct upstream *upstream_new(struct span key, struct span body, upstream_record record, void *context, char *error, size_t error_size);
/* Of an external name's addresses (their ports are ignored). Loopback and unspecified ones are refused: left out and counted in *refused (may be NULL). */
struct upstream *upstream_new_resolved(struct span key, struct span body, const struct address *addresses, size_t count, upstream_record record, void *context,
                                       unsigned *refused, char *error, size_t error_size);
/* Both list the same records in the same order and state: nothing to publish. */
bool upstream_is_same(const struct upstream *a, const struct upstream *b);

#endif
