/* Fuzz target: PROXY headers as they come, byte by byte. What a beginning decides, more bytes must not undo; what is taken is within the input. */
#include <stdint.h>
#include <stdlib.h>

#include "net/proxy_protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void expect(int condition) {
  if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size > 8192) return 0;
  struct proxy_header whole, part;
  long decided = 0, full = proxy_protocol_parse((const char *)data, size, &whole);
  for (size_t length = 0; length <= size && decided == 0; length++) {
    char *copy = malloc(length + 1); /* its own block, so that reading past it is seen */
    if (!copy) abort();
    for (size_t i = 0; i < length; i++) copy[i] = (char)data[i];
    decided = proxy_protocol_parse(copy, length, &part);
    expect(decided <= (long)length);
    free(copy);
  }
  expect(full == 0 || (full > 0) == (decided > 0));
  if (full <= 0) return 0;
  expect(full == decided && whole.local == part.local && whole.tls == part.tls);
  if (whole.local) return 0;
  expect(address_equal(&whole.source, &part.source) && address_equal(&whole.destination, &part.destination));
  expect(whole.source.any.sa_family == whole.destination.any.sa_family);
  return 0;
}
