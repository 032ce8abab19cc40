/* Buffer: one growable run of bytes between `start` and `end`. The owner of the struct owns the memory and ends it with
 * buffer_free; one thread. Bytes move to the front only when the free part in front is at least as long as what moves, so that
 * each byte is moved a bounded number of times. */
#include "base/buffer.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum { FIRST_CAPACITY = 256, KEPT_WHEN_EMPTY = 16384 };

void buffer_free(struct buffer *buffer) {
  free(buffer->data);
  *buffer = (struct buffer){0};
}

static void make_room(struct buffer *buffer, size_t size) {
  size_t length = buffer->end - buffer->start;
  must(size <= SIZE_MAX / 4 && length <= SIZE_MAX / 4);
  size_t needed = length + size;
  if (needed <= buffer->capacity && buffer->start >= length) {
    if (length > 0) memcpy(buffer->data, buffer->data + buffer->start, length);
    buffer->start = 0;
    buffer->end = length;
    return;
  }
  size_t capacity = buffer->capacity < FIRST_CAPACITY ? FIRST_CAPACITY : buffer->capacity * 2;
  while (capacity < needed) capacity *= 2;
  char *data;
  if (buffer->start == 0) {
    data = check_memory(realloc(buffer->data, capacity));
  } else {
    data = check_memory(malloc(capacity));
    if (length > 0) memcpy(data, buffer->data + buffer->start, length);
    free(buffer->data);
  }
  *buffer = (struct buffer){.data = data, .start = 0, .end = length, .capacity = capacity};
}

char *buffer_reserve(struct buffer *buffer, size_t size) {
  if (buffer->capacity == 0 || size > buffer->capacity - buffer->end) make_room(buffer, size);
  return buffer->data + buffer->end;
}

void buffer_added(struct buffer *buffer, size_t size) {
  must(size <= buffer->capacity - buffer->end);
  buffer->end += size;
}

void buffer_append(struct buffer *buffer, struct span bytes) {
  if (bytes.length == 0) return;
  memcpy(buffer_reserve(buffer, bytes.length), bytes.data, bytes.length);
  buffer->end += bytes.length;
}

void buffer_append_json(struct buffer *buffer, struct span text) {
  size_t start = 0, i = 0;
  while (i < text.length) {
    unsigned char c = (unsigned char)text.data[i];
    size_t length = span_utf8(span_skip(text, i));
    if (length > 0 && c >= 0x20 && c != '"' && c != '\\') {
      i += length;
      continue;
    }
    buffer_append(buffer, span_make(text.data + start, i - start));
    if (c == '"' || c == '\\') buffer_printf(buffer, "\\%c", c);
    else if (length == 0) buffer_append(buffer, SPAN("\\ufffd"));
    else buffer_printf(buffer, "\\u%04x", c);
    start = ++i;
  }
  buffer_append(buffer, span_skip(text, start));
}

void buffer_printf(struct buffer *buffer, const char *format, ...) {
  va_list values, again;
  va_start(values, format);
  va_copy(again, values);
  char *out = buffer_reserve(buffer, 128);
  size_t room = buffer->capacity - buffer->end;
  int length = vsnprintf(out, room, format, values);
  va_end(values);
  must(length >= 0);
  if ((size_t)length >= room) {
    out = buffer_reserve(buffer, (size_t)length + 1);
    vsnprintf(out, (size_t)length + 1, format, again);
  }
  va_end(again);
  buffer->end += (size_t)length;
}

void buffer_consume(struct buffer *buffer, size_t size) {
  must(size <= buffer->end - buffer->start);
  buffer->start += size;
  if (buffer->start < buffer->end) return;
  if (buffer->capacity > KEPT_WHEN_EMPTY) buffer_free(buffer);
  buffer->start = buffer->end = 0;
}
