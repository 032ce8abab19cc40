/* Fuzz target: requests, heads and bodies, through the HTTP/1 parser: once in one piece, once in pieces of a size that the first byte tells. Both
 * must yield the same requests, the same body and the same end. */
#include <stdint.h>
#include <stdlib.h>

#include "base/limits.h"
#include "http/h1_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct h1_rules rules = {LIMIT_HEAD_BYTES, LIMIT_REQUEST_LINE_BYTES, LIMIT_HEADER_FIELDS, false, true};

/* What came out, so that two runs can be compared. */
struct result {
  uint64_t requests, fields, body_bytes, body_sum, ends, refused;
};

static void expect(int condition) {
  if (!condition) abort();
}

/* Takes one step; false when the connection would be closed. */
static bool step(struct h1_parse *parse, struct arena *arena, const char *data, size_t size, size_t *taken, struct result *result) {
  struct span piece = {NULL, 0};
  *taken = 0;
  if (parse->phase == H1_HEAD) {
    struct request_head request;
    enum h1_gather gather = h1_parse_gather(parse, data, size, &rules, taken, &piece);
    if (gather == H1_GATHER_MORE) return true;
    bool is_refused = gather == H1_GATHER_TOO_LONG || h1_parse_request(parse, piece, &rules, arena, &request).status != 0;
    h1_parse_head_done(parse);
    result->refused += is_refused;
    if (is_refused) return false;
    result->requests++;
    result->fields += request.headers.count;
    expect(request.method.length > 0 && request.target.length > 0 && request.size > 0);
  } else {
    enum h1_event event = h1_parse_body(parse, data, size, taken, &piece);
    if (event == H1_EVENT_BAD) {
      result->refused++;
      return false;
    }
    for (size_t i = 0; i < piece.length; i++) result->body_sum = result->body_sum * 31 + (unsigned char)piece.data[i];
    result->body_bytes += piece.length;
  }
  expect(*taken <= size);
  if (parse->phase == H1_DONE) {
    result->ends++;
    if (parse->trailers) result->fields += parse->trailers->count;
    h1_parse_reset(parse);
    arena_free(arena);
  }
  return true;
}

static struct result run(const char *data, size_t size, size_t cut) {
  struct result result = {0};
  struct h1_parse parse;
  struct arena arena;
  bool lives = true;
  arena_init(&arena, NULL, 0);
  h1_parse_init(&parse, HEAD_REQUEST);
  for (size_t start = 0; start < size && lives; start += cut) {
    size_t length = size - start < cut ? size - start : cut;
    char *copy = malloc(length); /* its own block, so that reading past it is seen */
    if (!copy) abort();
    memcpy(copy, data + start, length);
    for (size_t at = 0, taken; at < length && lives; at += taken) lives = step(&parse, &arena, copy + at, length - at, &taken, &result);
    free(copy);
  }
  h1_parse_free(&parse);
  arena_free(&arena);
  return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  const char *bytes = (const char *)data + 1;
  struct result whole = run(bytes, size - 1, size), pieces = run(bytes, size - 1, data[0] % 32 + 1);
  expect(whole.requests == pieces.requests && whole.fields == pieces.fields && whole.ends == pieces.ends && whole.refused == pieces.refused);
  expect(whole.body_bytes == pieces.body_bytes && whole.body_sum == pieces.body_sum);
  return 0;
}
