/* Exchange members: the functions behind the one table of exchange_members.c. Each is called after the checks, for an exchange that is alive and in a phase
 * that allows it. */
#ifndef SCRIPT_EXCHANGE_MEMBERS_H
#define SCRIPT_EXCHANGE_MEMBERS_H

#include "script/exchange_objects.h"

/* X(OBJECT, "name", FIELD or METHOD, phases, function) */
#define ANY (BEFORE | PHASE(BALANCER) | AFTER)
#define PHASE(name) (1u << HOOK_##name)
#define BEFORE (PHASE(SERVER_REWRITE) | PHASE(REWRITE) | PHASE(ACCESS))
#define ROUTED (ANY & ~PHASE(SERVER_REWRITE))
#define AFTER (PHASE(HEADER_FILTER) | PHASE(BODY_FILTER) | PHASE(LOG))
#define ANSWERS (BEFORE | PHASE(BALANCER))

#define EXCHANGE_MEMBERS(X) \
  X(EXCHANGE, "client", FIELD, ANY, exchange_client) \
  X(EXCHANGE, "listener", FIELD, ANY, exchange_listener) \
  X(EXCHANGE, "request", FIELD, ANY, exchange_request) \
  X(EXCHANGE, "upstream", FIELD, PHASE(BALANCER) | AFTER, exchange_upstream_object) \
  X(EXCHANGE, "response", FIELD, AFTER, exchange_response) \
  X(EXCHANGE, "variables", FIELD, ANY, exchange_variables) \
  X(EXCHANGE, "ctx", FIELD, ANY, exchange_ctx) \
  X(EXCHANGE, "route", FIELD, ROUTED, exchange_route) \
  X(EXCHANGE, "host_name", FIELD, ANY, exchange_host_name) \
  X(EXCHANGE, "started", FIELD, ANY, exchange_started) \
  X(EXCHANGE, "duration", FIELD, ANY, exchange_duration) \
  X(EXCHANGE, "detached", FIELD, ANY, exchange_detached) \
  X(EXCHANGE, "respond", METHOD, ANSWERS, exchange_do_respond) \
  X(EXCHANGE, "deny", METHOD, ANSWERS, exchange_do_deny) \
  X(EXCHANGE, "redirect", METHOD, ANSWERS, exchange_do_redirect) \
  X(EXCHANGE, "allow", METHOD, PHASE(ACCESS), exchange_do_allow) \
  X(EXCHANGE, "mirror", METHOD, PHASE(ACCESS), exchange_do_mirror) \
  X(EXCHANGE, "replace_response", METHOD, PHASE(HEADER_FILTER), exchange_do_replace_response) \
  X(EXCHANGE, "use_upstream", METHOD, PHASE(REWRITE) | PHASE(ACCESS), exchange_do_use_upstream) \
  X(CLIENT, "ip", FIELD, ANY, client_ip) \
  X(CLIENT, "port", FIELD, ANY, client_port) \
  X(CLIENT, "scheme", FIELD, ANY, client_scheme) \
  X(CLIENT, "protocol", FIELD, ANY, client_protocol) \
  X(CLIENT, "tls", FIELD, ANY, client_tls) \
  X(TLS, "version", FIELD, ANY, tls_version) \
  X(TLS, "cipher", FIELD, ANY, tls_cipher) \
  X(TLS, "server_name", FIELD, ANY, tls_server_name) \
  X(TLS, "resumed", FIELD, ANY, tls_resumed) \
  X(TLS, "certificate", FIELD, ANY, tls_certificate) \
  X(LISTENER, "scheme", FIELD, ANY, listener_scheme) \
  X(LISTENER, "port", FIELD, ANY, listener_port_number) \
  X(REQUEST, "method", FIELD, ANY, request_method) \
  X(REQUEST, "host", FIELD, ANY, request_host) \
  X(REQUEST, "path", FIELD, ANY, request_path) \
  X(REQUEST, "query", FIELD, ANY, request_query) \
  X(REQUEST, "uri", FIELD, ANY, request_uri) \
  X(REQUEST, "id", FIELD, ANY, request_id) \
  X(REQUEST, "headers", FIELD, ANY, request_headers) \
  X(REQUEST, "cookies", FIELD, ANY, request_cookies) \
  X(REQUEST, "argument", METHOD, ANY, request_argument) \
  X(REQUEST, "body", METHOD, BEFORE, request_body) \
  X(REQUEST, "set_path", METHOD, BEFORE, request_set_path) \
  X(REQUEST, "set_query", METHOD, BEFORE, request_set_query) \
  X(REQUEST, "set_method", METHOD, BEFORE, request_set_method) \
  X(REQUEST_HEADERS, "get", METHOD, ANY, fields_get) \
  X(REQUEST_HEADERS, "all", METHOD, ANY, fields_all) \
  X(REQUEST_HEADERS, "each", METHOD, ANY, fields_each) \
  X(REQUEST_HEADERS, "set", METHOD, ANSWERS, fields_set) \
  X(REQUEST_HEADERS, "add", METHOD, ANSWERS, fields_add) \
  X(REQUEST_HEADERS, "remove", METHOD, ANSWERS, fields_remove) \
  X(COOKIES, "get", METHOD, ANY, cookies_get) \
  X(VARIABLES, "get", METHOD, ANY, variables_get) \
  X(VARIABLES, "set", METHOD, ANY, variables_set) \
  X(UPSTREAM, "name", FIELD, ANY, upstream_name) \
  X(UPSTREAM, "fallback", FIELD, PHASE(BALANCER) | AFTER, upstream_fallback) \
  X(UPSTREAM, "count", METHOD, PHASE(BALANCER), upstream_count) \
  X(UPSTREAM, "endpoint", FIELD, PHASE(BALANCER) | AFTER, upstream_endpoint) \
  X(UPSTREAM, ":endpoint", METHOD, PHASE(BALANCER), upstream_endpoint_at) \
  X(UPSTREAM, "find", METHOD, PHASE(BALANCER), upstream_find_endpoint) \
  X(UPSTREAM, "resume", METHOD, PHASE(BALANCER), upstream_resume) \
  X(UPSTREAM, "hash", METHOD, PHASE(BALANCER), upstream_hash_endpoint) \
  X(UPSTREAM, "choose", METHOD, PHASE(BALANCER), upstream_choose) \
  X(UPSTREAM, "attempt", FIELD, PHASE(BALANCER) | AFTER, upstream_attempt) \
  X(UPSTREAM, "failed", FIELD, PHASE(BALANCER), upstream_failed) \
  X(UPSTREAM, "alternative", FIELD, AFTER, upstream_alternative) \
  X(UPSTREAM, "status", FIELD, AFTER, upstream_status) \
  X(UPSTREAM, "connect_time", FIELD, AFTER, upstream_connect_time) \
  X(UPSTREAM, "header_time", FIELD, AFTER, upstream_header_time) \
  X(UPSTREAM, "response_time", FIELD, AFTER, upstream_response_time) \
  X(ENDPOINT, "address", FIELD, ANY, endpoint_address) \
  X(ENDPOINT, "key", FIELD, ANY, endpoint_key) \
  X(ENDPOINT, "key_md5", FIELD, ANY, endpoint_key_md5) \
  X(ENDPOINT, "key_sha1", FIELD, ANY, endpoint_key_sha1) \
  X(ENDPOINT, "index", FIELD, ANY, endpoint_index) \
  X(ENDPOINT, "healthy", FIELD, ANY, endpoint_healthy) \
  X(ENDPOINT, "ready", FIELD, PHASE(BALANCER), endpoint_ready) \
  X(ENDPOINT, "draining", FIELD, PHASE(BALANCER), endpoint_draining) \
  X(ENDPOINT, "load", FIELD, ANY, endpoint_load) \
  X(ENDPOINT, "tried", FIELD, ANY, endpoint_tried) \
  X(RESPONSE, "status", FIELD, AFTER, response_status) \
  X(RESPONSE, "headers", FIELD, AFTER, response_headers) \
  X(RESPONSE, "source", FIELD, AFTER, response_source) \
  X(RESPONSE, "set_status", METHOD, PHASE(HEADER_FILTER), response_set_status) \
  X(RESPONSE_HEADERS, "get", METHOD, AFTER, fields_get) \
  X(RESPONSE_HEADERS, "all", METHOD, AFTER, fields_all) \
  X(RESPONSE_HEADERS, "each", METHOD, AFTER, fields_each) \
  X(RESPONSE_HEADERS, "set", METHOD, PHASE(HEADER_FILTER), fields_set) \
  X(RESPONSE_HEADERS, "add", METHOD, PHASE(HEADER_FILTER), fields_add) \
  X(RESPONSE_HEADERS, "remove", METHOD, PHASE(HEADER_FILTER), fields_remove)

/* One prototype per row; rows that share a function repeat it, which C allows. */
#define X(kind, name, form, phases, function) int member_##function(lua_State *L, struct exchange *exchange, const struct object *object);
EXCHANGE_MEMBERS(X)
#undef X

static inline int member_push_span(lua_State *L, struct span text) {
  if (text.data) lua_pushlstring(L, text.data, text.length);
  else lua_pushnil(L);
  return 1;
}
static inline int member_push_seconds(lua_State *L, int64_t microseconds) {
  if (microseconds < 0) lua_pushnil(L);
  else lua_pushnumber(L, (lua_Number)microseconds / 1e6);
  return 1;
}
/* Whether a policy may write this field: framing and hop-by-hop fields are the codec's. Raises with `function`. */
void member_check_field(lua_State *L, struct span name, const char *function);
/* Raises with `function` where it is not a method that may be sent: what a tunnel asks for, or would show our own fields, is none. */
void member_check_method(lua_State *L, struct span method, const char *function);
/* The value at `index` as a valid field value, copied into the arena. */
struct span member_field_value(lua_State *L, int index, struct arena *arena, const char *function);

/* Set by the runner's implementation: pushes exchange.route, decoded once per route and state. */
void member_push_route_facts(lua_State *L, struct exchange *exchange, struct script_state *state);

#endif
