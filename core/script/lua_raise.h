/* Lua's errors leave the function that raises them; the library's header does not say so. */
#ifndef SCRIPT_LUA_RAISE_H
#define SCRIPT_LUA_RAISE_H

#include <lauxlib.h>

int luaL_error(lua_State *L, const char *format, ...) __attribute__((noreturn));

#endif
