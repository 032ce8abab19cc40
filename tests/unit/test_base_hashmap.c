/* Hash map: against a plain array, churn of tombstones, removal while iterating. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/hashmap.h"

enum { KEYS = 500 };

static struct span key_of(char *text, size_t size, unsigned i) { return (struct span){text, (size_t)snprintf(text, size, "key-%u", i)}; }

static void agrees_with_an_array(void **state) {
  (void)state;
  struct hashmap map;
  hashmap_init(&map);
  static int values[1000];
  void *model[KEYS] = {0};
  struct random random = {3};
  size_t count = 0;
  assert_null(hashmap_get(&map, SPAN("none")));
  assert_null(hashmap_remove(&map, SPAN("none")));
  for (int i = 0; i < 50000; i++) {
    unsigned k = (unsigned)random_below(&random, KEYS);
    char text[32];
    struct span key = key_of(text, sizeof text, k);
    switch (random_below(&random, 3)) {
      case 0: {
        void *value = &values[random_below(&random, 1000)];
        count += model[k] == NULL;
        assert_ptr_equal(hashmap_put(&map, key, value), model[k]);
        model[k] = value;
        break;
      }
      case 1:
        assert_ptr_equal(hashmap_remove(&map, key), model[k]);
        count -= model[k] != NULL;
        model[k] = NULL;
        break;
      default:
        assert_ptr_equal(hashmap_get(&map, key), model[k]);
    }
    assert_int_equal(map.count, count);
  }
  assert_true(map.capacity <= 2048); /* tombstones are swept, they do not make it grow */
  hashmap_free(&map);
  assert_null(hashmap_get(&map, SPAN("key-1")));
}

static void survives_churn_of_new_keys(void **state) {
  (void)state;
  struct hashmap map;
  hashmap_init(&map);
  int value = 1;
  char text[32];
  for (unsigned i = 0; i < 20000; i++) {
    assert_null(hashmap_put(&map, key_of(text, sizeof text, i), &value));
    if (i >= 4) assert_ptr_equal(hashmap_remove(&map, key_of(text, sizeof text, i - 4)), &value);
  }
  assert_int_equal(map.count, 4);
  assert_true(map.capacity <= 16);
  hashmap_free(&map);
}

static void iterates_and_removes(void **state) {
  (void)state;
  struct hashmap map;
  hashmap_init(&map);
  int seen[KEYS] = {0};
  char text[32];
  for (unsigned i = 0; i < KEYS; i++) hashmap_put(&map, key_of(text, sizeof text, i), &seen[i]);
  size_t cursor = 0;
  struct hashmap_entry *entry;
  while ((entry = hashmap_next(&map, &cursor)) != NULL) {
    int *value = entry->value;
    ++*value;
    if ((value - seen) % 2 == 0) assert_ptr_equal(hashmap_remove(&map, (struct span){entry->key, entry->key_length}), value);
  }
  for (int i = 0; i < KEYS; i++) assert_int_equal(seen[i], 1);
  assert_int_equal(map.count, KEYS / 2);
  hashmap_free(&map);
}

static void takes_any_bytes(void **state) {
  (void)state;
  struct hashmap map;
  hashmap_init(&map);
  int a, b, c;
  char key[] = "x";
  hashmap_put(&map, SPAN(""), &a);
  hashmap_put(&map, SPAN("\0"), &b);
  hashmap_put(&map, span_of(key), &c);
  key[0] = 'y'; /* the map has its own copy */
  assert_ptr_equal(hashmap_get(&map, span_of(NULL)), &a);
  assert_ptr_equal(hashmap_get(&map, SPAN("\0")), &b);
  assert_ptr_equal(hashmap_get(&map, SPAN("x")), &c);
  hashmap_free(&map);
}

static char *named(unsigned i) {
  char *text = malloc(32);
  assert_non_null(text);
  snprintf(text, 32, "key-%u", i);
  return text;
}

/* Each value is its own key: none is copied, and a key goes with its value. */
static void borrows_keys(void **state) {
  (void)state;
  struct hashmap map;
  hashmap_init_borrowing(&map);
  for (unsigned i = 0; i < KEYS; i++) {
    char *text = named(i);
    assert_null(hashmap_put(&map, span_of(text), text));
  }
  for (unsigned i = 0; i < KEYS; i += 2) { /* the key before is freed with the value before */
    char *text = named(i);
    free(hashmap_put(&map, span_of(text), text));
  }
  for (unsigned i = 0; i < KEYS; i += 3) {
    char text[32];
    free(hashmap_remove(&map, key_of(text, sizeof text, i)));
  }
  size_t cursor = 0, count = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&map, &cursor)); count++) {
    assert_ptr_equal(entry->key, entry->value);
    assert_ptr_equal(hashmap_get(&map, span_of(entry->value)), entry->value);
    free(entry->value);
  }
  assert_int_equal(count, KEYS - (KEYS + 2) / 3);
  hashmap_free(&map);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_an_array), cmocka_unit_test(survives_churn_of_new_keys),
                                     cmocka_unit_test(iterates_and_removes), cmocka_unit_test(takes_any_bytes), cmocka_unit_test(borrows_keys)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
