/* Values: immutable C values that configs hold and all threads share: regexes, templates, IP sets, host sets, maps. Counted with atomics because a
 * Lua state may keep one past its unit. */
#ifndef ROUTE_VALUE_H
#define ROUTE_VALUE_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/address.h"
#include "base/pack.h"
#include "base/span.h"

struct regex;         /* route/regex.h */
struct text_template; /* route/template.h */
struct host_set;
struct value_map;

struct value {
  uint32_t magic;
  _Atomic unsigned references;
  enum pack_value_kind kind;
  struct span source; /* what it was made from, as it crosses the seam; owned */
  union {
    struct regex *regex;            /* source: flags ("i" or "") NUL pattern */
    struct text_template *template; /* source: the template's text */
    struct ip_set *ip_set;          /* source: comma list */
    struct host_set *host_set;      /* source: comma list; exact names and *.suffix (one label, as for hosts) */
    struct value_map *map;          /* source: packed map of strings */
    struct span upstream;           /* source: the upstream's name; resolved to a slot by the host unit */
  };
  uint32_t upstream_slot, upstream_generation; /* PACK_UPSTREAM: its upstream_ref, set by host_new before anybody else sees the value */
};

/* NULL with a message (without the value's name) in `error`. References: 1. */
struct value *value_new(enum pack_value_kind kind, struct span source, char *error, size_t error_size);
struct value *value_hold(struct value *value);
void value_release(struct value *value);

bool host_set_contains(const struct host_set *set, struct span host);
struct span value_map_get(const struct value_map *map, struct span key); /* data NULL if absent */

#endif
