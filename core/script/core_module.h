/* Core module: the Lua module moongate.core, the C that lua/moongate stands on. Policies never get it; they get lua/moongate/init.lua. */
#ifndef SCRIPT_CORE_MODULE_H
#define SCRIPT_CORE_MODULE_H

#include <lua.h>

struct span;
/* An argument of a library's function as text; raises "FUNCTION: expects text, not ..." (luaL_check* name the function by what the caller's code calls it, and
 * have no name where it is called in a `return`). */
struct span core_check_text(lua_State *L, int index, const char *function);
/* Raises "FUNCTION: there is no option ..." where the table at `index` has another field than those: what is misspelled would be left out. */
void core_check_options(lua_State *L, int index, const char *const *known, const char *function);
/* Puts moongate.core into package.preload. */
void core_module_preload(lua_State *L);
/* Puts moongate.owners into package.preload (owners.c). */
void owners_preload(lua_State *L);
/* Parts, each adding its functions to the table at `core`. */
void core_text_register(lua_State *L, int core);
void core_counter_register(lua_State *L, int core);
void core_dict_register(lua_State *L, int core);
void core_password_register(lua_State *L, int core);
void core_json_register(lua_State *L, int core);
void core_http_register(lua_State *L, int core);
void core_operation_register(lua_State *L, int core);
void core_testing_register(lua_State *L, int core);

#endif
