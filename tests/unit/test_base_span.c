/* Spans and error texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/error.h"
#include "base/span.h"

static void compares(void **state) {
  (void)state;
  assert_true(span_equal_nocase(SPAN("Content-Type"), SPAN("cONTENT-tYPE")));
  assert_false(span_equal_nocase(SPAN("a"), SPAN("ab")));
  assert_false(span_equal_nocase(SPAN("@"), SPAN("`"))); /* differ by 0x20, but are no letters */
  assert_false(span_equal_nocase(SPAN("["), SPAN("{")));
  assert_true(span_starts_with(SPAN("abc"), SPAN("ab")));
  assert_false(span_starts_with(SPAN("a"), SPAN("ab")));
  assert_true(span_ends_with(SPAN("abc"), SPAN("bc")));
  assert_false(span_ends_with(SPAN("c"), SPAN("bc")));
  assert_true(span_ends_with(span_of(NULL), SPAN("")));
  assert_true(span_starts_with(span_of(NULL), SPAN("")));
  assert_int_equal(span_find(SPAN("abc"), 'c'), 2);
  assert_int_equal(span_find(SPAN("abc"), 'x'), 3);
  assert_int_equal(span_find(span_of(NULL), 'x'), 0);
}

static void finds_characters(void **state) {
  (void)state;
  static const char *const good[] = {
      "a", "\x7f", "\xc2\x80", "\xc3\xa9", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"};
  static const char *const bad[] = {
      "\x80", "\xc1\xbf", "\xc3", "\xc3(", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xe2\x82", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) assert_int_equal(span_utf8(span_of(good[i])), strlen(good[i]));
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(span_utf8(span_of(bad[i])), 0);
  assert_int_equal(span_utf8(SPAN("\xc3\xa9more")), 2);
}

static void trims_and_lists(void **state) {
  (void)state;
  assert_true(span_equal(span_trim(SPAN(" \t a b\t ")), SPAN("a b")));
  assert_int_equal(span_trim(SPAN(" \t ")).length, 0);
  struct span rest = SPAN(" a , ,,b c,"), item;
  assert_true(span_next_item(&rest, ',', &item));
  assert_true(span_equal(item, SPAN("a")));
  assert_true(span_next_item(&rest, ',', &item));
  assert_true(span_equal(item, SPAN("b c")));
  assert_false(span_next_item(&rest, ',', &item));
  assert_false(span_next_item(&rest, ',', &item));
}

static void reads_numbers(void **state) {
  (void)state;
  unsigned long long value = 7;
  assert_true(span_to_u64(SPAN("0"), 0, &value));
  assert_int_equal(value, 0);
  assert_true(span_to_u64(SPAN("18446744073709551615"), ~0ull, &value));
  assert_true(value == ~0ull);
  assert_false(span_to_u64(SPAN("18446744073709551616"), ~0ull, &value));
  assert_true(value == ~0ull);
  assert_true(span_to_u64(SPAN("65535"), 65535, &value));
  assert_false(span_to_u64(SPAN("65536"), 65535, &value));
  assert_false(span_to_u64(SPAN(""), 10, &value));
  assert_false(span_to_u64(SPAN("+1"), 10, &value));
  assert_false(span_to_u64(SPAN("1 "), 10, &value));
}

static void names_errors(void **state) {
  (void)state;
  assert_string_equal(error_text(ERROR_TIMEOUT), "timed out");
  assert_string_equal(error_text(ERROR_INVALID), "invalid value");
  assert_string_equal(error_text(-111), "Connection refused");
  assert_string_equal(error_text(-4095), "end of file");
  assert_string_equal(error_text(-3008), "name resolution failed");
  assert_non_null(error_text(0));
  assert_string_equal(error_text(-99999), "unknown error");
  assert_string_equal(error_text(5), "unknown error");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(compares), cmocka_unit_test(finds_characters), cmocka_unit_test(trims_and_lists),
                                     cmocka_unit_test(reads_numbers), cmocka_unit_test(names_errors)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
