/* Core JSON: json.encode and json.decode with bounds (depth, and the sentinels core.null and core.array for what Lua cannot tell apart). The state's thread. */
#include <lauxlib.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "script/core_module.h"
#include "script/lua_pack.h"
#include "script/state.h"

#define JSON_DEPTH 32
#define JSON_OUTPUT_MAX (4u << 20) /* a table that holds another one twice, and so on, is small and endless to write */

struct reader {
  lua_State *L;
  const char *at, *end;
  const char *error;
  struct buffer *text; /* unescaped string */
};

static bool fail(struct reader *r, const char *why) {
  if (r->error == NULL) r->error = why;
  return false;
}

static void skip_blank(struct reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\t' || *r->at == '\n' || *r->at == '\r')) r->at++;
}

static bool read_hex4(struct reader *r, uint32_t *out) {
  *out = 0;
  if (r->end - r->at < 4) return fail(r, "a string ends early");
  for (int i = 0; i < 4; i++) {
    char c = *r->at++;
    int value = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (value < 0) return fail(r, "a string has a bad \\u escape");
    *out = *out << 4 | (uint32_t)value;
  }
  return true;
}

static void put_utf8(struct buffer *out, uint32_t code) {
  char bytes[4];
  size_t length;
  if (code < 0x80) {
    bytes[0] = (char)code;
    length = 1;
  } else if (code < 0x800) {
    bytes[0] = (char)(0xc0 | code >> 6);
    bytes[1] = (char)(0x80 | (code & 63));
    length = 2;
  } else if (code < 0x10000) {
    bytes[0] = (char)(0xe0 | code >> 12);
    bytes[1] = (char)(0x80 | (code >> 6 & 63));
    bytes[2] = (char)(0x80 | (code & 63));
    length = 3;
  } else {
    bytes[0] = (char)(0xf0 | code >> 18);
    bytes[1] = (char)(0x80 | (code >> 12 & 63));
    bytes[2] = (char)(0x80 | (code >> 6 & 63));
    bytes[3] = (char)(0x80 | (code & 63));
    length = 4;
  }
  buffer_append(out, span_make(bytes, length));
}

static bool read_escape(struct reader *r) {
  if (r->at >= r->end) return fail(r, "a string ends early");
  char c = *r->at++;
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  const char *known = c ? strchr(from, c) : NULL;
  if (known) {
    buffer_append(r->text, span_make(&to[known - from], 1));
    return true;
  }
  uint32_t code, low;
  if (c != 'u') return fail(r, "a string has a bad escape");
  if (!read_hex4(r, &code)) return false;
  if (code >= 0xd800 && code < 0xdc00 && r->end - r->at >= 6 && r->at[0] == '\\' && r->at[1] == 'u') {
    r->at += 2;
    if (!read_hex4(r, &low)) return false;
    if (low < 0xdc00 || low > 0xdfff) return fail(r, "a string has half of a surrogate pair");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  } else if (code >= 0xd800 && code < 0xe000) {
    return fail(r, "a string has half of a surrogate pair");
  }
  put_utf8(r->text, code);
  return true;
}

/* Behind the opening quote; pushes the string. */
static bool read_string(struct reader *r) {
  buffer_consume(r->text, buffer_length(r->text));
  for (;;) {
    const char *start = r->at;
    while (r->at < r->end && *r->at != '"' && *r->at != '\\' && (unsigned char)*r->at >= 0x20) r->at++;
    if (r->at > start) buffer_append(r->text, span_make(start, (size_t)(r->at - start)));
    if (r->at >= r->end) return fail(r, "a string ends early");
    char c = *r->at++;
    if (c == '"') break;
    if (c != '\\') return fail(r, "a string has a control character");
    if (!read_escape(r)) return false;
  }
  struct span text = buffer_span(r->text);
  lua_pushlstring(r->L, text.length ? text.data : "", text.length);
  return true;
}

static bool read_number(struct reader *r) {
  char text[64];
  size_t length = 0;
  while (r->at < r->end && length < sizeof text - 1 && (strchr("+-.eE", *r->at) || (*r->at >= '0' && *r->at <= '9')) && *r->at) text[length++] = *r->at++;
  text[length] = '\0';
  const char *digits = text[0] == '-' ? text + 1 : text;
  if (digits[0] < '0' || digits[0] > '9' || (digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9')) return fail(r, "a value is malformed");
  char *stop;
  double number = strtod(text, &stop);
  if (*stop || stop[-1] == '.' || !isfinite(number)) return fail(r, "a number is malformed");
  lua_pushnumber(r->L, number);
  return true;
}

static bool read_word(struct reader *r, const char *word) {
  size_t length = strlen(word);
  if ((size_t)(r->end - r->at) < length || memcmp(r->at, word, length) != 0) return fail(r, "a value is malformed");
  r->at += length;
  return true;
}

static bool read_value(struct reader *r, int depth);

static bool read_array(struct reader *r, int depth) {
  lua_State *L = r->L;
  int count = 0;
  lua_newtable(L);
  skip_blank(r);
  if (r->at < r->end && *r->at == ']') {
    r->at++;
    lua_pushcfunction(L, lua_pack_array);
    lua_insert(L, -2);
    lua_call(L, 1, 1);
    return true;
  }
  for (;;) {
    if (!read_value(r, depth + 1)) return false;
    lua_rawseti(L, -2, ++count);
    skip_blank(r);
    char c = r->at < r->end ? *r->at++ : '\0';
    if (c == ']') return true;
    if (c != ',') return fail(r, "an array has no ',' between items");
  }
}

static bool read_object(struct reader *r, int depth) {
  lua_State *L = r->L;
  lua_newtable(L);
  skip_blank(r);
  if (r->at < r->end && *r->at == '}') {
    r->at++;
    return true;
  }
  for (;;) {
    skip_blank(r);
    if (r->at >= r->end || *r->at++ != '"') return fail(r, "an object's key is not a string");
    if (!read_string(r)) return false;
    skip_blank(r);
    if (r->at >= r->end || *r->at++ != ':') return fail(r, "an object has no ':' behind a key");
    if (!read_value(r, depth + 1)) return false;
    lua_rawset(L, -3);
    skip_blank(r);
    char c = r->at < r->end ? *r->at++ : '\0';
    if (c == '}') return true;
    if (c != ',') return fail(r, "an object has no ',' between members");
  }
}

static bool read_value(struct reader *r, int depth) {
  lua_State *L = r->L;
  if (depth > JSON_DEPTH || !lua_checkstack(L, 8)) return fail(r, "it is nested too deeply");
  skip_blank(r);
  if (r->at >= r->end) return fail(r, "it ends early");
  switch (*r->at) {
    case '{':
      r->at++;
      return read_object(r, depth);
    case '[':
      r->at++;
      return read_array(r, depth);
    case '"':
      r->at++;
      return read_string(r);
    case 't':
      lua_pushboolean(L, 1);
      return read_word(r, "true");
    case 'f':
      lua_pushboolean(L, 0);
      return read_word(r, "false");
    case 'n':
      lua_pack_push_null(L);
      return read_word(r, "null");
    default:
      return read_number(r);
  }
}

/* json.decode(text) -> value | nil, why. null is json.null; an empty array is marked as such. */
static int json_decode(lua_State *L) {
  struct span text = core_check_text(L, 1, "json.decode");
  state_charge_bytes(L, text.length * 4);
  lua_settop(L, 1);
  struct reader r = {.L = L, .at = text.data, .end = text.data + text.length, .text = lua_pack_push_buffer(L)};
  bool is_done = read_value(&r, 0);
  skip_blank(&r);
  if (is_done && r.at != r.end) is_done = fail(&r, "it goes on behind its end");
  buffer_free(r.text);
  if (is_done) return 1;
  lua_pushnil(L);
  lua_pushfstring(L, "json.decode: %s (at byte %d)", r.error, (int)(r.at - text.data) + 1);
  return 2;
}

static void put_text(struct buffer *out, struct span text) {
  buffer_append(out, SPAN("\""));
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    if (c == '"' || c == '\\') buffer_printf(out, "\\%c", c);
    else if (c < 0x20 || c == 0x7f) buffer_printf(out, "\\u%04x", c);
    else buffer_append(out, span_make(&text.data[i], 1));
  }
  buffer_append(out, SPAN("\""));
}

static void write_value(lua_State *L, int index, struct buffer *out, int depth);

static void write_table(lua_State *L, int table, struct buffer *out, int depth) {
  if (depth > JSON_DEPTH) luaL_error(L, "json.encode: nested too deeply");
  luaL_checkstack(L, 8, "json.encode");
  size_t length = lua_objlen(L, table);
  bool is_array = length > 0 || lua_pack_is_array(L, table);
  if (is_array) {
    buffer_append(out, SPAN("["));
    for (size_t i = 1; i <= length; i++) {
      if (i > 1) buffer_append(out, SPAN(","));
      lua_rawgeti(L, table, (int)i);
      write_value(L, lua_gettop(L), out, depth + 1);
      lua_pop(L, 1);
    }
    buffer_append(out, SPAN("]"));
    return;
  }
  buffer_append(out, SPAN("{"));
  bool is_first = true;
  lua_pushnil(L);
  while (lua_next(L, table)) {
    if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, "json.encode: a table has a key that is a %s", luaL_typename(L, -2));
    struct span key;
    key.data = lua_tolstring(L, -2, &key.length);
    if (!is_first) buffer_append(out, SPAN(","));
    is_first = false;
    put_text(out, key);
    buffer_append(out, SPAN(":"));
    write_value(L, lua_gettop(L), out, depth + 1);
    lua_pop(L, 1);
  }
  buffer_append(out, SPAN("}"));
}

static void write_value(lua_State *L, int index, struct buffer *out, int depth) {
  if (buffer_length(out) > JSON_OUTPUT_MAX) luaL_error(L, "json.encode: more than 4 MiB");
  switch (lua_type(L, index)) {
    case LUA_TNIL:
      buffer_append(out, SPAN("null"));
      return;
    case LUA_TBOOLEAN:
      buffer_append(out, lua_toboolean(L, index) ? SPAN("true") : SPAN("false"));
      return;
    case LUA_TNUMBER: {
      double number = lua_tonumber(L, index);
      if (!isfinite(number)) luaL_error(L, "json.encode: a number is not finite");
      if (number == floor(number) && fabs(number) < 1e15) buffer_printf(out, "%.0f", number);
      else buffer_printf(out, "%.17g", number);
      return;
    }
    case LUA_TSTRING: {
      struct span text;
      text.data = lua_tolstring(L, index, &text.length);
      put_text(out, text);
      return;
    }
    case LUA_TTABLE:
      write_table(L, index, out, depth);
      return;
    default:
      break;
  }
  if (!lua_pack_is_null(L, index)) luaL_error(L, "json.encode: a value is a %s", luaL_typename(L, index));
  buffer_append(out, SPAN("null"));
}

static int json_encode(lua_State *L) {
  if (lua_isnone(L, 1)) return luaL_error(L, "json.encode: expects a value");
  lua_settop(L, 1);
  struct buffer *out = lua_pack_push_buffer(L);
  write_value(L, 1, out, 0);
  state_charge_bytes(L, buffer_length(out) * 4);
  lua_pushlstring(L, buffer_span(out).data, buffer_length(out));
  buffer_free(out);
  return 1;
}

void core_json_register(lua_State *L, int core) {
  lua_newtable(L);
  lua_pushcfunction(L, json_encode);
  lua_setfield(L, -2, "encode");
  lua_pushcfunction(L, json_decode);
  lua_setfield(L, -2, "decode");
  lua_setfield(L, core, "json");
}
