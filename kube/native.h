/* What kube's Lua cannot do itself: the module "moongate.kube". */
#ifndef KUBE_NATIVE_H
#define KUBE_NATIVE_H

#include <lua.h>

#include "base/counters.h"
#include "base/log.h"

/* Registers "moongate.kube" in package.preload. `log` and `counters` may be NULL (nothing is logged or counted). */
void native_open(lua_State *L, struct log *log, struct counters *counters);
/* The same as a plain Lua C module, for specs. */
int luaopen_moongate_kube(lua_State *L);

#endif
