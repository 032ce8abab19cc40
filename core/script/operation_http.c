/* Operation: moongate.http.request: reads the request from Lua, gives it to the worker's HTTP client, and makes the answer an object. The call belongs to its
 * operation. Worker's thread. */
#include <lauxlib.h>
#include <math.h>
#include <string.h>

#include "base/check.h"
#include "http/headers.h"
#include "proxy/worker.h"
#include "route/upstream.h"
#include "script/core_module.h"
#include "script/exchange_members.h"
#include "script/http_client.h"
#include "script/lua_value.h"
#include "script/operation.h"

#define FUNCTION "moongate.http.request"
#define FIELDS "moongate.http.fields"

/* Fields of an answer: a userdata of name NUL value NUL ... */
struct fields_box {
  size_t length;
  char bytes[];
};

static struct span fields_of(lua_State *L) {
  const struct fields_box *box = luaL_checkudata(L, 1, FIELDS);
  return span_make(box->bytes, box->length);
}

/* response.headers:get(name) -> text or nil */
static int fields_get(lua_State *L) {
  struct span fields = fields_of(L), wanted = core_check_text(L, 2, "headers:get"), name, value;
  for (size_t at = 0; http_fields_next(fields, &at, &name, &value);) {
    if (!span_equal_nocase(name, wanted)) continue;
    lua_pushlstring(L, value.data, value.length);
    return 1;
  }
  lua_pushnil(L);
  return 1;
}

/* response.headers:all(name) -> list */
static int fields_all(lua_State *L) {
  struct span fields = fields_of(L), wanted = core_check_text(L, 2, "headers:all"), name, value;
  int count = 0;
  lua_newtable(L);
  for (size_t at = 0; http_fields_next(fields, &at, &name, &value);) {
    if (!span_equal_nocase(name, wanted)) continue;
    lua_pushlstring(L, value.data, value.length);
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

/* Upvalues: the fields, where the next one begins. */
static int each_next(lua_State *L) {
  const struct fields_box *box = lua_touserdata(L, lua_upvalueindex(1));
  size_t at = (size_t)lua_tointeger(L, lua_upvalueindex(2));
  struct span name, value;
  if (!http_fields_next(span_make(box->bytes, box->length), &at, &name, &value)) return 0;
  lua_pushinteger(L, (lua_Integer)at);
  lua_replace(L, lua_upvalueindex(2));
  lua_pushlstring(L, name.data, name.length);
  lua_pushlstring(L, value.data, value.length);
  return 2;
}

/* for name, value in response.headers:each() do */
static int fields_each(lua_State *L) {
  fields_of(L);
  lua_pushvalue(L, 1);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, each_next, 2);
  return 1;
}

/* ---- the request ---- */

static bool get_text(lua_State *L, const char *name, struct span *text) {
  lua_getfield(L, 1, name); /* stays on the stack: it holds the text */
  if (lua_isnil(L, -1)) return false;
  if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, FUNCTION ": %s is a %s, not a string", name, luaL_typename(L, -1));
  text->data = lua_tolstring(L, -1, &text->length);
  return true;
}

static void add_field(lua_State *L, struct http_call *call, struct span name) {
  struct span value;
  if (!lua_isstring(L, -1)) luaL_error(L, FUNCTION ": the header %s is a %s, not a string", name.data, luaL_typename(L, -1));
  value.data = lua_tolstring(L, -1, &value.length);
  if (!header_value_is_valid(value)) luaL_error(L, FUNCTION ": the header %s has CR, LF or NUL", name.data);
  if (value.length > LIMIT_HEAD_BYTES) luaL_error(L, FUNCTION ": the header %s is longer than %d bytes", name.data, (int)LIMIT_HEAD_BYTES);
  http_call_add_field(call, name, span_trim(value));
}

/* Names to values or lists of values. */
static void read_headers(lua_State *L, struct http_call *call) {
  lua_getfield(L, 1, "headers");
  if (lua_isnil(L, -1)) return;
  if (!lua_istable(L, -1)) luaL_error(L, FUNCTION ": headers is a %s, not a table from names to values", luaL_typename(L, -1));
  int count = 0;
  lua_pushnil(L);
  while (lua_next(L, -2)) {
    if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, FUNCTION ": headers wants a table from names to values");
    struct span name;
    name.data = lua_tolstring(L, -2, &name.length);
    member_check_field(L, name, FUNCTION);
    int values = lua_istable(L, -1) ? (int)lua_objlen(L, -1) : 1;
    if ((count += values) > LIMIT_HEADER_FIELDS) luaL_error(L, FUNCTION ": more than %d headers", (int)LIMIT_HEADER_FIELDS);
    if (!lua_istable(L, -1)) {
      add_field(L, call, name);
    } else {
      for (int i = 1; i <= values; i++) {
        lua_rawgeti(L, -1, i);
        add_field(L, call, name);
        lua_pop(L, 1);
      }
    }
    lua_pop(L, 1);
  }
}

/* "namespace/service/port" and a path: the name that an upstream has inside of the cluster. */
struct span operation_push_url(lua_State *L, struct span upstream, struct span path, const char *function) {
  struct span rest = upstream, namespace, service, url;
  span_next_item(&rest, '/', &namespace);
  span_next_item(&rest, '/', &service);
  if (path.length == 0 || path.data[0] != '/') luaL_error(L, "%s: the path does not begin with /", function);
  lua_pushliteral(L, "http://");
  lua_pushlstring(L, service.data, service.length);
  lua_pushliteral(L, ".");
  lua_pushlstring(L, namespace.data, namespace.length);
  lua_pushlstring(L, path.data, path.length);
  lua_concat(L, 5);
  url.data = lua_tolstring(L, -1, &url.length);
  return url;
}

static size_t read_size(lua_State *L) {
  lua_getfield(L, 1, "max_body");
  if (lua_isnil(L, -1)) return LIMIT_BODY_BUFFER_BYTES;
  lua_Number size = lua_type(L, -1) == LUA_TNUMBER ? lua_tonumber(L, -1) : -1;
  if (!(size >= 0 && size <= LIMIT_HTTP_ANSWER_BYTES)) luaL_error(L, FUNCTION ": max_body is not a number of bytes from 0 to %d", (int)LIMIT_HTTP_ANSWER_BYTES);
  return (size_t)size;
}

static bool read_drops_body(lua_State *L) {
  lua_getfield(L, 1, "keep_body");
  if (!lua_isnil(L, -1) && !lua_isboolean(L, -1)) luaL_error(L, FUNCTION ": keep_body is a %s, not a boolean", luaL_typename(L, -1));
  return lua_isboolean(L, -1) && !lua_toboolean(L, -1);
}

/* http.request { method, url or upstream with path, headers, body, timeout, max_body, keep_body } -> { status, headers, body } | nil, why */
static int core_http_request(lua_State *L) {
  struct script_state *state = operation_check(L, FUNCTION);
  static const char *const options[] = {"method", "url", "upstream", "path", "headers", "body", "timeout", "max_body", "keep_body", NULL};
  if (!lua_istable(L, 1)) return luaL_error(L, FUNCTION ": wants a table such as { url = \"http://name/path\" }");
  core_check_options(L, 1, options, FUNCTION);
  lua_settop(L, 1);
  luaL_checkstack(L, 24, FUNCTION);
  lua_getfield(L, 1, "timeout");
  struct operation *operation = operation_want(state, OPERATION_HTTP, operation_timeout(L, -1, FUNCTION, "timeout"));
  size_t max_body = read_size(L);
  bool drops_body = read_drops_body(L);
  struct span method, url, body;
  if (!get_text(L, "method", &method)) method = SPAN("GET");
  lua_getfield(L, 1, "upstream");
  bool has_upstream = !lua_isnil(L, -1), has_url = get_text(L, "url", &url);
  if (has_upstream == has_url) return luaL_error(L, FUNCTION ": wants either a url or an upstream");
  if (has_upstream) {
    const struct value_box *handle = lua_value_to(L, -2);
    if (handle == NULL || handle->value->kind != PACK_UPSTREAM) return luaL_error(L, FUNCTION ": upstream wants what route:upstream() gave");
    operation->upstream = (struct upstream_ref){handle->value->upstream_slot, handle->value->upstream_generation};
    operation->has_upstream = true;
    struct span path;
    if (!get_text(L, "path", &path)) path = SPAN("/");
    url = operation_push_url(L, handle->value->upstream, path, FUNCTION);
  }
  char why[128];
  operation->call = http_call_new(method, url, why, sizeof why);
  if (operation->call == NULL) return luaL_error(L, FUNCTION ": %s", why);
  operation->call->is_guests = state->is_guest;
  operation->call->max_body = max_body;
  operation->call->drops_answer = drops_body;
  read_headers(L, operation->call); /* what raises from here on leaves the operation to the next one, or to the runner */
  if (get_text(L, "body", &body)) {
    if (body.length > LIMIT_HTTP_ANSWER_BYTES) return luaL_error(L, FUNCTION ": the body is longer than %d bytes", (int)LIMIT_HTTP_ANSWER_BYTES);
    if (span_equal(method, SPAN("HEAD"))) return luaL_error(L, FUNCTION ": a HEAD request has no body");
    operation->call->has_body = true;
    buffer_append(&operation->call->body, body);
  }
  return operation_yield(L, operation);
}

/* ---- the operation ---- */

static void on_done(struct http_call *call) {
  struct operation *operation = call->context;
  must(operation->magic == OPERATION_MAGIC);
  exchange_hook_resume(operation->exchange);
}

bool operation_choose_endpoints(struct worker *worker, struct upstream_ref ref, struct http_call *call) {
  const struct upstream *upstream = snapshot_upstream(worker->root, ref);
  snprintf(call->error, sizeof call->error, "the Service has no endpoint that is ready");
  if (upstream == NULL || upstream->count == 0) return false;
  must(upstream->slot < worker->cursor_count);
  struct balance_request request = {.upstream = upstream,
                                    .kind = BALANCER_ROUND_ROBIN,
                                    .cursor = &worker->cursors[upstream->slot],
                                    .random = &worker->random,
                                    .now_ms = loop_now_ms(&worker->loop)};
  while (call->address_count < HTTP_CALL_ADDRESSES) {
    const struct endpoint *endpoint = balance_choose(&request);
    for (unsigned i = 0; endpoint && i < request.tried_count; i++)
      if (request.tried[i] == endpoint->record) endpoint = NULL;
    if (endpoint == NULL) break;
    request.tried[request.tried_count++] = endpoint->record;
    call->addresses[call->address_count++] = endpoint->record->address;
  }
  return call->address_count > 0;
}

bool operation_start_http(struct operation *operation) {
  struct http_call *call = operation->call;
  const struct operation_stage *stage = operation_stage(operation->exchange);
  if (stage) {
    stage->answer(stage->context, call, operation);
    return false;
  }
  call->done = on_done;
  call->context = operation;
  if (operation->has_upstream && !operation_choose_endpoints(operation->exchange->worker, operation->upstream, call)) return false;
  return http_client_start(operation_http_client(operation->exchange), call);
}

static int push_failure(lua_State *L, const char *why) {
  lua_pushnil(L);
  lua_pushstring(L, why);
  return 2;
}

int operation_push_http(struct operation *operation, lua_State *L) {
  const struct http_call *call = operation->call;
  struct span fields = buffer_span(&call->answer_fields), body = buffer_span(&call->answer);
  if (operation->is_timed_out) return push_failure(L, "timeout");
  if (call->status == 0) return push_failure(L, call->error[0] ? call->error : "no answer");
  if (!state_has_room(state_of(L), fields.length + body.length)) return push_failure(L, "no room");
  lua_createtable(L, 0, 3);
  lua_pushinteger(L, call->status);
  lua_setfield(L, -2, "status");
  lua_pushlstring(L, body.length ? body.data : "", body.length);
  lua_setfield(L, -2, "body");
  struct fields_box *box = lua_newuserdata(L, sizeof *box + fields.length);
  box->length = fields.length;
  if (fields.length) memcpy(box->bytes, fields.data, fields.length);
  luaL_getmetatable(L, FIELDS);
  lua_setmetatable(L, -2);
  lua_setfield(L, -2, "headers");
  return 1;
}

void operation_end_http(struct operation *operation) { http_call_free(operation->call); }

void core_http_register(lua_State *L, int core) {
  static const luaL_Reg methods[] = {{"get", fields_get}, {"all", fields_all}, {"each", fields_each}, {NULL, NULL}};
  if (luaL_newmetatable(L, FIELDS)) {
    lua_newtable(L);
    for (const luaL_Reg *f = methods; f->name; f++) {
      lua_pushcfunction(L, f->func);
      lua_setfield(L, -2, f->name);
    }
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
  }
  lua_pop(L, 1);
  lua_pushcfunction(L, core_http_request);
  lua_setfield(L, core, "http_request");
}
