/* Publisher: see publisher.h. One thread owns everything here but the two queues (mutex) and the gauges (atomics).
 *
 * Lifetimes. Roots are numbered. A root is live until every worker that took it gave it back. A unit retired at generation g is named by no root
 * from g on; it is freed when the oldest live root is g or newer and no worker lists it as leased. */
#include "app/publisher.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#include "app/change_times.h"
#include "app/records.h"
#include "app/retire.h"
#include "base/check.h"
#include "base/error.h"
#include "base/exposition.h"
#include "base/hashmap.h"
#include "base/own_address.h"
#include "base/pack.h"
#include "net/digest.h"
#include "net/resolver.h"
#include "net/tls.h"
#include "route/traffic_table.h"
#include "route/upstream.h"

#define GATHER_FIRST_MS 2
#define GATHER_MORE_MS 5
#define GATHER_MOST_MS 20
#define QUEUE_BYTES (64u << 20)
#define SLICE_NS 4000000u

struct message {
  struct message *next;
  uint64_t taken_us;
  size_t length;
  bool is_part;
  char bytes[];
};

struct given_back {
  struct given_back *next;
  struct snapshot *root; /* NULL: one unit is done */
  unsigned count;
  struct unit *units[];
};

/* An ExternalName upstream: looked up again when its TTL ends. */
struct external {
  struct publisher *publisher;
  char *upstream, *name;
  struct span body; /* copied: namespace, service, port */
  uint16_t port;
  uint64_t due_ms;
  const struct upstream *resolved; /* what its last answer made; NULL: none yet */
  bool is_pending, is_gone;
};

struct certificate_unit {
  struct unit unit;
  struct certificate *certificate;
};

struct publisher {
  struct publisher_options options;
  struct publisher_gauges gauges;
  uv_loop_t loop;
  uv_async_t wake;
  uv_timer_t gather, second;
  pthread_t thread;
  bool is_started, gather_is_armed, is_dirty, is_within /* the rest of a message is still to come */, has_bad_part;
  _Atomic bool is_stopping;

  pthread_mutex_t lock; /* guards the two queues and `first_done` */
  pthread_cond_t room, first;
  struct message *messages, **messages_end;
  size_t queued;
  struct given_back *returned, **returned_end;
  bool first_done;

  struct snapshot_builder *builder;
  struct retire *retire;
  struct records *records;
  struct policy_slots *slots;
  struct unit *policies;
  struct resolver *resolver;
  struct hashmap externals;
  uint64_t gather_started_ms, content;
  struct change_times times;
};

struct certificate *publisher_certificate(const struct unit *unit) {
  must(unit->kind == UNIT_CERTIFICATE);
  return ((const struct certificate_unit *)unit)->certificate;
}

static uint64_t now_ms(struct publisher *publisher) { return uv_now(&publisher->loop); }

/* ---- units ------------------------------------------------------------------------------------------------------------------- */

static void certificate_unit_release(struct unit *unit) {
  struct certificate_unit *self = (struct certificate_unit *)unit;
  certificate_free(self->certificate);
  arena_free(&self->unit.arena);
  free(self);
}

static struct unit *certificate_unit_new(struct span body, char *error, size_t size) {
  struct certificate *certificate = certificate_new(pack_get_string(body, "certificate", SPAN("")), pack_get_string(body, "key", SPAN("")), error, size);
  if (!certificate) return NULL;
  struct certificate_unit *self = calloc(1, sizeof *self);
  must(self);
  self->unit.magic = UNIT_MAGIC;
  self->unit.kind = UNIT_CERTIFICATE;
  self->unit.release = certificate_unit_release;
  arena_init(&self->unit.arena, NULL, 0);
  self->certificate = certificate;
  return &self->unit;
}

static struct upstream_ref resolve_upstream(void *context, struct span name) { return snapshot_upstream_slot(((struct publisher *)context)->builder, name); }
static uint32_t resolve_policy(void *context, struct span name) { return policy_slot(((struct publisher *)context)->slots, name); }

static uint16_t header_id(struct span name) { return (uint16_t)header_id_of(name); }

static bool is_own_listener(const struct publisher *publisher, const struct address *address) {
  const uint16_t *ports = publisher->options.own_ports, port = address_port(address);
  return port && (port == ports[0] || port == ports[1] || port == ports[2]) && own_address_is(address);
}

static struct endpoint_record *find_record(void *context, const struct address *address, struct span upstream) {
  struct publisher *publisher = context;
  if (!is_own_listener(publisher, address)) return records_get(publisher->records, upstream, address);
  char text[ADDRESS_TEXT];
  address_format(address, text);
  log_write(publisher->options.log, LOG_WARN, "endpoint refused", "upstream=%.*s endpoint=%s error=\"one of our own listeners\"", (int)upstream.length,
            upstream.data, text);
  return NULL;
}

/* Of one unit. Nothing of this process is in it, so that replicas that were told the same have the same; their sum does not depend on the order. */
static uint64_t content_of(struct span kind, struct span key, struct span body) { return hash_bytes(kind, hash_bytes(key, hash_bytes(body, 0))); }

/* A unit went in where `old` was (NULL: new). */
static void replaced(struct publisher *publisher, struct unit *new, struct unit *old) {
  if (new) {
    retire_born(publisher->retire, new);
    publisher->content += new->content;
  }
  if (old) {
    retire_unit(publisher->retire, old, now_ms(publisher));
    publisher->content -= old->content;
  }
  publisher->is_dirty = true;
}

static void put_upstream(struct publisher *publisher, struct span name, struct upstream *upstream) {
  struct unit *old = snapshot_put_upstream(publisher->builder, name, upstream);
  records_replaced(publisher->records, (struct upstream *)old, upstream, retire_next_generation(publisher->retire));
  replaced(publisher, upstream ? &upstream->unit : NULL, old);
}

/* ---- ExternalName ------------------------------------------------------------------------------------------------------------- */

static void external_free(struct external *external) {
  free(external->upstream);
  free(external->name);
  free((char *)external->body.data);
  free(external);
}

static void arm_gather(struct publisher *publisher);

/* Serves `upstream`, unless it is as the one before. */
static void external_serve(struct publisher *publisher, struct external *external, struct upstream *upstream) {
  if (external->resolved && upstream_is_same(external->resolved, upstream)) {
    upstream->unit.release(&upstream->unit);
    return;
  }
  external->resolved = upstream;
  upstream->unit.content = content_of(SPAN("upstream"), span_of(external->upstream), external->body);
  put_upstream(publisher, span_of(external->upstream), upstream);
  arm_gather(publisher);
}

static void external_resolved(void *context, int error, const struct address *addresses, size_t count, unsigned ttl) {
  struct external *external = context;
  struct publisher *publisher = external->publisher;
  external->is_pending = false;
  if (external->is_gone) {
    external_free(external);
    return;
  }
  if (error == ERROR_CANCELLED) return; /* the end: it is still listed, and freed from there */
  external->due_ms = now_ms(publisher) + 1000u * (ttl < 1 ? 1 : ttl > 300 ? 300 : ttl);
  if (error) {
    log_write(publisher->options.log, LOG_WARN, "external name not resolved", "upstream=%s name=%s error=\"%s\"", external->upstream, external->name,
              error_text(error));
    external->due_ms = now_ms(publisher) + 2000;
    if (external->resolved) return; /* what was resolved last goes on serving */
    count = 0;                      /* but not what was resolved for another name */
  }
  char message[256];
  unsigned refused = 0;
  struct upstream *upstream =
      upstream_new_resolved(span_of(external->upstream), external->body, addresses, count, find_record, publisher, &refused, message, sizeof message);
  if (refused)
    log_write(publisher->options.log, LOG_WARN, "external name refused", "upstream=%s name=%s error=\"resolves to a loopback or link-local address\"",
              external->upstream, external->name);
  if (!upstream) {
    log_write(publisher->options.log, LOG_ERROR, "external upstream refused", "upstream=%s error=\"%s\"", external->upstream, message);
    return;
  }
  external_serve(publisher, external, upstream);
}

static void external_lookup(struct publisher *publisher, struct external *external) {
  external->is_pending = true;
  resolver_lookup(publisher->resolver, external->name, external_resolved, external);
}

static void external_drop(struct publisher *publisher, struct span upstream) {
  struct external *external = hashmap_remove(&publisher->externals, upstream);
  if (!external) return;
  if (external->is_pending) external->is_gone = true;
  else external_free(external);
}

static void external_set(struct publisher *publisher, struct span upstream, struct span name, struct span body) {
  struct external *old = hashmap_get(&publisher->externals, upstream);
  uint16_t port = (uint16_t)pack_get_integer(body, "external_port", 80);
  if (old && span_equal(span_of(old->name), name) && old->port == port) return;
  external_drop(publisher, upstream);
  struct external *external = calloc(1, sizeof *external);
  must(external);
  external->publisher = publisher;
  external->upstream = strndup(upstream.data, upstream.length);
  external->name = strndup(name.data, name.length);
  char *copy = malloc(body.length);
  must(copy);
  memcpy(copy, body.data, body.length);
  external->body = span_make(copy, body.length);
  external->port = port;
  hashmap_put(&publisher->externals, upstream, external);
  external_lookup(publisher, external);
}

/* ---- changes ------------------------------------------------------------------------------------------------------------------- */

static bool apply_upstream(struct publisher *publisher, struct span key, struct span body, char *error, size_t size) {
  struct upstream *upstream = upstream_new(key, body, find_record, publisher, error, size);
  if (!upstream) return false;
  struct span external = upstream->external_name;
  upstream->unit.content = content_of(SPAN("upstream"), key, body);
  bool is_served = external.length && hashmap_get(&publisher->externals, key); /* until the name is resolved: without a gap */
  if (external.length) external_set(publisher, key, external, body);
  else external_drop(publisher, key);
  if (is_served) upstream->unit.release(&upstream->unit);
  else put_upstream(publisher, key, upstream);
  return true;
}

static bool apply_settings(struct publisher *publisher, struct span body, char *error, size_t size) {
  struct settings *settings = settings_new(body, error, size);
  if (!settings) return false;
  settings->unit.content = content_of(SPAN("settings"), (struct span){NULL, 0}, body);
  replaced(publisher, &settings->unit, snapshot_put_settings(publisher->builder, settings));
  atomic_store_explicit(&publisher->gauges.shutdown_timeout_ms, settings->worker_shutdown_timeout_ms, memory_order_relaxed);
  for (enum log_level level = LOG_DEBUG; level <= LOG_ERROR; level++)
    if (span_equal(settings->error_log_level, span_of(log_level_name(level)))) atomic_store(publisher->options.log_level, (int)level);
  return true;
}

static bool upsert(struct publisher *publisher, struct span kind, struct span key, struct span body, char *error, size_t size) {
  if (span_equal(kind, SPAN("host"))) {
    struct host_resolver resolver = {resolve_upstream, resolve_policy, publisher, publisher->options.traffic, header_id};
    struct host *host = host_new(key, body, &resolver, error, size);
    if (!host) return false;
    host->unit.content = content_of(kind, key, body);
    replaced(publisher, &host->unit, snapshot_put_host(publisher->builder, key, host));
    return true;
  }
  if (span_equal(kind, SPAN("upstream"))) return apply_upstream(publisher, key, body, error, size);
  if (span_equal(kind, SPAN("certificate"))) {
    struct unit *unit = certificate_unit_new(body, error, size);
    if (!unit) return false;
    unit->content = content_of(kind, key, body);
    replaced(publisher, unit, snapshot_put_certificate(publisher->builder, key, unit));
    return true;
  }
  if (span_equal(kind, SPAN("settings"))) return apply_settings(publisher, body, error, size);
  if (span_equal(kind, SPAN("policies"))) {
    struct unit *set = policy_set_new(body, publisher->slots, &publisher->options.script, publisher->policies, error, size);
    if (!set) return false;
    set->content = content_of(kind, key, body);
    publisher->policies = set;
    replaced(publisher, set, snapshot_put_policies(publisher->builder, set));
    return true;
  }
  snprintf(error, size, "unknown kind");
  return false;
}

static void delete_unit(struct publisher *publisher, struct span kind, struct span key) {
  struct unit *old = NULL;
  if (span_equal(kind, SPAN("host"))) old = snapshot_put_host(publisher->builder, key, NULL);
  else if (span_equal(kind, SPAN("certificate"))) old = snapshot_put_certificate(publisher->builder, key, NULL);
  else if (span_equal(kind, SPAN("upstream"))) {
    external_drop(publisher, key);
    put_upstream(publisher, key, NULL);
    return;
  }
  replaced(publisher, NULL, old);
}

/* False if it was refused. */
static bool apply_change(struct publisher *publisher, struct span change) {
  struct span op = pack_get_string(change, "op", SPAN("")), kind = pack_get_string(change, "kind", SPAN(""));
  struct span key = pack_get_string(change, "key", SPAN("")), body;
  char error[512] = "";
  atomic_fetch_add_explicit(&publisher->gauges.changes, 1, memory_order_relaxed);
  if (span_equal(op, SPAN("delete"))) {
    delete_unit(publisher, kind, key);
    return true;
  }
  if (pack_find(change, "body", &body) && upsert(publisher, kind, key, body, error, sizeof error)) return true;
  atomic_fetch_add_explicit(&publisher->gauges.refused, 1, memory_order_relaxed);
  char quoted[2 * sizeof error];
  log_write(publisher->options.log, LOG_ERROR, "change refused, what was there stays", "kind=%.*s key=%.*s error=%s", (int)kind.length, kind.data,
            (int)key.length, key.data, log_quote(span_of(*error ? error : "no body"), quoted, sizeof quoted));
  return false;
}

static bool apply_changes(struct publisher *publisher, struct span bytes) {
  struct pack_reader reader;
  struct pack_item item;
  pack_reader_init(&reader, bytes);
  if (!pack_next(&reader, &item) || item.type != PACK_ARRAY) {
    log_write(publisher->options.log, LOG_ERROR, "message refused", "error=\"not an array of changes\"");
    return false;
  }
  bool is_good = true;
  for (uint32_t i = 0; i < item.count; i++) {
    struct span change;
    if (!pack_skip(&reader, &change)) {
      log_write(publisher->options.log, LOG_ERROR, "message cut short", "error=\"%s\"", reader.error ? reader.error : "");
      return false;
    }
    if (!apply_change(publisher, change)) is_good = false;
  }
  return is_good;
}

static void count_message(struct publisher *publisher, bool is_good) {
  struct publisher_gauges *gauges = &publisher->gauges;
  atomic_fetch_add_explicit(is_good ? &gauges->good_messages : &gauges->bad_messages, 1, memory_order_relaxed);
  atomic_store_explicit(&gauges->is_last_good, is_good, memory_order_relaxed);
}

static void apply_message(struct publisher *publisher, const struct message *message) {
  bool is_good = apply_changes(publisher, span_make(message->bytes, message->length)) && !publisher->has_bad_part;
  publisher->is_within = message->is_part;
  publisher->has_bad_part = message->is_part && !is_good;
  if (!message->is_part) count_message(publisher, is_good);
  if (publisher->is_dirty && publisher->first_done) change_times_taken(&publisher->times, message->taken_us);
}

/* ---- publishing ---------------------------------------------------------------------------------------------------------------- */

static void sweep(struct publisher *publisher) {
  retire_sweep(publisher->retire);
  uint64_t oldest = retire_oldest_live(publisher->retire);
  records_sweep(publisher->records, oldest);
  if (publisher->options.traffic) traffic_table_sweep(publisher->options.traffic);
  change_times_live(&publisher->times, oldest, uv_hrtime() / 1000);
  struct publisher_gauges *gauges = &publisher->gauges;
  atomic_store_explicit(&gauges->live_roots, retire_live_roots(publisher->retire), memory_order_relaxed);
  atomic_store_explicit(&gauges->superseded_units, retire_pending(publisher->retire), memory_order_relaxed);
  atomic_store_explicit(&gauges->oldest_superseded_ms, retire_oldest_ms(publisher->retire, now_ms(publisher)), memory_order_relaxed);
  atomic_store_explicit(&gauges->records, records_count(publisher->records), memory_order_relaxed);
}

static void publish(struct publisher *publisher) {
  sweep(publisher);
  struct snapshot *root = snapshot_build(publisher->builder);
  retire_published(publisher->retire, root, publisher->options.worker_count);
  for (unsigned i = 0; i < publisher->options.worker_count; i++) {
    struct snapshot *untaken = worker_give_root(publisher->options.workers[i], root);
    if (untaken) retire_returned(publisher->retire, untaken);
  }
  atomic_store_explicit(&publisher->gauges.generation, root->generation, memory_order_relaxed);
  atomic_store_explicit(&publisher->gauges.hosts, root->host_count, memory_order_relaxed);
  atomic_store_explicit(&publisher->gauges.upstreams, root->upstream_count, memory_order_relaxed);
  atomic_store_explicit(&publisher->gauges.content, publisher->content & ((1ull << 53) - 1), memory_order_relaxed); /* what a double holds */
  if (atomic_load_explicit(&publisher->gauges.is_last_good, memory_order_relaxed))
    atomic_store_explicit(&publisher->gauges.last_good_unix, (int64_t)time(NULL), memory_order_relaxed);
  publisher->is_dirty = false;
  change_times_published(&publisher->times, root->generation);
  sweep(publisher);
  pthread_mutex_lock(&publisher->lock);
  publisher->first_done = true;
  pthread_cond_broadcast(&publisher->first);
  pthread_mutex_unlock(&publisher->lock);
}

static void on_gather(uv_timer_t *timer) {
  struct publisher *publisher = timer->data;
  publisher->gather_is_armed = false;
  if (publisher->is_dirty && !publisher->is_within && !atomic_load(&publisher->is_stopping)) publish(publisher); /* at the end the workers are gone */
}

static void arm_gather(struct publisher *publisher) {
  uint64_t now = now_ms(publisher);
  if (!publisher->gather_is_armed) {
    publisher->gather_is_armed = true;
    publisher->gather_started_ms = now;
    uv_timer_start(&publisher->gather, on_gather, GATHER_FIRST_MS, 0);
    return;
  }
  uint64_t end = publisher->gather_started_ms + GATHER_MOST_MS, more = now + GATHER_MORE_MS;
  if (more > end) more = end;
  uv_timer_start(&publisher->gather, on_gather, more > now ? more - now : 0, 0);
}

static void take_returns(struct publisher *publisher) {
  pthread_mutex_lock(&publisher->lock);
  struct given_back *list = publisher->returned;
  publisher->returned = NULL;
  publisher->returned_end = &publisher->returned;
  pthread_mutex_unlock(&publisher->lock);
  if (!list) return;
  for (struct given_back *next; list; list = next) {
    next = list->next;
    if (list->root) {
      for (unsigned i = 0; i < list->count; i++) list->units[i]->listed++;
      retire_returned(publisher->retire, list->root);
    } else {
      must(list->units[0]->listed > 0);
      list->units[0]->listed--;
    }
    free(list);
  }
  sweep(publisher);
}

static void on_wake(uv_async_t *async) {
  struct publisher *publisher = async->data;
  if (atomic_load(&publisher->is_stopping)) {
    uv_stop(&publisher->loop);
    return;
  }
  take_returns(publisher);
  uint64_t started = uv_hrtime();
  for (;;) {
    pthread_mutex_lock(&publisher->lock);
    struct message *message = publisher->messages;
    if (message) {
      publisher->messages = message->next;
      if (!publisher->messages) publisher->messages_end = &publisher->messages;
      publisher->queued -= message->length;
      pthread_cond_broadcast(&publisher->room);
    }
    pthread_mutex_unlock(&publisher->lock);
    if (!message) break;
    apply_message(publisher, message);
    free(message);
    uv_update_time(&publisher->loop);
    if (publisher->is_dirty && !publisher->is_within) arm_gather(publisher);
    if (uv_hrtime() - started > SLICE_NS) {
      uv_async_send(async); /* one turn of the loop between slices */
      break;
    }
  }
}

static void on_second(uv_timer_t *timer) {
  struct publisher *publisher = timer->data;
  sweep(publisher);
  size_t cursor = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&publisher->externals, &cursor));) {
    struct external *external = entry->value;
    if (!external->is_pending && external->due_ms && now_ms(publisher) >= external->due_ms) external_lookup(publisher, external);
  }
}

/* ---- the two queues: any thread ------------------------------------------------------------------------------------------------ */

void publisher_submit(struct publisher *publisher, const char *bytes, size_t length, uint64_t taken_us, bool is_part) {
  struct message *message = malloc(sizeof *message + length);
  must(message);
  message->next = NULL;
  message->taken_us = taken_us;
  message->length = length;
  message->is_part = is_part;
  memcpy(message->bytes, bytes, length);
  pthread_mutex_lock(&publisher->lock);
  while (publisher->queued > QUEUE_BYTES && !atomic_load(&publisher->is_stopping)) pthread_cond_wait(&publisher->room, &publisher->lock);
  *publisher->messages_end = message;
  publisher->messages_end = &message->next;
  publisher->queued += length;
  pthread_mutex_unlock(&publisher->lock);
  uv_async_send(&publisher->wake);
}

static void put_return(struct publisher *publisher, struct snapshot *root, struct unit *const *units, unsigned count) {
  struct given_back *entry = malloc(sizeof *entry + count * sizeof *units);
  must(entry);
  entry->next = NULL;
  entry->root = root;
  entry->count = count;
  if (count) memcpy(entry->units, units, count * sizeof *units);
  pthread_mutex_lock(&publisher->lock);
  *publisher->returned_end = entry;
  publisher->returned_end = &entry->next;
  pthread_mutex_unlock(&publisher->lock);
  uv_async_send(&publisher->wake);
}

static void give_back(void *context, struct snapshot *root, struct unit *const *leased, unsigned count) { put_return(context, root, leased, count); }
static void unit_done(void *context, struct unit *unit) { put_return(context, NULL, &unit, 1); }
struct root_return publisher_returns(struct publisher *publisher) { return (struct root_return){publisher, give_back, unit_done}; }

/* ---- life ---------------------------------------------------------------------------------------------------------------------- */

struct publisher *publisher_new(const struct publisher_options *options, char *error, size_t error_size) {
  struct publisher *publisher = calloc(1, sizeof *publisher);
  must(publisher);
  publisher->options = *options;
  publisher->messages_end = &publisher->messages;
  publisher->returned_end = &publisher->returned;
  pthread_mutex_init(&publisher->lock, NULL);
  pthread_cond_init(&publisher->room, NULL);
  pthread_cond_init(&publisher->first, NULL);
  must(uv_loop_init(&publisher->loop) == 0);
  must(uv_async_init(&publisher->loop, &publisher->wake, on_wake) == 0);
  uv_timer_init(&publisher->loop, &publisher->gather);
  uv_timer_init(&publisher->loop, &publisher->second);
  publisher->wake.data = publisher->gather.data = publisher->second.data = publisher;
  uv_timer_start(&publisher->second, on_second, 1000, 1000);
  int code = 0;
  publisher->resolver = resolver_new(&publisher->loop, options->resolver, &code);
  if (!publisher->resolver) {
    snprintf(error, error_size, "--resolver %s: %s", options->resolver ? options->resolver : "(/etc/resolv.conf)", error_text(code));
    return NULL; /* the process ends now */
  }
  uint64_t seed;
  digest_random(&seed, sizeof seed);
  publisher->builder = snapshot_builder_new(seed);
  publisher->retire = retire_new();
  publisher->records = records_new();
  publisher->slots = policy_slots_new();
  hashmap_init(&publisher->externals);
  change_times_init(&publisher->times);
  struct settings *settings = settings_new_default();
  atomic_store(&publisher->gauges.shutdown_timeout_ms, settings->worker_shutdown_timeout_ms);
  snapshot_put_settings(publisher->builder, settings);
  retire_born(publisher->retire, &settings->unit);
  return publisher;
}

static void *thread_main(void *context) {
  struct publisher *publisher = context;
  uv_run(&publisher->loop, UV_RUN_DEFAULT);
  return NULL;
}

int publisher_start(struct publisher *publisher) {
  int code = pthread_create(&publisher->thread, NULL, thread_main, publisher);
  publisher->is_started = code == 0;
  return -code;
}

bool publisher_wait_first(struct publisher *publisher, int timeout_ms) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += timeout_ms / 1000;
  until.tv_nsec += timeout_ms % 1000 * 1000000L;
  if (until.tv_nsec >= 1000000000L) {
    until.tv_sec++;
    until.tv_nsec -= 1000000000L;
  }
  pthread_mutex_lock(&publisher->lock);
  int code = 0;
  while (!publisher->first_done && code == 0) code = pthread_cond_timedwait(&publisher->first, &publisher->lock, &until);
  bool done = publisher->first_done;
  pthread_mutex_unlock(&publisher->lock);
  return done;
}

static void put_tally(void *context, const char *policy, uint64_t errors) {
  struct buffer labels = {0};
  exposition_label(&labels, "policy", span_of(policy));
  exposition_sample(context, SPAN("moongate_errors_of_policy_total"), (struct span){NULL, 0}, buffer_span(&labels), errors);
  buffer_free(&labels);
}

void publisher_write_metrics(struct publisher *publisher, struct buffer *out) {
  change_times_write(&publisher->times, out);
  exposition_family(out, SPAN("moongate_errors_of_policy_total"), "counter", "Uncaught errors in hooks, by policy.");
  policy_slots_tell(publisher->slots, put_tally, out);
  records_write_states(publisher->records, out);
}

const struct publisher_gauges *publisher_gauges(const struct publisher *publisher) { return &publisher->gauges; }

static void close_handle(uv_handle_t *handle, void *context) {
  (void)context;
  if (!uv_is_closing(handle)) uv_close(handle, NULL);
}

void publisher_stop(struct publisher *publisher) {
  atomic_store(&publisher->is_stopping, true);
  pthread_mutex_lock(&publisher->lock);
  pthread_cond_broadcast(&publisher->room);
  pthread_mutex_unlock(&publisher->lock);
  if (!publisher->is_started) return;
  publisher->is_started = false;
  uv_async_send(&publisher->wake);
  pthread_join(publisher->thread, NULL);
}

void publisher_free(struct publisher *publisher) {
  publisher_stop(publisher);
  take_returns(publisher);
  for (struct message *message = publisher->messages, *next; message; message = next) {
    next = message->next;
    free(message);
  }
  uv_timer_stop(&publisher->gather);
  uv_timer_stop(&publisher->second); /* the loop runs once more, and there is no resolver then */
  resolver_free(publisher->resolver);
  uv_run(&publisher->loop, UV_RUN_NOWAIT);
  size_t cursor = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&publisher->externals, &cursor));) external_free(entry->value);
  hashmap_free(&publisher->externals);
  retire_free_all(publisher->retire);
  snapshot_builder_free(publisher->builder);
  records_free(publisher->records);
  policy_slots_free(publisher->slots);
  uv_walk(&publisher->loop, close_handle, NULL);
  uv_run(&publisher->loop, UV_RUN_DEFAULT);
  uv_loop_close(&publisher->loop);
  pthread_mutex_destroy(&publisher->lock);
  pthread_cond_destroy(&publisher->room);
  pthread_cond_destroy(&publisher->first);
  free(publisher);
}
