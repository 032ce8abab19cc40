/* Policy sets and the hook runner, over exchanges made by hand: sharing of unchanged owners, configs decoded once and forgotten, errors, and late use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "proxy/worker.h"
#include "script/lua_pack.h"
#include "script/policy_set.h"

#define CONFIGS 2

struct fixture {
  struct worker worker;
  struct counters counters;
  struct log log;
  char lines[4096];
  struct snapshot root;
  struct script_worker *script;
  struct hook_runner runner;
  struct policy_slots *slots;
  struct script_options options;
  struct host host;
  struct route route;
  struct hook hook;
  struct hook_config configs[CONFIGS];
  struct buffer packed;
  struct exchange exchange;
  struct request_head head;
};

static void capture(void *context, enum log_level level, struct span line) {
  struct fixture *f = context;
  (void)level;
  snprintf(f->lines, sizeof f->lines, "%.*s", (int)line.length, line.data);
}

static struct unit *make_set(struct fixture *f, const char *sources[][3], unsigned count, struct unit *previous, char *error, size_t size) {
  struct buffer body = {0};
  pack_put_map(&body, 1);
  pack_put_string(&body, SPAN("policies"));
  pack_put_array(&body, count);
  for (unsigned i = 0; i < count; i++) {
    char file[64];
    snprintf(file, sizeof file, "policies/%s.lua", sources[i][0]);
    pack_put_map(&body, 5);
    pack_put_string(&body, SPAN("name"));
    pack_put_string(&body, span_of(sources[i][0]));
    pack_put_string(&body, SPAN("owner"));
    pack_put_string(&body, span_of(sources[i][1]));
    pack_put_string(&body, SPAN("trusted"));
    pack_put_boolean(&body, strcmp(sources[i][1], "builtin") == 0);
    pack_put_string(&body, SPAN("file"));
    pack_put_string(&body, span_of(file));
    pack_put_string(&body, SPAN("source"));
    pack_put_string(&body, span_of(sources[i][2]));
  }
  struct unit *set = policy_set_new(buffer_span(&body), f->slots, &f->options, previous, error, size);
  buffer_free(&body);
  return set;
}

static struct unit *make_one(struct fixture *f, const char *owner, const char *source) {
  const char *sources[][3] = {{"probe", owner, source}};
  char error[512] = "";
  struct unit *set = make_set(f, sources, 1, NULL, error, sizeof error);
  if (set == NULL) print_error("%s\n", error);
  assert_non_null(set);
  f->hook.policy = policy_slot(f->slots, SPAN("probe"));
  f->root.policies = set;
  return set;
}

static void begin(struct fixture *f, struct unit *set) {
  struct exchange *exchange = &f->exchange;
  exchange->magic = EXCHANGE_MAGIC;
  exchange->worker = &f->worker;
  exchange->route = &f->route;
  exchange->owner = exchange->host = &f->host;
  exchange->policies = set;
  exchange->request = &f->head;
  arena_init(&exchange->arena, NULL, 0);
  headers_init(&f->head.headers, &exchange->arena);
  headers_add(&f->head.headers, HEADER_HOST, SPAN("Host"), SPAN("shop.test"));
  headers_add(&f->head.headers, header_id_of(SPAN("Cookie")), SPAN("Cookie"), SPAN("a=1; shop=new"));
  headers_add(&f->head.headers, header_id_of(SPAN("X-Other")), SPAN("X-Other"), SPAN("yes"));
}

static void finish(struct fixture *f) {
  if (f->exchange.script) f->runner.end(f->runner.self, &f->exchange);
  assert_null(f->exchange.script);
  arena_free(&f->exchange.arena);
}

static enum hook_result run_phase(struct fixture *f, struct unit *set, enum hook_phase phase) {
  begin(f, set);
  enum hook_result result = f->runner.run(f->runner.self, &f->exchange, phase);
  finish(f);
  return result;
}

static enum hook_result run_once(struct fixture *f, struct unit *set) { return run_phase(f, set, HOOK_LOG); }

static int setup(void **state) {
  struct fixture *f = calloc(1, sizeof *f);
  f->log = (struct log){.capture = capture, .capture_context = f};
  f->worker.options.counters = &f->counters;
  f->worker.root = &f->root;
  f->script = script_worker_new(&f->worker, &f->log);
  f->runner = script_hook_runner(f->script);
  f->worker.options.hooks = f->runner;
  f->slots = policy_slots_new();
  const char *home = getenv("MOONGATE_LUA");
  f->options = (struct script_options){.lua_directory = home ? home : "lua", .workers = 1, .log = &f->log, .guest_memory = 16u << 20};
  f->host.unit.kind = UNIT_HOST;
  f->host.unit.born_at = 1;
  f->host.name = SPAN("shop.test");
  f->host.configs = f->configs;
  f->host.config_count = CONFIGS;
  f->host.routes = &f->route;
  f->host.route_count = 1;
  f->route.host = &f->host;
  f->route.path = SPAN("/");
  f->route.hooks[HOOK_LOG] = &f->hook;
  f->route.hook_count[HOOK_LOG] = 1;
  f->route.hooks[HOOK_ACCESS] = &f->hook;
  f->route.hook_count[HOOK_ACCESS] = 1;
  f->route.hooks[HOOK_BODY_FILTER] = &f->hook;
  f->route.hook_count[HOOK_BODY_FILTER] = 1;
  pack_put_map(&f->packed, 1);
  pack_put_string(&f->packed, SPAN("n"));
  pack_put_integer(&f->packed, 7);
  for (unsigned i = 0; i < CONFIGS; i++) f->configs[i].packed = buffer_span(&f->packed);
  *state = f;
  return 0;
}

static int teardown(void **state) {
  struct fixture *f = *state;
  script_worker_free(f->script);
  policy_slots_free(f->slots);
  buffer_free(&f->packed);
  free(f);
  return 0;
}

static void decodes_a_config_once(void **state) {
  struct fixture *f = *state;
  struct unit *set =
      make_one(f, "builtin", "local last; return { name = 'probe', log = function(e, c) assert(c.n == 7) assert(last == nil or last == c) last = c end }");
  assert_int_equal(run_once(f, set), HOOK_NEXT);
  assert_int_equal(run_once(f, set), HOOK_NEXT);
  f->runner.forget(f->runner.self, &f->host.unit);
  assert_int_equal(run_once(f, set), HOOK_FAILED); /* decoded again: another table */
  assert_non_null(strstr(f->lines, "policies/probe.lua:1:"));
  set->release(set);
}

static void takes_no_config_of_a_unit_that_had_the_same_id(void **state) {
  struct fixture *f = *state;
  struct unit *set = make_one(f, "builtin", "return { name = 'probe', log = function(e, c) assert(c.n == (seen and 8 or 7)) seen = true end }");
  assert_int_equal(run_once(f, set), HOOK_NEXT);
  struct buffer other = {0};
  pack_put_map(&other, 1);
  pack_put_string(&other, SPAN("n"));
  pack_put_integer(&other, 8);
  f->configs[0].packed = buffer_span(&other);
  f->host.unit.born_at = 2; /* same address, same id, another unit */
  assert_int_equal(run_once(f, set), HOOK_NEXT);
  buffer_free(&other);
  set->release(set);
}

static void counts_and_logs_failures(void **state) {
  struct fixture *f = *state;
  struct unit *set = make_one(f, "guest", "return { name = 'probe', log = function() error('no \"way\"') end }");
  assert_int_equal(run_once(f, set), HOOK_FAILED);
  assert_int_equal(counter_get(&f->counters, COUNTER_HOOK_ERRORS), 1);
  assert_non_null(strstr(f->lines, "policy=probe"));
  assert_non_null(strstr(f->lines, "policies/probe.lua:1: no 'way'"));
  set->release(set);
}

static void fails_closed_for_an_unknown_policy(void **state) {
  struct fixture *f = *state;
  struct unit *set = make_one(f, "builtin", "return { name = 'probe' }");
  f->hook.policy = policy_slot(f->slots, SPAN("gone"));
  assert_int_equal(run_once(f, set), HOOK_FAILED);
  set->release(set);
}

static void shares_owners_that_did_not_change(void **state) {
  struct fixture *f = *state;
  char error[512] = "";
  const char *first[][3] = {{"a", "builtin", "return { name = 'a' }"}, {"b", "/etc/policies", "return { name = 'b' }"}};
  const char *second[][3] = {{"a", "builtin", "return { name = 'a' }"}, {"b", "/etc/policies", "return { name = 'b', summary = 'new' }"}};
  struct unit *one = make_set(f, first, 2, NULL, error, sizeof error);
  assert_non_null(one);
  struct unit *two = make_set(f, second, 2, one, error, sizeof error);
  assert_non_null(two);
  assert_ptr_equal(policy_set_of(one)->groups[0], policy_set_of(two)->groups[0]);
  assert_ptr_not_equal(policy_set_of(one)->groups[1], policy_set_of(two)->groups[1]);
  one->release(one); /* the shared states live on in the other */
  assert_int_equal(policy_set_of(two)->groups[0]->references, 1);
  assert_int_equal(state_find_policy(policy_set_of(two)->groups[0]->states[0], SPAN("a")), 0);
  two->release(two);
}

static void refuses_a_set_with_a_broken_file(void **state) {
  struct fixture *f = *state;
  char error[512] = "";
  const char *broken[][3] = {{"a", "builtin", "return {"}};
  assert_null(make_set(f, broken, 1, NULL, error, sizeof error));
  assert_non_null(strstr(error, "policies/a.lua:1:"));
  const char *no_table[][3] = {{"a", "guest", "return 1"}};
  assert_null(make_set(f, no_table, 1, NULL, error, sizeof error));
  assert_string_equal(error, "policies/a.lua: returns a number, not a policy");
  const char *no_hook[][3] = {{"a", "guest", "return { log = 1 }"}};
  assert_null(make_set(f, no_hook, 1, NULL, error, sizeof error));
  assert_string_equal(error, "policies/a.lua: log is a number, not a function");
}

static void refuses_malformed_bodies(void **state) {
  struct fixture *f = *state;
  char error[512] = "";
  struct buffer body = {0};
  assert_null(policy_set_new(buffer_span(&body), f->slots, &f->options, NULL, error, sizeof error));
  pack_put_map(&body, 1);
  pack_put_string(&body, SPAN("policies"));
  pack_put_array(&body, 1u << 30);
  assert_null(policy_set_new(buffer_span(&body), f->slots, &f->options, NULL, error, sizeof error));
  assert_string_equal(error, "the policies are malformed");
  buffer_free(&body);
}

/* An answer may have any number of parts. */
static void keeps_nothing_of_the_parts_of_a_body(void **state) {
  struct fixture *f = *state;
  struct unit *set = make_one(f, "builtin",
                              "local moongate = require 'moongate' local template = moongate.template('$host of $uri')"
                              "return { name = 'probe', body_filter = function(e, c, chunk)"
                              "  e.ctx.parts = (e.ctx.parts or 0) + 1"
                              "  e.variables:set('parts', ('x'):rep(e.ctx.parts % 1000))"
                              "  e.request:argument('a') e.request.headers:all('X-Other')"
                              "  return chunk .. template:expand(e) .. #e.variables:get('parts') end }");
  arena_cache_init(&f->worker.blocks, 0, 4);
  begin(f, set);
  f->exchange.phase = HOOK_BODY_FILTER;
  f->exchange.host_name = SPAN("shop.test");
  f->exchange.uri = (struct uri){.path = SPAN("/path"), .query = SPAN("a=%20b+c")};
  size_t used = 0;
  struct span part = {NULL, 0};
  for (unsigned i = 0; i < 1001; i++) {
    part = SPAN("part ");
    assert_true(f->runner.filter_body(f->runner.self, &f->exchange, &part, false));
    if (i == 0) used = f->exchange.arena.used;
  }
  assert_true(span_equal(part, SPAN("part shop.test of /path1")));
  assert_int_equal(f->exchange.arena.used, used);
  finish(f);
  arena_free(&f->worker.scratch);
  arena_cache_free(&f->worker.blocks);
  set->release(set);
}

static double elapsed_ns(const struct timespec *from) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)(now.tv_sec - from->tv_sec) * 1e9 + (double)(now.tv_nsec - from->tv_nsec);
}

/* Prints what a hook costs, on the state's own stack and on a coroutine; asserts nothing, since sanitizers and neighbours distort it. */
static void prints_the_cost_of_a_hook(void **state) {
  struct fixture *f = *state;
  static const struct {
    const char *name, *code;
  } hooks[] = {
      {"empty hook", ""},
      {"two headers", "local h = e.request.headers local a, b = h:get('Cookie'), h:get('Host') if a == b then error() end"},
      {"cookie, host and config", "local r = e.request if r.cookies:get('shop') == 'old' and r.host == 'x' and c.n == 1 then error() end"},
  };
  static const enum hook_phase phases[] = {HOOK_LOG, HOOK_ACCESS};
  const char *text = getenv("MOONGATE_BENCH_RUNS");
  unsigned runs = text ? (unsigned)strtoul(text, NULL, 10) : 2000;
  for (size_t i = 0; i < sizeof hooks / sizeof *hooks; i++) {
    for (unsigned kind = 0; kind < 4; kind++) {
      bool is_trusted = kind < 2;
      enum hook_phase phase = phases[kind % 2];
      char source[512];
      snprintf(source, sizeof source, "local p = { name = 'probe' } function p.access(e, c) %s end function p.log(e, c) %s end return p", hooks[i].code,
               hooks[i].code);
      struct unit *set = make_one(f, is_trusted ? "builtin" : "guest", source);
      f->host.unit.born_at++;
      struct timespec from;
      begin(f, set);
      for (int warm = 0; warm < 200; warm++) f->runner.run(f->runner.self, &f->exchange, phase);
      clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
      for (unsigned run = 0; run < runs; run++) assert_int_equal(f->runner.run(f->runner.self, &f->exchange, phase), HOOK_NEXT);
      double same = elapsed_ns(&from) / runs;
      finish(f);
      clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &from);
      for (unsigned run = 0; run < runs; run++) run_phase(f, set, phase);
      double fresh = elapsed_ns(&from) / runs;
      print_message("%-24s %-8s %-7s %6.0f ns; with a new exchange each time %6.0f ns\n", hooks[i].name, is_trusted ? "trusted" : "guest",
                    state_phase_name(phase), same, fresh);
      f->root.policies = NULL;
      set->release(set);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(decodes_a_config_once, setup, teardown),
      cmocka_unit_test_setup_teardown(takes_no_config_of_a_unit_that_had_the_same_id, setup, teardown),
      cmocka_unit_test_setup_teardown(counts_and_logs_failures, setup, teardown),
      cmocka_unit_test_setup_teardown(fails_closed_for_an_unknown_policy, setup, teardown),
      cmocka_unit_test_setup_teardown(shares_owners_that_did_not_change, setup, teardown),
      cmocka_unit_test_setup_teardown(refuses_a_set_with_a_broken_file, setup, teardown),
      cmocka_unit_test_setup_teardown(refuses_malformed_bodies, setup, teardown),
      cmocka_unit_test_setup_teardown(keeps_nothing_of_the_parts_of_a_body, setup, teardown),
      cmocka_unit_test_setup_teardown(prints_the_cost_of_a_hook, setup, teardown),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
