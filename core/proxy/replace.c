/* Replace: see replace.h. The old answer's body is read and dropped, so that its connection can be used again, for a moment and up to a limit; else the
 * connection goes. Then the exchange chooses an endpoint of the other upstream and goes on as any other does, tries and timeouts included; what is the route's
 * own way to ask its application (protocol, balancer, header edits) is not the other upstream's. Everything is in the exchange's arena. Worker's thread. */
#include "proxy/replace.h"

#include "base/check.h"
#include "base/error.h"
#include "proxy/connect.h"
#include "proxy/relay.h"
#include "proxy/reply.h"
#include "proxy/worker.h"
#include "route/upstream.h"

enum { REPLACEMENT_MAGIC = MAGIC('r', 'e', 'p', 'l'), DISCARD_MS = 250 };

static struct replacement *replacement_of(struct exchange *exchange) {
  struct replacement *replacement = exchange->replacement;
  must(replacement && replacement->magic == REPLACEMENT_MAGIC);
  return replacement;
}

/* Never from inside the event that ended the old answer: the connection that it came on may be the next one to be used. */
static void on_later(struct deferred *deferred) {
  struct replacement *replacement = container_of(deferred, struct replacement, later);
  must(replacement->magic == REPLACEMENT_MAGIC);
  replacement->is_due = true;
  exchange_run(replacement->exchange);
}

/* Of the client's fields, what describes its own body, or asks for a part or a newer version of what it does not get. */
static bool is_about_body(const struct header *header) {
  static const char *const names[] = {
      "range",        "request-range", "if-range",         "if-match",         "if-none-match",    "if-modified-since", "if-unmodified-since",
      "content-type", "content-md5",   "content-encoding", "content-language", "content-location", "content-range",     "content-disposition"};
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++)
    if (span_equal_nocase(header->name, span_of(names[i]))) return true;
  return false;
}

void replace_ask(struct exchange *exchange, struct upstream_ref upstream, struct span upstream_name, struct span method, struct span path,
                 const struct headers *headers) {
  struct arena *arena = &exchange->arena;
  struct replacement *replacement = arena_zalloc(arena, sizeof *replacement);
  must(!exchange->replacement && exchange->response && exchange->stream);
  replacement->magic = REPLACEMENT_MAGIC;
  replacement->exchange = exchange;
  deferred_init(&replacement->later, on_later);
  replacement->upstream = upstream;
  replacement->upstream_name = arena_span(arena, upstream_name);
  if (upstream_name.length == 0 && snapshot_upstream(exchange->worker->root, exchange->worker->root->default_upstream)) {
    replacement->upstream = exchange->worker->root->default_upstream;
    replacement->upstream_name = arena_span(arena, exchange->worker->root->settings->default_upstream);
  }
  replacement->status = exchange->response->status;
  struct request_head *head = &replacement->head;
  *head = *exchange->request;
  bool is_head = span_equal(exchange->stream->request->method, SPAN("HEAD"));
  head->method = is_head ? SPAN("HEAD") : method.length ? arena_span(arena, method) : SPAN("GET");
  head->target = path.length ? arena_span(arena, path) : SPAN("/");
  head->body = (struct message_body){BODY_NONE, 0};
  head->upgrade = (struct span){"", 0};
  head->expects_continue = head->accepts_trailers = false;
  headers_init(&head->headers, arena);
  for (unsigned i = 0; i < exchange->request->headers.count; i++) {
    const struct header *header = &exchange->request->headers.items[i];
    if (!header->removed && !is_about_body(header)) headers_add(&head->headers, (enum header_id)header->id, header->name, header->value);
  }
  for (unsigned i = 0; headers && i < headers->count; i++) {
    const struct header *header = &headers->items[i];
    if (!header->removed) headers_set(&head->headers, (enum header_id)header->id, arena_span(arena, header->name), arena_span(arena, header->value));
  }
  exchange->replacement = replacement;
}

enum step_result replace_failed(struct exchange *exchange, struct span reason) {
  struct replacement *replacement = replacement_of(exchange);
  struct span upstream = replacement->upstream_name;
  log_write(exchange->worker->options.log, LOG_WARN, "no answer to replace another one with", "status=%d host=\"%.*s\" upstream=\"%.*s\" reason=\"%.*s\"",
            replacement->status, (int)exchange->host_name.length, exchange->host_name.data ? exchange->host_name.data : "", (int)upstream.length,
            upstream.data ? upstream.data : "", (int)reason.length, reason.data);
  return reply_error(exchange, replacement->status, reason);
}

/* The other upstream's settings: what the route says of time, of the answer and of the log, and nothing of its application's. */
static const struct route_settings *settings_for(struct exchange *exchange) {
  struct route_settings *settings = arena_alloc(&exchange->arena, sizeof *settings);
  const struct route_settings *other = &exchange->worker->default_settings;
  *settings = *exchange->settings;
  settings->protocol = other->protocol;
  settings->http_version = other->http_version;
  settings->balancer = BALANCER_ROUND_ROBIN;
  settings->retry_on = other->retry_on;
  settings->retry_tries = other->retry_tries;
  settings->retry_timeout_ms = other->retry_timeout_ms;
  return settings;
}

static enum step_result begin(struct exchange *exchange, struct replacement *replacement) {
  if (replacement->upstream_name.length == 0) return replace_failed(exchange, SPAN("there is no default backend"));
  replacement->tries_before = exchange->try_count;
  exchange->upstream = replacement->upstream;
  exchange->upstream_name = upstream_shown(replacement->upstream_name, &exchange->arena);
  exchange->upstream_info = NULL;
  exchange->is_default = false;
  exchange->settings = settings_for(exchange);
  exchange->tried_count = exchange->stale_tries = 0;
  exchange->avoid_pool = false;
  exchange->failure = 0;
  exchange->step = STEP_BALANCER;
  return STEP_MORE;
}

/* Nobody reads the rest of the request any more. */
static void leave_request(struct exchange *exchange) {
  relay_drop_body(exchange);
  if (exchange->request_ended || exchange->request_stopped) return;
  exchange->request_stopped = true;
  exchange->stream->ops->discard_body(exchange->stream, LIMIT_DRAIN_BYTES);
}

static bool is_too_much(const struct exchange *exchange, const struct replacement *replacement) {
  const struct codec_stream *stream = exchange->upstream_stream;
  const struct message_body *body = &stream->response->body;
  bool is_known = body->framing == BODY_LENGTH && body->length > LIMIT_DRAIN_BYTES && status_has_body(stream->response->status, stream->request->method);
  return is_known || replacement->dropped > LIMIT_DRAIN_BYTES;
}

enum step_result step_replace(struct exchange *exchange) {
  struct replacement *replacement = replacement_of(exchange);
  struct loop *loop = &exchange->worker->loop;
  if (!replacement->has_begun) {
    replacement->has_begun = true;
    exchange->response = NULL;
    /* Its connection is broken, and will tell nothing more: what we have is all that it gets. */
    if (exchange->reply_closes) return replace_failed(exchange, SPAN("the request broke off"));
    leave_request(exchange);
    if (exchange->upstream_stream) loop_timer_start(loop, &exchange->timer, DISCARD_MS);
    else replacement->is_due = true;
  }
  if (exchange->upstream_stream) {
    bool is_over = is_too_much(exchange, replacement);
    if (is_over) counter_add(exchange->worker->options.counters, COUNTER_LIMIT_DRAIN_BYTES, 1);
    if (!is_over && !exchange->failure && !exchange->upstream_ended) return STEP_WAIT;
    loop_timer_stop(loop, &exchange->timer);
    if (is_over || exchange->failure) exchange_drop_upstream(exchange, 0);
    else relay_leave_upstream(exchange);
    loop_defer(loop, &replacement->later);
  }
  return replacement->is_due ? begin(exchange, replacement) : STEP_WAIT;
}

void replace_drop(struct exchange *exchange, struct span data) {
  struct replacement *replacement = replacement_of(exchange);
  replacement->dropped += data.length;
  if (replacement->dropped > LIMIT_DRAIN_BYTES) exchange_run(exchange);
}

void replace_end(struct exchange *exchange) {
  if (exchange->replacement) deferred_cancel(&replacement_of(exchange)->later);
}
