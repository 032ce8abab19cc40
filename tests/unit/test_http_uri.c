/* Request targets, hosts, escapes and arguments. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "http/uri.h"

static void assert_span(struct span actual, const char *text) {
  if (!span_equal(actual, span_of(text))) fail_msg("\"%.*s\", not \"%s\"", (int)actual.length, actual.data ? actual.data : "", text);
}

static const struct {
  const char *target, *path, *query; /* path NULL: refused */
} targets[] = {
    {"/", "/", NULL},
    {"/a/b", "/a/b", NULL},
    {"/a?x=1", "/a", "x=1"},
    {"/a?", "/a", ""},
    {"/a??b", "/a", "?b"},
    {"//a///b/", "/a/b/", NULL},
    {"/a/./b", "/a/b", NULL},
    {"/a/.", "/a/", NULL},
    {"/a/..", "/", NULL},
    {"/a/b/..", "/a/", NULL},
    {"/a/b/../", "/a/", NULL},
    {"/a/../b", "/b", NULL},
    {"/a//../b", "/b", NULL},
    {"/a/b/../../c", "/c", NULL},
    {"/..", NULL, NULL},
    {"/../a", NULL, NULL},
    {"/a/../../b", NULL, NULL},
    {"/.", "/", NULL},
    {"/...", "/...", NULL},
    {"/.a", "/.a", NULL},
    {"/a..", "/a..", NULL},
    {"/..a/b", "/..a/b", NULL},
    {"/a%20b", "/a b", NULL},
    {"/%41", "/A", NULL},
    {"/a%2Fb", "/a/b", NULL},
    {"/a%2f..%2fb", "/b", NULL},
    {"/%2e%2e/a", NULL, NULL},
    {"/a/%2e%2E/b", "/b", NULL},
    {"/a/%2e/b", "/a/b", NULL},
    {"/a%252e", "/a%2e", NULL}, /* once */
    {"/a%3fb?c", "/a?b", "c"},
    {"/a%23b", "/a#b", NULL},
    {"/a+b", "/a+b", NULL},
    {"/a\\..\\b", "/a\\..\\b", NULL},
    {"/%00", NULL, NULL},
    {"/%", NULL, NULL},
    {"/%4", NULL, NULL},
    {"/%g1", NULL, NULL},
    {"/%1g", NULL, NULL},
    {"/a?%zz", "/a", "%zz"},
    {"/a?b/../c", "/a", "b/../c"},
    {"/a#b", NULL, NULL},
    {"", NULL, NULL},
    {"a", NULL, NULL},
    {"*", NULL, NULL},
    {"http://h", "/", NULL},
    {"http://h?x", "/", "x"},
    {"HTTPS://h:1/a/../b?x", "/b", "x"},
    {"http:///a", NULL, NULL},
    {"ftp://h/", NULL, NULL},
};

static void test_targets(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
    struct arena arena;
    struct uri uri;
    arena_init(&arena, NULL, 0);
    int error = uri_parse_target(span_of(targets[i].target), SPAN("GET"), &arena, &uri);
    if ((error == 0) != (targets[i].path != NULL)) fail_msg("%s: %d", targets[i].target, error);
    if (error == 0) {
      assert_span(uri.path, targets[i].path);
      assert_true((uri.query.data == NULL) == (targets[i].query == NULL));
      if (targets[i].query) assert_span(uri.query, targets[i].query);
    }
    arena_free(&arena);
  }
}

static void test_target_parts(void **state) {
  (void)state;
  struct arena arena;
  struct uri uri;
  arena_init(&arena, NULL, 0);
  assert_int_equal(uri_parse_target(SPAN("http://h:8/%41/..?q"), SPAN("GET"), &arena, &uri), 0);
  assert_span(uri.authority, "h:8");
  assert_span(uri.raw_path, "/%41/..");
  assert_int_equal(uri_parse_target(SPAN("*"), SPAN("OPTIONS"), &arena, &uri), 0);
  assert_span(uri.path, "*");
  arena_free(&arena);
}

static void test_hosts(void **state) {
  (void)state;
  static const struct {
    const char *authority, *host, *port;
  } table[] = {
      {"a.b", "a.b", NULL},     {"A.B:80", "a.b", "80"},   {"a.b.", "a.b", NULL},   {"a.b.:80", "a.b", "80"},
      {"[::1]", "[::1]", NULL}, {"[::A]:8", "[::a]", "8"}, {"a:", "a", ""},         {"10.0.0.1", "10.0.0.1", NULL},
      {"a_b", "a_b", NULL},     {"", NULL, NULL},          {".", NULL, NULL},       {"a..", NULL, NULL},
      {"a..b", NULL, NULL},     {".a", NULL, NULL},        {"a:b", NULL, NULL},     {"a:80:90", NULL, NULL},
      {"u@a", NULL, NULL},      {"a/b", NULL, NULL},       {"[::1", NULL, NULL},    {"[]", NULL, NULL},
      {"[::1]x", NULL, NULL},   {"a b", NULL, NULL},       {"a:99999", NULL, NULL}, {"::1", NULL, NULL},
      {"a\\b", NULL, NULL},     {"a?b", NULL, NULL},       {":80", NULL, NULL},     {"[z]", NULL, NULL},
      {"*.a", NULL, NULL},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    struct arena arena;
    struct span host, port;
    arena_init(&arena, NULL, 0);
    bool is_fine = uri_host(span_of(table[i].authority), &arena, &host, &port);
    if (is_fine != (table[i].host != NULL)) fail_msg("%s", table[i].authority);
    if (is_fine) {
      assert_span(host, table[i].host);
      assert_true((port.data == NULL) == (table[i].port == NULL));
      if (table[i].port) assert_span(port, table[i].port);
    }
    arena_free(&arena);
  }
}

static void test_escapes(void **state) {
  (void)state;
  struct arena arena;
  arena_init(&arena, NULL, 0);
  assert_span(uri_escape_path(SPAN("/a b?c#d%e\xc3\xa4\x01~+&=:@"), &arena), "/a%20b%3Fc%23d%25e%C3%A4%01~+&=:@");
  assert_span(uri_escape_path(SPAN("/\"<>\\^`{|}\x7f"), &arena), "/%22%3C%3E%5C%5E%60%7B%7C%7D%7F");
  assert_span(uri_escape_path(span_make("/\0", 2), &arena), "/%00");
  assert_span(uri_escape_component(SPAN("a/b?c=d&e f-._~"), &arena), "a%2Fb%3Fc%3Dd%26e%20f-._~");
  assert_span(uri_unescape(SPAN("a%20b+c%zz%4"), false, &arena), "a b+c%zz%4");
  assert_span(uri_unescape(SPAN("a%20b+c%41"), true, &arena), "a b cA");
  assert_span(uri_unescape(SPAN("plain"), true, &arena), "plain");
  assert_span(uri_unescape(SPAN("%41"), false, &arena), "A");
  arena_free(&arena);
}

static void test_arguments(void **state) {
  (void)state;
  struct span query = SPAN("a=1&bb=2%20&c&=x&a=3&d=");
  assert_span(uri_argument(query, SPAN("a")), "1");
  assert_span(uri_argument(query, SPAN("A")), "1");
  assert_span(uri_argument(query, SPAN("bb")), "2%20");
  assert_span(uri_argument(query, SPAN("d")), "");
  assert_non_null(uri_argument(query, SPAN("c")).data);
  assert_int_equal(uri_argument(query, SPAN("c")).length, 0);
  assert_null(uri_argument(query, SPAN("b")).data);
  assert_null(uri_argument((struct span){NULL, 0}, SPAN("b")).data);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_targets), cmocka_unit_test(test_target_parts), cmocka_unit_test(test_hosts),
                                     cmocka_unit_test(test_escapes), cmocka_unit_test(test_arguments)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
