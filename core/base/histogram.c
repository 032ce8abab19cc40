/* Histogram: see histogram.h. */
#include "base/histogram.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/exposition.h"

static int fail(char *error, size_t error_size, const char *what, struct span item) {
  snprintf(error, error_size, "\"%.*s\" %s", (int)(item.length < 40 ? item.length : 40), item.data ? item.data : "", what);
  return -1;
}

int histogram_bounds_parse(struct histogram_bounds *bounds, struct span list, unsigned digits, char *error, size_t error_size) {
  struct span rest = list, item;
  double before = -1;
  *bounds = (struct histogram_bounds){.digits = digits};
  while (span_next_item(&rest, ',', &item)) {
    char text[40], *end;
    if (item.length >= sizeof text) return fail(error, error_size, "is not a number", item);
    memcpy(text, item.data, item.length);
    text[item.length] = 0;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value) || value < 0) return fail(error, error_size, "is not a number of 0 or more", item);
    if (value <= before) return fail(error, error_size, "is not more than the one before", item);
    if (bounds->count == HISTOGRAM_BOUNDS) return fail(error, error_size, "are too many (64 at most)", list);
    before = value;
    double scaled = floor(value * pow(10, digits) * (1 + 1e-12)); /* 0.29 seconds are no 289999 microseconds */
    bounds->values[bounds->count] = scaled < 9e18 ? (uint64_t)scaled : (uint64_t)9e18;
    bounds->last = bounds->values[bounds->count];
    (void)exposition_float(value, bounds->texts[bounds->count++]);
  }
  return bounds->count ? 0 : fail(error, error_size, "holds no number", list);
}

struct cursor {
  char *at;
};

static void put(struct cursor *cursor, struct span text) {
  if (text.length) memcpy(cursor->at, text.data, text.length);
  cursor->at += text.length;
}

/* The many lines: one reserve and a few copies each. */
static void put_bucket(struct buffer *out, struct span name, struct span labels, struct span bound, uint64_t count) {
  struct cursor cursor = {buffer_reserve(out, name.length + labels.length + bound.length + 32)};
  char *start = cursor.at;
  put(&cursor, name);
  put(&cursor, SPAN("_bucket{"));
  put(&cursor, labels);
  put(&cursor, labels.length ? SPAN(",le=\"") : SPAN("le=\""));
  put(&cursor, bound);
  put(&cursor, SPAN("\"} "));
  buffer_added(out, (size_t)(cursor.at - start));
  exposition_number(out, count);
  buffer_append(out, SPAN("\n"));
}

static void put_end(struct buffer *out, struct span name, const char *suffix, struct span labels) {
  char full[128];
  int length = snprintf(full, sizeof full, "%.*s%s", (int)name.length, name.data, suffix);
  exposition_begin(out, span_make(full, (size_t)length), labels, (struct span){NULL, 0});
}

void histogram_write(struct buffer *out, const struct histogram_bounds *bounds, const uint64_t *cells, struct span name, struct span labels) {
  uint64_t count = 0;
  for (unsigned i = 0; i < bounds->count; i++) {
    count += cells[i + 1];
    put_bucket(out, name, labels, span_of(bounds->texts[i]), count);
  }
  count += cells[bounds->count + 1];
  put_bucket(out, name, labels, SPAN("+Inf"), count);
  put_end(out, name, "_sum", labels);
  exposition_scaled(out, cells[0], bounds->digits);
  buffer_append(out, SPAN("\n"));
  put_end(out, name, "_count", labels);
  exposition_number(out, count);
  buffer_append(out, SPAN("\n"));
}
