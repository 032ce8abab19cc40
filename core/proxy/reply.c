/* Reply: see reply.h. All answers that do not come from an endpoint are made and sent here; header_filter hooks see each of them if a route was matched. */
#include "proxy/reply.h"

#include "base/check.h"
#include "base/error.h"
#include "proxy/body_filter.h"
#include "proxy/lease.h"
#include "proxy/replace.h"
#include "proxy/response_head.h"
#include "proxy/worker.h"

struct response_head *reply_make(struct exchange *exchange, int status, enum answer_source source) {
  struct response_head *response = arena_zalloc(&exchange->arena, sizeof *response);
  response->status = status;
  response->version_minor = 1;
  headers_init(&response->headers, &exchange->arena);
  response->body.framing = BODY_LENGTH;
  exchange->response = response;
  exchange->source = source;
  exchange->reply_body = (struct span){NULL, 0};
  exchange->was_edited = exchange->is_final = false;
  return response;
}

enum step_result reply_cut_off(struct exchange *exchange, struct span reason) {
  exchange->reply_reason = reason;
  exchange->response_ended = false;
  exchange->step = STEP_LOG;
  return STEP_MORE;
}

enum step_result reply_error(struct exchange *exchange, int status, struct span reason) {
  if (exchange->response_started) return reply_cut_off(exchange, reason);
  struct response_head *response = reply_make(exchange, status, ANSWER_PROXY);
  headers_add(&response->headers, HEADER_CONTENT_TYPE, SPAN("Content-Type"), SPAN("text/html"));
  exchange->reply_body = status_page(status, &exchange->arena);
  exchange->reply_reason = reason;
  response->body.length = exchange->reply_body.length;
  exchange->step = STEP_REPLY;
  return STEP_MORE;
}

enum step_result reply_plain_to_tls(struct exchange *exchange) {
  const struct span told = SPAN("The plain HTTP request was sent to HTTPS port"); /* nginx's words, which people search for */
  (void)reply_error(exchange, 400, told);
  exchange->reply_closes = true;
  exchange->reply_body = arena_printf(&exchange->arena,
                                      "<html>\r\n<head><title>400 %s</title></head>\r\n<body>\r\n<center><h1>400 Bad Request</h1></center>\r\n"
                                      "<center>%s</center>\r\n</body>\r\n</html>\r\n",
                                      told.data, told.data);
  exchange->response->body.length = exchange->reply_body.length;
  return STEP_MORE;
}

enum step_result reply_too_large(struct exchange *exchange) {
  counter_add(exchange->worker->options.counters, COUNTER_LIMIT_BODY_BYTES, 1);
  return reply_error(exchange, 413, SPAN("body larger than body_limit"));
}

enum step_result reply_default(struct exchange *exchange) {
  bool is_nobodys = !exchange->host || exchange->host == exchange->worker->root->catch_all;
  bool is_health_check = is_nobodys && span_equal(exchange->uri.path, SPAN("/healthz"));
  struct response_head *response = reply_make(exchange, is_health_check ? 200 : 404, ANSWER_PROXY);
  headers_add(&response->headers, HEADER_CONTENT_TYPE, SPAN("Content-Type"), SPAN("text/plain"));
  if (!is_health_check) exchange->reply_body = SPAN("default backend - 404");
  exchange->reply_reason = SPAN("default backend");
  response->body.length = exchange->reply_body.length;
  exchange->step = STEP_REPLY;
  return STEP_MORE;
}

/* Scheme, host and port for a redirect to a path of ours; empty where a path will do. */
static struct span own_origin(const struct exchange *exchange, struct arena *arena) {
  const struct route_settings *settings = exchange->settings;
  struct span host = exchange->host_name.length ? exchange->host_name : exchange->facts.server_name, scheme = exchange->scheme;
  if (settings->relative_redirects) return SPAN("");
  unsigned port = exchange_listener_port(exchange);
  bool is_usual = port == (span_equal(scheme, SPAN("https")) ? 443 : 80) || !span_equal(scheme, exchange_listener_scheme(exchange));
  if (is_usual || !settings->port_in_redirects) return arena_printf(arena, "%.*s://%.*s", (int)scheme.length, scheme.data, (int)host.length, host.data);
  return arena_printf(arena, "%.*s://%.*s:%u", (int)scheme.length, scheme.data, (int)host.length, host.data, port);
}

enum step_result reply_add_slash(struct exchange *exchange) {
  struct arena *arena = &exchange->arena;
  struct span path = uri_escape_path(exchange->uri.path, arena), query = exchange->uri.query, origin = own_origin(exchange, arena);
  struct response_head *response = reply_make(exchange, 301, ANSWER_PROXY);
  struct span location = arena_printf(arena, "%.*s%.*s/%s%.*s", (int)origin.length, origin.data, (int)path.length, path.data, query.data ? "?" : "",
                                      (int)query.length, query.data ? query.data : "");
  headers_add(&response->headers, HEADER_LOCATION, SPAN("Location"), location);
  headers_add(&response->headers, HEADER_CONTENT_TYPE, SPAN("Content-Type"), SPAN("text/html"));
  exchange->reply_body = status_page(301, arena);
  response->body.length = exchange->reply_body.length;
  exchange->step = STEP_REPLY;
  return STEP_MORE;
}

bool reply_filter(struct exchange *exchange) {
  const struct hook_runner *hooks = &exchange->worker->options.hooks;
  const struct route *route = exchange->route;
  if (!route || !hooks->run || exchange->failed_phases || exchange->is_detached || route->hook_count[HOOK_HEADER_FILTER] == 0) return true;
  const struct response_head *before = exchange->response;
  exchange->phase = HOOK_HEADER_FILTER;
  exchange->hook_index = 0;
  lease_note_hooks(exchange);
  switch (hooks->run(hooks->self, exchange, HOOK_HEADER_FILTER)) {
    case HOOK_NEXT:
      return true;
    case HOOK_ANSWERED:
      if (exchange->replacement && !exchange->replacement->has_begun) {
        exchange->step = STEP_REPLACE;
        return false;
      }
      exchange->failed_phases = 1; /* the answer of a header_filter is not filtered again */
      must(exchange->response && exchange->response != before);
      break;
    case HOOK_WAIT:
      must(!"header_filter waits");
    /* fall through */
    case HOOK_FAILED:
    default:
      exchange->failed_phases = 1;
      (void)reply_error(exchange, 500, SPAN("a policy failed"));
      break;
  }
  exchange->step = STEP_REPLY;
  return false;
}

enum step_result step_reply(struct exchange *exchange) {
  must(exchange->response && !exchange->response_started);
  exchange_drop_upstream(exchange, exchange->failure ? exchange->failure : ERROR_CANCELLED);
  if (!reply_filter(exchange)) return STEP_MORE;
  if (body_filter_is_wanted(exchange) && !exchange->failed_phases) {
    body_filter_head(exchange);
    if (exchange->filters_body && !body_filter_run(exchange, &exchange->reply_body, true)) {
      exchange->failed_phases = 1; /* nor is this answer filtered */
      return reply_error(exchange, 500, SPAN("a policy failed"));
    }
    exchange->response->body = (struct message_body){exchange->filters_body ? BODY_LENGTH : exchange->response->body.framing, exchange->reply_body.length};
  }
  response_head_finish(exchange);
  struct codec_stream *stream = exchange->stream;
  struct response_head *response = exchange->response;
  if (exchange->reply_closes || exchange->worker->says_close) response->close = true;
  if (!exchange->request_ended && !exchange->request_stopped) {
    exchange->request_stopped = true;
    stream->ops->discard_body(stream, LIMIT_DRAIN_BYTES);
  }
  exchange->response_started = true;
  stream->ops->send_response(stream, response);
  if (exchange->reply_body.length && status_has_body(response->status, stream->request->method)) {
    stream->ops->send_body(stream, &exchange->reply_body, 1);
    exchange->body_bytes_sent += exchange->reply_body.length;
  }
  stream->ops->send_end(stream, NULL);
  exchange->response_ended = true;
  bool is_ours = response->status >= 500 && response->status != 501 && response->status != 505; /* the others are the client's fault */
  if (is_ours && exchange->reply_reason.length) {
    char reason[1024];
    log_write(exchange->worker->options.log, LOG_WARN, "answered with an error", "status=%d host=\"%.*s\" reason=%s upstream=\"%.*s\"", response->status,
              (int)exchange->host_name.length, exchange->host_name.data ? exchange->host_name.data : "",
              log_quote(exchange->reply_reason, reason, sizeof reason), (int)exchange->upstream_name.length,
              exchange->upstream_name.data ? exchange->upstream_name.data : "");
  }
  exchange->step = STEP_LOG;
  return STEP_MORE;
}
