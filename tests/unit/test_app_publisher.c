/* The publisher with real workers on their own threads: units change while workers lease hosts and policy sets, pin endpoints and read what their root names;
 * at rest one root and no superseded unit is left. And the end, in the order of run.c, with a name's lookup still pending. Run under ASan and under TSan. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "app/publisher.h"
#include "base/check.h"
#include "base/pack.h"
#include "proxy/lease.h"
#include "route/router.h"

enum { WORKERS = 3, HOSTS = 12, UPSTREAMS = 4, HELD = 6, CHANGES = 600, GATHER_MS = 20 /* at most, before they are published */ };

/* What plays an exchange. */
struct held {
  struct host *host;
  struct unit *policies;
  struct endpoint_record *record;
};

struct seat {
  struct worker worker;
  struct counters counters;
  struct log log;
  pthread_t thread;
  struct held held[HELD];
  void (*on_turn)(struct loop *loop, void *context);
  unsigned turns, seen;
  _Atomic bool is_quiet; /* gives everything back, takes nothing more */
};

struct world {
  struct publisher *publisher;
  struct seat *seats;
  struct worker *workers[WORKERS];
  struct log log;
  _Atomic int level;
  unsigned count;
};

static void nap(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

static void ignore_line(void *context, enum log_level level, struct span line) { (void)context, (void)level, (void)line; }

/* ---- messages ---- */

static void put_pair(struct buffer *out, const char *key, const char *value) {
  pack_put_string(out, span_of(key));
  pack_put_string(out, span_of(value));
}

static void put_change(struct buffer *out, const char *op, const char *kind, const char *key, unsigned pairs) {
  pack_put_map(out, 3 + pairs);
  put_pair(out, "op", op);
  put_pair(out, "kind", kind);
  put_pair(out, "key", key);
}

static void submit_part(struct world *world, struct buffer *changes, unsigned count, uint64_t taken_us, bool is_part) {
  struct buffer message = {0};
  pack_put_array(&message, count);
  buffer_append(&message, buffer_span(changes));
  struct span bytes = buffer_span(&message);
  publisher_submit(world->publisher, bytes.data, bytes.length, taken_us, is_part);
  buffer_free(&message);
  buffer_free(changes);
  *changes = (struct buffer){0};
}

static void submit_taken(struct world *world, struct buffer *changes, unsigned count, uint64_t taken_us) {
  submit_part(world, changes, count, taken_us, false);
}

static void submit(struct world *world, struct buffer *changes, unsigned count) { submit_taken(world, changes, count, 0); }

static void put_host(struct buffer *out, unsigned number, unsigned upstream) {
  char name[40], target[40];
  snprintf(name, sizeof name, "host-%u.test", number);
  snprintf(target, sizeof target, "up-%u", upstream);
  put_change(out, "upsert", "host", name, 1);
  pack_put_string(out, SPAN("body"));
  pack_put_map(out, 1);
  pack_put_string(out, SPAN("routes"));
  pack_put_array(out, 1);
  pack_put_map(out, 3);
  put_pair(out, "path", "/");
  put_pair(out, "type", "prefix");
  pack_put_string(out, SPAN("upstreams"));
  pack_put_array(out, 1);
  pack_put_map(out, 4);
  put_pair(out, "name", target);
  put_pair(out, "service", "web");
  put_pair(out, "port", "80");
  pack_put_string(out, SPAN("weight"));
  pack_put_integer(out, 1);
}

static void put_upstream(struct buffer *out, unsigned number, unsigned first, unsigned count) {
  char name[40], ip[40];
  snprintf(name, sizeof name, "up-%u", number);
  put_change(out, "upsert", "upstream", name, 1);
  pack_put_string(out, SPAN("body"));
  pack_put_map(out, 1);
  pack_put_string(out, SPAN("endpoints"));
  pack_put_array(out, count);
  for (unsigned i = 0; i < count; i++) {
    snprintf(ip, sizeof ip, "10.0.%u.%u", number, first + i + 1);
    pack_put_map(out, 3);
    put_pair(out, "ip", ip);
    pack_put_string(out, SPAN("port"));
    pack_put_integer(out, 80);
    pack_put_string(out, SPAN("ready"));
    pack_put_boolean(out, true);
  }
}

static void put_external(struct buffer *out, const char *name) {
  put_change(out, "upsert", "upstream", "external", 1);
  pack_put_string(out, SPAN("body"));
  pack_put_map(out, 2);
  put_pair(out, "external_name", name);
  pack_put_string(out, SPAN("external_port"));
  pack_put_integer(out, 443);
}

static void put_policies(struct buffer *out, unsigned version) {
  char source[100];
  snprintf(source, sizeof source, "return { name = \"one\", log = function() return %u end }", version);
  put_change(out, "upsert", "policies", "policies", 1);
  pack_put_string(out, SPAN("body"));
  pack_put_map(out, 1);
  pack_put_string(out, SPAN("policies"));
  pack_put_array(out, 2);
  for (unsigned i = 0; i < 2; i++) {
    pack_put_map(out, 5);
    put_pair(out, "name", i ? "two" : "one");
    put_pair(out, "owner", i ? "guest" : "builtin");
    put_pair(out, "file", i ? "two.lua" : "one.lua");
    put_pair(out, "source", i ? "return { name = \"two\" }" : source);
    pack_put_string(out, SPAN("trusted"));
    pack_put_boolean(out, i == 0);
  }
}

/* ---- workers ---- */

static void let_go(struct seat *seat, struct held *held) {
  if (!held->host) return;
  seat->seen += (unsigned)held->host->name.length + held->host->route_count; /* under the lease it is whole */
  must(held->host->unit.magic == UNIT_MAGIC);
  lease_drop(&seat->worker, &held->host->unit);
  if (held->policies) {
    must(held->policies->magic == UNIT_MAGIC);
    lease_drop(&seat->worker, held->policies);
  }
  if (held->record) {
    seat->seen += held->record->index;
    atomic_fetch_sub_explicit(&held->record->load, 1, memory_order_relaxed);
    endpoint_unpin(held->record);
  }
  *held = (struct held){0};
}

static void take(struct seat *seat, struct held *held) {
  const struct snapshot *root = seat->worker.root;
  char name[40];
  int length = snprintf(name, sizeof name, "host-%u.test", seat->turns % HOSTS);
  struct host *host = (struct host *)router_find_host(root, span_make(name, (size_t)length));
  if (!host) return;
  held->host = host;
  lease_take(&seat->worker, &host->unit);
  held->policies = root->policies;
  if (held->policies) {
    lease_take(&seat->worker, held->policies);
    lease_note_use(&seat->worker, held->policies);
  }
  if (seat->turns % 3) lease_note_use(&seat->worker, &host->unit);
  const struct upstream *upstream = host->route_count ? snapshot_upstream(root, host->routes[0].upstreams[0].upstream) : NULL;
  if (!upstream || upstream->count == 0) return;
  held->record = upstream->endpoints[seat->turns % upstream->count].record;
  endpoint_pin(held->record);
  atomic_fetch_add_explicit(&held->record->load, 1, memory_order_relaxed);
  endpoint_observe(held->record, loop_now_ms(&seat->worker.loop), seat->turns);
}

/* One of the worker's turns: one lease ends, one begins. */
static void on_turn(struct loop *loop, void *context) {
  struct seat *seat = (struct seat *)context; /* the worker comes first */
  seat->on_turn(loop, &seat->worker);
  seat->turns++;
  if (seat->worker.number == WORKERS - 1 && seat->turns % 8 == 0) nap(25); /* a slow one: roots are replaced untaken */
  bool is_quiet = atomic_load(&seat->is_quiet);
  for (unsigned i = 0; i < HELD && is_quiet; i++) let_go(seat, &seat->held[i]);
  if (is_quiet || !seat->worker.root) return;
  struct held *held = &seat->held[seat->turns % HELD];
  let_go(seat, held);
  take(seat, held);
}

static void forget(void *self, struct unit *unit) {
  (void)self;
  must(unit->magic == UNIT_MAGIC);
}

static void *worker_main(void *context) {
  struct seat *seat = context;
  while (!atomic_load(&seat->worker.command)) loop_run_once(&seat->worker.loop, 1);
  return NULL;
}

static struct world *up(const char *resolver, bool runs_workers) {
  struct world *world = calloc(1, sizeof *world);
  char error[512];
  assert_non_null(world);
  world->log = (struct log){.capture = ignore_line};
  world->seats = aligned_alloc(64, (sizeof *world->seats * WORKERS + 63) / 64 * 64);
  assert_non_null(world->seats);
  memset(world->seats, 0, sizeof *world->seats * WORKERS);
  for (unsigned i = 0; i < WORKERS; i++) world->workers[i] = &world->seats[i].worker;
  struct publisher_options options = {.workers = world->workers,
                                      .worker_count = WORKERS,
                                      .resolver = resolver,
                                      .log = &world->log,
                                      .log_level = &world->level,
                                      .script = {.lua_directory = "lua", .workers = WORKERS, .log = &world->log, .guest_memory = 8u << 20}};
  world->publisher = publisher_new(&options, error, sizeof error);
  if (!world->publisher) fail_msg("%s", error);
  for (unsigned i = 0; i < WORKERS; i++) {
    struct seat *seat = &world->seats[i];
    seat->log = world->log;
    struct worker_options worker = {
        .number = i, .hooks = {.forget = forget}, .returns = publisher_returns(world->publisher), .log = &seat->log, .counters = &seat->counters};
    assert_int_equal(worker_init(&seat->worker, &worker, error, sizeof error), 0);
    seat->on_turn = seat->worker.loop.on_turn;
    seat->worker.loop.on_turn = on_turn;
  }
  assert_int_equal(publisher_start(world->publisher), 0);
  for (unsigned i = 0; i < WORKERS && runs_workers; i++, world->count++)
    assert_int_equal(pthread_create(&world->seats[i].thread, NULL, worker_main, &world->seats[i]), 0);
  return world;
}

/* As run.c does it. */
static void down(struct world *world) {
  for (unsigned i = 0; i < world->count; i++) {
    worker_command(world->workers[i], WORKER_STOP);
    pthread_join(world->seats[i].thread, NULL);
    for (unsigned j = 0; j < HELD; j++) let_go(&world->seats[i], &world->seats[i].held[j]);
    assert_int_equal(world->workers[i]->lease_count, 0);
  }
  publisher_stop(world->publisher);
  nap(2 * GATHER_MS); /* what was gathered is due: nobody is there to be given it */
  for (unsigned i = 0; i < WORKERS; i++) worker_free(world->workers[i]);
  publisher_free(world->publisher);
  free(world->seats);
  free(world);
}

static void submit_first(struct world *world) {
  struct buffer changes = {0};
  for (unsigned i = 0; i < UPSTREAMS; i++) put_upstream(&changes, i, 0, 2);
  for (unsigned i = 0; i < HOSTS; i++) put_host(&changes, i, i % UPSTREAMS);
  submit(world, &changes, UPSTREAMS + HOSTS);
}

/* A change of each kind; some units are put, deleted and put again in one message. Returns how many changes it made. */
static unsigned put_some(struct buffer *out, unsigned number) {
  char name[40];
  switch (number % 6) {
    case 0:
      put_host(out, number % HOSTS, number % UPSTREAMS);
      put_host(out, number % HOSTS, (number + 1) % UPSTREAMS);
      return 2;
    case 1:
      put_upstream(out, number % UPSTREAMS, number % 5, 1 + number % 3);
      return 1;
    case 2:
      snprintf(name, sizeof name, "host-%u.test", number % HOSTS);
      put_change(out, "delete", "host", name, 0);
      return 1;
    case 3:
      snprintf(name, sizeof name, "up-%u", number % UPSTREAMS);
      put_change(out, "delete", "upstream", name, 0);
      put_upstream(out, number % UPSTREAMS, number % 7, 2);
      return 2;
    case 4:
      if (number % 12 == 4) put_policies(out, number);
      else put_external(out, number % 24 == 10 ? "192.0.2.7" : "nowhere.example");
      return 1;
    default:
      put_change(out, "delete", "upstream", number % 2 ? "external" : "up-3", 0);
      put_host(out, number % HOSTS, number % UPSTREAMS);
      return 2;
  }
}

static bool is_at_rest(const struct publisher_gauges *gauges) { return atomic_load(&gauges->live_roots) == 1 && atomic_load(&gauges->superseded_units) == 0; }

static void test_changes_under_leases(void **state) {
  (void)state;
  struct world *world = up("127.0.0.1:9", true);
  const struct publisher_gauges *gauges = publisher_gauges(world->publisher);
  submit_first(world);
  assert_true(publisher_wait_first(world->publisher, 20000));
  uint64_t most = 0;
  for (unsigned number = 0; number < CHANGES; number++) {
    struct buffer changes = {0};
    unsigned count = put_some(&changes, number);
    submit(world, &changes, count);
    if (number % 4 == 3) nap(8);
    uint64_t live = atomic_load(&gauges->live_roots);
    if (live > most) most = live;
  }
  assert_true(most <= WORKERS + 1);
  for (unsigned i = 0; i < WORKERS; i++) atomic_store(&world->seats[i].is_quiet, true);
  struct buffer changes = {0};
  put_host(&changes, 0, 0);
  submit(world, &changes, 1);
  for (int i = 0; i < 2000 && (!is_at_rest(gauges) || i < 50); i++) nap(5);
  assert_int_equal(atomic_load(&gauges->live_roots), 1);
  assert_int_equal(atomic_load(&gauges->superseded_units), 0);
  assert_true(atomic_load(&gauges->generation) > 50);
  assert_int_equal(atomic_load(&gauges->refused), 0);
  down(world);
}

static void await_value(const _Atomic uint64_t *value, uint64_t expected) {
  for (int i = 0; i < 2000 && atomic_load(value) != expected; i++) nap(5);
  assert_int_equal(atomic_load(value), expected);
}

static bool metrics_have(struct world *world, const char *text) {
  struct buffer out = {0};
  publisher_write_metrics(world->publisher, &out);
  bool found = memmem(out.data, out.end, text, strlen(text)) != NULL;
  buffer_free(&out);
  return found;
}

/* What dashboards see of a change: whether it was taken, which configuration is served, how long until all workers had it. */
static void test_what_is_told_of_changes(void **state) {
  (void)state;
  struct world *world = up("127.0.0.1:9", true);
  const struct publisher_gauges *gauges = publisher_gauges(world->publisher);
  submit_first(world);
  assert_true(publisher_wait_first(world->publisher, 20000));
  assert_int_equal(atomic_load(&gauges->good_messages), 1);
  assert_true(atomic_load(&gauges->is_last_good) && atomic_load(&gauges->last_good_unix) > 1600000000);
  uint64_t content = atomic_load(&gauges->content), generation = atomic_load(&gauges->generation);
  assert_true(content > 0 && content < 1ull << 53);
  struct buffer changes = {0};
  put_host(&changes, 0, 1);
  uint64_t now = uv_hrtime() / 1000;
  submit_taken(world, &changes, 1, now > 3000000 ? now - 3000000 : 1); /* three seconds ago */
  await_value(&gauges->generation, generation + 1);
  assert_true(atomic_load(&gauges->content) != content);
  for (int i = 0; i < 2000 && !metrics_have(world, "moongate_change_to_live_seconds_count 1\n"); i++) nap(5);
  assert_true(metrics_have(world, "moongate_change_to_live_seconds_bucket{le=\"2\"} 0\n"));
  assert_true(metrics_have(world, "moongate_change_to_live_seconds_count 1\n"));
  put_host(&changes, 0, 0); /* as it was */
  put_change(&changes, "upsert", "host", "bad.test", 0);
  submit(world, &changes, 2);
  await_value(&gauges->bad_messages, 1);
  assert_int_equal(atomic_load(&gauges->is_last_good), 0);
  await_value(&gauges->content, content); /* what was good of it counts */
  put_host(&changes, 1, 1);
  submit(world, &changes, 1);
  await_value(&gauges->is_last_good, 1);
  assert_true(metrics_have(world, "moongate_endpoints{state=\"ready\"} 8\n"));
  down(world);
}

/* Leases, untaken roots and a queue full of changes at the end. */
static void test_parts_are_published_with_the_rest(void **state) {
  (void)state;
  struct world *world = up("127.0.0.1:9", true);
  const struct publisher_gauges *gauges = publisher_gauges(world->publisher);
  struct buffer changes = {0};
  put_upstream(&changes, 0, 0, 1);
  submit(world, &changes, 1);
  assert_true(publisher_wait_first(world->publisher, 20000));
  uint64_t generation = atomic_load(&gauges->generation), applied = atomic_load(&gauges->changes), messages = atomic_load(&gauges->good_messages);
  put_host(&changes, 0, 0);
  submit_part(world, &changes, 1, 0, true);
  await_value(&gauges->changes, applied + 1);
  nap(50); /* longer than changes are gathered */
  assert_int_equal(atomic_load(&gauges->generation), generation);
  put_host(&changes, 1, 0);
  submit_part(world, &changes, 1, 0, false);
  await_value(&gauges->generation, generation + 1);
  await_value(&gauges->hosts, 2);
  assert_int_equal(atomic_load(&gauges->good_messages), messages + 1);
  put_change(&changes, "upsert", "nothing", "x", 0);
  submit_part(world, &changes, 1, 0, true);
  put_host(&changes, 2, 0);
  submit_part(world, &changes, 1, 0, false);
  await_value(&gauges->bad_messages, 1); /* one bad part makes a bad message */
  down(world);
}

static void test_end_in_the_middle(void **state) {
  (void)state;
  struct world *world = up("127.0.0.1:9", true);
  submit_first(world);
  assert_true(publisher_wait_first(world->publisher, 20000));
  for (unsigned number = 0; number < CHANGES / 4; number++) {
    struct buffer changes = {0};
    unsigned count = put_some(&changes, number);
    submit(world, &changes, count);
  }
  nap(5);
  down(world);
}

static void test_end_while_changes_are_gathered(void **state) {
  (void)state;
  struct world *world = up("127.0.0.1:9", true);
  const struct publisher_gauges *gauges = publisher_gauges(world->publisher);
  submit_first(world);
  assert_true(publisher_wait_first(world->publisher, 20000));
  struct buffer changes = {0};
  put_host(&changes, 0, 1);
  uint64_t before = atomic_load(&gauges->changes);
  submit(world, &changes, 1);
  while (atomic_load(&gauges->changes) == before) sched_yield();
  down(world);
}

/* Workers that never ran have their root in the inbox. */
static void test_end_before_workers_run(void **state) {
  (void)state;
  struct world *world = up(NULL, false);
  submit_first(world);
  assert_true(publisher_wait_first(world->publisher, 20000));
  down(world);
}

/* ---- names ---- */

struct name_server {
  int fd;
  char text[40];
  pthread_t thread;
  _Atomic unsigned answered; /* questions for an A record of good.test */
};

/* "good.test" is 192.0.2.9 for a second; nothing else is known. Ends with an empty datagram. */
static void *answer_names(void *context) {
  struct name_server *server = context;
  unsigned char packet[1024];
  static const unsigned char record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 192, 0, 2, 9};
  for (;;) {
    struct sockaddr_in from;
    socklen_t size = sizeof from;
    ssize_t length = recvfrom(server->fd, packet, 512, 0, (struct sockaddr *)&from, &size);
    if (length < 12) return NULL;
    size_t end = 12;
    while (packet[end]) end += 1 + (size_t)packet[end];
    end += 5;
    bool is_known = memcmp(packet + 12, "\x04good\x04test", 10) == 0, is_a = packet[end - 3] == 1;
    packet[2] = 0x81;
    packet[3] = is_known ? 0x80 : 0x83;
    memset(packet + 6, 0, 6);
    if (is_known && is_a) {
      packet[7] = 1;
      memcpy(packet + end, record, sizeof record);
      end += sizeof record;
    }
    sendto(server->fd, packet, end, 0, (struct sockaddr *)&from, size);
    if (is_known && is_a) atomic_fetch_add(&server->answered, 1);
  }
}

static void name_server_up(struct name_server *server) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  server->fd = socket(AF_INET, SOCK_DGRAM, 0);
  assert_int_equal(bind(server->fd, (struct sockaddr *)&address, size), 0);
  assert_int_equal(getsockname(server->fd, (struct sockaddr *)&address, &size), 0);
  snprintf(server->text, sizeof server->text, "127.0.0.1:%u", ntohs(address.sin_port));
}

static void name_server_down(struct name_server *server) {
  struct sockaddr_in address;
  socklen_t size = sizeof address;
  getsockname(server->fd, (struct sockaddr *)&address, &size);
  sendto(server->fd, "", 0, 0, (struct sockaddr *)&address, size);
  pthread_join(server->thread, NULL);
  close(server->fd);
}

static void submit_external(struct world *world, const char *name) {
  struct buffer changes = {0};
  put_external(&changes, name);
  submit(world, &changes, 1);
}

static void await_records(struct world *world, uint64_t count) {
  const struct publisher_gauges *gauges = publisher_gauges(world->publisher);
  for (int i = 0; i < 2000 && atomic_load(&gauges->records) != count; i++) nap(5);
  assert_int_equal(atomic_load(&gauges->records), count);
}

/* The same answer again is no change; a name that took another's place is not served by the other's addresses once it turns out to be unknown. */
static void test_names(void **state) {
  (void)state;
  struct name_server server = {.fd = -1};
  name_server_up(&server);
  assert_int_equal(pthread_create(&server.thread, NULL, answer_names, &server), 0);
  struct world *world = up(server.text, true);
  const struct publisher_gauges *gauges = publisher_gauges(world->publisher);
  submit_external(world, "good.test");
  await_records(world, 1);
  for (int i = 0; i < 1000 && !is_at_rest(gauges); i++) nap(5);
  uint64_t generation = atomic_load(&gauges->generation);
  unsigned answered = atomic_load(&server.answered);
  for (int i = 0; i < 2000 && atomic_load(&server.answered) == answered; i++) nap(5);
  assert_true(atomic_load(&server.answered) > answered); /* looked up again */
  nap(100);
  assert_int_equal(atomic_load(&gauges->generation), generation);
  submit_external(world, "unknown.test");
  await_records(world, 0);
  submit_external(world, "good.test");
  await_records(world, 1);
  down(world);
  name_server_down(&server);
}

/* A name server that never answers. */
static void test_end_while_a_name_is_looked_up(void **state) {
  (void)state;
  struct name_server silent = {.fd = -1};
  char query[512];
  name_server_up(&silent);
  struct world *world = up(silent.text, true);
  submit_external(world, "silent.example");
  assert_true(recv(silent.fd, query, sizeof query, 0) > 0);
  submit_external(world, "other.example"); /* the first lookup is of an upstream that is gone */
  assert_true(recv(silent.fd, query, sizeof query, 0) > 0);
  down(world);
  close(silent.fd);
}

/* The time for the next lookup comes between the end of the thread and that of the resolver. */
static void test_end_when_a_name_is_due(void **state) {
  (void)state;
  struct name_server server = {.fd = -1};
  name_server_up(&server);
  assert_int_equal(pthread_create(&server.thread, NULL, answer_names, &server), 0);
  struct world *world = up(server.text, true);
  submit_external(world, "good.test");
  await_records(world, 1);
  publisher_stop(world->publisher);
  nap(1200); /* its second is over */
  down(world);
  name_server_down(&server);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_changes_under_leases),
                                     cmocka_unit_test(test_end_in_the_middle),
                                     cmocka_unit_test(test_end_while_changes_are_gathered),
                                     cmocka_unit_test(test_what_is_told_of_changes),
                                     cmocka_unit_test(test_end_before_workers_run),
                                     cmocka_unit_test(test_names),
                                     cmocka_unit_test(test_end_while_a_name_is_looked_up),
                                     cmocka_unit_test(test_end_when_a_name_is_due),
                                     cmocka_unit_test(test_parts_are_published_with_the_rest)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
