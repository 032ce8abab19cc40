/* Exchange: making and ending one, the runner, and what policies may change. Structs are pooled per worker; everything else of
 * one is in its arena. Worker's thread. */
#include "proxy/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/error.h"
#include "http/cookie.h"
#include "proxy/client.h"
#include "proxy/connect.h"
#include "proxy/detach.h"
#include "proxy/relay.h"
#include "proxy/replace.h"
#include "proxy/reply.h"
#include "proxy/slice.h"
#include "proxy/step_table.h"
#include "proxy/tally.h"
#include "route/upstream.h"

struct exchange *exchange_of(void *pointer) {
  struct exchange *exchange = pointer;
  must(exchange->magic == EXCHANGE_MAGIC);
  return exchange;
}

struct exchange *exchange_new(struct worker *worker, struct client *client) {
  struct exchange *exchange = worker->free_exchanges;
  if (exchange) {
    worker->free_exchanges = (struct exchange *)exchange->script;
    memset(exchange, 0, offsetof(struct exchange, tries));
  } else {
    exchange = calloc(1, sizeof *exchange);
    must(exchange);
  }
  exchange->magic = EXCHANGE_MAGIC;
  exchange->worker = worker;
  exchange->client = client;
  exchange->phase = HOOK_PHASES;
  exchange->settings = &worker->default_settings;
  arena_init(&exchange->arena, &worker->blocks, 0);
  list_insert_last(&worker->exchanges, &exchange->node);
  worker->exchange_count++;
  timer_init(&exchange->timer, relay_timer_fired);
  exchange->started_us = loop_now_us(&worker->loop);
  return exchange;
}

void exchange_release(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  struct codec_stream *stream = exchange->stream;
  must(exchange->magic == EXCHANGE_MAGIC && !exchange->upstream_stream && !exchange->connection && !exchange->wait);
  if (exchange->script) worker->options.hooks.end(worker->options.hooks.self, exchange);
  exchange->script = NULL;
  loop_timer_stop(&worker->loop, &exchange->timer);
  replace_end(exchange);
  slice_end(exchange);
  detach_drop_leases(exchange);
  relay_drop_body(exchange);
  if (exchange->endpoint) endpoint_unpin(exchange->endpoint);
  exchange->endpoint = NULL;
  exchange->stream = NULL;
  if (stream) {
    /* An answer that was begun and not completed must not look like a whole one. */
    if (exchange->response_ended && !exchange->client_left) stream->ops->finish(stream);
    else stream->ops->abort(stream);
  }
  list_remove(&exchange->node);
  arena_free(&exchange->arena);
  worker->exchange_count--;
  exchange->magic = 0;
  exchange->script = worker->free_exchanges;
  worker->free_exchanges = exchange;
  worker_check_drained(worker);
}

void exchange_run(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  struct exchange *outer = atomic_load_explicit(&worker->running, memory_order_relaxed);
  enum step_result result = STEP_MORE;
  must(exchange->magic == EXCHANGE_MAGIC && !exchange->is_running);
  atomic_store_explicit(&worker->running, exchange, memory_order_relaxed);
  exchange->is_running = true;
  while (result == STEP_MORE) {
    exchange->trace[exchange->trace_count++ % EXCHANGE_TRACE] = (unsigned char)exchange->step;
    result = step_table[exchange->step].run(exchange);
  }
  if (result == STEP_WAIT) exchange->is_running = false;
  atomic_store_explicit(&worker->running, outer, memory_order_relaxed);
}

void exchange_hook_resume(struct exchange *exchange) {
  must(exchange_of(exchange)->wait);
  exchange_run(exchange);
}

void exchange_stop_hook(struct exchange *exchange) {
  if (exchange->wait) exchange->worker->options.hooks.cancel(exchange->worker->options.hooks.self, exchange);
}

void exchange_drop_upstream(struct exchange *exchange, int error) {
  struct codec_stream *stream = exchange->upstream_stream;
  struct pooled *connection = exchange->connection;
  connect_end_try(exchange, error);
  exchange->upstream_stream = NULL;
  exchange->connection = NULL;
  if (stream) stream->ops->abort(stream);
  if (connection) pool_drop(exchange->worker->pool, connection);
}

void exchange_cancel(struct exchange *exchange) {
  exchange_stop_hook(exchange);
  exchange->client_left = true;
  if (!exchange->response_started && !exchange->log_status) exchange->log_status = 499;
  exchange->step = STEP_LOG;
  exchange_run(exchange);
}

/* ---- what policies may do -------------------------------------------------------------------------------------------------- */

void exchange_set_path(struct exchange *exchange, struct span decoded) {
  exchange->uri.path = arena_span(&exchange->arena, decoded);
  exchange->path_changed = true;
}

void exchange_set_query(struct exchange *exchange, struct span query) {
  exchange->uri.query = query.data ? arena_span(&exchange->arena, query) : (struct span){NULL, 0};
  exchange->path_changed = true;
}

void exchange_set_method(struct exchange *exchange, struct span method) { exchange->request->method = arena_span(&exchange->arena, method); }

int exchange_use_upstream(struct exchange *exchange, struct upstream_ref upstream, struct span name) {
  if (exchange->upstream_is_set_by_policy) return ERROR_INVALID;
  struct span main_name = exchange->upstream_name;
  exchange->upstream_is_set_by_policy = true;
  exchange->upstream = upstream;
  exchange->upstream_name = upstream_shown(name, &exchange->arena);
  exchange->upstream_info = NULL;
  exchange->is_default = false;
  for (unsigned i = 1; exchange->route && i < exchange->route->upstream_count; i++) {
    const struct weighted_upstream *other = &exchange->route->upstreams[i];
    if (other->upstream.slot != upstream.slot || other->upstream.generation != upstream.generation) continue;
    exchange->upstream_info = other;
    exchange->alternative_name = exchange->upstream_name;
    exchange->main_name = main_name; /* as the facts, which stay the route's own: as in the reference */
    tally_alternative(exchange, other);
  }
  return 0;
}

const struct upstream *exchange_upstream(const struct exchange *exchange) {
  if (!exchange->upstream_name.length) return NULL;
  return snapshot_upstream(exchange->worker->root, exchange->upstream);
}

void exchange_respond(struct exchange *exchange, int status, const struct headers *headers, struct span body) {
  struct response_head *response = reply_make(exchange, status, ANSWER_POLICY);
  struct arena *arena = &exchange->arena;
  for (unsigned i = 0; headers && i < headers->count; i++) {
    const struct header *header = &headers->items[i];
    if (header->removed) continue;
    headers_add(&response->headers, header->id, arena_span(arena, header->name), arena_span(arena, header->value));
  }
  exchange->reply_body = arena_span(arena, body);
  response->body.length = body.length;
  exchange->is_final = true;
}

void exchange_deny(struct exchange *exchange, int status, struct span reason) {
  (void)reply_error(exchange, status, arena_span(&exchange->arena, reason));
  exchange->source = ANSWER_POLICY;
}

void exchange_redirect(struct exchange *exchange, int status, struct span location) {
  struct response_head *response = reply_make(exchange, status, ANSWER_POLICY);
  headers_add(&response->headers, HEADER_LOCATION, SPAN("Location"), arena_span(&exchange->arena, location));
  headers_add(&response->headers, HEADER_CONTENT_TYPE, SPAN("Content-Type"), SPAN("text/html"));
  exchange->reply_body = status_page(status, &exchange->arena);
  response->body.length = exchange->reply_body.length;
  exchange->is_final = true;
}

struct arena *exchange_scratch(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  if (exchange->phase != HOOK_BODY_FILTER) return &exchange->arena;
  arena_free(&worker->scratch);
  arena_init(&worker->scratch, &worker->blocks, 0);
  return &worker->scratch;
}

static void set_value(struct exchange *exchange, struct variable_value *variable, struct span value) {
  if (exchange->phase != HOOK_BODY_FILTER) {
    variable->value = arena_span(&exchange->arena, value);
    return;
  }
  if (!variable->room) variable->room = arena_alloc(&exchange->arena, LIMIT_VARIABLE_BYTES);
  if (value.length) memcpy(variable->room, value.data, value.length);
  variable->value = span_make(variable->room, value.length);
}

int exchange_set_variable(struct exchange *exchange, struct span name, struct span value) {
  if (value.length > LIMIT_VARIABLE_BYTES) {
    counter_add(exchange->worker->options.counters, COUNTER_LIMIT_VARIABLE_BYTES, 1);
    return ERROR_LIMIT;
  }
  for (unsigned i = 0; i < exchange->variable_count; i++) {
    if (!span_equal(exchange->variables[i].name, name)) continue;
    set_value(exchange, &exchange->variables[i], value);
    return 0;
  }
  if (exchange->variable_count == LIMIT_VARIABLES) {
    counter_add(exchange->worker->options.counters, COUNTER_LIMIT_VARIABLES, 1);
    return ERROR_LIMIT;
  }
  struct variable_value *added = &exchange->variables[exchange->variable_count++];
  *added = (struct variable_value){.name = arena_span(&exchange->arena, name)};
  set_value(exchange, added, value);
  return 0;
}

struct span exchange_variable(const struct exchange *exchange, struct span name) {
  for (unsigned i = 0; i < exchange->variable_count; i++)
    if (span_equal(exchange->variables[i].name, name)) return exchange->variables[i].value;
  return (struct span){NULL, 0};
}

struct span exchange_cookie(const struct exchange *exchange, struct span name) {
  enum limit_reached limit;
  if (!exchange->request) return (struct span){NULL, 0};
  struct span value = cookie_get(&exchange->request->headers, name, &limit);
  counter_limit(exchange->worker->options.counters, limit);
  return value;
}

/* ---- facts ----------------------------------------------------------------------------------------------------------------- */

uint64_t exchange_duration_us(const struct exchange *exchange) {
  uint64_t end = exchange->ended_us ? exchange->ended_us : loop_now_us(&exchange->worker->loop);
  return end > exchange->started_us ? end - exchange->started_us : 0;
}

/* Asked for seldom, and so worked out then: what an exchange notes at its beginning is the monotonic clock. */
int64_t exchange_started_unix_us(const struct exchange *exchange) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  int64_t age = (int64_t)(loop_now_us(&exchange->worker->loop) - exchange->started_us);
  return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000 + (int64_t)exchange->worker->loop.skipped_ms * 1000 - age;
}

static const struct link *link_of(const struct exchange *exchange) {
  return exchange->client && exchange->client->codec ? codec_client_link(exchange->client->codec) : NULL;
}

const struct link_tls_info *exchange_tls(const struct exchange *exchange) {
  const struct link *link = link_of(exchange);
  return link ? link_tls(link) : NULL;
}

struct span exchange_listener_scheme(const struct exchange *exchange) { return exchange->client && exchange->client->is_https ? SPAN("https") : SPAN("http"); }

uint16_t exchange_listener_port(const struct exchange *exchange) { return exchange->client ? exchange->client->listener_port : 0; }
uint16_t exchange_client_port(const struct exchange *exchange) { return exchange->client ? address_port(&exchange->client->peer) : 0; }

const char *exchange_step_name(enum exchange_step step) { return (unsigned)step < STEP_COUNT ? step_table[step].name : "?"; }

size_t exchange_describe(const struct exchange *exchange, char *out, size_t size) {
  struct span host = exchange->host_name, path = exchange->facts.path, id = exchange->request_id;
  int length = snprintf(out, size, "id=%.*s host=%.*s route=%.*s step=%s steps=", (int)id.length, id.data ? id.data : "", (int)host.length,
                        host.data ? host.data : "", (int)path.length, path.data ? path.data : "", exchange_step_name(exchange->step));
  size_t used = length < 0 ? 0 : (size_t)length < size ? (size_t)length : size - 1;
  unsigned count = exchange->trace_count < EXCHANGE_TRACE ? exchange->trace_count : EXCHANGE_TRACE;
  for (unsigned i = 0; i < count && used + 1 < size; i++) {
    unsigned step = exchange->trace[(exchange->trace_count - count + i) % EXCHANGE_TRACE];
    length = snprintf(out + used, size - used, "%s%s", i ? ">" : "", exchange_step_name((enum exchange_step)step));
    used += length < 0 ? 0 : (size_t)length < size - used ? (size_t)length : size - used - 1;
  }
  return used;
}
