/* Buffer: against a plain model, printing, giving memory back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/buffer.h"
#include "base/hash.h"

static void behaves_as_a_queue(void **state) {
  (void)state;
  struct buffer buffer = {0};
  struct random random = {1};
  assert_int_equal(buffer_span(&buffer).length, 0);
  uint64_t written = 0, read = 0; /* byte number n has the value n * 7 */
  for (int i = 0; i < 20000; i++) {
    if (random_below(&random, 2) == 0) {
      size_t size = random_below(&random, 300);
      char *out = buffer_reserve(&buffer, size + 5);
      for (size_t k = 0; k < size; k++) out[k] = (char)(written++ * 7);
      buffer_added(&buffer, size);
    } else {
      size_t size = random_below(&random, buffer_length(&buffer) + 1);
      struct span s = buffer_span(&buffer);
      for (size_t k = 0; k < size; k++)
        if (s.data[k] != (char)(read++ * 7)) fail();
      buffer_consume(&buffer, size);
    }
    assert_int_equal(buffer_length(&buffer), written - read);
  }
  assert_true(buffer.capacity < 65536);
  buffer_free(&buffer);
  assert_null(buffer.data);
}

static void prints(void **state) {
  (void)state;
  struct buffer buffer = {0};
  buffer_append(&buffer, SPAN("a"));
  buffer_append(&buffer, span_of(NULL));
  for (int width = 1; width < 600; width += 7) buffer_printf(&buffer, "%*d", width, 5);
  size_t at = 1;
  struct span s = buffer_span(&buffer);
  for (int width = 1; width < 600; width += 7) {
    at += (size_t)width;
    assert_int_equal(s.data[at - 1], '5');
  }
  assert_int_equal(at, s.length);
  buffer_free(&buffer);
}

static void gives_memory_back(void **state) {
  (void)state;
  struct buffer buffer = {0};
  buffer_reserve(&buffer, 100000);
  buffer_added(&buffer, 100000);
  buffer_consume(&buffer, 99999);
  assert_non_null(buffer.data);
  buffer_consume(&buffer, 1);
  assert_null(buffer.data);
  assert_int_equal(buffer.capacity, 0);
  buffer_append(&buffer, SPAN("small"));
  char *kept = buffer.data;
  buffer_consume(&buffer, 5);
  assert_ptr_equal(buffer.data, kept);
  assert_int_equal(buffer.start, 0);
  buffer_free(&buffer);
}

static void escapes_for_json(void **state) {
  (void)state;
  struct buffer buffer = {0};
  buffer_append_json(&buffer, SPAN(""));
  assert_int_equal(buffer_length(&buffer), 0);
  buffer_append_json(&buffer, SPAN("a\"b\\c\x01\n\x7f caf\xc3\xa9 \xf0\x9f\x98\x80 \xc3"));
  buffer_append_json(&buffer, SPAN("\xa9"));         /* no character is put together of two texts */
  buffer_append_json(&buffer, SPAN("\xed\xa0\x80")); /* half of a surrogate pair */
  buffer_append_json(&buffer, SPAN("\xc0\xaf"));     /* longer than need be */
  buffer_append(&buffer, span_make("", 1));
  assert_string_equal(buffer_span(&buffer).data,
                      "a\\\"b\\\\c\\u0001\\u000a\x7f caf\xc3\xa9 \xf0\x9f\x98\x80 \\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd\\ufffd");
  buffer_free(&buffer);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(behaves_as_a_queue), cmocka_unit_test(prints), cmocka_unit_test(gives_memory_back),
                                     cmocka_unit_test(escapes_for_json)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
