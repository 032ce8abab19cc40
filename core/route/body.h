/* Body: typed fields of a packed map, for the units that are built of one. Each refusal names its field. Private to core/route. Pure. */
#ifndef ROUTE_BODY_H
#define ROUTE_BODY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/pack.h"
#include "base/span.h"

/* Where messages go. */
struct body_error {
  char *text;
  size_t size;
};

/* False, with the message written: `return body_fail(...)`. */
bool body_fail(struct body_error error, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts where it happened in front of the message that is there; false too. */
bool body_within(struct body_error error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `bytes` are one whole, well-formed map and nothing else. To be asked once, before any of the functions below. */
bool body_is_map(struct span bytes, struct body_error error);

/* Each gives false only when the field has a wrong type. An absent field or a nil leaves *out as it is. */
bool body_text(struct span map, const char *key, struct span *out, struct body_error error);
bool body_flag(struct span map, const char *key, bool *out, struct body_error error);
bool body_integer(struct span map, const char *key, int64_t low, int64_t high, int64_t *out, struct body_error error);
/* Opens an array for body_item; *count 0 if absent. */
bool body_array(struct span map, const char *key, struct pack_reader *reader, uint32_t *count, struct body_error error);
/* The bytes of a map; {NULL, 0} if absent. */
bool body_map(struct span map, const char *key, struct span *out, struct body_error error);
/* The next item of an array, which must be a map; `what` and `index` are for the message. */
bool body_item(struct pack_reader *reader, const char *what, uint32_t index, struct span *item, struct body_error error);

/* A number that is whole, though it came as a float (Lua has no other). */
bool body_whole(const struct pack_item *item, int64_t *value);

#endif
