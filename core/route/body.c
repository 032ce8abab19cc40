/* Typed fields of a packed map. Owns nothing; spans point into the caller's bytes. Any thread. */
#include "route/body.h"

#include <stdarg.h>
#include <stdio.h>

bool body_fail(struct body_error error, const char *format, ...) {
  if (!error.text || error.size == 0) return false;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error.text, error.size, format, arguments);
  va_end(arguments);
  return false;
}

bool body_within(struct body_error error, const char *format, ...) {
  if (!error.text || error.size == 0) return false;
  char where[160], message[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(where, sizeof where, format, arguments);
  va_end(arguments);
  snprintf(message, sizeof message, "%s", error.text);
  snprintf(error.text, error.size, "%s%s", where, message);
  return false;
}

bool body_is_map(struct span bytes, struct body_error error) {
  struct pack_reader reader;
  struct pack_item item;
  struct span whole;
  pack_reader_init(&reader, bytes);
  if (!pack_next(&reader, &item)) return body_fail(error, "body: %s", reader.error ? reader.error : "is empty");
  if (item.type != PACK_MAP) return body_fail(error, "body: is not a map");
  pack_reader_init(&reader, bytes);
  if (!pack_skip(&reader, &whole)) return body_fail(error, "body: %s", reader.error ? reader.error : "is cut short");
  if (reader.cursor != reader.end) return body_fail(error, "body: has bytes after its end");
  return true;
}

/* Reads the head of the item under `key`; PACK_NIL where there is none. */
static struct pack_item find(struct span map, const char *key, struct pack_reader *reader) {
  struct pack_item item = {.type = PACK_NIL};
  struct span bytes;
  pack_reader_init(reader, (struct span){NULL, 0});
  if (!pack_find(map, key, &bytes)) return item;
  pack_reader_init(reader, bytes);
  if (!pack_next(reader, &item)) item.type = PACK_NIL;
  return item;
}

bool body_text(struct span map, const char *key, struct span *out, struct body_error error) {
  struct pack_reader reader;
  struct pack_item item = find(map, key, &reader);
  if (item.type == PACK_NIL) return true;
  if (item.type != PACK_STRING) return body_fail(error, "%s: is not a string", key);
  *out = item.bytes;
  return true;
}

bool body_flag(struct span map, const char *key, bool *out, struct body_error error) {
  struct pack_reader reader;
  struct pack_item item = find(map, key, &reader);
  if (item.type == PACK_NIL) return true;
  if (item.type != PACK_BOOLEAN) return body_fail(error, "%s: is not a boolean", key);
  *out = item.boolean;
  return true;
}

bool body_whole(const struct pack_item *item, int64_t *value) {
  if (item->type == PACK_INTEGER) {
    *value = item->integer;
    return true;
  }
  /* 2^53: above it a float no longer counts in ones; the comparison is false for NaN. */
  if (item->type != PACK_NUMBER || !(item->number >= -9007199254740992.0 && item->number <= 9007199254740992.0)) return false;
  *value = (int64_t)item->number;
  return (double)*value == item->number;
}

bool body_integer(struct span map, const char *key, int64_t low, int64_t high, int64_t *out, struct body_error error) {
  struct pack_reader reader;
  struct pack_item item = find(map, key, &reader);
  int64_t value;
  if (item.type == PACK_NIL) return true;
  if (!body_whole(&item, &value)) return body_fail(error, "%s: is not a whole number", key);
  if (value < low || value > high) return body_fail(error, "%s: %lld is not between %lld and %lld", key, (long long)value, (long long)low, (long long)high);
  *out = value;
  return true;
}

bool body_array(struct span map, const char *key, struct pack_reader *reader, uint32_t *count, struct body_error error) {
  struct pack_item item = find(map, key, reader);
  *count = 0;
  if (item.type == PACK_NIL) return true;
  /* The packer on the Lua side cannot tell an empty list from an empty map. */
  if (item.type == PACK_MAP && item.count == 0) return true;
  if (item.type != PACK_ARRAY) return body_fail(error, "%s: is not an array", key);
  *count = item.count;
  return true;
}

bool body_map(struct span map, const char *key, struct span *out, struct body_error error) {
  struct pack_reader reader;
  struct pack_item item = find(map, key, &reader);
  *out = (struct span){NULL, 0};
  if (item.type == PACK_NIL || (item.type == PACK_ARRAY && item.count == 0)) return true;
  if (item.type != PACK_MAP) return body_fail(error, "%s: is not a map", key);
  return pack_find(map, key, out);
}

bool body_item(struct pack_reader *reader, const char *what, uint32_t index, struct span *item, struct body_error error) {
  struct pack_item head;
  struct pack_reader peek;
  if (!pack_skip(reader, item)) return body_fail(error, "%s[%u]: is missing", what, (unsigned)index);
  pack_reader_init(&peek, *item);
  if (!pack_next(&peek, &head) || head.type != PACK_MAP) return body_fail(error, "%s[%u]: is not a map", what, (unsigned)index);
  return true;
}
