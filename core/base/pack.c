/* Pack: reading and writing MessagePack. Pure: a reader borrows the bytes, a writer appends to the caller's buffer.
 * The reader trusts nothing. A container's count is checked against the bytes that are left (each item has at least one), so that
 * a caller may allocate by it. */
#include "base/pack.h"

#include <string.h>

#include "base/check.h"

enum { DEPTH_MAX = 32 };

void pack_reader_init(struct pack_reader *reader, struct span bytes) {
  *reader = (struct pack_reader){.cursor = bytes.data, .end = bytes.length ? bytes.data + bytes.length : bytes.data};
}

static bool fail(struct pack_reader *reader, const char *error) {
  if (!reader->error) reader->error = error;
  return false;
}

static size_t left(const struct pack_reader *reader) { return (size_t)(reader->end - reader->cursor); }

/* `count` big-endian bytes. */
static bool take(struct pack_reader *reader, unsigned count, uint64_t *value) {
  if (left(reader) < count) return fail(reader, "truncated");
  uint64_t sum = 0;
  for (unsigned i = 0; i < count; i++) sum = sum << 8 | (unsigned char)reader->cursor[i];
  reader->cursor += count;
  *value = sum;
  return true;
}

static bool take_bytes(struct pack_reader *reader, uint64_t length, struct pack_item *item, enum pack_type type) {
  if (length > left(reader)) return fail(reader, "truncated");
  item->type = type;
  item->bytes = (struct span){reader->cursor, (size_t)length};
  reader->cursor += length;
  return true;
}

static bool take_sized(struct pack_reader *reader, unsigned width, struct pack_item *item, enum pack_type type) {
  uint64_t length;
  return take(reader, width, &length) && take_bytes(reader, length, item, type);
}

static bool take_value(struct pack_reader *reader, uint64_t length, struct pack_item *item) {
  uint64_t kind;
  if (!take(reader, 1, &kind)) return false;
  item->value_kind = (int8_t)(uint8_t)kind;
  return take_bytes(reader, length, item, PACK_VALUE);
}

static bool set_container(struct pack_reader *reader, uint64_t count, struct pack_item *item, enum pack_type type) {
  uint64_t items = type == PACK_MAP ? count * 2 : count;
  if (items > left(reader)) return fail(reader, "container longer than its bytes");
  item->type = type;
  item->count = (uint32_t)count;
  return true;
}

static bool take_container(struct pack_reader *reader, unsigned width, struct pack_item *item, enum pack_type type) {
  uint64_t count;
  return take(reader, width, &count) && set_container(reader, count, item, type);
}

static bool set_integer(struct pack_item *item, int64_t value) {
  item->type = PACK_INTEGER;
  item->integer = value;
  item->number = (double)value;
  return true;
}

static bool take_unsigned(struct pack_reader *reader, unsigned width, struct pack_item *item) {
  uint64_t value;
  if (!take(reader, width, &value)) return false;
  if (value <= INT64_MAX) return set_integer(item, (int64_t)value);
  item->type = PACK_NUMBER;
  item->number = (double)value;
  return true;
}

static bool take_signed(struct pack_reader *reader, unsigned width, struct pack_item *item) {
  uint64_t value;
  if (!take(reader, width, &value)) return false;
  unsigned spare = 64 - width * 8;
  return set_integer(item, (int64_t)(value << spare) >> spare);
}

static bool take_float(struct pack_reader *reader, unsigned width, struct pack_item *item) {
  uint64_t bits;
  if (!take(reader, width, &bits)) return false;
  item->type = PACK_NUMBER;
  if (width == 4) {
    uint32_t half = (uint32_t)bits;
    float value;
    memcpy(&value, &half, sizeof value);
    item->number = (double)value;
  } else {
    memcpy(&item->number, &bits, sizeof item->number);
  }
  return true;
}

static bool take_item(struct pack_reader *reader, struct pack_item *item) {
  unsigned char head = (unsigned char)*reader->cursor++;
  if (head <= 0x7f) return set_integer(item, head);
  if (head >= 0xe0) return set_integer(item, (int)head - 256);
  if (head <= 0x8f) return set_container(reader, head & 15u, item, PACK_MAP);
  if (head <= 0x9f) return set_container(reader, head & 15u, item, PACK_ARRAY);
  if (head <= 0xbf) return take_bytes(reader, head & 31u, item, PACK_STRING);
  uint64_t length;
  switch (head) {
    case 0xc0:
      item->type = PACK_NIL;
      return true;
    case 0xc2:
    case 0xc3:
      item->type = PACK_BOOLEAN;
      item->boolean = head == 0xc3;
      return true;
    case 0xc4: /* bin 8, 16, 32 */
    case 0xc5:
    case 0xc6:
      return take_sized(reader, 1u << (head - 0xc4), item, PACK_STRING);
    case 0xc7: /* ext 8, 16, 32 */
    case 0xc8:
    case 0xc9:
      return take(reader, 1u << (head - 0xc7), &length) && take_value(reader, length, item);
    case 0xca:
      return take_float(reader, 4, item);
    case 0xcb:
      return take_float(reader, 8, item);
    case 0xcc: /* uint 8 to 64 */
    case 0xcd:
    case 0xce:
    case 0xcf:
      return take_unsigned(reader, 1u << (head - 0xcc), item);
    case 0xd0: /* int 8 to 64 */
    case 0xd1:
    case 0xd2:
    case 0xd3:
      return take_signed(reader, 1u << (head - 0xd0), item);
    case 0xd4: /* ext of 1 to 16 bytes */
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
      return take_value(reader, (uint64_t)1 << (head - 0xd4), item);
    case 0xd9: /* str 8, 16, 32 */
    case 0xda:
    case 0xdb:
      return take_sized(reader, 1u << (head - 0xd9), item, PACK_STRING);
    case 0xdc:
      return take_container(reader, 2, item, PACK_ARRAY);
    case 0xdd:
      return take_container(reader, 4, item, PACK_ARRAY);
    case 0xde:
      return take_container(reader, 2, item, PACK_MAP);
    case 0xdf:
      return take_container(reader, 4, item, PACK_MAP);
    default: /* 0xc1 is never used */
      return fail(reader, "unknown type byte");
  }
}

bool pack_next(struct pack_reader *reader, struct pack_item *item) {
  *item = (struct pack_item){.type = PACK_END};
  if (reader->error || reader->cursor == reader->end) return false;
  if (take_item(reader, item)) return true;
  *item = (struct pack_item){.type = PACK_END};
  return false;
}

bool pack_skip(struct pack_reader *reader, struct span *skipped) {
  const char *first = reader->cursor;
  uint64_t waiting[DEPTH_MAX]; /* items still to come, per open container */
  int depth = 0;
  waiting[0] = 1;
  while (depth >= 0) {
    if (waiting[depth] == 0) {
      depth--;
      continue;
    }
    waiting[depth]--;
    struct pack_item item;
    if (!pack_next(reader, &item)) return fail(reader, depth == 0 ? "no item" : "truncated");
    if (item.type != PACK_ARRAY && item.type != PACK_MAP) continue;
    if (depth + 1 == DEPTH_MAX) return fail(reader, "too deep");
    waiting[++depth] = item.type == PACK_MAP ? (uint64_t)item.count * 2 : item.count;
  }
  if (skipped) *skipped = (struct span){first, (size_t)(reader->cursor - first)};
  return true;
}

bool pack_find(struct span map, const char *key, struct span *value) {
  struct pack_reader reader;
  pack_reader_init(&reader, map);
  struct pack_item item;
  if (!pack_next(&reader, &item) || item.type != PACK_MAP) return false;
  struct span wanted = span_of(key);
  for (uint32_t i = 0; i < item.count; i++) {
    struct span name;
    if (!pack_skip(&reader, &name)) return false;
    struct pack_reader inner;
    struct pack_item found;
    pack_reader_init(&inner, name);
    bool is_match = pack_next(&inner, &found) && found.type == PACK_STRING && span_equal(found.bytes, wanted);
    struct span bytes;
    if (!pack_skip(&reader, &bytes)) return false;
    if (!is_match) continue;
    *value = bytes;
    return true;
  }
  return false;
}

static bool find_item(struct span map, const char *key, struct pack_item *item) {
  struct span value;
  if (!pack_find(map, key, &value)) return false;
  struct pack_reader reader;
  pack_reader_init(&reader, value);
  return pack_next(&reader, item);
}

struct span pack_get_string(struct span map, const char *key, struct span fallback) {
  struct pack_item item;
  return find_item(map, key, &item) && item.type == PACK_STRING ? item.bytes : fallback;
}

int64_t pack_get_integer(struct span map, const char *key, int64_t fallback) {
  struct pack_item item;
  if (!find_item(map, key, &item)) return fallback;
  if (item.type == PACK_INTEGER) return item.integer;
  /* Lua has one kind of number, so a whole one may come as a float. */
  bool is_whole =
      item.type == PACK_NUMBER && item.number >= -9007199254740992.0 && item.number <= 9007199254740992.0 && (double)(int64_t)item.number == item.number;
  return is_whole ? (int64_t)item.number : fallback;
}

bool pack_get_boolean(struct span map, const char *key, bool fallback) {
  struct pack_item item;
  return find_item(map, key, &item) && item.type == PACK_BOOLEAN ? item.boolean : fallback;
}

/* A type byte and `width` big-endian bytes of `value`. */
static void put(struct buffer *out, unsigned head, unsigned width, uint64_t value) {
  char *p = buffer_reserve(out, width + 1);
  p[0] = (char)head;
  for (unsigned i = 0; i < width; i++) p[1 + i] = (char)(value >> (8 * (width - 1 - i)));
  buffer_added(out, width + 1);
}

void pack_put_nil(struct buffer *out) { put(out, 0xc0, 0, 0); }
void pack_put_boolean(struct buffer *out, bool value) { put(out, value ? 0xc3 : 0xc2, 0, 0); }

void pack_put_integer(struct buffer *out, int64_t value) {
  uint64_t bits = (uint64_t)value;
  if (value >= 0) {
    if (value <= 0x7f) {
      put(out, (unsigned)value, 0, 0);
    } else if (value <= 0xff) {
      put(out, 0xcc, 1, bits);
    } else if (value <= 0xffff) {
      put(out, 0xcd, 2, bits);
    } else if (value <= 0xffffffff) {
      put(out, 0xce, 4, bits);
    } else {
      put(out, 0xcf, 8, bits);
    }
  } else if (value >= -32) {
    put(out, (unsigned)(bits & 0xff), 0, 0);
  } else if (value >= INT8_MIN) {
    put(out, 0xd0, 1, bits);
  } else if (value >= INT16_MIN) {
    put(out, 0xd1, 2, bits);
  } else if (value >= INT32_MIN) {
    put(out, 0xd2, 4, bits);
  } else {
    put(out, 0xd3, 8, bits);
  }
}

void pack_put_number(struct buffer *out, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  put(out, 0xcb, 8, bits);
}

void pack_put_string(struct buffer *out, struct span value) {
  must(value.length <= UINT32_MAX);
  if (value.length <= 31) {
    put(out, 0xa0 | (unsigned)value.length, 0, 0);
  } else if (value.length <= 0xff) {
    put(out, 0xd9, 1, value.length);
  } else if (value.length <= 0xffff) {
    put(out, 0xda, 2, value.length);
  } else {
    put(out, 0xdb, 4, value.length);
  }
  buffer_append(out, value);
}

void pack_put_array(struct buffer *out, uint32_t count) {
  if (count <= 15) {
    put(out, 0x90 | count, 0, 0);
  } else if (count <= 0xffff) {
    put(out, 0xdc, 2, count);
  } else {
    put(out, 0xdd, 4, count);
  }
}

void pack_put_map(struct buffer *out, uint32_t pairs) {
  if (pairs <= 15) {
    put(out, 0x80 | pairs, 0, 0);
  } else if (pairs <= 0xffff) {
    put(out, 0xde, 2, pairs);
  } else {
    put(out, 0xdf, 4, pairs);
  }
}

void pack_put_value(struct buffer *out, int kind, struct span source) {
  must(kind >= INT8_MIN && kind <= INT8_MAX && source.length <= UINT32_MAX);
  if (source.length <= 0xff) {
    put(out, 0xc7, 1, source.length);
  } else if (source.length <= 0xffff) {
    put(out, 0xc8, 2, source.length);
  } else {
    put(out, 0xc9, 4, source.length);
  }
  char byte = (char)kind;
  buffer_append(out, (struct span){&byte, 1});
  buffer_append(out, source);
}
