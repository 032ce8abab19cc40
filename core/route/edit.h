/* Fixed header edits of a host's routes and of the settings: their packed form. Private to core/route. */
#ifndef ROUTE_EDIT_H
#define ROUTE_EDIT_H

#include "base/arena.h"
#include "route/body.h"
#include "route/host.h"

/* What the edits of a host's routes have more than those of the settings. */
struct edit_options {
  const struct condition *(*read_condition)(void *context, struct span packed); /* NULL with a message */
  void *context;
  uint16_t (*header_id)(struct span name); /* may be NULL */
};
/* Reads the array `edits` of `map` into `arena`, which also frees the templates. Names point into `map`'s bytes. `options`: NULL for settings. */
bool edit_read_list(struct arena *arena, struct span map, const struct edit_options *options, struct fixed_edit **edits, unsigned *count,
                    struct body_error error);

#endif
