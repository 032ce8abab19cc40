/* Hashes of bytes and a small random generator. Pure (hash_process_seed reads what the kernel gave the process at start); any thread. */
#include "base/hash.h"

#include <string.h>
#include <sys/auxv.h>

/* Odd constants with evenly spread bits: fractional parts of square roots of primes. */
#define K0 0x6a09e667f3bcc909ull
#define K1 0xbb67ae8584caa73bull
#define K2 0x3c6ef372fe94f82bull
#define K3 0xa54ff53a5f1d36f1ull

__extension__ typedef unsigned __int128 wide;

/* Multiplies to 128 bits and folds: each bit of either factor reaches the middle bits of the result. */
static inline uint64_t fold(uint64_t a, uint64_t b) {
  wide product = (wide)a * b;
  return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t load64(const char *p) {
  uint64_t v;
  memcpy(&v, p, 8);
  return v;
}
static inline uint64_t load32(const char *p) {
  uint32_t v;
  memcpy(&v, p, 4);
  return v;
}

uint64_t hash_bytes(struct span bytes, uint64_t seed) {
  const char *p = bytes.data;
  size_t n = bytes.length;
  uint64_t a = 0, b = 0;
  uint64_t state = fold(seed ^ K0, K1);
  if (n > 16) {
    if (n > 32) {
      uint64_t other = state; /* two lanes, so that the multiplications overlap; different constants keep them apart */
      do {
        state = fold(load64(p) ^ K1, load64(p + 8) ^ state);
        other = fold(load64(p + 16) ^ K2, load64(p + 24) ^ other);
        p += 32;
        n -= 32;
      } while (n > 32);
      state = fold(state ^ K3, other ^ K0);
    }
    if (n > 16) state = fold(load64(p) ^ K2, load64(p + 8) ^ state);
    /* The last 16 bytes, which may overlap what was read; more than 16 bytes lie before the end. */
    a = load64(p + n - 16);
    b = load64(p + n - 8);
  } else if (n >= 8) {
    a = load64(p);
    b = load64(p + n - 8);
  } else if (n >= 4) {
    a = load32(p);
    b = load32(p + n - 4);
  } else if (n > 0) {
    a = (uint64_t)(unsigned char)p[0] << 16 | (uint64_t)(unsigned char)p[n / 2] << 8 | (unsigned char)p[n - 1];
  }
  return fold(fold(a ^ K1, b ^ state) ^ K3, bytes.length ^ K2 ^ state);
}

uint64_t hash_u64(uint64_t value) {
  value ^= value >> 32;
  value *= K1;
  value ^= value >> 29;
  value *= K3;
  return value ^ value >> 32;
}

uint64_t hash_process_seed(void) {
  unsigned long at = getauxval(AT_RANDOM); /* 16 random bytes */
  if (at == 0) return K0;
  const char *bytes = (const char *)at; /* the kernel's pointer, as the auxiliary vector gives it */
  return hash_bytes((struct span){bytes, 16}, K2);
}

uint32_t hash_crc32(struct span bytes) {
  /* Reflected polynomial 0xedb88320, four bits a step. */
  static const uint32_t step[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                    0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
  uint32_t crc = 0xffffffffu;
  for (size_t i = 0; i < bytes.length; i++) {
    crc ^= (unsigned char)bytes.data[i];
    crc = crc >> 4 ^ step[crc & 15];
    crc = crc >> 4 ^ step[crc & 15];
  }
  return ~crc;
}

uint32_t hash_fnv1a(struct span bytes) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < bytes.length; i++) hash = (hash ^ (unsigned char)bytes.data[i]) * 16777619u;
  return hash;
}

uint64_t random_next(struct random *random) {
  random->state += 0x9e3779b97f4a7c15ull; /* any state is a good one, 0 too */
  return hash_u64(fold(random->state, K3 ^ random->state));
}

uint64_t random_below(struct random *random, uint64_t bound) {
  wide product = (wide)random_next(random) * bound;
  if ((uint64_t)product < bound) {
    uint64_t uneven = (0 - bound) % bound; /* below this the low half would favour some results */
    while ((uint64_t)product < uneven) product = (wide)random_next(random) * bound;
  }
  return (uint64_t)(product >> 64);
}
