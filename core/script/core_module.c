/* Core module: puts its parts together; settings, log, certificates, budget. The state's thread. */
#include "script/core_module.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

#include "net/tls.h"
#include "route/route_settings.h"
#include "script/lua_pack.h"
#include "script/lua_value.h"
#include "script/script.h"
#include "script/state.h"

/* route_settings() -> { name = { type = "seconds", unit = "..." } } */
static int core_route_settings(lua_State *L) {
  static const char *const types[] = {"", "seconds", "bytes", "integer", "flag", "text", "balancer", "retry"};
  unsigned count;
  const struct route_setting_info *list = route_setting_list(&count);
  lua_createtable(L, 0, (int)count);
  for (unsigned i = 0; i < count; i++) {
    lua_createtable(L, 0, 2);
    lua_pushstring(L, types[list[i].type]);
    lua_setfield(L, -2, "type");
    lua_pushstring(L, list[i].unit);
    lua_setfield(L, -2, "unit");
    lua_setfield(L, -2, list[i].name);
  }
  return 1;
}

/* route_setting_problem(name, value): what the core would say of it, or nil */
static int core_route_setting_problem(lua_State *L) {
  char error[256];
  struct route_settings settings;
  lua_settop(L, 2);
  lua_createtable(L, 0, 1);
  lua_insert(L, 1);
  lua_rawset(L, 1);
  struct buffer *packed = lua_pack_push_buffer(L);
  route_settings_defaults(&settings);
  bool is_good = lua_pack_encode(L, 1, packed, error, sizeof error) && route_settings_apply(&settings, buffer_span(packed), error, sizeof error) == 0;
  buffer_free(packed);
  if (is_good) lua_pushnil(L);
  else lua_pushstring(L, error);
  return 1;
}

struct span core_check_text(lua_State *L, int index, const char *function) {
  struct span text;
  if (!lua_isstring(L, index))
    luaL_error(L, "%s: expects text, not %s%s", function, lua_isnoneornil(L, index) ? "" : "a ", lua_isnoneornil(L, index) ? "nil" : luaL_typename(L, index));
  text.data = lua_tolstring(L, index, &text.length);
  return text;
}

void core_check_options(lua_State *L, int index, const char *const *known, const char *function) {
  lua_pushnil(L);
  while (lua_next(L, index)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "%s: has a value without a name", function);
    const char *name = lua_tostring(L, -1);
    const char *const *option = known;
    while (*option && strcmp(*option, name) != 0) option++;
    if (*option == NULL) luaL_error(L, "%s: there is no option '%s'", function, name);
  }
}

/* log(level, message [, fields as text]): names the policy that runs. */
static int core_log(lua_State *L) {
  static const char *const names[] = {"debug", "info", "notice", "warn", "error", NULL};
  enum log_level level = (enum log_level)luaL_checkoption(L, 1, NULL, names);
  const char *message = luaL_checkstring(L, 2);
  const struct script_state *state = state_of(L);
  struct log to_stderr = {0};
  struct log *log = state->log ? state->log : &to_stderr;
  if (!log_is_on(log, level)) return 0;
  char plain[2048];
  state_plain_text(message, plain, sizeof plain);
  if (state->running_policy) log_write(log, level, "policy says", "policy=%s detail=\"%s\"", state->running_policy, plain);
  else log_write(log, level, "policy says", "owner=%s detail=\"%s\"", state->owner, plain);
  return 0;
}

static void set_text(lua_State *L, const char *name, const char *value) {
  lua_pushstring(L, value);
  lua_setfield(L, -2, name);
}

/* certificate_check(pem, key, host) -> { covers = bool, not_after = unix, serial, issuer_serial, issuer_common_name, issuer_organization, key_algorithm }
 * | nil, why */
static int core_certificate_check(lua_State *L) {
  struct span pem, key, host;
  pem.data = luaL_checklstring(L, 1, &pem.length);
  key.data = luaL_checklstring(L, 2, &key.length);
  host.data = luaL_optlstring(L, 3, "", &host.length);
  char error[256] = "";
  struct certificate *certificate = certificate_new(pem, key, error, sizeof error);
  if (certificate == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, error);
    return 2;
  }
  bool covers = certificate_covers(certificate, host);
  struct certificate_facts facts;
  certificate_describe(certificate, &facts);
  certificate_free(certificate);
  lua_createtable(L, 0, 7);
  lua_pushboolean(L, covers);
  lua_setfield(L, -2, "covers");
  lua_pushnumber(L, (lua_Number)facts.not_after);
  lua_setfield(L, -2, "not_after");
  set_text(L, "serial", facts.serial);
  set_text(L, "issuer_serial", facts.issuer_serial);
  set_text(L, "issuer_common_name", facts.issuer_common_name);
  set_text(L, "issuer_organization", facts.issuer_organization);
  set_text(L, "key_algorithm", facts.key_algorithm);
  return 1;
}

/* tls_check(ciphers or nil, curves or nil) -> true | nil, why: whether OpenSSL takes them. */
static int core_tls_check(lua_State *L) {
  struct tls_profile profile = {.protocols = "TLSv1.2 TLSv1.3", .ciphers = luaL_optstring(L, 1, ""), .curves = luaL_optstring(L, 2, "auto")};
  char error[256] = "";
  struct tls_server *server = tls_server_new(&profile, NULL, NULL, NULL, error, sizeof error);
  if (server == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, error);
    return 2;
  }
  tls_server_free(server);
  lua_pushboolean(L, true);
  return 1;
}

/* For lua/moongate/guest.lua only: whether the running code has used up its budget, and a fresh one between two policies of one driver call. */
static int core_budget_is_spent(lua_State *L) {
  lua_pushboolean(L, state_of(L)->is_budget_spent);
  return 1;
}

static int core_renew_budget(lua_State *L) {
  state_reset_budget(state_of(L), STATE_BUDGET_CONFIGURE);
  return 0;
}

/* For guest.lua, before it resumes a coroutine: that takes C's stack. */
static int core_check_stack(lua_State *L) {
  state_check_stack(L);
  return 0;
}

static int core_is_guest(lua_State *L) {
  lua_pushboolean(L, state_of(L)->is_guest);
  return 1;
}

int luaopen_moongate_core(lua_State *L) {
  state_of(L);
  owners_preload(L);
  lua_newtable(L);
  int core = lua_gettop(L);
  static const luaL_Reg functions[] = {{"route_settings", core_route_settings},
                                       {"route_setting_problem", core_route_setting_problem},
                                       {"log", core_log},
                                       {"certificate_check", core_certificate_check},
                                       {"tls_check", core_tls_check},
                                       {"budget_is_spent", core_budget_is_spent},
                                       {"renew_budget", core_renew_budget},
                                       {"check_stack", core_check_stack},
                                       {"is_guest", core_is_guest},
                                       {NULL, NULL}};
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, core, f->name);
  }
  lua_pack_register(L, core);
  lua_value_register(L, core);
  core_text_register(L, core);
  core_counter_register(L, core);
  core_dict_register(L, core);
  core_password_register(L, core);
  core_json_register(L, core);
  core_http_register(L, core);
  core_operation_register(L, core);
  core_testing_register(L, core);
  return 1;
}

void core_module_preload(lua_State *L) {
  lua_getfield(L, LUA_REGISTRYINDEX, "_PRELOAD");
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_remove(L, -2);
  }
  lua_pushcfunction(L, luaopen_moongate_core);
  lua_setfield(L, -2, "moongate.core");
  lua_pop(L, 1);
}
