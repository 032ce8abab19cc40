/* Fuzz target: request targets, hosts, escapes, arguments. */
#include <stdint.h>
#include <stdlib.h>

#include "http/uri.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int condition) {
  if (!condition) abort();
}

/* A normal path is rooted, has no dot segments, no "//", no NUL. */
static void expect_normal(struct span path) {
  expect(path.length > 0 && path.data[0] == '/' && span_find(path, '\0') == path.length);
  struct span rest = path;
  while (rest.length) {
    rest = span_skip(rest, 1);
    size_t end = span_find(rest, '/');
    struct span segment = span_make(rest.data, end);
    expect(!span_equal(segment, SPAN(".")) && !span_equal(segment, SPAN("..")));
    expect(segment.length > 0 || end == rest.length);
    rest = span_skip(rest, end);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct arena arena;
  struct uri uri, again;
  struct span text = span_make((const char *)data, size), host, port;
  arena_init(&arena, NULL, 0);
  if (size && uri_parse_target(text, SPAN("GET"), &arena, &uri) == 0) {
    expect_normal(uri.path);
    /* Escaped and read again, it is the same path. */
    expect(uri_parse_target(uri_escape_path(uri.path, &arena), SPAN("GET"), &arena, &again) == 0);
    expect(span_equal(again.path, uri.path));
    uri_argument(uri.query, SPAN("a"));
  }
  if (size && uri_host(text, &arena, &host, &port)) expect(host.length > 0 && host.length <= size);
  expect(span_equal(uri_unescape(uri_escape_component(text, &arena), false, &arena), text));
  uri_unescape(text, true, &arena);
  arena_free(&arena);
  return 0;
}
