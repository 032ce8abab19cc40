/* Snapshot roots. The builder is the publisher's: it holds the tables as they are now; a build copies them into one block of memory. A root owns that block and
 * no unit. */
#include "route/snapshot.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/hashmap.h"

#define SNAPSHOT_MAGIC MAGIC('r', 'o', 'o', 't')
#define BUILDER_MAGIC MAGIC('b', 'l', 'd', 'r')

/* A slot's name and how many hosts (and the settings) lead to it. */
struct slot_name {
  char *name;
  size_t length;
  uint32_t uses;
};

struct snapshot_builder {
  uint32_t magic;
  uint64_t seed, generation;
  struct settings *settings;
  struct unit *policies;
  struct host_entry *hosts;
  uint32_t host_capacity, host_count, wildcard_count;
  struct host *catch_all;
  struct certificate_entry *certificates;
  uint32_t certificate_capacity, certificate_count;
  struct upstream_slot *slots;
  struct slot_name *names;
  uint32_t slot_count, slot_capacity, free_slots;
  struct hashmap slots_by_name; /* name to slot + 1 */
  struct upstream_ref default_upstream;
};

static const struct upstream_ref nowhere = {UPSTREAM_NONE, 0};

static void *zalloc(size_t count, size_t size) {
  void *memory = calloc(count, size);
  must(memory);
  return memory;
}

static uint64_t name_hash(uint64_t seed, struct span name) {
  uint64_t hash = hash_bytes(name, seed);
  return hash ? hash : 1;
}

struct snapshot_builder *snapshot_builder_new(uint64_t hash_seed) {
  struct snapshot_builder *builder = zalloc(1, sizeof *builder);
  builder->magic = BUILDER_MAGIC;
  builder->seed = hash_seed;
  builder->host_capacity = builder->certificate_capacity = 16;
  builder->hosts = zalloc(builder->host_capacity, sizeof *builder->hosts);
  builder->certificates = zalloc(builder->certificate_capacity, sizeof *builder->certificates);
  hashmap_init_borrowing(&builder->slots_by_name);
  builder->default_upstream = nowhere;
  return builder;
}

void snapshot_builder_free(struct snapshot_builder *builder) {
  if (!builder) return;
  must(builder->magic == BUILDER_MAGIC);
  for (uint32_t i = 0; i < builder->slot_count; i++) free(builder->names[i].name);
  hashmap_free(&builder->slots_by_name);
  free(builder->hosts);
  free(builder->certificates);
  free(builder->slots);
  free(builder->names);
  builder->magic = 0;
  free(builder);
}

/* ---- upstream slots ---- */

static void use_slot(struct snapshot_builder *builder, struct upstream_ref ref, int change) {
  if (ref.slot >= builder->slot_count || builder->slots[ref.slot].generation != ref.generation) return;
  must(change > 0 || builder->names[ref.slot].uses > 0);
  builder->names[ref.slot].uses += (uint32_t)change;
}

static void use_host_slots(struct snapshot_builder *builder, const struct host *host, int change) {
  for (unsigned i = 0; host && i < host->named_count; i++) use_slot(builder, host->named[i], change);
}

struct upstream_ref snapshot_upstream_find(const struct snapshot_builder *builder, struct span name) {
  uintptr_t found = (uintptr_t)hashmap_get(&builder->slots_by_name, name);
  if (found == 0) return nowhere;
  uint32_t slot = (uint32_t)(found - 1);
  return (struct upstream_ref){slot, builder->slots[slot].generation};
}

static uint32_t free_slot(struct snapshot_builder *builder) {
  for (uint32_t i = 0; builder->free_slots > 0 && i < builder->slot_count; i++) {
    if (builder->names[i].name) continue;
    builder->free_slots--;
    return i;
  }
  if (builder->slot_count == builder->slot_capacity) {
    builder->slot_capacity = builder->slot_capacity ? builder->slot_capacity * 2 : 64;
    builder->slots = realloc(builder->slots, builder->slot_capacity * sizeof *builder->slots);
    builder->names = realloc(builder->names, builder->slot_capacity * sizeof *builder->names);
    must(builder->slots && builder->names);
  }
  builder->slots[builder->slot_count] = (struct upstream_slot){NULL, 1};
  builder->names[builder->slot_count] = (struct slot_name){NULL, 0, 0};
  return builder->slot_count++;
}

struct upstream_ref snapshot_upstream_slot(struct snapshot_builder *builder, struct span name) {
  must(builder->magic == BUILDER_MAGIC);
  struct upstream_ref ref = snapshot_upstream_find(builder, name);
  if (ref.slot != UPSTREAM_NONE) return ref;
  uint32_t slot = free_slot(builder);
  char *copy = zalloc(name.length + 1, 1);
  if (name.length) memcpy(copy, name.data, name.length);
  builder->names[slot] = (struct slot_name){copy, name.length, 0};
  hashmap_put(&builder->slots_by_name, span_make(copy, name.length), (void *)(uintptr_t)(slot + 1u));
  return (struct upstream_ref){slot, builder->slots[slot].generation};
}

/* At a build, not before: a host that is being made holds refs that nobody has counted yet. */
static void drop_unused_slots(struct snapshot_builder *builder) {
  for (uint32_t i = 0; i < builder->slot_count; i++) {
    struct slot_name *name = &builder->names[i];
    if (!name->name || name->uses > 0 || builder->slots[i].upstream) continue;
    hashmap_remove(&builder->slots_by_name, span_make(name->name, name->length));
    free(name->name);
    *name = (struct slot_name){NULL, 0, 0};
    builder->slots[i].generation++;
    builder->free_slots++;
  }
}

struct unit *snapshot_put_upstream(struct snapshot_builder *builder, struct span name, struct upstream *upstream) {
  struct upstream_ref ref = upstream ? snapshot_upstream_slot(builder, name) : snapshot_upstream_find(builder, name);
  if (ref.slot == UPSTREAM_NONE) return NULL;
  struct upstream_slot *slot = &builder->slots[ref.slot];
  struct upstream *before = slot->upstream;
  slot->upstream = upstream;
  if (upstream) upstream->slot = ref.slot;
  return before ? &before->unit : NULL;
}

/* ---- hosts ---- */

static uint32_t host_place(const struct host_entry *table, uint32_t capacity, uint64_t hash, struct span name) {
  uint32_t at = (uint32_t)hash & (capacity - 1);
  while (table[at].hash != 0 && !(table[at].hash == hash && span_equal(table[at].host->name, name))) at = (at + 1) & (capacity - 1);
  return at;
}

static void grow_hosts(struct snapshot_builder *builder) {
  uint32_t capacity = builder->host_capacity * 2;
  struct host_entry *table = zalloc(capacity, sizeof *table);
  for (uint32_t i = 0; i < builder->host_capacity; i++) {
    if (builder->hosts[i].hash == 0) continue;
    uint32_t at = (uint32_t)builder->hosts[i].hash & (capacity - 1);
    while (table[at].hash != 0) at = (at + 1) & (capacity - 1);
    table[at] = builder->hosts[i];
  }
  free(builder->hosts);
  builder->hosts = table;
  builder->host_capacity = capacity;
}

/* Without tombstones: whoever was pushed past the hole moves back into it. */
static void remove_host(struct snapshot_builder *builder, uint32_t hole) {
  uint32_t mask = builder->host_capacity - 1;
  struct host_entry *table = builder->hosts;
  for (uint32_t at = (hole + 1) & mask; table[at].hash != 0; at = (at + 1) & mask) {
    uint32_t home = (uint32_t)table[at].hash & mask;
    if (((at - home) & mask) < ((at - hole) & mask)) continue;
    table[hole] = table[at];
    hole = at;
  }
  table[hole] = (struct host_entry){0, NULL};
  builder->host_count--;
}

static bool is_wildcard(struct span name) { return name.length > 2 && name.data[0] == '*' && name.data[1] == '.'; }

static struct host *put_in_table(struct snapshot_builder *builder, struct span name, struct host *host) {
  uint64_t hash = name_hash(builder->seed, name);
  uint32_t at = host_place(builder->hosts, builder->host_capacity, hash, name);
  struct host *before = builder->hosts[at].hash ? builder->hosts[at].host : NULL;
  if (!host) {
    if (!before) return NULL;
    builder->wildcard_count -= is_wildcard(name);
    remove_host(builder, at);
    return before;
  }
  builder->hosts[at] = (struct host_entry){hash, host};
  if (before) return before;
  builder->wildcard_count += is_wildcard(name);
  if (++builder->host_count * 2 > builder->host_capacity) grow_hosts(builder);
  return NULL;
}

struct unit *snapshot_put_host(struct snapshot_builder *builder, struct span name, struct host *host) {
  must(builder->magic == BUILDER_MAGIC);
  must(!host || span_equal(host->name, name));
  struct host *before;
  if (span_equal(name, SPAN("_"))) {
    before = builder->catch_all;
    builder->catch_all = host;
  } else {
    before = put_in_table(builder, name, host);
  }
  use_host_slots(builder, host, 1);
  if (before != host) use_host_slots(builder, before, -1);
  return before ? &before->unit : NULL;
}

struct host *snapshot_host(const struct snapshot_builder *builder, struct span name) {
  if (span_equal(name, SPAN("_"))) return builder->catch_all;
  return builder->hosts[host_place(builder->hosts, builder->host_capacity, name_hash(builder->seed, name), name)].host;
}

/* ---- certificates ---- */

static uint32_t certificate_place(const struct certificate_entry *table, uint32_t capacity, uint64_t hash, struct span key) {
  uint32_t at = (uint32_t)hash & (capacity - 1);
  while (table[at].hash != 0 && !(table[at].hash == hash && span_equal(table[at].key, key))) at = (at + 1) & (capacity - 1);
  return at;
}

static void insert_certificate(struct certificate_entry *table, uint32_t capacity, struct certificate_entry entry) {
  table[certificate_place(table, capacity, entry.hash, entry.key)] = entry;
}

/* All entries but `without` into a new table: changes of certificates are rare and few. */
static void rebuild_certificates(struct snapshot_builder *builder, uint32_t capacity, const struct certificate_entry *without) {
  struct certificate_entry *table = zalloc(capacity, sizeof *table);
  for (uint32_t i = 0; i < builder->certificate_capacity; i++) {
    const struct certificate_entry *entry = &builder->certificates[i];
    if (entry->hash != 0 && entry != without) insert_certificate(table, capacity, *entry);
  }
  free(builder->certificates);
  builder->certificates = table;
  builder->certificate_capacity = capacity;
}

struct unit *snapshot_put_certificate(struct snapshot_builder *builder, struct span key, struct unit *certificate) {
  must(builder->magic == BUILDER_MAGIC);
  uint64_t hash = name_hash(builder->seed, key);
  struct certificate_entry *entry = &builder->certificates[certificate_place(builder->certificates, builder->certificate_capacity, hash, key)];
  struct unit *before = entry->hash ? entry->unit : NULL;
  if (certificate) {
    /* The key lives as long as the unit that it leads to. */
    *entry = (struct certificate_entry){hash, arena_span(&certificate->arena, key), certificate};
    if (!before && ++builder->certificate_count * 2 > builder->certificate_capacity) rebuild_certificates(builder, builder->certificate_capacity * 2, NULL);
  } else if (before) {
    builder->certificate_count--;
    rebuild_certificates(builder, builder->certificate_capacity, entry);
  }
  return before;
}

/* ---- the single ones ---- */

struct unit *snapshot_put_settings(struct snapshot_builder *builder, struct settings *settings) {
  must(builder->magic == BUILDER_MAGIC);
  struct settings *before = builder->settings;
  struct upstream_ref ref = nowhere;
  if (settings && settings->default_upstream.length) {
    ref = snapshot_upstream_slot(builder, settings->default_upstream);
    use_slot(builder, ref, 1);
  }
  if (builder->default_upstream.slot != UPSTREAM_NONE) use_slot(builder, builder->default_upstream, -1);
  builder->default_upstream = ref;
  builder->settings = settings;
  return before ? &before->unit : NULL;
}

struct unit *snapshot_put_policies(struct snapshot_builder *builder, struct unit *policies) {
  must(builder->magic == BUILDER_MAGIC);
  struct unit *before = builder->policies;
  builder->policies = policies;
  return before;
}

/* ---- roots ---- */

static char *take(char **cursor, const void *data, size_t size) {
  char *at = *cursor;
  if (size) memcpy(at, data, size);
  *cursor += (size + 15) & ~(size_t)15;
  return at;
}

struct snapshot *snapshot_build(struct snapshot_builder *builder) {
  must(builder->magic == BUILDER_MAGIC);
  drop_unused_slots(builder);
  size_t hosts = builder->host_capacity * sizeof *builder->hosts, certificates = builder->certificate_capacity * sizeof *builder->certificates,
         slots = builder->slot_count * sizeof *builder->slots, head = (sizeof(struct snapshot) + 15) & ~(size_t)15;
  struct snapshot *snapshot = malloc(head + hosts + certificates + slots + 3 * 16);
  must(snapshot);
  char *cursor = (char *)snapshot + head;
  *snapshot = (struct snapshot){
      .magic = SNAPSHOT_MAGIC,
      .generation = ++builder->generation,
      .settings = builder->settings,
      .policies = builder->policies,
      .host_capacity = builder->host_capacity,
      .host_count = builder->host_count,
      .catch_all = builder->catch_all,
      .has_wildcards = builder->wildcard_count > 0,
      .upstream_count = builder->slot_count,
      .certificate_capacity = builder->certificate_capacity,
      .certificate_count = builder->certificate_count,
      .hash_seed = builder->seed,
      .default_upstream = builder->default_upstream,
  };
  snapshot->hosts = (struct host_entry *)take(&cursor, builder->hosts, hosts);
  snapshot->certificates = (struct certificate_entry *)take(&cursor, builder->certificates, certificates);
  snapshot->upstreams = (struct upstream_slot *)take(&cursor, builder->slots, slots);
  return snapshot;
}

void snapshot_free(struct snapshot *snapshot) {
  if (!snapshot) return;
  must(snapshot->magic == SNAPSHOT_MAGIC);
  snapshot->magic = 0;
  free(snapshot);
}

struct unit *snapshot_certificate(const struct snapshot *snapshot, struct span key) {
  uint64_t hash = name_hash(snapshot->hash_seed, key);
  return snapshot->certificates[certificate_place(snapshot->certificates, snapshot->certificate_capacity, hash, key)].unit;
}

static bool names_host(const struct snapshot *snapshot, const struct unit *unit) {
  const struct host *host = (const struct host *)unit;
  if (snapshot->catch_all == host) return true;
  return snapshot->hosts[host_place(snapshot->hosts, snapshot->host_capacity, name_hash(snapshot->hash_seed, host->name), host->name)].host == host;
}

static bool names_certificate(const struct snapshot *snapshot, const struct unit *unit) {
  for (uint32_t i = 0; i < snapshot->certificate_capacity; i++)
    if (snapshot->certificates[i].unit == unit) return true;
  return false;
}

bool snapshot_names(const struct snapshot *snapshot, const struct unit *unit) {
  must(snapshot->magic == SNAPSHOT_MAGIC && unit->magic == UNIT_MAGIC);
  switch (unit->kind) {
    case UNIT_SETTINGS:
      return snapshot->settings && &snapshot->settings->unit == unit;
    case UNIT_POLICIES:
      return snapshot->policies == unit;
    case UNIT_HOST:
      return names_host(snapshot, unit);
    case UNIT_CERTIFICATE:
      return names_certificate(snapshot, unit);
    case UNIT_UPSTREAM: {
      unsigned slot = ((const struct upstream *)unit)->slot;
      return slot < snapshot->upstream_count && snapshot->upstreams[slot].upstream && &snapshot->upstreams[slot].upstream->unit == unit;
    }
  }
  return false;
}
