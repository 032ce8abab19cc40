/* Hashes of bytes: a fast keyed one for tables (seeded per process by app, so that strangers cannot aim), CRC-32 and FNV-1a by their names. Pure. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include <stdint.h>

#include "base/span.h"

uint64_t hash_bytes(struct span bytes, uint64_t seed);
uint64_t hash_u64(uint64_t value);
/* A seed that is random per process and the same for its whole life. */
uint64_t hash_process_seed(void);
uint32_t hash_crc32(struct span bytes);
uint32_t hash_fnv1a(struct span bytes);

/* A small generator (an additive sequence, hashed) for balancing and sampling: not for secrets. One per thread. */
struct random {
  uint64_t state;
};
uint64_t random_next(struct random *random);
/* 0 .. bound-1, bound > 0. */
uint64_t random_below(struct random *random, uint64_t bound);

#endif
