/* Leases: see lease.h. An exchange counts itself on its host units and its policy set, never on a root, so that a root goes back at once and the publisher
 * learns which superseded units are still in use here. Entries are made once per unit id and kept: ids are small and reused. Worker's thread. */
#include "proxy/lease.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static struct unit_leases *entry_of(struct worker *worker, struct unit *unit) {
  must(unit->magic == UNIT_MAGIC);
  if (unit->id >= worker->lease_capacity) {
    unsigned capacity = worker->lease_capacity ? worker->lease_capacity : 64;
    while (capacity <= unit->id) capacity *= 2;
    worker->leases = realloc(worker->leases, capacity * sizeof *worker->leases);
    must(worker->leases);
    memset(worker->leases + worker->lease_capacity, 0, (capacity - worker->lease_capacity) * sizeof *worker->leases);
    worker->lease_capacity = capacity;
  }
  struct unit_leases *entry = worker->leases[unit->id];
  if (!entry) {
    entry = calloc(1, sizeof *entry);
    must(entry);
    list_init(&entry->node);
    worker->leases[unit->id] = entry;
  }
  return entry;
}

static void forget(struct worker *worker, struct unit_leases *entry) {
  struct unit *unit = entry->unit;
  if (entry->is_known && worker->options.hooks.forget) worker->options.hooks.forget(worker->options.hooks.self, unit);
  entry->is_known = false;
  entry->is_listed = false;
  entry->unit = NULL;
}

void lease_take(struct worker *worker, struct unit *unit) {
  struct unit_leases *entry = entry_of(worker, unit);
  worker->lease_count++;
  if (entry->count++ > 0) {
    must(entry->unit == unit);
    return;
  }
  must(!entry->unit || entry->unit == unit);
  entry->unit = unit;
  list_remove(&entry->node);
  list_insert_last(&worker->leased, &entry->node);
}

void lease_note_use(struct worker *worker, struct unit *unit) {
  struct unit_leases *entry = worker->leases[unit->id];
  must(entry && entry->unit == unit && entry->count > 0);
  entry->is_known = true;
}

void lease_note_hooks(struct exchange *exchange) {
  lease_note_use(exchange->worker, &exchange->owner->unit);
  if (exchange->policies) lease_note_use(exchange->worker, exchange->policies);
}

void lease_drop(struct worker *worker, struct unit *unit) {
  struct unit_leases *entry = worker->leases[unit->id];
  must(entry && entry->unit == unit && entry->count > 0 && worker->lease_count > 0);
  worker->lease_count--;
  if (--entry->count > 0) return;
  list_remove(&entry->node);
  bool was_listed = entry->is_listed;
  if (was_listed || !entry->is_known) forget(worker, entry);
  else list_insert_last(&worker->known, &entry->node);
  if (was_listed && worker->options.returns.unit_done) worker->options.returns.unit_done(worker->options.returns.context, unit);
}

struct unit **lease_collect(struct worker *worker, const struct snapshot *root, unsigned *count) {
  struct unit **units = NULL;
  unsigned capacity = 0;
  *count = 0;
  for (struct list *node = worker->leased.next; node != &worker->leased; node = node->next) {
    struct unit_leases *entry = container_of(node, struct unit_leases, node);
    if (entry->is_listed || snapshot_names(root, entry->unit)) continue;
    if (*count == capacity) {
      capacity = capacity ? capacity * 2 : 16;
      units = realloc(units, capacity * sizeof *units);
      must(units);
    }
    entry->is_listed = true;
    units[(*count)++] = entry->unit;
  }
  for (struct list *node = worker->known.next, *next; node != &worker->known; node = next) {
    next = node->next;
    struct unit_leases *entry = container_of(node, struct unit_leases, node);
    if (snapshot_names(root, entry->unit)) continue;
    list_remove(node);
    forget(worker, entry);
  }
  return units;
}

void lease_free(struct worker *worker) {
  must(worker->lease_count == 0);
  for (unsigned i = 0; i < worker->lease_capacity; i++) {
    if (worker->leases[i] && worker->leases[i]->unit) forget(worker, worker->leases[i]);
    free(worker->leases[i]);
  }
  free(worker->leases);
  worker->leases = NULL;
  worker->lease_capacity = 0;
}
