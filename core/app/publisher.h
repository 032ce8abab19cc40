/* Publisher: the thread on the data side of the seam. Turns keyed units (bytes) into C, gathers changes for 2 ms (5 ms while more arrive, 20 ms at
 * most), publishes a root to every worker, takes old roots back, and frees what nobody uses. Also resolves ExternalName upstreams. */
#ifndef APP_PUBLISHER_H
#define APP_PUBLISHER_H

#include <stdatomic.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/log.h"
#include "proxy/worker.h"
#include "script/script.h"

struct publisher;

struct publisher_options {
  struct worker **workers; /* filled by the caller before publisher_start; their inboxes get roots */
  unsigned worker_count;
  struct script_options script;
  const char *resolver;  /* ADDR:PORT or NULL */
  uint16_t own_ports[3]; /* of our listeners: never dialled at an address of this host */
  struct log *log;
  _Atomic int *log_level;        /* set from error-log-level */
  struct traffic_table *traffic; /* NULL: requests are not counted by route */
};

/* What the admin thread reads; relaxed. */
struct publisher_gauges {
  _Atomic uint64_t generation, live_roots, superseded_units, oldest_superseded_ms, hosts, upstreams, records, changes, refused;
  _Atomic uint64_t good_messages, bad_messages; /* bad: a change of it was refused */
  _Atomic uint64_t is_last_good;
  _Atomic int64_t last_good_unix;      /* when a root of good messages only was published */
  _Atomic uint64_t content;            /* hash of all units: equal in replicas that serve the same */
  _Atomic int64_t shutdown_timeout_ms; /* worker-shutdown-timeout in force */
};

struct publisher *publisher_new(const struct publisher_options *options, char *error, size_t error_size);
/* Hands over one message of docs/seam.md (copied). Any thread; blocks while more than 64 MiB wait. `taken_us`: when the sync thread took in what it says,
 * monotonic; 0: that does not count as a change. A part is applied, and published with the rest of its message, which follows. */
void publisher_submit(struct publisher *publisher, const char *message, size_t length, uint64_t taken_us, bool is_part);
/* Runs the thread; returns at once. */
int publisher_start(struct publisher *publisher);
/* Waits until the first message was published, at most `timeout_ms`; false on time-out. */
bool publisher_wait_first(struct publisher *publisher, int timeout_ms);
const struct publisher_gauges *publisher_gauges(const struct publisher *publisher);
/* Admin: how long changes took, errors of hooks by policy, endpoints by state. */
void publisher_write_metrics(struct publisher *publisher, struct buffer *out);
struct root_return publisher_returns(struct publisher *publisher);
/* Ends the thread: from here on no worker is given a root, and workers may be freed; what they give back is kept for publisher_free. */
void publisher_stop(struct publisher *publisher);
/* Frees all roots and units; workers must have been freed. */
void publisher_free(struct publisher *publisher);

/* A UNIT_CERTIFICATE unit's certificate. */
struct certificate;
struct certificate *publisher_certificate(const struct unit *unit);

#endif
