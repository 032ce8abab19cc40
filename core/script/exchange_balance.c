/* Exchange balance: which endpoint. Everything is read from the worker's current root at the call; an endpoint object is good until its hook returns. Worker's
 * thread. */
#include <lauxlib.h>
#include <string.h>

#include "proxy/connect.h"
#include "proxy/worker.h"
#include "script/core_module.h"
#include "script/exchange_members.h"

#define MEMBER(name) int member_##name(lua_State *L, struct exchange *exchange, const struct object *object)

/* A repeat on a stale pooled connection says nothing about the endpoint and does not count. */
static lua_Integer attempt_of(const struct exchange *exchange) {
  return (lua_Integer)(exchange->try_count - exchange->stale_tries) + (exchange->phase == HOOK_BALANCER ? 1 : 0);
}

MEMBER(upstream_name) {
  (void)object;
  return member_push_span(L, exchange->upstream_name.length ? exchange->upstream_name : (struct span){NULL, 0});
}

/* Whether it stands in for the route's own Service, which has no endpoint. */
MEMBER(upstream_fallback) {
  (void)object;
  lua_pushboolean(L, exchange->is_fallback);
  return 1;
}

/* upstream:count() -> endpoints that take new requests, all endpoints (draining ones come last). */
MEMBER(upstream_count) {
  (void)object;
  const struct upstream *upstream = exchange_upstream(exchange);
  lua_pushinteger(L, upstream ? (lua_Integer)upstream->ready : 0);
  lua_pushinteger(L, upstream ? (lua_Integer)upstream->count : 0);
  return 2;
}

static int push_endpoint(lua_State *L, const struct object *object, const struct endpoint *endpoint, enum endpoint_key key) {
  if (endpoint) {
    struct object_endpoint found = {.record = endpoint->record, .key = key, .is_ready = endpoint->is_ready, .is_draining = endpoint->is_draining};
    exchange_objects_push_endpoint(L, object->part, &found);
  } else {
    lua_pushnil(L);
  }
  return 1;
}

/* A method before the endpoint is chosen, the chosen one afterwards. */
MEMBER(upstream_endpoint) {
  if (exchange->phase == HOOK_BALANCER) {
    exchange_objects_push_method(L, OBJECT_UPSTREAM, ":endpoint");
    return 1;
  }
  if (exchange->endpoint == NULL) {
    lua_pushnil(L);
    return 1;
  }
  exchange_objects_push_endpoint(L, object->part, &(struct object_endpoint){.record = exchange->endpoint, .key = ENDPOINT_KEY_MD5, .is_ready = true});
  return 1;
}

MEMBER(upstream_endpoint_at) {
  const struct upstream *upstream = exchange_upstream(exchange);
  if (!lua_isnumber(L, 2)) return luaL_error(L, "exchange.upstream:endpoint: expects a number, not a %s", luaL_typename(L, 2));
  lua_Integer index = lua_tointeger(L, 2);
  bool is_there = upstream && index >= 1 && (uint64_t)index <= upstream->count;
  return push_endpoint(L, object, is_there ? &upstream->endpoints[index - 1] : NULL, ENDPOINT_KEY_MD5);
}

/* upstream:find(key [, "md5" | "sha1" | "index"]) -> endpoint (draining ones too), or nil. */
MEMBER(upstream_find_endpoint) {
  static const char *const names[] = {"md5", "sha1", "index", NULL};
  struct span key;
  if (lua_type(L, 2) != LUA_TSTRING && lua_type(L, 2) != LUA_TNUMBER)
    return luaL_error(L, "exchange.upstream:find: the key is a %s, not a string", luaL_typename(L, 2));
  key.data = lua_tolstring(L, 2, &key.length);
  enum endpoint_key kind = (enum endpoint_key)luaL_checkoption(L, 3, "md5", names);
  const struct upstream *upstream = exchange_upstream(exchange);
  return push_endpoint(L, object, upstream ? upstream_find(upstream, key, kind) : NULL, kind);
}

/* upstream:resume(cookie, ending, kind, attempts) -> which attempt this is: the cookie is an endpoint's key and the ending, and that endpoint is chosen. */
MEMBER(upstream_resume) {
  static const char *const names[] = {"md5", "sha1", "index", "ring", NULL};
  (void)object;
  struct span name, ending;
  name.data = luaL_checklstring(L, 2, &name.length);
  ending.data = luaL_checklstring(L, 3, &ending.length);
  int kind = luaL_checkoption(L, 4, "md5", names);
  struct span cookie = exchange_cookie(exchange, name);
  if (cookie.length <= ending.length || !span_equal(span_make(cookie.data + cookie.length - ending.length, ending.length), ending)) return 0;
  struct span key = span_make(cookie.data, cookie.length - ending.length);
  const struct upstream *upstream = exchange_upstream(exchange);
  if (upstream == NULL) return 0;
  const struct endpoint *endpoint = kind == 3 ? upstream_hash(upstream, key) : upstream_find(upstream, key, (enum endpoint_key)kind);
  lua_Integer attempt = attempt_of(exchange);
  if (endpoint == NULL || attempt > luaL_checkinteger(L, 5) || !endpoint_is_healthy(endpoint->record, loop_now_ms(&exchange->worker->loop))) return 0;
  exchange->wanted = endpoint->record;
  lua_pushinteger(L, attempt);
  return 1;
}

/* upstream:hash(text) -> the ready endpoint that consistent hashing gives this text, or nil. */
MEMBER(upstream_hash_endpoint) {
  struct span key = core_check_text(L, 2, "exchange.upstream:hash");
  const struct upstream *upstream = exchange_upstream(exchange);
  return push_endpoint(L, object, upstream ? upstream_hash(upstream, key) : NULL, ENDPOINT_KEY_MD5);
}

MEMBER(upstream_choose) {
  (void)object;
  exchange->wanted = exchange_objects_endpoint(L, 2, "exchange.upstream:choose")->record;
  return 0;
}

MEMBER(upstream_attempt) {
  (void)object;
  lua_pushinteger(L, attempt_of(exchange));
  return 1;
}

/* The endpoint that failed before this attempt, or nil. */
MEMBER(upstream_failed) {
  if (exchange->tried_count == 0) {
    lua_pushnil(L);
    return 1;
  }
  unsigned last = exchange->tried_count < BALANCE_TRIED ? exchange->tried_count - 1 : BALANCE_TRIED - 1;
  const struct upstream *upstream = exchange_upstream(exchange);
  for (unsigned i = 0; upstream && i < upstream->count; i++) {
    const struct endpoint *endpoint = &upstream->endpoints[i];
    if (endpoint->record == exchange->tried[last]) return push_endpoint(L, object, endpoint, ENDPOINT_KEY_MD5);
  }
  lua_pushnil(L); /* it is not listed any more, and may be gone */
  return 1;
}

/* True when a policy sent the exchange to another upstream than the route's first. */
MEMBER(upstream_alternative) {
  (void)object;
  lua_pushboolean(L, exchange->upstream_is_set_by_policy);
  return 1;
}

MEMBER(upstream_status) {
  (void)object;
  const struct try_record *record = connect_current_try(exchange);
  if (record && record->status) lua_pushinteger(L, record->status);
  else lua_pushnil(L);
  return 1;
}

MEMBER(upstream_connect_time) {
  (void)object;
  const struct try_record *record = connect_current_try(exchange);
  return member_push_seconds(L, record ? record->connect_us : -1);
}
MEMBER(upstream_header_time) {
  (void)object;
  const struct try_record *record = connect_current_try(exchange);
  return member_push_seconds(L, record ? record->header_us : -1);
}
MEMBER(upstream_response_time) {
  (void)object;
  const struct try_record *record = connect_current_try(exchange);
  return member_push_seconds(L, record ? record->response_us : -1);
}

MEMBER(endpoint_address) {
  (void)exchange;
  return member_push_span(L, object->endpoint->record->name);
}

MEMBER(endpoint_key) {
  (void)exchange;
  if (object->endpoint->key == ENDPOINT_KEY_SHA1) lua_pushstring(L, object->endpoint->record->key_sha1);
  else if (object->endpoint->key == ENDPOINT_KEY_INDEX) lua_pushinteger(L, (lua_Integer)object->endpoint->record->index);
  else lua_pushstring(L, object->endpoint->record->key_md5);
  return 1;
}

MEMBER(endpoint_key_md5) {
  (void)exchange;
  lua_pushstring(L, object->endpoint->record->key_md5);
  return 1;
}

MEMBER(endpoint_key_sha1) {
  (void)exchange;
  lua_pushstring(L, object->endpoint->record->key_sha1);
  return 1;
}

MEMBER(endpoint_index) {
  (void)exchange;
  lua_pushinteger(L, (lua_Integer)object->endpoint->record->index);
  return 1;
}

MEMBER(endpoint_healthy) {
  lua_pushboolean(L, endpoint_is_healthy(object->endpoint->record, loop_now_ms(&exchange->worker->loop)));
  return 1;
}

MEMBER(endpoint_ready) {
  (void)exchange;
  lua_pushboolean(L, object->endpoint->is_ready);
  return 1;
}

MEMBER(endpoint_draining) {
  (void)exchange;
  lua_pushboolean(L, object->endpoint->is_draining);
  return 1;
}

MEMBER(endpoint_load) {
  (void)exchange;
  lua_pushinteger(L, (lua_Integer)atomic_load_explicit(&object->endpoint->record->load, memory_order_relaxed));
  return 1;
}

MEMBER(endpoint_tried) {
  unsigned count = exchange->tried_count < BALANCE_TRIED ? exchange->tried_count : BALANCE_TRIED;
  bool is_tried = false;
  for (unsigned i = 0; i < count; i++) is_tried = is_tried || exchange->tried[i] == object->endpoint->record;
  lua_pushboolean(L, is_tried);
  return 1;
}
