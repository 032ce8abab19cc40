/* Retire: see retire.h. */
#include "app/retire.h"

#include <stdlib.h>

#include "base/check.h"

struct live_root {
  struct list node;
  struct snapshot *root;
  unsigned holders;
};

struct retire {
  struct list roots;   /* oldest first; the last one is the current one */
  struct list retired; /* units, oldest first */
  unsigned root_count, retired_count;
  uint64_t next_generation;
  struct unit **units; /* by id; NULL: free */
  uint32_t capacity;
  uint32_t *free_ids;
  uint32_t free_count;
};

struct retire *retire_new(void) {
  struct retire *retire = calloc(1, sizeof *retire);
  must(retire);
  list_init(&retire->roots);
  list_init(&retire->retired);
  retire->next_generation = 1;
  return retire;
}

static void grow(struct retire *retire) {
  uint32_t capacity = retire->capacity ? retire->capacity * 2 : 256;
  retire->units = realloc(retire->units, capacity * sizeof(struct unit *));
  retire->free_ids = realloc(retire->free_ids, capacity * sizeof(uint32_t));
  must(retire->units && retire->free_ids);
  for (uint32_t id = capacity; id-- > retire->capacity;) {
    retire->units[id] = NULL;
    retire->free_ids[retire->free_count++] = id;
  }
  retire->capacity = capacity;
}

void retire_born(struct retire *retire, struct unit *unit) {
  must(unit->magic == UNIT_MAGIC);
  if (retire->free_count == 0) grow(retire);
  unit->id = retire->free_ids[--retire->free_count];
  retire->units[unit->id] = unit;
  unit->born_at = retire->next_generation;
  unit->retired_at = 0;
  unit->listed = 0;
  list_init(&unit->retired);
}

void retire_unit(struct retire *retire, struct unit *unit, uint64_t now_ms) {
  must(unit->retired_at == 0);
  unit->retired_at = retire->next_generation;
  unit->retired_ms = now_ms;
  list_insert_last(&retire->retired, &unit->retired);
  retire->retired_count++;
}

uint64_t retire_next_generation(const struct retire *retire) { return retire->next_generation; }

static void free_root(struct retire *retire, struct live_root *live) {
  list_remove(&live->node);
  retire->root_count--;
  snapshot_free(live->root);
  free(live);
}

void retire_published(struct retire *retire, struct snapshot *root, unsigned holders) {
  struct live_root *live = calloc(1, sizeof *live);
  must(live);
  live->root = root;
  live->holders = holders;
  list_insert_last(&retire->roots, &live->node);
  retire->root_count++;
  retire->next_generation = root->generation + 1;
  struct list *before = live->node.previous;
  if (before == &retire->roots) return;
  struct live_root *last = container_of(before, struct live_root, node);
  if (last->holders == 0) free_root(retire, last);
}

void retire_returned(struct retire *retire, struct snapshot *root) {
  for (struct list *node = retire->roots.next; node != &retire->roots; node = node->next) {
    struct live_root *live = container_of(node, struct live_root, node);
    if (live->root != root) continue;
    must(live->holders > 0);
    if (--live->holders == 0 && node != retire->roots.previous) free_root(retire, live);
    return;
  }
  must(!"a root that is not live came back");
}

uint64_t retire_oldest_live(const struct retire *retire) {
  if (list_is_empty(&retire->roots)) return UINT64_MAX;
  return container_of(retire->roots.next, struct live_root, node)->root->generation;
}

static void free_unit(struct retire *retire, struct unit *unit) {
  retire->units[unit->id] = NULL;
  retire->free_ids[retire->free_count++] = unit->id;
  unit->release(unit);
}

void retire_sweep(struct retire *retire) {
  uint64_t oldest = retire_oldest_live(retire);
  for (struct list *node = retire->retired.next, *next; node != &retire->retired; node = next) {
    next = node->next;
    struct unit *unit = container_of(node, struct unit, retired);
    if (unit->retired_at > oldest) break; /* in order of retirement: later ones are not due either */
    if (unit->listed) continue;
    list_remove(node);
    retire->retired_count--;
    free_unit(retire, unit);
  }
}

unsigned retire_live_roots(const struct retire *retire) { return retire->root_count; }
unsigned retire_pending(const struct retire *retire) { return retire->retired_count; }

uint64_t retire_oldest_ms(const struct retire *retire, uint64_t now_ms) {
  if (list_is_empty(&retire->retired)) return 0;
  return now_ms - container_of(retire->retired.next, struct unit, retired)->retired_ms;
}

void retire_free_all(struct retire *retire) {
  for (struct list *node = retire->roots.next, *next; node != &retire->roots; node = next) {
    next = node->next;
    free_root(retire, container_of(node, struct live_root, node));
  }
  /* Hosts first: they hold values; upstreams name records, which the caller frees after us. */
  for (uint32_t id = 0; id < retire->capacity; id++)
    if (retire->units[id]) retire->units[id]->release(retire->units[id]);
  free(retire->units);
  free(retire->free_ids);
  free(retire);
}
