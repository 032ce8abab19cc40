/* Service: see service.h. A client owns its codec connection; a call owns its arena; the list of calls is for the end. */
#include "app/service.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "base/error.h"
#include "base/limits.h"
#include "http/cookie.h"

#define CALL_MAGIC MAGIC('c', 'a', 'l', 'l')
#define PATTERN_BYTES 16384
#define SLICE_BYTES 32768 /* made for one client in one round of deferred calls: a turn of the loop has up to 16 */
#define EMPTY_PART 16384  /* what a part counts for that was looked for in vain */

struct service_client {
  struct service *service;
  struct codec_client *codec;
  struct link *link;
  struct timer timer; /* until TLS is established: there is no codec yet */
  struct list node;
};

struct service {
  struct service_options options;
  struct listener *listeners[SERVICE_LISTENERS];
  unsigned listener_count;
  struct list clients;
  unsigned client_count;
  bool is_closing, is_paused;
  char pattern[PATTERN_BYTES];
};

static struct service_call *call_of(void *owner) {
  struct service_call *call = owner;
  must(call->magic == CALL_MAGIC);
  return call;
}

static void end_source(struct service_call *call) {
  if (call->source) call->source->end(call->source_context);
  call->source = NULL;
}

static void call_free(struct service_call *call) {
  const struct service_options *options = &call->service->options;
  if (options->gone) options->gone(options->context, call);
  loop_timer_stop(options->loop, &call->timer);
  deferred_cancel(&call->again);
  buffer_free(&call->pending);
  buffer_free(&call->body);
  end_source(call);
  call->magic = 0;
  arena_free(&call->arena);
  free(call);
}

static void call_finish_if_done(struct service_call *call) {
  if (!call->is_answered || call->left || call->source || !call->request_ended || call->is_tunnel) return;
  struct codec_stream *stream = call->stream;
  call_free(call);
  stream->ops->finish(stream);
}

static void send_source(struct service_call *call) {
  struct buffer part = {0};
  bool is_more = true;
  size_t made = 0;
  while (is_more && made < SLICE_BYTES && !call->stream->ops->is_full(call->stream)) {
    is_more = call->source->more(call->source_context, &part);
    struct span bytes = buffer_span(&part);
    if (bytes.length) call->stream->ops->send_body(call->stream, &bytes, 1);
    made += bytes.length ? bytes.length : EMPTY_PART;
    buffer_consume(&part, bytes.length);
  }
  buffer_free(&part);
  if (is_more) {
    if (!call->stream->ops->is_full(call->stream)) loop_defer(call->service->options.loop, &call->again);
    return;
  }
  end_source(call);
  call->stream->ops->send_end(call->stream, NULL);
}

static void send_more(struct service_call *call) {
  while (call->left && !call->stream->ops->is_full(call->stream)) {
    size_t part = call->left < PATTERN_BYTES ? (size_t)call->left : PATTERN_BYTES;
    struct span bytes = span_make(call->service->pattern, part);
    call->stream->ops->send_body(call->stream, &bytes, 1);
    call->left -= part;
    if (call->left == 0) call->stream->ops->send_end(call->stream, NULL);
  }
}

static void refuse_body(struct service_call *call) {
  const struct service_options *options = &call->service->options;
  counter_add(options->counters, options->body_limit_counter, 1);
  service_reply(call, 413, "text/plain", SPAN("the body is too long\n"));
}

static void on_body(void *owner, struct span data) {
  struct service_call *call = call_of(owner);
  if (call->is_tunnel) {
    call->on_tunnel(call, data);
    return;
  }
  call->body_bytes += data.length;
  size_t limit = call->service->options.body_limit;
  if (limit == 0 || call->is_answered) return;
  if (call->body_bytes > limit) refuse_body(call);
  else buffer_append(&call->body, data);
}

static void on_end(void *owner) {
  struct service_call *call = call_of(owner);
  call->request_ended = true;
  if (!call->is_answered) call->service->options.handle(call->service->options.context, call);
  else call_finish_if_done(call);
}

static void on_drain(void *owner) {
  struct service_call *call = call_of(owner);
  if (!call->left && !call->source) return;
  if (call->source) send_source(call);
  else send_more(call);
  call_finish_if_done(call);
}

static void on_again(struct deferred *deferred) { on_drain(container_of(deferred, struct service_call, again)); }

static void on_half_close(void *owner) {
  struct service_call *call = call_of(owner);
  call->stream->ops->half_close(call->stream);
}

static void on_abort(void *owner, int error) {
  (void)error;
  struct service_call *call = call_of(owner);
  struct codec_stream *stream = call->stream;
  call_free(call);
  stream->ops->abort(stream);
}

static const struct codec_events call_events = {
    .on_body = on_body, .on_end = on_end, .on_drain = on_drain, .on_half_close = on_half_close, .on_abort = on_abort};

static void on_timer_unset(struct timer *timer) { (void)timer; }

static struct arena *on_new(void *owner, struct codec_stream *stream) {
  struct service_client *client = owner;
  struct service_call *call = calloc(1, sizeof *call);
  must(call);
  call->magic = CALL_MAGIC;
  call->service = client->service;
  call->client = client;
  call->stream = stream;
  arena_init(&call->arena, NULL, 0);
  timer_init(&call->timer, on_timer_unset);
  deferred_init(&call->again, on_again);
  stream->owner = call;
  stream->events = &call_events;
  return &call->arena;
}

static void on_bad_request(void *owner, struct codec_stream *stream, int status, const char *why) {
  (void)owner;
  struct service_call *call = call_of(stream->owner);
  call->request = stream->request;
  call->request_ended = true;
  service_reply(call, status, "text/plain", span_of(why));
}

static void on_request(void *owner, struct codec_stream *stream) {
  (void)owner;
  struct service_call *call = call_of(stream->owner);
  call->request = stream->request;
  if (uri_parse_target(call->request->target, call->request->method, &call->arena, &call->uri)) {
    service_reply(call, 400, "text/plain", SPAN("bad request target\n"));
    return;
  }
  const struct service_options *options = &call->service->options;
  if (options->begin) options->begin(options->context, call);
  if (call->is_answered) return;
  if (options->body_limit && call->request->body.framing == BODY_LENGTH && call->request->body.length > options->body_limit) {
    refuse_body(call);
    return;
  }
  if (call->request->expects_continue) {
    struct response_head head = {.status = 100};
    headers_init(&head.headers, &call->arena);
    stream->ops->send_informational(stream, &head);
  }
}

/* ---- connections ----------------------------------------------------------------------------------------------------------- */

static void accept_again(struct service *service) {
  if (!service->is_paused) return;
  service->is_paused = false;
  for (unsigned i = 0; i < service->listener_count; i++) listener_resume(service->listeners[i]);
}

static void client_free(struct service_client *client) {
  struct service *service = client->service;
  loop_timer_stop(service->options.loop, &client->timer);
  list_remove(&client->node);
  service->client_count--;
  free(client);
  accept_again(service);
}

static void on_close(void *owner) { client_free(owner); }

static const struct codec_client_events client_events = {on_new, on_request, on_bad_request, on_close};

static void begin_http(struct service_client *client) {
  struct codec_client_limits limits = {.head_bytes = 65536,
                                       .request_line_bytes = 16384,
                                       .header_fields = 256,
                                       .header_timeout_ms = 30000,
                                       .body_timeout_ms = 60000,
                                       .idle_timeout_ms = 75000,
                                       .send_timeout_ms = 60000,
                                       .max_requests = 1u << 30,
                                       .allow_underscores = true};
  loop_timer_stop(client->service->options.loop, &client->timer);
  client->codec = h1_client_new(client->link, &limits, &client_events, client);
  link_start(client->link);
}

static void give_up(struct service_client *client) {
  link_close(client->link);
  client_free(client);
}

static void on_early_open(void *owner, int status) {
  if (status) give_up(owner);
  else begin_http(owner);
}

static size_t on_early_read(void *owner, const char *data, size_t length) {
  (void)owner, (void)data, (void)length;
  return 0; /* for the codec */
}

static void on_early_end(void *owner, int error) {
  (void)error;
  give_up(owner);
}

static void on_early_drain(void *owner) { (void)owner; }

static const struct link_events early_events = {.on_open = on_early_open, .on_read = on_early_read, .on_end = on_early_end, .on_drain = on_early_drain};

static void on_late_handshake(struct timer *timer) { give_up(container_of(timer, struct service_client, timer)); }

static void begin_tls(struct service_client *client) {
  const struct service_options *options = &client->service->options;
  struct tls_server *tls = options->tls_server(options->context);
  link_set_owner(client->link, &early_events, client);
  if (!tls) {
    give_up(client);
    return;
  }
  loop_timer_start(options->loop, &client->timer, LIMIT_HANDSHAKE_MS);
  link_start_tls(client->link, tls);
}

static void on_accept(void *context, struct link *link) {
  struct service *service = context;
  const struct service_options *options = &service->options;
  struct service_client *client = calloc(1, sizeof *client);
  must(client);
  client->service = service;
  client->link = link;
  timer_init(&client->timer, on_late_handshake);
  list_insert_last(&service->clients, &client->node);
  service->client_count++;
  if (options->client_limit && service->client_count >= options->client_limit && !service->is_paused) {
    service->is_paused = true;
    counter_add(options->counters, options->client_limit_counter, 1);
    for (unsigned i = 0; i < service->listener_count; i++) listener_pause(service->listeners[i]);
  }
  if (options->tls_server) begin_tls(client);
  else begin_http(client);
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------- */

struct service *service_new(const struct service_options *options) {
  struct service *service = calloc(1, sizeof *service);
  must(service);
  service->options = *options;
  list_init(&service->clients);
  for (size_t i = 0; i < PATTERN_BYTES; i++) service->pattern[i] = i % 64 == 63 ? '\n' : (char)('0' + i % 64);
  return service;
}

int service_listen(struct service *service, const struct address *address) {
  int error = 0;
  must(service->listener_count < SERVICE_LISTENERS);
  struct listener *listener = listener_new(service->options.loop, address, false, 1024, on_accept, service, &error);
  if (listener) service->listeners[service->listener_count++] = listener;
  return listener ? 0 : error;
}

void *service_context(const struct service *service) { return service->options.context; }
uint16_t service_port(const struct service *service) { return listener_port(service->listeners[0]); }

static void close_listeners(struct service *service) {
  unsigned count = service->listener_count;
  service->listener_count = 0; /* closing accepts what is queued, and that must not look at them */
  for (unsigned i = 0; i < count; i++) listener_close(service->listeners[i]);
}

void service_shutdown(struct service *service) {
  close_listeners(service);
  service->is_closing = true;
  for (struct list *node = service->clients.next, *next; node != &service->clients; node = next) {
    next = node->next;
    struct service_client *client = container_of(node, struct service_client, node);
    if (client->codec) codec_client_shutdown(client->codec);
    else give_up(client);
  }
}

void service_free(struct service *service) {
  close_listeners(service);
  for (struct list *node = service->clients.next, *next; node != &service->clients; node = next) {
    next = node->next;
    struct service_client *client = container_of(node, struct service_client, node);
    if (client->codec) codec_client_close(client->codec);
    else give_up(client);
  }
  while (!list_is_empty(&service->clients)) loop_run_once(service->options.loop, 0); /* on_close comes from deferred calls */
  free(service);
}

static void add_fields(struct service_call *call, struct response_head *head, const char *content_type, const char *const *extra) {
  headers_init(&head->headers, &call->arena);
  char date[32];
  size_t length = http_date(time(NULL), date);
  headers_add(&head->headers, HEADER_DATE, SPAN("Date"), span_make(arena_copy(&call->arena, date, length), length));
  if (content_type) headers_add(&head->headers, HEADER_CONTENT_TYPE, SPAN("Content-Type"), span_of(content_type));
  for (; extra && extra[0]; extra += 2)
    headers_add(&head->headers, header_id_of(span_of(extra[0])), span_of(extra[0]), arena_span(&call->arena, span_of(extra[1])));
  head->keep_alive = !call->service->is_closing;
}

void service_reply_with(struct service_call *call, int status, const char *content_type, struct span body, const char *const *extra) {
  must(!call->is_answered);
  call->is_answered = true;
  struct response_head *head = arena_zalloc(&call->arena, sizeof *head);
  head->status = status;
  add_fields(call, head, content_type, extra);
  bool has_body = status_has_body(status, SPAN("GET"));
  head->body = (struct message_body){has_body ? BODY_LENGTH : BODY_NONE, has_body ? body.length : 0};
  call->stream->ops->send_response(call->stream, head);
  if (has_body && body.length && !span_equal(call->request->method, SPAN("HEAD"))) call->stream->ops->send_body(call->stream, &body, 1);
  call->stream->ops->send_end(call->stream, NULL);
  if (!call->request_ended) call->stream->ops->discard_body(call->stream, LIMIT_DRAIN_BYTES);
  call_finish_if_done(call);
}

void service_reply(struct service_call *call, int status, const char *content_type, struct span body) {
  service_reply_with(call, status, content_type, body, NULL);
}

void service_send_bytes(struct service_call *call, uint64_t count) {
  must(!call->is_answered);
  call->is_answered = true;
  struct response_head *head = arena_zalloc(&call->arena, sizeof *head);
  head->status = 200;
  add_fields(call, head, "application/octet-stream", NULL);
  head->body = (struct message_body){BODY_LENGTH, count};
  call->stream->ops->send_response(call->stream, head);
  call->left = span_equal(call->request->method, SPAN("HEAD")) ? 0 : count;
  if (call->left == 0) call->stream->ops->send_end(call->stream, NULL);
  send_more(call);
  call_finish_if_done(call);
}

void service_stream(struct service_call *call, const char *content_type, const struct service_source *source, void *context) {
  must(!call->is_answered);
  call->is_answered = true;
  struct response_head *head = arena_zalloc(&call->arena, sizeof *head);
  head->status = 200;
  add_fields(call, head, content_type, NULL);
  head->body.framing = BODY_CHUNKED;
  call->source = source;
  call->source_context = context;
  call->stream->ops->send_response(call->stream, head);
  if (span_equal(call->request->method, SPAN("HEAD"))) {
    end_source(call);
    call->stream->ops->send_end(call->stream, NULL);
  } else {
    send_source(call);
  }
  call_finish_if_done(call);
}

void service_upgrade(struct service_call *call, const char *const *extra, void (*on_tunnel)(struct service_call *call, struct span data)) {
  call->is_answered = call->is_tunnel = true;
  call->on_tunnel = on_tunnel;
  struct response_head *head = arena_zalloc(&call->arena, sizeof *head);
  head->status = 101;
  add_fields(call, head, NULL, extra);
  head->body.framing = BODY_NONE;
  call->stream->ops->send_response(call->stream, head);
  call->stream->ops->tunnel(call->stream);
}

const struct address *service_peer(const struct service_call *call) { return link_peer(call->client->link); }
