/* Exchange answer: answers of hooks, the response, and which upstream. An answer is kept with the exchange's part until the hook returns it; the runner then
 * makes it. Worker's thread. */
#include <lauxlib.h>
#include <string.h>

#include "script/core_module.h"
#include "script/exchange_members.h"
#include "script/lua_value.h"

#define MEMBER(name) int member_##name(lua_State *L, struct exchange *exchange, const struct object *object)

static int finish(lua_State *L, struct exchange_part *part, enum answer_kind answer) {
  part->answer = answer;
  exchange_objects_push_answer(L);
  return 1;
}

static void begin(struct exchange_part *part) {
  part->answer = ANSWER_NONE;
  part->status = 0;
  part->text = (struct span){NULL, 0};
  part->has_headers = false;
}

static int check_status(lua_State *L, int index, int low, int high, const char *function) {
  if (lua_type(L, index) != LUA_TNUMBER) return luaL_error(L, "%s: the status is a %s, not a number", function, luaL_typename(L, index));
  lua_Number status = lua_tonumber(L, index);
  if (status < low || status > high || status != (int)status) return luaL_error(L, "%s: the status is not from %d to %d", function, low, high);
  return (int)status;
}

static void add_answer_field(lua_State *L, struct exchange *exchange, struct exchange_part *part, struct span name, const char *function) {
  struct span value = member_field_value(L, -1, &exchange->arena, function);
  headers_add(&part->headers, header_id_of(name), name, value);
}

/* Names to values or lists of values; sorted names are not worth their cost: the order of different fields means nothing. */
static void read_headers(lua_State *L, int table, struct exchange *exchange, struct exchange_part *part, const char *function) {
  headers_init(&part->headers, &exchange->arena);
  part->has_headers = true;
  unsigned count = 0;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, "%s: headers wants a table from names to values", function);
    if (++count > LIMIT_HEADER_FIELDS) luaL_error(L, "%s: too many fields", function);
    struct span name;
    name.data = lua_tolstring(L, -2, &name.length);
    member_check_field(L, name, function);
    name = arena_span(&exchange->arena, name);
    if (lua_istable(L, -1)) {
      int values = (int)lua_objlen(L, -1);
      for (int i = 1; i <= values; i++) {
        lua_rawgeti(L, -1, i);
        add_answer_field(L, exchange, part, name, function);
        lua_pop(L, 1);
      }
    } else {
      add_answer_field(L, exchange, part, name, function);
    }
    lua_pop(L, 1);
  }
}

/* exchange:respond { status = 200, headers = { ... }, body = "..." } */
MEMBER(exchange_do_respond) {
  static const char function[] = "exchange:respond";
  struct exchange_part *part = object->part;
  static const char *const options[] = {"status", "headers", "body", NULL};
  if (!lua_istable(L, 2)) return luaL_error(L, "%s: wants a table", function);
  core_check_options(L, 2, options, function);
  begin(part);
  lua_getfield(L, 2, "status");
  part->status = lua_isnil(L, -1) ? 200 : check_status(L, -1, 200, 599, function);
  lua_getfield(L, 2, "body");
  if (!lua_isnil(L, -1)) {
    if (lua_type(L, -1) != LUA_TSTRING) return luaL_error(L, "%s: the body is a %s, not a string", function, luaL_typename(L, -1));
    struct span body;
    body.data = lua_tolstring(L, -1, &body.length);
    state_charge_bytes(L, body.length);
    part->text = arena_span(&exchange->arena, body);
  }
  lua_getfield(L, 2, "headers");
  if (!lua_isnil(L, -1)) {
    if (!lua_istable(L, -1)) return luaL_error(L, "%s: headers wants a table from names to values", function);
    read_headers(L, lua_gettop(L), exchange, part, function);
  }
  return finish(L, part, ANSWER_RESPOND);
}

MEMBER(exchange_do_deny) {
  static const char function[] = "exchange:deny";
  begin(object->part);
  object->part->status = check_status(L, 2, 400, 599, function);
  if (!lua_isnoneornil(L, 3)) {
    if (lua_type(L, 3) != LUA_TSTRING) return luaL_error(L, "%s: the reason is a %s, not a string", function, luaL_typename(L, 3));
    struct span reason;
    reason.data = lua_tolstring(L, 3, &reason.length);
    object->part->text = arena_span(&exchange->arena, reason);
  }
  return finish(L, object->part, ANSWER_DENY);
}

MEMBER(exchange_do_redirect) {
  static const char function[] = "exchange:redirect";
  begin(object->part);
  object->part->status = check_status(L, 2, 300, 399, function);
  struct span location = member_field_value(L, 3, &exchange->arena, function);
  if (location.length == 0) return luaL_error(L, "%s: the location is empty", function);
  object->part->text = location;
  return finish(L, object->part, ANSWER_REDIRECT);
}

MEMBER(exchange_do_allow) {
  (void)exchange;
  begin(object->part);
  return finish(L, object->part, ANSWER_ALLOW);
}

/* A handle of a config carries the slot that the host unit gave its name. */
MEMBER(exchange_do_use_upstream) {
  static const char function[] = "exchange:use_upstream";
  (void)object;
  struct value_box *handle = lua_value_to(L, 2);
  if (handle == NULL || handle->value->kind != PACK_UPSTREAM) return luaL_error(L, "%s: wants what route:upstream() gave", function);
  struct upstream_ref ref = {handle->value->upstream_slot, handle->value->upstream_generation};
  if (exchange_use_upstream(exchange, ref, handle->value->upstream) != 0) return luaL_error(L, "%s: the upstream is already chosen", function);
  return 0;
}

static bool get_text(lua_State *L, const char *name, struct span *text, const char *function) {
  *text = (struct span){NULL, 0};
  lua_getfield(L, 3, name); /* stays: it holds the text */
  if (lua_isnil(L, -1)) return false;
  if (lua_type(L, -1) != LUA_TSTRING) return luaL_error(L, "%s: %s is a %s, not a string", function, name, luaL_typename(L, -1));
  text->data = lua_tolstring(L, -1, &text->length);
  return true;
}

static bool is_target(struct span path) {
  if (path.length == 0 || path.data[0] != '/' || path.length > LIMIT_REWRITE_BYTES) return false;
  for (size_t i = 0; i < path.length; i++)
    if ((unsigned char)path.data[i] <= ' ' || (unsigned char)path.data[i] >= 0x7f || path.data[i] == '#') return false;
  return true;
}

/* exchange:replace_response(upstream or nil, { method = "GET", path = "/", headers = { ... } }) -> the answer to return; nil where the present one is final */
MEMBER(exchange_do_replace_response) {
  static const char function[] = "exchange:replace_response";
  struct exchange_part *part = object->part;
  const struct value_box *handle = lua_isnil(L, 2) ? NULL : lua_value_to(L, 2);
  if (!lua_isnil(L, 2) && (handle == NULL || handle->value->kind != PACK_UPSTREAM))
    return luaL_error(L, "%s: wants what route:upstream() gave, or nil for the default backend", function);
  if (exchange->replacement) return luaL_error(L, "%s: the answer is replaced already", function);
  if (exchange->response == NULL || exchange->response->status == 101) return luaL_error(L, "%s: there is no answer to replace", function);
  if (exchange->is_final || (exchange->source == ANSWER_UPSTREAM && !exchange->settings->intercept_errors)) return 0;
  begin(part);
  part->method = part->upstream_name = (struct span){NULL, 0};
  part->upstream = (struct upstream_ref){UPSTREAM_NONE, 0};
  if (handle) {
    part->upstream = (struct upstream_ref){handle->value->upstream_slot, handle->value->upstream_generation};
    part->upstream_name = arena_span(&exchange->arena, handle->value->upstream);
  }
  if (lua_isnoneornil(L, 3)) return finish(L, part, ANSWER_REPLACE);
  static const char *const options[] = {"method", "path", "headers", NULL};
  if (!lua_istable(L, 3)) return luaL_error(L, "%s: wants a table such as { path = \"/\" }", function);
  core_check_options(L, 3, options, function);
  struct span method, path;
  if (get_text(L, "method", &method, function)) {
    member_check_method(L, method, function);
    part->method = arena_span(&exchange->arena, method);
  }
  if (get_text(L, "path", &path, function)) {
    if (!is_target(path)) return luaL_error(L, "%s: the path does not begin with / or has a byte that must be escaped", function);
    part->text = arena_span(&exchange->arena, path);
  }
  lua_getfield(L, 3, "headers");
  if (!lua_isnil(L, -1)) {
    if (!lua_istable(L, -1)) return luaL_error(L, "%s: headers wants a table from names to values", function);
    read_headers(L, lua_gettop(L), exchange, part, function);
  }
  return finish(L, part, ANSWER_REPLACE);
}

MEMBER(response_status) {
  (void)object;
  if (exchange->response) lua_pushinteger(L, exchange->response->status);
  else lua_pushnil(L);
  return 1;
}

MEMBER(response_source) {
  (void)object;
  static const char *const names[] = {"upstream", "policy", "proxy", "replacement"};
  lua_pushstring(L, names[exchange->source]);
  return 1;
}

MEMBER(response_set_status) {
  (void)object;
  static const char function[] = "exchange.response:set_status";
  int status = check_status(L, 2, 200, 599, function);
  if (exchange->response == NULL) return luaL_error(L, "%s: there is no response", function);
  if (exchange->response->status == 101) return luaL_error(L, "%s: the connection changes its protocol", function);
  exchange->response->status = status;
  exchange->response->reason = (struct span){NULL, 0};
  return 0;
}
