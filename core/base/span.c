/* Spans: the comparisons and cuts that are too long to be inline. Pure; owns nothing; any thread. */
#include "base/span.h"

static inline unsigned char lower(unsigned char c) { return c >= 'A' && c <= 'Z' ? (unsigned char)(c + 32) : c; }

bool span_equal_nocase(struct span a, struct span b) {
  if (a.length != b.length) return false;
  for (size_t i = 0; i < a.length; i++) {
    unsigned char x = (unsigned char)a.data[i], y = (unsigned char)b.data[i];
    if (x != y && lower(x) != lower(y)) return false;
  }
  return true;
}

bool span_starts_with(struct span s, struct span prefix) {
  if (prefix.length == 0) return true;
  return s.length >= prefix.length && memcmp(s.data, prefix.data, prefix.length) == 0;
}

bool span_ends_with(struct span s, struct span suffix) {
  if (suffix.length == 0) return true;
  return s.length >= suffix.length && memcmp(s.data + s.length - suffix.length, suffix.data, suffix.length) == 0;
}

size_t span_find(struct span s, char byte) {
  if (s.length == 0) return 0;
  const char *at = memchr(s.data, byte, s.length);
  return at ? (size_t)(at - s.data) : s.length;
}

static inline bool is_blank(char c) { return c == ' ' || c == '\t'; }

struct span span_trim(struct span s) {
  while (s.length > 0 && is_blank(s.data[0])) {
    s.data++;
    s.length--;
  }
  while (s.length > 0 && is_blank(s.data[s.length - 1])) s.length--;
  return s;
}

bool span_next_item(struct span *rest, char separator, struct span *item) {
  while (rest->length > 0) {
    size_t end = span_find(*rest, separator);
    struct span found = span_trim((struct span){rest->data, end});
    *rest = span_skip(*rest, end + 1);
    if (found.length == 0) continue;
    *item = found;
    return true;
  }
  return false;
}

size_t span_utf8(struct span s) {
  const unsigned char *p = (const unsigned char *)s.data;
  size_t length = p[0] < 0x80 ? 1 : p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
  if (length == 0 || length > s.length) return 0;
  for (size_t i = 1; i < length; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  bool is_bad = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f);
  return is_bad ? 0 : length;
}

bool span_to_u64(struct span s, unsigned long long max, unsigned long long *value) {
  if (s.length == 0) return false;
  unsigned long long sum = 0;
  for (size_t i = 0; i < s.length; i++) {
    if (s.data[i] < '0' || s.data[i] > '9') return false;
    unsigned digit = (unsigned)(s.data[i] - '0');
    if (sum > max / 10 || digit > max - sum * 10) return false;
    sum = sum * 10 + digit;
  }
  *value = sum;
  return true;
}
