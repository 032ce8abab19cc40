/* Header lists, cookies, dates, statuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ctype.h>
#include <stdio.h>
#include <time.h>

#include "base/limits.h"
#include "http/cookie.h"
#include "http/message.h"
#include "http/scan.h"

static void assert_span(struct span actual, const char *text) {
  if (!span_equal(actual, span_of(text))) fail_msg("\"%.*s\", not \"%s\"", (int)actual.length, actual.data ? actual.data : "", text);
}

/* Every name of the list is found again, in any case; its neighbours are not. */
static void test_ids(void **state) {
  (void)state;
  for (int id = 1; id < HEADER_ID_COUNT; id++) {
    struct span name = header_id_name((enum header_id)id);
    char text[64];
    assert_int_equal(header_id_of(name), id);
    for (size_t i = 0; i < name.length; i++) text[i] = (char)toupper((unsigned char)name.data[i]);
    assert_int_equal(header_id_of(span_make(text, name.length)), id);
    text[name.length / 2] = '!';
    assert_int_equal(header_id_of(span_make(text, name.length)), HEADER_OTHER);
    assert_true(header_id_of(span_make(name.data, name.length - 1)) != (enum header_id)id);
  }
  assert_int_equal(header_id_of(SPAN("")), HEADER_OTHER);
  assert_int_equal(header_id_of(SPAN("content.length")), HEADER_OTHER);
  assert_int_equal(header_id_of(SPAN("a-very-long-name-that-nobody-knows")), HEADER_OTHER);
  assert_true(header_is_hop_by_hop(HEADER_CONNECTION));
  assert_false(header_is_hop_by_hop(HEADER_CONTENT_LENGTH));
}

static void test_list(void **state) {
  (void)state;
  struct arena arena;
  struct headers headers;
  arena_init(&arena, NULL, 0);
  headers_init(&headers, &arena);
  assert_null(headers_get(&headers, HEADER_HOST).data);
  for (int i = 0; i < 40; i++) headers_add(&headers, HEADER_OTHER, SPAN("X-Many"), SPAN("v"));
  headers_add(&headers, HEADER_COOKIE, SPAN("Cookie"), SPAN("a=1"));
  headers_add(&headers, HEADER_OTHER, SPAN("X-One"), SPAN("1"));
  headers_add(&headers, HEADER_OTHER, SPAN("x-one"), SPAN("2"));
  assert_span(headers_find_name(&headers, SPAN("X-ONE"))->value, "1");
  assert_span(headers_next_name(&headers, SPAN("x-one"), headers_find_name(&headers, SPAN("x-one")))->value, "2");
  headers_set(&headers, HEADER_OTHER, SPAN("X-One"), SPAN("3"));
  assert_span(headers_find_name(&headers, SPAN("x-one"))->value, "3");
  assert_null(headers_next_name(&headers, SPAN("x-one"), headers_find_name(&headers, SPAN("x-one"))));
  assert_int_equal(headers_remove(&headers, HEADER_OTHER, SPAN("x-many")), 40);
  assert_int_equal(headers_remove(&headers, HEADER_OTHER, SPAN("x-many")), 0);
  assert_null(headers_find_name(&headers, SPAN("x-many")));
  assert_span(headers_get(&headers, HEADER_COOKIE), "a=1");
  headers_set(&headers, HEADER_HOST, SPAN("Host"), SPAN("h"));
  assert_span(headers_get(&headers, HEADER_HOST), "h");
  arena_free(&arena);
}

static void test_join(void **state) {
  (void)state;
  struct arena arena;
  struct headers headers;
  arena_init(&arena, NULL, 0);
  headers_init(&headers, &arena);
  assert_null(headers_join(&headers, SPAN("x-list"), &arena).data);
  headers_add(&headers, HEADER_OTHER, SPAN("X-List"), SPAN(""));
  assert_non_null(headers_join(&headers, SPAN("x-list"), &arena).data);
  assert_span(headers_join(&headers, SPAN("x-list"), &arena), "");
  headers_add(&headers, HEADER_OTHER, SPAN("x-list"), SPAN("a"));
  headers_add(&headers, HEADER_OTHER, SPAN("X-Other"), SPAN("z"));
  assert_span(headers_join(&headers, SPAN("x-list"), &arena), "a");
  headers_add(&headers, HEADER_OTHER, SPAN("X-LIST"), SPAN("b, c"));
  headers_add(&headers, HEADER_OTHER, SPAN("X-List"), SPAN(""));
  headers_add(&headers, HEADER_OTHER, SPAN("X-List"), SPAN("d"));
  assert_span(headers_join(&headers, SPAN("X-List"), &arena), "a, b, c, d");
  arena_free(&arena);
}

static void test_validity(void **state) {
  (void)state;
  assert_true(header_name_is_valid(SPAN("X-a.b_c!")));
  assert_false(header_name_is_valid(SPAN("")));
  assert_false(header_name_is_valid(SPAN("a b")));
  assert_false(header_name_is_valid(SPAN("a:")));
  assert_false(header_name_is_valid(SPAN("a\r\nb")));
  assert_true(header_value_is_valid(SPAN("")));
  assert_true(header_value_is_valid(SPAN("a\tb \xff")));
  /* At every place of a long value, whatever the scanner's stride. */
  static const char bad[] = {'\r', '\n', '\0', '\x01', '\x1f', '\x7f'};
  char text[30];
  for (size_t at = 0; at < sizeof text; at++)
    for (size_t i = 0; i < sizeof bad; i++) {
      memset(text, (int)('\xff' - (int)at), sizeof text);
      assert_true(header_value_is_valid(span_make(text, sizeof text)));
      text[at] = bad[i];
      assert_false(header_value_is_valid(span_make(text, sizeof text)));
    }
}

static void test_cookies(void **state) {
  (void)state;
  struct arena arena;
  struct headers headers;
  arena_init(&arena, NULL, 0);
  headers_init(&headers, &arena);
  enum limit_reached limit;
  assert_null(cookie_get(&headers, SPAN("a"), &limit).data);
  headers_add(&headers, HEADER_COOKIE, SPAN("Cookie"), SPAN("a=1; b=\"2\";c = 3 ;  d=x=y; e=; novalue; a=9"));
  headers_add(&headers, HEADER_COOKIE, SPAN("cookie"), SPAN("f=6"));
  assert_span(cookie_get(&headers, SPAN("a"), &limit), "1");
  assert_span(cookie_get(&headers, SPAN("b"), &limit), "\"2\"");
  assert_span(cookie_get(&headers, SPAN("c"), &limit), "3");
  assert_span(cookie_get(&headers, SPAN("d"), &limit), "x=y");
  assert_non_null(cookie_get(&headers, SPAN("e"), &limit).data);
  assert_span(cookie_get(&headers, SPAN("e"), &limit), "");
  assert_span(cookie_get(&headers, SPAN("f"), &limit), "6");
  assert_null(cookie_get(&headers, SPAN("A"), &limit).data);
  assert_null(cookie_get(&headers, SPAN("novalue"), &limit).data);
  char many[2000] = "";
  size_t length = 0;
  for (int i = 0; i < LIMIT_COOKIES; i++) length += (size_t)sprintf(many + length, "k%d=v; ", i);
  sprintf(many + length, "last=v");
  headers_init(&headers, &arena);
  headers_add(&headers, HEADER_COOKIE, SPAN("Cookie"), span_of(many));
  assert_non_null(cookie_get(&headers, SPAN("k127"), &limit).data);
  assert_int_equal(limit, REACHED_NONE);
  assert_null(cookie_get(&headers, SPAN("last"), &limit).data);
  assert_int_equal(limit, REACHED_COOKIES);
  arena_free(&arena);
}

static void test_dates(void **state) {
  (void)state;
  char text[32], expected[64];
  assert_int_equal(http_date(784111777, text), 29);
  assert_string_equal(text, "Sun, 06 Nov 1994 08:49:37 GMT");
  static const int64_t some[] = {0, 951782399, 951782400, 951868800, 4107542399, 4107542400, 253402300799, 1704067199, 1709164800};
  for (size_t i = 0; i < sizeof some / sizeof *some; i++) {
    time_t when = (time_t)some[i];
    struct tm parts;
    gmtime_r(&when, &parts);
    strftime(expected, sizeof expected, "%a, %d %b %Y %H:%M:%S GMT", &parts);
    assert_int_equal(http_date(some[i], text), 29);
    assert_string_equal(text, expected);
  }
}

/* A value that was not checked never keeps the mark of the one that it replaces. */
static void test_mark(void **state) {
  (void)state;
  struct arena arena;
  struct headers headers;
  arena_init(&arena, NULL, 0);
  headers_init(&headers, &arena);
  headers_add_checked(&headers, HEADER_SERVER, SPAN("Server"), SPAN("fine"));
  headers_add(&headers, HEADER_ETAG, SPAN("ETag"), SPAN("unknown"));
  assert_true(headers_find(&headers, HEADER_SERVER)->is_checked);
  assert_false(headers_find(&headers, HEADER_ETAG)->is_checked);
  headers_set(&headers, HEADER_SERVER, SPAN("Server"), SPAN("a\r\nb: c"));
  assert_false(headers_find(&headers, HEADER_SERVER)->is_checked);
  arena_free(&arena);
}

/* Every byte at every place of texts shorter and longer than the scan's step, beside bytes that the scan marks at first. */
static void test_validity_everywhere(void **state) {
  (void)state;
  const char beside[] = {'a', '\t', ' ', '\x80', '\xff', '!'};
  char text[27];
  for (size_t length = 1; length <= sizeof text; length++)
    for (size_t at = 0; at < length; at++)
      for (int byte = 0; byte < 256; byte++) {
        memset(text, beside[(length + at) % sizeof beside], length);
        text[at] = (char)byte;
        bool is_fine = byte == '\t' || (byte >= 0x20 && byte != 0x7f);
        assert_int_equal(header_value_is_valid(span_make(text, length)), is_fine);
        assert_int_equal(scan_text(text, length), is_fine ? length : at);
      }
}

/* A name that differs in one byte, wherever, is another name. */
static void test_ids_everywhere(void **state) {
  (void)state;
  for (int id = 1; id < HEADER_ID_COUNT; id++) {
    struct span name = header_id_name((enum header_id)id);
    for (size_t at = 0; at < name.length; at++) {
      char text[32];
      memcpy(text, name.data, name.length);
      text[at] = name.data[at] == 'q' ? '1' : 'q';
      assert_true(header_id_of(span_make(text, name.length)) != (enum header_id)id);
      text[at] = (char)(name.data[at] == '-' ? '-' : name.data[at] - 0x20);
      assert_int_equal(header_id_of(span_make(text, name.length)), id);
    }
  }
}

static void test_messages(void **state) {
  (void)state;
  struct arena arena;
  arena_init(&arena, NULL, 0);
  assert_string_equal(status_phrase(503), "Service Temporarily Unavailable");
  assert_string_equal(status_phrase(504), "Gateway Time-out");
  assert_string_equal(status_phrase(799), "");
  assert_span(status_page(404, &arena),
              "<html>\r\n<head><title>404 Not Found</title></head>\r\n<body>\r\n<center><h1>404 Not Found</h1></center>\r\n</body>\r\n</html>\r\n");
  assert_true(status_has_body(200, SPAN("GET")));
  assert_false(status_has_body(200, SPAN("HEAD")));
  assert_false(status_has_body(204, SPAN("GET")));
  assert_false(status_has_body(304, SPAN("GET")));
  assert_false(status_has_body(101, SPAN("GET")));
  assert_true(method_is_idempotent(SPAN("DELETE")));
  assert_false(method_is_idempotent(SPAN("POST")));
  assert_false(method_is_idempotent(SPAN("PATCH")));
  assert_true(method_is_safe(SPAN("HEAD")));
  assert_false(method_is_safe(SPAN("PUT")));
  arena_free(&arena);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_ids),
                                     cmocka_unit_test(test_ids_everywhere),
                                     cmocka_unit_test(test_list),
                                     cmocka_unit_test(test_join),
                                     cmocka_unit_test(test_validity),
                                     cmocka_unit_test(test_mark),
                                     cmocka_unit_test(test_validity_everywhere),
                                     cmocka_unit_test(test_cookies),
                                     cmocka_unit_test(test_dates),
                                     cmocka_unit_test(test_messages)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
