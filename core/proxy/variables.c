/* Variables: the values of templates and log formats (route/template.h lists them) for one exchange. Everything is computed on demand; what needs memory takes
 * it from the given arena. Worker's thread. */
#include <openssl/evp.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "proxy/client.h"
#include "proxy/replace.h"
#include "proxy/exchange.h"
#include "proxy/retry.h"
#include "proxy/upstream_head.h"

static const struct span none = {NULL, 0};

static struct span number(struct arena *arena, uint64_t value) {
  char text[24];
  size_t at = sizeof text;
  do {
    text[--at] = (char)('0' + value % 10);
    value /= 10;
  } while (value);
  return arena_span(arena, span_make(text + at, sizeof text - at));
}

/* Seconds with milliseconds. */
static struct span seconds(struct arena *arena, uint64_t milliseconds) {
  return arena_printf(arena, "%llu.%03llu", (unsigned long long)milliseconds / 1000, (unsigned long long)milliseconds % 1000);
}

/* The user of an Authorization field of the Basic scheme (RFC 7617), as nginx reads it for its log, checked or not. */
static struct span basic_user(const struct exchange *exchange, struct arena *arena) {
  struct span value = exchange->request ? headers_get(&exchange->request->headers, HEADER_AUTHORIZATION) : none;
  if (value.length < 7 || value.length > 1024 || !span_equal_nocase(span_make(value.data, 6), SPAN("basic "))) return none;
  struct span encoded = span_trim(span_skip(value, 6));
  unsigned char *decoded = arena_alloc(arena, encoded.length + 1);
  int length = EVP_DecodeBlock(decoded, (const unsigned char *)encoded.data, (int)encoded.length);
  if (length <= 0) return none;
  struct span pair = span_make((const char *)decoded, (size_t)length);
  size_t colon = span_find(pair, ':');
  return colon < pair.length ? span_make(pair.data, colon) : none;
}

/* "$http_x_name" came as "x-name"; a field may also really have been written with "_". */
static struct span request_field(const struct exchange *exchange, struct span name, struct arena *arena) {
  return exchange->request ? headers_join(&exchange->request->headers, name, arena) : none;
}

static struct span response_field(const struct exchange *exchange, struct span name, struct arena *arena) {
  return exchange->response ? headers_join(&exchange->response->headers, name, arena) : none;
}

enum try_value { TRY_ADDRESS, TRY_STATUS, TRY_RESPONSE_TIME, TRY_CONNECT_TIME, TRY_HEADER_TIME, TRY_LENGTH };

static struct span time_or_dash(struct arena *arena, int64_t microseconds) {
  return microseconds < 0 ? SPAN("-") : seconds(arena, (uint64_t)microseconds / 1000);
}

static struct span try_value(const struct try_record *record, enum try_value which, struct arena *arena) {
  switch (which) {
    case TRY_ADDRESS:
      return record->address;
    case TRY_STATUS:
      if (record->status) return number(arena, (uint64_t)record->status);
      return record->error && record->error != ERROR_CANCELLED ? number(arena, (uint64_t)retry_final_status(record->error)) : SPAN("-");
    case TRY_RESPONSE_TIME:
      return time_or_dash(arena, record->response_us);
    case TRY_CONNECT_TIME:
      return time_or_dash(arena, record->connect_us);
    case TRY_HEADER_TIME:
      return time_or_dash(arena, record->header_us);
    case TRY_LENGTH:
    default:
      return number(arena, record->response_bytes);
  }
}

static struct span tries(const struct exchange *exchange, enum try_value which, struct arena *arena) {
  unsigned count = exchange->try_count < EXCHANGE_TRIES ? exchange->try_count : EXCHANGE_TRIES;
  struct span list = none;
  for (unsigned i = 0; i < count; i++) {
    struct span value = try_value(&exchange->tries[i], which, arena);
    const char *between = exchange->replacement && i == exchange->replacement->tries_before ? " : " : ", "; /* as nginx tells groups of servers apart */
    list = i ? arena_printf(arena, "%.*s%s%.*s", (int)list.length, list.data, between, (int)value.length, value.data) : value;
  }
  return list;
}

static int status_of(const struct exchange *exchange) {
  if (exchange->log_status && !exchange->response_started) return exchange->log_status;
  return exchange->response ? exchange->response->status : 0;
}

static struct span request_line(const struct exchange *exchange, struct arena *arena) {
  const struct request_head *request = exchange->stream ? exchange->stream->request : exchange->request;
  if (!request || request->method.length == 0) return none;
  return arena_printf(arena, "%.*s %.*s HTTP/%u.%u", (int)request->method.length, request->method.data, (int)request->target.length, request->target.data,
                      request->version_major ? request->version_major : 1, request->version_minor);
}

static struct span msec(struct arena *arena) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return arena_printf(arena, "%lld.%03ld", (long long)now.tv_sec, now.tv_nsec / 1000000);
}

static struct span server_address(const struct exchange *exchange, struct arena *arena) {
  if (!exchange->client || !exchange->client->codec) return none;
  const struct address *local = link_local(codec_client_link(exchange->client->codec));
  char text[ADDRESS_TEXT];
  return local ? arena_span(arena, span_make(text, address_format_ip(local, text))) : none;
}

static struct span proxy_address(const struct exchange *exchange, struct arena *arena) {
  if (!exchange->client || !exchange->client->has_proxy_header || exchange->client->proxy.local) return none;
  char text[ADDRESS_TEXT];
  return arena_span(arena, span_make(text, address_format_ip(&exchange->client->proxy.source, text)));
}

static struct span proxy_port(const struct exchange *exchange, struct arena *arena) {
  if (!exchange->client || !exchange->client->has_proxy_header || exchange->client->proxy.local) return none;
  return number(arena, address_port(&exchange->client->proxy.source));
}

static struct span tls_text(const struct exchange *exchange, enum variable variable) {
  const struct link_tls_info *tls = exchange_tls(exchange);
  if (!tls) return none;
  switch (variable) {
    case VARIABLE_SSL_PROTOCOL:
      return span_of(tls->version);
    case VARIABLE_SSL_CIPHER:
      return span_of(tls->cipher);
    case VARIABLE_SSL_SERVER_NAME:
      return tls->server_name;
    default:
      return tls->resumed ? SPAN("r") : SPAN(".");
  }
}

static struct span group(const struct exchange *exchange, struct span argument) {
  unsigned index = argument.length == 1 ? (unsigned)(argument.data[0] - '0') : REGEX_GROUPS;
  return index < REGEX_GROUPS && (int)index < exchange->captures.count ? exchange->captures.groups[index] : none;
}

static struct span connection_value(const struct exchange *exchange, enum variable variable, struct arena *arena) {
  const struct client *client = exchange->client;
  if (!client) return none;
  switch (variable) {
    case VARIABLE_SERVER_PORT:
      return number(arena, client->listener_port);
    case VARIABLE_REMOTE_PORT:
      return number(arena, address_port(&client->peer));
    case VARIABLE_REALIP_REMOTE_ADDR:
      return arena_span(arena, span_of(client->peer_ip));
    case VARIABLE_CONNECTION:
      return number(arena, client->serial);
    case VARIABLE_CONNECTION_REQUESTS:
      return number(arena, client->requests);
    default:
      return none;
  }
}

struct span exchange_lookup(void *context, enum variable variable, struct span argument, struct arena *arena) {
  struct exchange *exchange = exchange_of(context);
  struct worker *worker = exchange->worker;
  switch (variable) {
    case VARIABLE_HOST:
      return exchange->host_name.length ? exchange->host_name : exchange->facts.server_name;
    case VARIABLE_BEST_HTTP_HOST:
      return exchange->best_host;
    case VARIABLE_HTTP_HOST_:
      return exchange->received_host;
    case VARIABLE_HOSTNAME:
      return span_of(worker->hostname);
    case VARIABLE_SERVER_NAME:
      return exchange->facts.server_name.length ? exchange->facts.server_name : SPAN("_");
    case VARIABLE_SERVER_ADDR:
      return server_address(exchange, arena);
    case VARIABLE_SERVER_PROTOCOL:
      return exchange->request && exchange->request->version_minor == 0 ? SPAN("HTTP/1.0") : SPAN("HTTP/1.1");
    case VARIABLE_SCHEME:
      return exchange_listener_scheme(exchange);
    case VARIABLE_PASS_ACCESS_SCHEME:
      return exchange->scheme;
    case VARIABLE_PASS_SERVER_PORT:
      return number(arena, exchange->forwarded_port);
    case VARIABLE_HTTPS:
      return span_equal(exchange_listener_scheme(exchange), SPAN("https")) ? SPAN("on") : none;
    case VARIABLE_REQUEST:
      return request_line(exchange, arena);
    case VARIABLE_REQUEST_METHOD:
      return exchange->request ? exchange->request->method : none;
    case VARIABLE_REQUEST_URI:
      return exchange->target;
    case VARIABLE_ESCAPED_REQUEST_URI:
      return uri_escape_component(exchange->target, arena);
    case VARIABLE_URI:
    case VARIABLE_DOCUMENT_URI:
      return exchange->uri.path;
    case VARIABLE_ARGS:
    case VARIABLE_QUERY_STRING:
      return exchange->uri.query;
    case VARIABLE_IS_ARGS:
      return exchange->uri.query.length ? SPAN("?") : none;
    case VARIABLE_REMOTE_ADDR:
    case VARIABLE_BINARY_REMOTE_ADDR:
    case VARIABLE_THE_REAL_IP:
      return span_of(exchange->client_ip);
    case VARIABLE_FULL_X_FORWARDED_FOR:
      return upstream_head_forwarded_for(exchange);
    case VARIABLE_SERVER_PORT:
    case VARIABLE_REMOTE_PORT:
    case VARIABLE_REALIP_REMOTE_ADDR:
    case VARIABLE_CONNECTION:
    case VARIABLE_CONNECTION_REQUESTS:
      return connection_value(exchange, variable, arena);
    case VARIABLE_REMOTE_USER:
      return exchange->remote_user.length ? exchange->remote_user : basic_user(exchange, arena);
    case VARIABLE_PROXY_PROTOCOL_ADDR:
      return proxy_address(exchange, arena);
    case VARIABLE_PROXY_PROTOCOL_PORT:
      return proxy_port(exchange, arena);
    case VARIABLE_TIME_LOCAL:
      return span_of(worker->time_local);
    case VARIABLE_TIME_ISO8601:
      return span_of(worker->time_iso8601);
    case VARIABLE_MSEC:
      return msec(arena);
    case VARIABLE_STATUS:
      return arena_printf(arena, "%03d", status_of(exchange));
    case VARIABLE_BODY_BYTES_SENT:
      return number(arena, exchange->body_bytes_sent);
    case VARIABLE_BYTES_SENT:
      return number(arena, exchange->bytes_sent);
    case VARIABLE_REQUEST_LENGTH:
      return number(arena, exchange->request_bytes);
    case VARIABLE_REQUEST_TIME:
      return seconds(arena, exchange_duration_us(exchange) / 1000);
    case VARIABLE_REQUEST_ID:
    case VARIABLE_REQ_ID:
      return exchange->request_id;
    case VARIABLE_CONTENT_LENGTH:
      return exchange->request && exchange->request->body.framing == BODY_LENGTH ? number(arena, exchange->request->body.length) : none;
    case VARIABLE_CONTENT_TYPE:
      return exchange->request ? headers_get(&exchange->request->headers, HEADER_CONTENT_TYPE) : none;
    case VARIABLE_PROXY_UPSTREAM_NAME:
    case VARIABLE_PROXY_HOST:
      return exchange->main_name.length ? exchange->main_name : exchange->upstream_name;
    case VARIABLE_PROXY_ALTERNATIVE_UPSTREAM_NAME:
      return exchange->alternative_name.data ? exchange->alternative_name : SPAN("");
    case VARIABLE_UPSTREAM_ADDR:
      return tries(exchange, TRY_ADDRESS, arena);
    case VARIABLE_UPSTREAM_STATUS:
      return tries(exchange, TRY_STATUS, arena);
    case VARIABLE_UPSTREAM_RESPONSE_TIME:
      return tries(exchange, TRY_RESPONSE_TIME, arena);
    case VARIABLE_UPSTREAM_CONNECT_TIME:
      return tries(exchange, TRY_CONNECT_TIME, arena);
    case VARIABLE_UPSTREAM_HEADER_TIME:
      return tries(exchange, TRY_HEADER_TIME, arena);
    case VARIABLE_UPSTREAM_RESPONSE_LENGTH:
      return tries(exchange, TRY_LENGTH, arena);
    case VARIABLE_NAMESPACE:
      return exchange->facts.namespace;
    case VARIABLE_INGRESS_NAME:
      return exchange->facts.ingress;
    case VARIABLE_SERVICE_NAME:
      return exchange->facts.service;
    case VARIABLE_SERVICE_PORT:
      return exchange->facts.port;
    case VARIABLE_LOCATION_PATH:
      return exchange->facts.path;
    case VARIABLE_SSL_PROTOCOL:
    case VARIABLE_SSL_CIPHER:
    case VARIABLE_SSL_SERVER_NAME:
    case VARIABLE_SSL_SESSION_REUSED:
      return tls_text(exchange, variable);
    case VARIABLE_PID:
      return number(arena, (uint64_t)getpid());
    case VARIABLE_PIPE:
      return SPAN(".");
    case VARIABLE_CAPTURE:
      return group(exchange, argument);
    case VARIABLE_HTTP:
      return request_field(exchange, argument, arena);
    case VARIABLE_SENT_HTTP:
    case VARIABLE_UPSTREAM_HTTP:
      return response_field(exchange, argument, arena);
    case VARIABLE_ARG:
      return uri_argument(exchange->uri.query, argument);
    case VARIABLE_COOKIE:
      return exchange_cookie(exchange, argument);
    case VARIABLE_VAR:
      return exchange_variable(exchange, argument);
    case VARIABLE_TEXT:
    case VARIABLE_COUNT:
    default:
      return none;
  }
}
