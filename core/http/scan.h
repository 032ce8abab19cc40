/* Scanning bytes of heads quickly: character classes, and eight bytes a step for text without control characters. The http room's own. Pure. */
#ifndef HTTP_SCAN_H
#define HTTP_SCAN_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum scan_bits {
  SCAN_TOKEN = 1, /* RFC 9110, 5.6.2 */
  SCAN_PLAIN = 2, /* letters, digits, "-": what nginx calls a valid field name */
  SCAN_UNDERSCORE = 4,
  SCAN_DIGIT = 8
};
extern const uint8_t scan_class[256];

static inline size_t scan_token(const char *data, size_t length) {
  size_t at = 0;
  while (at < length && (scan_class[(unsigned char)data[at]] & SCAN_TOKEN)) at++;
  return at;
}

/* Whether a byte is a control character other than a tab. */
static inline int scan_is_control(unsigned char byte) { return (byte < 0x20 && byte != '\t') || byte == 0x7f; }

/* Offset of the first control character other than a tab among the eight bytes at `data`, or 8. */
static inline size_t scan_text_word(const char *data) {
  const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
  uint64_t word, del;
  memcpy(&word, data, 8);
  word = le64toh(word); /* the first byte is the lowest */
  del = word ^ (ones * 0x7f);
  /* Misses none; a tab, and what a borrow reaches, may be marked wrongly. */
  for (uint64_t marked = (((word - ones * 0x20) & ~word) | ((del - ones) & ~del)) & high; marked; marked &= marked - 1) {
    size_t at = (size_t)__builtin_ctzll(marked) / 8;
    if (scan_is_control((unsigned char)data[at])) return at;
  }
  return 8;
}

/* Offset of the first control character other than a tab, or length. */
static inline size_t scan_text(const char *data, size_t length) {
  size_t at = 0;
  if (length < 8) {
    while (at < length && !scan_is_control((unsigned char)data[at])) at++;
    return at;
  }
  for (; at + 8 <= length; at += 8) {
    size_t found = scan_text_word(data + at);
    if (found < 8) return at + found;
  }
  /* The rest with some bytes that are known to be fine; no control character: 8, the end. */
  return at == length ? length : length - 8 + scan_text_word(data + length - 8);
}

#endif
