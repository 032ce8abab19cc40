/* Pool: see pool.h. Idle connections hang in buckets hashed by record, last used first, and in one list by age; nginx's limits (count, idle time, life,
 * requests) come from the settings of the current root. A timer looks at the old end once a second while there are idle ones. */
#include "proxy/pool.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "proxy/connect.h"
#include "proxy/worker.h"

enum { BUCKETS = 1024, SWEEP_MS = 1000 };

struct pool {
  uint32_t magic;
  struct worker *worker;
  struct list buckets[BUCKETS];
  struct list by_age;
  unsigned idle, all;
  struct timer timer;
};
#define POOL_MAGIC 0x6c6f6f70u

static struct pooled *pooled_of(void *pointer) {
  struct pooled *pooled = pointer;
  must(pooled->magic == POOLED_MAGIC);
  return pooled;
}

static struct list *bucket_of(struct pool *pool, const struct endpoint_record *record, bool is_tls) {
  return &pool->buckets[hash_u64((uint64_t)(uintptr_t)record + is_tls) % BUCKETS];
}

static void leave_idle(struct pool *pool, struct pooled *pooled) {
  must(pooled->state == POOLED_IDLE);
  list_remove(&pooled->node);
  list_remove(&pooled->age);
  pool->idle--;
  pooled->state = POOLED_BUSY;
}

/* It is not idle, or not any more. */
static void pooled_free(struct pool *pool, struct pooled *pooled) {
  must(pooled->state != POOLED_IDLE);
  deferred_cancel(&pooled->opened);
  endpoint_unpin(pooled->record);
  pool->all--;
  pooled->magic = 0;
  free(pooled);
}

static void close_unused(struct pool *pool, struct pooled *pooled) {
  codec_upstream_close(pooled->codec);
  pooled_free(pool, pooled);
}

static void close_idle(struct pool *pool, struct pooled *pooled) {
  leave_idle(pool, pooled);
  close_unused(pool, pooled);
}

static void on_idle_close(void *owner, struct codec_upstream *upstream) {
  struct pooled *pooled = pooled_of(owner);
  must(pooled->codec == upstream);
  leave_idle(pooled->worker->pool, pooled);
  pooled_free(pooled->worker->pool, pooled);
}

static const struct codec_upstream_events upstream_events = {.on_idle_close = on_idle_close};

static bool is_too_old(const struct pooled *pooled, const struct settings *settings, uint64_t now_ms) {
  return now_ms >= pooled->idle_since_ms + (uint64_t)settings->upstream_keepalive_timeout_ms ||
         !atomic_load_explicit(&pooled->record->is_listed, memory_order_relaxed);
}

void pool_sweep(struct pool *pool) {
  const struct snapshot *root = pool->worker->root;
  uint64_t now_ms = loop_now_ms(&pool->worker->loop);
  for (struct list *node = pool->by_age.next, *next; node != &pool->by_age; node = next) {
    next = node->next;
    struct pooled *pooled = container_of(node, struct pooled, age);
    if (!root || pool->worker->is_draining || is_too_old(pooled, root->settings, now_ms)) close_idle(pool, pooled);
  }
}

static void on_timer(struct timer *timer) {
  struct pool *pool = container_of(timer, struct pool, timer);
  must(pool->magic == POOL_MAGIC);
  pool_sweep(pool);
  if (pool->idle) loop_timer_start(&pool->worker->loop, &pool->timer, SWEEP_MS);
}

struct pool *pool_new(struct worker *worker) {
  struct pool *pool = calloc(1, sizeof *pool);
  must(pool);
  pool->magic = POOL_MAGIC;
  pool->worker = worker;
  for (unsigned i = 0; i < BUCKETS; i++) list_init(&pool->buckets[i]);
  list_init(&pool->by_age);
  timer_init(&pool->timer, on_timer);
  return pool;
}

void pool_free(struct pool *pool) {
  if (!pool) return;
  while (!list_is_empty(&pool->by_age)) close_idle(pool, container_of(pool->by_age.next, struct pooled, age));
  must(pool->all == 0);
  loop_timer_stop(&pool->worker->loop, &pool->timer);
  free(pool);
}

struct pooled *pool_take(struct pool *pool, struct endpoint_record *record, bool is_tls, struct exchange *exchange) {
  struct list *bucket = bucket_of(pool, record, is_tls);
  const struct snapshot *root = pool->worker->root;
  uint64_t now_ms = loop_now_ms(&pool->worker->loop);
  for (struct list *node = bucket->next, *next; node != bucket; node = next) {
    next = node->next;
    struct pooled *pooled = container_of(node, struct pooled, node);
    if (pooled->record != record || pooled->is_tls != is_tls) continue;
    if (root && is_too_old(pooled, root->settings, now_ms)) { /* the sweep comes later than the upstream may close it */
      close_idle(pool, pooled);
      continue;
    }
    leave_idle(pool, pooled);
    pooled->exchange = exchange;
    pooled->requests++;
    return pooled;
  }
  return NULL;
}

static void opened(struct pooled *pooled, int status) {
  struct exchange *exchange = pooled->exchange;
  must(pooled->state == POOLED_CONNECTING && exchange);
  if (status == 0) {
    struct link *link = pooled->link;
    pooled->link = NULL;
    pooled->state = POOLED_BUSY;
    pooled->codec = h1_upstream_new(link, &upstream_events, pooled);
    if (pooled->worker->dial) link_start(link);
    counter_add(pooled->worker->options.counters, COUNTER_UPSTREAM_CONNECTS, 1);
  }
  connect_opened(exchange, status);
}

static void on_open(void *owner, int status) { opened(pooled_of(owner), status); }

static void on_memory_open(struct deferred *deferred) {
  struct pooled *pooled = pooled_of(container_of(deferred, struct pooled, opened));
  opened(pooled, pooled->open_status);
}

/* Nothing is read before the codec has the link: bytes that come early are held for it. */
static size_t on_early_read(void *owner, const char *data, size_t length) {
  (void)pooled_of(owner);
  (void)data;
  (void)length;
  return 0;
}
static void on_early_end(void *owner, int error) {
  struct pooled *pooled = pooled_of(owner);
  if (pooled->state == POOLED_CONNECTING) opened(pooled, error ? error : ERROR_CLOSED);
}
static void on_early_drain(void *owner) { (void)pooled_of(owner); }

static const struct link_events connecting_events = {.on_open = on_open, .on_read = on_early_read, .on_end = on_early_end, .on_drain = on_early_drain};

struct pooled *pool_dial(struct pool *pool, struct endpoint_record *record, bool is_tls, struct exchange *exchange) {
  struct worker *worker = pool->worker;
  struct pooled *pooled = calloc(1, sizeof *pooled);
  must(pooled);
  pooled->magic = POOLED_MAGIC;
  pooled->worker = worker;
  pooled->record = record;
  endpoint_pin(record);
  pool->all++;
  pooled->is_tls = is_tls;
  pooled->exchange = exchange;
  pooled->born_ms = loop_now_ms(&worker->loop);
  pooled->requests = 1;
  list_init(&pooled->node);
  list_init(&pooled->age);
  deferred_init(&pooled->opened, on_memory_open);
  if (worker->dial) {
    pooled->link = worker->dial(worker->dial_context, worker, record);
    pooled->open_status = pooled->link ? 0 : UV_ECONNREFUSED;
    loop_defer(&worker->loop, &pooled->opened);
    return pooled;
  }
  if (is_tls && !worker->upstream_tls) {
    char error[256] = "";
    worker->upstream_tls = tls_client_new(false, (struct span){NULL, 0}, error, sizeof error);
    if (!worker->upstream_tls) {
      log_write(worker->options.log, LOG_ERROR, "cannot set up TLS to upstreams", "error=\"%s\"", error);
      pooled->open_status = ERROR_TLS;
      loop_defer(&worker->loop, &pooled->opened);
      return pooled;
    }
  }
  pooled->link = link_connect(&worker->loop, &record->address, is_tls ? worker->upstream_tls : NULL, NULL, &connecting_events, pooled);
  return pooled;
}

void pool_put_back(struct pool *pool, struct pooled *pooled, bool is_open) {
  struct worker *worker = pool->worker;
  const struct settings *settings = worker->root->settings;
  must(pooled->state == POOLED_BUSY);
  pooled->exchange = NULL;
  if (!is_open) {
    pooled_free(pool, pooled);
    return;
  }
  uint64_t now_ms = loop_now_ms(&worker->loop);
  if (worker->is_draining || settings->upstream_keepalive_connections <= 0 || pooled->requests >= (uint64_t)settings->upstream_keepalive_requests ||
      now_ms - pooled->born_ms >= (uint64_t)settings->upstream_keepalive_time_ms || !atomic_load_explicit(&pooled->record->is_listed, memory_order_relaxed)) {
    close_unused(pool, pooled);
    return;
  }
  if (pool->idle >= (uint64_t)settings->upstream_keepalive_connections) close_idle(pool, container_of(pool->by_age.next, struct pooled, age));
  pooled->state = POOLED_IDLE;
  pooled->idle_since_ms = now_ms;
  list_insert_first(bucket_of(pool, pooled->record, pooled->is_tls), &pooled->node);
  list_insert_last(&pool->by_age, &pooled->age);
  pool->idle++;
  if (!timer_is_active(&pool->timer)) loop_timer_start(&worker->loop, &pool->timer, SWEEP_MS);
}

void pool_drop(struct pool *pool, struct pooled *pooled) {
  must(pooled->state != POOLED_IDLE);
  if (pooled->state == POOLED_CONNECTING && pooled->link) link_close(pooled->link);
  pooled_free(pool, pooled);
}

unsigned pool_idle(const struct pool *pool) { return pool->idle; }
