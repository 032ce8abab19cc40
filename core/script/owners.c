/* Owners: the Lua module moongate.owners of the main state. An owner is one Lua state with the driver lua/moongate/attach.lua in it; only packed data crosses.
 * The userdata owns its state. Sync thread. */
#include <lauxlib.h>
#include <luajit.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "script/core_module.h"
#include "script/lua_pack.h"
#include "script/script.h"
#include "script/state.h"

#define OWNER_MAGIC 0x72656e77u
#define OWNER_MEMORY (64u << 20)

struct owner {
  uint32_t magic;
  struct script_state *state; /* NULL after close */
  int driver;                 /* in its registry */
  lua_State *main;            /* who called last: for fetch */
  int fetch;                  /* in the main registry; LUA_NOREF without */
};

static struct owner *check_owner(lua_State *L) {
  struct owner *owner = luaL_checkudata(L, 1, "moongate.owner");
  if (owner->magic != OWNER_MAGIC || owner->state == NULL) luaL_error(L, "owner: is closed");
  owner->main = L;
  return owner;
}

static int fail(lua_State *L, const char *error) {
  lua_pushnil(L);
  lua_pushstring(L, error);
  return 2;
}

/* In the owner's state: fetch(kind, namespace, name) -> table | nil, why; answered by the main state's function. */
static int owner_fetch(lua_State *L) {
  struct owner *owner = lua_touserdata(L, lua_upvalueindex(1));
  const char *kind = luaL_checkstring(L, 1), *namespace = luaL_checkstring(L, 2), *name = luaL_checkstring(L, 3);
  lua_State *main = owner->main;
  if (main == NULL || owner->fetch == LUA_NOREF) return fail(L, "there is nothing to fetch from");
  int top = lua_gettop(main);
  luaL_checkstack(L, 8, "fetch");
  if (!lua_checkstack(main, 8)) return luaL_error(L, "fetch: too deep");
  lua_rawgeti(main, LUA_REGISTRYINDEX, owner->fetch);
  lua_pushstring(main, kind);
  lua_pushstring(main, namespace);
  lua_pushstring(main, name);
  char error[512];
  bool is_done = lua_pcall(main, 3, 2, 0) == 0;
  struct buffer *packed = lua_pack_push_buffer(L);
  if (!is_done) {
    snprintf(error, sizeof error, "%s", lua_tostring(main, -1) ? lua_tostring(main, -1) : "error");
  } else if (!lua_istable(main, -2)) {
    is_done = false;
    snprintf(error, sizeof error, "%s", lua_tostring(main, -1) ? lua_tostring(main, -1) : "there is no such object");
  } else {
    is_done = lua_pack_encode(main, -2, packed, error, sizeof error);
  }
  lua_settop(main, top);
  if (is_done) is_done = lua_pack_decode(L, buffer_span(packed), NULL, error, sizeof error);
  buffer_free(packed);
  return is_done ? 1 : fail(L, error);
}

/* require "moongate.attach".new { fetch = ... }, kept in the registry. Argument: the owner. */
static int make_driver(lua_State *L) {
  struct owner *owner = lua_touserdata(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "moongate.attach");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "new");
  lua_newtable(L);
  lua_pushlightuserdata(L, owner);
  lua_pushcclosure(L, owner_fetch, 1);
  lua_setfield(L, -2, "fetch");
  lua_pushboolean(L, owner->state->is_guest);
  lua_setfield(L, -2, "is_guest");
  lua_call(L, 1, 1);
  owner->driver = luaL_ref(L, LUA_REGISTRYINDEX);
  return 0;
}

static int owner_close(lua_State *L) {
  struct owner *owner = luaL_checkudata(L, 1, "moongate.owner");
  if (owner->state) state_free(owner->state);
  owner->state = NULL;
  luaL_unref(L, LUA_REGISTRYINDEX, owner->fetch);
  owner->fetch = LUA_NOREF;
  return 0;
}

/* Pushes driver method and driver on the owner's stack. */
static void push_method(struct owner *owner, const char *method) {
  lua_State *S = owner->state->L;
  lua_rawgeti(S, LUA_REGISTRYINDEX, owner->driver);
  lua_getfield(S, -1, method);
  lua_insert(S, -2);
}

/* Calls the driver in the owner's state and brings its results (value, error) over. */
static int call_driver(lua_State *L, struct owner *owner, int arguments) {
  struct script_state *state = owner->state;
  lua_State *S = state->L;
  char error[1024];
  struct buffer *packed = lua_pack_push_buffer(L);
  bool is_done = state_call(state, arguments, 2, STATE_BUDGET_CONFIGURE) == 0;
  if (!is_done || lua_isnil(S, -2)) {
    const char *text = lua_tostring(S, -1);
    snprintf(error, sizeof error, "%s", text ? text : "nothing came back");
    is_done = false;
  } else {
    is_done = lua_pack_encode(S, -2, packed, error, sizeof error);
  }
  lua_settop(S, STATE_HANDLER);
  if (is_done) is_done = lua_pack_decode(L, buffer_span(packed), NULL, error, sizeof error);
  buffer_free(packed);
  return is_done ? 1 : fail(L, error);
}

/* owner:load(file, source) -> description | nil, "file:line: why" */
static int owner_load(lua_State *L) {
  struct owner *owner = check_owner(L);
  const char *file = luaL_checkstring(L, 2);
  struct span source;
  source.data = luaL_checklstring(L, 3, &source.length);
  char error[1024];
  lua_State *S = owner->state->L;
  push_method(owner, "load");
  if (state_run_file(owner->state, file, source, error, sizeof error) != 0) {
    lua_settop(S, STATE_HANDLER);
    return fail(L, error);
  }
  lua_pushstring(S, file);
  return call_driver(L, owner, 3);
}

static int owner_unload(lua_State *L) {
  struct owner *owner = check_owner(L);
  const char *name = luaL_checkstring(L, 2);
  push_method(owner, "unload");
  lua_pushstring(owner->state->L, name);
  state_call(owner->state, 2, 0, STATE_BUDGET_CONFIGURE);
  lua_settop(owner->state->L, STATE_HANDLER);
  return 0;
}

static int attach(lua_State *L, const char *method) {
  struct owner *owner = check_owner(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  char error[1024];
  struct buffer *packed = lua_pack_push_buffer(L);
  if (!lua_pack_encode(L, 2, packed, error, sizeof error)) {
    buffer_free(packed);
    return luaL_error(L, "owner:%s: the input %s", method, error);
  }
  push_method(owner, method);
  bool is_done = lua_pack_decode(owner->state->L, buffer_span(packed), NULL, error, sizeof error);
  buffer_free(packed);
  if (is_done) return call_driver(L, owner, 2);
  lua_settop(owner->state->L, STATE_HANDLER);
  return fail(L, error);
}

static int owner_attach_host(lua_State *L) { return attach(L, "attach_host"); }
static int owner_attach_route(lua_State *L) { return attach(L, "attach_route"); }

/* owners.open { name =, trusted =, memory =, fetch =, lua_directory = } -> owner */
static int owners_open(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  lua_getfield(L, 1, "name");
  lua_getfield(L, 1, "trusted");
  lua_getfield(L, 1, "memory");
  lua_getfield(L, 1, "fetch");
  lua_getfield(L, 1, "lua_directory"); /* specs; the main state has it from script_open */
  if (lua_isnil(L, 6)) {
    lua_pop(L, 1);
    lua_getfield(L, LUA_REGISTRYINDEX, "moongate.lua_directory");
  }
  struct state_options options = {.lua_directory = luaL_checkstring(L, 6),
                                  .owner = luaL_checkstring(L, 2),
                                  .is_guest = !lua_toboolean(L, 3),
                                  .no_jit = true,
                                  .memory_limit = (size_t)luaL_optnumber(L, 4, OWNER_MEMORY),
                                  .log = state_of(L)->log};
  struct owner *owner = lua_newuserdata(L, sizeof *owner);
  memset(owner, 0, sizeof *owner);
  owner->magic = OWNER_MAGIC;
  owner->fetch = LUA_NOREF;
  luaL_getmetatable(L, "moongate.owner");
  lua_setmetatable(L, -2);
  char error[1024];
  owner->state = state_new(&options, error, sizeof error);
  if (owner->state == NULL) return luaL_error(L, "owners.open: %s", error);
  if (lua_isfunction(L, 5)) {
    lua_pushvalue(L, 5);
    owner->fetch = luaL_ref(L, LUA_REGISTRYINDEX);
  }
  lua_State *S = owner->state->L;
  lua_pushcfunction(S, make_driver);
  lua_pushlightuserdata(S, owner);
  if (lua_pcall(S, 1, 0, 0)) return luaL_error(L, "owners.open: %s", lua_tostring(S, -1));
  return 1;
}

static int luaopen_owners(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"load", owner_load}, {"unload", owner_unload}, {"attach_host", owner_attach_host}, {"attach_route", owner_attach_route}, {"close", owner_close},
      {NULL, NULL}};
  if (luaL_newmetatable(L, "moongate.owner")) {
    lua_newtable(L);
    for (const luaL_Reg *f = methods; f->name; f++) {
      lua_pushcfunction(L, f->func);
      lua_setfield(L, -2, f->name);
    }
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, owner_close);
    lua_setfield(L, -2, "__gc");
  }
  lua_newtable(L);
  lua_pushcfunction(L, owners_open);
  lua_setfield(L, -2, "open");
  return 1;
}

void owners_preload(lua_State *L) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushcfunction(L, luaopen_owners);
  lua_setfield(L, -2, "moongate.owners");
  lua_pop(L, 2);
}

void script_open(lua_State *L, const struct script_options *options) {
  state_adopt(L, options->log);
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  state_set_path(L, options->lua_directory);
  lua_pushstring(L, options->lua_directory);
  lua_setfield(L, LUA_REGISTRYINDEX, "moongate.lua_directory");
  core_module_preload(L);
  owners_preload(L);
}
