/* The text format of Prometheus: labels, numbers as Go writes them, and histograms. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/exposition.h"
#include "base/histogram.h"

static const struct span none = {NULL, 0};

static void assert_text(struct buffer *out, const char *expected) {
  buffer_append(out, span_make("", 1));
  assert_string_equal(buffer_span(out).data, expected);
  buffer_free(out);
}

static void assert_float(double value, const char *expected) {
  char text[EXPOSITION_FLOAT];
  struct span span = exposition_float(value, text);
  assert_string_equal(text, expected);
  assert_int_equal(span.length, strlen(expected));
}

/* What strconv.FormatFloat(x, 'g', -1, 64) gives. */
static void test_floats(void **state) {
  (void)state;
  assert_float(0, "0");
  assert_float(0.005, "0.005");
  assert_float(0.1, "0.1");
  assert_float(0.25, "0.25");
  assert_float(2.5, "2.5");
  assert_float(1, "1");
  assert_float(10, "10");
  assert_float(100, "100");
  assert_float(100000, "100000");
  assert_float(1e6, "1e+06");
  assert_float(1e7, "1e+07");
  assert_float(12345678, "1.2345678e+07");
  assert_float(123456, "123456");
  assert_float(0.0001, "0.0001");
  assert_float(0.00001, "1e-05");
  assert_float(1.0 / 3, "0.3333333333333333");
  assert_float(-2.5, "-2.5");
}

static void test_labels(void **state) {
  (void)state;
  struct buffer labels = {0};
  exposition_label(&labels, "a", SPAN("plain"));
  exposition_label(&labels, "b", SPAN("say \"hi\"\\\nthere"));
  exposition_label(&labels, "c", SPAN("gr\xc3\xbc\xc3\x9f \xff\xc3"));
  exposition_label(&labels, "d", none);
  assert_text(&labels, "a=\"plain\",b=\"say \\\"hi\\\"\\\\\\nthere\",c=\"gr\xc3\xbc\xc3\x9f ??\",d=\"\"");
}

static void test_lines(void **state) {
  (void)state;
  struct buffer out = {0};
  exposition_family(&out, SPAN("up"), "gauge", "Is \"it\" up?\nOr \\ not.");
  exposition_sample(&out, SPAN("up"), none, none, 0);
  exposition_sample(&out, SPAN("up"), SPAN("a=\"1\""), none, 18446744073709551615u);
  exposition_sample(&out, SPAN("up"), none, SPAN("b=\"2\""), 7);
  exposition_sample(&out, SPAN("up"), SPAN("a=\"1\""), SPAN("b=\"2\""), 10);
  assert_text(&out, "# HELP up Is \"it\" up?\\nOr \\\\ not.\n# TYPE up gauge\nup 0\nup{a=\"1\"} 18446744073709551615\nup{b=\"2\"} 7\nup{a=\"1\",b=\"2\"} 10\n");
}

static void test_scaled(void **state) {
  (void)state;
  struct buffer out = {0};
  static const uint64_t values[] = {0, 1, 1000000, 1500000, 10, 123456789};
  for (unsigned i = 0; i < sizeof values / sizeof values[0]; i++) {
    exposition_scaled(&out, values[i], 6);
    buffer_append(&out, SPAN(" "));
  }
  exposition_scaled(&out, 42, 0);
  assert_text(&out, "0 0.000001 1 1.5 0.00001 123.456789 42");
}

static void test_bounds(void **state) {
  (void)state;
  struct histogram_bounds bounds;
  char error[200];
  assert_int_equal(histogram_bounds_parse(&bounds, SPAN("0.005,0.29, 0.7,1e1"), 6, error, sizeof error), 0);
  assert_int_equal(bounds.count, 4);
  assert_int_equal(bounds.values[0], 5000);
  assert_int_equal(bounds.values[1], 290000);
  assert_int_equal(bounds.values[2], 700000);
  assert_int_equal(bounds.values[3], 10000000);
  assert_string_equal(bounds.texts[3], "10");
  static const char *const bad[][2] = {{"", "holds no number"},      {"1,x", "\"x\" is not a number"}, {"1,1", "\"1\" is not more"},
                                       {"2,1", "\"1\" is not more"}, {"-1", "is not a number of 0"},   {"1,inf", "is not a number of"},
                                       {"nan", "is not a number"},   {"1 2", "is not a number"}};
  for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    assert_int_equal(histogram_bounds_parse(&bounds, span_of(bad[i][0]), 6, error, sizeof error), -1);
    if (!strstr(error, bad[i][1])) fail_msg("%s: %s", bad[i][0], error);
  }
  char many[1200] = "0";
  for (int i = 1; i <= HISTOGRAM_BOUNDS; i++) snprintf(many + strlen(many), 16, ",%d", i);
  assert_int_equal(histogram_bounds_parse(&bounds, span_of(many), 0, error, sizeof error), -1);
  assert_non_null(strstr(error, "too many"));
}

static void test_histogram(void **state) {
  (void)state;
  struct histogram_bounds bounds;
  char error[200];
  _Atomic uint64_t cells[5] = {0};
  uint64_t seen[5];
  assert_int_equal(histogram_bounds_parse(&bounds, SPAN("0.001,0.5,1"), 6, error, sizeof error), 0);
  assert_int_equal(histogram_cells(&bounds), 5);
  static const uint64_t values[] = {0, 1000, 1001, 500000, 1000000, 1000001, 90000000};
  for (unsigned i = 0; i < 7; i++) histogram_observe(&bounds, cells, values[i]);
  for (unsigned i = 0; i < 5; i++) seen[i] = cells[i];
  struct buffer out = {0};
  histogram_write(&out, &bounds, seen, SPAN("t"), SPAN("a=\"b\""));
  histogram_write(&out, &bounds, seen, SPAN("t"), none);
  assert_text(&out,
              "t_bucket{a=\"b\",le=\"0.001\"} 2\nt_bucket{a=\"b\",le=\"0.5\"} 4\nt_bucket{a=\"b\",le=\"1\"} 5\nt_bucket{a=\"b\",le=\"+Inf\"} 7\n"
              "t_sum{a=\"b\"} 92.502002\nt_count{a=\"b\"} 7\n"
              "t_bucket{le=\"0.001\"} 2\nt_bucket{le=\"0.5\"} 4\nt_bucket{le=\"1\"} 5\nt_bucket{le=\"+Inf\"} 7\nt_sum 92.502002\nt_count 7\n");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_floats), cmocka_unit_test(test_labels), cmocka_unit_test(test_lines),
                                     cmocka_unit_test(test_scaled), cmocka_unit_test(test_bounds), cmocka_unit_test(test_histogram)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
