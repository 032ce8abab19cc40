/* Traffic: what was counted of the requests of one route (and upstream), by status and method. A record lives outside of snapshots, like an endpoint's: it
 * stays while any unit names the same labels, so that counters survive the rebuilding of hosts. traffic_table.h makes and frees it.
 *
 * Each worker has groups and series of its own in a record, made on their first use; it alone writes them (relaxed atomics, plain adds) and only ever adds to
 * their lists, by release stores. Who reads (the admin thread) sums them up. A worker may use a record that a unit names under its lease; before it gives the
 * lease back it pins it. */
#ifndef ROUTE_TRAFFIC_H
#define ROUTE_TRAFFIC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/counters.h"
#include "base/hashmap.h"
#include "base/histogram.h"
#include "base/list.h"
#include "base/span.h"

enum traffic_bounds { TRAFFIC_TIME = 0, TRAFFIC_LENGTH = 1, TRAFFIC_SIZE = 2, TRAFFIC_BOUNDS = 3 };

/* X(NAME, name, bounds, help): names are ingress-nginx's, behind nginx_ingress_controller_. */
#define TRAFFIC_HISTOGRAMS(X) \
  X(REQUEST_DURATION, "request_duration_seconds", TIME, "Seconds from a request's first byte to the end of its answer.") \
  X(RESPONSE_DURATION, "response_duration_seconds", TIME, "Seconds that the endpoint took, from the choice of it to the end of its answer.") \
  X(CONNECT_DURATION, "connect_duration_seconds", TIME, "Seconds until there was a connection to the endpoint; 0 for one that was kept.") \
  X(HEADER_DURATION, "header_duration_seconds", TIME, "Seconds until the head of the endpoint's answer was there.") \
  X(REQUEST_SIZE, "request_size", LENGTH, "Bytes received of a request, its head included.") \
  X(RESPONSE_SIZE, "response_size", LENGTH, "Bytes sent of an answer, its head included.") \
  X(BYTES_SENT, "bytes_sent", SIZE, "The same as response_size, with other bounds (deprecated).")

enum traffic_histogram {
#define X(name, text, bounds, help) TRAFFIC_##name,
  TRAFFIC_HISTOGRAMS(X)
#undef X
      TRAFFIC_REQUESTS, /* the plain counter */
  TRAFFIC_FAMILIES
};

/* Those that nginx knows by a number; any other one counts as "other". */
#define TRAFFIC_METHODS(X) \
  X(GET) X(HEAD) X(POST) X(PUT) X(DELETE) X(PATCH) X(OPTIONS) X(CONNECT) X(TRACE) X(MKCOL) X(COPY) X(MOVE) X(PROPFIND) X(PROPPATCH) X(LOCK) X(UNLOCK)

#define TRAFFIC_NO_CELLS UINT16_MAX
/* What is kept of each series: one for the process, immutable but for what is used up. */
struct traffic_shape {
  struct histogram_bounds bounds[TRAFFIC_BOUNDS];
  bool is_excluded[TRAFFIC_FAMILIES];
  bool by_class;        /* --report-status-classes */
  bool per_host;        /* --metrics-per-host */
  bool undefined_hosts; /* --metrics-per-undefined-host */
  unsigned workers;
  uint16_t at[TRAFFIC_REQUESTS]; /* first cell of each histogram, TRAFFIC_NO_CELLS where it is excluded; filled by traffic_table_new, like `cells` */
  uint16_t cells;
  _Atomic uint32_t series, host_series; /* made so far, all workers; see limits.h */
};

/* One worker's counts for a status and a method. */
struct traffic_series {
  uint32_t key; /* method << 16 | status, or its class */
  _Atomic(struct traffic_series *) next;
  _Atomic uint64_t requests;
  _Atomic uint64_t cells[];
};

#define TRAFFIC_RECENT 4
/* One worker's series of a record; for a host name that is not the record's own, one more. */
struct traffic_group {
  char *host; /* NULL: the record's own */
  _Atomic(struct traffic_series *) series;
  _Atomic(struct traffic_group *) next; /* of the same worker */
  /* the worker's alone */
  struct traffic_series *recent[TRAFFIC_RECENT];
  unsigned count;
  struct traffic_group *recent_host;
  struct hashmap hosts; /* in the first group: name to group */
};

struct traffic {
  uint32_t magic;
  uint32_t references; /* units that name it; the publisher's */
  struct traffic_table *table;
  struct traffic_shape *shape;
  struct span key;    /* host and labels, for the table */
  bool is_plain;      /* a request that came under the record's own host counts there */
  struct span host;   /* the Ingress's: "shop.example", "*.shop.example", "_"; "" without --metrics-per-host */
  struct span labels; /* path="/",namespace="..." ... as they stand in the exposition */
  _Atomic uint32_t pins;
  struct list node;
  _Atomic(struct traffic_group *) groups[]; /* by worker */
};
#define TRAFFIC_MAGIC 0x66617274u

struct traffic_sample {
  struct span host; /* not the record's own: an alias, a name that no Ingress has; else empty */
  struct span method;
  int status;
  uint64_t request_us, request_bytes, response_bytes;
  int64_t response_us, connect_us, header_us; /* -1: there is none */
};

/* Counts one request; the worker's thread. COUNTER_COUNT, or the limit that kept it from being counted. */
enum counter traffic_count(struct traffic *traffic, unsigned worker, const struct traffic_sample *sample);

/* Under which host name a request counts: `matched` is the host entry that it found ("" if none), `requested` what it asked for. False: it does not count;
 * *host stays empty where the record's own is right. */
bool traffic_place(const struct traffic *traffic, struct span matched, struct span requested, struct span *host);

void traffic_pin(struct traffic *traffic);
void traffic_unpin(struct traffic *traffic);

/* The texts of the labels of a key. */
const char *traffic_method_name(uint32_t key);
struct span traffic_status_text(const struct traffic_shape *shape, uint32_t key, char out[8]);

#endif
