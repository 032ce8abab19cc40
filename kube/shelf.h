/* A map of byte strings for Lua, outside of Lua's heap. */
#ifndef KUBE_SHELF_H
#define KUBE_SHELF_H

#include <lua.h>

/* Pushes the function that makes one: shelf() -> a userdata with get(key), has(key), put(key, bytes | nil), keys(). */
void shelf_push_maker(lua_State *L);

#endif
