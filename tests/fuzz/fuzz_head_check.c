/* Fuzz target: the raw head check. First byte: which kind of head; the rest: the bytes. What passes must hold what the check promises. */
#include <stdint.h>
#include <stdlib.h>

#include "base/limits.h"
#include "http/head_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int condition) {
  if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  enum head_kind kind = (enum head_kind)(data[0] % 3);
  struct span bytes = span_make((const char *)data + 1, size - 1);
  head_check_chunk_line(bytes);
  size_t end = head_find_end(bytes.data, bytes.length, 0);
  for (size_t from = 0; from < bytes.length && from < end; from += 7) expect(head_find_end(bytes.data, bytes.length, from) == end);
  struct head_verdict verdict = head_check(kind, bytes, LIMIT_REQUEST_LINE_BYTES, LIMIT_HEADER_FIELDS);
  expect((verdict.status == 0) == (verdict.why == NULL));
  if (verdict.status) return 0;
  expect(kind == HEAD_TRAILERS || end == bytes.length);
  for (size_t i = 0; i < bytes.length; i++) {
    char c = bytes.data[i];
    if (c == '\r') expect(i + 1 < bytes.length && bytes.data[i + 1] == '\n');
    else if (c == '\n') expect(i > 0 && bytes.data[i - 1] == '\r');
    else expect((unsigned char)c >= 0x20 || c == '\t');
    if (i > 0 && bytes.data[i - 1] == '\n') expect(c != ' ' && c != '\t');
  }
  return 0;
}
