/* Core counter: moongate.counter over base/series.h. The handle holds its counter until its state is closed, by the publisher. The state's thread. */
#include <lauxlib.h>
#include <string.h>

#include "base/series.h"
#include "script/core_module.h"
#include "script/state.h"

#define AMOUNT_MAX 9007199254740992.0 /* 2^53: whole numbers end there */
#define HANDLE "moongate.counter"

struct counter_handle {
  struct series_counter *counter; /* NULL: no requests come here, or the owner's share is used up */
  unsigned label_count;
};

/* counter:add(amount, value of the first label, ...) */
static int handle_add(lua_State *L) {
  const struct counter_handle *handle = luaL_checkudata(L, 1, HANDLE);
  struct script_state *state = state_of(L);
  if (state->running_policy == NULL) return luaL_error(L, "counter:add: counts in hooks only");
  lua_Number amount = lua_isnumber(L, 2) ? lua_tonumber(L, 2) : -1;
  if (!(amount >= 0 && amount <= AMOUNT_MAX) || amount != (lua_Number)(uint64_t)amount)
    return luaL_error(L, "counter:add: the amount is no whole number from 0");
  int given = lua_gettop(L) - 2;
  if (given != (int)handle->label_count) return luaL_error(L, "counter:add: has %d label values and needs %d", given, (int)handle->label_count);
  struct span values[SERIES_LABELS];
  for (int i = 0; i < given; i++) values[i] = core_check_text(L, i + 3, "counter:add");
  if (state->series) series_add(state->series, handle->counter, (uint64_t)amount, values);
  return 0;
}

static int handle_collect(lua_State *L) {
  struct counter_handle *handle = lua_touserdata(L, 1);
  if (handle->counter) series_release(handle->counter);
  handle->counter = NULL;
  return 0;
}

/* Trusted files of the built-in folder count as Moongate's own. */
static struct span shown_owner(const struct script_state *state) {
  return !state->is_guest && strcmp(state->owner, "builtin") == 0 ? SPAN("") : span_of(state->owner);
}

/* Once a state: a file can ask for any number. */
static void tell_dropped(struct script_state *state, struct span name) {
  if (state->has_told_dropped) return;
  state->has_told_dropped = true;
  char owner[256];
  state_plain_text(state->owner, owner, sizeof owner);
  log_write(state->log, LOG_WARN, "policy counter dropped", "owner=\"%s\" name=%.*s detail=\"its policies have %d counters already\"", owner, (int)name.length,
            name.data, (int)LIMIT_POLICY_COUNTERS);
}

/* counter(name, labels, help) -> counter | nil, why */
static int core_counter(lua_State *L) {
  struct script_state *state = state_of(L);
  struct series_declaration declaration = {.owner = shown_owner(state)};
  if (state->running_policy) return luaL_error(L, "moongate.counter: is made when the file is loaded, not in a hook");
  declaration.name.data = luaL_checklstring(L, 1, &declaration.name.length);
  luaL_checktype(L, 2, LUA_TTABLE);
  declaration.help.data = luaL_checklstring(L, 3, &declaration.help.length);
  size_t count = lua_objlen(L, 2);
  declaration.label_count = count < SERIES_LABELS ? (unsigned)count : SERIES_LABELS;
  for (unsigned i = 0; i < declaration.label_count; i++) {
    lua_rawgeti(L, 2, (int)i + 1); /* stays on the stack: it holds the text */
    if (lua_type(L, -1) != LUA_TSTRING) return luaL_error(L, "moongate.counter: a label is no text");
    declaration.labels[i].data = lua_tolstring(L, -1, &declaration.labels[i].length);
  }
  if (count > SERIES_LABELS) declaration.label_count = SERIES_LABELS + 1;
  const char *why = series_complaint(&declaration);
  if (why) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
  }
  struct counter_handle *handle = lua_newuserdata(L, sizeof *handle);
  *handle = (struct counter_handle){NULL, declaration.label_count};
  luaL_getmetatable(L, HANDLE);
  lua_setmetatable(L, -2);
  if (state->series == NULL) return 1;
  /* Kept by the state, so that it is never collected, and no lock taken, while a worker has the state. */
  lua_pushvalue(L, -1);
  luaL_ref(L, LUA_REGISTRYINDEX);
  handle->counter = series_hold(state->series, &declaration);
  if (handle->counter == NULL) tell_dropped(state, declaration.name);
  return 1;
}

void core_counter_register(lua_State *L, int core) {
  if (luaL_newmetatable(L, HANDLE)) {
    lua_newtable(L);
    lua_pushcfunction(L, handle_add);
    lua_setfield(L, -2, "add");
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, handle_collect);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
  }
  lua_pop(L, 1);
  lua_pushcfunction(L, core_counter);
  lua_setfield(L, core, "counter");
}
