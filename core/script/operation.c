/* Operation: the table of kinds, their common life (times, cancelling), and the two kinds that need nothing of their own: sleep and body. An operation belongs
 * to its state between the Lua function and the yield, then to the runner. */
#include "script/operation.h"

#include <lauxlib.h>
#include <stdlib.h>

#include "base/check.h"
#include "proxy/relay.h"
#include "proxy/worker.h"
#include "script/core_module.h"
#include "script/exchange_members.h"

static const struct kind {
  bool (*start)(struct operation *operation);
  int (*push)(struct operation *operation, lua_State *L);
  void (*end)(struct operation *operation);
} kinds[OPERATION_KINDS] = {
#define X(kind, function) {operation_start_##function, operation_push_##function, operation_end_##function},
    OPERATIONS(X)
#undef X
};

static struct operation *operation_of(struct operation *operation) {
  must(operation->magic == OPERATION_MAGIC);
  return operation;
}

static uint64_t now_of(const struct operation *operation) { return loop_now_ms(&operation->exchange->worker->loop); }

struct script_state *operation_check(lua_State *L, const char *function) {
  struct script_state *state = state_of(L);
  if (state->running_policy == NULL) luaL_error(L, "%s: waits, and so only in hooks: server_rewrite, rewrite, access", function);
  if (state->running_thread == NULL) luaL_error(L, "%s: not in %s; only in server_rewrite, rewrite, access", function, state_phase_name(state->running_phase));
  /* Its yield would end at the policy's own resume, with nothing that the policy could do about it. */
  if (state->running_thread != L) luaL_error(L, "%s: waits, and so not in a coroutine of the policy's own", function);
  return state;
}

uint64_t operation_timeout(lua_State *L, int index, const char *function, const char *what) {
  if (lua_isnoneornil(L, index)) return OPERATION_TIMEOUT_MS;
  lua_Number seconds = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : -1;
  if (!(seconds >= 0 && seconds <= OPERATION_TIMEOUT_MAX))
    luaL_error(L, "%s: %s is not a number of seconds from 0 to %d", function, what, (int)OPERATION_TIMEOUT_MAX);
  return (uint64_t)(seconds * 1000 + 0.5);
}

struct operation *operation_want(struct script_state *state, enum operation_kind kind, uint64_t timeout_ms) {
  operation_drop_wanted(state);
  struct operation *operation = calloc(1, sizeof *operation);
  must(operation != NULL);
  operation->magic = OPERATION_MAGIC;
  operation->kind = kind;
  operation->timeout_ms = timeout_ms;
  state->wanted = operation;
  return operation;
}

/* No policy has this value: it is never handed out but to the runner. */
int operation_yield(lua_State *L, struct operation *operation) {
  lua_pushlightuserdata(L, operation);
  return lua_yield(L, 1);
}

bool operation_is_of(const struct operation *operation, lua_State *thread) {
  return lua_status(thread) == LUA_YIELD && lua_gettop(thread) == 1 && lua_touserdata(thread, 1) == operation;
}

bool operation_is_wanted(const struct script_state *state, lua_State *thread) { return state->wanted && operation_is_of(state->wanted, thread); }

struct operation *operation_take(struct script_state *state) {
  struct operation *operation = state->wanted;
  state->wanted = NULL;
  return operation;
}

void operation_drop_wanted(struct script_state *state) {
  struct operation *operation = operation_take(state);
  if (operation) operation_free(operation);
}

static void on_timer(struct timer *timer) {
  struct operation *operation = operation_of(container_of(timer, struct operation, timer));
  if (operation->is_limited_by_all) operation->is_expired = true;
  else operation->is_timed_out = true;
  exchange_hook_resume(operation->exchange);
}

bool operation_begin(struct operation *operation, struct exchange *exchange) {
  operation_of(operation)->exchange = exchange;
  timer_init(&operation->timer, on_timer);
  uint64_t now = now_of(operation);
  if (exchange->hook_wait_began_ms == 0) exchange->hook_wait_began_ms = now;
  uint64_t deadline = exchange->hook_wait_began_ms + exchange->settings->hook_timeout_ms, left = deadline > now ? deadline - now : 0;
  operation->is_limited_by_all = left < operation->timeout_ms;
  if (!kinds[operation->kind].start(operation)) return false;
  uint64_t time = operation->is_limited_by_all ? left : operation->timeout_ms;
  loop_timer_start(&exchange->worker->loop, &operation->timer, time);
  if (operation->kind == OPERATION_SLEEP && operation_stage(exchange)) loop_skip(&exchange->worker->loop, time);
  return true;
}

int operation_push(struct operation *operation, lua_State *L) { return kinds[operation_of(operation)->kind].push(operation, L); }

void operation_free(struct operation *operation) {
  if (operation_of(operation)->exchange) loop_timer_stop(&operation->exchange->worker->loop, &operation->timer);
  kinds[operation->kind].end(operation);
  operation->magic = 0;
  free(operation);
}

/* ---- sleep: its own time is all that it waits for ---- */

bool operation_start_sleep(struct operation *operation) {
  (void)operation;
  return true;
}

int operation_push_sleep(struct operation *operation, lua_State *L) {
  (void)operation;
  (void)L;
  return 0;
}

void operation_end_sleep(struct operation *operation) { (void)operation; }

/* ---- body ---- */

static int push_body(lua_State *L, const struct exchange *exchange, enum relay_body state, bool is_timed_out) {
  struct span body = buffer_span(&exchange->body);
  if (state == RELAY_BODY_THERE && state_has_room(state_of(L), body.length)) {
    lua_pushlstring(L, body.length ? body.data : "", body.length);
    return 1;
  }
  if (state == RELAY_BODY_TOO_LARGE) counter_add(exchange->worker->options.counters, COUNTER_LIMIT_HOOK_BODY_BYTES, 1);
  if (state == RELAY_BODY_NO_ROOM) counter_add(exchange->worker->options.counters, COUNTER_LIMIT_BODY_BUDGET_BYTES, 1);
  lua_pushnil(L);
  lua_pushstring(L, state == RELAY_BODY_TOO_LARGE ? "too large" : state == RELAY_BODY_COMES && is_timed_out ? "timeout" : "no room");
  return 2;
}

bool operation_start_body(struct operation *operation) {
  relay_await_body(operation->exchange, operation->most);
  return true;
}

int operation_push_body(struct operation *operation, lua_State *L) {
  const struct exchange *exchange = operation->exchange;
  return push_body(L, exchange, relay_body(exchange, operation->most), operation->is_timed_out);
}

void operation_end_body(struct operation *operation) {
  if (operation->exchange && operation->exchange->awaits_body) relay_leave_body(operation->exchange);
}

/* exchange.request:body { max = bytes, timeout = seconds } -> text | nil, "too large" or "timeout" or "no room" */
int member_request_body(lua_State *L, struct exchange *exchange, const struct object *object) {
  static const char function[] = "exchange.request:body";
  (void)object;
  struct script_state *state = operation_check(L, function);
  if (state->running_exchange != exchange) return luaL_error(L, "%s: called on another request's exchange", function);
  uint64_t most = LIMIT_BODY_BUFFER_BYTES, timeout = OPERATION_TIMEOUT_MS;
  if (!lua_isnoneornil(L, 2)) {
    static const char *const options[] = {"max", "timeout", NULL};
    if (!lua_istable(L, 2)) return luaL_error(L, "%s: wants a table such as { max = 65536 }", function);
    core_check_options(L, 2, options, function);
    lua_getfield(L, 2, "max");
    lua_getfield(L, 2, "timeout");
    lua_Number given = lua_type(L, -2) == LUA_TNUMBER ? lua_tonumber(L, -2) : lua_isnil(L, -2) ? (lua_Number)most : -1;
    if (!(given >= 0 && given <= LIMIT_HOOK_BODY_BYTES))
      return luaL_error(L, "%s: max is not a number of bytes from 0 to %d", function, (int)LIMIT_HOOK_BODY_BYTES);
    most = (uint64_t)given;
    timeout = operation_timeout(L, -1, function, "timeout");
  }
  enum relay_body there = relay_body(exchange, most);
  if (there != RELAY_BODY_COMES) return push_body(L, exchange, there, false);
  struct operation *operation = operation_want(state, OPERATION_BODY, timeout);
  operation->most = most;
  return operation_yield(L, operation);
}

/* sleep(seconds) */
static int core_sleep(lua_State *L) {
  static const char function[] = "moongate.sleep";
  struct script_state *state = operation_check(L, function);
  if (lua_type(L, 1) != LUA_TNUMBER) return luaL_error(L, "%s: wants seconds, not a %s", function, luaL_typename(L, 1));
  uint64_t time = operation_timeout(L, 1, function, "what it was given");
  return operation_yield(L, operation_want(state, OPERATION_SLEEP, time));
}

void core_operation_register(lua_State *L, int core) {
  lua_pushcfunction(L, core_sleep);
  lua_setfield(L, core, "sleep");
}
