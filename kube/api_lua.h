/* The API server's client for Lua: `api` of the module "moongate.kube". */
#ifndef KUBE_API_LUA_H
#define KUBE_API_LUA_H

#include <lua.h>

#include "kube/api.h"

/* Adds `api` to the module's table, which is on top of the stack. Both may be NULL. */
void api_lua_open(lua_State *L, struct log *log, struct counters *counters);
/* The client behind a value; NULL if it is no client, or closed. */
struct api *api_lua_get(lua_State *L, int index);

#endif
