/* Core text: hashes, encodings, randomness, times, URI escapes: pure functions of their arguments. The state's thread. */
#include <lauxlib.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "base/hash.h"
#include "http/cookie.h"
#include "net/digest.h"
#include "script/core_module.h"
#include "script/state.h"

static struct span check_span(lua_State *L, int index, const char *function) {
  struct span text = core_check_text(L, index, function);
  state_charge_bytes(L, text.length);
  return text;
}

static void add_hex(luaL_Buffer *out, struct span bytes) {
  static const char digits[] = "0123456789abcdef";
  for (size_t i = 0; i < bytes.length; i++) {
    luaL_addchar(out, digits[(unsigned char)bytes.data[i] >> 4]);
    luaL_addchar(out, digits[(unsigned char)bytes.data[i] & 15]);
  }
}

static int push_digest(lua_State *L, const unsigned char *bytes, size_t length, bool is_raw) {
  if (is_raw) {
    lua_pushlstring(L, (const char *)bytes, length);
    return 1;
  }
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  add_hex(&out, span_make((const char *)bytes, length));
  luaL_pushresult(&out);
  return 1;
}

/* hash.NAME(text [, "raw"]) -> lower-case hex, or the bytes */
static bool is_raw(lua_State *L, int index, const char *function) {
  if (lua_isnoneornil(L, index)) return false;
  if (lua_type(L, index) != LUA_TSTRING || strcmp(lua_tostring(L, index), "raw") != 0)
    luaL_error(L, "%s: expects \"raw\" or nothing, not a %s", function, lua_type(L, index) == LUA_TSTRING ? "different word" : luaL_typename(L, index));
  return true;
}

static int hash_by(lua_State *L, enum digest_kind kind, const char *function) {
  unsigned char out[DIGEST_MAX];
  size_t length = digest(kind, check_span(L, 1, function), out);
  return push_digest(L, out, length, is_raw(L, 2, function));
}
static int hash_md5(lua_State *L) { return hash_by(L, DIGEST_MD5, "hash.md5"); }
static int hash_sha1(lua_State *L) { return hash_by(L, DIGEST_SHA1, "hash.sha1"); }
static int hash_sha256(lua_State *L) { return hash_by(L, DIGEST_SHA256, "hash.sha256"); }

/* hash.hmac_sha256(key, text [, "raw"]) */
static int hash_hmac(lua_State *L) {
  static const char function[] = "hash.hmac_sha256";
  unsigned char out[DIGEST_MAX];
  size_t length = digest_hmac_sha256(check_span(L, 1, function), check_span(L, 2, function), out);
  return push_digest(L, out, length, is_raw(L, 3, function));
}

static int hash_crc(lua_State *L) {
  lua_pushnumber(L, hash_crc32(check_span(L, 1, "hash.crc32")));
  return 1;
}

static int hash_fnv(lua_State *L) {
  lua_pushnumber(L, hash_fnv1a(check_span(L, 1, "hash.fnv1a")));
  return 1;
}

static int hex_encode(lua_State *L) {
  struct span bytes = check_span(L, 1, "hex.encode");
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  add_hex(&out, bytes);
  luaL_pushresult(&out);
  return 1;
}

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static int hex_decode(lua_State *L) {
  struct span text = check_span(L, 1, "hex.decode");
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  bool is_hex = text.length % 2 == 0;
  for (size_t i = 0; i + 1 < text.length && is_hex; i += 2) {
    int high = hex_value(text.data[i]), low = hex_value(text.data[i + 1]);
    is_hex = high >= 0 && low >= 0;
    if (is_hex) luaL_addchar(&out, (char)(high << 4 | low));
  }
  if (is_hex) {
    luaL_pushresult(&out);
    return 1;
  }
  lua_pushnil(L);
  lua_pushliteral(L, "hex.decode: not hex");
  return 2;
}

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int base64_encode(lua_State *L) {
  struct span bytes = check_span(L, 1, "base64.encode");
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  for (size_t i = 0; i < bytes.length; i += 3) {
    size_t left = bytes.length - i;
    uint32_t group = (uint32_t)(unsigned char)bytes.data[i] << 16;
    if (left > 1) group |= (uint32_t)(unsigned char)bytes.data[i + 1] << 8;
    if (left > 2) group |= (unsigned char)bytes.data[i + 2];
    luaL_addchar(&out, base64_digits[group >> 18]);
    luaL_addchar(&out, base64_digits[group >> 12 & 63]);
    luaL_addchar(&out, left > 1 ? base64_digits[group >> 6 & 63] : '=');
    luaL_addchar(&out, left > 2 ? base64_digits[group & 63] : '=');
  }
  luaL_pushresult(&out);
  return 1;
}

/* Both alphabets; padding may be absent, white space not. */
static int base64_value(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+' || c == '-') return 62;
  if (c == '/' || c == '_') return 63;
  return -1;
}

static int base64_decode(lua_State *L) {
  struct span text = check_span(L, 1, "base64.decode");
  unsigned padding = 0;
  while (padding < 2 && text.length > 0 && text.data[text.length - 1] == '=') {
    text.length--;
    padding++;
  }
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  bool is_base64 = text.length % 4 != 1 && (padding == 0 || (text.length + padding) % 4 == 0);
  uint32_t bits = 0;
  unsigned count = 0;
  for (size_t i = 0; i < text.length && is_base64; i++) {
    int value = base64_value(text.data[i]);
    is_base64 = value >= 0;
    bits = bits << 6 | (uint32_t)(value & 63);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    luaL_addchar(&out, (char)(bits >> count & 255));
  }
  if (is_base64) {
    luaL_pushresult(&out);
    return 1;
  }
  lua_pushnil(L);
  lua_pushliteral(L, "base64.decode: not base64");
  return 2;
}

static int text_secure_equal(lua_State *L) {
  lua_pushboolean(L, digest_equal(check_span(L, 1, "secure_equal"), check_span(L, 2, "secure_equal")));
  return 1;
}

static uint64_t check_whole(lua_State *L, lua_Number least, lua_Number most, const char *complaint) {
  lua_Number number = lua_isnumber(L, 1) ? lua_tonumber(L, 1) : -1;
  bool is_good = number >= least && number <= most && number == (lua_Number)(uint64_t)number;
  if (!is_good) luaL_error(L, "%s", complaint);
  return (uint64_t)number;
}

/* random(n) -> 1 to n, without bias. */
static int text_random(lua_State *L) {
  uint64_t range = check_whole(L, 1, 9007199254740992.0, "random: expects a whole number from 1 on"), limit = UINT64_MAX - UINT64_MAX % range, value;
  do {
    digest_random(&value, sizeof value);
  } while (value >= limit);
  lua_pushnumber(L, (lua_Number)(value % range + 1));
  return 1;
}

static int text_random_bytes(lua_State *L) {
  size_t count = check_whole(L, 0, 65536, "random_bytes: expects a whole number from 0 to 65536");
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  while (count > 0) {
    size_t part = count < LUAL_BUFFERSIZE ? count : LUAL_BUFFERSIZE;
    digest_random(luaL_prepbuffer(&out), part);
    luaL_addsize(&out, part);
    count -= part;
  }
  luaL_pushresult(&out);
  return 1;
}

static int push_clock(lua_State *L, clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  lua_pushnumber(L, (lua_Number)now.tv_sec + (lua_Number)now.tv_nsec / 1e9 + (lua_Number)state_of(L)->skipped_ms / 1e3);
  return 1;
}
static int time_now(lua_State *L) { return push_clock(L, CLOCK_REALTIME); }
static int time_monotonic(lua_State *L) { return push_clock(L, CLOCK_MONOTONIC); }

static int time_http_date(lua_State *L) {
  char out[32];
  lua_Number seconds = lua_isnoneornil(L, 1) ? (lua_Number)time(NULL) : lua_isnumber(L, 1) ? lua_tonumber(L, 1) : -1;
  bool is_good = seconds >= 0 && seconds < 253402300800.0;
  if (!is_good) return luaL_error(L, "time.http_date: expects unix seconds of the years 1970 to 9999");
  lua_pushlstring(L, out, http_date((int64_t)seconds, out));
  return 1;
}

/* RFC 3986: all but unreserved characters. */
static int uri_escape(lua_State *L) {
  struct span text = check_span(L, 1, "uri.escape");
  static const char digits[] = "0123456789ABCDEF";
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    bool is_plain = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '-' || c == '.' || c == '_' || c == '~';
    if (is_plain) {
      luaL_addchar(&out, (char)c);
    } else {
      luaL_addchar(&out, '%');
      luaL_addchar(&out, digits[c >> 4]);
      luaL_addchar(&out, digits[c & 15]);
    }
  }
  luaL_pushresult(&out);
  return 1;
}

/* unescape(text [, plus_is_space]); bad escapes stay as they are. */
static int uri_unescape_text(lua_State *L) {
  struct span text = check_span(L, 1, "uri.unescape");
  bool plus_is_space = lua_toboolean(L, 2);
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  for (size_t i = 0; i < text.length; i++) {
    char c = text.data[i];
    if (c == '%' && i + 2 < text.length && hex_value(text.data[i + 1]) >= 0 && hex_value(text.data[i + 2]) >= 0) {
      luaL_addchar(&out, (char)(hex_value(text.data[i + 1]) << 4 | hex_value(text.data[i + 2])));
      i += 2;
    } else {
      luaL_addchar(&out, c == '+' && plus_is_space ? ' ' : c);
    }
  }
  luaL_pushresult(&out);
  return 1;
}

static void register_group(lua_State *L, int core, const char *name, const luaL_Reg *functions) {
  lua_newtable(L);
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, -2, f->name);
  }
  lua_setfield(L, core, name);
}

void core_text_register(lua_State *L, int core) {
  static const luaL_Reg hash[] = {{"md5", hash_md5},   {"sha1", hash_sha1}, {"sha256", hash_sha256}, {"hmac_sha256", hash_hmac}, {"crc32", hash_crc},
                                  {"fnv1a", hash_fnv}, {NULL, NULL}};
  static const luaL_Reg hex[] = {{"encode", hex_encode}, {"decode", hex_decode}, {NULL, NULL}};
  static const luaL_Reg base64[] = {{"encode", base64_encode}, {"decode", base64_decode}, {NULL, NULL}};
  static const luaL_Reg times[] = {{"now", time_now}, {"monotonic", time_monotonic}, {"http_date", time_http_date}, {NULL, NULL}};
  static const luaL_Reg uri[] = {{"escape", uri_escape}, {"unescape", uri_unescape_text}, {NULL, NULL}};
  register_group(L, core, "hash", hash);
  register_group(L, core, "hex", hex);
  register_group(L, core, "base64", base64);
  register_group(L, core, "time", times);
  register_group(L, core, "uri", uri);
  static const luaL_Reg own[] = {{"secure_equal", text_secure_equal}, {"random", text_random}, {"random_bytes", text_random_bytes}, {NULL, NULL}};
  for (const luaL_Reg *f = own; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, core, f->name);
  }
}
