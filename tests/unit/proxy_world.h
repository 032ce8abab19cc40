/* A worker with its world for proxy tests: hosts and upstreams as packed bodies, clients and endpoints as memory links that the test plays by hand, roots that
 * are swapped and given back, units freed at the first moment at which the proxy may no longer touch them. Included by one test each. */
#ifndef TESTS_PROXY_WORLD_H
#define TESTS_PROXY_WORLD_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/pack.h"
#include "proxy/client.h"
#include "proxy/worker.h"
#include "route/router.h"
#include "route/upstream.h"

#ifndef MAX_PEERS
#define MAX_PEERS 64
#endif
#define MAX_RECORDS 8

struct peer {
  struct link *link;
  struct buffer in;
  bool is_ended, is_paused;
  int error;
  uint64_t taken;
  struct endpoint_record *record; /* endpoints: whose connection */
};

struct world {
  struct worker worker;
  struct counters counters;
  struct log log;
  struct buffer access; /* lines of both logs */
  struct snapshot_builder *builder;
  struct snapshot *root;
  uint32_t next_id;
  struct endpoint_record records[MAX_RECORDS];
  char names[MAX_RECORDS][ADDRESS_TEXT];
  unsigned record_count;
  bool refuses[MAX_RECORDS];       /* dialling that record is refused */
  struct peer *servers[MAX_PEERS]; /* accepted by endpoints, in order */
  unsigned server_count;
  struct peer *clients[MAX_PEERS];
  unsigned client_count;
  struct unit *retired[256]; /* replaced, still listed */
  unsigned retired_count, most_retired;
  unsigned roots_back;
  _Atomic uint64_t budget;
  struct traffic_table *traffic; /* NULL: nothing is counted */
};

static struct world world;

static inline void put_pair(struct buffer *out, const char *key, const char *value) {
  pack_put_string(out, span_of(key));
  pack_put_string(out, span_of(value));
}

/* ---- peers: the other ends of memory links ---- */

static inline size_t peer_read(void *owner, const char *data, size_t length) {
  struct peer *peer = owner;
  if (peer->is_paused) return 0;
  peer->taken += length;
  buffer_append(&peer->in, span_make(data, length));
  return length;
}
static inline void peer_end(void *owner, int error) {
  struct peer *peer = owner;
  peer->is_ended = true;
  peer->error = error;
}
static inline void peer_nothing(void *owner) { (void)owner; }
static const struct link_events peer_events = {.on_read = peer_read, .on_end = peer_end, .on_drain = peer_nothing};

static inline struct peer *peer_new(struct link *link) {
  struct peer *peer = calloc(1, sizeof *peer);
  peer->link = link;
  link_set_owner(link, &peer_events, peer);
  link_start(link);
  return peer;
}
static inline void peer_close(struct peer *peer) {
  if (peer->link) link_close(peer->link);
  peer->link = NULL;
}
static inline void peer_free(struct peer *peer) {
  peer_close(peer);
  buffer_free(&peer->in);
  free(peer);
}
static inline void turn(void) { loop_run_once(&world.worker.loop, 1); }
static inline void turns(int count) {
  while (count-- > 0) turn();
}
static inline void peer_send(struct peer *peer, const char *text) {
  if (peer->link) link_write_span(peer->link, span_of(text));
  turn();
}
static inline bool peer_has(const struct peer *peer, const char *text) {
  struct span in = buffer_span(&peer->in);
  return in.length && memmem(in.data, in.length, text, strlen(text)) != NULL;
}
/* Waits until it got `text`. */
static inline void peer_await(struct peer *peer, const char *text) {
  for (int i = 0; i < 3000 && !peer_has(peer, text); i++) turn();
  if (peer_has(peer, text)) return;
  struct span in = buffer_span(&peer->in);
  fail_msg("did not get \"%s\" but \"%.*s\"", text, (int)in.length, in.data ? in.data : "");
}
static inline void peer_await_end(struct peer *peer) {
  for (int i = 0; i < 3000 && !peer->is_ended; i++) turn();
  assert_true(peer->is_ended);
}
static inline void peer_clear(struct peer *peer) { buffer_consume(&peer->in, buffer_length(&peer->in)); }

static inline struct peer *client_connect_as(bool is_https, uint16_t port) {
  struct link *ends[2];
  must(world.client_count < MAX_PEERS);
  link_pair(&world.worker.loop, ends);
  (void)worker_serve(&world.worker, ends[0], is_https, port);
  return world.clients[world.client_count++] = peer_new(ends[1]);
}
static inline struct peer *client_connect(void) { return client_connect_as(false, 80); }

static inline struct peer *server_await(unsigned index) {
  for (int i = 0; i < 3000 && world.server_count <= index; i++) turn();
  if (world.server_count <= index) fail_msg("no connection %u to an endpoint", index);
  return world.servers[index];
}

static inline struct link *dial(void *context, struct worker *worker, struct endpoint_record *record) {
  (void)context;
  struct link *ends[2];
  if (world.refuses[record - world.records]) return NULL;
  must(world.server_count < MAX_PEERS);
  link_pair(&worker->loop, ends);
  world.servers[world.server_count] = peer_new(ends[1]);
  world.servers[world.server_count++]->record = record;
  return ends[0];
}

/* ---- units and roots ---- */

static inline struct endpoint_record *find_record(void *context, const struct address *address, struct span upstream) {
  (void)context;
  (void)upstream;
  for (unsigned i = 0; i < world.record_count; i++)
    if (address_equal(&world.records[i].address, address)) return &world.records[i];
  must(world.record_count < MAX_RECORDS);
  struct endpoint_record *record = &world.records[world.record_count];
  record->magic = ENDPOINT_MAGIC;
  record->address = *address;
  record->name = span_make(world.names[world.record_count], address_format(address, world.names[world.record_count]));
  record->index = world.record_count++;
  atomic_store(&record->is_listed, true);
  return record;
}
static inline struct upstream_ref find_slot(void *context, struct span name) {
  (void)context;
  return snapshot_upstream_slot(world.builder, name);
}
static inline uint32_t find_policy(void *context, struct span name) {
  (void)context;
  (void)name;
  return 0;
}

static inline void replaced(struct unit *unit) {
  if (!unit) return;
  must(world.retired_count < 256);
  world.retired[world.retired_count++] = unit;
}
static inline void born(struct unit *unit) { unit->id = ++world.next_id; }

/* Units that the worker did not list are freed at once, so that ASan sees a late use. */
static inline void give_back(void *context, struct snapshot *root, struct unit *const *leased, unsigned count) {
  (void)context;
  unsigned kept = 0;
  world.roots_back++;
  for (unsigned i = 0; i < world.retired_count; i++) {
    struct unit *unit = world.retired[i];
    for (unsigned j = 0; j < count; j++)
      if (leased[j] == unit) unit->listed = 1;
    if (unit->listed) world.retired[kept++] = unit;
    else unit->release(unit);
  }
  world.retired_count = kept;
  if (kept > world.most_retired) world.most_retired = kept;
  snapshot_free(root);
}
static inline void unit_done(void *context, struct unit *unit) {
  (void)context;
  for (unsigned i = 0; i < world.retired_count; i++) {
    if (world.retired[i] != unit) continue;
    must(unit->listed == 1);
    world.retired[i] = world.retired[--world.retired_count];
    unit->release(unit);
    return;
  }
  must(!"a unit that was not listed is done");
}

static inline void publish(void) {
  world.root = snapshot_build(world.builder);
  must(worker_give_root(&world.worker, world.root) == NULL);
  turns(2);
}

/* One endpoint per port, at 127.0.0.1. */
static inline void put_upstream(const char *name, const int *ports, unsigned count) {
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, 4);
  put_pair(&body, "namespace", "default");
  put_pair(&body, "service", "web");
  put_pair(&body, "port", "80");
  pack_put_string(&body, SPAN("endpoints"));
  pack_put_array(&body, count);
  for (unsigned i = 0; i < count; i++) {
    pack_put_map(&body, 3);
    put_pair(&body, "ip", "127.0.0.1");
    pack_put_string(&body, SPAN("port"));
    pack_put_integer(&body, ports[i]);
    pack_put_string(&body, SPAN("ready"));
    pack_put_boolean(&body, true);
  }
  struct upstream *upstream = upstream_new(span_of(name), buffer_span(&body), find_record, NULL, error, sizeof error);
  buffer_free(&body);
  if (!upstream) fail_msg("upstream: %s", error);
  born(&upstream->unit);
  replaced(snapshot_put_upstream(world.builder, span_of(name), upstream));
}

struct option {
  const char *name;
  double number;
};

/* foo.test: "/" leads to default/web/80, with hooks of the policy "probe", whose config is empty. */
static inline void put_hooked_host(const char *const *phases, uint32_t count) {
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, 1);
  pack_put_string(&body, SPAN("routes"));
  pack_put_array(&body, 1);
  pack_put_map(&body, 4);
  put_pair(&body, "path", "/");
  put_pair(&body, "type", "prefix");
  pack_put_string(&body, SPAN("upstreams"));
  pack_put_array(&body, 1);
  pack_put_map(&body, 4);
  put_pair(&body, "name", "default-web-80");
  put_pair(&body, "service", "web");
  put_pair(&body, "port", "80");
  pack_put_string(&body, SPAN("weight"));
  pack_put_integer(&body, 1);
  pack_put_string(&body, SPAN("hooks"));
  pack_put_map(&body, count);
  for (uint32_t i = 0; i < count; i++) {
    pack_put_string(&body, span_of(phases[i]));
    pack_put_array(&body, 1);
    pack_put_map(&body, 2);
    put_pair(&body, "policy", "probe");
    pack_put_string(&body, SPAN("config"));
    pack_put_map(&body, 0);
  }
  struct host_resolver resolver = {.upstream = find_slot, .policy = find_policy};
  struct host *host = host_new(SPAN("foo.test"), buffer_span(&body), &resolver, error, sizeof error);
  buffer_free(&body);
  if (!host) fail_msg("host: %s", error);
  born(&host->unit);
  replaced(snapshot_put_host(world.builder, SPAN("foo.test"), host));
}

/* A host with one Prefix route to upstream `upstream`. */
static inline void put_host(const char *name, const char *path, const char *upstream, const struct option *options, unsigned count) {
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, 1);
  pack_put_string(&body, SPAN("routes"));
  pack_put_array(&body, 1);
  pack_put_map(&body, 5);
  put_pair(&body, "path", path);
  put_pair(&body, "type", "prefix");
  pack_put_string(&body, SPAN("source"));
  pack_put_map(&body, 3);
  put_pair(&body, "kind", "Ingress");
  put_pair(&body, "namespace", "default");
  put_pair(&body, "name", "shop");
  pack_put_string(&body, SPAN("upstreams"));
  pack_put_array(&body, 1);
  pack_put_map(&body, 4);
  put_pair(&body, "name", upstream);
  put_pair(&body, "service", "web");
  put_pair(&body, "port", "80");
  pack_put_string(&body, SPAN("weight"));
  pack_put_integer(&body, 1);
  pack_put_string(&body, SPAN("settings"));
  pack_put_map(&body, count);
  for (unsigned i = 0; i < count; i++) {
    pack_put_string(&body, span_of(options[i].name));
    const struct route_setting_info *info = route_setting_find(span_of(options[i].name));
    must(info);
    if (info->type == ROUTE_SETTING_FLAG) pack_put_boolean(&body, options[i].number != 0);
    else pack_put_number(&body, options[i].number);
  }
  struct host_resolver resolver = {.upstream = find_slot, .policy = find_policy, .traffic = world.traffic};
  struct host *host = host_new(span_of(name), buffer_span(&body), &resolver, error, sizeof error);
  buffer_free(&body);
  if (!host) fail_msg("host: %s", error);
  born(&host->unit);
  replaced(snapshot_put_host(world.builder, span_of(name), host));
}

static inline void put_settings(struct settings *settings) {
  must(settings);
  born(&settings->unit);
  replaced(snapshot_put_settings(world.builder, settings));
}

static inline void capture(void *context, enum log_level level, struct span line) {
  (void)context;
  (void)level;
  buffer_append(&world.access, line);
  buffer_append(&world.access, SPAN("\n"));
}
static inline bool log_has(const char *text) {
  struct span all = buffer_span(&world.access);
  return all.length && memmem(all.data, all.length, text, strlen(text)) != NULL;
}

static const int one_port[] = {9001}, two_ports[] = {9001, 9002};

/* foo.test with Prefix "/" leads to one endpoint, two.test to two. */
static inline int world_up(void **state) {
  (void)state;
  char error[200];
  memset(&world, 0, sizeof world);
  world.log.capture = capture;
  struct worker_options options = {.returns = {NULL, give_back, unit_done}, .log = &world.log, .counters = &world.counters, .body_budget = &world.budget};
  must(worker_init(&world.worker, &options, error, sizeof error) == 0);
  worker_set_dial(&world.worker, dial, NULL);
  world.builder = snapshot_builder_new(7);
  put_settings(settings_new_default());
  put_upstream("default-web-80", one_port, 1);
  put_upstream("default-two-80", two_ports, 2);
  put_host("foo.test", "/", "default-web-80", NULL, 0);
  put_host("two.test", "/", "default-two-80", NULL, 0);
  publish();
  return 0;
}

/* Everything that exchanges held was given back. */
static inline void assert_at_rest(void) {
  for (int i = 0; i < 500 && world.worker.exchange_count; i++) turn();
  assert_int_equal(world.worker.exchange_count, 0);
  assert_int_equal(world.worker.lease_count, 0);
  assert_int_equal(world.worker.tunnel_count, 0);
  assert_int_equal(world.retired_count, 0);
  assert_int_equal(atomic_load(&world.budget), 0);
  unsigned pins = 0;
  for (unsigned i = 0; i < world.record_count; i++) {
    assert_int_equal(atomic_load(&world.records[i].load), 0);
    pins += atomic_load(&world.records[i].pins);
  }
  assert_int_equal(pins, pool_idle(world.worker.pool));
}

static inline int world_down(void **state) {
  (void)state;
  for (unsigned i = 0; i < world.client_count; i++) peer_close(world.clients[i]);
  turns(3);
  assert_at_rest();
  assert_int_equal(counter_get(&world.counters, COUNTER_REQUESTS), counter_get(&world.counters, COUNTER_EXCHANGES_ENDED));
  for (unsigned i = 0; i < world.server_count; i++) peer_close(world.servers[i]);
  turns(3);
  assert_int_equal(pool_idle(world.worker.pool), 0);
  struct snapshot *root = world.worker.root;
  worker_free(&world.worker);
  for (unsigned i = 0; i < world.client_count; i++) peer_free(world.clients[i]);
  for (unsigned i = 0; i < world.server_count; i++) peer_free(world.servers[i]);
  for (uint32_t i = 0; i < root->host_capacity; i++)
    if (root->hosts[i].host) root->hosts[i].host->unit.release(&root->hosts[i].host->unit);
  for (uint32_t i = 0; i < root->upstream_count; i++)
    if (root->upstreams[i].upstream) root->upstreams[i].upstream->unit.release(&root->upstreams[i].upstream->unit);
  root->settings->unit.release(&root->settings->unit);
  snapshot_free(root);
  snapshot_builder_free(world.builder);
  buffer_free(&world.access);
  return 0;
}

#endif
