/* Dict: shared dictionaries: values, expiry, room, buckets, holds, who owns one, and several threads at once. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/dict.h"

#define ROUNDS 4000

struct world {
  struct dict_store *store;
  struct dict *dict;
  struct counters counters;
};

static int begin(void **state) {
  struct world *world = calloc(1, sizeof *world);
  world->store = dict_store_new();
  world->dict = dict_hold(world->store, SPAN(""), SPAN("test"));
  *state = world;
  return world->dict == NULL;
}

static int finish(void **state) {
  struct world *world = *state;
  dict_release(world->dict);
  dict_store_free(world->store);
  free(world);
  return 0;
}

static struct dict_asker at(struct world *world, uint64_t ms) { return (struct dict_asker){ms, &world->counters}; }

static struct dict_value number(double value) { return (struct dict_value){.kind = DICT_NUMBER, .number = value}; }
static struct dict_value text(const char *value) { return (struct dict_value){.kind = DICT_TEXT, .text = span_of(value)}; }

/* "-", a number, "true", or the text in quotes. */
static const char *shown(struct world *world, uint64_t ms, const char *key) {
  static char out[128];
  struct dict_value value;
  struct buffer bytes = {0};
  dict_get(world->dict, at(world, ms), span_of(key), &value, &bytes);
  if (value.kind == DICT_NOTHING) snprintf(out, sizeof out, "-");
  else if (value.kind == DICT_NUMBER) snprintf(out, sizeof out, "%g", value.number);
  else if (value.kind == DICT_BOOLEAN) snprintf(out, sizeof out, "%s", value.boolean ? "true" : "false");
  else snprintf(out, sizeof out, "'%.*s'", (int)buffer_length(&bytes), buffer_length(&bytes) ? bytes.data + bytes.start : "");
  buffer_free(&bytes);
  return out;
}

static enum dict_result put(struct world *world, uint64_t ms, const char *key, struct dict_value value, uint64_t lifetime) {
  return dict_set(world->dict, at(world, ms), span_of(key), &value, lifetime, false);
}

static void keeps_values(void **state) {
  struct world *world = *state;
  struct dict_value yes = {.kind = DICT_BOOLEAN, .boolean = true}, value = text("other");
  double result;
  assert_string_equal(shown(world, 1, "a"), "-");
  assert_int_equal(put(world, 1, "a", text("one"), 0), DICT_DONE);
  assert_string_equal(shown(world, 1, "a"), "'one'");
  assert_int_equal(put(world, 1, "a", text("two"), 0), DICT_DONE);
  assert_string_equal(shown(world, 1, "a"), "'two'");
  assert_int_equal(put(world, 1, "a", text("longer"), 0), DICT_DONE);
  assert_string_equal(shown(world, 1, "a"), "'longer'");
  assert_int_equal(put(world, 1, "a", number(2.5), 0), DICT_DONE);
  assert_string_equal(shown(world, 1, "a"), "2.5");
  assert_int_equal(put(world, 1, "a", yes, 0), DICT_DONE);
  assert_string_equal(shown(world, 1, "a"), "true");
  assert_int_equal(put(world, 1, "", text(""), 0), DICT_DONE);
  assert_string_equal(shown(world, 1, ""), "''");
  assert_int_equal(dict_set(world->dict, at(world, 1), SPAN("a"), &value, 0, true), DICT_IS_THERE);
  assert_int_equal(dict_set(world->dict, at(world, 1), SPAN("b"), &value, 0, true), DICT_DONE);
  assert_string_equal(shown(world, 1, "b"), "'other'");
  assert_int_equal(dict_increase(world->dict, at(world, 1), SPAN("n"), 2, 40, 0, &result), DICT_DONE);
  assert_true(result == 42);
  assert_int_equal(dict_increase(world->dict, at(world, 1), SPAN("n"), -1, 40, 0, &result), DICT_DONE);
  assert_true(result == 41);
  assert_int_equal(dict_increase(world->dict, at(world, 1), SPAN("b"), 1, 0, 0, &result), DICT_IS_NO_NUMBER);
  assert_true(dict_remove(world->dict, at(world, 1), SPAN("b")));
  assert_false(dict_remove(world->dict, at(world, 1), SPAN("b")));
  assert_string_equal(shown(world, 1, "b"), "-");
}

static void forgets_in_time(void **state) {
  struct world *world = *state;
  struct dict_value value = text("again");
  double result;
  put(world, 100, "a", text("x"), 50);
  assert_string_equal(shown(world, 149, "a"), "'x'");
  assert_string_equal(shown(world, 150, "a"), "-");
  put(world, 200, "a", text("x"), 50);
  assert_int_equal(dict_set(world->dict, at(world, 249), SPAN("a"), &value, 0, true), DICT_IS_THERE);
  assert_int_equal(dict_set(world->dict, at(world, 250), SPAN("a"), &value, 0, true), DICT_DONE);
  assert_string_equal(shown(world, 1000000, "a"), "'again'");
  assert_true(dict_expire(world->dict, at(world, 300), SPAN("a"), 10));
  assert_false(dict_expire(world->dict, at(world, 310), SPAN("a"), 10));
  /* an increase keeps the end that the first one set */
  dict_increase(world->dict, at(world, 400), SPAN("n"), 1, 0, 100, &result);
  dict_increase(world->dict, at(world, 450), SPAN("n"), 1, 0, 100, &result);
  assert_true(result == 2);
  dict_increase(world->dict, at(world, 500), SPAN("n"), 1, 0, 100, &result);
  assert_true(result == 1);
}

static void takes_as_nginx_does(void **state) {
  struct world *world = *state;
  double excess;
  /* 5 a second, a burst of 25: 26 at once, then one each 200 ms */
  for (int i = 0; i < 26; i++) {
    assert_true(dict_take(world->dict, at(world, 1000), SPAN("a"), 5, 25, false, &excess));
    assert_true(excess == i);
  }
  assert_false(dict_take(world->dict, at(world, 1000), SPAN("a"), 5, 25, false, &excess));
  assert_true(excess == 26);
  assert_false(dict_take(world->dict, at(world, 1199), SPAN("a"), 5, 25, false, &excess)); /* a denial puts nothing in */
  assert_true(dict_take(world->dict, at(world, 1200), SPAN("a"), 5, 25, true, &excess));
  assert_true(dict_take(world->dict, at(world, 1200), SPAN("a"), 5, 25, false, &excess)); /* nor does looking */
  assert_false(dict_take(world->dict, at(world, 1200), SPAN("a"), 5, 25, true, &excess));
  assert_false(dict_take(world->dict, at(world, 1000), SPAN("a"), 5, 25, false, &excess)); /* a clock that is behind */
  assert_true(dict_take(world->dict, at(world, 1400), SPAN("a"), 5, 25, false, &excess));
  /* another key is another bucket, and so is a value */
  put(world, 1400, "a", number(7), 0);
  assert_true(dict_take(world->dict, at(world, 1400), SPAN("b"), 5, 0, false, &excess));
  assert_false(dict_take(world->dict, at(world, 1400), SPAN("b"), 5, 0, false, &excess));
  assert_false(dict_take(world->dict, at(world, 1400), SPAN("a"), 5, 25, false, &excess));
  assert_string_equal(shown(world, 1400, "a"), "7");
  /* 20 a minute without a burst: thirds add up */
  for (uint64_t ms = 0; ms <= 300000; ms += 3000) {
    assert_true(dict_take(world->dict, at(world, 2000 + ms), SPAN("c"), 20.0 / 60, 0, false, &excess));
    assert_false(dict_take(world->dict, at(world, 2000 + ms + 2999), SPAN("c"), 20.0 / 60, 0, false, &excess));
  }
  assert_true(dict_remove(world->dict, at(world, 302000), SPAN("c")));
  assert_true(dict_take(world->dict, at(world, 302000), SPAN("c"), 20.0 / 60, 0, false, &excess));
  /* emptied by time it is as new */
  assert_true(dict_take(world->dict, at(world, 10000000), SPAN("a"), 5, 25, false, &excess));
  assert_true(excess == 0);
  /* nothing leaks */
  assert_true(dict_take(world->dict, at(world, 1), SPAN("d"), 0, 1, false, &excess));
  assert_true(dict_take(world->dict, at(world, 1), SPAN("d"), 0, 1, false, &excess));
  assert_false(dict_take(world->dict, at(world, 1000000000000), SPAN("d"), 0, 1, false, &excess));
  assert_true(dict_take(world->dict, at(world, 1), SPAN("e"), 1e300, 1e300, false, &excess));
  assert_true(dict_take(world->dict, at(world, 1), SPAN("e"), 1e300, 1e300, false, &excess));
}

static void holds_until_given_back(void **state) {
  struct world *world = *state;
  struct dict_entry *first = dict_acquire(world->dict, at(world, 1), SPAN("a"), 2), *second = dict_acquire(world->dict, at(world, 1), SPAN("a"), 2);
  assert_non_null(first);
  assert_non_null(second);
  assert_null(dict_acquire(world->dict, at(world, 1), SPAN("a"), 2));
  struct dict_entry *other = dict_acquire(world->dict, at(world, 1), SPAN("b"), 1);
  assert_non_null(other);
  dict_give_back(world->dict, first);
  first = dict_acquire(world->dict, at(world, 1), SPAN("a"), 2);
  assert_non_null(first);
  assert_null(dict_acquire(world->dict, at(world, 1), SPAN("a"), 1)); /* fewer are allowed now */
  assert_null(dict_acquire(world->dict, at(world, 1), SPAN("c"), 0));
  assert_false(dict_remove(world->dict, at(world, 1), SPAN("a")));
  dict_give_back(world->dict, first);
  dict_give_back(world->dict, second);
  dict_give_back(world->dict, other);
}

static void full_it_forgets_what_was_used_least_recently(void **state) {
  struct world *world = *state;
  static char big[LIMIT_DICTIONARY_VALUE_BYTES + 1];
  char key[16];
  struct dict_entry *held[64];
  double excess;
  int kept = 0;
  memset(big, 'x', sizeof big - 1);
  for (int i = 0; i < 64; i++) {
    snprintf(key, sizeof key, "held%d", i);
    held[i] = dict_acquire(world->dict, at(world, 1), span_of(key), 1);
    assert_non_null(held[i]);
  }
  put(world, 1, "used", text("x"), 0);
  dict_take(world->dict, at(world, 1), SPAN("used"), 0, 1, false, &excess);
  for (int i = 0; i < 400; i++) {
    snprintf(key, sizeof key, "k%d", i);
    assert_int_equal(put(world, 2, key, text(big), 0), DICT_DONE);
    assert_string_equal(shown(world, 2, "used"), "'x'");
    assert_int_equal(dict_take(world->dict, at(world, 2), SPAN("used"), 0, 1, true, &excess), true);
    assert_true(excess == 1);
  }
  assert_int_equal(put(world, 2, "k399", text("last"), 0), DICT_DONE);
  for (int i = 0; i < 400; i++) {
    snprintf(key, sizeof key, "k%d", i);
    kept += strcmp(shown(world, 2, key), "-") != 0;
  }
  assert_string_equal(shown(world, 2, "k0"), "-");
  assert_string_equal(shown(world, 2, "k399"), "'last'");
  assert_in_range(kept, 80, 128);
  assert_true(counter_get(&world->counters, COUNTER_LIMIT_DICTIONARY_BYTES) > 200);
  for (int i = 0; i < 64; i++) {
    snprintf(key, sizeof key, "held%d", i);
    assert_null(dict_acquire(world->dict, at(world, 2), span_of(key), 1)); /* none was forgotten */
    dict_give_back(world->dict, held[i]);
  }
}

static void what_is_held_leaves_no_room(void **state) {
  struct world *world = *state;
  char key[LIMIT_DICTIONARY_KEY_BYTES];
  struct dict_entry **held = calloc(LIMIT_DICTIONARY_BYTES / sizeof key, sizeof(struct dict_entry *));
  unsigned count = 0;
  double result;
  memset(key, 'k', sizeof key);
  do {
    key[snprintf(key, sizeof key, "%u", count)] = 'k';
    held[count] = dict_acquire(world->dict, at(world, 1), span_make(key, sizeof key), 1);
  } while (held[count] && ++count);
  assert_true(count > 1000);
  /* the shard that is full refuses; what needs room there gets none */
  assert_null(dict_acquire(world->dict, at(world, 1), span_make(key, sizeof key), 1));
  unsigned refused = 0, let_in = 0, full = 0;
  for (int i = 0; i < 400; i++) {
    char name[LIMIT_DICTIONARY_KEY_BYTES];
    memset(name, 'n', sizeof name);
    name[snprintf(name, sizeof name, "%d", i)] = 'n';
    if (dict_take(world->dict, at(world, 1), span_make(name, sizeof name), 1, 1, false, &result)) let_in++;
    else refused++;
    full += dict_increase(world->dict, at(world, 1), span_make(name, sizeof name), 1, 0, 0, &result) == DICT_IS_FULL;
  }
  assert_true(refused > 0 && let_in > 0 && full > 0);
  while (count > 0) dict_give_back(world->dict, held[--count]);
  free(held);
}

static void owners_have_their_own(void **state) {
  struct world *world = *state;
  struct dict_value value = text("mine");
  struct dict *same = dict_hold(world->store, SPAN(""), SPAN("test")), *other = dict_hold(world->store, SPAN("guest"), SPAN("test"));
  assert_ptr_equal(same, world->dict);
  assert_ptr_not_equal(other, world->dict);
  dict_set(other, at(world, 1), SPAN("a"), &value, 0, false);
  assert_string_equal(shown(world, 1, "a"), "-");
  dict_release(same);
  dict_release(other);
  struct buffer bytes = {0};
  other = dict_hold(world->store, SPAN("guest"), SPAN("test")); /* its policies changed: what was there is there */
  dict_get(other, at(world, 1), SPAN("a"), &value, &bytes);
  assert_int_equal(value.kind, DICT_TEXT);
  buffer_free(&bytes);
  dict_release(other);
}

static void an_owner_has_so_many(void **state) {
  struct world *world = *state;
  struct dict *dicts[LIMIT_DICTIONARIES];
  struct dict_value value = text("kept");
  struct buffer bytes = {0};
  char name[16];
  for (int i = 0; i < LIMIT_DICTIONARIES; i++) {
    snprintf(name, sizeof name, "d%d", i);
    dicts[i] = dict_hold(world->store, SPAN("guest"), span_of(name));
    assert_non_null(dicts[i]);
    dict_set(dicts[i], at(world, 1), SPAN("a"), &value, 0, false);
  }
  assert_null(dict_hold(world->store, SPAN("guest"), SPAN("more")));
  struct dict *neighbour = dict_hold(world->store, SPAN("another"), SPAN("more"));
  assert_non_null(neighbour);
  dict_release(neighbour);
  struct dict_entry *held = dict_acquire(dicts[2], at(world, 1), SPAN("a"), 1);
  dict_release(dicts[2]);
  assert_null(dict_hold(world->store, SPAN("guest"), SPAN("more"))); /* an exchange still holds of it */
  dict_give_back(dicts[2], held);
  dict_release(dicts[5]);
  dict_release(dicts[4]);
  struct dict *more = dict_hold(world->store, SPAN("guest"), SPAN("more"));
  assert_non_null(more);
  dicts[5] = dict_hold(world->store, SPAN("guest"), SPAN("d5")); /* d2 was longest in no use */
  dict_get(dicts[5], at(world, 1), SPAN("a"), &value, &bytes);
  assert_int_equal(value.kind, DICT_TEXT);
  buffer_free(&bytes);
  dict_release(more);
  for (int i = 0; i < LIMIT_DICTIONARIES; i++)
    if (i != 2 && i != 4) dict_release(dicts[i]);
}

static _Atomic unsigned holding, let_in;

static void *work(void *context) {
  struct world *world = context;
  struct dict *dict = dict_hold(world->store, SPAN(""), SPAN("test"));
  struct dict_asker asker = {1, NULL};
  char key[32], longer[512];
  double result;
  memset(longer, 'v', sizeof longer);
  for (int i = 0; i < ROUNDS; i++) {
    struct dict_value value;
    struct buffer bytes = {0};
    assert_int_equal(dict_increase(dict, asker, SPAN("count"), 1, 0, 0, &result), DICT_DONE);
    if (dict_take(dict, asker, SPAN("bucket"), 0, 999, false, &result)) atomic_fetch_add(&let_in, 1);
    struct dict_entry *entry = dict_acquire(dict, asker, SPAN("hold"), 2);
    if (entry) {
      assert_in_range(atomic_fetch_add(&holding, 1), 0, 1);
      atomic_fetch_sub(&holding, 1);
      dict_give_back(dict, entry);
    }
    snprintf(key, sizeof key, "k%d", i % 50);
    value = (struct dict_value){.kind = DICT_TEXT, .text = span_make(longer, (size_t)i % sizeof longer)};
    dict_set(dict, asker, span_of(key), &value, i % 3 ? 0 : 1, i % 5 == 0);
    dict_get(dict, asker, span_of(key), &value, &bytes);
    if (i % 7 == 0) dict_remove(dict, asker, span_of(key));
    buffer_free(&bytes);
    if (i % 500 == 0) {
      struct dict *passing = dict_hold(world->store, SPAN("guest"), span_of(key));
      dict_release(passing);
    }
  }
  dict_release(dict);
  return NULL;
}

static void threads_share_it(void **state) {
  struct world *world = *state;
  pthread_t threads[4];
  atomic_store(&let_in, 0);
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, work, world), 0);
  for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  char expected[32];
  snprintf(expected, sizeof expected, "%g", (double)(4 * ROUNDS));
  assert_string_equal(shown(world, 1, "count"), expected);
  assert_int_equal(atomic_load(&let_in), 1000);
  struct dict_entry *entry = dict_acquire(world->dict, at(world, 1), SPAN("hold"), 1);
  assert_non_null(entry);
  dict_give_back(world->dict, entry);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, finish)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(keeps_values),
      TEST(forgets_in_time),
      TEST(takes_as_nginx_does),
      TEST(holds_until_given_back),
      TEST(full_it_forgets_what_was_used_least_recently),
      TEST(what_is_held_leaves_no_room),
      TEST(owners_have_their_own),
      TEST(an_owner_has_so_many),
      TEST(threads_share_it),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
