/* Condition: what must hold of an exchange for a hook to run or a response edit to be made, as data that `attach` gave (lua/moongate/conditions.lua). All of
 * its parts must hold. Immutable, in the host's arena; proxy/conditions.h looks at an exchange. */
#ifndef ROUTE_CONDITION_H
#define ROUTE_CONDITION_H

#include "base/arena.h"
#include "route/body.h"
#include "route/value.h"

/* Texts that are not asked for have data NULL, values are NULL. */
struct condition {
  struct span path, method; /* of the request, whole */
  struct span request_header, response_header;
  uint16_t request_id, response_id; /* of their names, as the http room numbers them; 0: look for the name */
  struct value *matches;            /* regex: of the first request_header's value */
  struct value *client_in, *client_not_in;
  struct span variable;  /* set, and not to "" */
  struct span source;    /* of the answer: exchange.response.source */
  bool otherwise_allows; /* of a guard: where the condition does not hold, the guard allows */
};

struct condition_options {
  struct value *(*value)(void *context, int kind, struct span source); /* counted by who keeps it; NULL with a message */
  void *context;
  uint16_t (*header_id)(struct span name); /* may be NULL */
};
/* Reads the condition of `map`; texts point into its bytes. NULL with a message. */
const struct condition *condition_read(struct arena *arena, struct span map, const struct condition_options *options, struct body_error error);

#endif
