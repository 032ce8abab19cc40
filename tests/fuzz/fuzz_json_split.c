/* Fuzz target: lists and watches in pieces. The first byte says which and how long the pieces are. Whatever the pieces, the same parts come out; each is one
 * whole object by itself. */
#include <stdint.h>
#include <stdlib.h>

#include "kube/json_split.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int condition) {
  if (!condition) abort();
}

static void note(void *context, enum json_part part, struct span text) {
  buffer_printf(context, "\n%d ", part);
  buffer_append(context, text);
}

static void note_one(void *context, enum json_part part, struct span text) {
  struct span *expected = context;
  expect(part == JSON_PART_EVENT && span_equal(*expected, text));
  expected->data = NULL;
}

static void look_at(void *context, enum json_part part, struct span text) {
  (void)context;
  struct json_split split;
  struct span expected = text;
  expect(part != JSON_PART_NONE && text.length >= 2);
  json_split_init(&split, JSON_SPLIT_WATCH, note_one, &expected);
  expect(json_split_add(&split, text) && json_split_end(&split) && !expected.data);
  json_split_free(&split);
}

static void run(enum json_split_kind kind, struct span text, size_t piece, struct buffer *out) {
  struct json_split split;
  json_split_init(&split, kind, note, out);
  bool is_ok = true;
  for (struct span rest = text; rest.length && is_ok; rest = span_skip(rest, piece))
    is_ok = json_split_add(&split, span_make(rest.data, rest.length < piece ? rest.length : piece));
  is_ok = is_ok && json_split_end(&split);
  expect(is_ok == !split.error && split.offset <= text.length);
  buffer_printf(out, "\n%s", is_ok ? "" : split.error);
  json_split_free(&split);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  enum json_split_kind kind = data[0] & 1 ? JSON_SPLIT_WATCH : JSON_SPLIT_LIST;
  struct span text = span_make((const char *)data + 1, size - 1);
  struct buffer whole = {.data = NULL}, pieces = {.data = NULL};
  struct json_split split;
  run(kind, text, size, &whole);
  run(kind, text, (size_t)(data[0] >> 1) + 1, &pieces);
  expect(span_equal(buffer_span(&whole), buffer_span(&pieces)));
  json_split_init(&split, kind, look_at, NULL);
  if (json_split_add(&split, text)) json_split_end(&split);
  json_split_free(&split);
  buffer_free(&whole);
  buffer_free(&pieces);
  return 0;
}
