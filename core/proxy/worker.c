/* Worker: see worker.h. Owns the loop and everything on it; the publisher and app reach it only through `inbox`, `command` and the wake handle. */
#include "proxy/worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/error.h"
#include "http/cookie.h"
#include "net/digest.h"
#include "proxy/client.h"
#include "proxy/detach.h"
#include "proxy/lease.h"

enum { BLOCK_BYTES = 8192, BLOCKS_KEPT = 1024, BACKLOG = 4096, DRAIN_TICK_MS = 1000 };

struct snapshot *worker_give_root(struct worker *worker, struct snapshot *root) {
  struct snapshot *untaken = atomic_exchange(&worker->inbox, root);
  uv_async_send(&worker->wake);
  return untaken;
}

void worker_command(struct worker *worker, enum worker_command command) {
  int before = atomic_load(&worker->command);
  while (before < (int)command && !atomic_compare_exchange_weak(&worker->command, &before, (int)command)) continue;
  uv_async_send(&worker->wake);
}

/* With max-worker-connections 0 the process's open files are the bound: a listener leaves some of them free by itself. */
void worker_bound_clients(struct worker *worker) {
  int64_t most = worker->root ? worker->root->settings->max_worker_connections : LIMIT_CONNECTIONS;
  bool has_room = most <= 0 || worker->client_count < (uint64_t)most;
  if (has_room == worker->is_accepting || worker->is_draining) return;
  worker->is_accepting = has_room;
  if (!has_room) counter_add(worker->options.counters, COUNTER_LIMIT_CONNECTIONS, 1);
  for (unsigned i = 0; i < worker->listener_count; i++) {
    if (has_room) listener_resume(worker->listeners[i]);
    else listener_pause(worker->listeners[i]);
  }
}

/* ---- roots ----------------------------------------------------------------------------------------------------------------- */

static void size_cursors(struct worker *worker, const struct snapshot *root) {
  if (root->upstream_count <= worker->cursor_count) return;
  unsigned count = worker->cursor_count ? worker->cursor_count : 64;
  while (count < root->upstream_count) count *= 2;
  worker->cursors = realloc(worker->cursors, count * sizeof *worker->cursors);
  must(worker->cursors);
  memset(worker->cursors + worker->cursor_count, 0, (count - worker->cursor_count) * sizeof *worker->cursors);
  worker->cursor_count = count;
}

void worker_take_root(struct worker *worker) {
  if (!atomic_load_explicit(&worker->inbox, memory_order_relaxed)) return;
  struct snapshot *root = atomic_exchange(&worker->inbox, NULL), *old = worker->root;
  if (!root) return;
  unsigned count = 0;
  struct unit **leased = lease_collect(worker, root, &count);
  size_cursors(worker, root);
  worker->root = root;
  counter_add(worker->options.counters, COUNTER_ROOTS_TAKEN, 1);
  pool_sweep(worker->pool);
  worker_bound_clients(worker);
  if (old && worker->options.returns.give_back) worker->options.returns.give_back(worker->options.returns.context, old, leased, count);
  free(leased);
}

/* ---- clock ----------------------------------------------------------------------------------------------------------------- */

void worker_update_clock(struct worker *worker) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  if ((int64_t)now.tv_sec == worker->date_seconds) return;
  worker->date_seconds = now.tv_sec;
  struct tm parts;
  http_date(now.tv_sec, worker->date);
  localtime_r(&now.tv_sec, &parts);
  strftime(worker->time_local, sizeof worker->time_local, "%d/%b/%Y:%H:%M:%S %z", &parts);
  char zone[16];
  strftime(zone, sizeof zone, "%z", &parts);
  size_t length = strftime(worker->time_iso8601, sizeof worker->time_iso8601, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(worker->time_iso8601 + length, sizeof worker->time_iso8601 - length, "%.3s:%.2s", zone, zone + 3);
}

/* ---- ending ---------------------------------------------------------------------------------------------------------------- */

static void close_listeners(struct worker *worker) {
  unsigned count = worker->listener_count;
  worker->listener_count = 0; /* closing accepts what is queued, and that must not look at them */
  for (unsigned i = 0; i < count; i++) listener_close(worker->listeners[i]);
}

static void shut_down_clients(struct worker *worker, bool new_ones_too) {
  for (struct list *node = worker->clients.next, *next; node != &worker->clients; node = next) {
    next = node->next;
    struct client *client = container_of(node, struct client, node);
    if (client->requests || new_ones_too) client_shut_down(client);
  }
}

static void on_drain_tick(struct timer *timer) {
  struct worker *worker = container_of(timer, struct worker, drain_timer);
  must(worker->magic == WORKER_MAGIC);
  shut_down_clients(worker, true);
  loop_timer_start(&worker->loop, &worker->drain_timer, DRAIN_TICK_MS);
}

/* A connection that was accepted just now has its first request on the way: it gets a moment, and its answer says Connection: close. */
static void drain(struct worker *worker) {
  if (worker->is_draining) return;
  worker->says_close = true;
  close_listeners(worker);
  worker->is_draining = true;
  shut_down_clients(worker, false);
  pool_sweep(worker->pool);
  loop_timer_start(&worker->loop, &worker->drain_timer, DRAIN_TICK_MS);
}

void worker_check_drained(struct worker *worker) {
  if (worker->is_draining && worker->client_count == 0 && worker->exchange_count == 0) loop_stop(&worker->loop);
}

static void obey(struct worker *worker) {
  int command = atomic_load_explicit(&worker->command, memory_order_relaxed);
  if (command >= WORKER_SAY_CLOSE && !worker->says_close) worker->says_close = true;
  if (command >= WORKER_DRAIN && !worker->is_draining) {
    drain(worker);
    worker_check_drained(worker);
  }
  if (command >= WORKER_STOP) loop_stop(&worker->loop);
}

static uint64_t clock_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* For the watchdog: 0 while polling. */
static void on_polled(uv_check_t *check) {
  struct worker *worker = container_of(check, struct worker, polled);
  atomic_store_explicit(&worker->turn_started_ms, clock_ms(), memory_order_relaxed);
}

static void on_turn(struct loop *loop, void *context) {
  struct worker *worker = context;
  (void)loop;
  must(worker->magic == WORKER_MAGIC);
  worker_take_root(worker);
  obey(worker);
  atomic_store_explicit(&worker->turn_started_ms, 0, memory_order_relaxed);
}

static void on_wake(uv_async_t *wake) { must(((struct worker *)wake->data)->magic == WORKER_MAGIC); /* the turn that follows does the work */ }

/* ---- accepting ------------------------------------------------------------------------------------------------------------- */

static void accept_client(struct worker *worker, struct link *link, bool is_https) {
  const struct address *local = link_local(link);
  (void)client_new(worker, link, is_https, local ? address_port(local) : 0);
  worker_bound_clients(worker);
}

static void on_accept_http(void *context, struct link *link) { accept_client(context, link, false); }
static void on_accept_https(void *context, struct link *link) { accept_client(context, link, true); }

static int listen_on(struct worker *worker, const struct address *address, bool is_https, char *error, size_t error_size) {
  int code = UV_EINVAL;
  if (worker->listener_count < sizeof worker->listeners / sizeof worker->listeners[0]) {
    struct listener *listener = listener_new(&worker->loop, address, true, BACKLOG, is_https ? on_accept_https : on_accept_http, worker, &code);
    if (listener) {
      worker->listeners[worker->listener_count++] = listener;
      return 0;
    }
  }
  char text[ADDRESS_TEXT];
  address_format(address, text);
  snprintf(error, error_size, "cannot listen on %s: %s", text, uv_strerror(code));
  return code;
}

/* ---- life ------------------------------------------------------------------------------------------------------------------ */

int worker_init(struct worker *worker, const struct worker_options *options, char *error, size_t error_size) {
  memset(worker, 0, sizeof *worker);
  worker->magic = WORKER_MAGIC;
  worker->number = options->number;
  worker->options = *options;
  worker->is_accepting = true;
  worker->detach_after_ms = DETACH_AFTER_MS;
  worker->date_seconds = -1;
  int code = loop_init(&worker->loop, options->counters, options->log);
  if (code) {
    snprintf(error, error_size, "cannot make an event loop: %s", uv_strerror(code));
    return code;
  }
  worker->loop.on_turn = on_turn;
  worker->loop.turn_context = worker;
  uv_async_init(&worker->loop.uv, &worker->wake, on_wake);
  worker->wake.data = worker;
  uv_check_init(&worker->loop.uv, &worker->polled);
  uv_check_start(&worker->polled, on_polled);
  list_init(&worker->leased);
  list_init(&worker->known);
  list_init(&worker->clients);
  list_init(&worker->exchanges);
  arena_cache_init(&worker->blocks, BLOCK_BYTES, BLOCKS_KEPT);
  digest_random(&worker->random.state, sizeof worker->random.state);
  worker->random.state |= 1;
  worker->pool = pool_new(worker);
  timer_init(&worker->drain_timer, on_drain_tick);
  route_settings_defaults(&worker->default_settings);
  if (gethostname(worker->hostname, sizeof worker->hostname - 1)) worker->hostname[0] = 0;
  worker_update_clock(worker);
  for (unsigned i = 0; i < options->http_count && !code; i++) code = listen_on(worker, &options->http[i], false, error, error_size);
  for (unsigned i = 0; i < options->https_count && !code; i++) code = listen_on(worker, &options->https[i], true, error, error_size);
  if (code) worker_free(worker);
  return code;
}

void worker_run(struct worker *worker) { loop_run(&worker->loop); }

void worker_free(struct worker *worker) {
  if (worker->magic != WORKER_MAGIC) return;
  worker->is_draining = true;
  close_listeners(worker);
  while (!list_is_empty(&worker->clients)) {
    client_close(container_of(worker->clients.next, struct client, node));
    unsigned turns = 0;
    for (unsigned count = worker->client_count; worker->client_count == count && count; turns++) {
      must(turns < 1000);
      loop_run_once(&worker->loop, 1);
    }
  }
  must(worker->exchange_count == 0);
  if (worker->options.hooks.stop) worker->options.hooks.stop(worker->options.hooks.self);
  loop_timer_stop(&worker->loop, &worker->drain_timer);
  pool_free(worker->pool);
  lease_free(worker);
  uv_close((uv_handle_t *)&worker->wake, NULL);
  uv_close((uv_handle_t *)&worker->polled, NULL);
  if (worker->upstream_tls) tls_client_free(worker->upstream_tls);
  loop_free(&worker->loop);
  while (worker->free_exchanges) {
    struct exchange *next = (struct exchange *)worker->free_exchanges->script;
    free(worker->free_exchanges);
    worker->free_exchanges = next;
  }
  arena_free(&worker->scratch);
  arena_cache_free(&worker->blocks);
  buffer_free(&worker->line);
  free(worker->cursors);
  worker->magic = 0;
}

void worker_set_dial(struct worker *worker, struct link *(*dial)(void *context, struct worker *worker, struct endpoint_record *record), void *context) {
  worker->dial = dial;
  worker->dial_context = context;
}

struct client *worker_serve(struct worker *worker, struct link *link, bool is_https, uint16_t listener_port) {
  return client_new(worker, link, is_https, listener_port);
}
