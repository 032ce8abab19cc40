/* Histogram: bounds, and counts of what was at most each of them. The counts are written by one thread (relaxed atomics, plain adds) and read by any; values
 * are whole numbers of a small unit (microseconds, bytes), shown in a larger one. */
#ifndef BASE_HISTOGRAM_H
#define BASE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/span.h"

#define HISTOGRAM_BOUNDS 64

struct histogram_bounds {
  unsigned count;
  unsigned digits;                   /* decimals between the unit of values and the one that is shown: 6 for microseconds as seconds */
  uint64_t last;                     /* of `values` */
  uint64_t values[HISTOGRAM_BOUNDS]; /* in the unit of values */
  char texts[HISTOGRAM_BOUNDS][32];  /* what "le" says */
};

/* Reads a comma list of rising numbers in the shown unit. 0, or -1 with a message. */
int histogram_bounds_parse(struct histogram_bounds *bounds, struct span list, unsigned digits, char *error, size_t error_size);

/* Counts take this many cells: the sum, one for each bound, and what is above the last. */
static inline unsigned histogram_cells(const struct histogram_bounds *bounds) { return bounds->count + 2; }

static inline void histogram_add(_Atomic uint64_t *cell, uint64_t amount) {
  atomic_store_explicit(cell, atomic_load_explicit(cell, memory_order_relaxed) + amount, memory_order_relaxed);
}

static inline void histogram_observe(const struct histogram_bounds *bounds, _Atomic uint64_t *cells, uint64_t value) {
  /* The ends first: most times are below the first bound, most sizes above the last of a short list. */
  unsigned at = 0;
  if (value > bounds->last) at = bounds->count;
  else
    while (value > bounds->values[at]) at++;
  histogram_add(&cells[at + 1], 1);
  histogram_add(&cells[0], value);
}

/* The _bucket, _sum and _count lines of one series, whose cells may be sums of several threads'. */
void histogram_write(struct buffer *out, const struct histogram_bounds *bounds, const uint64_t *cells, struct span name, struct span labels);

#endif
