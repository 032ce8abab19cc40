/* Hash map: open addressing with linear probing. The map owns the copies of its keys (none where it borrows them), never the values. One owner, one thread.
 * A free slot has neither key nor value; a removed one keeps its place in the probe as a tombstone (value NULL, hash TOMBSTONE), so
 * that iterating while removing stays right. */
#include "base/hashmap.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hash.h"

enum { FIRST_CAPACITY = 4, TOMBSTONE = 1 };

void hashmap_init(struct hashmap *map) { *map = (struct hashmap){.seed = hash_process_seed()}; }

void hashmap_init_borrowing(struct hashmap *map) { *map = (struct hashmap){.seed = hash_process_seed(), .is_borrowing = true}; }

static void free_key(const struct hashmap *map, const struct hashmap_entry *entry) {
  if (!map->is_borrowing) free((char *)entry->key);
}

void hashmap_free(struct hashmap *map) {
  for (size_t i = 0; i < map->capacity; i++) free_key(map, &map->entries[i]);
  free(map->entries);
  *map = (struct hashmap){.seed = map->seed, .is_borrowing = map->is_borrowing};
}

static const char *copy_key(struct span key) {
  char *copy = check_memory(malloc(key.length + 1));
  if (key.length > 0) memcpy(copy, key.data, key.length);
  copy[key.length] = 0;
  return copy;
}

static bool is_live(const struct hashmap_entry *entry) { return entry->value != NULL; }
static bool is_free(const struct hashmap_entry *entry) { return !entry->value && entry->hash != TOMBSTONE; }

static struct hashmap_entry *find(const struct hashmap *map, struct span key, uint64_t hash) {
  if (map->count == 0) return NULL;
  for (size_t i = hash & (map->capacity - 1);; i = (i + 1) & (map->capacity - 1)) {
    struct hashmap_entry *entry = &map->entries[i];
    if (is_live(entry)) {
      if (entry->hash == hash && span_equal((struct span){entry->key, entry->key_length}, key)) return entry;
    } else if (is_free(entry)) {
      return NULL;
    }
  }
}

static void resize(struct hashmap *map, size_t capacity) {
  struct hashmap_entry *entries = check_memory(calloc(capacity, sizeof *entries));
  for (size_t i = 0; i < map->capacity; i++) {
    if (!is_live(&map->entries[i])) continue;
    size_t at = map->entries[i].hash & (capacity - 1);
    while (is_live(&entries[at])) at = (at + 1) & (capacity - 1);
    entries[at] = map->entries[i];
  }
  free(map->entries);
  map->entries = entries;
  map->capacity = capacity;
  map->used = map->count;
}

void *hashmap_get(const struct hashmap *map, struct span key) {
  if (map->count == 0) return NULL;
  struct hashmap_entry *entry = find(map, key, hash_bytes(key, map->seed));
  return entry ? entry->value : NULL;
}

void *hashmap_put(struct hashmap *map, struct span key, void *value) {
  must(value);
  uint64_t hash = hash_bytes(key, map->seed);
  struct hashmap_entry *entry = find(map, key, hash);
  if (entry) {
    void *before = entry->value;
    entry->value = value;
    if (map->is_borrowing) entry->key = key.data; /* the one before goes with the value before */
    return before;
  }
  if (map->capacity == 0) {
    resize(map, FIRST_CAPACITY);
  } else if ((map->used + 1) * 4 > map->capacity * 3) {
    /* Many tombstones: the same capacity, swept, is enough. */
    resize(map, (map->count + 1) * 2 > map->capacity ? map->capacity * 2 : map->capacity);
  }
  size_t at = hash & (map->capacity - 1);
  while (is_live(&map->entries[at])) at = (at + 1) & (map->capacity - 1);
  entry = &map->entries[at];
  if (is_free(entry)) map->used++;
  *entry = (struct hashmap_entry){.key = map->is_borrowing ? key.data : copy_key(key), .key_length = key.length, .hash = hash, .value = value};
  map->count++;
  return NULL;
}

void *hashmap_remove(struct hashmap *map, struct span key) {
  if (map->count == 0) return NULL;
  struct hashmap_entry *entry = find(map, key, hash_bytes(key, map->seed));
  if (!entry) return NULL;
  void *value = entry->value;
  free_key(map, entry); /* last use of `key` was above: it may be the entry's own */
  *entry = (struct hashmap_entry){.hash = TOMBSTONE};
  map->count--;
  return value;
}

struct hashmap_entry *hashmap_next(const struct hashmap *map, size_t *cursor) {
  while (*cursor < map->capacity) {
    struct hashmap_entry *entry = &map->entries[(*cursor)++];
    if (is_live(entry)) return entry;
  }
  return NULL;
}
