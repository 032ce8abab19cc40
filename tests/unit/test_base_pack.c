/* Pack: what is written is read back; hostile input ends in an error, in bounded time, within its bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/pack.h"

static void round_trips(void **state) {
  (void)state;
  static const int64_t integers[] = {0,         1,  127, 128, 255,  256,  65535,  65536,  4294967295, 4294967296,
                                     INT64_MAX, -1, -32, -33, -128, -129, -32768, -32769, INT32_MIN,  (int64_t)INT32_MIN - 1,
                                     INT64_MIN};
  static const size_t lengths[] = {0, 1, 31, 32, 255, 256, 65535, 65536, 70000};
  static char text[70000];
  memset(text, 'q', sizeof text);
  struct buffer b = {0};
  for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) pack_put_integer(&b, integers[i]);
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    pack_put_string(&b, (struct span){text, lengths[i]});
    pack_put_value(&b, PACK_TEMPLATE, (struct span){text, lengths[i]});
  }
  pack_put_nil(&b);
  pack_put_boolean(&b, true);
  pack_put_boolean(&b, false);
  pack_put_number(&b, 1.5);
  pack_put_value(&b, -1, SPAN("t"));
  struct pack_reader r;
  struct pack_item item;
  pack_reader_init(&r, buffer_span(&b));
  for (size_t i = 0; i < sizeof integers / sizeof *integers; i++) {
    assert_true(pack_next(&r, &item));
    assert_int_equal(item.type, PACK_INTEGER);
    assert_true(item.integer == integers[i] && item.number == (double)integers[i]);
  }
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    assert_true(pack_next(&r, &item) && item.type == PACK_STRING && item.bytes.length == lengths[i]);
    assert_true(pack_next(&r, &item) && item.type == PACK_VALUE && item.bytes.length == lengths[i] && item.value_kind == PACK_TEMPLATE);
  }
  assert_true(pack_next(&r, &item) && item.type == PACK_NIL);
  assert_true(pack_next(&r, &item) && item.type == PACK_BOOLEAN && item.boolean);
  assert_true(pack_next(&r, &item) && item.type == PACK_BOOLEAN && !item.boolean);
  assert_true(pack_next(&r, &item) && item.type == PACK_NUMBER && item.number == 1.5);
  assert_true(pack_next(&r, &item) && item.type == PACK_VALUE && item.value_kind == -1);
  assert_false(pack_next(&r, &item));
  assert_int_equal(item.type, PACK_END);
  assert_null(r.error);
  buffer_free(&b);
}

static void counts_containers(void **state) {
  (void)state;
  static const uint32_t counts[] = {0, 15, 16, 65535, 65536};
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    struct buffer b = {0};
    pack_put_array(&b, counts[i]);
    for (uint32_t k = 0; k < counts[i]; k++) pack_put_nil(&b);
    pack_put_map(&b, counts[i]);
    for (uint32_t k = 0; k < counts[i] * 2; k++) pack_put_integer(&b, 1);
    struct pack_reader r;
    struct pack_item item;
    struct span skipped;
    pack_reader_init(&r, buffer_span(&b));
    assert_true(pack_next(&r, &item) && item.type == PACK_ARRAY && item.count == counts[i]);
    pack_reader_init(&r, buffer_span(&b));
    assert_true(pack_skip(&r, &skipped));
    assert_true(pack_next(&r, &item) && item.type == PACK_MAP && item.count == counts[i]);
    pack_reader_init(&r, span_skip(buffer_span(&b), skipped.length));
    assert_true(pack_skip(&r, NULL));
    assert_false(pack_skip(&r, NULL)); /* nothing follows */
    buffer_free(&b);
  }
}

static void finds(void **state) {
  (void)state;
  struct buffer b = {0};
  pack_put_map(&b, 8);
  pack_put_array(&b, 1), pack_put_string(&b, SPAN("name")), pack_put_nil(&b); /* a key that is no string */
  pack_put_string(&b, SPAN("name")), pack_put_string(&b, SPAN("first"));
  pack_put_string(&b, SPAN("list")), pack_put_array(&b, 2), pack_put_integer(&b, 7), pack_put_integer(&b, 8);
  pack_put_string(&b, SPAN("whole")), pack_put_number(&b, 3.0);
  pack_put_string(&b, SPAN("part")), pack_put_number(&b, 3.5);
  pack_put_string(&b, SPAN("yes")), pack_put_boolean(&b, true);
  pack_put_string(&b, SPAN("huge")), pack_put_number(&b, INFINITY);
  pack_put_string(&b, SPAN("name")), pack_put_string(&b, SPAN("second"));
  struct span map = buffer_span(&b);
  assert_true(span_equal(pack_get_string(map, "name", SPAN("")), SPAN("first")));
  assert_true(span_equal(pack_get_string(map, "none", SPAN("d")), SPAN("d")));
  assert_true(span_equal(pack_get_string(map, "list", SPAN("d")), SPAN("d")));
  assert_int_equal(pack_get_integer(map, "whole", 9), 3);
  assert_int_equal(pack_get_integer(map, "part", 9), 9);
  assert_int_equal(pack_get_integer(map, "huge", 9), 9);
  assert_int_equal(pack_get_integer(map, "yes", 9), 9);
  assert_true(pack_get_boolean(map, "yes", false));
  assert_true(pack_get_boolean(map, "whole", true));
  struct pack_reader r;
  struct pack_item item;
  struct span value;
  assert_true(pack_find(map, "list", &value));
  pack_reader_init(&r, value);
  assert_true(pack_next(&r, &item) && item.type == PACK_ARRAY && item.count == 2);
  assert_true(pack_next(&r, &item) && item.integer == 7);
  assert_true(pack_next(&r, &item) && item.integer == 8);
  assert_false(pack_next(&r, &item)); /* ends with the list, not with the map */
  assert_false(pack_find(span_of(NULL), "name", &value));
  assert_false(pack_find(SPAN("\x93\x01\x02\x03"), "name", &value));
  buffer_free(&b);
}

/* In memory of exactly that size, so that ASan sees a read past it. */
static const char *read_all(struct span bytes) {
  char *exact = malloc(bytes.length ? bytes.length : 1);
  if (bytes.length) memcpy(exact, bytes.data, bytes.length);
  struct span s = {exact, bytes.length};
  struct pack_reader r;
  struct pack_item item;
  pack_reader_init(&r, s);
  size_t items = 0;
  while (pack_next(&r, &item)) {
    assert_true(++items <= bytes.length);
    if (item.type == PACK_STRING || item.type == PACK_VALUE)
      assert_true(item.bytes.data >= exact && item.bytes.data + item.bytes.length <= exact + bytes.length);
    if (item.type == PACK_ARRAY || item.type == PACK_MAP) assert_true(item.count <= bytes.length);
  }
  const char *error = r.error;
  assert_true(error != NULL || r.cursor == r.end);
  assert_false(pack_next(&r, &item)); /* sticky */
  assert_false(pack_skip(&r, NULL));
  pack_reader_init(&r, s);
  while (pack_skip(&r, NULL)) {}
  struct span value;
  pack_find(s, "a", &value);
  pack_get_integer(s, "a", 0);
  free(exact);
  return error;
}

static void refuses_hostile_input(void **state) {
  (void)state;
  static const struct span bad[] = {SPAN("\xc1"),
                                    SPAN("\xd9"),
                                    SPAN("\xd9\x05"
                                         "abcd"),
                                    SPAN("\xdb\xff\xff\xff\xff"
                                         "a"),
                                    SPAN("\xc6\xff\xff\xff\xff"),
                                    SPAN("\xdd\xff\xff\xff\xff"),
                                    SPAN("\xdf\xff\xff\xff\xff\x01\x01"),
                                    SPAN("\xdf\x80\x00\x00\x01\x01\x01\x01"),
                                    SPAN("\x92\x01"),
                                    SPAN("\x81\x01"),
                                    SPAN("\xc7"),
                                    SPAN("\xc7\x00"),
                                    SPAN("\xc9\xff\xff\xff\xff\x01"),
                                    SPAN("\xd8\x01"
                                         "123456789012345"),
                                    SPAN("\xcb\x00"),
                                    SPAN("\xcf\x00\x00\x00\x00\x00\x00\x00"),
                                    SPAN("\xa1")};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (!read_all(bad[i])) fail_msg("accepted number %zu", i);
  assert_null(read_all(SPAN("")));
  /* An unsigned number beyond int64 becomes a float. */
  struct pack_reader r;
  struct pack_item item;
  pack_reader_init(&r, SPAN("\xcf\xff\xff\xff\xff\xff\xff\xff\xff"));
  assert_true(pack_next(&r, &item) && item.type == PACK_NUMBER && item.number > 1.8e19);
}

static void limits_depth(void **state) {
  (void)state;
  static char deep[100000];
  memset(deep, 0x91, sizeof deep);
  struct pack_reader r;
  pack_reader_init(&r, (struct span){deep, sizeof deep});
  assert_false(pack_skip(&r, NULL));
  assert_string_equal(r.error, "too deep");
  deep[31] = 1; /* 31 arrays and a number are allowed */
  pack_reader_init(&r, (struct span){deep, 32});
  assert_true(pack_skip(&r, NULL));
  deep[31] = (char)0x91;
  deep[32] = 1;
  pack_reader_init(&r, (struct span){deep, 33});
  assert_false(pack_skip(&r, NULL));
}

static void survives_mutations(void **state) {
  (void)state;
  struct buffer b = {0};
  pack_put_map(&b, 3);
  pack_put_string(&b, SPAN("a")), pack_put_array(&b, 3), pack_put_integer(&b, 70000), pack_put_number(&b, 2.5),
      pack_put_string(&b, SPAN("a longer text, longer than 31 bytes"));
  pack_put_string(&b, SPAN("b")), pack_put_value(&b, PACK_REGEX, SPAN("^/x"));
  pack_put_string(&b, SPAN("c")), pack_put_map(&b, 1), pack_put_nil(&b), pack_put_boolean(&b, true);
  size_t length = buffer_length(&b);
  for (size_t cut = 0; cut < length; cut++) {
    struct pack_reader r;
    pack_reader_init(&r, (struct span){buffer_span(&b).data, cut});
    assert_false(pack_skip(&r, NULL)); /* every prefix is refused as a whole */
    read_all((struct span){buffer_span(&b).data, cut});
  }
  struct random random = {13};
  char *copy = malloc(length);
  for (int i = 0; i < 50000; i++) {
    memcpy(copy, buffer_span(&b).data, length);
    for (int k = 0; k < 3; k++) copy[random_below(&random, length)] = (char)random_next(&random);
    read_all((struct span){copy, random_below(&random, length + 1)});
  }
  free(copy);
  buffer_free(&b);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(round_trips),           cmocka_unit_test(counts_containers), cmocka_unit_test(finds),
                                     cmocka_unit_test(refuses_hostile_input), cmocka_unit_test(limits_depth),      cmocka_unit_test(survives_mutations)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
