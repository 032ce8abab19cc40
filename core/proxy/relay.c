/* Relay: see relay.h. Bytes go straight from one stream's event to the other stream; steps run only when a head, an end or a failure arrives. A sink that is
 * full pauses its source with PAUSE_SINK_FULL, and its drain resumes it. One timer serves connect, send and read timeouts and detaching; nothing is moved per
 * event: when it fires it looks at the time of the last progress. Worker's thread. */
#include "proxy/relay.h"

#include "base/check.h"
#include "base/error.h"
#include "proxy/body_filter.h"
#include "proxy/client.h"
#include "proxy/connect.h"
#include "proxy/detach.h"
#include "proxy/pace.h"
#include "proxy/replace.h"
#include "proxy/reply.h"
#include "proxy/response_head.h"
#include "proxy/retry.h"
#include "proxy/slice.h"
#include "proxy/tunnel.h"
#include "proxy/upstream_head.h"

static uint64_t now_of(const struct exchange *exchange) { return loop_now_ms(&exchange->worker->loop); }

/* ---- the held body --------------------------------------------------------------------------------------------------------- */

void relay_charge(struct exchange *exchange, int64_t amount) {
  _Atomic uint64_t *budget = exchange->worker->options.body_budget;
  if (budget) atomic_fetch_add_explicit(budget, (uint64_t)amount, memory_order_relaxed);
  exchange->budgeted += (uint64_t)amount;
}

bool relay_is_budget_spent(const struct exchange *exchange) {
  _Atomic uint64_t *budget = exchange->worker->options.body_budget;
  return budget && atomic_load_explicit(budget, memory_order_relaxed) >= LIMIT_BODY_BUDGET_BYTES;
}

void relay_drop_body(struct exchange *exchange) {
  if (exchange->budgeted) relay_charge(exchange, -(int64_t)exchange->budgeted);
  buffer_free(&exchange->body);
  exchange->body = (struct buffer){0};
  exchange->body_is_whole = false;
}

void relay_want_body(struct exchange *exchange) {
  if (!exchange->request->expects_continue || exchange->sent_continue || exchange->request_ended) return;
  exchange->sent_continue = true;
  struct response_head head = {.status = 100, .version_minor = 1};
  headers_init(&head.headers, &exchange->arena);
  exchange->stream->ops->send_informational(exchange->stream, &head);
}

/* Whether the body is to be held, and fits so far. */
static bool holds_bodies(struct exchange *exchange) {
  const struct route_settings *settings = exchange->settings;
  const struct message_body *body = &exchange->request->body;
  uint64_t known = body->framing == BODY_LENGTH ? body->length : 0, held = buffer_length(&exchange->body);
  enum limit_reached limit = REACHED_NONE;
  if (!settings->request_buffering || settings->request_body_buffer == 0 || exchange->request->upgrade.length) return false;
  if (known > settings->request_body_buffer || held >= settings->request_body_buffer) limit = REACHED_BODY_BUFFER_BYTES;
  else if (relay_is_budget_spent(exchange)) limit = REACHED_BODY_BUDGET_BYTES;
  counter_limit(exchange->worker->options.counters, limit);
  return limit == REACHED_NONE;
}

static bool is_too_large(const struct exchange *exchange) {
  return exchange->settings->body_limit && exchange->body_bytes_received > exchange->settings->body_limit;
}

enum relay_body relay_body(const struct exchange *exchange, uint64_t most) {
  const struct message_body *body = &exchange->request->body;
  uint64_t held = buffer_length(&exchange->body), known = body->framing == BODY_LENGTH ? body->length : 0;
  if (exchange->route && exchange->settings->body_limit && exchange->settings->body_limit < most) most = exchange->settings->body_limit;
  if (known > most || held > most) return RELAY_BODY_TOO_LARGE;
  if (exchange->request_ended) return RELAY_BODY_THERE;
  return relay_is_budget_spent(exchange) ? RELAY_BODY_NO_ROOM : RELAY_BODY_COMES;
}

void relay_await_body(struct exchange *exchange, uint64_t most) {
  exchange->awaits_body = true;
  exchange->body_wanted = most;
  relay_want_body(exchange);
  exchange->stream->ops->resume(exchange->stream, PAUSE_NOT_READY);
}

void relay_leave_body(struct exchange *exchange) {
  exchange->awaits_body = false;
  if (!exchange->request_ended && exchange->stream) exchange->stream->ops->pause(exchange->stream, PAUSE_NOT_READY);
}

static void tell_hook(struct exchange *exchange) {
  if (relay_body(exchange, exchange->body_wanted) == RELAY_BODY_COMES) return;
  relay_leave_body(exchange);
  exchange_hook_resume(exchange);
}

enum step_result step_buffer(struct exchange *exchange) {
  struct codec_stream *stream = exchange->stream;
  exchange->step = STEP_BALANCER;
  if (exchange->request->body.framing == BODY_NONE) return STEP_MORE;
  if (is_too_large(exchange)) return reply_too_large(exchange);
  if (exchange->request_ended) {
    exchange->body_is_whole = true;
    return STEP_MORE;
  }
  if (!holds_bodies(exchange)) {
    if (buffer_length(&exchange->body)) stream->ops->pause(stream, PAUSE_BUFFER); /* it was being held: the rest waits for the upstream */
    return STEP_MORE;
  }
  exchange->step = STEP_BUFFER;
  relay_want_body(exchange);
  stream->ops->resume(stream, PAUSE_NOT_READY);
  return STEP_WAIT;
}

/* ---- the client's direction ------------------------------------------------------------------------------------------------ */

static void end_request(struct exchange *exchange) {
  struct codec_stream *upstream = exchange->upstream_stream;
  upstream->ops->send_end(upstream, upstream_head_trailers(exchange));
  exchange->request_sent = true;
  exchange->upstream_active_ms = now_of(exchange);
}

void relay_begin(struct exchange *exchange) {
  struct codec_stream *upstream = exchange->upstream_stream, *client = exchange->stream;
  exchange->upstream_active_ms = now_of(exchange);
  if (buffer_length(&exchange->body)) {
    struct span held = buffer_span(&exchange->body);
    upstream->ops->send_body(upstream, &held, 1);
  }
  if (exchange->replacement) {
    end_request(exchange);
  } else if (exchange->request_ended) {
    if (exchange->request->body.framing != BODY_NONE) exchange->body_is_whole = buffer_length(&exchange->body) == exchange->body_bytes_received;
    end_request(exchange);
  } else {
    relay_drop_body(exchange);
    relay_want_body(exchange);
    if (upstream->ops->is_full(upstream)) client->ops->pause(client, PAUSE_SINK_FULL);
    client->ops->resume(client, PAUSE_NOT_READY | PAUSE_BUFFER);
  }
  relay_timer_start(exchange);
}

static void forward_to_upstream(struct exchange *exchange, struct span data) {
  struct codec_stream *upstream = exchange->upstream_stream;
  upstream->ops->send_body(upstream, &data, 1);
  exchange->upstream_active_ms = now_of(exchange);
  if (!upstream->ops->is_full(upstream)) return;
  exchange->stream->ops->pause(exchange->stream, PAUSE_SINK_FULL);
  if (exchange->step == STEP_RELAY) relay_timer_start(exchange); /* from now on it is the send timeout that counts, and it may be the shorter one */
}

static void on_client_body(void *owner, struct span data) {
  struct exchange *exchange = exchange_of(owner);
  exchange->body_bytes_received += data.length;
  if (exchange->request_stopped) return;
  if (exchange->step == STEP_TUNNEL) {
    forward_to_upstream(exchange, data);
    return;
  }
  if ((exchange->step == STEP_RELAY || exchange->step == STEP_BUFFER) && is_too_large(exchange)) {
    exchange->failure = ERROR_CANCELLED;
    (void)reply_too_large(exchange);
    exchange_run(exchange);
    return;
  }
  slice_count(exchange, exchange->stream);
  if (exchange->step == STEP_RELAY && exchange->upstream_stream) {
    forward_to_upstream(exchange, data);
    return;
  }
  buffer_append(&exchange->body, data);
  relay_charge(exchange, (int64_t)data.length);
  if (exchange->awaits_body) tell_hook(exchange);
  else if (exchange->step == STEP_BUFFER && (buffer_length(&exchange->body) >= exchange->settings->request_body_buffer || relay_is_budget_spent(exchange)))
    exchange_run(exchange);
}

static void on_client_end(void *owner) {
  struct exchange *exchange = exchange_of(owner);
  if (exchange->request_ended) return;
  exchange->request_ended = true;
  if (exchange->request_stopped) return;
  if (exchange->step == STEP_RELAY && exchange->upstream_stream && !exchange->request_sent) end_request(exchange);
  else if (exchange->awaits_body) tell_hook(exchange);
  else if (exchange->step == STEP_BUFFER || exchange->step == STEP_READ_HEAD) exchange_run(exchange);
}

static void on_client_drain(void *owner) {
  struct exchange *exchange = exchange_of(owner);
  struct codec_stream *upstream = exchange->upstream_stream;
  if (!upstream) return;
  exchange->upstream_active_ms = now_of(exchange); /* it was we who made it wait */
  upstream->ops->resume(upstream, PAUSE_SINK_FULL);
}

static void on_client_half_close(void *owner) {
  struct exchange *exchange = exchange_of(owner);
  if (exchange->step != STEP_TUNNEL || exchange->client_half_closed) return;
  exchange->client_half_closed = true;
  exchange->upstream_stream->ops->half_close(exchange->upstream_stream);
  exchange_run(exchange);
}

static void on_client_abort(void *owner, int error) {
  struct exchange *exchange = exchange_of(owner);
  int status = error == ERROR_TIMEOUT ? 408 : error == ERROR_PROTOCOL ? 400 : 0;
  if (status && !exchange->response_started && exchange->step != STEP_TUNNEL) {
    exchange_stop_hook(exchange);
    exchange->reply_closes = true;
    exchange->request_stopped = true;
    exchange->failure = ERROR_CANCELLED;
    if (exchange->replacement) status = exchange->replacement->status; /* that of the answer which it would have got */
    (void)reply_error(exchange, status, span_of(error == ERROR_TIMEOUT ? "body not complete in time" : "bad body framing"));
    exchange_run(exchange);
    return;
  }
  exchange_cancel(exchange);
}

const struct codec_events relay_client_events = {
    .on_body = on_client_body,
    .on_end = on_client_end,
    .on_drain = on_client_drain,
    .on_half_close = on_client_half_close,
    .on_abort = on_client_abort,
};

/* ---- the upstream's direction ---------------------------------------------------------------------------------------------- */

static void on_upstream_head(void *owner) {
  struct exchange *exchange = exchange_of(owner);
  struct try_record *record = connect_current_try(exchange);
  exchange->head_arrived = true;
  exchange->response = exchange->upstream_stream->response;
  exchange->upstream_active_ms = now_of(exchange);
  record->status = exchange->response->status;
  record->header_us = (int64_t)(loop_now_us(&exchange->worker->loop) - exchange->try_started_us);
  exchange_run(exchange);
}

static void on_upstream_informational(void *owner, const struct response_head *head) {
  struct exchange *exchange = exchange_of(owner);
  exchange->upstream_active_ms = now_of(exchange);
  /* 100 answers us, and what we told the client about its body is our own business; 102 is obsolete. */
  if (head->status < 103 || !exchange->stream || exchange->response_started) return;
  exchange->stream->ops->send_informational(exchange->stream, head);
}

static void forward_to_client(struct exchange *exchange, struct span data) {
  struct codec_stream *client = exchange->stream;
  if (pace_is_set(exchange)) {
    pace_forward(exchange, data);
    return;
  }
  exchange->body_bytes_sent += data.length;
  client->ops->send_body(client, &data, 1);
  if (client->ops->is_full(client)) exchange->upstream_stream->ops->pause(exchange->upstream_stream, PAUSE_SINK_FULL);
}

/* False: a hook failed, and the exchange is gone. */
static bool forward_filtered(struct exchange *exchange, struct span data, bool is_last) {
  if (!body_filter_run(exchange, &data, is_last)) {
    exchange->failure = ERROR_CANCELLED;
    exchange_run(exchange);
    return false;
  }
  if (data.length) forward_to_client(exchange, data);
  return true;
}

static void on_upstream_body(void *owner, struct span data) {
  struct exchange *exchange = exchange_of(owner);
  exchange->upstream_active_ms = now_of(exchange);
  if (exchange->step == STEP_REPLACE) {
    replace_drop(exchange, data);
    return;
  }
  if (!exchange->filters_body) forward_to_client(exchange, data);
  else if (!forward_filtered(exchange, data, false)) return;
  slice_count(exchange, exchange->upstream_stream);
}

static void on_upstream_end(void *owner) {
  struct exchange *exchange = exchange_of(owner);
  exchange->upstream_ended = true;
  if (exchange->filters_body && exchange->step == STEP_RELAY && !forward_filtered(exchange, SPAN(""), true)) return;
  exchange_run(exchange);
}

static void on_upstream_drain(void *owner) {
  struct exchange *exchange = exchange_of(owner);
  exchange->upstream_active_ms = now_of(exchange);
  if (exchange->stream) exchange->stream->ops->resume(exchange->stream, PAUSE_SINK_FULL);
}

static void on_upstream_half_close(void *owner) {
  struct exchange *exchange = exchange_of(owner);
  if (exchange->step != STEP_TUNNEL || exchange->upstream_half_closed) return;
  exchange->upstream_half_closed = true;
  exchange->stream->ops->half_close(exchange->stream);
  exchange_run(exchange);
}

static void on_upstream_abort(void *owner, int error) {
  struct exchange *exchange = exchange_of(owner);
  exchange->failure = error ? error : ERROR_CLOSED;
  exchange_run(exchange);
}

const struct codec_events relay_upstream_events = {
    .on_head = on_upstream_head,
    .on_informational = on_upstream_informational,
    .on_body = on_upstream_body,
    .on_end = on_upstream_end,
    .on_drain = on_upstream_drain,
    .on_half_close = on_upstream_half_close,
    .on_abort = on_upstream_abort,
};

/* The endpoint has answered before it has the whole request. A refusal ends our sending, as in nginx; who answers 2xx may well go on reading while it writes.
 */
static void stop_request(struct exchange *exchange) {
  exchange->request_stopped = true;
  if (!exchange->request_ended) exchange->stream->ops->discard_body(exchange->stream, LIMIT_DRAIN_BYTES);
}

/* Policies may have changed the method and the status, and so who has a body. What the endpoint sends without one has none for the client either, whatever
 * length it declares. True: the endpoint sends one that the client does not get. */
static bool match_bodies(struct exchange *exchange) {
  struct response_head *response = exchange->response;
  bool comes = status_has_body(connect_current_try(exchange)->status, exchange->upstream_stream->request->method);
  bool goes = status_has_body(response->status, exchange->stream->request->method);
  if (!comes && goes) response->body = (struct message_body){BODY_LENGTH, 0};
  return comes && !goes && !(response->body.framing == BODY_LENGTH && response->body.length == 0);
}

/* The client has its answer; what the endpoint goes on to send is nobody's, however long that takes. */
static enum step_result leave_body(struct exchange *exchange) {
  if (!exchange->request_sent && !exchange->request_stopped) stop_request(exchange);
  exchange->stream->ops->send_end(exchange->stream, NULL);
  exchange->response_ended = true;
  exchange_drop_upstream(exchange, 0);
  exchange->step = STEP_LOG;
  return STEP_MORE;
}

static enum step_result send_head(struct exchange *exchange) {
  struct codec_stream *client = exchange->stream;
  struct response_head *response = exchange->response;
  exchange->is_final = false;
  exchange->source = exchange->replacement ? ANSWER_REPLACEMENT : ANSWER_UPSTREAM;
  if ((exchange->settings->retry_on & retry_reason(0, response->status)) && connect_may_retry(exchange)) {
    exchange->step = STEP_RETRY;
    return STEP_MORE;
  }
  if (!reply_filter(exchange)) return STEP_MORE;
  response_head_finish(exchange);
  bool is_nobodys = match_bodies(exchange);
  body_filter_head(exchange);
  if (response->body.framing == BODY_UNTIL_CLOSE) response->body.framing = BODY_CHUNKED; /* the client's codec knows what its client can take */
  response->close = exchange->worker->says_close && response->status != 101;
  if (!exchange->request_sent && response->status >= 300) stop_request(exchange);
  relay_drop_body(exchange);
  exchange->response_started = true;
  exchange->relay_started_ms = now_of(exchange);
  client->ops->send_response(client, response);
  if (is_nobodys) return leave_body(exchange);
  if (response->status == 101) tunnel_begin(exchange);
  return STEP_WAIT;
}

void relay_leave_upstream(struct exchange *exchange) {
  struct codec_stream *upstream = exchange->upstream_stream;
  struct pooled *connection = exchange->connection;
  if (!exchange->request_sent) {
    exchange_drop_upstream(exchange, 0);
    return;
  }
  connect_end_try(exchange, 0);
  exchange->upstream_stream = NULL;
  exchange->connection = NULL;
  bool is_reusable = codec_upstream_is_reusable(connection->codec);
  upstream->ops->finish(upstream);
  pool_put_back(exchange->worker->pool, connection, is_reusable);
}

enum step_result step_relay(struct exchange *exchange) {
  if (exchange->failure) {
    if (exchange->response_started) return reply_cut_off(exchange, span_of(error_text(exchange->failure)));
    exchange->step = STEP_RETRY;
    return STEP_MORE;
  }
  if (exchange->head_arrived && !exchange->response_started && (send_head(exchange) == STEP_MORE)) return STEP_MORE;
  if (!exchange->upstream_ended || exchange->step != STEP_RELAY || pace_holds(exchange)) return STEP_WAIT;
  exchange->stream->ops->send_end(exchange->stream, body_filter_trailers(exchange));
  exchange->response_ended = true;
  relay_leave_upstream(exchange);
  exchange->step = STEP_LOG;
  return STEP_MORE;
}

/* ---- time ------------------------------------------------------------------------------------------------------------------ */

/* When too long has passed without progress. */
static uint64_t due(const struct exchange *exchange) {
  const struct route_settings *settings = exchange->settings;
  const struct codec_stream *upstream = exchange->upstream_stream;
  uint64_t now = now_of(exchange), active = exchange->upstream_active_ms;
  if (exchange->step == STEP_TUNNEL) return active + settings->read_timeout_ms;
  if (!exchange->request_sent && !exchange->response_started && upstream->ops->is_full(upstream)) {
    uint64_t progress = link_progress_ms(codec_upstream_link(exchange->connection->codec));
    return (progress > active ? progress : active) + settings->send_timeout_ms;
  }
  bool waits_for_upstream = (exchange->request_sent || exchange->response_started) && !(upstream->paused & (PAUSE_SINK_FULL | PAUSE_RATE));
  return (waits_for_upstream ? active : now) + settings->read_timeout_ms;
}

static bool may_detach(const struct exchange *exchange) {
  if (!exchange->response_started || exchange->is_detached) return false;
  return !exchange->route || exchange->route->hook_count[HOOK_BODY_FILTER] == 0;
}

void relay_timer_start(struct exchange *exchange) {
  uint64_t now = now_of(exchange), next = due(exchange), soon = now + exchange->worker->detach_after_ms;
  if (may_detach(exchange)) soon = exchange->relay_started_ms + exchange->worker->detach_after_ms;
  if (soon < next && !exchange->is_detached) next = soon;
  /* The endpoint may stop taking the request at any time, and nothing tells the timer then. */
  uint64_t sending = now + exchange->settings->send_timeout_ms;
  if (!exchange->request_sent && sending < next && exchange->step != STEP_TUNNEL) next = sending;
  loop_timer_start(&exchange->worker->loop, &exchange->timer, next > now ? next - now : 0);
}

void relay_timer_fired(struct timer *timer) {
  struct exchange *exchange = exchange_of(container_of(timer, struct exchange, timer));
  uint64_t now = now_of(exchange);
  if (exchange->step == STEP_CONNECT || exchange->step == STEP_REPLACE) {
    exchange->failure = ERROR_TIMEOUT;
    exchange_run(exchange);
    return;
  }
  if (exchange->step != STEP_RELAY && exchange->step != STEP_TUNNEL) return;
  if (may_detach(exchange) && now >= exchange->relay_started_ms + exchange->worker->detach_after_ms) detach_exchange(exchange);
  if (due(exchange) <= now) {
    exchange->failure = ERROR_TIMEOUT;
    exchange_run(exchange);
    return;
  }
  relay_timer_start(exchange);
}
