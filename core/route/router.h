/* Router: host and path matching (controller-behaviour a2). Pure reads of one snapshot. */
#ifndef ROUTE_ROUTER_H
#define ROUTE_ROUTER_H

#include "base/limits.h"
#include "route/host.h"
#include "route/snapshot.h"

/* Exact name, then the one-label wildcard, then the catch-all; NULL if there is none at all. `host` is lower case without port; may be empty.
 * For an alias or redirect host this is the entry itself; see host->owner. */
const struct host *router_find_host(const struct snapshot *snapshot, struct span host);

struct route_match {
  const struct route *route;   /* NULL: no route (404 of the default backend) */
  bool add_slash;              /* nginx's automatic 301: "/p" where only Prefix "/p/" exists */
  struct regex_match captures; /* regex mode; spans of `path` */
  enum limit_reached limit;    /* that ended the search: no route; to be counted */
};
/* `path`: decoded and normalised. */
struct route_match router_match(const struct host *host, struct span path);
/* Builds host->router, in the unit's arena (called by host_new). */
void router_build(struct host *host);

#endif
