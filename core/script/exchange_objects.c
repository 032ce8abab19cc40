/* Exchange objects: the userdata, their metatables, and the two checks of each access (is the exchange still the same; may this be done in this phase). A part
 * belongs to the exchange's arena; userdata outlive it only after exchange_objects_end has cut them off. Worker's thread. */
#include "script/exchange_objects.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "script/lua_raise.h"

static const char answer_key;

static const struct object_info {
  const char *name;
  bool has_fields;
} objects[OBJECT_KINDS] = {
#define X(kind, name, has_fields) {name, has_fields},
    OBJECTS(X)
#undef X
};

void exchange_objects_push_answer(lua_State *L) { lua_pushlightuserdata(L, (void *)&answer_key); }

bool exchange_objects_is_answer(lua_State *L, int index) { return lua_islightuserdata(L, index) && lua_touserdata(L, index) == &answer_key; }

static inline struct object_box *to_box(lua_State *L, int index) {
  struct object_box *box = lua_touserdata(L, index);
  if (box == NULL) return NULL;
  size_t size = lua_objlen(L, index); /* 0 for a light userdata */
  if (size != sizeof(struct object_box) && size != sizeof(struct endpoint_box)) return NULL;
  return box->magic == OBJECT_MAGIC ? box : NULL;
}

static void phase_error(lua_State *L, const struct member *member, enum hook_phase phase) {
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  luaL_addstring(&text, objects[member->object].name);
  luaL_addstring(&text, member->is_method ? ":" : ".");
  luaL_addstring(&text, member->name[0] == ':' ? member->name + 1 : member->name);
  luaL_addstring(&text, ": not in ");
  luaL_addstring(&text, state_phase_name(phase));
  luaL_addstring(&text, "; only in ");
  bool is_first = true;
  for (int i = 0; i < HOOK_PHASES; i++) {
    if (!(member->phases & 1u << i)) continue;
    if (!is_first) luaL_addstring(&text, ", ");
    luaL_addstring(&text, state_phase_name((enum hook_phase)i));
    is_first = false;
  }
  luaL_pushresult(&text);
  luaL_error(L, "%s", lua_tostring(L, -1));
}

static inline struct exchange *check_member(lua_State *L, struct object_box *box, const struct member *member) {
  if (box == NULL || box->kind != member->object)
    luaL_error(L, "%s%s%s: called on something else (write it with a colon)", objects[member->object].name, member->is_method ? ":" : ".", member->name);
  bool is_over = box->kind == OBJECT_ENDPOINT && ((struct endpoint_box *)box)->run != ((struct endpoint_box *)box)->state->run;
  struct exchange_part *part = is_over ? NULL : box->part;
  if (part == NULL || part->exchange->generation != box->generation)
    luaL_error(L, "%s%s%s: used too late, what it belongs to is over", objects[member->object].name, member->is_method ? ":" : ".", member->name);
  struct exchange *exchange = part->exchange;
  if (!(member->phases & 1u << exchange->phase)) phase_error(L, member, exchange->phase);
  return exchange;
}

static int call_method(lua_State *L) {
  const struct member *member = &exchange_members[lua_tointeger(L, lua_upvalueindex(1))];
  struct object_box *box = to_box(L, 1);
  struct exchange *exchange = check_member(L, box, member);
  return member->function(L, exchange, box);
}

/* Upvalues: the kind's table of names (methods as functions, fields as row numbers), the kind, the objects table. */
static int index_object(lua_State *L) {
  lua_pushvalue(L, 2);
  lua_rawget(L, lua_upvalueindex(1));
  int type = lua_type(L, -1);
  if (type == LUA_TFUNCTION) return 1;
  if (__builtin_expect(type != LUA_TNUMBER, 0)) {
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
    return luaL_error(L, "%s has no member '%s'", objects[lua_tointeger(L, lua_upvalueindex(2))].name, name);
  }
  const struct member *member = &exchange_members[lua_tointeger(L, -1)];
  struct object_box *box = to_box(L, 1);
  struct exchange *exchange = check_member(L, box, member);
  return member->function(L, exchange, box);
}

static int newindex_object(lua_State *L) {
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
  return luaL_error(L, "%s.%s: cannot be set by assignment", objects[lua_tointeger(L, lua_upvalueindex(1))].name, name);
}

static int tostring_object(lua_State *L) {
  lua_pushstring(L, objects[lua_tointeger(L, lua_upvalueindex(1))].name);
  return 1;
}

void exchange_objects_push_method(lua_State *L, const char *hidden_name) {
  lua_pushstring(L, hidden_name);
  lua_rawget(L, lua_upvalueindex(1));
}

static void push_members(lua_State *L, enum object_kind kind) {
  lua_newtable(L);
  for (unsigned i = 0; i < exchange_member_count; i++) {
    const struct member *member = &exchange_members[i];
    if (member->object != kind) continue;
    lua_pushinteger(L, (lua_Integer)i);
    if (member->is_method) lua_pushcclosure(L, call_method, 1);
    lua_setfield(L, -2, member->name);
  }
}

/* The objects table is on top. */
static void make_metatable(lua_State *L, enum object_kind kind) {
  int table = lua_gettop(L);
  lua_newtable(L);
  push_members(L, kind);
  if (objects[kind].has_fields) {
    lua_pushinteger(L, (lua_Integer)kind);
    lua_pushvalue(L, table);
    lua_pushcclosure(L, index_object, 3);
  }
  lua_setfield(L, -2, "__index");
  lua_pushinteger(L, (lua_Integer)kind);
  lua_pushcclosure(L, newindex_object, 1);
  lua_setfield(L, -2, "__newindex");
  lua_pushinteger(L, (lua_Integer)kind);
  lua_pushcclosure(L, tostring_object, 1);
  lua_setfield(L, -2, "__tostring");
  lua_pushstring(L, objects[kind].name);
  lua_setfield(L, -2, "__metatable");
}

/* The table: [1..OBJECT_SLOT] the metatables, then OBJECT_SLOT entries a slot. */
void exchange_objects_open(struct script_state *state) {
  lua_State *L = state->L;
  if (state->slot_count > 0) return;
  must(lua_gettop(L) == STATE_OBJECTS - 1);
  lua_createtable(L, OBJECT_SLOT * 32, 0);
  for (int kind = 0; kind < OBJECT_KINDS; kind++) {
    make_metatable(L, (enum object_kind)kind);
    lua_rawseti(L, -2, 1 + kind);
  }
  state->slot_count = 1;
  lua_pushvalue(L, -1);
  state->objects = luaL_ref(L, LUA_REGISTRYINDEX);
}

static int take_slot(struct script_state *state) {
  if (state->free_count > 0) return state->free_slots[--state->free_count];
  return (int)state->slot_count++;
}

static void give_slot(struct script_state *state, int slot) {
  if (state->free_count == state->free_capacity) {
    state->free_capacity = state->free_capacity ? state->free_capacity * 2 : 64;
    state->free_slots = realloc(state->free_slots, state->free_capacity * sizeof *state->free_slots);
    must(state->free_slots != NULL);
  }
  state->free_slots[state->free_count++] = slot;
}

struct exchange_part *exchange_objects_part(struct script_state *state, struct exchange *exchange) {
  for (struct exchange_part *part = exchange->script; part; part = part->next)
    if (part->state == state) return part;
  struct exchange_part *part = arena_zalloc(&exchange->arena, sizeof *part);
  part->state = state;
  part->exchange = exchange;
  part->slot = take_slot(state);
  part->next = exchange->script;
  exchange->script = part;
  return part;
}

void exchange_objects_push(lua_State *L, int table, struct exchange_part *part, enum object_kind kind) {
  int entry = part->slot * OBJECT_SLOT + 1 + (int)kind;
  if (part->made & 1u << kind) {
    lua_rawgeti(L, table, entry);
    return;
  }
  struct object_box *box = lua_newuserdata(L, sizeof *box);
  box->magic = OBJECT_MAGIC;
  box->kind = kind;
  box->generation = part->exchange->generation;
  box->part = part;
  lua_rawgeti(L, table, 1 + (int)kind);
  lua_setmetatable(L, -2);
  lua_pushvalue(L, -1);
  lua_rawseti(L, table, entry);
  part->made |= 1u << kind;
}

/* Endpoints are not kept in the slot, but cut off by the run number; exchange_objects_end starts a new run too. */
void exchange_objects_push_endpoint(lua_State *L, struct exchange_part *part, struct endpoint_record *record, enum endpoint_key key, bool is_ready,
                                    bool is_draining) {
  struct endpoint_box *endpoint = lua_newuserdata(L, sizeof *endpoint);
  *endpoint = (struct endpoint_box){.box = {OBJECT_MAGIC, OBJECT_ENDPOINT, part->exchange->generation, part},
                                    .state = part->state,
                                    .record = record,
                                    .run = part->state->run,
                                    .key = key,
                                    .is_ready = is_ready,
                                    .is_draining = is_draining};
  lua_rawgeti(L, LUA_REGISTRYINDEX, part->state->objects);
  lua_rawgeti(L, -1, 1 + OBJECT_ENDPOINT);
  lua_setmetatable(L, -3);
  lua_pop(L, 1);
}

struct endpoint_box *exchange_objects_endpoint(lua_State *L, int index, const char *function) {
  struct object_box *box = to_box(L, index);
  if (box == NULL || box->kind != OBJECT_ENDPOINT) luaL_error(L, "%s: wants an endpoint", function);
  struct endpoint_box *endpoint = (struct endpoint_box *)box;
  if (endpoint->run != endpoint->state->run) luaL_error(L, "%s: used too late, the endpoint was of another hook", function);
  return endpoint;
}

struct exchange *exchange_objects_check(lua_State *L, int index, const char *function) {
  struct object_box *box = to_box(L, index);
  if (box == NULL || box->kind != OBJECT_EXCHANGE) luaL_error(L, "%s: wants the exchange", function);
  if (box->part == NULL || box->part->exchange->generation != box->generation) luaL_error(L, "%s: used too late, the exchange is over", function);
  return box->part->exchange;
}

void exchange_objects_push_ctx(lua_State *L, struct exchange_part *part) {
  struct script_state *state = part->state;
  int entry = part->slot * OBJECT_SLOT + 1 + OBJECT_CTX;
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->objects);
  if (part->made & 1u << OBJECT_CTX) {
    lua_rawgeti(L, -1, entry);
  } else {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, entry);
    part->made |= 1u << OBJECT_CTX;
  }
  lua_remove(L, -2);
  int policy = (int)state->running_index + 1;
  lua_rawgeti(L, -1, policy);
  if (lua_isnil(L, -1)) {
    lua_pop(L, 1);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, policy);
  }
  lua_remove(L, -2);
}

void exchange_objects_end(struct exchange *exchange) {
  struct exchange_part *part = exchange->script;
  exchange->script = NULL;
  for (; part; part = part->next) {
    struct script_state *state = part->state;
    lua_State *L = state->L;
    state->run++;
    lua_rawgeti(L, LUA_REGISTRYINDEX, state->objects);
    for (int kind = 0; kind < OBJECT_SLOT; kind++) {
      if (!(part->made & 1u << kind)) continue;
      int entry = part->slot * OBJECT_SLOT + 1 + kind;
      if (kind != OBJECT_CTX) {
        lua_rawgeti(L, -1, entry);
        struct object_box *box = lua_touserdata(L, -1);
        box->part = NULL;
        lua_pop(L, 1);
      }
      lua_pushnil(L);
      lua_rawseti(L, -2, entry);
    }
    lua_pop(L, 1);
    give_slot(state, part->slot);
  }
}
