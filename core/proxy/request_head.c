/* Request head: see request_head.h. Who the client is follows nginx's realip: the PROXY header's source if the peer is trusted, then, with
 * use-forwarded-headers or enable-real-ip, the rightmost untrusted address of the forwarded list. Worker's thread; request_head_real_address is pure. */
#include "proxy/request_head.h"

#include <string.h>

#include "base/check.h"
#include "base/error.h"
#include "base/hash.h"
#include "proxy/client.h"

static bool parse_item(struct span item, struct address *address) {
  if (item.length && item.data[0] == '[') {
    size_t end = span_find(item, ']');
    if (end == item.length) return false;
    return address_parse_ip(span_make(item.data + 1, end - 1), 0, address) == 0;
  }
  if (address_parse_ip(item, 0, address) == 0) return true;
  size_t colon = span_find(item, ':'); /* "1.2.3.4:567" */
  return colon < item.length && address_parse_ip(span_make(item.data, colon), 0, address) == 0;
}

bool request_head_real_address(struct span list, const struct ip_set *trusted, struct address *address) {
  bool found = false;
  while (list.length) {
    size_t start = list.length;
    while (start > 0 && list.data[start - 1] != ',') start--;
    struct span item = span_trim(span_make(list.data + start, list.length - start));
    list.length = start ? start - 1 : 0;
    if (item.length == 0) continue;
    struct address next;
    if (!parse_item(item, &next)) return found;
    *address = next;
    found = true;
    if (!trusted || !ip_set_contains(trusted, &next)) return true;
  }
  return found;
}

static struct span first_item(struct span list) {
  struct span item;
  return span_next_item(&list, ',', &item) ? item : (struct span){NULL, 0};
}

static void real_address(struct exchange *exchange, const struct settings *settings) {
  struct span list = headers_join(&exchange->request->headers, settings->forwarded_for_header, &exchange->arena);
  struct address address;
  if (list.length == 0 || !request_head_real_address(list, settings->trusted, &address)) return;
  exchange->client_address = address;
  address_format_ip(&address, exchange->client_ip);
}

void request_head_client(struct exchange *exchange) {
  const struct client *client = exchange->client;
  const struct settings *settings = exchange->worker->root ? exchange->worker->root->settings : NULL;
  const struct request_head *request = exchange->request;
  exchange->client_address = client->peer;
  memcpy(exchange->client_ip, client->peer_ip, sizeof exchange->client_ip);
  exchange->peer_is_trusted = client->peer_is_trusted;
  exchange->scheme = client->is_https ? SPAN("https") : SPAN("http");
  exchange->forwarded_port = client->is_https ? 443 : client->listener_port;
  exchange->received_host = request->host;
  exchange->best_host = request->host;
  if (client->has_proxy_header && !client->proxy.local) {
    uint16_t port = address_port(&client->proxy.destination);
    if (port) exchange->forwarded_port = port;
    if (port == 443) exchange->scheme = SPAN("https");
  }
  if (!settings || !exchange->peer_is_trusted || !(settings->use_forwarded_headers || settings->enable_real_ip)) return;
  real_address(exchange, settings);
  if (!settings->use_forwarded_headers) return;
  struct span proto = first_item(headers_get(&request->headers, HEADER_X_FORWARDED_PROTO));
  if (span_equal_nocase(proto, SPAN("https"))) exchange->scheme = SPAN("https");
  else if (span_equal_nocase(proto, SPAN("http"))) exchange->scheme = SPAN("http");
  struct span host = first_item(headers_get(&request->headers, HEADER_X_FORWARDED_HOST)), part, port_text;
  if (host.length && uri_split_authority(host, &part, &port_text)) exchange->best_host = host;
  unsigned long long port = 0;
  if (span_to_u64(first_item(headers_get(&request->headers, HEADER_X_FORWARDED_PORT)), 65535, &port) && port) exchange->forwarded_port = (uint16_t)port;
}

static struct span make_id(struct exchange *exchange) {
  static const char digits[] = "0123456789abcdef";
  char *text = arena_alloc(&exchange->arena, 33);
  for (unsigned half = 0; half < 2; half++) {
    uint64_t value = random_next(&exchange->worker->random);
    for (unsigned i = 0; i < 16; i++) text[half * 16 + i] = digits[value >> (60 - 4 * i) & 15];
  }
  text[32] = 0;
  return span_make(text, 32);
}

/* Origin form of the target, bytes as received. */
static struct span origin_form(const struct exchange *exchange) {
  const struct request_head *request = exchange->request;
  const struct uri *uri = &exchange->uri;
  if (uri->authority.length == 0) return request->target;
  const char *end = request->target.data + request->target.length;
  if (uri->raw_path.length && uri->raw_path.data >= request->target.data && uri->raw_path.data < end)
    return span_make(uri->raw_path.data, (size_t)(end - uri->raw_path.data));
  return (struct span){NULL, 0};
}

/* How often the request has come by here already (RFC 8586). */
static unsigned passes_of(const struct headers *headers) {
  unsigned passes = 0;
  for (const struct header *header = headers_find(headers, HEADER_CDN_LOOP); header; header = headers_next_name(headers, SPAN("cdn-loop"), header)) {
    struct span list = header->value, item;
    while (span_next_item(&list, ',', &item)) passes += span_equal(item, REQUEST_HEAD_PASS);
  }
  return passes;
}

int request_head_parse(struct exchange *exchange, const char **why) {
  struct request_head *request = exchange->request;
  const struct settings *settings = exchange->worker->root->settings;
  struct arena *arena = &exchange->arena;
  if (uri_parse_target(request->target, request->method, arena, &exchange->uri) != 0) {
    *why = "bad request target";
    return 400;
  }
  exchange->target = origin_form(exchange);
  if (!exchange->target.data) {
    struct span query = exchange->uri.query;
    exchange->target = arena_printf(arena, "/%s%.*s", query.data ? "?" : "", (int)query.length, query.data ? query.data : "");
  }
  struct span port;
  if (request->host.length && !uri_host(request->host, arena, &exchange->host_name, &port)) {
    *why = "bad Host";
    return 400;
  }
  if (passes_of(&request->headers) >= LIMIT_PASSES) {
    counter_add(exchange->worker->options.counters, COUNTER_LIMIT_PASSES, 1);
    *why = "the request leads back to us";
    return 508;
  }
  exchange->request_id = headers_get(&request->headers, HEADER_X_REQUEST_ID);
  if (exchange->request_id.length == 0 && settings->generate_request_id) exchange->request_id = make_id(exchange);
  return 0;
}
