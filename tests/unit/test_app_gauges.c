/* What stands behind /metrics in app: how long changes took, gauges of the sync thread, endpoint states, the flags. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/change_times.h"
#include "app/gauges.h"
#include "app/metrics.h"
#include "app/options.h"
#include "app/records.h"

static char *text_of(struct buffer *out) {
  buffer_append(out, span_make("", 1));
  char *text = strdup(buffer_span(out).data);
  buffer_free(out);
  return text;
}

static void assert_has(const char *text, const char *part) {
  if (!strstr(text, part)) fail_msg("no \"%s\" in\n%s", part, text);
}

/* ---- change times ---- */

static char *times_of(const struct change_times *times) {
  struct buffer out = {0};
  change_times_write(times, &out);
  return text_of(&out);
}

static void test_change_times(void **state) {
  (void)state;
  struct change_times times;
  change_times_init(&times);
  change_times_taken(&times, 0); /* from before the start */
  change_times_taken(&times, 1000000);
  change_times_live(&times, 5, 1003000); /* in no root yet */
  change_times_taken(&times, 1002000);
  change_times_published(&times, 6);
  change_times_taken(&times, 1004000);
  change_times_published(&times, 7);
  change_times_live(&times, 5, 1006000); /* a worker has the one before */
  char *text = times_of(&times);
  assert_has(text, "moongate_change_to_live_seconds_count 0\n");
  free(text);
  change_times_live(&times, 6, 1010000);
  text = times_of(&times);
  assert_has(text, "moongate_change_to_live_seconds_bucket{le=\"0.005\"} 0\n");
  assert_has(text, "moongate_change_to_live_seconds_bucket{le=\"0.01\"} 2\n");
  assert_has(text, "moongate_change_to_live_seconds_sum 0.018\n");
  free(text);
  change_times_live(&times, 9, 1010000);
  change_times_live(&times, 10, 1020000); /* each counts once */
  text = times_of(&times);
  assert_has(text, "moongate_change_to_live_seconds_sum 0.024\n");
  assert_has(text, "moongate_change_to_live_seconds_count 3\n");
  free(text);
}

static void test_many_changes_wait(void **state) {
  (void)state;
  struct change_times times;
  change_times_init(&times);
  for (uint64_t i = 1; i <= CHANGE_TIMES_PENDING * 2; i++) {
    change_times_taken(&times, i);
    change_times_published(&times, i);
  }
  assert_int_equal(times.count, CHANGE_TIMES_PENDING);
  change_times_live(&times, CHANGE_TIMES_PENDING * 2, 1000);
  assert_int_equal(times.count, 0);
}

/* ---- gauges ---- */

#define LEADER SPAN("nginx_ingress_controller_leader_election_status")
#define EXPIRY SPAN("nginx_ingress_controller_ssl_expire_time_seconds")

static char *gauges_of(struct gauges *gauges) {
  struct buffer out = {0};
  for (unsigned next = 0; gauges_write(gauges, &next, SPAN("controller_pod=\"p\""), &out);) continue;
  return text_of(&out);
}

static void test_gauges(void **state) {
  (void)state;
  struct gauges *gauges = gauges_new();
  char *text = gauges_of(gauges);
  assert_string_equal(text, "");
  free(text);
  gauges_set(gauges, LEADER, SPAN("l"), SPAN("name=\"l\""), 0);
  gauges_set(gauges, LEADER, SPAN("l"), SPAN("name=\"l\""), 1);
  gauges_set(gauges, EXPIRY, SPAN("a"), SPAN("host=\"a\""), 1893456000);
  gauges_set(gauges, EXPIRY, SPAN("b"), SPAN("host=\"b\""), 0.5);
  gauges_set(gauges, SPAN("moongate_watch_restarts_total"), SPAN(""), SPAN(""), 3);
  text = gauges_of(gauges);
  assert_has(text,
             "# TYPE nginx_ingress_controller_leader_election_status gauge\n"
             "nginx_ingress_controller_leader_election_status{controller_pod=\"p\",name=\"l\"} 1\n");
  assert_has(text, "\nnginx_ingress_controller_ssl_expire_time_seconds{host=\"a\"} 1893456000\n");
  assert_has(text, "\nnginx_ingress_controller_ssl_expire_time_seconds{host=\"b\"} 0.5\n");
  assert_has(text, "# TYPE moongate_watch_restarts_total counter\nmoongate_watch_restarts_total 3\n");
  free(text);
  gauges_remove(gauges, EXPIRY, SPAN("b"));
  gauges_remove(gauges, EXPIRY, SPAN("never"));
  gauges_show(gauges, EXPIRY, false);
  text = gauges_of(gauges);
  assert_null(strstr(text, "ssl_expire"));
  free(text);
  gauges_show(gauges, EXPIRY, true);
  text = gauges_of(gauges);
  assert_has(text, "{host=\"a\"}");
  assert_null(strstr(text, "{host=\"b\"}"));
  free(text);
  gauges_free(gauges);
}

/* ---- endpoints ---- */

static void test_endpoint_states(void **state) {
  (void)state;
  struct records *records = records_new();
  struct endpoint_record *made[6];
  for (unsigned i = 0; i < 6; i++) {
    struct address address = {.v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)(80 + i))}};
    made[i] = records_get(records, SPAN("up"), &address);
  }
  atomic_store(&made[1]->is_draining, true);
  atomic_store(&made[2]->out_until_ms, 5);
  atomic_store(&made[3]->is_listed, false);
  struct buffer out = {0};
  records_write_states(records, &out);
  char *text = text_of(&out);
  assert_has(text, "moongate_endpoints{state=\"ready\"} 3\n");
  assert_has(text, "moongate_endpoints{state=\"draining\"} 1\n");
  assert_has(text, "moongate_endpoints{state=\"failed\"} 1\n");
  assert_has(text, "moongate_endpoints{state=\"leaving\"} 1\n");
  free(text);
  for (unsigned i = 0; i < 6; i++) assert_int_equal(atomic_load(&made[i]->pins), 0);
  records_free(records);
}

static void test_many_endpoints(void **state) {
  (void)state;
  struct records *records = records_new();
  for (unsigned i = 0; i < 20000; i++) {
    struct address address = {.v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000000 + i), .sin_port = htons(80)}};
    records_get(records, SPAN("up"), &address);
  }
  struct buffer out = {0};
  records_write_states(records, &out); /* in parts */
  char *text = text_of(&out);
  assert_has(text, "moongate_endpoints{state=\"ready\"} 20000\n");
  free(text);
  records_free(records);
}

/* ---- flags ---- */

static struct span unknown[4];
static unsigned unknown_count;
static void note_unknown(void *context, struct span name) {
  (void)context;
  unknown[unknown_count++] = name;
}

static int read_flags(struct traffic_shape *shape, char *error, const char **argv, int argc) {
  struct options options;
  unknown_count = 0;
  assert_int_equal(options_parse(&options, argc, (char **)argv, error, 200), 0);
  return metrics_shape(&options, 3, shape, note_unknown, NULL, error, 200);
}

static void test_flags(void **state) {
  (void)state;
  struct traffic_shape shape;
  char error[200] = "";
  assert_int_equal(read_flags(&shape, error, NULL, 0), 0);
  assert_int_equal(shape.bounds[TRAFFIC_TIME].count, 11);
  assert_int_equal(shape.bounds[TRAFFIC_TIME].values[0], 5000);
  assert_int_equal(shape.bounds[TRAFFIC_LENGTH].count, 10);
  assert_string_equal(shape.bounds[TRAFFIC_SIZE].texts[6], "1e+07");
  assert_true(shape.per_host);
  assert_false(shape.by_class || shape.undefined_hosts);
  assert_int_equal(shape.workers, 3);
  const char *good[] = {"--time-buckets=0.1,1",
                        "--length-buckets",
                        "1000,1e6",
                        "--exclude-socket-metrics=bytes_sent,nginx_ingress_controller_requests",
                        "--exclude-socket-metrics=request_sizes",
                        "--report-status-classes"};
  assert_int_equal(read_flags(&shape, error, good, 6), 0);
  assert_int_equal(shape.bounds[TRAFFIC_TIME].count, 2);
  assert_int_equal(shape.bounds[TRAFFIC_LENGTH].values[1], 1000000);
  assert_true(shape.is_excluded[TRAFFIC_BYTES_SENT] && shape.is_excluded[TRAFFIC_REQUESTS] && shape.by_class);
  assert_false(shape.is_excluded[TRAFFIC_REQUEST_SIZE]);
  assert_int_equal(unknown_count, 1);
  assert_true(span_equal(unknown[0], SPAN("request_sizes")));
  const char *bad[] = {"--size-buckets=10,5"};
  assert_int_equal(read_flags(&shape, error, bad, 1), -1);
  assert_string_equal(error, "--size-buckets: \"5\" is not more than the one before");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_change_times),    cmocka_unit_test(test_many_changes_wait), cmocka_unit_test(test_gauges),
                                     cmocka_unit_test(test_endpoint_states), cmocka_unit_test(test_many_endpoints),    cmocka_unit_test(test_flags)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
