/* Host and path matching: rows from the reference's rules (controller-behaviour a2). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/buffer.h"
#include "base/pack.h"
#include "route/router.h"

static struct upstream_ref find_upstream(void *context, struct span name) {
  (void)context, (void)name;
  return (struct upstream_ref){0, 1};
}
static uint32_t find_policy(void *context, struct span name) {
  (void)context, (void)name;
  return 0;
}
static const struct host_resolver resolver = {.upstream = find_upstream, .policy = find_policy};

static void put_text(struct buffer *out, const char *text) { pack_put_string(out, span_of(text)); }

/* paths: "=/exact", "/prefix"; in regex mode "~pattern" is a route of a regex Ingress. */
static struct host *make_host(const char *name, bool regex, const char *const *paths) {
  struct buffer body = {0};
  uint32_t count = 0;
  while (paths[count]) count++;
  pack_put_map(&body, 2);
  put_text(&body, "regex");
  pack_put_boolean(&body, regex);
  put_text(&body, "routes");
  pack_put_array(&body, count);
  for (uint32_t i = 0; i < count; i++) {
    const char *path = paths[i];
    bool is_exact = path[0] == '=', is_pattern = path[0] == '~';
    pack_put_map(&body, is_pattern ? 3 : 2);
    put_text(&body, "path");
    put_text(&body, path + (is_exact || is_pattern));
    put_text(&body, "type");
    put_text(&body, is_exact ? "exact" : "prefix");
    if (is_pattern) {
      put_text(&body, "regex_path");
      put_text(&body, path + 1);
    }
  }
  char error[300] = "";
  struct host *host = host_new(span_of(name), buffer_span(&body), &resolver, error, sizeof error);
  if (!host) fail_msg("%s", error);
  buffer_free(&body);
  return host;
}

struct row {
  const char *path;
  int route; /* index in paths; -1 none */
  bool add_slash;
};

static void check(bool regex, const char *const *paths, const struct row *rows) {
  struct host *host = make_host("h", regex, paths);
  for (; rows->path; rows++) {
    struct route_match match = router_match(host, span_of(rows->path));
    int found = match.route ? (int)match.route->index : -1;
    if (found != rows->route || match.add_slash != rows->add_slash)
      fail_msg("%s: route %d slash %d, expected %d %d", rows->path, found, match.add_slash, rows->route, rows->add_slash);
  }
  host->unit.release(&host->unit);
}

#define PATHS(...) \
  (const char *const[]) { __VA_ARGS__, NULL }
#define ROWS(...) \
  (const struct row[]) { \
    __VA_ARGS__, { NULL, 0, false } \
  }

static void prefixes_match_whole_segments(void **state) {
  (void)state;
  check(false, PATHS("/aaa", "/"),
        ROWS({"/aaa", 0, false}, {"/aaa/", 0, false}, {"/aaa/b", 0, false}, {"/aaaccc", 1, false}, {"/", 1, false}, {"/aa", 1, false}));
  check(false, PATHS("/aaa"), ROWS({"/aaaccc", -1, false}, {"/", -1, false}, {"/AAA", -1, false}, {"", -1, false}, {"/x/aaa", -1, false}));
}

static void exact_beats_prefix_and_longest_wins(void **state) {
  (void)state;
  check(false, PATHS("/p", "=/p", "/p/q", "/"),
        ROWS({"/p", 1, false}, {"/p/", 0, false}, {"/p/x", 0, false}, {"/p/q", 2, false}, {"/p/q/r", 2, false}, {"/p/qq", 0, false}, {"/o", 3, false}));
  check(false, PATHS("=/p"), ROWS({"/p", 0, false}, {"/p/", -1, false}, {"/p/x", -1, false}, {"/P", -1, false}));
  check(false, PATHS("=/p/", "/"), ROWS({"/p/", 0, false}, {"/p", 1, false}));
}

static void a_slash_is_added_only_for_a_lonely_prefix(void **state) {
  (void)state;
  check(false, PATHS("/p/", "/"), ROWS({"/p", 0, true}, {"/p/", 0, false}, {"/p/x", 0, false}, {"/px", 1, false}));
  check(false, PATHS("/p/", "/p"), ROWS({"/p", 1, false}, {"/p/", 0, false}, {"/p/x", 0, false}));
  check(false, PATHS("/p/", "=/p"), ROWS({"/p", 1, false}, {"/p/x", 0, false}));
  check(false, PATHS("/p/q/", "/p"), ROWS({"/p/q", 0, true}, {"/p", 1, false}, {"/p/r", 1, false}));
}

/* A client chooses how many slashes its path has: each could be the end of a prefix. */
static void many_slashes_cost_no_more_than_a_long_name(void **state) {
  (void)state;
  const char *paths[41] = {NULL};
  char texts[40][16], path[8192];
  for (int i = 0; i < 40; i++) {
    snprintf(texts[i], sizeof texts[i], "/p%d", i);
    paths[i] = texts[i];
  }
  for (size_t i = 0; i < sizeof path; i++) path[i] = i % 2 ? 'a' : '/';
  struct host *host = make_host("h", false, paths);
  struct timespec begun, ended;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begun);
  for (int i = 0; i < 100; i++) assert_null(router_match(host, span_make(path, sizeof path)).route);
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ended);
  int64_t us = (ended.tv_sec - begun.tv_sec) * 1000000 + (ended.tv_nsec - begun.tv_nsec) / 1000;
  if (us > 50000) fail_msg("100 matches took %lld us", (long long)us); /* hashing each prefix of it took a second and more */
  host->unit.release(&host->unit);
}

static void the_first_of_two_equal_ones_wins(void **state) {
  (void)state;
  check(false, PATHS("/", "/p", "/p", "=/p", "=/p"), ROWS({"/p", 3, false}, {"/p/x", 1, false}));
  check(true, PATHS("/p", "~/p"), ROWS({"/p", 0, false}));
}

static void regex_mode_goes_by_length_then_reverse_alphabet(void **state) {
  (void)state;
  check(true, PATHS("~/foo/bar/bar", "~/foo/bar/[a-z]{3}", "/"), ROWS({"/foo/bar/bar", 1, false}, {"/foo/bar/12", 2, false}, {"/FOO/BAR/ABC", 1, false}));
  check(true, PATHS("~/a.", "~/.b", "/"), ROWS({"/ab", 0, false}, {"/xb", 1, false}));
  check(true, PATHS("~/foo", "=/bar", "/baz", "/"),
        ROWS({"/foobar", 0, false}, {"/barbar", 1, false}, {"/bazbaz", 2, false}, {"/Baz/", 2, false}, {"/x/foo", 3, false}));
  check(true, PATHS("~/something(/|$)(.*)"),
        ROWS({"/something", 0, false}, {"/something/x", 0, false}, {"/somethingx", -1, false}, {"/a/something", -1, false}));
}

static void regex_mode_gives_captures(void **state) {
  (void)state;
  struct host *host = make_host("h", true, PATHS("~/something(/|$)(.*)"));
  struct route_match match = router_match(host, SPAN("/something/new/x"));
  assert_non_null(match.route);
  assert_int_equal(match.captures.count, 3);
  assert_true(span_equal(match.captures.groups[2], SPAN("new/x")));
  host->unit.release(&host->unit);
}

static void many_paths_match_as_few_do(void **state) {
  (void)state;
  /* The same questions to a walked and to a tabled index: padded with paths that match nothing asked. */
  const char *few[] = {"/", "/p", "=/p", "/p/q/", "/z/y/x", "/z/", "=/e/", "/p", NULL};
  const char *asked[] = {"/",       "/p", "/p/", "/p/q", "/p/q/", "/p/q/r", "/p/qq", "/z",        "/z/",   "/z/y",  "/z/y/x",
                         "/z/y/x/", "/e", "/e/", "/pp",  "/q",    "/z/y/",  "//",    "/p/q/r/s/", "/z/yy", "/p//q", NULL};
  const char *many[80];
  char padding[60][24];
  int count = 0;
  for (; few[count]; count++) many[count] = few[count];
  for (int i = 0; i < 60; i++) {
    snprintf(padding[i], sizeof padding[i], "/pad%d/x", i);
    many[count++] = padding[i];
  }
  many[count] = NULL;
  struct host *small = make_host("h", false, few), *large = make_host("h", false, many);
  for (int i = 0; asked[i]; i++) {
    struct route_match a = router_match(small, span_of(asked[i])), b = router_match(large, span_of(asked[i]));
    assert_non_null(a.route);
    assert_non_null(b.route);
    if (a.route->index != b.route->index || a.add_slash != b.add_slash) fail_msg("%s: %u and %u", asked[i], a.route->index, b.route->index);
  }
  assert_int_equal(router_match(large, SPAN("/pad59/x/y")).route->index, 8 + 59);
  assert_int_equal(router_match(large, SPAN("/pad59/xy")).route->index, 0);
  small->unit.release(&small->unit);
  large->unit.release(&large->unit);
}

static void hosts_are_exact_then_wildcard_then_catch_all(void **state) {
  (void)state;
  const char *names[] = {"a.example.com", "*.example.com", "*.b.example.com", "_", "localhost"};
  struct host *hosts[5];
  struct snapshot_builder *builder = snapshot_builder_new(7);
  struct snapshot *empty = snapshot_build(builder);
  assert_null(router_find_host(empty, SPAN("a.example.com")));
  for (int i = 0; i < 5; i++) {
    hosts[i] = make_host(names[i], false, PATHS("/"));
    assert_null(snapshot_put_host(builder, span_of(names[i]), hosts[i]));
  }
  struct snapshot *snapshot = snapshot_build(builder);
  struct {
    const char *name;
    int host;
  } rows[] = {{"a.example.com", 0},
              {"a.example.com.", 0},
              {"x.example.com", 1},
              {"x_1-y.example.com", 1},
              {"b.example.com", 1},
              {"x.b.example.com", 2},
              {"example.com", 3},
              {"", 3},
              {"x.y.example.com", 3},
              {".example.com", 3},
              {"x!.example.com", 3},
              {"_", 3},
              {"localhost", 4},
              {"*.example.com", 1},
              {"com", 3},
              {"a.", 3}};
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    const struct host *found = router_find_host(snapshot, span_of(rows[i].name));
    if (found != hosts[rows[i].host]) fail_msg("%s: %s", rows[i].name, found ? found->name.data : "none");
  }
  snapshot_free(empty);
  snapshot_free(snapshot);
  snapshot_builder_free(builder);
  for (int i = 0; i < 5; i++) hosts[i]->unit.release(&hosts[i]->unit);
}

static void a_match_limit_ends_in_no_route(void **state) {
  (void)state;
  struct host *host = make_host("h", true, PATHS("~/(a+)+$$", "/"));
  char path[] = "/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!";
  struct route_match match = router_match(host, span_of(path));
  assert_int_equal(match.limit, REACHED_REGEX_MATCH);
  assert_null(match.route);
  host->unit.release(&host->unit);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(prefixes_match_whole_segments),
      cmocka_unit_test(exact_beats_prefix_and_longest_wins),
      cmocka_unit_test(a_slash_is_added_only_for_a_lonely_prefix),
      cmocka_unit_test(the_first_of_two_equal_ones_wins),
      cmocka_unit_test(regex_mode_goes_by_length_then_reverse_alphabet),
      cmocka_unit_test(many_slashes_cost_no_more_than_a_long_name),
      cmocka_unit_test(regex_mode_gives_captures),
      cmocka_unit_test(many_paths_match_as_few_do),
      cmocka_unit_test(hosts_are_exact_then_wildcard_then_catch_all),
      cmocka_unit_test(a_match_limit_ends_in_no_route),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
