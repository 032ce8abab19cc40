/* A state that goes from thread to thread: what it does when it is closed must not log to the thread that used it last. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "script/state.h"

static unsigned lines;

static void count_line(void *context, enum log_level level, struct span line) { (void)context, (void)level, (void)line, lines++; }

static void test_closing_logs_to_nobodys_ring(void **unused) {
  (void)unused;
  struct log log = {.capture = count_line};
  struct state_options options = {.lua_directory = "lua", .owner = "builtin", .log = &log};
  char error[256];
  static const char text[] =
      "local core = require 'moongate.core'\n"
      "core.log('error', 'open')\n"
      "kept = newproxy(true)\n"
      "getmetatable(kept).__gc = function() core.log('debug', 'closed') end\n"
      "_G.kept = kept\n"
      "return {}";
  struct script_state *state = state_new(&options, error, sizeof error);
  if (!state) fail_msg("%s", error);
  if (state_run_file(state, "one.lua", SPAN(text), error, sizeof error)) fail_msg("%s", error);
  lua_pop(state->L, 1);
  _Atomic int level = LOG_DEBUG;
  log.level = &level;
  assert_int_equal(lines, 1);
  state_free(state);
  assert_int_equal(lines, 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_closing_logs_to_nobodys_ring)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
