/* Pattern: a matcher for Lua's patterns that counts its steps. A call may take PATTERN_STEPS plus PATTERN_STEPS_PER_BYTE for each byte of its subject; more
 * raises. The steps are also taken off the running code's instruction budget. Pure but for the Lua state; that state's thread. */
#include "script/pattern.h"

#include <ctype.h>
#include <lauxlib.h>
#include <string.h>

#include "script/state.h"

#define PATTERN_STEPS 200000
#define PATTERN_STEPS_PER_BYTE 16
#define PATTERN_DEPTH 200
#define PATTERN_GROUPS 32
#define GROUP_IS_OPEN (-1)
#define GROUP_IS_POSITION (-2)

struct matcher {
  lua_State *L;
  const char *subject, *subject_end;
  const char *pattern, *pattern_end;
  uint64_t steps, limit;
  int depth;
  int group_count;
  struct {
    const char *start;
    ptrdiff_t length;
  } groups[PATTERN_GROUPS];
};

static const char *match_here(struct matcher *m, const char *at, const char *p);

static void count_step(struct matcher *m, uint64_t amount) {
  m->steps += amount;
  if (m->steps > m->limit) luaL_error(m->L, "pattern takes too many steps on this text");
}

/* Behind the single-character class that begins at p. */
static const char *class_end(struct matcher *m, const char *p) {
  char first = *p++;
  if (first == '%') {
    if (p >= m->pattern_end) luaL_error(m->L, "malformed pattern (ends with '%%')");
    return p + 1;
  }
  if (first != '[') return p;
  if (p < m->pattern_end && *p == '^') p++;
  do {
    if (p >= m->pattern_end) luaL_error(m->L, "malformed pattern (missing ']')");
    char c = *p++;
    if (c == '%') {
      if (p >= m->pattern_end) luaL_error(m->L, "malformed pattern (missing ']')");
      p++;
    }
  } while (p >= m->pattern_end || *p != ']');
  return p + 1;
}

static bool is_in_letter_class(unsigned char c, unsigned char letter) {
  bool is;
  switch (tolower(letter)) {
    case 'a':
      is = isalpha(c);
      break;
    case 'c':
      is = iscntrl(c);
      break;
    case 'd':
      is = isdigit(c);
      break;
    case 'g':
      is = isgraph(c);
      break;
    case 'l':
      is = islower(c);
      break;
    case 'p':
      is = ispunct(c);
      break;
    case 's':
      is = isspace(c);
      break;
    case 'u':
      is = isupper(c);
      break;
    case 'w':
      is = isalnum(c);
      break;
    case 'x':
      is = isxdigit(c);
      break;
    case 'z':
      is = c == 0;
      break;
    default:
      return letter == c;
  }
  return isupper(letter) ? !is : is;
}

/* `p` at "[", `last` at its closing "]". */
static bool is_in_set(unsigned char c, const char *p, const char *last) {
  bool found = true;
  if (*++p == '^') {
    found = false;
    p++;
  }
  while (p < last) {
    if (*p == '%') {
      if (is_in_letter_class(c, (unsigned char)p[1])) return found;
      p += 2;
    } else if (p[1] == '-' && p + 2 < last) {
      if ((unsigned char)p[0] <= c && c <= (unsigned char)p[2]) return found;
      p += 3;
    } else {
      if ((unsigned char)*p == c) return found;
      p++;
    }
  }
  return !found;
}

static bool is_single_match(struct matcher *m, const char *at, const char *p, const char *end) {
  count_step(m, 1);
  if (at >= m->subject_end) return false;
  unsigned char c = (unsigned char)*at;
  switch (*p) {
    case '.':
      return true;
    case '%':
      return is_in_letter_class(c, (unsigned char)p[1]);
    case '[':
      count_step(m, (uint64_t)(end - p) / 8);
      return is_in_set(c, p, end - 1);
    default:
      return (unsigned char)*p == c;
  }
}

static const char *match_balance(struct matcher *m, const char *at, const char *p) {
  if (p + 1 >= m->pattern_end) luaL_error(m->L, "malformed pattern (missing arguments to '%%b')");
  if (at >= m->subject_end || *at != p[0]) return NULL;
  int level = 1;
  for (const char *s = at + 1; s < m->subject_end; s++) {
    count_step(m, 1);
    if (*s == p[1]) {
      if (--level == 0) return s + 1;
    } else if (*s == p[0]) {
      level++;
    }
  }
  return NULL;
}

static const char *match_longest(struct matcher *m, const char *at, const char *p, const char *end) {
  ptrdiff_t count = 0;
  while (is_single_match(m, at + count, p, end)) count++;
  for (; count >= 0; count--) {
    const char *result = match_here(m, at + count, end + 1);
    if (result) return result;
  }
  return NULL;
}

static const char *match_shortest(struct matcher *m, const char *at, const char *p, const char *end) {
  for (;;) {
    const char *result = match_here(m, at, end + 1);
    if (result) return result;
    if (!is_single_match(m, at, p, end)) return NULL;
    at++;
  }
}

static const char *open_group(struct matcher *m, const char *at, const char *p, ptrdiff_t kind) {
  if (m->group_count >= PATTERN_GROUPS) luaL_error(m->L, "too many captures");
  m->groups[m->group_count].start = at;
  m->groups[m->group_count].length = kind;
  m->group_count++;
  const char *result = match_here(m, at, p);
  if (result == NULL) m->group_count--;
  return result;
}

static const char *close_group(struct matcher *m, const char *at, const char *p) {
  int group = m->group_count - 1;
  while (group >= 0 && m->groups[group].length != GROUP_IS_OPEN) group--;
  if (group < 0) luaL_error(m->L, "invalid pattern capture");
  m->groups[group].length = at - m->groups[group].start;
  const char *result = match_here(m, at, p);
  if (result == NULL) m->groups[group].length = GROUP_IS_OPEN;
  return result;
}

static const char *match_again(struct matcher *m, const char *at, char digit) {
  int group = digit - '1';
  if (group < 0 || group >= m->group_count || m->groups[group].length < 0) luaL_error(m->L, "invalid capture index");
  size_t length = (size_t)m->groups[group].length;
  count_step(m, 1 + length / 8);
  if ((size_t)(m->subject_end - at) < length || memcmp(m->groups[group].start, at, length) != 0) return NULL;
  return at + length;
}

static const char *match_frontier(struct matcher *m, const char *at, const char **p) {
  if (*p >= m->pattern_end || **p != '[') luaL_error(m->L, "missing '[' after '%%f' in pattern");
  const char *end = class_end(m, *p);
  unsigned char before = at == m->subject ? 0 : (unsigned char)at[-1];
  unsigned char here = at < m->subject_end ? (unsigned char)*at : 0;
  const char *set = *p;
  *p = end;
  return !is_in_set(before, set, end - 1) && is_in_set(here, set, end - 1) ? at : NULL;
}

static const char *match_item(struct matcher *m, const char *at, const char *p) {
  while (p < m->pattern_end) {
    count_step(m, 1);
    if (*p == '(') return p + 1 < m->pattern_end && p[1] == ')' ? open_group(m, at, p + 2, GROUP_IS_POSITION) : open_group(m, at, p + 1, GROUP_IS_OPEN);
    if (*p == ')') return close_group(m, at, p + 1);
    if (*p == '$' && p + 1 == m->pattern_end) return at == m->subject_end ? at : NULL;
    if (*p == '%' && p + 1 < m->pattern_end) {
      char what = p[1];
      if (what == 'b') {
        at = match_balance(m, at, p + 2);
        if (at == NULL) return NULL;
        p += 4;
        continue;
      }
      if (what == 'f') {
        p += 2;
        at = match_frontier(m, at, &p);
        if (at == NULL) return NULL;
        continue;
      }
      if (isdigit((unsigned char)what)) {
        at = match_again(m, at, what);
        if (at == NULL) return NULL;
        p += 2;
        continue;
      }
    }
    const char *end = class_end(m, p);
    char suffix = end < m->pattern_end ? *end : '\0';
    if (suffix == '*') return match_longest(m, at, p, end);
    if (suffix == '+') return is_single_match(m, at, p, end) ? match_longest(m, at + 1, p, end) : NULL;
    if (suffix == '-') return match_shortest(m, at, p, end);
    if (suffix == '?') {
      if (is_single_match(m, at, p, end)) {
        const char *result = match_here(m, at + 1, end + 1);
        if (result) return result;
      }
      p = end + 1;
      continue;
    }
    if (!is_single_match(m, at, p, end)) return NULL;
    at++;
    p = end;
  }
  return at;
}

static const char *match_here(struct matcher *m, const char *at, const char *p) {
  if (++m->depth > PATTERN_DEPTH) luaL_error(m->L, "pattern too complex");
  const char *result = match_item(m, at, p);
  m->depth--;
  return result;
}

static void push_group(struct matcher *m, int group, const char *start, const char *end) {
  if (group >= m->group_count) {
    if (group != 0) luaL_error(m->L, "invalid capture index");
    lua_pushlstring(m->L, start, (size_t)(end - start));
    return;
  }
  ptrdiff_t length = m->groups[group].length;
  if (length == GROUP_IS_OPEN) luaL_error(m->L, "unfinished capture");
  if (length == GROUP_IS_POSITION) lua_pushinteger(m->L, m->groups[group].start - m->subject + 1);
  else lua_pushlstring(m->L, m->groups[group].start, (size_t)length);
}

/* All groups, or the whole match when there are none and `start` is given. */
static int push_groups(struct matcher *m, const char *start, const char *end) {
  int count = m->group_count == 0 && start ? 1 : m->group_count;
  luaL_checkstack(m->L, count, "too many captures");
  for (int i = 0; i < count; i++) push_group(m, i, start, end);
  return count;
}

static void matcher_init(struct matcher *m, lua_State *L, const char *subject, size_t length, const char *pattern, size_t pattern_length) {
  memset(m, 0, offsetof(struct matcher, groups));
  m->L = L;
  m->subject = subject;
  m->subject_end = subject + length;
  m->pattern = pattern;
  m->pattern_end = pattern + pattern_length;
  m->limit = PATTERN_STEPS + (uint64_t)length * PATTERN_STEPS_PER_BYTE;
}

/* First match at or after `from`; its start in *start. */
static const char *search(struct matcher *m, const char *from, bool is_anchored, const char **start) {
  const char *p = m->pattern + (is_anchored ? 1 : 0);
  for (const char *at = from; at <= m->subject_end; at++) {
    m->group_count = 0;
    m->depth = 0;
    const char *end = match_here(m, at, p);
    if (end) {
      *start = at;
      return end;
    }
    if (is_anchored) break;
  }
  return NULL;
}

static void charge(lua_State *L, uint64_t steps) {
  if (steps > 64) state_charge(state_of(L), steps / 8);
}

static int find_or_match(lua_State *L, bool is_find) {
  size_t length, pattern_length;
  const char *subject = luaL_checklstring(L, 1, &length), *pattern = luaL_checklstring(L, 2, &pattern_length);
  ptrdiff_t from = luaL_optinteger(L, 3, 1);
  if (from < 0) from += (ptrdiff_t)length + 1;
  if (from < 1) from = 1;
  if (from > (ptrdiff_t)length + 1) {
    lua_pushnil(L);
    return 1;
  }
  const char *begin = subject + from - 1;
  if (is_find && (lua_toboolean(L, 4) || strcspn(pattern, "^$*+?.([%-") == pattern_length)) {
    const char *found = pattern_length ? memmem(begin, length - (size_t)(begin - subject), pattern, pattern_length) : begin;
    charge(L, length / 8);
    if (found == NULL) {
      lua_pushnil(L);
      return 1;
    }
    lua_pushinteger(L, found - subject + 1);
    lua_pushinteger(L, found - subject + (ptrdiff_t)pattern_length);
    return 2;
  }
  struct matcher m;
  const char *start;
  matcher_init(&m, L, subject, length, pattern, pattern_length);
  const char *end = search(&m, begin, pattern_length > 0 && *pattern == '^', &start);
  charge(L, m.steps);
  if (end == NULL) {
    lua_pushnil(L);
    return 1;
  }
  if (!is_find) return push_groups(&m, start, end);
  lua_pushinteger(L, start - subject + 1);
  lua_pushinteger(L, end - subject);
  return 2 + push_groups(&m, NULL, NULL);
}

static int pattern_find(lua_State *L) { return find_or_match(L, true); }
static int pattern_match(lua_State *L) { return find_or_match(L, false); }

/* Upvalues: subject, pattern, offset of the next search. */
static int gmatch_next(lua_State *L) {
  size_t length, pattern_length;
  const char *subject = lua_tolstring(L, lua_upvalueindex(1), &length), *pattern = lua_tolstring(L, lua_upvalueindex(2), &pattern_length);
  size_t from = (size_t)lua_tointeger(L, lua_upvalueindex(3));
  if (from > length) return 0;
  struct matcher m;
  const char *start;
  matcher_init(&m, L, subject, length, pattern, pattern_length);
  const char *end = search(&m, subject + from, false, &start);
  charge(L, m.steps);
  if (end == NULL) {
    lua_pushinteger(L, (lua_Integer)length + 1);
    lua_replace(L, lua_upvalueindex(3));
    return 0;
  }
  lua_pushinteger(L, end - subject + (end == start ? 1 : 0));
  lua_replace(L, lua_upvalueindex(3));
  return push_groups(&m, start, end);
}

static int pattern_gmatch(lua_State *L) {
  luaL_checkstring(L, 1);
  luaL_checkstring(L, 2);
  lua_settop(L, 2);
  lua_pushinteger(L, 0);
  lua_pushcclosure(L, gmatch_next, 3);
  return 1;
}

static void add_text(struct matcher *m, luaL_Buffer *out, const char *start, const char *end) {
  size_t length;
  const char *text = lua_tolstring(m->L, 3, &length);
  for (size_t i = 0; i < length; i++) {
    if (text[i] != '%') {
      luaL_addchar(out, text[i]);
    } else if (++i < length && isdigit((unsigned char)text[i])) {
      if (text[i] == '0') {
        luaL_addlstring(out, start, (size_t)(end - start));
      } else {
        push_group(m, text[i] - '1', start, end);
        luaL_addvalue(out);
      }
    } else {
      luaL_addchar(out, i < length ? text[i] : '%');
    }
  }
}

static void add_replacement(struct matcher *m, luaL_Buffer *out, const char *start, const char *end) {
  lua_State *L = m->L;
  int type = lua_type(L, 3);
  if (type == LUA_TSTRING || type == LUA_TNUMBER) {
    add_text(m, out, start, end);
    return;
  }
  state_check_stack(L);
  if (type == LUA_TFUNCTION) {
    lua_pushvalue(L, 3);
    int count = push_groups(m, start, end);
    lua_call(L, count, 1);
  } else {
    push_group(m, 0, start, end);
    lua_gettable(L, 3);
  }
  if (!lua_toboolean(L, -1)) {
    lua_pop(L, 1);
    lua_pushlstring(L, start, (size_t)(end - start));
  } else if (!lua_isstring(L, -1)) {
    luaL_error(L, "invalid replacement value (a %s)", luaL_typename(L, -1));
  }
  luaL_addvalue(out);
}

static int pattern_gsub(lua_State *L) {
  size_t length, pattern_length;
  const char *subject = luaL_checklstring(L, 1, &length), *pattern = luaL_checklstring(L, 2, &pattern_length);
  int type = lua_type(L, 3);
  luaL_argcheck(L, type == LUA_TNUMBER || type == LUA_TSTRING || type == LUA_TFUNCTION || type == LUA_TTABLE, 3, "string/function/table expected");
  if (type == LUA_TNUMBER) lua_tostring(L, 3);
  lua_Integer most = luaL_optinteger(L, 4, (lua_Integer)length + 1);
  bool is_anchored = pattern_length > 0 && *pattern == '^';
  const char *p = pattern + (is_anchored ? 1 : 0), *at = subject, *rest = subject; /* from `rest` on nothing is in `out` yet */
  lua_Integer count = 0;
  struct matcher m;
  matcher_init(&m, L, subject, length, pattern, pattern_length);
  luaL_Buffer out;
  luaL_buffinit(L, &out);
  while (count < most) {
    m.group_count = 0;
    m.depth = 0;
    const char *end = match_here(&m, at, p);
    if (end) {
      count++;
      luaL_addlstring(&out, rest, (size_t)(at - rest));
      add_replacement(&m, &out, at, end);
      rest = end;
    }
    if (end && end > at) at = end;
    else if (at < m.subject_end) at++;
    else break;
    if (is_anchored) break;
  }
  charge(L, m.steps);
  luaL_addlstring(&out, rest, (size_t)(m.subject_end - rest));
  luaL_pushresult(&out);
  lua_pushinteger(L, count);
  return 2;
}

void pattern_install(lua_State *L) {
  static const luaL_Reg functions[] = {{"find", pattern_find}, {"match", pattern_match}, {"gmatch", pattern_gmatch}, {"gsub", pattern_gsub}, {NULL, NULL}};
  lua_getglobal(L, "string");
  for (const luaL_Reg *f = functions; f->name; f++) {
    lua_pushcfunction(L, f->func);
    lua_setfield(L, -2, f->name);
  }
  lua_pushnil(L);
  lua_setfield(L, -2, "dump");
  lua_pushnil(L);
  lua_setfield(L, -2, "gfind");
  lua_pop(L, 1);
}
