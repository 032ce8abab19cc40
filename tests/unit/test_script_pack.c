/* Lua values to packed bytes and back: round trips, refusals, equal bytes for equal data, and decoding of damaged bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <lauxlib.h>
#include <lualib.h>

#include "base/hash.h"
#include "script/lua_pack.h"
#include "script/lua_value.h"

static int setup(void **state) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  lua_newtable(L);
  lua_pack_register(L, lua_gettop(L));
  lua_value_register(L, lua_gettop(L));
  lua_setglobal(L, "core");
  *state = L;
  return 0;
}

static int teardown(void **state) {
  lua_close(*state);
  return 0;
}

/* Packs the value of an expression; false when it is refused. */
static bool pack(lua_State *L, const char *expression, struct buffer *out, char error[256]) {
  char code[1024];
  snprintf(code, sizeof code, "return %s", expression);
  assert_int_equal(luaL_dostring(L, code), 0);
  bool is_done = lua_pack_encode(L, -1, out, error, 256);
  lua_pop(L, 1);
  return is_done;
}

static void keeps_plain_data(void **state) {
  lua_State *L = *state;
  static const char *const values[] = {"nil",
                                       "true",
                                       "0",
                                       "-1",
                                       "1.5",
                                       "2^53",
                                       "-2^40",
                                       "1e300",
                                       "''",
                                       "'text\\0with NUL'",
                                       "{1, 2, {3}}",
                                       "{ a = { b = { c = 'd' } } }",
                                       "core.array {}",
                                       "{}",
                                       "{ x = core.null }",
                                       "{ core.null, 1 }"};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    struct buffer one = {0}, two = {0};
    char error[256];
    assert_true(pack(L, values[i], &one, error));
    assert_true(lua_pack_decode(L, buffer_span(&one), NULL, error, sizeof error));
    assert_true(lua_pack_encode(L, -1, &two, error, sizeof error));
    lua_pop(L, 1);
    if (!span_equal(buffer_span(&one), buffer_span(&two))) fail_msg("%s does not come back", values[i]);
    buffer_free(&one);
    buffer_free(&two);
  }
}

static void writes_equal_data_equally(void **state) {
  lua_State *L = *state;
  struct buffer one = {0}, two = {0};
  char error[256];
  assert_true(pack(L, "{ a = 1, bb = 2, b = 3, c = { y = 1, x = 2 } }", &one, error));
  assert_true(pack(L,
                   "(function() local t = { c = {} } for i = 1, 99 do t[tostring(i)] = 1 end for i = 1, 99 do t[tostring(i)] = nil end t.bb = 2 t.b = 3 t.a = "
                   "1 t.c.x = 2 t.c.y = 1 return t end)()",
                   &two, error));
  assert_true(span_equal(buffer_span(&one), buffer_span(&two)));
  buffer_free(&one);
  buffer_free(&two);
}

static void refuses_what_is_no_plain_data(void **state) {
  lua_State *L = *state;
  static const char *const values[][2] = {{"print", "is not plain data: a function"},
                                          {"{ f = print }", "f: is not plain data: a function"},
                                          {"{ a = { { b = { c = print } } } }", "a.b.c: is not plain data: a function"},
                                          {"coroutine.create(print)", "is not plain data: a thread"},
                                          {"io.stdout", "is not plain data: a userdata"},
                                          {"{ 1, 2, x = 3 }", "a table has both string and number keys"},
                                          {"{ [1] = 1, [3] = 3 }", "a table has a number key that is not of an array without gaps"},
                                          {"{ [0] = 1 }", "a table has a number key that is not of an array without gaps"},
                                          {"{ [true] = 1 }", "a table has a key that is a boolean"},
                                          {"(function() local t = {} t.t = t return t end)()", "data is nested too deeply"}};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    struct buffer out = {0};
    char error[256];
    int top = lua_gettop(L);
    assert_false(pack(L, values[i][0], &out, error));
    assert_string_equal(error, values[i][1]);
    assert_int_equal(lua_gettop(L), top);
    buffer_free(&out);
  }
}

static void keeps_values(void **state) {
  lua_State *L = *state;
  struct buffer out = {0};
  char error[256];
  assert_true(pack(L, "{ r = core.value('regex', 'i\\0^/a'), t = core.value('template', '$host'), u = core.upstream_handle('default-app-80') }", &out, error));
  assert_true(lua_pack_decode(L, buffer_span(&out), NULL, error, sizeof error));
  lua_setglobal(L, "back");
  assert_int_equal(luaL_dostring(L, "assert(back.r:match('/A') == '/A') assert(tostring(back.t) == '$host') assert(tostring(back.u) == 'default-app-80')"), 0);
  buffer_free(&out);
}

/* Values of a config come from the unit, in the order of the bytes; too few of them is an error, not a read behind the end. */
static void takes_values_of_a_config(void **state) {
  lua_State *L = *state;
  struct buffer out = {0};
  char error[256];
  assert_true(pack(L, "{ core.value('template', '$host'), core.value('template', '$uri') }", &out, error));
  struct value *values[] = {value_new(PACK_TEMPLATE, SPAN("$host"), error, sizeof error), value_new(PACK_TEMPLATE, SPAN("$uri"), error, sizeof error)};
  struct hook_config config = {.packed = buffer_span(&out), .values = values, .value_count = 2};
  assert_true(lua_pack_decode(L, config.packed, &config, error, sizeof error));
  lua_rawgeti(L, -1, 2);
  assert_ptr_equal(lua_value_to(L, -1)->value, values[1]);
  assert_int_equal(atomic_load(&values[1]->references), 2);
  lua_settop(L, 0);
  lua_gc(L, LUA_GCCOLLECT, 0);
  assert_int_equal(atomic_load(&values[1]->references), 1);
  config.value_count = 1;
  assert_false(lua_pack_decode(L, config.packed, &config, error, sizeof error));
  lua_gc(L, LUA_GCCOLLECT, 0);
  value_release(values[0]);
  value_release(values[1]);
  buffer_free(&out);
}

static void survives_damaged_bytes(void **state) {
  lua_State *L = *state;
  struct buffer out = {0};
  char error[256];
  assert_true(pack(
      L,
      "{ a = { 1, 2, 3, { 'x', 'y' } }, b = 'some longer text than thirty-one bytes', c = { d = core.value('ip_set', '10.0.0.0/8') }, e = 1.5, f = core.null }",
      &out, error));
  struct span whole = buffer_span(&out);
  char *copy = malloc(whole.length);
  struct random random = {.state = 42};
  unsigned good = 0;
  for (size_t length = 0; length < whole.length; length++) assert_false(lua_pack_decode(L, span_make(whole.data, length), NULL, error, sizeof error));
  for (int round = 0; round < 20000; round++) {
    memcpy(copy, whole.data, whole.length);
    for (int i = 0; i < 3; i++) copy[random_below(&random, whole.length)] = (char)random_next(&random);
    good += lua_pack_decode(L, span_make(copy, whole.length), NULL, error, sizeof error);
    lua_settop(L, 0);
  }
  assert_true(good < 20000);
  free(copy);
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(keeps_plain_data, setup, teardown),
      cmocka_unit_test_setup_teardown(writes_equal_data_equally, setup, teardown),
      cmocka_unit_test_setup_teardown(refuses_what_is_no_plain_data, setup, teardown),
      cmocka_unit_test_setup_teardown(keeps_values, setup, teardown),
      cmocka_unit_test_setup_teardown(takes_values_of_a_config, setup, teardown),
      cmocka_unit_test_setup_teardown(survives_damaged_bytes, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
