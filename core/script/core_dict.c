/* Core dict: moongate.shared.dict over base/dict.h. A state keeps one handle for each name, for good; it holds its dictionary from the first use in a hook on.
 * What an exchange holds (acquire) is listed in its arena, whose end gives it back. The state's thread. */
#include <lauxlib.h>
#include <math.h>
#include <string.h>

#include "base/dict.h"
#include "proxy/worker.h"
#include "script/core_module.h"
#include "script/lua_pack.h"
#include "script/lua_raise.h"
#include "script/state.h"

#define HANDLE "moongate.dict"
#define HANDLES "moongate.dicts" /* in the registry: name -> handle */
#define NAME_BYTES 64
#define SECONDS_MAX 3155760000.0 /* a hundred years */

struct handle {
  struct dict *dict; /* NULL until it is used */
  char name[NAME_BYTES + 1];
};

/* exchange->holds */
struct dict_holds {
  unsigned count;
  struct {
    struct dict *dict;
    struct dict_entry *entry;
  } held[LIMIT_DICTIONARY_HOLDS];
};

static void count(const struct script_state *state, enum counter which) {
  if (state->counters) counter_add(state->counters, which, 1);
}

/* The dictionary of argument 1, in a hook. */
static struct dict *check_dict(lua_State *L, const char *function, struct dict_asker *asker) {
  struct handle *handle = luaL_checkudata(L, 1, HANDLE);
  struct script_state *state = state_of(L);
  if (state->running_policy == NULL) luaL_error(L, "%s: in hooks only", function);
  if (handle->dict == NULL && state->dicts) {
    struct span owner = state->is_guest ? span_of(state->owner) : SPAN("");
    handle->dict = dict_hold(state->dicts, owner, span_of(handle->name));
    if (handle->dict == NULL) {
      count(state, COUNTER_LIMIT_DICTIONARIES);
      luaL_error(L, "%s: %s: there are %d dictionaries in use already", function, handle->name, (int)LIMIT_DICTIONARIES);
    }
  }
  if (handle->dict == NULL) luaL_error(L, "%s: there are no shared dictionaries here", function);
  *asker = (struct dict_asker){loop_now_ms(&state->running_exchange->worker->loop) + 1, state->counters};
  return handle->dict;
}

static struct span check_key(lua_State *L, const char *function) {
  struct span key;
  if (lua_type(L, 2) != LUA_TSTRING) luaL_error(L, "%s: the key is a %s, not text", function, luaL_typename(L, 2));
  key.data = lua_tolstring(L, 2, &key.length);
  if (key.length > LIMIT_DICTIONARY_KEY_BYTES) {
    count(state_of(L), COUNTER_LIMIT_DICTIONARY_KEY_BYTES);
    luaL_error(L, "%s: the key is longer than %d bytes", function, (int)LIMIT_DICTIONARY_KEY_BYTES);
  }
  return key;
}

static double check_number(lua_State *L, int index, const char *function, const char *what, double least) {
  double number = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : NAN;
  if (!(number >= least)) luaL_error(L, "%s: %s is no number%s", function, what, least == 0 ? " from 0" : "");
  return number;
}

static struct dict_value check_value(lua_State *L, const char *function) {
  struct dict_value value = {.kind = DICT_NOTHING};
  switch (lua_type(L, 3)) {
    case LUA_TNUMBER:
      value.kind = DICT_NUMBER;
      value.number = lua_tonumber(L, 3);
      break;
    case LUA_TBOOLEAN:
      value.kind = DICT_BOOLEAN;
      value.boolean = lua_toboolean(L, 3);
      break;
    case LUA_TSTRING:
      value.kind = DICT_TEXT;
      value.text.data = lua_tolstring(L, 3, &value.text.length);
      break;
    default:
      luaL_error(L, "%s: the value is a %s; text, numbers and booleans can be stored", function, luaL_typename(L, 3));
  }
  if (value.text.length > LIMIT_DICTIONARY_VALUE_BYTES) {
    count(state_of(L), COUNTER_LIMIT_DICTIONARY_VALUE_BYTES);
    luaL_error(L, "%s: the value is longer than %d bytes", function, (int)LIMIT_DICTIONARY_VALUE_BYTES);
  }
  return value;
}

/* Milliseconds; 0: for ever. */
static uint64_t check_lifetime(lua_State *L, int index, const char *function) {
  if (lua_isnoneornil(L, index)) return 0;
  double seconds = lua_type(L, index) == LUA_TNUMBER ? lua_tonumber(L, index) : NAN;
  if (!(seconds > 0 && seconds <= SECONDS_MAX)) luaL_error(L, "%s: the lifetime is no number of seconds above 0", function);
  return (uint64_t)ceil(seconds * 1000);
}

static int no_room(lua_State *L) {
  lua_pushnil(L);
  lua_pushliteral(L, "there is no room");
  return 2;
}

/* dict:get(key) -> value or nil */
static int handle_get(lua_State *L) {
  static const char function[] = "dict:get";
  struct dict_asker asker;
  struct dict *dict = check_dict(L, function, &asker);
  struct span key = check_key(L, function);
  struct dict_value value;
  struct buffer *text = lua_pack_push_buffer(L);
  dict_get(dict, asker, key, &value, text);
  if (value.kind == DICT_NUMBER) lua_pushnumber(L, value.number);
  else if (value.kind == DICT_BOOLEAN) lua_pushboolean(L, value.boolean);
  else if (value.kind == DICT_TEXT) lua_pushlstring(L, buffer_length(text) ? buffer_span(text).data : "", buffer_length(text));
  else lua_pushnil(L);
  buffer_free(text);
  return 1;
}

static int set(lua_State *L, const char *function, bool only_new) {
  struct dict_asker asker;
  struct dict *dict = check_dict(L, function, &asker);
  struct span key = check_key(L, function);
  struct dict_value value = check_value(L, function);
  enum dict_result result = dict_set(dict, asker, key, &value, check_lifetime(L, 4, function), only_new);
  if (result == DICT_IS_FULL) return no_room(L);
  lua_pushboolean(L, result == DICT_DONE);
  return 1;
}

/* dict:set(key, value [, seconds]) -> true | nil, why */
static int handle_set(lua_State *L) { return set(L, "dict:set", false); }
/* dict:add(key, value [, seconds]) -> true | false: there is one | nil, why */
static int handle_add(lua_State *L) { return set(L, "dict:add", true); }

/* dict:incr(key, amount [, initial [, seconds]]) -> the new number | nil, why */
static int handle_incr(lua_State *L) {
  static const char function[] = "dict:incr";
  struct dict_asker asker;
  struct dict *dict = check_dict(L, function, &asker);
  struct span key = check_key(L, function);
  double amount = check_number(L, 3, function, "the amount", -INFINITY), result;
  double initial = lua_isnoneornil(L, 4) ? 0 : check_number(L, 4, function, "the initial value", -INFINITY);
  switch (dict_increase(dict, asker, key, amount, initial, check_lifetime(L, 5, function), &result)) {
    case DICT_DONE:
      lua_pushnumber(L, result);
      return 1;
    case DICT_IS_NO_NUMBER:
      lua_pushnil(L);
      lua_pushliteral(L, "the value is not a number");
      return 2;
    default:
      return no_room(L);
  }
}

/* dict:expire(key, seconds) -> whether there is such a value */
static int handle_expire(lua_State *L) {
  static const char function[] = "dict:expire";
  struct dict_asker asker;
  struct dict *dict = check_dict(L, function, &asker);
  struct span key = check_key(L, function);
  luaL_checkany(L, 3);
  lua_pushboolean(L, dict_expire(dict, asker, key, check_lifetime(L, 3, function)));
  return 1;
}

/* dict:remove(key) -> whether there was something */
static int handle_remove(lua_State *L) {
  static const char function[] = "dict:remove";
  struct dict_asker asker;
  struct dict *dict = check_dict(L, function, &asker);
  lua_pushboolean(L, dict_remove(dict, asker, check_key(L, function)));
  return 1;
}

static int take(lua_State *L, const char *function, bool only_looks) {
  struct dict_asker asker;
  struct dict *dict = check_dict(L, function, &asker);
  struct span key = check_key(L, function);
  double rate = check_number(L, 3, function, "the rate", 0), burst = check_number(L, 4, function, "the burst", 0), excess;
  lua_pushboolean(L, dict_take(dict, asker, key, rate, burst, only_looks, &excess));
  lua_pushnumber(L, excess);
  return 2;
}

/* dict:take(key, rate, burst) -> allowed, excess */
static int handle_take(lua_State *L) { return take(L, "dict:take", false); }
/* dict:may_take(key, rate, burst) -> what take would say */
static int handle_may_take(lua_State *L) { return take(L, "dict:may_take", true); }

static void give_back(void *arg) {
  struct dict_holds *holds = arg;
  while (holds->count > 0) {
    holds->count--;
    dict_give_back(holds->held[holds->count].dict, holds->held[holds->count].entry);
  }
}

/* dict:acquire(key, max) -> whether one of them is held now, until the exchange ends */
static int handle_acquire(lua_State *L) {
  static const char function[] = "dict:acquire";
  struct dict_asker asker;
  struct dict *dict = check_dict(L, function, &asker);
  struct script_state *state = state_of(L);
  struct exchange *exchange = state->running_exchange;
  struct span key = check_key(L, function);
  double most = check_number(L, 3, function, "the number", 0);
  if (exchange->is_logged || state->running_phase == HOOK_LOG) luaL_error(L, "%s: not in log", function);
  if (exchange->holds == NULL) {
    exchange->holds = arena_zalloc(&exchange->arena, sizeof *exchange->holds);
    arena_defer(&exchange->arena, give_back, exchange->holds);
  }
  struct dict_holds *holds = exchange->holds;
  if (holds->count == LIMIT_DICTIONARY_HOLDS) {
    count(state, COUNTER_LIMIT_DICTIONARY_HOLDS);
    return luaL_error(L, "%s: the exchange holds %d already", function, (int)LIMIT_DICTIONARY_HOLDS);
  }
  struct dict_entry *entry = dict_acquire(dict, asker, key, most);
  if (entry) {
    holds->held[holds->count].dict = dict;
    holds->held[holds->count++].entry = entry;
  }
  lua_pushboolean(L, entry != NULL);
  return 1;
}

static int handle_collect(lua_State *L) {
  struct handle *handle = lua_touserdata(L, 1);
  if (handle->dict) dict_release(handle->dict);
  handle->dict = NULL;
  return 0;
}

static bool is_name(struct span name) {
  for (size_t i = 0; i < name.length; i++) {
    char c = name.data[i];
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' || c == '.')) return false;
  }
  return name.length > 0 && name.length <= NAME_BYTES;
}

/* dict(name) -> dictionary | nil, why */
static int core_dict(lua_State *L) {
  struct span name;
  name.data = luaL_checklstring(L, 1, &name.length);
  lua_settop(L, 1);
  if (!is_name(name)) {
    lua_pushnil(L);
    lua_pushliteral(L, "the name is not made of letters, digits, _, - and . (at most 64)");
    return 2;
  }
  lua_getfield(L, LUA_REGISTRYINDEX, HANDLES);
  lua_pushvalue(L, 1);
  lua_rawget(L, 2);
  if (!lua_isnil(L, -1)) return 1;
  lua_pop(L, 1);
  struct handle *handle = lua_newuserdata(L, sizeof *handle);
  *handle = (struct handle){.dict = NULL};
  memcpy(handle->name, name.data, name.length);
  luaL_getmetatable(L, HANDLE);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, 1);
  lua_pushvalue(L, -2);
  lua_rawset(L, 2);
  return 1;
}

void core_dict_register(lua_State *L, int core) {
  static const luaL_Reg methods[] = {
      {"get", handle_get},       {"set", handle_set},   {"add", handle_add},           {"incr", handle_incr},       {"expire", handle_expire},
      {"remove", handle_remove}, {"take", handle_take}, {"may_take", handle_may_take}, {"acquire", handle_acquire}, {NULL, NULL}};
  if (luaL_newmetatable(L, HANDLE)) {
    lua_newtable(L);
    for (const luaL_Reg *f = methods; f->name; f++) {
      lua_pushcfunction(L, f->func);
      lua_setfield(L, -2, f->name);
    }
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, handle_collect);
    lua_setfield(L, -2, "__gc");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "__metatable");
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, HANDLES);
  }
  lua_pop(L, 1);
  lua_pushcfunction(L, core_dict);
  lua_setfield(L, core, "dict");
}
