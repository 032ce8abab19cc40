/* Pack: MessagePack, the form in which everything crosses the seam between sync and publisher. The reader works in place,
 * allocates nothing, and trusts nothing: each read checks bounds and type, depth is limited. Pure. */
#ifndef BASE_PACK_H
#define BASE_PACK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/span.h"

enum pack_type { PACK_END = 0, PACK_NIL, PACK_BOOLEAN, PACK_INTEGER, PACK_NUMBER, PACK_STRING, PACK_ARRAY, PACK_MAP, PACK_VALUE };

/* Kinds of PACK_VALUE (MessagePack ext): an immutable C value, crossing as its source. */
enum pack_value_kind { PACK_REGEX = 1, PACK_TEMPLATE = 2, PACK_IP_SET = 3, PACK_HOST_SET = 4, PACK_MAP_VALUE = 5, PACK_UPSTREAM = 6 };

struct pack_reader {
  const char *cursor, *end;
  const char *error; /* first error, sticky: after it every read gives PACK_END / false */
};

struct pack_item {
  enum pack_type type;
  bool boolean;
  int64_t integer;
  double number;     /* set for PACK_INTEGER too */
  struct span bytes; /* PACK_STRING, PACK_VALUE */
  uint32_t count;    /* PACK_ARRAY: items that follow; PACK_MAP: pairs that follow */
  int value_kind;    /* PACK_VALUE */
};

void pack_reader_init(struct pack_reader *reader, struct span bytes);
/* Reads the next item's head (and its bytes). Containers' items follow. */
bool pack_next(struct pack_reader *reader, struct pack_item *item);
/* Skips one whole item; `*skipped` (may be NULL) gets its bytes. */
bool pack_skip(struct pack_reader *reader, struct span *skipped);
/* Finds `key` in the map whose first byte is at `map.data`; `*value` gets the item's bytes. False if absent. */
bool pack_find(struct span map, const char *key, struct span *value);
/* Typed finds with a default; a wrong type gives the default. */
struct span pack_get_string(struct span map, const char *key, struct span fallback);
int64_t pack_get_integer(struct span map, const char *key, int64_t fallback);
bool pack_get_boolean(struct span map, const char *key, bool fallback);

void pack_put_nil(struct buffer *out);
void pack_put_boolean(struct buffer *out, bool value);
void pack_put_integer(struct buffer *out, int64_t value);
void pack_put_number(struct buffer *out, double value);
void pack_put_string(struct buffer *out, struct span value);
void pack_put_array(struct buffer *out, uint32_t count);
void pack_put_map(struct buffer *out, uint32_t pairs);
void pack_put_value(struct buffer *out, int kind, struct span source);

#endif
