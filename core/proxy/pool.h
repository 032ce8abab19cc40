/* Pool: one worker's connections to endpoints: idle ones by endpoint record, and the dialling of new ones. A pooled connection pins its record.
 * Worker's thread only. */
#ifndef PROXY_POOL_H
#define PROXY_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "http/codec.h"
#include "net/loop.h"
#include "route/endpoint.h"

#define POOLED_MAGIC 0x64706f6fu

struct worker;
struct exchange;

enum pooled_state { POOLED_CONNECTING = 0, POOLED_BUSY = 1, POOLED_IDLE = 2 };

struct pooled {
  uint32_t magic;
  enum pooled_state state;
  struct worker *worker;
  struct endpoint_record *record; /* pinned */
  bool is_tls;
  struct link *link;            /* while connecting */
  struct codec_upstream *codec; /* once open */
  struct exchange *exchange;    /* who waits or uses it; NULL while idle */
  int open_status;              /* dialled in memory: what the deferred call reports */
  struct deferred opened;
  struct list node; /* idle ones: in their bucket */
  struct list age;  /* idle ones: in the pool, oldest first */
  uint64_t born_ms, idle_since_ms;
  unsigned requests;
};

struct pool;

struct pool *pool_new(struct worker *worker);
/* Closes the idle ones. Busy and connecting ones must be gone. */
void pool_free(struct pool *pool);
/* An idle connection to that endpoint for `exchange`, the one used last; or NULL. */
struct pooled *pool_take(struct pool *pool, struct endpoint_record *record, bool is_tls, struct exchange *exchange);
/* Starts connecting; connect_opened(exchange, status) follows, never from inside. */
struct pooled *pool_dial(struct pool *pool, struct endpoint_record *record, bool is_tls, struct exchange *exchange);
/* The exchange's stream on it is finished: keeps it idle, or closes it. `is_open`: the codec still has its connection. */
void pool_put_back(struct pool *pool, struct pooled *pooled, bool is_open);
/* The connection is of no more use: closes it if it still connects; a busy one was ended by aborting its stream. */
void pool_drop(struct pool *pool, struct pooled *pooled);
/* Closes idle connections that are too old or whose record is not listed any more. */
void pool_sweep(struct pool *pool);
unsigned pool_idle(const struct pool *pool);

#endif
