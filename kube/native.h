/* What kube's Lua cannot do itself: the module "moongate.kube". */
#ifndef KUBE_NATIVE_H
#define KUBE_NATIVE_H

#include <lua.h>

#include "base/log.h"

/* Registers "moongate.kube" in package.preload. `log` may be NULL (nothing is logged). */
void native_open(lua_State *L, struct log *log);
/* The same as a plain Lua C module, for specs. */
int luaopen_moongate_kube(lua_State *L);

#endif
