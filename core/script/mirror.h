/* Mirrors: copies of requests that nobody waits for. Each is an HTTP call of its own, bounded in number and time, and outlives its exchange. One list per
 * worker; its thread only. */
#ifndef SCRIPT_MIRROR_H
#define SCRIPT_MIRROR_H

#include "base/list.h"
#include "proxy/exchange.h"

struct mirrors {
  struct list running;
  unsigned count;
};

void mirror_init(struct mirrors *mirrors);
/* Of the exchange's worker. */
struct mirrors *mirror_of(struct exchange *exchange);
/* Gives all up. */
void mirror_stop(struct mirrors *mirrors);

#endif
