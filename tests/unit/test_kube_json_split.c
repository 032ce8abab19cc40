/* Lists and watches cut into objects: the same whatever the pieces are, strict about what is no JSON, bounded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kube/json_split.h"

static const char letters[] = {[JSON_PART_ITEM] = 'i', [JSON_PART_METADATA] = 'm', [JSON_PART_EVENT] = 'e'};

static void on_part(void *context, enum json_part part, struct span text) { buffer_printf(context, "%c%.*s|", letters[part], (int)text.length, text.data); }

/* What comes out, "!" and why where it is refused. `cut` bytes are a piece, the first of `first`. */
static char *run(enum json_split_kind kind, const char *text, size_t first, size_t cut) {
  struct json_split split;
  struct buffer out = {.data = NULL};
  size_t length = strlen(text);
  json_split_init(&split, kind, on_part, &out);
  bool is_ok = true;
  for (size_t at = 0, size = first; at < length && is_ok; at += size, size = cut) {
    if (size > length - at) size = length - at;
    char *exact = malloc(size ? size : 1); /* so that reading past a piece is seen */
    memcpy(exact, text + at, size);
    is_ok = json_split_add(&split, span_make(exact, size));
    free(exact);
  }
  if (is_ok) is_ok = json_split_end(&split);
  if (is_ok) assert_int_equal(split.offset, length);
  assert_true(split.offset <= length);
  assert_true(is_ok == (split.error == NULL));
  if (!is_ok) {
    assert_false(json_split_add(&split, SPAN(" ")));
    assert_false(json_split_end(&split));
    buffer_printf(&out, "!%s", split.error);
  }
  json_split_free(&split);
  buffer_append(&out, span_make("", 1));
  return out.data + out.start;
}

static void gives(enum json_split_kind kind, const char *text, const char *expected) {
  size_t length = strlen(text);
  char *whole = run(kind, text, length, length);
  if (strcmp(whole, expected) != 0) fail_msg("%s\n gave  %s\n not   %s", text, whole, expected);
  for (size_t first = 0; first <= length && length < 300; first++) {
    char *cut = run(kind, text, first, length);
    if (strcmp(cut, whole) != 0) fail_msg("%s\n cut at %zu gave %s\n not %s", text, first, cut, whole);
    free(cut);
  }
  for (size_t size = 1; size < 4; size++) {
    char *cut = run(kind, text, size, size);
    if (strcmp(cut, whole) != 0) fail_msg("%s\n in pieces of %zu gave %s\n not %s", text, size, cut, whole);
    free(cut);
  }
  free(whole);
}

static void lists(void **state) {
  (void)state;
  enum json_split_kind list = JSON_SPLIT_LIST;
  gives(list, "{\"kind\":\"IngressList\",\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[{\"a\":1},{\"b\":[{}]}]}\n",
        "i{\"a\":1}|i{\"b\":[{}]}|m{\"resourceVersion\":\"7\"}|");
  gives(list, "{\"metadata\":{},\"items\":[]}", "m{}|");
  gives(list, "{\"items\":null,\"metadata\":{\"a\" : 1 }}", "m{\"a\" : 1 }|");
  gives(list, " {\r\n\t\"items\" : [ {} , {\"x\" : {} } ] , \"metadata\" : { } } \n ", "i{}|i{\"x\" : {} }|m{ }|");
  /* Only the outermost members count. */
  gives(list, "{\"x\":{\"items\":[{}],\"metadata\":{}},\"metadata\":{\"items\":[{}]},\"items\":[{\"metadata\":{},\"items\":[{}]}],\"y\":[[{}]]}",
        "i{\"metadata\":{},\"items\":[{}]}|m{\"items\":[{}]}|");
  /* Brackets and quotes in strings are text. */
  gives(list, "{\"metadata\":{},\"items\":[{\"a\":\"]}\\\"{[\\\\\"},{\"b\":\"\\u00e9\\/\\b\\f\\n\\r\\t\"}]}",
        "i{\"a\":\"]}\\\"{[\\\\\"}|i{\"b\":\"\\u00e9\\/\\b\\f\\n\\r\\t\"}|m{}|");
  gives(list, "{\"metadata\":{},\"items\":[{\"a\":[-0,0.5,10,1e5,1E-2,1.25e+10,true,false,null,[]]}],\"z\":0}",
        "i{\"a\":[-0,0.5,10,1e5,1E-2,1.25e+10,true,false,null,[]]}|m{}|");
  /* A name that only begins like one of ours, and one that is too long to be kept. */
  gives(list, "{\"item\":1,\"itemss\":2,\"metadata\":{},\"metadatametadatametadata\":{},\"items\":[]}", "m{}|");
}

static void broken_lists(void **state) {
  (void)state;
  enum json_split_kind list = JSON_SPLIT_LIST;
  gives(list, "", "!it ends in its midst");
  gives(list, "  ", "!it ends in its midst");
  gives(list, "{\"metadata\":{},\"items\":[{\"a\":1},{\"b\":", "i{\"a\":1}|!it ends in its midst");
  gives(list, "{\"metadata\":{},\"items\":[{\"a\":1}]", "i{\"a\":1}|!it ends in its midst");
  gives(list, "{\"metadata\":{},\"items\":[{\"a\":1}", "i{\"a\":1}|!it ends in its midst");
  gives(list, "[]", "!it is no JSON object");
  gives(list, "\"{}\"", "!it is no JSON object");
  gives(list, "<html>", "!it is no JSON object");
  gives(list, "{}", "!it is no list: it has no \"items\"");
  gives(list, "{\"kind\":\"Status\",\"metadata\":{}}", "!it is no list: it has no \"items\"");
  gives(list, "{\"\\u0069tems\":[{}],\"metadata\":{}}", "!it is no list: it has no \"items\"");
  gives(list, "{\"items\":[]}", "!it is no list: it has no \"metadata\"");
  gives(list, "{\"metadata\":{},\"items\":{}}", "!\"items\" is no array");
  gives(list, "{\"metadata\":{},\"items\":nul}", "!it is not JSON");
  gives(list, "{\"metadata\":{},\"items\":[1]}", "!an item is no object");
  gives(list, "{\"metadata\":{},\"items\":[[]]}", "!an item is no object");
  gives(list, "{\"metadata\":[],\"items\":[]}", "!\"metadata\" is no object");
  gives(list, "{\"metadata\":{},\"metadata\":{},\"items\":[]}", "!\"metadata\" is there twice");
  gives(list, "{\"metadata\":{},\"items\":[],\"items\":[{}]}", "!\"items\" is there twice");
  gives(list, "{\"metadata\":{},\"items\":[{}]}{", "i{}|m{}|!something follows its end");
  gives(list, "{\"metadata\":{},\"items\":[{}]},", "i{}|m{}|!something follows its end");
}

/* `value` inside a list's item. */
static void value_is(const char *value, const char *why) {
  char text[200], expected[200];
  snprintf(text, sizeof text, "{\"metadata\":{},\"items\":[{\"v\":%s}]}", value);
  if (why) snprintf(expected, sizeof expected, "!%s", why);
  else snprintf(expected, sizeof expected, "i{\"v\":%s}|m{}|", value);
  gives(JSON_SPLIT_LIST, text, expected);
}

static void grammar(void **state) {
  (void)state;
  static const char *const bad[] = {"tru", "truE",          "nulll", "TRUE", "{a:1}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}",
                                    "{,}", "{\"a\" \"b\"}", "{1:2}", "[1,]", "[,]",   "[1 2]",   "'a'",      "",
                                    ",",   "\xff",          "/**/1", "+1",   ".5",    "NaN",     "Infinity", "\"a\"\"b\""};
  static const char *const bad_numbers[] = {"-", "-a", "1.", "1.e5", "1e", "1e+", "-.5"};
  static const char *const good[] = {"\"\"", "\"\\u0000\"", "\"\x7f\xc3\xa9\"", "-1.0e-0", "{}", "[]", "[ ]", "{ }", "[[],{}]", "0"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) value_is(bad[i], "it is not JSON");
  for (size_t i = 0; i < sizeof bad_numbers / sizeof *bad_numbers; i++) value_is(bad_numbers[i], "a number is wrong");
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) value_is(good[i], NULL);
  value_is("01", "it is not JSON");
  value_is("\"\\x\"", "an escape is wrong");
  value_is("\"\\u12g4\"", "an escape is wrong");
  value_is("\"\\u123\"", "an escape is wrong");
  value_is("\"a\nb\"", "a control character is in a string");
  value_is("\"a\tb\"", "a control character is in a string");
  value_is("[}", "it is not JSON");
  value_is("{]", "it is not JSON");
  value_is("[1}", "brackets do not match");
}

static void nul_bytes(void **state) {
  (void)state;
  static const char *const texts[] = {"{\"a\":\"\\", "{\"a\":\"", "{\"a\":", "{\"a\":1", "{"};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    struct json_split split;
    struct buffer out = {.data = NULL};
    json_split_init(&split, JSON_SPLIT_WATCH, on_part, &out);
    assert_true(json_split_add(&split, span_of(texts[i])));
    assert_false(json_split_add(&split, span_make("\0", 1)));
    json_split_free(&split);
  }
}

static void watches(void **state) {
  (void)state;
  enum json_split_kind watch = JSON_SPLIT_WATCH;
  gives(watch, "", "");
  gives(watch, "\n\n", "");
  gives(watch, "{\"type\":\"ADDED\",\"object\":{\"items\":[{}]}}\n{\"type\":\"BOOKMARK\"}\n",
        "e{\"type\":\"ADDED\",\"object\":{\"items\":[{}]}}|e{\"type\":\"BOOKMARK\"}|");
  gives(watch, "{}{}\r\n{}", "e{}|e{}|e{}|");
  gives(watch, "{}\n{\"a\"", "e{}|!it ends in its midst");
  gives(watch, "{}\n{\"a\":1", "e{}|!it ends in its midst");
  gives(watch, "{},{}", "e{}|!it is no JSON object");
  gives(watch, "{}\n[]", "e{}|!it is no JSON object");
  gives(watch, "{}\nupstream connect error", "e{}|!it is no JSON object");
}

/* An event is there when its last brace is: nothing waits for the line's end. */
static void at_once(void **state) {
  (void)state;
  struct json_split split;
  struct buffer out = {.data = NULL};
  json_split_init(&split, JSON_SPLIT_WATCH, on_part, &out);
  assert_true(json_split_add(&split, SPAN("{\"a\":{}")));
  assert_int_equal(buffer_length(&out), 0);
  assert_true(json_split_is_open(&split));
  assert_true(json_split_add(&split, SPAN("}")));
  assert_int_equal(buffer_length(&out), 10);
  assert_false(json_split_is_open(&split));
  buffer_free(&out);
  json_split_free(&split);
}

static void depth(void **state) {
  (void)state;
  for (int extra = 0; extra < 2; extra++) {
    struct json_split split;
    struct buffer out = {.data = NULL};
    json_split_init(&split, JSON_SPLIT_WATCH, on_part, &out);
    bool is_ok = json_split_add(&split, SPAN("{\"a\":"));
    for (int i = 1; i < LIMIT_JSON_DEPTH + extra && is_ok; i++) is_ok = json_split_add(&split, SPAN("["));
    assert_true(is_ok == (extra == 0));
    assert_int_equal(split.limit, extra ? COUNTER_LIMIT_JSON_DEPTH : 0);
    for (int i = 1; i < LIMIT_JSON_DEPTH && is_ok; i++) is_ok = json_split_add(&split, SPAN("]"));
    if (extra == 0) assert_true(is_ok && json_split_add(&split, SPAN("}")) && json_split_end(&split));
    buffer_free(&out);
    json_split_free(&split);
  }
}

static void count_bytes(void *context, enum json_part part, struct span text) {
  (void)part;
  *(size_t *)context += text.length;
}

/* One object of exactly the bound passes, one byte more does not; whether it comes in one piece or in many. */
static void size_of_one(void **state) {
  (void)state;
  static const enum json_split_kind kinds[] = {JSON_SPLIT_WATCH, JSON_SPLIT_LIST, JSON_SPLIT_LIST};
  static const char *const before[] = {"", "{\"metadata\":{},\"items\":[", "{\"items\":[],\"metadata\":"};
  static const char *const after[] = {"", "]}", "}"};
  char *text = malloc(LIMIT_API_ITEM_BYTES + 2);
  for (size_t size = LIMIT_API_ITEM_BYTES; size <= LIMIT_API_ITEM_BYTES + 1; size++) {
    memset(text, 'x', size);
    memcpy(text, "{\"a\":\"", 6);
    memcpy(text + size - 2, "\"}", 2);
    for (size_t piece = 65536; piece <= size; piece += size - 65536)
      for (int i = 0; i < 3; i++) {
        struct json_split split;
        size_t got = 0;
        json_split_init(&split, kinds[i], count_bytes, &got);
        bool is_ok = json_split_add(&split, span_of(before[i]));
        for (size_t at = 0; at < size && is_ok; at += piece) is_ok = json_split_add(&split, span_make(text + at, size - at < piece ? size - at : piece));
        is_ok = is_ok && json_split_add(&split, span_of(after[i])) && json_split_end(&split);
        assert_true(is_ok == (size == LIMIT_API_ITEM_BYTES));
        if (is_ok) assert_true(got >= size && got <= size + 2);
        else assert_int_equal(split.limit, COUNTER_LIMIT_API_ITEM_BYTES);
        json_split_free(&split);
      }
  }
  free(text);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(lists),   cmocka_unit_test(broken_lists), cmocka_unit_test(grammar), cmocka_unit_test(nul_bytes),
                                     cmocka_unit_test(watches), cmocka_unit_test(at_once),      cmocka_unit_test(depth),   cmocka_unit_test(size_of_one)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
