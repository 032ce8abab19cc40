/* Fuzz target: one answer, informational ones before it, through the HTTP/1 parser: once in one piece, once in pieces of a size that the first byte tells;
 * its highest bit says whether HEAD was asked. Both must yield the same head, the same body and the same end. */
#include <stdint.h>
#include <stdlib.h>

#include "base/limits.h"
#include "http/h1_parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct h1_rules rules = {.head_bytes = LIMIT_HEAD_BYTES, .line_bytes = LIMIT_HEAD_BYTES};

struct result {
  uint64_t heads, status, fields, body_bytes, body_sum, left_over;
  bool is_refused, is_done, is_finished, keeps_alive;
};

static void expect(int condition) {
  if (!condition) abort();
}

static bool step(struct h1_parse *parse, struct arena *arena, struct span method, const char *data, size_t size, size_t *taken, struct result *result) {
  struct span piece = {NULL, 0};
  *taken = 0;
  if (parse->phase == H1_DONE) { /* whatever comes is nobody's */
    *taken = size;
    result->left_over += size;
    return true;
  }
  if (parse->phase == H1_HEAD) {
    struct response_head head;
    enum h1_gather gather = h1_parse_gather(parse, data, size, &rules, taken, &piece);
    if (gather == H1_GATHER_MORE) return true;
    result->is_refused = gather == H1_GATHER_TOO_LONG || h1_parse_response(parse, piece, method, arena, &head).status != 0;
    h1_parse_head_done(parse);
    if (result->is_refused) return false;
    expect(head.status >= 100 && head.status <= 999 && head.size > 0);
    result->heads++;
    result->status = (uint64_t)head.status;
    result->fields += head.headers.count;
    result->keeps_alive = head.keep_alive;
    if (head.status < 200 && head.status != 101) h1_parse_reset(parse);
    return true;
  }
  enum h1_event event = h1_parse_body(parse, data, size, taken, &piece);
  result->is_refused = event == H1_EVENT_BAD;
  for (size_t i = 0; i < piece.length && !result->is_refused; i++) result->body_sum = result->body_sum * 31 + (unsigned char)piece.data[i];
  if (!result->is_refused) result->body_bytes += piece.length;
  expect(*taken <= size);
  return !result->is_refused;
}

static struct result run(const char *data, size_t size, size_t cut, struct span method) {
  struct result result = {0};
  struct h1_parse parse;
  struct arena arena;
  bool lives = true;
  arena_init(&arena, NULL, 0);
  h1_parse_init(&parse, HEAD_RESPONSE);
  for (size_t start = 0; start < size && lives; start += cut) {
    size_t length = size - start < cut ? size - start : cut;
    char *copy = malloc(length); /* its own block, so that reading past it is seen */
    if (!copy) abort();
    memcpy(copy, data + start, length);
    for (size_t at = 0, taken; at < length && lives; at += taken) lives = step(&parse, &arena, method, copy + at, length - at, &taken, &result);
    free(copy);
  }
  result.is_done = parse.phase == H1_DONE;
  if (lives) result.is_finished = h1_parse_finish(&parse);
  if (result.is_done) expect(!lives || result.is_finished);
  h1_parse_free(&parse);
  arena_free(&arena);
  return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  const char *bytes = (const char *)data + 1;
  struct span method = data[0] & 0x80 ? SPAN("HEAD") : SPAN("GET");
  struct result whole = run(bytes, size - 1, size, method), pieces = run(bytes, size - 1, data[0] % 32 + 1, method);
  expect(whole.heads == pieces.heads && whole.status == pieces.status && whole.fields == pieces.fields && whole.left_over == pieces.left_over);
  expect(whole.body_bytes == pieces.body_bytes && whole.body_sum == pieces.body_sum);
  expect(whole.is_refused == pieces.is_refused && whole.is_done == pieces.is_done && whole.is_finished == pieces.is_finished);
  expect(whole.keeps_alive == pieces.keeps_alive);
  return 0;
}
