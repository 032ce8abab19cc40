/* Client: see client.h. Before the codec has the link, the client owns it: it reads a PROXY header (gathered here, as it may come in pieces), then runs the TLS
 * handshake; both within a time limit. Each request becomes an exchange. Worker's thread. */
#include "proxy/client.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "proxy/connect.h"
#include "proxy/exchange.h"
#include "proxy/relay.h"
#include "proxy/reply.h"
#include "proxy/request_head.h"

static struct client *client_of(void *pointer) {
  struct client *client = pointer;
  must(client->magic == CLIENT_MAGIC);
  return client;
}

static void free_client(struct client *client) {
  struct worker *worker = client->worker;
  must(!client->fresh);
  loop_timer_stop(&worker->loop, &client->timer);
  deferred_cancel(&client->start);
  buffer_free(&client->partial);
  list_remove(&client->node);
  worker->client_count--;
  counter_add(worker->options.counters, COUNTER_CONNECTIONS_CLOSED, 1);
  client->magic = 0;
  free(client);
  worker_bound_clients(worker);
  worker_check_drained(worker);
}

/* ---- requests -------------------------------------------------------------------------------------------------------------- */

static struct arena *on_new(void *owner, struct codec_stream *stream) {
  struct client *client = client_of(owner);
  (void)stream;
  must(!client->fresh);
  client->fresh = exchange_new(client->worker, client);
  client->requests++;
  return &client->fresh->arena;
}

static struct exchange *take_fresh(struct client *client, struct codec_stream *stream) {
  struct exchange *exchange = client->fresh;
  must(exchange);
  client->fresh = NULL;
  stream->events = &relay_client_events;
  stream->owner = exchange;
  exchange->stream = stream;
  exchange->request_head = *stream->request;
  exchange->request = &exchange->request_head;
  exchange->target = stream->request->target;
  worker_update_clock(client->worker);
  counter_add(client->worker->options.counters, COUNTER_REQUESTS, 1);
  request_head_client(exchange);
  return exchange;
}

static void on_request(void *owner, struct codec_stream *stream) {
  struct exchange *exchange = take_fresh(client_of(owner), stream);
  const struct message_body *body = &stream->request->body;
  /* Without a body on_end follows at once, and the exchange begins there: then the codec knows that the request is complete when the exchange ends. */
  if (body->framing == BODY_NONE || (body->framing == BODY_LENGTH && body->length == 0)) return;
  stream->ops->pause(stream, PAUSE_NOT_READY);
  exchange_run(exchange);
}

static void on_bad_request(void *owner, struct codec_stream *stream, int status, const char *why) {
  struct client *client = client_of(owner);
  struct exchange *exchange = take_fresh(client, stream);
  exchange->request_ended = true;
  exchange->reply_closes = true;
  (void)reply_error(exchange, status, span_of(why));
  exchange_run(exchange);
}

static void on_close(void *owner) {
  struct client *client = client_of(owner);
  client->codec = NULL;
  free_client(client);
}

static const struct codec_client_events codec_handlers = {.on_new = on_new, .on_request = on_request, .on_bad_request = on_bad_request, .on_close = on_close};

static unsigned clipped(int64_t value) { return value < 0 ? 0 : value > UINT32_MAX / 2 ? UINT32_MAX / 2 : (unsigned)value; }

/* Everything before HTTP is done. */
static void begin_http(struct client *client) {
  struct worker *worker = client->worker;
  const struct settings *settings = worker->root ? worker->root->settings : NULL;
  struct codec_client_limits limits = {
      .head_bytes = settings ? clipped(settings->client_head_bytes) : LIMIT_HEAD_BYTES,
      .request_line_bytes = settings ? clipped(settings->client_request_line_bytes) : LIMIT_REQUEST_LINE_BYTES,
      .header_fields = LIMIT_HEADER_FIELDS,
      .header_timeout_ms = settings ? clipped(settings->client_header_timeout_ms) : 60000,
      .body_timeout_ms = settings ? clipped(settings->client_body_timeout_ms) : 60000,
      .idle_timeout_ms = settings ? clipped(settings->keep_alive_ms) : 75000,
      .send_timeout_ms = 60000,
      .max_requests = settings ? clipped(settings->keep_alive_requests) : 1000,
      .allow_underscores = settings && settings->allow_underscores,
      .ignore_invalid = settings && settings->ignore_invalid_headers,
  };
  struct link *link = client->link;
  loop_timer_stop(&worker->loop, &client->timer);
  buffer_free(&client->partial);
  client->partial = (struct buffer){0};
  client->link = NULL;
  client->codec = h1_client_new(link, &limits, &codec_handlers, client);
  link_start(link);
  link_resume(link);
}

/* ---- before HTTP ----------------------------------------------------------------------------------------------------------- */

static void give_up(struct client *client) {
  link_close(client->link);
  client->link = NULL;
  free_client(client);
}

static void note_peer(struct client *client, const struct address *peer) {
  const struct settings *settings = client->worker->root ? client->worker->root->settings : NULL;
  client->peer = *peer;
  address_format_ip(peer, client->peer_ip);
  client->peer_is_trusted = settings && settings->trusted && ip_set_contains(settings->trusted, peer);
}

static void begin_tls(struct client *client) {
  struct worker *worker = client->worker;
  struct tls_server *tls = worker->options.tls_server ? worker->options.tls_server(worker->options.context, worker) : NULL;
  if (!tls) {
    give_up(client);
    return;
  }
  link_start_tls(client->link, tls);
}

static void begin_after_header(struct client *client) {
  if (!client->is_https || !client->worker->options.tls_server) {
    begin_http(client);
    return;
  }
  client->awaits_hello = true;
  loop_timer_start(&client->worker->loop, &client->timer, LIMIT_HANDSHAKE_MS);
  link_start(client->link);
  link_resume(client->link);
}

static void on_start(struct deferred *deferred) {
  struct client *client = client_of(container_of(deferred, struct client, start));
  if (client->is_plain) begin_http(client);
  else begin_after_header(client);
}

/* The first bytes where TLS is due. A method is no record of TLS: whoever typed http:// is told so. */
static void see_hello(struct client *client, char first) {
  client->awaits_hello = false;
  client->is_plain = first >= 'A' && first <= 'Z';
  if (!client->is_plain) {
    begin_tls(client);
    return;
  }
  client->is_starting = true;
  loop_defer(&client->worker->loop, &client->start);
}

static size_t read_proxy_header(struct client *client, const char *data, size_t length) {
  size_t before = buffer_length(&client->partial);
  buffer_append(&client->partial, span_make(data, length));
  struct span all = buffer_span(&client->partial);
  long size = proxy_protocol_parse(all.data, all.length, &client->proxy);
  if (size < 0) {
    if (size == ERROR_LIMIT) counter_add(client->worker->options.counters, COUNTER_LIMIT_PROXY_HEADER_BYTES, 1);
    log_write(client->worker->options.log, LOG_NOTICE, "no PROXY header where one is due", "peer=%s", client->peer_ip);
    client->is_starting = true;
    give_up(client);
    return length;
  }
  if (size == 0) return length;
  client->has_proxy_header = client->is_starting = true;
  /* nginx: the header's source counts as the client only if the peer may say so. Here nothing else of it counts either: a destination port of 443 means https.
   */
  if (!client->peer_is_trusted) client->proxy.local = true;
  if (!client->proxy.local) note_peer(client, &client->proxy.source);
  loop_defer(&client->worker->loop, &client->start);
  return (size_t)size > before ? (size_t)size - before : 0;
}

static size_t on_early_read(void *owner, const char *data, size_t length) {
  struct client *client = client_of(owner);
  if (client->awaits_hello) see_hello(client, data[0]);
  else if (!client->is_starting && !client->has_proxy_header) return read_proxy_header(client, data, length);
  return 0; /* for who comes next */
}

static void on_early_open(void *owner, int status) {
  struct client *client = client_of(owner);
  if (status) give_up(client); /* the link has counted it */
  else begin_http(client);
}

static void on_early_end(void *owner, int error) {
  (void)error;
  give_up(client_of(owner));
}

static void on_early_drain(void *owner) { (void)client_of(owner); }

static const struct link_events early_handlers = {.on_open = on_early_open, .on_read = on_early_read, .on_end = on_early_end, .on_drain = on_early_drain};

static void on_timer(struct timer *timer) {
  struct client *client = client_of(container_of(timer, struct client, timer));
  if (!client->link) return;
  counter_add(client->worker->options.counters, COUNTER_LIMIT_HANDSHAKE_MS, 1);
  give_up(client);
}

struct client *client_new(struct worker *worker, struct link *link, bool is_https, uint16_t listener_port) {
  const struct settings *settings = worker->root ? worker->root->settings : NULL;
  struct client *client = calloc(1, sizeof *client);
  must(client);
  client->magic = CLIENT_MAGIC;
  client->worker = worker;
  client->link = link;
  client->is_https = is_https;
  client->listener_port = listener_port;
  client->serial = ++worker->connection_serial;
  timer_init(&client->timer, on_timer);
  deferred_init(&client->start, on_start);
  list_insert_last(&worker->clients, &client->node);
  worker->client_count++;
  counter_add(worker->options.counters, COUNTER_CONNECTIONS_ACCEPTED, 1);
  note_peer(client, link_peer(link));
  link_set_owner(link, &early_handlers, client);
  if (settings && settings->use_proxy_protocol) {
    loop_timer_start(&worker->loop, &client->timer, (uint64_t)settings->proxy_protocol_header_timeout_ms);
    link_start(link);
    return client;
  }
  begin_after_header(client);
  return client;
}

void client_shut_down(struct client *client) {
  if (client->codec) codec_client_shutdown(client->codec);
}

void client_close(struct client *client) {
  if (client->codec) codec_client_close(client->codec); /* on_close follows */
  else give_up(client);
}
