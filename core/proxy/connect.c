/* Connect: see connect.h. An endpoint is chosen from the worker's current root at each try, by the balancer hook (`wanted`) or by arithmetic; then a pooled
 * connection is taken or a new one dialled. Worker's thread. */
#include "proxy/connect.h"

#include "base/check.h"
#include "base/error.h"
#include "proxy/lease.h"
#include "proxy/pool.h"
#include "proxy/relay.h"
#include "proxy/replace.h"
#include "proxy/reply.h"
#include "proxy/retry.h"
#include "proxy/upstream_head.h"
#include "proxy/worker.h"
#include "route/upstream.h"

enum { STALE_TRIES = 4 };

static struct balance_cursor *cursor_of(struct worker *worker, unsigned slot) {
  must(slot < worker->cursor_count); /* sized for all slots of the root when it was taken */
  return &worker->cursors[slot];
}

static enum step_result no_endpoint(struct exchange *exchange, const struct upstream *upstream) {
  /* A default backend that cannot answer is replaced by the built-in one, as in the reference. */
  if (exchange->is_default) return reply_default(exchange);
  if (exchange->replacement) return replace_failed(exchange, SPAN("it has no endpoint that is ready"));
  if (!upstream) return reply_error(exchange, 503, SPAN("the Service is not there"));
  if (upstream->count == 0 && !upstream->is_missing) return reply_error(exchange, 502, SPAN("the Service's name is not resolved"));
  return reply_error(exchange, 503, SPAN("no endpoint is ready"));
}

/* The route's own Service has no endpoint: whoever stands in for it, if that one has. */
static const struct upstream *fall_back(struct exchange *exchange) {
  const struct route *route = exchange->route;
  bool is_own = route && exchange->upstream_info == &route->upstreams[0];
  if (!is_own || route->fallback.slot == UPSTREAM_NONE) return NULL;
  const struct upstream *upstream = snapshot_upstream(exchange->worker->root, route->fallback);
  if (!upstream || upstream->count == 0) return NULL;
  exchange->is_fallback = true;
  exchange->upstream = route->fallback;
  exchange->upstream_name = upstream_shown(route->settings.fallback_upstream, &exchange->arena);
  exchange->upstream_info = NULL;
  return upstream;
}

static const struct endpoint *choose(struct exchange *exchange, const struct upstream *upstream) {
  struct worker *worker = exchange->worker;
  const struct route_settings *settings = exchange->settings;
  struct balance_request request;
  request.upstream = upstream;
  request.kind = settings->balancer;
  request.cursor = cursor_of(worker, upstream->slot);
  request.random = &worker->random;
  request.now_ms = loop_now_ms(&worker->loop);
  request.hash_key = (struct span){NULL, 0};
  request.hash_subset_size = settings->hash_subset_size > 0 ? (unsigned)settings->hash_subset_size : 0;
  if (settings->balancer == BALANCER_HASH && exchange->route && exchange->route->hash_by)
    request.hash_key = template_expand(exchange->route->hash_by, exchange_lookup, exchange, &exchange->arena);
  request.tried_count = exchange->tried_count;
  for (unsigned i = 0; i < exchange->tried_count; i++) request.tried[i] = exchange->tried[i];
  return balance_choose(&request);
}

static enum hook_result run_balancer(struct exchange *exchange) {
  const struct hook_runner *hooks = &exchange->worker->options.hooks;
  if (!exchange->route || exchange->route->hook_count[HOOK_BALANCER] == 0 || !hooks->run) return HOOK_NEXT;
  if (exchange->replacement) return HOOK_NEXT; /* the route's sessions are its application's */
  exchange->phase = HOOK_BALANCER;
  exchange->hook_index = 0;
  lease_note_hooks(exchange);
  return hooks->run(hooks->self, exchange, HOOK_BALANCER);
}

struct try_record *connect_current_try(struct exchange *exchange) {
  if (exchange->try_count == 0) return NULL;
  unsigned index = exchange->try_count - 1;
  return &exchange->tries[index < EXCHANGE_TRIES ? index : EXCHANGE_TRIES - 1];
}

static void begin_try(struct exchange *exchange, struct endpoint_record *record) {
  must(!exchange->has_load);
  exchange->endpoint = record;
  endpoint_pin(record);
  atomic_fetch_add_explicit(&record->load, 1, memory_order_relaxed);
  exchange->has_load = true;
  exchange->try_count++;
  exchange->try_started_us = loop_now_us(&exchange->worker->loop);
  exchange->failure = 0;
  exchange->failed_to_connect = exchange->head_arrived = exchange->upstream_ended = exchange->body_was_written = exchange->request_sent = false;
  exchange->is_reused_connection = false;
  *connect_current_try(exchange) =
      (struct try_record){.address = arena_span(&exchange->arena, record->name), .connect_us = -1, .header_us = -1, .response_us = -1};
}

void connect_end_try(struct exchange *exchange, int error) {
  struct try_record *record = connect_current_try(exchange);
  if (!exchange->has_load) return;
  exchange->has_load = false;
  struct endpoint_record *endpoint = exchange->endpoint;
  uint64_t took_us = loop_now_us(&exchange->worker->loop) - exchange->try_started_us;
  record->error = error;
  record->response_us = (int64_t)took_us;
  const struct codec_stream *stream = exchange->upstream_stream;
  if (stream && stream->response && stream->answer_bytes > stream->response->size) record->response_bytes = stream->answer_bytes - stream->response->size;
  if (error && error != ERROR_CANCELLED) counter_add(exchange->worker->options.counters, COUNTER_UPSTREAM_FAILURES, 1);
  if (!error && exchange->settings->balancer == BALANCER_EWMA && !exchange->is_tunnel)
    endpoint_observe(endpoint, loop_now_ms(&exchange->worker->loop), took_us);
  atomic_fetch_sub_explicit(&endpoint->load, 1, memory_order_relaxed);
  /* The pointer stays for `tried` and the hooks' upstream.endpoint; it stays pinned until the next try or the end. */
}

enum step_result step_balancer(struct exchange *exchange) {
  exchange->wanted = NULL;
  const struct upstream *upstream = exchange_upstream(exchange);
  if (!upstream || upstream->count == 0) {
    const struct upstream *other = fall_back(exchange);
    if (!other) return no_endpoint(exchange, upstream);
    upstream = other;
  }
  switch (run_balancer(exchange)) {
    case HOOK_NEXT:
      break;
    case HOOK_ANSWERED:
      must(exchange->response);
      exchange->step = STEP_REPLY;
      return STEP_MORE;
    case HOOK_WAIT:
      must(!"balancer waits");
    /* fall through */
    case HOOK_FAILED:
    default:
      return reply_error(exchange, 500, SPAN("a policy failed"));
  }
  struct endpoint_record *record = exchange->wanted;
  if (!record) {
    const struct endpoint *endpoint = choose(exchange, upstream);
    if (!endpoint) return no_endpoint(exchange, upstream);
    record = endpoint->record;
  }
  exchange->wanted = NULL;
  if (exchange->endpoint) endpoint_unpin(exchange->endpoint);
  exchange->endpoint = NULL;
  begin_try(exchange, record);
  exchange->step = STEP_CONNECT;
  return STEP_MORE;
}

/* "auto" does as the client did on our own listener. */
static bool wants_tls(const struct exchange *exchange) {
  struct span protocol = exchange->settings->protocol;
  if (span_equal_nocase(protocol, SPAN("auto"))) return span_equal(exchange_listener_scheme(exchange), SPAN("https"));
  return span_equal_nocase(protocol, SPAN("https"));
}

static bool is_supported(struct span protocol) {
  return protocol.length == 0 || span_equal_nocase(protocol, SPAN("http")) || span_equal_nocase(protocol, SPAN("https")) ||
         span_equal_nocase(protocol, SPAN("auto"));
}

static enum step_result start(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  if (!is_supported(exchange->settings->protocol)) {
    exchange_drop_upstream(exchange, ERROR_PROTOCOL);
    return reply_error(exchange, 502, SPAN("this upstream protocol is not supported yet"));
  }
  bool is_tls = wants_tls(exchange);
  exchange->connection = exchange->avoid_pool ? NULL : pool_take(worker->pool, exchange->endpoint, is_tls, exchange);
  if (exchange->connection) {
    counter_add(worker->options.counters, COUNTER_UPSTREAM_REUSED, 1);
    exchange->is_reused_connection = true;
    connect_current_try(exchange)->connect_us = 0;
    exchange->step = STEP_SEND_HEAD;
    return STEP_MORE;
  }
  exchange->connection = pool_dial(worker->pool, exchange->endpoint, is_tls, exchange);
  loop_timer_start(&worker->loop, &exchange->timer, exchange->settings->connect_timeout_ms);
  return STEP_WAIT;
}

enum step_result step_connect(struct exchange *exchange) {
  if (!exchange->connection) return start(exchange);
  if (exchange->failure) {
    exchange->failed_to_connect = true;
    endpoint_failed(exchange->endpoint, loop_now_ms(&exchange->worker->loop));
    exchange->step = STEP_RETRY;
    return STEP_MORE;
  }
  if (exchange->connection->state != POOLED_BUSY) return STEP_WAIT;
  endpoint_succeeded(exchange->endpoint);
  connect_current_try(exchange)->connect_us = (int64_t)(loop_now_us(&exchange->worker->loop) - exchange->try_started_us);
  exchange->step = STEP_SEND_HEAD;
  return STEP_MORE;
}

void connect_opened(struct exchange *exchange, int status) {
  must(exchange_of(exchange)->step == STEP_CONNECT);
  exchange->failure = status;
  exchange_run(exchange);
}

enum step_result step_send_head(struct exchange *exchange) {
  struct codec_stream *stream = codec_upstream_open(exchange->connection->codec, &exchange->arena);
  stream->events = &relay_upstream_events;
  stream->owner = exchange;
  stream->head_limit = exchange->settings->head_limit;
  exchange->upstream_stream = stream;
  stream->ops->send_request(stream, upstream_head_make(exchange));
  exchange->body_was_written = true;
  exchange->step = STEP_RELAY;
  relay_begin(exchange);
  return STEP_MORE;
}

/* Another end closed a kept connection just when we used it. */
static bool is_stale(const struct exchange *exchange) {
  return exchange->is_reused_connection && exchange->failure && exchange->failure != ERROR_TIMEOUT && !exchange->head_arrived &&
         exchange->stale_tries < STALE_TRIES && (!exchange->upstream_stream || exchange->upstream_stream->answer_bytes == 0);
}

bool connect_may_retry(const struct exchange *exchange) {
  const struct request_head *request = replace_request(exchange);
  const struct upstream *upstream = exchange_upstream(exchange);
  bool has_body = request->body.framing != BODY_NONE;
  int error = exchange->failure;
  bool was_written = exchange->upstream_stream && (exchange->upstream_stream->is_request_on_wire || error == 0 || error == ERROR_TIMEOUT);
  /* Once part of a body that is not held has left the buffer, it cannot be sent from its beginning. */
  if (has_body && !exchange->body_is_whole && exchange->body_bytes_received > buffer_length(&exchange->body)) was_written = true;
  struct retry_facts facts = {
      .error = error,
      .status = error == 0 && exchange->response ? exchange->response->status : 0,
      .was_written = was_written,
      .has_answer_begun = exchange->response_started,
      .has_body = has_body,
      .body_is_held = exchange->body_is_whole,
      .method = request->method,
      .is_stale = is_stale(exchange),
      .tries = exchange->try_count - exchange->stale_tries - (exchange->replacement ? exchange->replacement->tries_before : 0),
      .endpoints = upstream ? upstream->count : 0,
      .elapsed_ms = exchange_duration_us(exchange) / 1000,
  };
  return exchange->stream && retry_is_allowed(&facts, exchange->settings);
}

enum step_result step_retry(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  int error = exchange->failure;
  bool again = connect_may_retry(exchange), stale = is_stale(exchange);
  loop_timer_stop(&worker->loop, &exchange->timer);
  exchange_drop_upstream(exchange, error);
  if (again) {
    counter_add(worker->options.counters, COUNTER_UPSTREAM_RETRIES, 1);
    exchange->response = NULL;
    /* Nobody takes the rest of the body until the next try is under way. */
    if (!exchange->request_ended) exchange->stream->ops->pause(exchange->stream, PAUSE_NOT_READY);
    if (stale) {
      exchange->stale_tries++;
      exchange->avoid_pool = exchange->stale_tries >= 2;
    } else if (exchange->tried_count < BALANCE_TRIED) {
      exchange->tried[exchange->tried_count++] = exchange->endpoint;
    }
    exchange->step = STEP_BALANCER;
    return STEP_MORE;
  }
  struct span upstream = exchange->upstream_name, endpoint = exchange->endpoint->name;
  log_write(worker->options.log, LOG_WARN, "upstream failed", "upstream=\"%.*s\" endpoint=\"%.*s\" error=\"%s\" tries=%u", (int)upstream.length,
            upstream.data ? upstream.data : "", (int)endpoint.length, endpoint.data, error_text(error), exchange->try_count);
  if (exchange->replacement) return replace_failed(exchange, span_of(error_text(error)));
  return reply_error(exchange, retry_final_status(error), span_of(error_text(error)));
}
