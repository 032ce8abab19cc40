/* Shelf: a map of byte strings for Lua that lies outside of Lua's heap. What the sync keeps of ten thousands of objects is bytes that are seldom looked at: as
 * Lua strings each of them is a thing for the collector to mark and to sweep, and pins a page between the garbage of reading. Open addressing over one block
 * for each entry; the userdata owns them all. Sync thread. */
#include "kube/shelf.h"

#include <lauxlib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/span.h"

#define SHELF "moongate.kube.shelf"

enum { FIRST_CAPACITY = 16 };

struct entry {
  uint32_t hash, key_length, value_length;
  char bytes[]; /* key, value */
};

struct shelf {
  struct entry **slots; /* capacity is a power of two */
  uint32_t capacity, count;
};

static struct shelf *check_shelf(lua_State *L) { return luaL_checkudata(L, 1, SHELF); }

static struct span check_bytes(lua_State *L, int index) {
  struct span bytes;
  bytes.data = luaL_checklstring(L, index, &bytes.length);
  return bytes;
}

static uint32_t hash_of(struct span key) { return (uint32_t)hash_bytes(key, hash_process_seed()); }

/* The slot of a key, or the free one where it would be. */
static uint32_t find(const struct shelf *shelf, struct span key, uint32_t hash) {
  uint32_t mask = shelf->capacity - 1, at = hash & mask;
  for (struct entry *entry; (entry = shelf->slots[at]); at = (at + 1) & mask)
    if (entry->hash == hash && span_equal(span_make(entry->bytes, entry->key_length), key)) break;
  return at;
}

static void resize(struct shelf *shelf, uint32_t capacity) {
  struct entry **slots = check_memory(calloc(capacity, sizeof *slots));
  for (uint32_t i = 0; i < shelf->capacity; i++) {
    struct entry *entry = shelf->slots[i];
    if (!entry) continue;
    uint32_t at = entry->hash & (capacity - 1);
    while (slots[at]) at = (at + 1) & (capacity - 1);
    slots[at] = entry;
  }
  free(shelf->slots);
  shelf->slots = slots;
  shelf->capacity = capacity;
}

/* Without tombstones: whoever was pushed past the hole moves back into it. */
static void take_out(struct shelf *shelf, uint32_t hole) {
  uint32_t mask = shelf->capacity - 1;
  free(shelf->slots[hole]);
  for (uint32_t at = (hole + 1) & mask; shelf->slots[at]; at = (at + 1) & mask) {
    uint32_t home = shelf->slots[at]->hash & mask;
    if (((at - home) & mask) < ((at - hole) & mask)) continue;
    shelf->slots[hole] = shelf->slots[at];
    hole = at;
  }
  shelf->slots[hole] = NULL;
  shelf->count--;
}

static struct entry *entry_new(struct span key, uint32_t hash, struct span value) {
  must(key.length < UINT32_MAX && value.length < UINT32_MAX);
  struct entry *entry = check_memory(malloc(sizeof *entry + key.length + value.length));
  *entry = (struct entry){hash, (uint32_t)key.length, (uint32_t)value.length};
  memcpy(entry->bytes, key.data, key.length);
  memcpy(entry->bytes + key.length, value.data, value.length);
  return entry;
}

/* shelf:get(key) -> bytes | nil */
static int shelf_get(lua_State *L) {
  const struct shelf *shelf = check_shelf(L);
  struct span key = check_bytes(L, 2);
  const struct entry *entry = shelf->count ? shelf->slots[find(shelf, key, hash_of(key))] : NULL;
  if (entry) lua_pushlstring(L, entry->bytes + entry->key_length, entry->value_length);
  else lua_pushnil(L);
  return 1;
}

/* shelf:has(key) -> boolean */
static int shelf_has(lua_State *L) {
  const struct shelf *shelf = check_shelf(L);
  struct span key = check_bytes(L, 2);
  lua_pushboolean(L, shelf->count && shelf->slots[find(shelf, key, hash_of(key))]);
  return 1;
}

/* shelf:put(key, bytes | nil); nil takes it away */
static int shelf_put(lua_State *L) {
  struct shelf *shelf = check_shelf(L);
  struct span key = check_bytes(L, 2);
  uint32_t hash = hash_of(key), at = shelf->capacity ? find(shelf, key, hash) : 0;
  bool is_there = shelf->capacity && shelf->slots[at];
  if (lua_isnoneornil(L, 3)) {
    if (is_there) take_out(shelf, at);
    return 0;
  }
  struct entry *entry = entry_new(key, hash, check_bytes(L, 3));
  if (is_there) {
    free(shelf->slots[at]);
    shelf->slots[at] = entry;
    return 0;
  }
  if ((shelf->count + 1) * 4ull > shelf->capacity * 3ull) {
    resize(shelf, shelf->capacity ? shelf->capacity * 2 : FIRST_CAPACITY);
    at = find(shelf, key, hash);
  }
  shelf->slots[at] = entry;
  shelf->count++;
  return 0;
}

/* shelf:keys() -> list, in no order */
static int shelf_keys(lua_State *L) {
  const struct shelf *shelf = check_shelf(L);
  lua_createtable(L, (int)shelf->count, 0);
  int count = 0;
  for (uint32_t i = 0; i < shelf->capacity; i++) {
    if (!shelf->slots[i]) continue;
    lua_pushlstring(L, shelf->slots[i]->bytes, shelf->slots[i]->key_length);
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

static int shelf_collect(lua_State *L) {
  struct shelf *shelf = check_shelf(L);
  for (uint32_t i = 0; i < shelf->capacity; i++) free(shelf->slots[i]);
  free(shelf->slots);
  *shelf = (struct shelf){NULL, 0, 0};
  return 0;
}

static int shelf_new(lua_State *L) {
  struct shelf *shelf = lua_newuserdata(L, sizeof *shelf);
  *shelf = (struct shelf){NULL, 0, 0};
  luaL_getmetatable(L, SHELF);
  lua_setmetatable(L, -2);
  return 1;
}

void shelf_push_maker(lua_State *L) {
  static const luaL_Reg methods[] = {{"get", shelf_get}, {"has", shelf_has}, {"put", shelf_put}, {"keys", shelf_keys}, {NULL, NULL}};
  luaL_newmetatable(L, SHELF);
  lua_pushcfunction(L, shelf_collect);
  lua_setfield(L, -2, "__gc");
  lua_newtable(L);
  luaL_register(L, NULL, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_pushcfunction(L, shelf_new);
}
