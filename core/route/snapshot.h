/* Snapshot: a small root of pointers to units, made by the publisher, given to workers, and given back. Immutable after publishing. */
#ifndef ROUTE_SNAPSHOT_H
#define ROUTE_SNAPSHOT_H

#include <stdint.h>

#include "base/span.h"
#include "route/endpoint.h"
#include "route/host.h"
#include "route/settings.h"
#include "route/unit.h"

struct upstream_slot {
  struct upstream *upstream; /* NULL: free, or named by a host but not (yet) described: 503 */
  uint32_t generation;
};

struct host_entry {
  uint64_t hash; /* 0: empty */
  struct host *host;
};
struct certificate_entry {
  uint64_t hash;
  struct span key;
  struct unit *unit; /* UNIT_CERTIFICATE; app casts */
};

struct snapshot {
  uint32_t magic;
  uint64_t generation; /* 1, 2, 3 ... */
  struct settings *settings;
  struct unit *policies;    /* UNIT_POLICIES; script casts */
  struct host_entry *hosts; /* open addressing, power of two */
  uint32_t host_capacity, host_count;
  struct host *catch_all; /* "_", or NULL */
  bool has_wildcards;
  struct upstream_slot *upstreams;
  uint32_t upstream_count;
  struct certificate_entry *certificates;
  uint32_t certificate_capacity, certificate_count;
  uint64_t hash_seed;
  struct upstream_ref default_upstream; /* of settings->default_upstream; slot UPSTREAM_NONE: none */
};

/* The publisher's way to make roots: it holds what is there now, takes changes, and freezes a copy of the pointer tables at each build. */
struct snapshot_builder;
struct snapshot_builder *snapshot_builder_new(uint64_t hash_seed);
void snapshot_builder_free(struct snapshot_builder *builder);
/* Each returns the unit that was there (the caller retires it), or NULL. unit NULL deletes. */
struct unit *snapshot_put_settings(struct snapshot_builder *builder, struct settings *settings);
struct unit *snapshot_put_policies(struct snapshot_builder *builder, struct unit *policies);
struct unit *snapshot_put_host(struct snapshot_builder *builder, struct span name, struct host *host);
struct unit *snapshot_put_certificate(struct snapshot_builder *builder, struct span key, struct unit *certificate);
struct unit *snapshot_put_upstream(struct snapshot_builder *builder, struct span name, struct upstream *upstream);
/* Slot of a name; made if new. A slot that after a build neither an upstream nor a host or the settings hold is free for another name, with another generation.
 */
struct upstream_ref snapshot_upstream_slot(struct snapshot_builder *builder, struct span name);
/* A root of what is there now, next generation. */
struct snapshot *snapshot_build(struct snapshot_builder *builder);
void snapshot_free(struct snapshot *snapshot); /* not its units */

/* Readers. */
static inline const struct upstream *snapshot_upstream(const struct snapshot *snapshot, struct upstream_ref ref) {
  if (ref.slot >= snapshot->upstream_count) return NULL;
  const struct upstream_slot *slot = &snapshot->upstreams[ref.slot];
  return slot->generation == ref.generation ? slot->upstream : NULL;
}
struct unit *snapshot_certificate(const struct snapshot *snapshot, struct span key);
/* The ref of a name that is there, else slot UPSTREAM_NONE (builder's thread). */
struct upstream_ref snapshot_upstream_find(const struct snapshot_builder *builder, struct span name);
/* What is there now; NULL if nothing. */
struct host *snapshot_host(const struct snapshot_builder *builder, struct span name);
/* True if this root names exactly this unit (used when a root is given back). */
bool snapshot_names(const struct snapshot *snapshot, const struct unit *unit);

#endif
