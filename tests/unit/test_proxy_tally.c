/* Where an exchange counts in the request metrics: its route's record, whatever becomes of the host meanwhile; long ones at their end. */
#include "proxy_world.h"

#include "app/traffic_page.h"
#include "proxy/tally.h"

#define GET(host) "GET / HTTP/1.1\r\nHost: " host "\r\n\r\n"
#define OK "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#define UPGRADE "GET /ws HTTP/1.1\r\nHost: foo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
#define SWITCH "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

static bool undefined_hosts;

static void put_alias(const char *name, const char *owner) {
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, 1);
  put_pair(&body, "owner", owner);
  struct host_resolver resolver = {.upstream = find_slot, .policy = find_policy, .traffic = world.traffic};
  struct host *host = host_new(span_of(name), buffer_span(&body), &resolver, error, sizeof error);
  buffer_free(&body);
  if (!host) fail_msg("host: %s", error);
  born(&host->unit);
  replaced(snapshot_put_host(world.builder, span_of(name), host));
}

static int set_up(void **state) {
  struct traffic_shape shape = {.per_host = true, .undefined_hosts = undefined_hosts, .workers = 1};
  char error[200];
  static const char *const bounds[] = {"0.01,1", "100", "100"};
  for (unsigned i = 0; i < TRAFFIC_BOUNDS; i++) must(histogram_bounds_parse(&shape.bounds[i], span_of(bounds[i]), i ? 0 : 6, error, sizeof error) == 0);
  must(world_up(state) == 0);
  world.traffic = traffic_table_new(&shape);
  world.worker.options.nobodys_traffic = traffic_table_nobody(world.traffic);
  put_host("foo.test", "/", "default-web-80", NULL, 0);
  put_host("*.wild.test", "/", "default-web-80", NULL, 0);
  put_host("empty.test", "/", "default-none-80", NULL, 0);
  put_alias("alias.test", "foo.test");
  publish();
  return 0;
}

static int set_up_undefined(void **state) {
  undefined_hosts = true;
  int code = set_up(state);
  undefined_hosts = false;
  return code;
}

static int tear_down(void **state) {
  struct traffic_table *traffic = world.traffic;
  must(world_down(state) == 0);
  traffic_table_sweep(traffic);
  assert_int_equal(traffic_table_count(traffic), 1); /* nobody's: all others were given back */
  traffic_table_free(traffic);
  return 0;
}

static void assert_counted(const char *text, bool is_there) {
  struct buffer out = {0};
  struct traffic_page *page = traffic_page_new(world.traffic, (struct span){NULL, 0});
  while (traffic_page_more(page, &out)) continue;
  traffic_page_free(page);
  buffer_append(&out, span_make("", 1));
  if ((strstr(buffer_span(&out).data, text) != NULL) != is_there) fail_msg("%s %s in\n%s", is_there ? "no" : "a", text, buffer_span(&out).data);
  buffer_free(&out);
}

#define REQUESTS(host, status, count) \
  "requests{host=\"" host "\",path=\"/\",namespace=\"default\",ingress=\"shop\",service=\"web\",canary=\"\",method=\"GET\",status=\"" status "\"} " count "\n"

static struct peer *ask(const char *request) {
  struct peer *client = client_connect();
  peer_send(client, request);
  return client;
}

static void answer(struct peer *client, unsigned server) {
  peer_await(server_await(server), "\r\n\r\n");
  peer_clear(world.servers[server]);
  peer_send(world.servers[server], OK);
  peer_await(client, "ok");
}

/* An alternative has its own record, under its name as the canary and the main Service's name. */
static void test_alternative(void **state) {
  (void)state;
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, 1);
  pack_put_string(&body, SPAN("routes"));
  pack_put_array(&body, 1);
  pack_put_map(&body, 2);
  put_pair(&body, "path", "/");
  pack_put_string(&body, SPAN("upstreams"));
  pack_put_array(&body, 2);
  for (int i = 0; i < 2; i++) {
    pack_put_map(&body, 2);
    put_pair(&body, "name", i ? "default-next-80" : "default-web-80");
    put_pair(&body, "service", i ? "next" : "web");
  }
  struct host_resolver resolver = {.upstream = find_slot, .policy = find_policy, .traffic = world.traffic};
  struct host *host = host_new(SPAN("two-ways.test"), buffer_span(&body), &resolver, error, sizeof error);
  assert_non_null(host);
  buffer_free(&body);
  const struct route *route = &host->routes[0];
  assert_null(route->upstreams[0].traffic);
  struct span main = route->traffic->labels, alternative = route->upstreams[1].traffic->labels;
  assert_true(span_ends_with(main, SPAN("service=\"web\",canary=\"\"")));
  assert_true(span_ends_with(alternative, SPAN("service=\"web\",canary=\"default-next-80\"")));
  struct exchange exchange = {.traffic = route->traffic};
  tally_alternative(&exchange, &route->upstreams[1]);
  assert_ptr_equal(exchange.traffic, route->upstreams[1].traffic);
  exchange.traffic = NULL; /* one that does not count still does not */
  tally_alternative(&exchange, &route->upstreams[1]);
  assert_null(exchange.traffic);
  host->unit.release(&host->unit);
}

static void test_counts(void **state) {
  (void)state;
  answer(ask(GET("foo.test")), 0);
  assert_at_rest();
  assert_counted(REQUESTS("foo.test", "200", "1"), true);
  assert_counted("response_duration_seconds_count{host=\"foo.test\"", true);
  assert_counted("connect_duration_seconds_count{host=\"foo.test\"", true);
  assert_counted("header_duration_seconds_count{host=\"foo.test\"", true);
  peer_await(ask(GET("empty.test")), " 503 ");
  assert_counted(REQUESTS("empty.test", "503", "1"), true);
  assert_counted("request_duration_seconds_count{host=\"empty.test\"", true);
  assert_counted("response_duration_seconds_count{host=\"empty.test\"", false); /* nginx says "-" */
}

static void test_rebuilt_while_it_runs(void **state) {
  (void)state;
  answer(ask(GET("foo.test")), 0);
  struct peer *client = ask(GET("foo.test"));
  peer_await(server_await(0), "\r\n\r\n");
  put_host("foo.test", "/", "default-web-80", NULL, 0);
  publish();
  assert_int_equal(world.retired_count, 1); /* the old host is leased */
  peer_send(world.servers[0], OK);
  peer_await(client, "ok");
  assert_at_rest();
  answer(ask(GET("foo.test")), 0);
  assert_counted(REQUESTS("foo.test", "200", "3"), true);
}

static void test_detached(void **state) {
  (void)state;
  world.worker.detach_after_ms = 20;
  struct peer *client = ask(GET("foo.test")), *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  peer_send(server, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
  peer_await(client, "abc");
  for (int i = 0; i < 1000 && world.worker.lease_count; i++) turn();
  put_host("foo.test", "/", "default-two-80", NULL, 0);
  publish();
  assert_int_equal(world.retired_count, 0);
  assert_counted("requests{host=\"foo.test\"", false);
  peer_send(server, "def");
  peer_await(client, "abcdef");
  assert_at_rest();
  assert_counted(REQUESTS("foo.test", "200", "1"), true);
}

/* The Ingress goes while the tunnel is open: nobody is hurt, and nothing is shown. */
static void test_tunnel(void **state) {
  (void)state;
  struct peer *client = ask(UPGRADE), *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  peer_send(server, SWITCH);
  peer_await(client, " 101 ");
  unsigned count = traffic_table_count(world.traffic);
  put_host("foo.test", "/other", "default-web-80", NULL, 0);
  publish();
  traffic_table_sweep(world.traffic);
  assert_int_equal(traffic_table_count(world.traffic), count + 1); /* "/" is pinned, "/other" is new */
  put_host("foo.test", "/", "default-web-80", NULL, 0);
  publish();
  peer_close(client);
  peer_close(server);
  assert_at_rest();
  traffic_table_sweep(world.traffic);
  assert_int_equal(traffic_table_count(world.traffic), count);
  assert_counted(REQUESTS("foo.test", "101", "1"), true);
}

static void test_hosts(void **state) {
  (void)state;
  answer(ask(GET("alias.test")), 0);
  answer(ask(GET("x.wild.test")), 0);
  peer_await(ask(GET("nobody.test")), "default backend");
  peer_await(ask("GET / HTTP/1.0\r\n\r\n"), "default backend");
  peer_await(ask("GET /healthz HTTP/1.0\r\n\r\n"), " 200 ");
  assert_at_rest();
  assert_counted(REQUESTS("alias.test", "200", "1"), true);
  assert_counted(REQUESTS("*.wild.test", "200", "1"), true);
  assert_counted("nobody.test", false);
  assert_counted("requests{host=\"_\",path=\"/\",namespace=\"\",ingress=\"\",service=\"\",canary=\"\",method=\"GET\",status=\"404\"} 1\n", true);
}

static void test_undefined_hosts(void **state) {
  (void)state;
  answer(ask(GET("x.wild.test")), 0);
  peer_await(ask(GET("nobody.test")), "default backend");
  assert_at_rest();
  assert_counted(REQUESTS("x.wild.test", "200", "1"), true);
  assert_counted("host=\"*.wild.test\"", false);
  assert_counted("requests{host=\"nobody.test\",path=\"/\",namespace=\"\",ingress=\"\",service=\"\",canary=\"\",method=\"GET\",status=\"404\"} 1\n", true);
}

static void test_client_left(void **state) {
  (void)state;
  struct peer *client = ask(GET("foo.test"));
  peer_await(server_await(0), "\r\n\r\n");
  peer_close(client);
  assert_at_rest();
  assert_counted(REQUESTS("foo.test", "499", "1"), true);
}

/* Series that cannot be made are told by the limit's counter. */
static void test_limit(void **state) {
  (void)state;
  struct traffic_shape *shape = (struct traffic_shape *)traffic_table_shape(world.traffic);
  atomic_store(&shape->series, LIMIT_METRIC_SERIES);
  answer(ask(GET("foo.test")), 0);
  assert_at_rest();
  assert_counted("requests{", false);
  assert_int_equal(counter_get(&world.counters, COUNTER_LIMIT_METRIC_SERIES), 1);
  atomic_store(&shape->series, 0);
  atomic_store(&shape->host_series, LIMIT_METRIC_HOST_SERIES);
  answer(ask(GET("alias.test")), 0);
  assert_at_rest();
  assert_counted("alias.test", false);
  assert_int_equal(counter_get(&world.counters, COUNTER_LIMIT_METRIC_HOST_SERIES), 1);
  atomic_store(&shape->host_series, 0);
}

#define TEST(function, up) cmocka_unit_test_setup_teardown(function, up, tear_down)
int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_counts, set_up),     TEST(test_rebuilt_while_it_runs, set_up),     TEST(test_detached, set_up), TEST(test_tunnel, set_up),
      TEST(test_hosts, set_up),      TEST(test_undefined_hosts, set_up_undefined), TEST(test_limit, set_up),    TEST(test_client_left, set_up),
      TEST(test_alternative, set_up)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
