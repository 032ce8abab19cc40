/* YAML documents as Lua tables, over libyaml's events. Scalars are read the way kubectl reads them (YAML 1.1: yes, on, 0777 are not strings). A null becomes
 * a lightuserdata NULL, the same value that lua-cjson uses. An alias is the same table again, not a copy, so that aliases cannot multiply. Depth, nodes and
 * aliases are bounded. Owns nothing between calls; any thread, one state. */
#include "kube/yaml.h"

#include <errno.h>
#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <yaml.h>

struct reader {
  lua_State *L;
  yaml_parser_t parser;
  int anchors; /* stack index of the table name -> value */
  unsigned nodes, aliases;
  unsigned line;     /* of the error */
  char message[256]; /* not empty: failed */
};

static bool fail(struct reader *reader, const yaml_mark_t *mark, const char *message) {
  if (reader->message[0] == 0) {
    snprintf(reader->message, sizeof reader->message, "%s", message);
    reader->line = (unsigned)mark->line + 1;
  }
  return false;
}

static bool next_event(struct reader *reader, yaml_event_t *event) {
  if (yaml_parser_parse(&reader->parser, event)) return true;
  const yaml_parser_t *parser = &reader->parser;
  const char *problem = parser->problem ? parser->problem : "cannot be read";
  snprintf(reader->message, sizeof reader->message, "%s%s%s", problem, parser->context ? ", " : "", parser->context ? parser->context : "");
  reader->line = (unsigned)(parser->problem_mark.line ? parser->problem_mark.line : parser->context_mark.line) + 1;
  return false;
}

static bool is_one_of(const char *text, const char *const *words) {
  for (; *words; words++)
    if (strcmp(text, *words) == 0) return true;
  return false;
}

/* An integer or a float in YAML 1.1's spelling; false if it is neither. */
static bool parse_number(const char *text, size_t length, double *number) {
  char plain[64];
  size_t used = 0;
  if (length == 0 || length >= sizeof plain) return false;
  if (!strchr("+-.0123456789", text[0])) return false;
  for (size_t i = 0; i < length; i++)
    if (text[i] != '_') plain[used++] = text[i];
  plain[used] = 0;
  const char *digits = plain + (plain[0] == '-' || plain[0] == '+');
  double sign = plain[0] == '-' ? -1 : 1;
  if (strcmp(digits, ".inf") == 0 || strcmp(digits, ".Inf") == 0 || strcmp(digits, ".INF") == 0) {
    *number = sign * (double)INFINITY;
    return true;
  }
  if (strcmp(plain, ".nan") == 0 || strcmp(plain, ".NaN") == 0 || strcmp(plain, ".NAN") == 0) {
    *number = (double)NAN;
    return true;
  }
  int base = 10;
  const char *start = digits;
  if (digits[0] == '0' && digits[1] == 'b') base = 2, start = digits + 2;
  else if (digits[0] == '0' && digits[1] == 'x') base = 16, start = digits + 2;
  else if (digits[0] == '0' && digits[1] == 'o') base = 8, start = digits + 2;
  else if (digits[0] == '0' && digits[1] != 0) base = 8;
  char *end;
  if (start[0] != 0 && strspn(start, base == 16 ? "0123456789abcdefABCDEF" : base == 8 ? "01234567" : base == 2 ? "01" : "0123456789") == strlen(start)) {
    errno = 0;
    unsigned long long value = strtoull(start, &end, base);
    if (errno == 0) {
      *number = sign * (double)value;
      return true;
    }
  }
  size_t whole = strspn(digits, "0123456789"), at = whole, fraction = 0;
  if (digits[at] == '.') {
    at++;
    fraction = strspn(digits + at, "0123456789");
    at += fraction;
  }
  if (whole + fraction == 0) return false;
  if (digits[at] == 'e' || digits[at] == 'E') {
    at++;
    if (digits[at] == '+' || digits[at] == '-') at++;
    size_t exponent = strspn(digits + at, "0123456789");
    if (exponent == 0) return false;
    at += exponent;
  }
  if (digits[at] != 0) return false;
  *number = sign * strtod(digits, &end);
  return true;
}

static void push_scalar(lua_State *L, const yaml_event_t *event) {
  static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
  static const char *const yes[] = {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y", NULL};
  static const char *const no[] = {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N", NULL};
  const char *text = (const char *)event->data.scalar.value;
  size_t length = event->data.scalar.length;
  const char *tag = (const char *)event->data.scalar.tag;
  bool is_plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && event->data.scalar.plain_implicit;
  if (tag) is_plain = strcmp(tag, YAML_INT_TAG) == 0 || strcmp(tag, YAML_FLOAT_TAG) == 0 || strcmp(tag, YAML_BOOL_TAG) == 0 || strcmp(tag, YAML_NULL_TAG) == 0;
  double number;
  if (!is_plain || strlen(text) != length) lua_pushlstring(L, text, length);
  else if (is_one_of(text, nulls)) lua_pushlightuserdata(L, NULL);
  else if (is_one_of(text, yes)) lua_pushboolean(L, 1);
  else if (is_one_of(text, no)) lua_pushboolean(L, 0);
  else if (parse_number(text, length, &number)) lua_pushnumber(L, number);
  else lua_pushlstring(L, text, length);
}

/* Remembers the value on top of the stack under an anchor. */
static void keep_anchor(struct reader *reader, const yaml_char_t *anchor) {
  if (!anchor) return;
  lua_pushvalue(reader->L, -1);
  lua_setfield(reader->L, reader->anchors, (const char *)anchor);
}

static bool read_node(struct reader *reader, yaml_event_t *event, unsigned depth);

static bool read_sequence(struct reader *reader, const yaml_char_t *anchor, unsigned depth) {
  lua_State *L = reader->L;
  lua_newtable(L);
  keep_anchor(reader, anchor);
  for (int i = 1;; i++) {
    yaml_event_t event;
    if (!next_event(reader, &event)) return false;
    bool is_end = event.type == YAML_SEQUENCE_END_EVENT;
    bool is_good = is_end || read_node(reader, &event, depth + 1);
    yaml_event_delete(&event);
    if (!is_good) return false;
    if (is_end) return true;
    lua_rawseti(L, -2, i);
  }
}

/* `<<`: the pairs of the table on top that the map below it does not have. */
static void merge(lua_State *L, int map, int from) {
  lua_pushnil(L);
  while (lua_next(L, from)) {
    lua_pushvalue(L, -2);
    lua_rawget(L, map);
    bool is_there = !lua_isnil(L, -1);
    lua_pop(L, 1);
    if (is_there) {
      lua_pop(L, 1);
      continue;
    }
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, map);
  }
}

static void merge_value(lua_State *L, int map, int value) {
  if (!lua_istable(L, value)) return;
  size_t count = lua_objlen(L, value);
  if (count == 0) {
    merge(L, map, value);
    return;
  }
  for (size_t i = 1; i <= count; i++) {
    lua_rawgeti(L, value, (int)i);
    if (lua_istable(L, -1)) merge(L, map, lua_gettop(L));
    lua_pop(L, 1);
  }
}

static bool read_mapping(struct reader *reader, const yaml_char_t *anchor, unsigned depth) {
  lua_State *L = reader->L;
  lua_newtable(L);
  int map = lua_gettop(L);
  keep_anchor(reader, anchor);
  lua_pushnil(L); /* the value of `<<`, merged last: the map's own keys win */
  int merged = lua_gettop(L);
  for (;;) {
    yaml_event_t key, value;
    if (!next_event(reader, &key)) return false;
    if (key.type == YAML_MAPPING_END_EVENT) {
      yaml_event_delete(&key);
      break;
    }
    bool is_scalar = key.type == YAML_SCALAR_EVENT;
    bool is_merge = is_scalar && key.data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strcmp((const char *)key.data.scalar.value, "<<") == 0;
    if (is_scalar) {
      lua_pushlstring(L, (const char *)key.data.scalar.value, key.data.scalar.length); /* keys are strings in every Kubernetes object */
      lua_pushvalue(L, -1);
      lua_rawget(L, map);
      if (!lua_isnil(L, -1)) {
        char text[160];
        snprintf(text, sizeof text, "the key \"%.100s\" is there twice", (const char *)key.data.scalar.value);
        fail(reader, &key.start_mark, text);
      }
      lua_pop(L, 1);
    } else {
      fail(reader, &key.start_mark, "a key is not a scalar");
    }
    yaml_event_delete(&key);
    if (reader->message[0]) return false;
    if (!next_event(reader, &value)) return false;
    bool is_good = read_node(reader, &value, depth + 1);
    yaml_event_delete(&value);
    if (!is_good) return false;
    if (is_merge) {
      lua_replace(L, merged);
      lua_pop(L, 1);
    } else {
      lua_rawset(L, map);
    }
  }
  merge_value(L, map, merged);
  lua_settop(L, map);
  return true;
}

/* Pushes the value that begins with `event`. */
static bool read_node(struct reader *reader, yaml_event_t *event, unsigned depth) {
  lua_State *L = reader->L;
  if (depth > YAML_MAX_DEPTH) return fail(reader, &event->start_mark, "nested too deeply");
  if (++reader->nodes > YAML_MAX_NODES) return fail(reader, &event->start_mark, "too many values");
  luaL_checkstack(L, 8, "YAML");
  switch (event->type) {
    case YAML_SCALAR_EVENT:
      push_scalar(L, event);
      keep_anchor(reader, event->data.scalar.anchor);
      return true;
    case YAML_SEQUENCE_START_EVENT:
      return read_sequence(reader, event->data.sequence_start.anchor, depth);
    case YAML_MAPPING_START_EVENT:
      return read_mapping(reader, event->data.mapping_start.anchor, depth);
    case YAML_ALIAS_EVENT:
      if (++reader->aliases > YAML_MAX_ALIASES) return fail(reader, &event->start_mark, "too many aliases");
      lua_getfield(L, reader->anchors, (const char *)event->data.alias.anchor);
      if (lua_isnil(L, -1)) return fail(reader, &event->start_mark, "an alias without its anchor");
      return true;
    default:
      return fail(reader, &event->start_mark, "unexpected text");
  }
}

/* Nothing but blank lines, comments, directives and a marker: libyaml would not take a lone directive. */
static bool is_blank(struct span text) {
  bool is_line_start = true;
  for (size_t i = 0; i < text.length; i++) {
    char c = text.data[i];
    if (c == '\n') is_line_start = true;
    else if (c == '#' || (is_line_start && c == '%') ||
             (is_line_start && text.length - i >= 3 && (memcmp(text.data + i, "---", 3) == 0 || memcmp(text.data + i, "...", 3) == 0))) {
      size_t skip = c == '-' || c == '.' ? 3 : 0;
      if (skip) {
        i += 2;
        is_line_start = false;
        continue;
      }
      while (i + 1 < text.length && text.data[i + 1] != '\n') i++;
    } else if (c == ' ' || c == '\t' || c == '\r') is_line_start = false;
    else return false;
  }
  return true;
}

enum yaml_result yaml_read(lua_State *L, struct span text, unsigned *line) {
  *line = 1;
  if (is_blank(text)) return YAML_EMPTY;
  struct reader reader = {.L = L};
  int top = lua_gettop(L);
  if (!yaml_parser_initialize(&reader.parser)) {
    lua_pushliteral(L, "out of memory");
    return YAML_FAILED;
  }
  yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text.data, text.length);
  lua_newtable(L);
  reader.anchors = lua_gettop(L);
  yaml_event_t event;
  bool has_value = false, is_good = true;
  while (is_good) {
    if (!next_event(&reader, &event)) break;
    yaml_event_type_t type = event.type;
    if (type == YAML_STREAM_END_EVENT) {
      yaml_event_delete(&event);
      break;
    }
    if (type == YAML_DOCUMENT_START_EVENT && has_value) is_good = fail(&reader, &event.start_mark, "text after the end of the document");
    else if (type != YAML_STREAM_START_EVENT && type != YAML_DOCUMENT_START_EVENT && type != YAML_DOCUMENT_END_EVENT) {
      *line = (unsigned)event.start_mark.line + 1;
      is_good = read_node(&reader, &event, 0);
      has_value = is_good;
    }
    yaml_event_delete(&event);
  }
  yaml_parser_delete(&reader.parser);
  if (reader.message[0]) {
    lua_settop(L, top);
    lua_pushstring(L, reader.message);
    *line = reader.line;
    return YAML_FAILED;
  }
  if (!has_value) {
    lua_settop(L, top);
    return YAML_EMPTY;
  }
  lua_replace(L, top + 1);
  lua_settop(L, top + 1);
  return YAML_OK;
}
