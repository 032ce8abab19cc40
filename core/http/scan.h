/* Scanning bytes of heads quickly: character classes, and eight bytes a step for text without control characters. The http room's own. Pure. */
#ifndef HTTP_SCAN_H
#define HTTP_SCAN_H

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

/* Offset of the first control character other than a tab, or length. */
static inline size_t scan_text(const char *data, size_t length) {
  const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;
  size_t at = 0;
  while (at + 8 <= length) {
    uint64_t word, del;
    memcpy(&word, data + at, 8);
    del = word ^ (ones * 0x7f);
    uint64_t suspicious = (((word - ones * 0x20) & ~word) | ((del - ones) & ~del)) & high;
    if (suspicious)
      for (size_t i = at; i < at + 8; i++)
        if (scan_is_control((unsigned char)data[i])) return i;
    at += 8;
  }
  for (; at < length; at++)
    if (scan_is_control((unsigned char)data[at])) return at;
  return length;
}

#endif
