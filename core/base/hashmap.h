/* Hash map from byte strings to pointers. Keys are kept by the map (copied), or borrowed from the values. One owner, one thread. */
#ifndef BASE_HASHMAP_H
#define BASE_HASHMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

struct hashmap_entry {
  const char *key;
  size_t key_length;
  uint64_t hash;
  void *value;
};
struct hashmap {
  struct hashmap_entry *entries; /* open addressing, power of two */
  size_t capacity, count, used;  /* used: with tombstones */
  uint64_t seed;
  bool is_borrowing;
};

void hashmap_init(struct hashmap *map);
/* Each key is the caller's, and stays as it is as long as its entry is there (as a rule it is a part of the value). */
void hashmap_init_borrowing(struct hashmap *map);
void hashmap_free(struct hashmap *map);
void *hashmap_get(const struct hashmap *map, struct span key);
/* Returns the value that was there, or NULL. value must not be NULL. */
void *hashmap_put(struct hashmap *map, struct span key, void *value);
void *hashmap_remove(struct hashmap *map, struct span key);
/* Iteration: *cursor starts at 0; NULL at the end. Removing the returned entry is allowed, adding is not. */
struct hashmap_entry *hashmap_next(const struct hashmap *map, size_t *cursor);

#endif
