/* Exchange objects: handles, their one metatable, and the two checks of each access (is the exchange still the same; may this be done in this phase). A part
 * belongs to the exchange's arena; what handles say of it is looked up in the state's slots, which exchange_objects_end empties. Worker's thread. */
#include "script/exchange_objects.h"

#include <stdlib.h>

#include "base/check.h"
#include "script/lua_raise.h"

static const char answer_key;

static const char *const object_names[OBJECT_KINDS] = {
#define X(kind, name) name,
    OBJECTS(X)
#undef X
};

void exchange_objects_push_answer(lua_State *L) { lua_pushlightuserdata(L, (void *)&answer_key); }

bool exchange_objects_is_answer(lua_State *L, int index) { return lua_islightuserdata(L, index) && lua_touserdata(L, index) == &answer_key; }

/* A handle's number: the kind above the bits that a pointer of ours may have alone, then the slot, then what tells the slot's users apart. LuaJIT keeps what is
 * above bit 39 of such values in a table of few entries: only kinds are there. A slot's user is told from its 2,097,152nd successor only by the phase check. */
#define HANDLE_KIND_SHIFT 39
#define HANDLE_SLOT_SHIFT 21
#define HANDLE_SLOTS (1u << (HANDLE_KIND_SHIFT - HANDLE_SLOT_SHIFT))
#define HANDLE_SERIAL_MASK ((1u << HANDLE_SLOT_SHIFT) - 1)

/* A member as the functions behind handles find it: a method's by its upvalue, any by the address of its name, which stays as it is since the state keeps the
 * text. */
struct object_member {
  struct script_state *state;
  const struct member *member; /* NULL: an empty place */
  const char *name;
};
#define PLACES 512 /* a power of two, some times the members */

static inline unsigned first_place(enum object_kind kind, const char *name) { return (unsigned)((uintptr_t)name >> 3 ^ (uintptr_t)kind * 41) % PLACES; }

static void push_handle(lua_State *L, enum object_kind kind, uint32_t slot, uint64_t serial) {
  uint64_t number = ((uint64_t)kind + 1) << HANDLE_KIND_SHIFT | (uint64_t)slot << HANDLE_SLOT_SHIFT | (serial & HANDLE_SERIAL_MASK);
  lua_pushlightuserdata(L, (void *)(uintptr_t)number);
}

/* False: the value is no handle. object->part is NULL where what it meant is over. */
static inline bool to_object(lua_State *L, int index, const struct script_state *state, struct object *object) {
  uint64_t number = (uint64_t)(uintptr_t)lua_touserdata(L, index);
  uint64_t kind = (number >> HANDLE_KIND_SHIFT) - 1;
  uint32_t slot = number >> HANDLE_SLOT_SHIFT & (HANDLE_SLOTS - 1), serial = number & HANDLE_SERIAL_MASK;
  if (kind >= OBJECT_KINDS || !lua_islightuserdata(L, index)) return false;
  *object = (struct object){.kind = (enum object_kind)kind};
  if (kind == OBJECT_ENDPOINT) {
    if (serial != (state->run & HANDLE_SERIAL_MASK) || slot >= state->endpoint_count) return true;
    object->endpoint = &state->endpoints[slot];
    object->part = object->endpoint->part;
  } else if (slot < state->slot_count && state->slots[slot].serial == serial) {
    object->part = state->slots[slot].part;
  }
  return true;
}

static void phase_error(lua_State *L, const struct member *member, enum hook_phase phase) {
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  luaL_addstring(&text, object_names[member->object]);
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

static inline struct exchange *check_member(lua_State *L, bool is_handle, const struct object *object, const struct member *member) {
  const char *name = object_names[member->object], *separator = member->is_method ? ":" : ".";
  if (!is_handle || object->kind != member->object) luaL_error(L, "%s%s%s: called on something else (write it with a colon)", name, separator, member->name);
  if (object->part == NULL) luaL_error(L, "%s%s%s: used too late, what it belongs to is over", name, separator, member->name);
  struct exchange *exchange = object->part->exchange;
  if (!(member->phases & 1u << exchange->phase)) phase_error(L, member, exchange->phase);
  return exchange;
}

/* Upvalue: the member. */
static int call_method(lua_State *L) {
  const struct object_member *found = lua_touserdata(L, lua_upvalueindex(1));
  struct object object;
  bool is_handle = to_object(L, 1, found->state, &object);
  struct exchange *exchange = check_member(L, is_handle, &object, found->member);
  return found->member->function(L, exchange, &object);
}

static const struct object_member *find_member(const struct script_state *state, enum object_kind kind, const char *name) {
  for (unsigned place = first_place(kind, name);; place = (place + 1) % PLACES) {
    const struct object_member *found = &state->members[place];
    if (found->member == NULL || (found->name == name && found->member->object == kind)) return found;
  }
}

/* Upvalues: the state, and its methods by their row. */
static int index_object(lua_State *L) {
  struct object object;
  struct script_state *state = lua_touserdata(L, lua_upvalueindex(1));
  if (!to_object(L, 1, state, &object)) return luaL_error(L, "attempt to index a userdata value");
  const char *name = lua_tostring(L, 2);
  const struct member *member = find_member(state, object.kind, name)->member;
  if (__builtin_expect(member == NULL, 0))
    return luaL_error(L, "%s has no member '%s'", object_names[object.kind], lua_type(L, 2) == LUA_TSTRING ? name : luaL_typename(L, 2));
  if (!member->is_method) return member->function(L, check_member(L, true, &object, member), &object);
  lua_rawgeti(L, lua_upvalueindex(2), (int)(member - exchange_members));
  return 1;
}

/* The name of what a value of the handles' type is. */
static const char *kind_name(lua_State *L, int index) {
  uint64_t kind = ((uint64_t)(uintptr_t)lua_touserdata(L, index) >> HANDLE_KIND_SHIFT) - 1;
  return kind < OBJECT_KINDS ? object_names[kind] : "userdata";
}

static int newindex_object(lua_State *L) {
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : luaL_typename(L, 2);
  return luaL_error(L, "%s.%s: cannot be set by assignment", kind_name(L, 1), name);
}

static int tostring_object(lua_State *L) {
  lua_pushstring(L, kind_name(L, 1));
  return 1;
}

void exchange_objects_push_method(lua_State *L, enum object_kind kind, const char *hidden_name) {
  lua_pushstring(L, hidden_name);
  const struct member *member = find_member(lua_touserdata(L, lua_upvalueindex(1)), kind, lua_tostring(L, -1))->member;
  must(member != NULL);
  lua_rawgeti(L, lua_upvalueindex(2), (int)(member - exchange_members));
}

/* Pushes the table of methods, and keeps all names for good. */
static void push_members(struct script_state *state) {
  lua_State *L = state->L;
  state->members = calloc(PLACES, sizeof *state->members);
  must(state->members != NULL && exchange_member_count < PLACES / 2);
  lua_newtable(L);
  for (unsigned i = 0; i < exchange_member_count; i++) {
    const struct member *member = &exchange_members[i];
    lua_pushstring(L, member->name);
    const char *name = lua_tostring(L, -1);
    luaL_ref(L, LUA_REGISTRYINDEX);
    struct object_member *place = (struct object_member *)find_member(state, member->object, name);
    *place = (struct object_member){state, member, name};
    if (!member->is_method) continue;
    lua_pushlightuserdata(L, place);
    lua_pushcclosure(L, call_method, 1);
    lua_rawseti(L, -2, (int)i);
  }
}

/* The metatable of all light userdata: those of the state that are no handles (the null of JSON) have no members. */
void exchange_objects_open(struct script_state *state) {
  lua_State *L = state->L;
  if (state->contexts != LUA_NOREF) return;
  must(lua_gettop(L) == STATE_CONTEXTS - 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  state->contexts = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushlightuserdata(L, state); /* what gets the metatable */
  lua_newtable(L);
  lua_pushlightuserdata(L, state);
  push_members(state);
  lua_pushcclosure(L, index_object, 2);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, newindex_object);
  lua_setfield(L, -2, "__newindex");
  lua_pushcfunction(L, tostring_object);
  lua_setfield(L, -2, "__tostring");
  lua_pushliteral(L, "exchange");
  lua_setfield(L, -2, "__metatable");
  lua_setmetatable(L, -2);
  lua_pop(L, 1);
}

static bool take_slot(struct script_state *state, uint32_t *slot) {
  *slot = state->free_count > 0 ? state->free_slots[--state->free_count] : state->slot_count;
  if (*slot < state->slot_count) return true;
  if (state->slot_count == HANDLE_SLOTS) return false;
  if (state->slot_count == state->slot_capacity) {
    state->slot_capacity = state->slot_capacity ? state->slot_capacity * 2 : 64;
    state->slots = realloc(state->slots, state->slot_capacity * sizeof *state->slots);
    state->free_slots = realloc(state->free_slots, state->slot_capacity * sizeof *state->free_slots);
    must(state->slots != NULL && state->free_slots != NULL);
  }
  state->slot_count++;
  return true;
}

struct exchange_part *exchange_objects_part(struct script_state *state, struct exchange *exchange) {
  for (struct exchange_part *part = exchange->script; part; part = part->next)
    if (part->state == state) return part;
  uint32_t slot;
  if (!take_slot(state, &slot)) return NULL;
  struct exchange_part *part = arena_zalloc(&exchange->arena, sizeof *part);
  part->state = state;
  part->exchange = exchange;
  part->slot = slot;
  state->slots[part->slot] = (struct object_slot){part, ++state->slot_serial & HANDLE_SERIAL_MASK};
  part->next = exchange->script;
  exchange->script = part;
  return part;
}

void exchange_objects_push(lua_State *L, const struct exchange_part *part, enum object_kind kind) {
  push_handle(L, kind, part->slot, part->state->slots[part->slot].serial);
}

/* Endpoints are not of a slot, but of a run: exchange_objects_end starts a new one too. */
void exchange_objects_push_endpoint(lua_State *L, struct exchange_part *part, const struct object_endpoint *endpoint) {
  struct script_state *state = part->state;
  if (state->endpoints_run != state->run) state->endpoint_count = 0;
  state->endpoints_run = state->run;
  if (state->endpoint_count == HANDLE_SLOTS) luaL_error(L, "exchange.upstream: more than %d endpoints in one hook", (int)HANDLE_SLOTS);
  if (state->endpoint_count == state->endpoint_capacity) {
    state->endpoint_capacity = state->endpoint_capacity ? state->endpoint_capacity * 2 : 16;
    state->endpoints = realloc(state->endpoints, state->endpoint_capacity * sizeof *state->endpoints);
    must(state->endpoints != NULL);
  }
  state->endpoints[state->endpoint_count] = *endpoint;
  state->endpoints[state->endpoint_count].part = part;
  push_handle(L, OBJECT_ENDPOINT, state->endpoint_count++, state->run);
}

const struct object_endpoint *exchange_objects_endpoint(lua_State *L, int index, const char *function) {
  struct object object;
  if (!to_object(L, index, state_of(L), &object) || object.kind != OBJECT_ENDPOINT) luaL_error(L, "%s: wants an endpoint", function);
  if (object.endpoint == NULL) luaL_error(L, "%s: used too late, the endpoint was of another hook", function);
  return object.endpoint;
}

void exchange_objects_check(lua_State *L, int index, struct object *object, const char *function) {
  if (!to_object(L, index, state_of(L), object)) luaL_error(L, "%s: wants the exchange", function);
  if (object->part == NULL) luaL_error(L, "%s: used too late, the exchange is over", function);
}

/* The exchange's table in the state's table of contexts holds one for each policy. */
void exchange_objects_push_ctx(lua_State *L, struct exchange_part *part) {
  struct script_state *state = part->state;
  int entry = (int)part->slot + 1;
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->contexts);
  if (part->has_ctx) {
    lua_rawgeti(L, -1, entry);
  } else {
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, -3, entry);
    part->has_ctx = true;
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
    state->run++;
    state->slots[part->slot].part = NULL;
    state->free_slots[state->free_count++] = part->slot;
    if (!part->has_ctx) continue;
    lua_pushnil(state->L);
    lua_rawseti(state->L, STATE_CONTEXTS, (int)part->slot + 1);
  }
}
