/* Templates, regexes and the values made of them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/pack.h"
#include "route/regex.h"
#include "route/template.h"
#include "route/value.h"

/* "<variable name or number>argument" shows what was asked. */
static struct span lookup(void *context, enum variable variable, struct span argument, struct arena *arena) {
  (void)context;
  switch (variable) {
    case VARIABLE_HOST:
      return SPAN("shop.test");
    case VARIABLE_SCHEME:
      return SPAN("http");
    case VARIABLE_REMOTE_USER:
      return SPAN("");
    case VARIABLE_HTTP_HOST_:
      return SPAN("Shop.Test:80");
    case VARIABLE_REQUEST:
      return (struct span){"a\"b\\c\x01\n\xc3\xa9\xff", 10};
    default:
      return arena_printf(arena, "<%s%.*s>",
                          variable == VARIABLE_HTTP            ? "http:"
                          : variable == VARIABLE_CAPTURE       ? "capture:"
                          : variable == VARIABLE_ARG           ? "arg:"
                          : variable == VARIABLE_COOKIE        ? "cookie:"
                          : variable == VARIABLE_VAR           ? "var:"
                          : variable == VARIABLE_SENT_HTTP     ? "sent:"
                          : variable == VARIABLE_UPSTREAM_HTTP ? "up:"
                                                               : "?",
                          (int)argument.length, argument.data);
  }
}

static void check(const char *text, const char *expected) {
  char error[200] = "";
  struct arena arena;
  arena_init(&arena, NULL, 0);
  struct text_template *template = template_new(span_of(text), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error);
  if (!template) fail_msg("%s: %s", text, error);
  struct span out = template_expand(template, lookup, NULL, &arena);
  if (!span_equal(out, span_of(expected))) fail_msg("%s: %.*s, expected %s", text, (int)out.length, out.data, expected);
  template_free(template);
  arena_free(&arena);
}

static void all_forms_expand(void **state) {
  (void)state;
  check("", "");
  check("plain", "plain");
  check("$host", "shop.test");
  check("${host}", "shop.test");
  check("$scheme://$host/x", "http://shop.test/x");
  check("${scheme}s://${host}s", "https://shop.tests");
  check("$Host", "shop.test");
  check("$http_host", "Shop.Test:80");
  check("$http_User_Agent|$sent_http_x_y|$upstream_http_etag", "<http:user-agent>|<sent:x-y>|<up:etag>");
  check("$arg_Name $cookie_a_B $var_x", "<arg:Name> <cookie:a_B> <var:x>");
  check("/$1/$2x$12", "/<capture:1>/<capture:2>x<capture:1>2");
  check("${1}", "<capture:1>");
  check("$", "$");
  check("a$", "a$");
  check("$$host", "$shop.test");
  check("$0 $- ${} $ x", "$0 $- ${} $ x");
  check("$host$host$host$host$host$host$host$host$host", "shop.testshop.testshop.testshop.testshop.testshop.testshop.testshop.testshop.test");
}

static void unknown_names_are_errors_or_empty(void **state) {
  (void)state;
  char error[200] = "";
  assert_null(template_new(SPAN("x $foo y"), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error));
  assert_string_equal(error, "has the unknown variable $foo");
  assert_null(template_new(SPAN("$http_"), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error));
  assert_string_equal(error, "has the unknown variable $http_");
  char many[TEMPLATE_BYTES + 2];
  memset(many, 'a', sizeof many);
  for (unsigned i = 0; i <= TEMPLATE_VARIABLES; i++) memcpy(many + 2 * i, "$1", 2);
  assert_null(template_new(span_make(many, 2 * TEMPLATE_VARIABLES + 2), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error));
  assert_string_equal(error, "has more than 32 variables");
  template_free(template_new(span_make(many, 2 * TEMPLATE_VARIABLES), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error));
  template_free(template_new(span_make(many, 2 * TEMPLATE_VARIABLES + 2), TEMPLATE_UNKNOWN_IS_EMPTY, error, sizeof error));
  memset(many, 'a', sizeof many);
  assert_null(template_new(span_make(many, TEMPLATE_BYTES + 1), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error));
  assert_string_equal(error, "is longer than 16384 bytes");
  template_free(template_new(span_make(many, TEMPLATE_BYTES), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error));
  assert_null(template_new(SPAN("${host"), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error));
  assert_string_equal(error, "has no closing brace after ${host");
  struct arena arena;
  arena_init(&arena, NULL, 0);
  struct text_template *template = template_new(SPAN("[$foo]$host"), TEMPLATE_UNKNOWN_IS_EMPTY, error, sizeof error);
  struct span out = template_expand(template, lookup, NULL, &arena);
  assert_true(span_equal(out, SPAN("[]shop.test")));
  assert_false(template->is_constant);
  template_free(template);
  template = template_new(SPAN("const"), TEMPLATE_UNKNOWN_IS_ERROR, error, sizeof error);
  assert_true(template->is_constant);
  template_free(template);
  arena_free(&arena);
}

static void check_escape(enum template_escape escape, bool dash, const char *expected) {
  char error[200];
  struct arena arena;
  struct buffer out = {0};
  arena_init(&arena, NULL, 0);
  struct text_template *template = template_new(SPAN("\"$remote_user\" \"$request\""), TEMPLATE_UNKNOWN_IS_EMPTY, error, sizeof error);
  template_append(template, lookup, NULL, &arena, escape, dash, &out);
  struct span text = buffer_span(&out);
  if (!span_equal(text, span_of(expected))) fail_msg("%.*s, expected %s", (int)text.length, text.data, expected);
  buffer_free(&out);
  template_free(template);
  arena_free(&arena);
}

static void values_are_escaped_for_logs(void **state) {
  (void)state;
  check_escape(TEMPLATE_ESCAPE_LOG, true, "\"-\" \"a\\x22b\\x5Cc\\x01\\x0A\\xC3\\xA9\\xFF\"");
  check_escape(TEMPLATE_ESCAPE_JSON, false, "\"\" \"a\\\"b\\\\c\\u0001\\u000a\xc3\xa9\\ufffd\"");
  check_escape(TEMPLATE_ESCAPE_NONE, true, "\"-\" \"a\"b\\c\x01\n\xc3\xa9\xff\"");
}

static void regexes_match_within_limits(void **state) {
  (void)state;
  char error[200];
  struct regex_match match;
  enum limit_reached limit;
  assert_null(regex_new(SPAN("(a"), false, error, sizeof error));
  assert_non_null(strstr(error, "is not a regular expression"));
  struct regex *regex = regex_new(SPAN("^/(?<first>[a-z]+)(/x)?(.*)"), true, error, sizeof error);
  assert_true(regex_match(regex, SPAN("/AbC/y"), &match, &limit));
  assert_int_equal(match.count, 4);
  assert_true(span_equal(match.groups[1], SPAN("AbC")));
  assert_null(match.groups[2].data);
  assert_true(span_equal(match.groups[3], SPAN("/y")));
  assert_null(match.groups[9].data);
  assert_false(regex_match(regex, SPAN("9"), &match, NULL));
  assert_int_equal(match.count, 0);
  regex_free(regex);
  regex = regex_new(SPAN("(a)(b)(c)(d)(e)(f)(g)(h)(i)(j)(k)"), false, error, sizeof error);
  assert_true(regex_match(regex, SPAN("abcdefghijk"), &match, NULL));
  assert_int_equal(match.count, REGEX_GROUPS);
  assert_true(span_equal(match.groups[9], SPAN("i")));
  regex_free(regex);
  regex = regex_new(SPAN("^(a+)+$"), false, error, sizeof error);
  assert_false(regex_match(regex, SPAN("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"), &match, &limit));
  assert_int_equal(limit, REACHED_REGEX_MATCH);
  regex_free(regex);
  /* Deeper than the JIT's stack: the interpreter has a go, within its limits. */
  static char deep[200000];
  memset(deep, 'a', sizeof deep);
  regex = regex_new(SPAN("^(?:(a)|b)*[cd]"), false, error, sizeof error);
  assert_false(regex_match(regex, span_make(deep, sizeof deep), &match, &limit));
  assert_int_equal(limit, REACHED_REGEX_DEPTH);
  regex_free(regex);
  char many_groups[600] = "^(?:(a)|b)*[cd]";
  for (int i = 0; i < 100; i++) strcat(many_groups, "(x)?"); /* each makes a frame larger */
  regex = regex_new(span_of(many_groups), false, error, sizeof error);
  assert_false(regex_match(regex, span_make(deep, sizeof deep), &match, &limit));
  assert_int_equal(limit, REACHED_REGEX_HEAP_KIB);
  assert_false(regex_match(regex, SPAN("x"), &match, &limit));
  assert_int_equal(limit, REACHED_NONE);
  regex_free(regex);
  assert_null(regex_new(SPAN("(*UTF)x"), false, error, sizeof error));
}

static void values_of_each_kind(void **state) {
  (void)state;
  char error[200] = "";
  struct value *value = value_new(PACK_REGEX, (struct span){"i\0^ab", 5}, error, sizeof error);
  assert_non_null(value);
  assert_true(regex_match(value->regex, SPAN("ABc"), NULL, NULL));
  assert_ptr_equal(value_hold(value), value);
  value_release(value);
  assert_true(regex_match(value->regex, SPAN("ABc"), NULL, NULL));
  value_release(value);
  assert_null(value_new(PACK_REGEX, SPAN("no nul"), error, sizeof error));
  assert_null(value_new(PACK_REGEX, (struct span){"q\0x", 3}, error, sizeof error));

  value = value_new(PACK_HOST_SET, SPAN("a.test, *.b.test,C.test"), error, sizeof error);
  assert_non_null(value);
  assert_true(host_set_contains(value->host_set, SPAN("A.Test")));
  assert_true(host_set_contains(value->host_set, SPAN("c.test")));
  assert_true(host_set_contains(value->host_set, SPAN("x.b.test")));
  assert_false(host_set_contains(value->host_set, SPAN("b.test")));
  assert_false(host_set_contains(value->host_set, SPAN("x.y.b.test")));
  assert_false(host_set_contains(value->host_set, SPAN(".b.test")));
  assert_false(host_set_contains(value->host_set, SPAN("")));
  value_release(value);
  assert_null(value_new(PACK_HOST_SET, SPAN("a.test, b test"), error, sizeof error));
  assert_non_null(strstr(error, "b test"));

  value = value_new(PACK_IP_SET, SPAN("10.0.0.0/8, ::1"), error, sizeof error);
  assert_non_null(value);
  struct address address;
  address_parse_ip(SPAN("10.2.3.4"), 0, &address);
  assert_true(ip_set_contains(value->ip_set, &address));
  value_release(value);
  assert_null(value_new(PACK_IP_SET, SPAN("10.0.0.0/33"), error, sizeof error));

  struct buffer packed = {0};
  pack_put_map(&packed, 2);
  pack_put_string(&packed, SPAN("k"));
  pack_put_string(&packed, SPAN("v"));
  pack_put_string(&packed, SPAN("empty"));
  pack_put_string(&packed, SPAN(""));
  value = value_new(PACK_MAP_VALUE, buffer_span(&packed), error, sizeof error);
  assert_non_null(value);
  assert_true(span_equal(value_map_get(value->map, SPAN("k")), SPAN("v")));
  assert_non_null(value_map_get(value->map, SPAN("empty")).data);
  assert_null(value_map_get(value->map, SPAN("x")).data);
  value_release(value);
  for (size_t i = 0; i < buffer_length(&packed); i++) assert_null(value_new(PACK_MAP_VALUE, span_make(packed.data, i), error, sizeof error));
  buffer_free(&packed);
  assert_null(value_new((enum pack_value_kind)77, SPAN("x"), error, sizeof error));
  assert_null(value_new(PACK_TEMPLATE, SPAN("$nope"), error, sizeof error));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_forms_expand),
      cmocka_unit_test(unknown_names_are_errors_or_empty),
      cmocka_unit_test(values_are_escaped_for_logs),
      cmocka_unit_test(regexes_match_within_limits),
      cmocka_unit_test(values_of_each_kind),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
