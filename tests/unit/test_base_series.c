/* Series: policies' counters, from several threads and at their bounds. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/series.h"

#define ROUNDS 4000

static struct series_declaration declare(const char *owner, const char *name, const char *label) {
  struct series_declaration declaration = {.owner = span_of(owner), .name = span_of(name), .help = SPAN("Help.")};
  if (label) declaration.labels[declaration.label_count++] = span_of(label);
  return declaration;
}

static struct series_counter *hold(struct series_registry *registry, const char *owner, const char *name, const char *label) {
  struct series_declaration declaration = declare(owner, name, label);
  return series_hold(registry, &declaration);
}

static void assert_text(struct series_registry *registry, const char *expected) {
  struct buffer out = {0};
  series_write(registry, &out);
  buffer_append(&out, span_make("", 1));
  assert_string_equal(out.data + out.start, expected);
  buffer_free(&out);
}

static void assert_reached(const struct series_registry *registry, unsigned counters, unsigned series, unsigned bytes) {
  assert_int_equal(series_reached(registry, COUNTER_LIMIT_POLICY_COUNTERS), counters);
  assert_int_equal(series_reached(registry, COUNTER_LIMIT_POLICY_SERIES), series);
  assert_int_equal(series_reached(registry, COUNTER_LIMIT_POLICY_SERIES_BYTES), bytes);
}

static void add(struct series_registry *registry, struct series_counter *counter, uint64_t amount, const char *value) {
  struct span span = span_of(value);
  series_add(registry, counter, amount, &span);
}

#define HEAD(name) "# HELP moongate_policy_" name "_total Help.\n# TYPE moongate_policy_" name "_total counter\n"

static void shows_what_was_counted(void **state) {
  (void)state;
  struct series_registry *registry = series_registry_new();
  assert_text(registry, "");
  struct series_counter *plain = hold(registry, "", "plain", NULL), *guest = hold(registry, "/b \"c\"", "hits", "side"),
                        *own = hold(registry, "", "hits", "side");
  assert_text(registry, HEAD("hits") HEAD("plain"));
  series_add(registry, plain, 3, NULL);
  add(registry, guest, 1, "new");
  add(registry, guest, 2, "new");
  add(registry, own, 5, "new");
  /* One metric stands together, under one head. */
  assert_text(registry, HEAD("hits") "moongate_policy_hits_total{side=\"new\"} 5\n"
                                     "moongate_policy_hits_total{owner=\"/b \\\"c\\\"\",side=\"new\"} 3\n" HEAD("plain") "moongate_policy_plain_total 3\n");
  series_release(plain);
  series_release(guest);
  series_release(own);
  series_registry_free(registry);
}

static void values_cannot_spoil_the_text(void **state) {
  (void)state;
  struct series_registry *registry = series_registry_new();
  struct series_declaration declaration = declare("", "x", "a");
  declaration.labels[declaration.label_count++] = SPAN("b");
  declaration.help = SPAN("One \\ two\nthree \"four\" \xff");
  struct series_counter *counter = series_hold(registry, &declaration);
  struct span values[] = {SPAN("\"} 9\\"), SPAN("\n\r\x7f\x01\0"
                                                "\xff\xc3\xa9\xed\xa0\x80\xf0\x9f\x98\x80")};
  series_add(registry, counter, 7, values);
  assert_text(registry,
              "# HELP moongate_policy_x_total One \\\\ two?three \"four\" ?\n# TYPE moongate_policy_x_total counter\n"
              "moongate_policy_x_total{a=\"\\\"} 9\\\\\",b=\"??????\xc3\xa9???\xf0\x9f\x98\x80\"} 7\n");
  series_release(counter);
  series_registry_free(registry);
}

static void values_are_told_apart(void **state) {
  (void)state;
  struct series_registry *registry = series_registry_new();
  struct series_declaration declaration = declare("", "x", "a");
  declaration.labels[declaration.label_count++] = SPAN("b");
  struct series_counter *counter = series_hold(registry, &declaration);
  struct span left[] = {SPAN("ab"), SPAN("")}, both[] = {SPAN("a"), SPAN("b")}, right[] = {SPAN(""), SPAN("ab")};
  for (int i = 0; i < 2; i++) {
    series_add(registry, counter, 1, left);
    series_add(registry, counter, 2, both);
    series_add(registry, counter, 3, right);
  }
  struct buffer out = {0};
  series_write(registry, &out);
  buffer_append(&out, span_make("", 1));
  assert_non_null(strstr(out.data, "{a=\"ab\",b=\"\"} 2\n"));
  assert_non_null(strstr(out.data, "{a=\"a\",b=\"b\"} 4\n"));
  assert_non_null(strstr(out.data, "{a=\"\",b=\"ab\"} 6\n"));
  buffer_free(&out);
  series_release(counter);
  series_registry_free(registry);
}

static void wrong_declarations_are_refused(void **state) {
  (void)state;
  char long_name[SERIES_NAME_BYTES + 2] = "", long_help[SERIES_HELP_BYTES + 2] = "";
  memset(long_name, 'n', SERIES_NAME_BYTES + 1);
  memset(long_help, 'h', SERIES_HELP_BYTES + 1);
  static const char *const bad_names[] = {"", "1x", "x y", "x\n", "x{", "\xc3\xa9"}, *const bad_labels[] = {"", "1", "__name__", "a=", "owner"};
  for (size_t i = 0; i < sizeof bad_names / sizeof *bad_names; i++) {
    struct series_declaration declaration = declare("", bad_names[i], NULL);
    assert_non_null(series_complaint(&declaration));
  }
  for (size_t i = 0; i < sizeof bad_labels / sizeof *bad_labels; i++) {
    struct series_declaration declaration = declare("", "x", bad_labels[i]);
    assert_non_null(series_complaint(&declaration));
  }
  struct series_declaration fine = declare("anything \"at\" all", "_x9", "_a"), named = declare("", long_name, NULL), labelled = declare("", "x", long_name);
  assert_null(series_complaint(&fine));
  assert_non_null(series_complaint(&named));
  assert_non_null(series_complaint(&labelled));
  fine.help = span_of(long_help);
  assert_non_null(series_complaint(&fine));
  struct series_declaration twice = declare("", "x", "a"), many = declare("", "x", NULL);
  twice.labels[twice.label_count++] = SPAN("a");
  assert_non_null(series_complaint(&twice));
  many.label_count = SERIES_LABELS + 1;
  assert_non_null(series_complaint(&many));
}

static void a_counter_outlives_its_policies(void **state) {
  (void)state;
  struct series_registry *registry = series_registry_new();
  struct series_counter *before = hold(registry, "g", "hits", "side");
  add(registry, before, 1, "new");
  series_release(before);
  struct series_declaration declaration = declare("g", "hits", "side");
  declaration.help = SPAN("Better help.");
  struct series_counter *after = series_hold(registry, &declaration);
  assert_ptr_equal(after, before);
  add(registry, after, 1, "new");
  assert_text(registry,
              "# HELP moongate_policy_hits_total Better help.\n# TYPE moongate_policy_hits_total counter\n"
              "moongate_policy_hits_total{owner=\"g\",side=\"new\"} 2\n");
  /* Other labels: it starts anew, and what old states still count is nobody's. */
  struct series_counter *changed = hold(registry, "g", "hits", "colour");
  add(registry, after, 1, "new");
  add(registry, changed, 1, "red");
  assert_text(registry, HEAD("hits") "moongate_policy_hits_total{owner=\"g\",colour=\"red\"} 1\n");
  series_release(after);
  struct series_counter *back = hold(registry, "g", "hits", "side");
  assert_text(registry, HEAD("hits"));
  series_release(back);
  series_release(changed);
  series_registry_free(registry);
}

static void beyond_its_bounds_it_drops(void **state) {
  (void)state;
  struct series_registry *registry = series_registry_new();
  struct series_counter *counter = hold(registry, "g", "c0", "n"), *others[LIMIT_POLICY_COUNTERS];
  char text[LIMIT_POLICY_SERIES_BYTES + 2] = "";
  for (int i = 0; i < LIMIT_POLICY_SERIES + 3; i++) {
    snprintf(text, sizeof text, "%d", i);
    add(registry, counter, 1, text);
  }
  assert_reached(registry, 0, 3, 0);
  add(registry, counter, 1, "0"); /* it goes on with those that it has */
  memset(text, 'x', LIMIT_POLICY_SERIES_BYTES + 1);
  add(registry, counter, 1, text);
  assert_reached(registry, 0, 3, 1);
  for (int i = 1; i < LIMIT_POLICY_COUNTERS; i++) {
    snprintf(text, sizeof text, "c%d", i);
    others[i] = hold(registry, "g", text, "n");
    assert_non_null(others[i]);
  }
  assert_null(hold(registry, "g", "more", "n"));
  assert_reached(registry, 1, 3, 1);
  add(registry, NULL, 1, "0");
  assert_reached(registry, 2, 3, 1);
  /* Neither another owner nor Moongate itself is short of them for that. */
  struct series_counter *neighbour = hold(registry, "h", "c0", "n"), *own = hold(registry, "", "c0", "n");
  assert_non_null(neighbour);
  assert_non_null(own);
  /* One that nobody holds makes room: that which was given up first. */
  series_release(others[5]);
  series_release(others[4]);
  struct series_counter *more = hold(registry, "g", "more", "n");
  assert_non_null(more);
  assert_ptr_equal(hold(registry, "g", "c4", "n"), others[4]);
  assert_null(hold(registry, "g", "c5", "n"));
  series_release(counter);
  series_release(neighbour);
  series_release(own);
  series_release(more);
  for (int i = 1; i < LIMIT_POLICY_COUNTERS; i++)
    if (i != 5) series_release(others[i]);
  series_registry_free(registry);
}

static void *count(void *context) {
  struct series_registry *registry = context;
  char text[16];
  struct series_counter *counter = hold(registry, "g", "hits", "n");
  for (int i = 0; i < ROUNDS; i++) {
    snprintf(text, sizeof text, "v%d", i % (LIMIT_POLICY_SERIES + 10));
    add(registry, counter, 2, text);
  }
  series_release(counter);
  return NULL;
}

/* As publisher and admin do meanwhile. */
static void *change(void *context) {
  struct series_registry *registry = context;
  for (int i = 0; i < 200; i++) {
    struct series_counter *same = hold(registry, "g", "hits", "n"), *other = hold(registry, "g", "passing", i % 2 ? "a" : "b");
    struct buffer out = {0};
    add(registry, other, 1, "x");
    series_write(registry, &out);
    buffer_free(&out);
    series_release(same);
    series_release(other);
  }
  return NULL;
}

static void threads_count_together(void **state) {
  (void)state;
  struct series_registry *registry = series_registry_new();
  struct series_counter *counter = hold(registry, "g", "hits", "n");
  pthread_t threads[6];
  for (int i = 0; i < 6; i++) assert_int_equal(pthread_create(&threads[i], NULL, i < 4 ? count : change, registry), 0);
  for (int i = 0; i < 6; i++) pthread_join(threads[i], NULL);
  struct buffer out = {0};
  series_write(registry, &out);
  buffer_append(&out, span_make("", 1));
  unsigned long long total = 0, lines = 0;
  for (const char *at = out.data; (at = strstr(at, "moongate_policy_hits_total{owner=\"g\",n=\"v")) != NULL; at++, lines++)
    total += strtoull(strchr(at, ' '), NULL, 10);
  assert_int_equal(lines, LIMIT_POLICY_SERIES);
  assert_int_equal(total + 2 * series_reached(registry, COUNTER_LIMIT_POLICY_SERIES), 4ull * ROUNDS * 2);
  buffer_free(&out);
  series_release(counter);
  series_registry_free(registry);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(shows_what_was_counted),         cmocka_unit_test(values_cannot_spoil_the_text),    cmocka_unit_test(values_are_told_apart),
      cmocka_unit_test(wrong_declarations_are_refused), cmocka_unit_test(a_counter_outlives_its_policies), cmocka_unit_test(beyond_its_bounds_it_drops),
      cmocka_unit_test(threads_count_together),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
