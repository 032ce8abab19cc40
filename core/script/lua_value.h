/* Lua value: C values (regexes, templates, address and host sets, maps, upstream handles) as userdata, each holding one counted reference. */
#ifndef SCRIPT_LUA_VALUE_H
#define SCRIPT_LUA_VALUE_H

#include <lua.h>
#include <stdint.h>

#include "route/host.h"
#include "route/value.h"

#define VALUE_BOX_MAGIC 0x786f6276u

struct value_box {
  uint32_t magic;
  struct value *value; /* NULL after __gc */
  size_t charged;      /* bytes of it that count for a guest's ceiling */
};

/* Takes the reference. */
void lua_value_push(lua_State *L, struct value *value);
/* NULL if it is none. */
struct value_box *lua_value_to(lua_State *L, int index);
void lua_value_register(lua_State *L, int core);

#endif
