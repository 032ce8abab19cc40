/* Leases: which units the running exchanges of this worker use, by unit id; plain integers. Worker's thread only. */
#ifndef PROXY_LEASE_H
#define PROXY_LEASE_H

#include "proxy/worker.h"

void lease_take(struct worker *worker, struct unit *unit);
/* A hook ran for this unit: what script decoded for it has to be forgotten one day. The unit is leased. */
void lease_note_use(struct worker *worker, struct unit *unit);
/* The same for what the exchange's hooks use: its host and its policy set. */
void lease_note_hooks(struct exchange *exchange);
void lease_drop(struct worker *worker, struct unit *unit);
/* `root` is about to replace the current one: forgets units that it does not name, and collects those of them that are leased (newly listed ones) in an array
 * that the caller frees. */
struct unit **lease_collect(struct worker *worker, const struct snapshot *root, unsigned *count);
void lease_free(struct worker *worker);

#endif
