/* Gauges: metrics that only the sync thread knows, handed over line by line. The lock is taken by the sync and the admin thread, nobody else. */
#ifndef APP_GAUGES_H
#define APP_GAUGES_H

#include <stdbool.h>

#include "base/buffer.h"
#include "base/span.h"

struct gauges;

struct gauges *gauges_new(void);
void gauges_free(struct gauges *gauges);
/* Sets the line `key` of a family (its full name, one of gauges.c), with its own labels as they stand in the exposition. */
void gauges_set(struct gauges *gauges, struct span family, struct span key, struct span labels, double value);
void gauges_remove(struct gauges *gauges, struct span family, struct span key);
/* A hidden family keeps its lines and is not shown. */
void gauges_show(struct gauges *gauges, struct span family, bool is_shown);
/* Appends the family *next (from 0 on) and advances; false: there are no more. `constant`: labels of those families that carry the controller's. */
bool gauges_write(struct gauges *gauges, unsigned *next, struct span constant, struct buffer *out);

#endif
