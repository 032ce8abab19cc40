/* Unit: a keyed piece of configuration, immutable once published. Rooms derive theirs by embedding it first; only the owning room casts.
 *
 * Life: the publisher makes a unit, publishes it in a root, and retires it when a later root no longer names it. It frees a retired
 * unit when no live root can name it (all roots older than `retired_at` came back) and no worker lists it as leased. The fields below the line are
 * the publisher's alone; workers read only `id`, `kind` and their own room's part. */
#ifndef ROUTE_UNIT_H
#define ROUTE_UNIT_H

#include <stdint.h>

#include "base/arena.h"
#include "base/list.h"

enum unit_kind { UNIT_SETTINGS = 1, UNIT_HOST = 2, UNIT_UPSTREAM = 3, UNIT_CERTIFICATE = 4, UNIT_POLICIES = 5 };

struct unit {
  uint32_t magic;
  enum unit_kind kind;
  uint32_t id;                        /* small, unique among live units, reused after free: index of workers' lease tables */
  void (*release)(struct unit *unit); /* frees it and what it owns */
  struct arena arena;
  /* publisher only */
  uint64_t born_at, retired_at; /* root generations; retired_at 0 while named by the newest root */
  uint64_t retired_ms;          /* for the age gauge */
  uint64_t content;             /* hash of what it was made from: the same in every replica */
  unsigned listed;              /* workers that reported it as leased */
  struct list retired;
};

#define UNIT_MAGIC 0x74696e75u

#endif
