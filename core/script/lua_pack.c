/* Lua pack: the only form in which data leaves a Lua state. Bounded in depth; refuses what is not plain data and says where. The state's thread. */
#include "script/lua_pack.h"

#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "script/lua_value.h"
#include "script/state.h"

#define EXACT 9007199254740992.0 /* 2^53 */
#define GUEST_DATA_MAX (4u << 20)

static const char null_key, array_key; /* addresses: the null sentinel; the registry key of the array metatable */

void lua_pack_push_null(lua_State *L) { lua_pushlightuserdata(L, (void *)&null_key); }

bool lua_pack_is_null(lua_State *L, int index) { return lua_islightuserdata(L, index) && lua_touserdata(L, index) == &null_key; }

static void push_array_metatable(lua_State *L) {
  lua_pushlightuserdata(L, (void *)&array_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  if (lua_istable(L, -1)) return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushliteral(L, "array");
  lua_setfield(L, -2, "__metatable");
  lua_pushlightuserdata(L, (void *)&array_key);
  lua_pushvalue(L, -2);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

int lua_pack_array(lua_State *L) {
  if (lua_isnoneornil(L, 1)) {
    lua_settop(L, 0);
    lua_newtable(L);
  }
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  push_array_metatable(L);
  lua_setmetatable(L, 1);
  return 1;
}

bool lua_pack_is_array(lua_State *L, int index) {
  if (!lua_getmetatable(L, index)) return false;
  push_array_metatable(L);
  bool is = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return is;
}

struct encoder {
  lua_State *L;
  struct buffer *out;
  char *error;
  size_t error_size;
  size_t limit; /* of `out` */
  int places;   /* names before the error */
};

static bool encode_value(struct encoder *e, int index, int depth);

static bool refuse(struct encoder *e, const char *why, const char *what) {
  snprintf(e->error, e->error_size, "%s%s", why, what);
  return false;
}

enum { PLACES = 4 };

/* No place in it is to blame. */
static bool refuse_whole(struct encoder *e, const char *why) {
  e->places = PLACES;
  return refuse(e, why, "");
}

/* On the way out: a.b.c is not plain data. The innermost names will do. */
static bool refuse_within(struct encoder *e, struct span key) {
  char rest[200];
  if (e->places == PLACES) return false;
  snprintf(rest, sizeof rest, "%s", e->error);
  snprintf(e->error, e->error_size, "%.*s%s%s", (int)(key.length > 40 ? 40 : key.length), key.data, e->places++ ? "." : ": ", rest);
  return false;
}

static int compare_keys(const void *a, const void *b) {
  const struct span *x = a, *y = b;
  int order = memcmp(x->data, y->data, x->length < y->length ? x->length : y->length);
  return order ? order : (x->length > y->length) - (x->length < y->length);
}

static bool encode_map(struct encoder *e, int table, uint32_t count, int depth) {
  lua_State *L = e->L;
  /* The keys stay alive in the table while their spans are sorted. A userdata holds them so that an error from the allocator leaks nothing. */
  struct span *keys = lua_newuserdata(L, (count ? count : 1) * sizeof *keys);
  uint32_t i = 0;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_pop(L, 1);
    keys[i].data = lua_tolstring(L, -1, &keys[i].length);
    i++;
  }
  qsort(keys, count, sizeof *keys, compare_keys);
  pack_put_map(e->out, count);
  for (i = 0; i < count; i++) {
    pack_put_string(e->out, keys[i]);
    lua_pushlstring(L, keys[i].data, keys[i].length);
    lua_rawget(L, table);
    bool is_done = encode_value(e, lua_gettop(L), depth + 1);
    lua_pop(L, 1);
    if (!is_done) return refuse_within(e, keys[i]);
  }
  lua_pop(L, 1);
  return true;
}

static bool encode_table(struct encoder *e, int table, int depth) {
  lua_State *L = e->L;
  if (depth >= PACK_DEPTH_MAX) return refuse_whole(e, "data is nested too deeply");
  if (!lua_checkstack(L, 8)) return refuse_whole(e, "data is nested too deeply");
  size_t length = lua_objlen(L, table);
  uint32_t count = 0, strings = 0;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    lua_pop(L, 1);
    int type = lua_type(L, -1);
    if (type == LUA_TSTRING) {
      strings++;
    } else if (type != LUA_TNUMBER) {
      return refuse(e, "a table has a key that is a ", lua_typename(L, type));
    } else {
      double key = lua_tonumber(L, -1);
      if (!(key >= 1 && key <= (double)length && key == floor(key))) return refuse(e, "a table has a number key that is not of an array without gaps", "");
    }
    count++;
  }
  if (strings == 0 && (count > 0 || lua_pack_is_array(L, table))) {
    if (count != length) return refuse(e, "an array has gaps", "");
    pack_put_array(e->out, count);
    for (uint32_t i = 1; i <= count; i++) {
      lua_rawgeti(L, table, (int)i);
      bool is_done = encode_value(e, lua_gettop(L), depth + 1);
      lua_pop(L, 1);
      if (!is_done) return false;
    }
    return true;
  }
  if (strings != count) return refuse(e, "a table has both string and number keys", "");
  return encode_map(e, table, count, depth);
}

static bool encode_value(struct encoder *e, int index, int depth) {
  lua_State *L = e->L;
  if (buffer_length(e->out) > e->limit) return refuse_whole(e, "data is more than 4 MiB");
  switch (lua_type(L, index)) {
    case LUA_TNIL:
      pack_put_nil(e->out);
      return true;
    case LUA_TBOOLEAN:
      pack_put_boolean(e->out, lua_toboolean(L, index));
      return true;
    case LUA_TNUMBER: {
      double number = lua_tonumber(L, index);
      if (number == floor(number) && fabs(number) <= EXACT) pack_put_integer(e->out, (int64_t)number);
      else pack_put_number(e->out, number);
      return true;
    }
    case LUA_TSTRING: {
      struct span text;
      text.data = lua_tolstring(L, index, &text.length);
      pack_put_string(e->out, text);
      return true;
    }
    case LUA_TTABLE:
      return encode_table(e, index, depth);
    default:
      break;
  }
  if (lua_pack_is_null(L, index)) {
    pack_put_nil(e->out);
    return true;
  }
  const struct value_box *box = lua_value_to(L, index);
  if (box == NULL) return refuse(e, "is not plain data: a ", luaL_typename(L, index));
  pack_put_value(e->out, (int)box->value->kind, box->value->source);
  return true;
}

bool lua_pack_encode(lua_State *L, int index, struct buffer *out, char *error, size_t error_size) {
  /* A table that holds another one twice, and so on, is small and endless to write. */
  struct encoder e = {L, out, error, error_size, state_of(L)->is_guest ? buffer_length(out) + GUEST_DATA_MAX : SIZE_MAX, 0};
  int top = lua_gettop(L);
  if (index < 0) index = top + index + 1;
  bool is_done = encode_value(&e, index, 0);
  lua_settop(L, top);
  return is_done;
}

struct decoder {
  lua_State *L;
  struct pack_reader reader;
  const struct hook_config *config;
  unsigned next_value;
  char *error;
  size_t error_size;
};

static bool decode_fail(struct decoder *d, const char *why) {
  snprintf(d->error, d->error_size, "%s", why);
  return false;
}

static bool decode_item(struct decoder *d, int depth);

static bool decode_value(struct decoder *d, const struct pack_item *item) {
  if (d->config) {
    if (d->next_value >= d->config->value_count) return decode_fail(d, "config has more values than were built");
    unsigned index = d->next_value++;
    lua_value_push(d->L, value_hold(d->config->values[index]));
    return true;
  }
  struct value *value = value_new((enum pack_value_kind)item->value_kind, item->bytes, d->error, d->error_size);
  if (value == NULL) return false;
  lua_value_push(d->L, value);
  return true;
}

static bool decode_array(struct decoder *d, uint32_t count, int depth) {
  lua_State *L = d->L;
  /* `count` is the sender's word: do not allocate by it. */
  lua_createtable(L, count < 64 ? (int)count : 64, 0);
  if (count == 0) {
    push_array_metatable(L);
    lua_setmetatable(L, -2);
  }
  for (uint32_t i = 1; i <= count; i++) {
    if (!decode_item(d, depth + 1)) return false;
    lua_rawseti(L, -2, (int)i);
  }
  return true;
}

static bool decode_map(struct decoder *d, uint32_t count, int depth) {
  lua_State *L = d->L;
  lua_createtable(L, 0, count < 64 ? (int)count : 64);
  for (uint32_t i = 0; i < count; i++) {
    struct pack_item key;
    if (!pack_next(&d->reader, &key)) return decode_fail(d, d->reader.error ? d->reader.error : "data ends early");
    if (key.type == PACK_STRING) lua_pushlstring(L, key.bytes.data, key.bytes.length);
    else if (key.type == PACK_INTEGER) lua_pushnumber(L, (lua_Number)key.integer);
    else return decode_fail(d, "a map has a key that is neither text nor a whole number");
    if (!decode_item(d, depth + 1)) return false;
    lua_rawset(L, -3);
  }
  return true;
}

static bool decode_item(struct decoder *d, int depth) {
  lua_State *L = d->L;
  struct pack_item item;
  if (!pack_next(&d->reader, &item)) return decode_fail(d, d->reader.error ? d->reader.error : "data ends early");
  if (depth >= PACK_DEPTH_MAX || !lua_checkstack(L, 6)) return decode_fail(d, "data is nested too deeply");
  switch (item.type) {
    case PACK_NIL:
      if (depth == 0) lua_pushnil(L);
      else lua_pack_push_null(L);
      return true;
    case PACK_BOOLEAN:
      lua_pushboolean(L, item.boolean);
      return true;
    case PACK_INTEGER:
      lua_pushnumber(L, (lua_Number)item.integer);
      return true;
    case PACK_NUMBER:
      lua_pushnumber(L, item.number);
      return true;
    case PACK_STRING:
      lua_pushlstring(L, item.bytes.data, item.bytes.length);
      return true;
    case PACK_ARRAY:
      return decode_array(d, item.count, depth);
    case PACK_MAP:
      return decode_map(d, item.count, depth);
    case PACK_VALUE:
      return decode_value(d, &item);
    default:
      return decode_fail(d, "data ends early");
  }
}

bool lua_pack_decode(lua_State *L, struct span bytes, const struct hook_config *config, char *error, size_t error_size) {
  struct decoder d = {.L = L, .config = config, .error = error, .error_size = error_size};
  pack_reader_init(&d.reader, bytes);
  int top = lua_gettop(L);
  if (!decode_item(&d, 0)) {
    lua_settop(L, top);
    return false;
  }
  if (d.reader.cursor != d.reader.end) {
    lua_settop(L, top);
    return decode_fail(&d, "data goes on behind its end");
  }
  return true;
}

/* A buffer that an error of the state cannot leak. */
static int collect_buffer(lua_State *L) {
  buffer_free(lua_touserdata(L, 1));
  return 0;
}

struct buffer *lua_pack_push_buffer(lua_State *L) {
  struct buffer *buffer = lua_newuserdata(L, sizeof *buffer);
  memset(buffer, 0, sizeof *buffer);
  if (luaL_newmetatable(L, "moongate.buffer")) {
    lua_pushcfunction(L, collect_buffer);
    lua_setfield(L, -2, "__gc");
  }
  lua_setmetatable(L, -2);
  return buffer;
}

static int pack_encode(lua_State *L) {
  luaL_checkany(L, 1);
  lua_settop(L, 1);
  char error[256];
  struct buffer *out = lua_pack_push_buffer(L);
  if (!lua_pack_encode(L, 1, out, error, sizeof error)) {
    buffer_free(out);
    lua_pushnil(L);
    lua_pushstring(L, error);
    return 2;
  }
  lua_pushlstring(L, buffer_span(out).data, buffer_length(out));
  buffer_free(out);
  return 1;
}

static int pack_decode(lua_State *L) {
  struct span bytes;
  bytes.data = luaL_checklstring(L, 1, &bytes.length);
  char error[256];
  if (lua_pack_decode(L, bytes, NULL, error, sizeof error)) return 1;
  lua_pushnil(L);
  lua_pushstring(L, error);
  return 2;
}

void lua_pack_register(lua_State *L, int core) {
  static const luaL_Reg functions[] = {{"encode", pack_encode}, {"decode", pack_decode}, {NULL, NULL}};
  lua_newtable(L);
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, -2, f->name);
  }
  lua_setfield(L, core, "pack");
  lua_pushcfunction(L, lua_pack_array);
  lua_setfield(L, core, "array");
  lua_pack_push_null(L);
  lua_setfield(L, core, "null");
}
