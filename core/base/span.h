/* Spans: bytes that somebody else owns. Not NUL-terminated. Pure; any thread. */
#ifndef BASE_SPAN_H
#define BASE_SPAN_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct span {
  const char *data;
  size_t length;
};

/* A span of a string literal. */
#define SPAN(literal) ((struct span){(literal), sizeof(literal) - 1})

static inline struct span span_make(const char *data, size_t length) { return (struct span){data, length}; }
static inline struct span span_of(const char *text) { return (struct span){text, text ? strlen(text) : 0}; }
static inline bool span_is_empty(struct span s) { return s.length == 0; }
static inline bool span_equal(struct span a, struct span b) { return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0); }
/* `s` without its first `count` bytes (at most its length). */
static inline struct span span_skip(struct span s, size_t count) {
  if (count > s.length) count = s.length;
  return (struct span){count ? s.data + count : s.data, s.length - count};
}

/* ASCII case-insensitive equality (RFC 9110, 5.1: field names). */
bool span_equal_nocase(struct span a, struct span b);
bool span_starts_with(struct span s, struct span prefix);
bool span_ends_with(struct span s, struct span suffix);
/* Offset of `byte` in `s`, or s.length. */
size_t span_find(struct span s, char byte);
/* `s` without the spaces and tabs at both ends (RFC 9110, 5.6.3: OWS). */
struct span span_trim(struct span s);
/* Takes the next item of a comma list (RFC 9110, 5.6.1) off `*rest`, trimmed; false at the end. Empty items are skipped. */
bool span_next_item(struct span *rest, char separator, struct span *item);
/* Bytes of the well-formed UTF-8 character (RFC 3629) at the front of `s`, which is not empty; 0 if there is none. */
size_t span_utf8(struct span s);
/* Parses an unsigned decimal that fills the whole span; false if empty, not digits, or more than `max`. */
bool span_to_u64(struct span s, unsigned long long max, unsigned long long *value);

#endif
