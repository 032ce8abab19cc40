/* Endpoints and upstreams.
 *
 * A *record* holds what must live through configuration changes: health and load of one upstream's endpoint at one address, one per process, relaxed atomics.
 * Lists (units) name records. A worker may use a record it found through its current root; before it keeps it across a callback it pins it. The publisher frees
 * a record that no list names when its pins are 0 and no root that named it is live. */
#ifndef ROUTE_ENDPOINT_H
#define ROUTE_ENDPOINT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/address.h"
#include "base/hash.h"
#include "route/route_settings.h"
#include "route/unit.h"

struct endpoint_record {
  uint32_t magic;
  struct address address;
  struct span name;                  /* "10.0.0.9:80" */
  char key_md5[33], key_sha1[41];    /* lower-case hex of upstream name + ip:port */
  uint32_t index;                    /* given when first listed in its upstream, kept while listed: session-cookie-hash "index" */
  _Atomic bool is_draining;          /* as of the last list; for the admin thread */
  _Atomic bool is_listed;            /* false: close idle connections to it */
  _Atomic uint32_t pins;             /* pools and exchanges that keep the pointer */
  _Atomic uint32_t load;             /* requests in flight, all workers */
  _Atomic uint32_t failures;         /* connect failures in a row */
  _Atomic uint64_t first_failure_ms; /* the last but one of this row: three failures in a row span from it to now */
  _Atomic uint64_t last_failure_ms;
  _Atomic uint64_t out_until_ms; /* marked failed until then; 0: healthy */
  _Atomic bool is_on_trial;      /* one request is trying it after its time out */
  _Atomic uint64_t ewma_us;      /* peak EWMA of connect + response time, and when it was written */
  _Atomic uint64_t ewma_at_ms;
};
#define ENDPOINT_MAGIC 0x706e6465u

struct endpoint {
  struct endpoint_record *record;
  bool is_ready;    /* takes new sessions and requests */
  bool is_draining; /* terminating but still serving: only its own sticky sessions */
};

/* A unit: what an upstream is now. */
struct upstream {
  struct unit unit;
  struct span key;  /* "namespace/service/port": no two upstreams have the same */
  struct span name; /* "namespace-service-port": for people, and in cookies */
  struct span namespace, service, port;
  unsigned slot;
  struct endpoint *endpoints; /* ready ones first, then draining ones */
  unsigned count, ready;
  struct rendezvous *rendezvous; /* what hashing and finding by key look at, see balance.c; NULL when there is no endpoint */
  bool is_missing;               /* the Service does not exist, or has no usable endpoints: 503, not 502 */
  struct span external_name;     /* not empty: the publisher resolves it, then upstream_new_resolved */
  uint16_t external_port;
  bool is_outside; /* it may lead back to us: requests to it are counted */
};

void endpoint_pin(struct endpoint_record *record);
void endpoint_unpin(struct endpoint_record *record);
/* 3 failures in a row within 10 s: out for 10 s, then one trial. */
void endpoint_failed(struct endpoint_record *record, uint64_t now_ms);
void endpoint_succeeded(struct endpoint_record *record);
bool endpoint_is_healthy(const struct endpoint_record *record, uint64_t now_ms);
/* Its time out is over: somebody may try it once. */
bool endpoint_is_due(const struct endpoint_record *record, uint64_t now_ms);
/* Takes that one trial; false if another request was faster. A trial that nobody reports on frees itself after another time out. */
bool endpoint_try(struct endpoint_record *record, uint64_t now_ms);
/* Peak EWMA as of now. */
uint64_t endpoint_ewma(const struct endpoint_record *record, uint64_t now_ms);
void endpoint_observe(struct endpoint_record *record, uint64_t now_ms, uint64_t microseconds); /* feeds peak EWMA, decay 10 s */

/* Per worker and upstream slot. */
struct balance_cursor {
  uint32_t next;
};

#define BALANCE_TRIED 16
struct balance_request {
  const struct upstream *upstream;
  enum balancer_kind kind;
  struct balance_cursor *cursor;
  struct random *random;
  uint64_t now_ms;
  struct span hash_key; /* BALANCER_HASH */
  unsigned hash_subset_size;
  const struct endpoint_record *tried[BALANCE_TRIED]; /* by this exchange: avoided while another is there */
  unsigned tried_count;
};
/* A ready endpoint, or NULL when there is none. Healthy ones first; if all are out, all are used. */
const struct endpoint *balance_choose(const struct balance_request *request);
/* By key (md5 or sha1 hex, or decimal index), draining ones included; NULL if not listed. */
enum endpoint_key { ENDPOINT_KEY_MD5 = 0, ENDPOINT_KEY_SHA1 = 1, ENDPOINT_KEY_INDEX = 2 };
const struct endpoint *upstream_find(const struct upstream *upstream, struct span key, enum endpoint_key hash);
/* Consistent hash over the ready endpoints (few keys move when one comes or goes). */
const struct endpoint *upstream_hash(const struct upstream *upstream, struct span key);
/* Builds upstream->rendezvous, in the unit's arena (called by upstream_new). */
void balance_build(struct upstream *upstream);

#endif
