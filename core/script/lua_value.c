/* Lua value: what policies may do with the immutable C values of their configs. A userdata owns one reference; the value itself may be shared by all threads.
 * The state's thread. */
#include "script/core_module.h"
#include "script/lua_value.h"

#include <lauxlib.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "proxy/exchange.h"
#include "proxy/worker.h"
#include "route/regex.h"
#include "route/template.h"
#include "script/exchange_objects.h"
#include "script/lua_pack.h"
#include "script/state.h"

static const struct kind {
  enum pack_value_kind kind;
  const char *name;
} kinds[] = {{PACK_REGEX, "regex"},       {PACK_TEMPLATE, "template"}, {PACK_IP_SET, "ip_set"},
             {PACK_HOST_SET, "host_set"}, {PACK_MAP_VALUE, "map"},     {PACK_UPSTREAM, "upstream"}};
#define KIND_COUNT (sizeof kinds / sizeof *kinds)

struct value_box *lua_value_to(lua_State *L, int index) {
  if (lua_type(L, index) != LUA_TUSERDATA || lua_objlen(L, index) != sizeof(struct value_box)) return NULL;
  struct value_box *box = lua_touserdata(L, index);
  return box->magic == VALUE_BOX_MAGIC && box->value ? box : NULL;
}

static struct value *check_value(lua_State *L, enum pack_value_kind kind, const char *function) {
  struct value_box *box = lua_value_to(L, 1);
  if (box == NULL || box->value->kind != kind) luaL_error(L, "%s: called on something else (write value:method(...))", function);
  return box->value;
}

static int value_collect(lua_State *L) {
  struct value_box *box = lua_touserdata(L, 1);
  if (box->value) value_release(box->value);
  box->value = NULL;
  if (box->charged) state_of(L)->memory_used -= box->charged;
  box->charged = 0;
  return 0;
}

static int value_tostring(lua_State *L) {
  struct value_box *box = lua_value_to(L, 1);
  if (box == NULL) return luaL_error(L, "not a value");
  struct value *value = box->value;
  struct span text = value->source;
  if (value->kind == PACK_REGEX) {
    size_t end = span_find(text, '\0');
    text = span_skip(text, end + 1);
  } else if (value->kind == PACK_MAP_VALUE) {
    text = SPAN("map");
  }
  lua_pushlstring(L, text.data, text.length);
  return 1;
}

/* At request time; the texts of configuration time are no peer's. */
static void count_limit(lua_State *L, enum limit_reached limit) {
  struct counters *counters = state_of(L)->counters;
  if (counters) counter_limit(counters, limit);
}

/* regex:match(text) -> whole match, group 1, ... ; groups that took no part are false. nil without a match. */
static int regex_match_text(lua_State *L) {
  struct value *value = check_value(L, PACK_REGEX, "regex:match");
  struct span text = core_check_text(L, 2, "regex:match");
  state_charge_bytes(L, text.length * 4);
  struct regex_match match;
  enum limit_reached limit;
  if (!regex_match(value->regex, text, &match, &limit)) {
    lua_pushnil(L);
    if (!limit) return 1;
    count_limit(L, limit);
    lua_pushliteral(L, "regex:match: the match takes too many steps on this text");
    return 2;
  }
  for (int i = 0; i < match.count && i < REGEX_GROUPS; i++) {
    if (match.groups[i].data) lua_pushlstring(L, match.groups[i].data, match.groups[i].length);
    else lua_pushboolean(L, 0);
  }
  return match.count < REGEX_GROUPS ? match.count : REGEX_GROUPS;
}

static void add_replacement(luaL_Buffer *out, struct span replacement, const struct regex_match *match) {
  for (size_t i = 0; i < replacement.length; i++) {
    char c = replacement.data[i];
    char next = i + 1 < replacement.length ? replacement.data[i + 1] : '\0';
    if (c != '$' || !((next >= '0' && next <= '9') || next == '$')) {
      luaL_addchar(out, c);
      continue;
    }
    i++;
    if (next == '$') {
      luaL_addchar(out, '$');
      continue;
    }
    int group = next - '0';
    if (group < match->count && group < REGEX_GROUPS && match->groups[group].data) luaL_addlstring(out, match->groups[group].data, match->groups[group].length);
  }
}

/* regex:replace(text, replacement [, most]) -> text, count. $0..$9 stand for groups, $$ for a dollar. */
static int regex_replace(lua_State *L) {
  struct value *value = check_value(L, PACK_REGEX, "regex:replace");
  struct span text = core_check_text(L, 2, "regex:replace"), replacement = core_check_text(L, 3, "regex:replace");
  state_charge_bytes(L, text.length * 4);
  lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)text.length + 1), count = 0;
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  struct span rest = text;
  while (count < most) {
    struct regex_match match;
    enum limit_reached limit;
    /* An anchored pattern matches at the text's start only: the rest is no text of its own. */
    if (count > 0 && value->source.length > 0) {
      struct span pattern = span_skip(value->source, span_find(value->source, '\0') + 1);
      if (pattern.length && pattern.data[0] == '^') break;
    }
    if (!regex_match(value->regex, rest, &match, &limit)) {
      if (!limit) break;
      count_limit(L, limit);
      lua_pushnil(L);
      lua_pushliteral(L, "regex:replace: the match takes too many steps on this text");
      return 2;
    }
    count++;
    size_t start = (size_t)(match.groups[0].data - rest.data), end = start + match.groups[0].length;
    luaL_addlstring(&out, rest.data, start);
    add_replacement(&out, replacement, &match);
    if (match.groups[0].length == 0) {
      if (start >= rest.length) {
        rest = span_skip(rest, rest.length);
        break;
      }
      luaL_addchar(&out, rest.data[start]);
      end = start + 1;
    }
    rest = span_skip(rest, end);
    if (rest.length == 0) break;
  }
  luaL_addlstring(&out, rest.data, rest.length);
  luaL_pushresult(&out);
  lua_pushinteger(L, count);
  return 2;
}

static int template_expand_exchange(lua_State *L) {
  struct value *value = check_value(L, PACK_TEMPLATE, "template:expand");
  if (value->template->is_constant) {
    lua_pushlstring(L, value->source.data, value->source.length);
    return 1;
  }
  struct object object;
  exchange_objects_check(L, 2, &object, "template:expand");
  struct exchange *exchange = object.part->exchange;
  struct span text = template_expand(value->template, exchange_lookup, exchange, exchange_scratch(exchange));
  lua_pushlstring(L, text.data, text.length);
  return 1;
}

static int template_is_constant(lua_State *L) {
  lua_pushboolean(L, check_value(L, PACK_TEMPLATE, "template:is_constant")->template->is_constant);
  return 1;
}

static int set_contains_address(lua_State *L) {
  struct value *value = check_value(L, PACK_IP_SET, "ip_set:contains");
  struct span text = core_check_text(L, 2, "ip_set:contains");
  struct address address;
  lua_pushboolean(L, address_parse_ip(text, 0, &address) == 0 && ip_set_contains(value->ip_set, &address));
  return 1;
}

static int set_contains_host(lua_State *L) {
  struct value *value = check_value(L, PACK_HOST_SET, "host_set:contains");
  struct span text = core_check_text(L, 2, "host_set:contains");
  lua_pushboolean(L, host_set_contains(value->host_set, text));
  return 1;
}

static int map_get(lua_State *L) {
  struct value *value = check_value(L, PACK_MAP_VALUE, "map:get");
  struct span key = core_check_text(L, 2, "map:get");
  struct span found = value_map_get(value->map, key);
  if (found.data) lua_pushlstring(L, found.data, found.length);
  else lua_pushnil(L);
  return 1;
}

static const luaL_Reg regex_methods[] = {{"match", regex_match_text}, {"replace", regex_replace}, {NULL, NULL}};
static const luaL_Reg template_methods[] = {{"expand", template_expand_exchange}, {"is_constant", template_is_constant}, {NULL, NULL}};
static const luaL_Reg ip_set_methods[] = {{"contains", set_contains_address}, {NULL, NULL}};
static const luaL_Reg host_set_methods[] = {{"contains", set_contains_host}, {NULL, NULL}};
static const luaL_Reg map_methods[] = {{"get", map_get}, {NULL, NULL}};
/* handle:count() -> endpoints, of them those that take new requests; in hooks */
static int upstream_count(lua_State *L) {
  const struct value *value = check_value(L, PACK_UPSTREAM, "upstream:count");
  const struct exchange *exchange = state_of(L)->running_exchange;
  if (exchange == NULL) return luaL_error(L, "upstream:count: in hooks only");
  struct upstream_ref ref = {value->upstream_slot, value->upstream_generation};
  const struct upstream *upstream = snapshot_upstream(exchange->worker->root, ref);
  lua_pushinteger(L, upstream ? (lua_Integer)upstream->count : 0);
  lua_pushinteger(L, upstream ? (lua_Integer)upstream->ready : 0);
  return 2;
}

static const luaL_Reg upstream_methods[] = {{"count", upstream_count}, {NULL, NULL}};
static const luaL_Reg no_methods[] = {{NULL, NULL}};

static const luaL_Reg *methods_of(enum pack_value_kind kind) {
  switch (kind) {
    case PACK_REGEX:
      return regex_methods;
    case PACK_TEMPLATE:
      return template_methods;
    case PACK_IP_SET:
      return ip_set_methods;
    case PACK_HOST_SET:
      return host_set_methods;
    case PACK_MAP_VALUE:
      return map_methods;
    case PACK_UPSTREAM:
      return upstream_methods;
    default:
      return no_methods;
  }
}

static const char *kind_name(enum pack_value_kind kind) {
  for (size_t i = 0; i < KIND_COUNT; i++)
    if (kinds[i].kind == kind) return kinds[i].name;
  return "value";
}

/* What a value takes of C's memory, about: a compiled regex is several times its source. */
static size_t estimate(const struct value *value) { return sizeof *value + value->source.length * 4 + (value->kind == PACK_REGEX ? 8192 : 512); }

static void fill_box(lua_State *L, struct value_box *box, struct value *value) {
  struct script_state *state = state_of(L);
  box->value = value;
  box->charged = state->is_guest ? estimate(value) : 0;
  state->memory_used += box->charged;
}

static struct value_box *push_box(lua_State *L, enum pack_value_kind kind) {
  struct value_box *box = lua_newuserdata(L, sizeof *box);
  *box = (struct value_box){.magic = VALUE_BOX_MAGIC};
  char name[32];
  snprintf(name, sizeof name, "moongate.%s", kind_name(kind));
  if (luaL_newmetatable(L, name)) {
    lua_newtable(L);
    for (const luaL_Reg *f = methods_of(kind); f->name; f++) {
      lua_pushcfunction(L, f->func);
      lua_setfield(L, -2, f->name);
    }
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, value_collect);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, value_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pushstring(L, kind_name(kind));
    lua_setfield(L, -2, "__metatable");
  }
  lua_setmetatable(L, -2);
  return box;
}

void lua_value_push(lua_State *L, struct value *value) { fill_box(L, push_box(L, value->kind), value); }

/* value(kind, source) -> value | nil, why. A map's source is a table of strings. */
static int core_value(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  size_t which = 0;
  while (which < KIND_COUNT && strcmp(kinds[which].name, name) != 0) which++;
  if (which == KIND_COUNT) return luaL_error(L, "value: unknown kind '%s'", name);
  enum pack_value_kind kind = kinds[which].kind;
  char error[256];
  struct span source;
  struct buffer *packed = NULL;
  if (kind == PACK_MAP_VALUE && lua_istable(L, 2)) {
    packed = lua_pack_push_buffer(L);
    bool is_good = lua_pack_encode(L, 2, packed, error, sizeof error);
    bool is_array = is_good && buffer_length(packed) > 0 && (unsigned char)buffer_span(packed).data[0] >> 4 == 9;
    if (!is_good || is_array) {
      buffer_free(packed);
      lua_pushnil(L);
      lua_pushstring(L, is_good ? "expects a table from names to strings" : error);
      return 2;
    }
    source = buffer_span(packed);
  } else {
    source.data = luaL_checklstring(L, 2, &source.length);
    state_charge_bytes(L, source.length * 64);
  }
  struct value_box *box = push_box(L, kind); /* first: at a guest's ceiling this raises */
  struct value *value = value_new(kind, source, error, sizeof error);
  if (packed) buffer_free(packed);
  if (value == NULL) {
    lua_pushnil(L);
    lua_pushstring(L, error);
    return 2;
  }
  fill_box(L, box, value);
  state_check_memory(L);
  return 1;
}

static int core_upstream_handle(lua_State *L) {
  struct span name;
  name.data = luaL_checklstring(L, 1, &name.length);
  char error[256];
  struct value_box *box = push_box(L, PACK_UPSTREAM);
  struct value *value = value_new(PACK_UPSTREAM, name, error, sizeof error);
  if (value == NULL) return luaL_error(L, "upstream_handle: %s", error);
  fill_box(L, box, value);
  return 1;
}

void lua_value_register(lua_State *L, int core) {
  lua_pushcfunction(L, core_value);
  lua_setfield(L, core, "value");
  lua_pushcfunction(L, core_upstream_handle);
  lua_setfield(L, core, "upstream_handle");
}
