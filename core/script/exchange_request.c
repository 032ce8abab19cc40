/* Exchange request: what policies read and change of the client, the request and the header lists. Strings from Lua are copied into the exchange's arena.
 * Worker's thread. */
#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "net/link.h"
#include "proxy/worker.h"
#include "script/exchange_members.h"

#define MEMBER(name) int member_##name(lua_State *L, struct exchange *exchange, const struct object *object)

static struct span check_span(lua_State *L, int index, const char *function, const char *what) {
  struct span text;
  int type = lua_type(L, index);
  if (type != LUA_TSTRING && type != LUA_TNUMBER) luaL_error(L, "%s: the %s is a %s, not a string", function, what, luaL_typename(L, index));
  text.data = lua_tolstring(L, index, &text.length);
  state_charge_bytes(L, text.length);
  return text;
}

static int push_object(lua_State *L, const struct object *object, enum object_kind kind) {
  exchange_objects_push(L, object->part, kind);
  return 1;
}

MEMBER(exchange_client) {
  (void)exchange;
  return push_object(L, object, OBJECT_CLIENT);
}
MEMBER(exchange_listener) {
  (void)exchange;
  return push_object(L, object, OBJECT_LISTENER);
}
MEMBER(exchange_request) {
  (void)exchange;
  return push_object(L, object, OBJECT_REQUEST);
}
MEMBER(exchange_upstream_object) {
  (void)exchange;
  return push_object(L, object, OBJECT_UPSTREAM);
}
MEMBER(exchange_variables) {
  (void)exchange;
  return push_object(L, object, OBJECT_VARIABLES);
}
MEMBER(request_headers) {
  (void)exchange;
  return push_object(L, object, OBJECT_REQUEST_HEADERS);
}
MEMBER(request_cookies) {
  (void)exchange;
  return push_object(L, object, OBJECT_COOKIES);
}
MEMBER(response_headers) {
  (void)exchange;
  return push_object(L, object, OBJECT_RESPONSE_HEADERS);
}

MEMBER(exchange_response) {
  if (exchange->response == NULL) {
    lua_pushnil(L);
    return 1;
  }
  return push_object(L, object, OBJECT_RESPONSE);
}

MEMBER(exchange_ctx) {
  (void)exchange;
  exchange_objects_push_ctx(L, object->part);
  return 1;
}

MEMBER(exchange_route) {
  member_push_route_facts(L, exchange, object->part->state);
  return 1;
}

MEMBER(exchange_host_name) {
  (void)object;
  const struct host *host = exchange->owner ? exchange->owner : exchange->host;
  return member_push_span(L, host ? host->name : (struct span){NULL, 0});
}

MEMBER(exchange_started) {
  (void)object;
  lua_pushnumber(L, (lua_Number)exchange_started_unix_us(exchange) / 1e6);
  return 1;
}

MEMBER(exchange_duration) {
  (void)object;
  lua_pushnumber(L, (lua_Number)exchange_duration_us(exchange) / 1e6);
  return 1;
}

MEMBER(exchange_detached) {
  (void)object;
  lua_pushboolean(L, exchange->is_detached);
  return 1;
}

MEMBER(client_ip) {
  (void)object;
  lua_pushstring(L, exchange->client_ip);
  return 1;
}

MEMBER(client_port) {
  (void)object;
  lua_pushinteger(L, exchange_client_port(exchange));
  return 1;
}

MEMBER(client_scheme) {
  (void)object;
  return member_push_span(L, exchange->scheme);
}

MEMBER(client_protocol) {
  (void)object;
  char text[16];
  const struct request_head *head = exchange->request;
  if (head->version_major >= 2) snprintf(text, sizeof text, "HTTP/%u", (unsigned)head->version_major);
  else snprintf(text, sizeof text, "HTTP/%u.%u", (unsigned)head->version_major, (unsigned)head->version_minor);
  lua_pushstring(L, text);
  return 1;
}

MEMBER(client_tls) {
  if (exchange_tls(exchange) == NULL) {
    lua_pushnil(L);
    return 1;
  }
  return push_object(L, object, OBJECT_TLS);
}

MEMBER(tls_version) {
  (void)object;
  const struct link_tls_info *tls = exchange_tls(exchange);
  lua_pushstring(L, tls ? tls->version : NULL);
  return 1;
}

MEMBER(tls_cipher) {
  (void)object;
  const struct link_tls_info *tls = exchange_tls(exchange);
  lua_pushstring(L, tls ? tls->cipher : NULL);
  return 1;
}

MEMBER(tls_server_name) {
  (void)object;
  const struct link_tls_info *tls = exchange_tls(exchange);
  return member_push_span(L, tls && tls->server_name.length ? tls->server_name : (struct span){NULL, 0});
}

MEMBER(tls_resumed) {
  (void)object;
  const struct link_tls_info *tls = exchange_tls(exchange);
  lua_pushboolean(L, tls && tls->resumed);
  return 1;
}

/* Client certificates are not asked for yet: nobody has one. */
MEMBER(tls_certificate) {
  (void)exchange;
  (void)object;
  lua_pushnil(L);
  return 1;
}

MEMBER(listener_scheme) {
  (void)object;
  return member_push_span(L, exchange_listener_scheme(exchange));
}

MEMBER(listener_port_number) {
  (void)object;
  lua_pushinteger(L, exchange_listener_port(exchange));
  return 1;
}

MEMBER(request_method) {
  (void)object;
  return member_push_span(L, exchange->request->method);
}
MEMBER(request_host) {
  (void)object;
  return member_push_span(L, exchange->host_name.data ? exchange->host_name : SPAN(""));
}
MEMBER(request_path) {
  (void)object;
  return member_push_span(L, exchange->uri.path);
}
MEMBER(request_query) {
  (void)object;
  return member_push_span(L, exchange->uri.query);
}
MEMBER(request_uri) {
  (void)object;
  return member_push_span(L, exchange->target);
}
MEMBER(request_id) {
  (void)object;
  return member_push_span(L, exchange->request_id);
}

/* request:argument(name) -> decoded value of the first such query argument, or nil. */
MEMBER(request_argument) {
  (void)object;
  struct span name = check_span(L, 2, "exchange.request:argument", "name");
  struct span raw = uri_argument(exchange->uri.query, name);
  if (raw.data && (span_find(raw, '%') < raw.length || span_find(raw, '+') < raw.length)) raw = uri_unescape(raw, true, exchange_scratch(exchange));
  return member_push_span(L, raw);
}

MEMBER(request_set_path) {
  (void)object;
  static const char function[] = "exchange.request:set_path";
  struct span path = check_span(L, 2, function, "path");
  if (path.length == 0 || path.data[0] != '/') return luaL_error(L, "%s: the path does not begin with '/'", function);
  if (path.length > LIMIT_REWRITE_BYTES) {
    counter_add(exchange->worker->options.counters, COUNTER_LIMIT_REWRITE_BYTES, 1);
    return luaL_error(L, "%s: the path is longer than %d bytes", function, (int)LIMIT_REWRITE_BYTES);
  }
  if (memchr(path.data, '\0', path.length)) return luaL_error(L, "%s: the path has a NUL", function);
  exchange_set_path(exchange, path);
  return 0;
}

MEMBER(request_set_query) {
  (void)object;
  static const char function[] = "exchange.request:set_query";
  if (lua_isnoneornil(L, 2)) {
    exchange_set_query(exchange, (struct span){NULL, 0});
    return 0;
  }
  struct span query = check_span(L, 2, function, "query");
  if (query.length > LIMIT_REWRITE_BYTES) {
    counter_add(exchange->worker->options.counters, COUNTER_LIMIT_REWRITE_BYTES, 1);
    return luaL_error(L, "%s: the query is longer than %d bytes", function, (int)LIMIT_REWRITE_BYTES);
  }
  for (size_t i = 0; i < query.length; i++) {
    unsigned char c = (unsigned char)query.data[i];
    if (c <= 0x20 || c == 0x7f || c == '#') return luaL_error(L, "%s: the query has a byte that must be escaped", function);
  }
  exchange_set_query(exchange, query);
  return 0;
}

void member_check_method(lua_State *L, struct span method, const char *function) {
  if (!header_name_is_valid(method) || method.length > 32) luaL_error(L, "%s: not a method", function);
  if (span_equal(method, SPAN("CONNECT")) || span_equal(method, SPAN("TRACE"))) luaL_error(L, "%s: CONNECT and TRACE are not sent", function);
}

MEMBER(request_set_method) {
  (void)object;
  static const char function[] = "exchange.request:set_method";
  struct span method = check_span(L, 2, function, "method");
  member_check_method(L, method, function);
  exchange_set_method(exchange, method);
  return 0;
}

/* ---- header lists: the request's or the response's, by the object's kind ---- */

static struct headers *fields_of(struct exchange *exchange, const struct object *object) {
  if (object->kind == OBJECT_REQUEST_HEADERS) return &exchange->request->headers;
  return exchange->response ? &exchange->response->headers : NULL;
}

/* The functions' names in messages, by the object's kind. */
#define FIELDS_NAME(object, method) ((object)->kind == OBJECT_REQUEST_HEADERS ? "exchange.request.headers:" method : "exchange.response.headers:" method)

static struct headers *fields_checked(lua_State *L, struct exchange *exchange, const struct object *object) {
  struct headers *headers = fields_of(exchange, object);
  if (headers == NULL) luaL_error(L, "exchange.response.headers: there is no response");
  return headers;
}

MEMBER(fields_get) {
  struct span name = check_span(L, 2, FIELDS_NAME(object, "get"), "name");
  const struct header *header = headers_find_name(fields_checked(L, exchange, object), name);
  if (header) lua_pushlstring(L, header->value.data, header->value.length);
  else lua_pushnil(L);
  return 1;
}

MEMBER(fields_all) {
  struct span name = check_span(L, 2, FIELDS_NAME(object, "all"), "name");
  const struct headers *headers = fields_checked(L, exchange, object);
  lua_newtable(L);
  int count = 0;
  for (const struct header *header = headers_next_name(headers, name, NULL); header; header = headers_next_name(headers, name, header)) {
    lua_pushlstring(L, header->value.data, header->value.length);
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

/* Upvalues: the headers object, the next index. The object is asked again at each step: the exchange may be over by then. */
static int each_next(lua_State *L) {
  struct object object;
  exchange_objects_check(L, lua_upvalueindex(1), &object, "headers:each");
  const struct headers *headers = fields_of(object.part->exchange, &object);
  unsigned i = (unsigned)lua_tointeger(L, lua_upvalueindex(2));
  while (headers && i < headers->count && headers->items[i].removed) i++;
  if (headers == NULL || i >= headers->count) return 0;
  const struct header *header = &headers->items[i];
  lua_pushinteger(L, (lua_Integer)i + 1);
  lua_replace(L, lua_upvalueindex(2));
  lua_pushlstring(L, header->name.data, header->name.length);
  lua_pushlstring(L, header->value.data, header->value.length);
  return 2;
}

MEMBER(fields_each) {
  fields_checked(L, exchange, object);
  lua_pushvalue(L, 1);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, each_next, 2);
  return 1;
}

void member_check_field(lua_State *L, struct span name, const char *function) {
  if (!header_name_is_valid(name) || name.length > LIMIT_HEADER_NAME_BYTES) luaL_error(L, "%s: not a header name", function);
  enum header_id id = header_id_of(name);
  if (!header_is_hop_by_hop(id) && id != HEADER_CONTENT_LENGTH && id != HEADER_TRAILER) return;
  lua_pushlstring(L, name.data, name.length);
  luaL_error(L, "%s: %s is the connection's own field", function, lua_tostring(L, -1));
}

struct span member_field_value(lua_State *L, int index, struct arena *arena, const char *function) {
  struct span value = check_span(L, index, function, "value");
  if (!header_value_is_valid(value)) luaL_error(L, "%s: the value has CR, LF or NUL", function);
  if (value.length > LIMIT_HEAD_BYTES) luaL_error(L, "%s: the value is longer than %d bytes", function, (int)LIMIT_HEAD_BYTES);
  return arena_span(arena, span_trim(value));
}

static void add_field(lua_State *L, struct exchange *exchange, struct headers *headers, struct span name, int index, const char *function) {
  if (headers->count >= 4 * LIMIT_HEADER_FIELDS) luaL_error(L, "%s: too many fields", function);
  struct span value = member_field_value(L, index, &exchange->arena, function);
  headers_add(headers, header_id_of(name), name, value);
}

static int write_fields(lua_State *L, struct exchange *exchange, const struct object *object, bool is_set) {
  const char *function = is_set ? FIELDS_NAME(object, "set") : FIELDS_NAME(object, "add");
  struct headers *headers = fields_checked(L, exchange, object);
  struct span name = check_span(L, 2, function, "name");
  member_check_field(L, name, function);
  name = arena_span(&exchange->arena, name);
  if (!lua_istable(L, 3)) {
    if (!is_set) {
      add_field(L, exchange, headers, name, 3, function);
    } else {
      struct span value = member_field_value(L, 3, &exchange->arena, function);
      headers_set(headers, header_id_of(name), name, value);
    }
    return 0;
  }
  int count = (int)lua_objlen(L, 3);
  for (int i = 1; i <= count; i++) { /* all are checked before any is written */
    lua_rawgeti(L, 3, i);
    member_field_value(L, -1, &exchange->arena, function);
    lua_pop(L, 1);
  }
  if (is_set) headers_remove(headers, header_id_of(name), name);
  for (int i = 1; i <= count; i++) {
    lua_rawgeti(L, 3, i);
    add_field(L, exchange, headers, name, lua_gettop(L), function);
    lua_pop(L, 1);
  }
  return 0;
}

MEMBER(fields_set) { return write_fields(L, exchange, object, true); }
MEMBER(fields_add) { return write_fields(L, exchange, object, false); }

MEMBER(fields_remove) {
  const char *function = FIELDS_NAME(object, "remove");
  struct span name = check_span(L, 2, function, "name");
  member_check_field(L, name, function);
  struct headers *headers = fields_checked(L, exchange, object);
  enum header_id id = header_id_of(name);
  if (headers_remove(headers, id, name) > 0 || object->kind != OBJECT_REQUEST_HEADERS || headers->count >= 4 * LIMIT_HEADER_FIELDS) return 0;
  /* A mark for the trailers, which may not bring it in. */
  headers_add(headers, id, arena_span(&exchange->arena, name), (struct span){NULL, 0});
  headers->items[headers->count - 1].removed = true;
  return 0;
}

MEMBER(cookies_get) {
  (void)object;
  struct span name = check_span(L, 2, "exchange.request.cookies:get", "name");
  return member_push_span(L, exchange_cookie(exchange, name));
}

MEMBER(variables_get) {
  (void)object;
  return member_push_span(L, exchange_variable(exchange, check_span(L, 2, "exchange.variables:get", "name")));
}

MEMBER(variables_set) {
  (void)object;
  static const char function[] = "exchange.variables:set";
  struct span name = check_span(L, 2, function, "name"), value = check_span(L, 3, function, "value");
  bool is_name = name.length > 0 && name.length <= 64;
  for (size_t i = 0; i < name.length && is_name; i++) {
    char c = name.data[i];
    is_name = c == '_' || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
  }
  if (!is_name) return luaL_error(L, "%s: a name is made of letters, digits and _", function);
  if (exchange_set_variable(exchange, name, value) != 0)
    return luaL_error(L, "%s: at most %d variables of at most %d bytes", function, (int)LIMIT_VARIABLES, (int)LIMIT_VARIABLE_BYTES);
  return 0;
}
