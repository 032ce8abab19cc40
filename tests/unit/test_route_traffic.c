/* What is counted of the requests of a route: records that outlive the units that name them, bounds, hosts, the text; and all of it while workers count, the
 * publisher builds anew and the admin thread reads. Run under ASan and under TSan. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/traffic_page.h"
#include "base/check.h"
#include "route/traffic_table.h"

enum { WORKERS = 2 };

static struct traffic_shape shape_of(const char *time) {
  struct traffic_shape shape = {.per_host = true, .workers = WORKERS};
  char error[200];
  must(histogram_bounds_parse(&shape.bounds[TRAFFIC_TIME], span_of(time), 6, error, sizeof error) == 0);
  must(histogram_bounds_parse(&shape.bounds[TRAFFIC_LENGTH], SPAN("10,100"), 0, error, sizeof error) == 0);
  must(histogram_bounds_parse(&shape.bounds[TRAFFIC_SIZE], SPAN("1000,1000000"), 0, error, sizeof error) == 0);
  return shape;
}

static struct traffic_labels labels_of(const char *host, const char *path) {
  return (struct traffic_labels){span_of(host), span_of(path), SPAN("default"), SPAN("shop"), SPAN("web"), {NULL, 0}};
}

static struct traffic *hold(struct traffic_table *table, const char *host, const char *path) {
  struct traffic_labels labels = labels_of(host, path);
  return traffic_table_hold(table, &labels);
}

static struct traffic_sample sample_of(const char *method, int status) {
  return (struct traffic_sample){.method = span_of(method),
                                 .status = status,
                                 .request_us = 2500,
                                 .request_bytes = 50,
                                 .response_bytes = 5000,
                                 .response_us = 2000,
                                 .connect_us = 0,
                                 .header_us = 1500};
}

static void count(struct traffic *traffic, unsigned worker, const char *method, int status) {
  struct traffic_sample sample = sample_of(method, status);
  assert_int_equal(traffic_count(traffic, worker, &sample), COUNTER_COUNT);
}

static char *page_of(struct traffic_table *table) {
  struct buffer out = {0};
  struct traffic_page *page = traffic_page_new(table, SPAN("controller_class=\"c\""));
  while (traffic_page_more(page, &out)) continue;
  traffic_page_free(page);
  buffer_append(&out, span_make("", 1));
  char *text = strdup(buffer_span(&out).data);
  buffer_free(&out);
  return text;
}

static void assert_page(struct traffic_table *table, const char *line, bool is_there) {
  char *text = page_of(table);
  if ((strstr(text, line) != NULL) != is_there) fail_msg("%s \"%s\" in\n%s", is_there ? "no" : "a", line, text);
  free(text);
}

#define REQUESTS(host, method, status, n) \
  "nginx_ingress_controller_requests{controller_class=\"c\",host=\"" host \
  "\",path=\"/\",namespace=\"default\",ingress=\"shop\",service=\"web\",canary=\"\"," \
  "method=\"" method "\",status=\"" status "\"} " n "\n"

static void test_rebuilding_keeps_counters(void **state) {
  (void)state;
  struct traffic_shape shape = shape_of("0.001,0.002,1");
  struct traffic_table *table = traffic_table_new(&shape);
  struct traffic *first = hold(table, "a.test", "/"), *other = hold(table, "a.test", "/other");
  assert_ptr_not_equal(first, other);
  count(first, 0, "GET", 200);
  struct traffic *again = hold(table, "a.test", "/"); /* the host is built anew before the old one goes */
  assert_ptr_equal(first, again);
  traffic_table_release(first);
  traffic_table_sweep(table);
  count(again, 1, "GET", 200);
  assert_page(table, REQUESTS("a.test", "GET", "200", "2"), true);
  assert_int_equal(traffic_table_count(table), 3); /* with nobody's */
  traffic_table_release(again);
  assert_page(table, "a.test", false);
  traffic_table_sweep(table);
  assert_int_equal(traffic_table_count(table), 2);
  assert_int_equal(atomic_load(&((struct traffic_shape *)traffic_table_shape(table))->series), 0);
  again = hold(table, "a.test", "/");
  assert_page(table, "a.test", false); /* and begins at nothing */
  traffic_table_release(again);
  traffic_table_release(other);
  traffic_table_free(table);
}

static void test_a_pin_keeps_a_record(void **state) {
  (void)state;
  struct traffic_shape shape = shape_of("1");
  struct traffic_table *table = traffic_table_new(&shape);
  struct traffic *traffic = hold(table, "a.test", "/");
  count(traffic, 0, "GET", 101);
  traffic_pin(traffic); /* a tunnel */
  traffic_table_release(traffic);
  traffic_table_sweep(table);
  assert_int_equal(traffic_table_count(table), 2);
  count(traffic, 0, "GET", 101);
  assert_page(table, "a.test", false);
  struct traffic *again = hold(table, "a.test", "/"); /* the Ingress comes back while the tunnel is open */
  assert_ptr_equal(again, traffic);
  assert_page(table, REQUESTS("a.test", "GET", "101", "2"), true);
  traffic_table_release(again);
  traffic_unpin(traffic);
  traffic_table_sweep(table);
  assert_int_equal(traffic_table_count(table), 1);
  traffic_table_free(table);
}

static void test_a_page_keeps_what_it_lists(void **state) {
  (void)state;
  struct traffic_shape shape = shape_of("1");
  struct traffic_table *table = traffic_table_new(&shape);
  struct traffic *traffic = hold(table, "a.test", "/");
  count(traffic, 0, "GET", 200);
  struct traffic_page *page = traffic_page_new(table, (struct span){NULL, 0});
  traffic_table_release(traffic);
  traffic_table_sweep(table);
  struct buffer out = {0};
  while (traffic_page_more(page, &out)) continue;
  struct span text = buffer_span(&out);
  assert_non_null(memmem(text.data, text.length, "host=\"a.test\"", 13));
  buffer_free(&out);
  traffic_page_free(page);
  traffic_table_sweep(table);
  assert_int_equal(traffic_table_count(table), 1);
  traffic_table_free(table);
}

/* No part is longer than it should be, however many series one record has; and one that finds nothing to say comes to an end too. */
static void test_a_page_comes_in_parts(void **state) {
  enum { HOSTS = 3000, RECORDS = 2000, PART = 16384 + 4096, SILENT_FAMILIES = 3, LOOKS = 256 };
  (void)state;
  struct traffic_shape shape = shape_of("1");
  struct traffic_table *table = traffic_table_new(&shape);
  struct traffic *records[RECORDS];
  struct traffic_sample sample = sample_of("GET", 404);
  sample.response_us = sample.connect_us = sample.header_us = -1; /* no endpoint was asked */
  char name[32];
  for (int i = 0; i < RECORDS; i++) {
    snprintf(name, sizeof name, "/%d", i);
    records[i] = hold(table, "a.test", name);
    assert_int_equal(traffic_count(records[i], 0, &sample), COUNTER_COUNT);
  }
  for (unsigned i = 0; i < HOSTS * WORKERS; i++) {
    snprintf(name, sizeof name, "%u.test", i % HOSTS);
    sample.host = span_of(name);
    assert_int_equal(traffic_count(traffic_table_nobody(table), i / HOSTS, &sample), COUNTER_COUNT);
  }
  struct traffic_page *page = traffic_page_new(table, (struct span){NULL, 0});
  struct buffer part = {0}, all = {0};
  unsigned silent = 0;
  for (bool is_more = true; is_more;) {
    is_more = traffic_page_more(page, &part);
    assert_in_range(buffer_length(&part), 0, PART);
    if (buffer_length(&part) == 0) silent++;
    buffer_append(&all, buffer_span(&part));
    buffer_consume(&part, buffer_length(&part));
  }
  assert_in_range(silent, SILENT_FAMILIES * (RECORDS + HOSTS) / LOOKS - SILENT_FAMILIES, 1000);
  traffic_page_free(page);
  buffer_append(&all, span_make("", 1));
  unsigned found = 0;
  for (const char *at = buffer_span(&all).data; (at = strstr(at, "\nnginx_ingress_controller_requests{")); at++) found++;
  assert_int_equal(found, HOSTS + RECORDS); /* each host once, for all workers */
  buffer_free(&part);
  buffer_free(&all);
  for (int i = 0; i < RECORDS; i++) traffic_table_release(records[i]);
  traffic_table_free(table);
}

static void test_text(void **state) {
  (void)state;
  struct traffic_shape shape = shape_of("0.001,0.002,1");
  struct traffic_table *table = traffic_table_new(&shape);
  struct traffic *traffic = hold(table, "a.test", "/\"x\"");
  struct traffic_sample sample = sample_of("BREW", 503);
  sample.response_us = sample.connect_us = sample.header_us = -1; /* no endpoint was asked */
  assert_int_equal(traffic_count(traffic, 0, &sample), COUNTER_COUNT);
  char *text = page_of(table);
  static const char labels[] =
      "controller_class=\"c\",host=\"a.test\",path=\"/"
      "\\\"x\\\"\",namespace=\"default\",ingress=\"shop\",service=\"web\",canary=\"\",method=\"other\",status=\"503\"";
  char expected[2000];
  snprintf(expected, sizeof expected,
           "# TYPE nginx_ingress_controller_request_duration_seconds histogram\n"
           "nginx_ingress_controller_request_duration_seconds_bucket{%s,le=\"0.001\"} 0\n"
           "nginx_ingress_controller_request_duration_seconds_bucket{%s,le=\"0.002\"} 0\n"
           "nginx_ingress_controller_request_duration_seconds_bucket{%s,le=\"1\"} 1\n"
           "nginx_ingress_controller_request_duration_seconds_bucket{%s,le=\"+Inf\"} 1\n"
           "nginx_ingress_controller_request_duration_seconds_sum{%s} 0.0025\n"
           "nginx_ingress_controller_request_duration_seconds_count{%s} 1\n",
           labels, labels, labels, labels, labels, labels);
  if (!strstr(text, expected)) fail_msg("%s", text);
  assert_null(strstr(text, "response_duration_seconds_count"));
  assert_null(strstr(text, "connect_duration_seconds_count"));
  assert_null(strstr(text, "header_duration_seconds_count"));
  assert_non_null(strstr(text, "nginx_ingress_controller_request_size_sum{controller_class=\"c\",host=\"a.test\""));
  assert_non_null(strstr(text, "nginx_ingress_controller_bytes_sent_bucket{controller_class=\"c\",host=\"a.test\""));
  free(text);
  traffic_table_release(traffic);
  traffic_table_free(table);
}

static void test_classes_and_exclusions(void **state) {
  (void)state;
  struct traffic_shape shape = shape_of("1");
  shape.by_class = true;
  shape.per_host = false;
  shape.is_excluded[TRAFFIC_REQUEST_DURATION] = shape.is_excluded[TRAFFIC_BYTES_SENT] = true;
  struct traffic_table *table = traffic_table_new(&shape);
  struct traffic *traffic = hold(table, "a.test", "/"), *same = hold(table, "b.test", "/");
  assert_ptr_equal(traffic, same); /* without the host, their labels are equal */
  count(traffic, 0, "POST", 200);
  count(traffic, 1, "POST", 204);
  count(traffic, 1, "POST", 404);
  char *text = page_of(table);
  assert_non_null(strstr(text, "canary=\"\",method=\"POST\",status=\"2xx\"} 2\n"));
  assert_non_null(strstr(text, "canary=\"\",method=\"POST\",status=\"4xx\"} 1\n"));
  assert_null(strstr(text, "host="));
  assert_null(strstr(text, "request_duration"));
  assert_null(strstr(text, "bytes_sent"));
  assert_non_null(strstr(text, "response_size_count{"));
  free(text);
  traffic_table_release(traffic);
  traffic_table_release(same);
  traffic_table_free(table);
}

static void test_series_of_a_route_are_bounded(void **state) {
  (void)state;
  struct traffic_shape shape = shape_of("1");
  struct traffic_table *table = traffic_table_new(&shape);
  struct traffic *traffic = hold(table, "a.test", "/");
  for (int status = 100; status < 100 + LIMIT_METRIC_ROUTE_SERIES; status++) count(traffic, 0, "GET", status);
  struct traffic_sample more = sample_of("GET", 999);
  assert_int_equal(traffic_count(traffic, 0, &more), COUNTER_LIMIT_METRIC_ROUTE_SERIES);
  count(traffic, 0, "GET", 100); /* those that are there go on */
  assert_int_equal(atomic_load(&traffic->shape->series), LIMIT_METRIC_ROUTE_SERIES);
  atomic_store(&traffic->shape->series, LIMIT_METRIC_SERIES);
  assert_int_equal(traffic_count(traffic, 1, &more), COUNTER_LIMIT_METRIC_SERIES);
  atomic_store(&traffic->shape->series, LIMIT_METRIC_ROUTE_SERIES);
  traffic_table_release(traffic);
  traffic_table_sweep(table);
  traffic_table_free(table);
}

static void test_other_hosts(void **state) {
  (void)state;
  struct traffic_shape shape = shape_of("1");
  struct traffic_table *table = traffic_table_new(&shape);
  struct traffic *traffic = hold(table, "*.test", "/");
  struct traffic_sample sample = sample_of("GET", 200);
  char name[40];
  for (int i = 0; i < 100; i++) {
    snprintf(name, sizeof name, "n%d.test", i % 50);
    sample.host = span_of(name);
    assert_int_equal(traffic_count(traffic, (unsigned)i % 4 / 2, &sample), COUNTER_COUNT);
  }
  count(traffic, 0, "GET", 200);
  assert_page(table, REQUESTS("n7.test", "GET", "200", "2"), true);
  assert_page(table, REQUESTS("n49.test", "GET", "200", "2"), true);
  assert_page(table, REQUESTS("*.test", "GET", "200", "1"), true);
  uint32_t made = atomic_load(&traffic->shape->host_series);
  assert_int_equal(made, 100); /* of two workers */
  atomic_store(&traffic->shape->host_series, LIMIT_METRIC_HOST_SERIES);
  sample.host = SPAN("more.test");
  assert_int_equal(traffic_count(traffic, 0, &sample), COUNTER_LIMIT_METRIC_HOST_SERIES);
  sample.host = SPAN("n7.test");
  sample.status = 404;
  assert_int_equal(traffic_count(traffic, 0, &sample), COUNTER_LIMIT_METRIC_HOST_SERIES);
  count(traffic, 0, "GET", 201); /* what hosts of strangers use up is theirs alone */
  atomic_store(&traffic->shape->host_series, made);
  traffic_table_release(traffic);
  traffic_table_free(table);
}

static void test_places(void **state) {
  (void)state;
  static const struct {
    const char *own, *matched, *requested, *host; /* host NULL: does not count; "": the record's own */
    bool per_host, undefined;
  } cases[] = {
      {"a.test", "a.test", "a.test", "", true, false},
      {"a.test", "alias.test", "alias.test", "alias.test", true, false},
      {"*.test", "*.test", "x.test", "", true, false},
      {"*.test", "*.test", "x.test", "x.test", true, true},
      {"a.test", "*.alias", "x.alias", "*.alias", true, false},
      {"_", "_", "who.test", NULL, true, false},
      {"_", "_", "who.test", "who.test", true, true},
      {"_", "_", "", "", true, false},
      {"_", "", "who.test", NULL, true, false},
      {"_", "", "who.test", "who.test", true, true},
      {"_", "", "who.test", "", false, false},
      {"a.test", "alias.test", "alias.test", "", false, false},
      {"_", "a.test", "a.test", "a.test", true, false},
  };
  for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct traffic_shape shape = {.per_host = cases[i].per_host, .undefined_hosts = cases[i].undefined};
    struct traffic traffic = {.magic = TRAFFIC_MAGIC, .shape = &shape, .host = span_of(cases[i].own)};
    struct span host;
    bool counts = traffic_place(&traffic, span_of(cases[i].matched), span_of(cases[i].requested), &host);
    if (counts != (cases[i].host != NULL) || (counts && !span_equal(host, span_of(cases[i].host)))) fail_msg("case %u", i);
  }
}

/* ---- threads ---- */

struct race {
  struct traffic_table *table;
  _Atomic(struct traffic *) now; /* what workers find: named until `done` of each of them says that they have let go of it */
  _Atomic uint64_t let_go[WORKERS];
  _Atomic bool is_over;
};

struct counting {
  struct race *race;
  unsigned number;
  uint64_t counted;
  pthread_t thread;
};

static void *count_all(void *context) {
  struct counting *counting = context;
  struct race *race = counting->race;
  static const char *const methods[] = {"GET", "POST", "DELETE", "BREW"};
  while (!atomic_load(&race->is_over)) {
    struct traffic *traffic = atomic_load(&race->now);
    struct traffic_sample sample = sample_of(methods[counting->counted % 4], 200 + (int)(counting->counted % 7));
    char host[40];
    snprintf(host, sizeof host, "n%u.test", (unsigned)(counting->counted % 5));
    if (counting->counted % 3 == 0) sample.host = span_of(host);
    must(traffic_count(traffic, counting->number, &sample) == COUNTER_COUNT);
    counting->counted++;
    atomic_fetch_add(&race->let_go[counting->number], 1);
  }
  return NULL;
}

static void *read_all(void *context) {
  struct race *race = context;
  while (!atomic_load(&race->is_over)) {
    char *text = page_of(race->table);
    free(text);
  }
  return NULL;
}

static void test_threads(void **state) {
  (void)state;
  struct traffic_shape shape = shape_of("0.001,1");
  struct race race = {.table = traffic_table_new(&shape)};
  struct counting counting[WORKERS];
  pthread_t reader;
  struct traffic *now = hold(race.table, "a.test", "/");
  atomic_store(&race.now, now);
  for (unsigned i = 0; i < WORKERS; i++) {
    counting[i] = (struct counting){&race, i, 0, 0};
    assert_int_equal(pthread_create(&counting[i].thread, NULL, count_all, &counting[i]), 0);
  }
  assert_int_equal(pthread_create(&reader, NULL, read_all, &race), 0);
  for (unsigned change = 0; change < 300; change++) {
    char path[40];
    snprintf(path, sizeof path, "/%u", change);
    struct traffic *next = hold(race.table, "a.test", path), *before = now;
    atomic_store(&race.now, now = next);
    /* A worker that has counted twice since then has let go of the one before. */
    for (unsigned i = 0; i < WORKERS; i++) {
      uint64_t seen = atomic_load(&race.let_go[i]);
      while (atomic_load(&race.let_go[i]) < seen + 2) sched_yield();
    }
    traffic_table_release(before);
    traffic_table_sweep(race.table);
  }
  atomic_store(&race.is_over, true);
  for (unsigned i = 0; i < WORKERS; i++) pthread_join(counting[i].thread, NULL);
  pthread_join(reader, NULL);
  traffic_table_release(now);
  traffic_table_sweep(race.table);
  assert_int_equal(traffic_table_count(race.table), 1);
  traffic_table_free(race.table);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_rebuilding_keeps_counters),
                                     cmocka_unit_test(test_a_pin_keeps_a_record),
                                     cmocka_unit_test(test_a_page_keeps_what_it_lists),
                                     cmocka_unit_test(test_a_page_comes_in_parts),
                                     cmocka_unit_test(test_text),
                                     cmocka_unit_test(test_classes_and_exclusions),
                                     cmocka_unit_test(test_series_of_a_route_are_bounded),
                                     cmocka_unit_test(test_other_hosts),
                                     cmocka_unit_test(test_places),
                                     cmocka_unit_test(test_threads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
