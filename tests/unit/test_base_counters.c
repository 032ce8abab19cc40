/* Counters: names are valid and distinct, the limits' are made from limits.h. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdbool.h>
#include <string.h>

#include "base/counters.h"

static void names_all(void **state) {
  (void)state;
  for (int i = 0; i < COUNTER_COUNT; i++) {
    const char *name = counter_name((enum counter)i);
    assert_int_equal(strncmp(name, "moongate_", 9), 0);
    assert_int_not_equal(strncmp(name, "moongate_policy_", 16), 0); /* those are policies' */
    assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_"), strlen(name));
    assert_true(strlen(counter_help((enum counter)i)) > 5);
    for (int k = 0; k < i; k++) assert_string_not_equal(name, counter_name((enum counter)k));
  }
  assert_string_equal(counter_name(COUNTER_LIMIT_HEAD_BYTES), "moongate_limit_head_bytes_total");
  assert_string_equal(counter_name(COUNTER_LIMIT_REWRITE_BYTES), "moongate_limit_rewrite_bytes_total");
  assert_string_equal(counter_name(COUNTER_REQUESTS), "moongate_requests_total");
  assert_non_null(strstr(counter_help(COUNTER_LIMIT_HEAD_BYTES), "32768 bytes"));
}

static void counts(void **state) {
  (void)state;
  static struct counters counters;
  counter_add(&counters, COUNTER_REQUESTS, 2);
  counter_add(&counters, COUNTER_REQUESTS, 3);
  assert_int_equal(counter_get(&counters, COUNTER_REQUESTS), 5);
  assert_int_equal(counter_get(&counters, COUNTER_ANSWERS_2XX), 0);
  counter_limit(&counters, REACHED_NONE);
  counter_limit(&counters, REACHED_HEAD_BYTES);
  counter_limit(&counters, REACHED_REWRITE_BYTES);
  for (int i = 0; i < COUNTER_COUNT; i++) {
    bool is_counted = i == COUNTER_LIMIT_HEAD_BYTES || i == COUNTER_LIMIT_REWRITE_BYTES;
    assert_int_equal(counter_get(&counters, (enum counter)i), i == COUNTER_REQUESTS ? 5 : is_counted ? 1 : 0);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(names_all), cmocka_unit_test(counts)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
