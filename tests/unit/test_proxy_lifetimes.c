/* What an exchange keeps must not lie in a unit that it does not lease: settings are never leased, hosts only until it detaches. Units are freed at the first
 * moment at which nobody may touch them, so ASan sees a late use. */
#include "proxy_world.h"

#define GET "GET / HTTP/1.1\r\nHost: foo.test\r\n\r\n"

static void put_edit(struct buffer *body, const char *name, const char *value) {
  pack_put_map(body, 3);
  put_pair(body, "kind", "set_response");
  put_pair(body, "name", name);
  put_pair(body, "value", value);
}

/* Logs both fields; `text` is one's value. */
static void put_settings_with(const char *text) {
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, 2);
  put_pair(&body, "log_format_upstream", "fixed=$sent_http_x_fixed of=$sent_http_x_of;");
  pack_put_string(&body, SPAN("edits"));
  pack_put_array(&body, 2);
  put_edit(&body, "X-Fixed", text);
  put_edit(&body, "X-Of", "$namespace");
  struct settings *settings = settings_new(buffer_span(&body), error, sizeof error);
  buffer_free(&body);
  if (!settings) fail_msg("settings: %s", error);
  put_settings(settings);
}

/* A request whose answer is half sent. */
static struct peer *begin(struct peer **server) {
  put_settings_with("one");
  publish();
  struct peer *client = client_connect();
  peer_send(client, GET);
  *server = server_await(0);
  peer_await(*server, "\r\n\r\n");
  peer_send(*server, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
  peer_await(client, "abc");
  assert_true(peer_has(client, "X-Fixed: one\r\n"));
  return client;
}

static void end(struct peer *client, struct peer *server) {
  peer_send(server, "def");
  peer_await(client, "abcdef");
  assert_at_rest();
  assert_true(log_has("fixed=one of=default;"));
}

static void test_fields_outlive_settings(void **state) {
  (void)state;
  struct peer *server, *client = begin(&server);
  put_settings_with("two");
  publish();
  assert_int_equal(world.retired_count, 0); /* nobody leases settings */
  end(client, server);
}

static void test_fields_outlive_a_detached_host(void **state) {
  (void)state;
  world.worker.detach_after_ms = 20;
  struct peer *server, *client = begin(&server);
  put_settings_with("two");
  put_host("foo.test", "/", "default-two-80", NULL, 0);
  publish();
  for (int i = 0; i < 1000 && world.worker.lease_count; i++) turn();
  assert_int_equal(world.worker.lease_count, 0);
  assert_int_equal(world.retired_count, 0);
  end(client, server);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, world_up, world_down)
int main(void) {
  const struct CMUnitTest tests[] = {TEST(test_fields_outlive_settings), TEST(test_fields_outlive_a_detached_host)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
