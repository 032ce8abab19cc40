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
  struct value *matches; /* regex: of the first request_header's value */
  struct value *client_in, *client_not_in;
  struct span variable;  /* set, and not to "" */
  struct span source;    /* of the answer: exchange.response.source */
  bool otherwise_allows; /* of a guard: where the condition does not hold, the guard allows */
};

/* Gives the values of conditions, counted by who keeps them; NULL with a message. */
struct condition_values {
  struct value *(*get)(void *context, int kind, struct span source);
  void *context;
};
/* Reads the condition of `map`; texts point into its bytes. NULL with a message. */
const struct condition *condition_read(struct arena *arena, struct span map, const struct condition_values *values, struct body_error error);

#endif
