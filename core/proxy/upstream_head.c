/* Upstream head: see upstream_head.h. The client's fields are copied but for those that we write ourselves; fixed edits come last, so that proxy-set-headers
 * and policies have the last word. Worker's thread. */
#include "proxy/upstream_head.h"

#include "proxy/body_filter.h"
#include "proxy/client.h"
#include "proxy/edits.h"
#include "proxy/replace.h"
#include "proxy/request_head.h"

/* Never copied from the client: written below, or not for upstreams. */
static const bool is_ours[HEADER_ID_COUNT] = {
    [HEADER_HOST] = true,
    [HEADER_EXPECT] = true,
    [HEADER_PROXY] = true,
    [HEADER_X_REQUEST_ID] = true,
    [HEADER_X_REAL_IP] = true,
    [HEADER_X_FORWARDED_FOR] = true,
    [HEADER_X_FORWARDED_HOST] = true,
    [HEADER_X_FORWARDED_PORT] = true,
    [HEADER_X_FORWARDED_PROTO] = true,
    [HEADER_X_FORWARDED_SCHEME] = true,
    [HEADER_X_SCHEME] = true,
    [HEADER_X_ORIGINAL_FORWARDED_FOR] = true,
    [HEADER_X_ORIGINAL_FORWARDED_HOST] = true,
};

static void add(struct headers *headers, enum header_id id, struct span name, struct span value) {
  if (value.length) headers_add(headers, id, name, value);
}

/* For what we made ourselves, or took from the checked head before any hook ran. */
static void add_checked(struct headers *headers, enum header_id id, struct span name, struct span value) {
  if (value.length) headers_add_checked(headers, id, name, value);
}

/* Whoever filters a body wants all of it, as it is, also of a client that asks for another protocol and is answered in this one. Apache takes a Request-Range
 * for a Range. */
static bool is_for_filters(const struct header *header) {
  return header->id == HEADER_ACCEPT_ENCODING || span_equal_nocase(header->name, SPAN("range")) || span_equal_nocase(header->name, SPAN("if-range")) ||
         span_equal_nocase(header->name, SPAN("request-range"));
}

static void copy(struct headers *headers, const struct header *header) {
  if (header->is_checked) headers_add_checked(headers, (enum header_id)header->id, header->name, header->value);
  else headers_add(headers, (enum header_id)header->id, header->name, header->value);
}

static struct span port_text(struct exchange *exchange) {
  if (exchange->forwarded_port == 443) return SPAN("443");
  if (exchange->forwarded_port == 80) return SPAN("80");
  enum { MOST_DIGITS = 5 };
  char *text = arena_alloc(&exchange->arena, MOST_DIGITS); /* by hand: each request comes by here, and printf costs as much as all these fields */
  size_t at = MOST_DIGITS;
  unsigned rest = exchange->forwarded_port;
  do text[--at] = (char)('0' + rest % 10);
  while (rest /= 10);
  return span_make(text + at, MOST_DIGITS - at);
}

/* The client's address alone; with use-forwarded-headers and compute-full-forwarded-for, the list that came with the peer behind it. */
struct span upstream_head_forwarded_for(struct exchange *exchange) {
  const struct settings *settings = exchange->worker->root->settings;
  struct span ip = span_of(exchange->client_ip);
  if (!settings->use_forwarded_headers || !settings->compute_full_forwarded_for) return ip;
  struct arena *arena = &exchange->arena;
  struct span list = headers_join(&exchange->request->headers, settings->forwarded_for_header, arena);
  struct span peer = exchange->client ? span_of(exchange->client->peer_ip) : ip;
  return list.length ? arena_printf(arena, "%.*s, %.*s", (int)list.length, list.data, (int)peer.length, peer.data) : peer;
}

static struct span host_of(struct exchange *exchange) {
  if (exchange->route && exchange->route->upstream_host && !exchange->replacement) {
    struct span host = template_expand(exchange->route->upstream_host, exchange_lookup, exchange, &exchange->arena);
    if (host.length && header_value_is_valid(host)) return host;
  }
  if (exchange->best_host.length) return exchange->best_host;
  return exchange->host_name.length ? exchange->host_name : exchange->endpoint->name;
}

static void write_forwarded(struct exchange *exchange, const struct settings *settings, struct headers *out) {
  const struct headers *in = &exchange->request->headers;
  add_checked(out, HEADER_X_REQUEST_ID, SPAN("X-Request-ID"), exchange->request_id);
  add_checked(out, HEADER_X_REAL_IP, SPAN("X-Real-IP"), span_of(exchange->client_ip));
  add(out, HEADER_X_FORWARDED_FOR, SPAN("X-Forwarded-For"), upstream_head_forwarded_for(exchange));
  add_checked(out, HEADER_X_FORWARDED_HOST, SPAN("X-Forwarded-Host"), exchange->best_host);
  add_checked(out, HEADER_X_FORWARDED_PORT, SPAN("X-Forwarded-Port"), port_text(exchange));
  add_checked(out, HEADER_X_FORWARDED_PROTO, SPAN("X-Forwarded-Proto"), exchange->scheme);
  add_checked(out, HEADER_X_FORWARDED_SCHEME, SPAN("X-Forwarded-Scheme"), exchange->scheme);
  add_checked(out, HEADER_X_SCHEME, SPAN("X-Scheme"), exchange->scheme);
  if (settings->proxy_add_original_uri_header) headers_set(out, HEADER_X_ORIGINAL_URI, SPAN("X-Original-URI"), exchange->target);
  add(out, HEADER_X_ORIGINAL_FORWARDED_FOR, SPAN("X-Original-Forwarded-For"), headers_get(in, HEADER_X_FORWARDED_FOR));
  add(out, HEADER_X_ORIGINAL_FORWARDED_HOST, SPAN("X-Original-Forwarded-Host"), headers_get(in, HEADER_X_FORWARDED_HOST));
}

/* Connection belongs to the codec; two values may be asked for, and either ends an upgrade. Others are left out. */
static void set_connection(struct request_head *out, struct span value, bool may_keep) {
  bool is_close = span_equal_nocase(value, SPAN("close"));
  if (!is_close && !span_equal_nocase(value, SPAN("keep-alive"))) return;
  out->upgrade = (struct span){"", 0};
  out->accepts_trailers = false;
  out->keep_alive = !is_close && may_keep;
  out->says_keep_alive = !is_close;
}

static void apply(struct exchange *exchange, struct request_head *out, const struct fixed_edit *edits, unsigned count) {
  struct headers *headers = &out->headers;
  bool may_keep = exchange->worker->root->settings->upstream_keepalive_connections > 0;
  for (unsigned i = 0; i < count; i++) {
    const struct fixed_edit *edit = &edits[i];
    if (edit->kind > EDIT_REMOVE_REQUEST) continue;
    if (edit->when == EDIT_HTTPS && !span_equal(exchange->scheme, SPAN("https"))) continue;
    enum header_id id = edits_header_id(edit);
    if (id != HEADER_CONNECTION && (header_is_hop_by_hop(id) || id == HEADER_CONTENT_LENGTH)) continue; /* framing is the codec's */
    struct span value = edit->value ? template_expand(edit->value, exchange_lookup, exchange, &exchange->arena) : (struct span){NULL, 0};
    if (id == HEADER_CONNECTION) {
      set_connection(out, value, may_keep);
      continue;
    }
    /* As in nginx, a field set to an empty value is not sent. Host cannot be absent. */
    if (edit->kind == EDIT_SET_REQUEST && value.length && header_value_is_valid(value)) headers_set(headers, id, edit->name, value);
    else if (id != HEADER_HOST) headers_remove(headers, id, edit->name);
  }
}

static struct span target_of(struct exchange *exchange) {
  if (exchange->replacement) return replace_request(exchange)->target;
  if (!exchange->path_changed) return exchange->target;
  struct span path = uri_escape_path(exchange->uri.path, &exchange->arena), query = exchange->uri.query;
  if (!query.data) return path;
  return arena_printf(&exchange->arena, "%.*s?%.*s", (int)path.length, path.data, (int)query.length, query.data);
}

struct request_head *upstream_head_make(struct exchange *exchange) {
  const struct settings *settings = exchange->worker->root->settings;
  const struct request_head *in = replace_request(exchange);
  struct request_head *out = arena_alloc(&exchange->arena, sizeof *out);
  *out = *in;
  out->target = target_of(exchange);
  out->version_major = 1;
  out->version_minor = span_equal(exchange->settings->http_version, SPAN("1.0")) ? 0 : 1;
  out->keep_alive = settings->upstream_keepalive_connections > 0 && in->upgrade.length == 0;
  out->says_keep_alive = out->expects_continue = false;
  if (in->body.framing == BODY_CHUNKED && exchange->body_is_whole && !(exchange->stream && exchange->stream->trailers))
    out->body = (struct message_body){BODY_LENGTH, buffer_length(&exchange->body)};
  headers_init(&out->headers, &exchange->arena);
  headers_reserve(&out->headers, in->headers.count + 14);
  out->host = host_of(exchange);
  headers_add(&out->headers, HEADER_HOST, SPAN("Host"), out->host);
  bool is_filtered = body_filter_is_wanted(exchange);
  if (is_filtered) headers_add_checked(&out->headers, HEADER_ACCEPT_ENCODING, SPAN("Accept-Encoding"), SPAN("identity"));
  for (unsigned i = 0; i < in->headers.count; i++) {
    const struct header *header = &in->headers.items[i];
    if (header->removed || is_ours[header->id] || (is_filtered && is_for_filters(header))) continue;
    copy(&out->headers, header);
  }
  write_forwarded(exchange, settings, &out->headers);
  const struct upstream *upstream = exchange_upstream(exchange);
  if (upstream && upstream->is_outside) headers_add_checked(&out->headers, HEADER_CDN_LOOP, SPAN("CDN-Loop"), REQUEST_HEAD_PASS);
  bool is_applications = !exchange->replacement; /* what proxy-set-headers tells applications may be a secret between them and us */
  if (is_applications && settings->edit_count) apply(exchange, out, settings->edits, settings->edit_count);
  if (is_applications && exchange->route && exchange->route->edit_count) apply(exchange, out, exchange->route->edits, exchange->route->edit_count);
  out->host = headers_get(&out->headers, HEADER_HOST);
  return out;
}

static bool is_edited(const struct fixed_edit *edits, unsigned count, struct span name) {
  for (unsigned i = 0; i < count; i++)
    if (edits[i].kind <= EDIT_REMOVE_REQUEST && span_equal_nocase(edits[i].name, name)) return true;
  return false;
}

/* By a hook, which leaves its mark in the list, or by a fixed edit. Without its route nothing is known of an exchange's edits. */
static bool is_taken_away(const struct exchange *exchange, struct span name) {
  const struct headers *request = &exchange->request->headers;
  const struct settings *settings = exchange->worker->root->settings;
  const struct route *route = exchange->route;
  for (unsigned i = 0; i < request->count; i++)
    if (request->items[i].removed && span_equal_nocase(request->items[i].name, name)) return true;
  if (is_edited(settings->edits, settings->edit_count, name)) return true;
  return exchange->is_detached || (route && is_edited(route->edits, route->edit_count, name));
}

struct headers *upstream_head_trailers(const struct exchange *exchange) {
  struct headers *trailers = exchange->replacement ? NULL : exchange->stream->trailers;
  const struct headers *sent = &exchange->upstream_stream->request->headers;
  bool is_filtered = body_filter_is_wanted(exchange);
  for (unsigned i = 0; trailers && i < trailers->count; i++) {
    struct header *trailer = &trailers->items[i];
    if (trailer->id != HEADER_OTHER || (is_filtered && is_for_filters(trailer)) || headers_find_name(sent, trailer->name) ||
        is_taken_away(exchange, trailer->name))
      trailer->removed = true;
  }
  return trailers;
}
