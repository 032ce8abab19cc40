/* Metrics: what is counted in more than one place is shown once. */
#include "app/metrics.h"
#include "proxy_world.h"

static unsigned long long shown(struct log_writer *writer, const char *name) {
  struct series_registry *registry = series_registry_new();
  struct counters *counters[] = {&world.counters};
  struct metrics_source source = {.counters = counters, .count = 1, .logs = writer, .series = registry, .controller_class = "test"};
  struct buffer out = {0};
  struct metrics_page *page = metrics_page_new(&source);
  while (metrics_page_more(page, &out)) continue;
  metrics_page_free(page);
  buffer_append(&out, span_make("", 1));
  char line[128];
  snprintf(line, sizeof line, "\n%s ", name);
  const char *at = strstr(buffer_span(&out).data, line);
  assert_non_null(at);
  series_registry_free(registry);
  unsigned long long value = strtoull(at + strlen(line), NULL, 10);
  buffer_free(&out);
  return value;
}

static void test_dropped_lines(void **state) {
  (void)state;
  struct log_writer *writer = log_writer_new(false, LOG_INFO);
  struct log_ring *ring = log_writer_log(writer, "worker")->ring; /* nobody drains it: the writer was not started */
  static char filler[4096];
  memset(filler, 'x', sizeof filler);
  unsigned refused = 0;
  for (size_t size = sizeof filler; size > 0; size /= 2, refused++)
    while (log_ring_put(ring, LOG_OWN, span_make(filler, size))) continue;
  assert_int_equal(shown(writer, "moongate_log_lines_dropped_total"), refused);
  world.log.ring = ring;
  struct peer *client = client_connect();
  peer_send(client, "GET / HTTP/1.1\r\nHost: foo.test\r\n\r\n");
  peer_await(server_await(0), "\r\n\r\n");
  peer_send(world.servers[0], "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  peer_await(client, "\r\n\r\nok");
  assert_at_rest();
  assert_int_equal(shown(writer, "moongate_log_lines_dropped_total"), refused + 1);
  world.log.ring = NULL;
  log_writer_free(writer);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_dropped_lines, world_up, world_down)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
