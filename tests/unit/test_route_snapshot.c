/* Roots: put, delete, replace; what an old root still names; slots and their generations; four threads that match over one root. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/pack.h"
#include "route/router.h"
#include "route/upstream.h"

static struct upstream_ref find_upstream(void *context, struct span name) { return snapshot_upstream_slot(context, name); }
static uint32_t find_policy(void *context, struct span name) {
  (void)context, (void)name;
  return 0;
}

static void text(struct buffer *out, const char *value) { pack_put_string(out, span_of(value)); }

/* One route "/" (in regex mode: a pattern) to `upstream`. */
static struct host *make_host(struct snapshot_builder *builder, const char *name, const char *upstream, bool regex) {
  struct host_resolver resolver = {.upstream = find_upstream, .policy = find_policy, .context = builder};
  struct buffer body = {0};
  char error[200] = "";
  pack_put_map(&body, 2);
  text(&body, "regex");
  pack_put_boolean(&body, regex);
  text(&body, "routes");
  pack_put_array(&body, 1);
  pack_put_map(&body, 2);
  text(&body, "path");
  text(&body, regex ? "/(a|b)+/([0-9]*)" : "/");
  text(&body, "upstreams");
  pack_put_array(&body, 1);
  pack_put_map(&body, 1);
  text(&body, "name");
  text(&body, upstream);
  struct host *host = host_new(span_of(name), buffer_span(&body), &resolver, error, sizeof error);
  if (!host) fail_msg("%s", error);
  buffer_free(&body);
  return host;
}

static struct endpoint_record *no_record(void *context, const struct address *address, struct span upstream) {
  (void)context, (void)address, (void)upstream;
  return NULL;
}

static struct upstream *make_upstream(const char *name) {
  char error[200];
  struct upstream *upstream = upstream_new(span_of(name), SPAN("\x80"), no_record, NULL, error, sizeof error);
  assert_non_null(upstream);
  return upstream;
}

static void drop(struct unit *unit) {
  assert_non_null(unit);
  unit->release(unit);
}

static void units_come_and_go(void **state) {
  (void)state;
  struct snapshot_builder *builder = snapshot_builder_new(1);
  struct host *first = make_host(builder, "a.test", "u", false), *second = make_host(builder, "a.test", "u", false);
  struct settings *settings = settings_new_default();
  assert_null(snapshot_put_settings(builder, settings));
  assert_null(snapshot_put_host(builder, SPAN("a.test"), first));
  struct snapshot *one = snapshot_build(builder);
  assert_ptr_equal(snapshot_host(builder, SPAN("a.test")), first);
  assert_ptr_equal(snapshot_put_host(builder, SPAN("a.test"), second), &first->unit);
  struct snapshot *two = snapshot_build(builder);
  assert_ptr_equal(snapshot_put_host(builder, SPAN("a.test"), NULL), &second->unit);
  assert_null(snapshot_put_host(builder, SPAN("a.test"), NULL));
  struct snapshot *three = snapshot_build(builder);
  assert_int_equal(one->generation, 1);
  assert_int_equal(three->generation, 3);
  assert_ptr_equal(router_find_host(one, SPAN("a.test")), first);
  assert_ptr_equal(router_find_host(two, SPAN("a.test")), second);
  assert_null(router_find_host(three, SPAN("a.test")));
  assert_true(snapshot_names(one, &first->unit));
  assert_false(snapshot_names(two, &first->unit));
  assert_true(snapshot_names(two, &second->unit));
  assert_false(snapshot_names(three, &second->unit));
  assert_true(snapshot_names(three, &settings->unit));
  assert_ptr_equal(one->settings, settings);
  assert_int_equal(three->default_upstream.slot, UPSTREAM_NONE);
  drop(&first->unit);
  drop(&second->unit);
  drop(snapshot_put_settings(builder, NULL));
  snapshot_free(one);
  snapshot_free(two);
  snapshot_free(three);
  snapshot_builder_free(builder);
}

static void thousands_of_hosts_are_found_after_deletes(void **state) {
  (void)state;
  enum { COUNT = 3000 };
  static struct host *hosts[COUNT];
  struct snapshot_builder *builder = snapshot_builder_new(99);
  char name[32];
  for (int i = 0; i < COUNT; i++) {
    snprintf(name, sizeof name, i % 10 ? "h%d.test" : "*.h%d.test", i);
    hosts[i] = make_host(builder, name, "u", false);
    assert_null(snapshot_put_host(builder, span_of(name), hosts[i]));
  }
  struct snapshot *full = snapshot_build(builder);
  assert_true(full->has_wildcards);
  assert_int_equal(full->host_count, COUNT);
  snapshot_free(full);
  for (int i = 0; i < COUNT; i++) {
    if (i % 3 == 1) continue;
    snprintf(name, sizeof name, i % 10 ? "h%d.test" : "*.h%d.test", i);
    drop(snapshot_put_host(builder, span_of(name), NULL));
  }
  struct snapshot *snapshot = snapshot_build(builder);
  assert_int_equal(snapshot->host_count, COUNT / 3);
  for (int i = 0; i < COUNT; i++) {
    snprintf(name, sizeof name, i % 10 ? "h%d.test" : "x.h%d.test", i);
    assert_ptr_equal(router_find_host(snapshot, span_of(name)), i % 3 == 1 ? hosts[i] : NULL);
  }
  for (int i = 1; i < COUNT; i += 3) {
    snprintf(name, sizeof name, i % 10 ? "h%d.test" : "*.h%d.test", i);
    drop(snapshot_put_host(builder, span_of(name), NULL));
  }
  struct snapshot *empty = snapshot_build(builder);
  assert_false(empty->has_wildcards);
  assert_int_equal(empty->host_count, 0);
  snapshot_free(snapshot);
  snapshot_free(empty);
  snapshot_builder_free(builder);
}

static void slots_have_generations(void **state) {
  (void)state;
  struct snapshot_builder *builder = snapshot_builder_new(1);
  struct host *host = make_host(builder, "a.test", "one", false);
  struct upstream_ref one = snapshot_upstream_slot(builder, SPAN("one"));
  assert_int_equal(host->routes[0].upstreams[0].upstream.slot, one.slot);
  snapshot_put_host(builder, SPAN("a.test"), host);
  struct snapshot *snapshot = snapshot_build(builder);
  assert_null(snapshot_upstream(snapshot, one)); /* named, not described */
  snapshot_free(snapshot);
  struct upstream *upstream = make_upstream("one");
  assert_null(snapshot_put_upstream(builder, SPAN("one"), upstream));
  snapshot = snapshot_build(builder);
  assert_ptr_equal(snapshot_upstream(snapshot, one), upstream);
  assert_int_equal(upstream->slot, one.slot);
  assert_true(snapshot_names(snapshot, &upstream->unit));
  snapshot_free(snapshot);
  /* The Service goes and comes back while the host stays: the same slot. */
  drop(snapshot_put_upstream(builder, SPAN("one"), NULL));
  snapshot_free(snapshot_build(builder));
  struct upstream_ref again = snapshot_upstream_find(builder, SPAN("one"));
  assert_true(again.slot == one.slot && again.generation == one.generation);
  /* The host goes too: the slot is free for another name, and old refs lead nowhere. */
  drop(snapshot_put_host(builder, SPAN("a.test"), NULL));
  snapshot_free(snapshot_build(builder));
  assert_int_equal(snapshot_upstream_find(builder, SPAN("one")).slot, UPSTREAM_NONE);
  assert_null(snapshot_put_upstream(builder, SPAN("one"), NULL));
  struct upstream *other = make_upstream("other");
  snapshot_put_upstream(builder, SPAN("other"), other);
  struct upstream_ref ref = snapshot_upstream_find(builder, SPAN("other"));
  assert_int_equal(ref.slot, one.slot);
  assert_int_not_equal(ref.generation, one.generation);
  snapshot = snapshot_build(builder);
  assert_null(snapshot_upstream(snapshot, one));
  assert_ptr_equal(snapshot_upstream(snapshot, ref), other);
  assert_null(snapshot_upstream(snapshot, (struct upstream_ref){UPSTREAM_NONE, 0}));
  snapshot_free(snapshot);
  drop(snapshot_put_upstream(builder, SPAN("other"), NULL));
  snapshot_builder_free(builder);
}

static void settings_keep_the_default_upstream(void **state) {
  (void)state;
  struct snapshot_builder *builder = snapshot_builder_new(1);
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, 1);
  text(&body, "default_upstream");
  text(&body, "default-backend-80");
  struct settings *settings = settings_new(buffer_span(&body), error, sizeof error);
  buffer_free(&body);
  snapshot_put_settings(builder, settings);
  struct snapshot *snapshot = snapshot_build(builder);
  struct upstream_ref ref = snapshot_upstream_find(builder, SPAN("default-backend-80"));
  assert_int_not_equal(ref.slot, UPSTREAM_NONE);
  assert_int_equal(snapshot->default_upstream.slot, ref.slot);
  snapshot_free(snapshot);
  drop(snapshot_put_settings(builder, settings_new_default()));
  snapshot = snapshot_build(builder);
  assert_int_equal(snapshot->default_upstream.slot, UPSTREAM_NONE);
  assert_int_equal(snapshot_upstream_find(builder, SPAN("default-backend-80")).slot, UPSTREAM_NONE);
  snapshot_free(snapshot);
  drop(snapshot_put_settings(builder, NULL));
  snapshot_builder_free(builder);
}

static void release_plain(struct unit *unit) {
  arena_free(&unit->arena);
  free(unit);
}

static struct unit *make_certificate(void) {
  struct unit *unit = calloc(1, sizeof *unit);
  unit->magic = UNIT_MAGIC;
  unit->kind = UNIT_CERTIFICATE;
  unit->release = release_plain;
  arena_init(&unit->arena, NULL, 0);
  return unit;
}

static void certificates_are_found_by_key(void **state) {
  (void)state;
  enum { COUNT = 100 };
  struct snapshot_builder *builder = snapshot_builder_new(1);
  struct unit *units[COUNT];
  char key[32];
  for (int i = 0; i < COUNT; i++) {
    snprintf(key, sizeof key, "ns/%d", i);
    assert_null(snapshot_put_certificate(builder, span_of(key), units[i] = make_certificate()));
  }
  struct unit *newer = make_certificate();
  assert_ptr_equal(snapshot_put_certificate(builder, SPAN("ns/5"), newer), units[5]);
  struct snapshot *before = snapshot_build(builder);
  for (int i = 0; i < COUNT; i += 2) {
    snprintf(key, sizeof key, "ns/%d", i);
    assert_ptr_equal(snapshot_put_certificate(builder, span_of(key), NULL), units[i]);
  }
  struct snapshot *after = snapshot_build(builder);
  assert_int_equal(after->certificate_count, COUNT / 2);
  for (int i = 0; i < COUNT; i++) {
    snprintf(key, sizeof key, "ns/%d", i);
    struct unit *now = i == 5 ? newer : units[i];
    assert_ptr_equal(snapshot_certificate(before, span_of(key)), now);
    assert_ptr_equal(snapshot_certificate(after, span_of(key)), i % 2 ? now : NULL);
    assert_int_equal(snapshot_names(after, now), i % 2);
  }
  assert_false(snapshot_names(before, units[5]));
  snapshot_free(before);
  snapshot_free(after);
  for (int i = 0; i < COUNT; i++) drop(units[i]);
  drop(newer);
  snapshot_builder_free(builder);
}

static void *match_many(void *argument) {
  const struct snapshot *snapshot = argument;
  uintptr_t bad = 0;
  for (int i = 0; i < 5000; i++) {
    const struct host *host = router_find_host(snapshot, SPAN("r.test"));
    struct route_match match = router_match(host, SPAN("/abab/42"));
    bad += !match.route || match.captures.count != 3 || !span_equal(match.captures.groups[2], SPAN("42"));
    bad += router_match(router_find_host(snapshot, SPAN("x.p.test")), SPAN("/y")).route == NULL;
  }
  return (void *)bad;
}

static void four_threads_match_over_one_root(void **state) {
  (void)state;
  struct snapshot_builder *builder = snapshot_builder_new(1);
  struct host *regex = make_host(builder, "r.test", "u", true), *plain = make_host(builder, "*.p.test", "u", false);
  snapshot_put_host(builder, SPAN("r.test"), regex);
  snapshot_put_host(builder, SPAN("*.p.test"), plain);
  struct snapshot *snapshot = snapshot_build(builder);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, match_many, snapshot);
  for (int i = 0; i < 4; i++) {
    void *bad;
    pthread_join(threads[i], &bad);
    assert_null(bad);
  }
  snapshot_free(snapshot);
  drop(&regex->unit);
  drop(&plain->unit);
  snapshot_builder_free(builder);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(units_come_and_go),
      cmocka_unit_test(thousands_of_hosts_are_found_after_deletes),
      cmocka_unit_test(slots_have_generations),
      cmocka_unit_test(settings_keep_the_default_upstream),
      cmocka_unit_test(certificates_are_found_by_key),
      cmocka_unit_test(four_threads_match_over_one_root),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
