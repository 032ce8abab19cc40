/* Lua pack: plain Lua values to MessagePack and back. Tables are arrays (1..n without gaps, or marked by core.array) or maps with string keys, written sorted,
 * so that equal data gives equal bytes. C values cross as their source. */
#ifndef SCRIPT_LUA_PACK_H
#define SCRIPT_LUA_PACK_H

#include <lua.h>
#include <stdbool.h>

#include "base/buffer.h"
#include "route/host.h"
#include "route/value.h"

#define PACK_DEPTH_MAX 32

/* Appends the value at `index`. False with a constant or formatted message in `error`. Raises only when memory ends. */
bool lua_pack_encode(lua_State *L, int index, struct buffer *out, char *error, size_t error_size);
/* Pushes the value. `config` (may be NULL) gives the ready values of the PACK_VALUE items in their order; without it they are made from their sources. */
bool lua_pack_decode(lua_State *L, struct span bytes, const struct hook_config *config, char *error, size_t error_size);

/* Pushes a userdata with an empty buffer that the collector frees: for work in which an error may be raised. */
struct buffer *lua_pack_push_buffer(lua_State *L);

/* moongate.core functions: encode, decode, array; and the sentinel core.null. */
int lua_pack_array(lua_State *L);
bool lua_pack_is_array(lua_State *L, int index); /* marked by core.array */
void lua_pack_push_null(lua_State *L);
bool lua_pack_is_null(lua_State *L, int index);
void lua_pack_register(lua_State *L, int core); /* adds them to the table at `core` */

#endif
