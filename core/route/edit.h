/* Fixed header edits of a host's routes and of the settings: their packed form. Private to core/route. */
#ifndef ROUTE_EDIT_H
#define ROUTE_EDIT_H

#include "base/arena.h"
#include "route/body.h"
#include "route/host.h"

/* Where edits get their conditions; NULL with a message. */
struct edit_conditions {
  const struct condition *(*read)(void *context, struct span packed);
  void *context;
};
/* Reads the array `edits` of `map` into `arena`, which also frees the templates. Names point into `map`'s bytes. `conditions`: NULL where edits have none. */
bool edit_read_list(struct arena *arena, struct span map, const struct edit_conditions *conditions, struct fixed_edit **edits, unsigned *count,
                    struct body_error error);

#endif
