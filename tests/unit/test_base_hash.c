/* Hashes: published check values, spread, length and seed matter; random_below keeps its bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

static void knows_the_published_values(void **state) {
  (void)state;
  assert_int_equal(hash_crc32(SPAN("123456789")), 0xcbf43926u);
  assert_int_equal(hash_crc32(SPAN("")), 0);
  assert_int_equal(hash_crc32(SPAN("The quick brown fox jumps over the lazy dog")), 0x414fa339u);
  assert_int_equal(hash_fnv1a(SPAN("")), 0x811c9dc5u);
  assert_int_equal(hash_fnv1a(SPAN("a")), 0xe40c292cu);
  assert_int_equal(hash_fnv1a(SPAN("foobar")), 0xbf9cf968u);
}

static int compare(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return (x > y) - (x < y);
}

static void tells_lengths_and_bytes_apart(void **state) {
  (void)state;
  /* Every length to 200 of zeros, and every single bit set in each: all different, of exact allocations (ASan sees over-reads). */
  size_t capacity = 200 * 201 / 2 * 8 + 201, count = 0;
  uint64_t *seen = malloc(capacity * sizeof *seen);
  for (size_t length = 0; length <= 200; length++) {
    char *data = calloc(1, length ? length : 1);
    struct span s = {data, length};
    seen[count++] = hash_bytes(s, 42);
    assert_true(hash_bytes(s, 43) != hash_bytes(s, 42));
    for (size_t bit = 0; bit < length * 8; bit++) {
      data[bit / 8] = (char)(1 << (bit % 8));
      seen[count++] = hash_bytes(s, 42);
      data[bit / 8] = 0;
    }
    free(data);
  }
  assert_int_equal(count, capacity);
  qsort(seen, count, sizeof *seen, compare);
  for (size_t i = 1; i < count; i++) assert_true(seen[i] != seen[i - 1]);
  free(seen);
}

static void spreads(void **state) {
  (void)state;
  /* Flipping one input bit flips about half of the output bits, and each output bit about half of the time. */
  struct random random = {7};
  unsigned flips[64] = {0}, rounds = 0;
  for (size_t length = 1; length < 80; length++) {
    char data[80];
    for (size_t i = 0; i < length; i++) data[i] = (char)random_next(&random);
    uint64_t before = hash_bytes((struct span){data, length}, 9);
    for (size_t bit = 0; bit < length * 8; bit += 3) {
      data[bit / 8] ^= (char)(1 << (bit % 8));
      uint64_t change = before ^ hash_bytes((struct span){data, length}, 9);
      data[bit / 8] ^= (char)(1 << (bit % 8));
      for (int i = 0; i < 64; i++) flips[i] += change >> i & 1;
      rounds++;
    }
  }
  for (int i = 0; i < 64; i++) assert_in_range(flips[i], rounds * 45 / 100, rounds * 55 / 100);
  unsigned buckets[64] = {0};
  for (uint64_t i = 0; i < 64000; i++) buckets[hash_u64(i) & 63]++;
  for (int i = 0; i < 64; i++) assert_in_range(buckets[i], 850, 1150);
  assert_true(hash_process_seed() == hash_process_seed());
}

static void stays_below(void **state) {
  (void)state;
  struct random random = {0};
  unsigned hits[10] = {0};
  for (int i = 0; i < 100000; i++) hits[random_below(&random, 10)]++;
  for (int i = 0; i < 10; i++) assert_in_range(hits[i], 9500, 10500);
  assert_int_equal(random_below(&random, 1), 0);
  uint64_t most = 0;
  for (int i = 0; i < 1000; i++) {
    uint64_t v = random_below(&random, UINT64_MAX - 1);
    assert_true(v < UINT64_MAX - 1);
    if (v > most) most = v;
  }
  assert_true(most > UINT64_MAX / 2);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(knows_the_published_values), cmocka_unit_test(tells_lengths_and_bytes_apart), cmocka_unit_test(spreads),
                                     cmocka_unit_test(stays_below)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
