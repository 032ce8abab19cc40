/* Buffer: a growable byte queue, contiguous, written at the end and read at the front. One owner, one thread. */
#ifndef BASE_BUFFER_H
#define BASE_BUFFER_H

#include <stddef.h>

#include "base/span.h"

struct buffer {
  char *data; /* NULL while empty and never used */
  size_t start, end, capacity;
};

void buffer_free(struct buffer *buffer);
/* Room for at least `size` more bytes; returns where to write them. Follow with buffer_added. */
char *buffer_reserve(struct buffer *buffer, size_t size);
void buffer_added(struct buffer *buffer, size_t size);
void buffer_append(struct buffer *buffer, struct span bytes);
/* As the inside of a JSON string: a line that no reader refuses, whatever the bytes are. What is no UTF-8 becomes U+FFFD. */
void buffer_append_json(struct buffer *buffer, struct span text);
void buffer_printf(struct buffer *buffer, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Drops `size` bytes at the front; an emptied buffer of more than 16 KiB gives its memory back. */
void buffer_consume(struct buffer *buffer, size_t size);
/* data NULL when there is nothing. */
static inline struct span buffer_span(const struct buffer *buffer) {
  size_t length = buffer->end - buffer->start;
  return (struct span){length ? buffer->data + buffer->start : NULL, length};
}
static inline size_t buffer_length(const struct buffer *buffer) { return buffer->end - buffer->start; }

#endif
