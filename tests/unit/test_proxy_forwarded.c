/* What endpoints are told about the client: forwarded headers, real addresses, request ids, PROXY headers. */
#include "proxy_world.h"

#include "proxy/request_head.h"

#define OK "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

/* Settings with some flags on. */
static void publish_settings(const char *const *flags, unsigned count, const char *trusted) {
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, count + 1);
  put_pair(&body, "proxy_real_ip_cidr", trusted);
  for (unsigned i = 0; i < count; i++) {
    pack_put_string(&body, span_of(flags[i]));
    pack_put_boolean(&body, true);
  }
  struct settings *settings = settings_new(buffer_span(&body), error, sizeof error);
  buffer_free(&body);
  put_settings(settings);
  publish();
}

static const char *const forwarded[] = {"use_forwarded_headers", "compute_full_forwarded_for"};
static const char *const proxied[] = {"use_proxy_protocol", "use_forwarded_headers"};
static const char *const original[] = {"proxy_add_original_uri_header"};

/* Sends a request with these fields and returns the endpoint that got it. */
static struct peer *ask(struct peer *client, const char *fields) {
  char text[2000];
  snprintf(text, sizeof text, "GET /a%%20b?q HTTP/1.1\r\nHost: Foo.test:8080\r\n%s\r\n", fields);
  for (unsigned i = 0; i < world.server_count; i++) peer_clear(world.servers[i]);
  peer_send(client, text);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  peer_send(server, OK);
  peer_await(client, "\r\n\r\n");
  peer_clear(client);
  return server;
}

static const char lies[] =
    "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX-Forwarded-Host: other.test, x\r\nX-Forwarded-Port: 8443\r\nX-Forwarded-Proto: https\r\n"
    "X-Real-IP: 3.3.3.3\r\nX-Scheme: gopher\r\nX-Forwarded-Scheme: gopher\r\nProxy: evil\r\nX-Original-Forwarded-For: 9.9.9.9\r\n";

static void test_untrusted(void **state) {
  (void)state;
  struct peer *server = ask(client_connect_as(true, 8443), lies);
  assert_true(peer_has(server, "GET /a%20b?q HTTP/1.1\r\nHost: Foo.test:8080\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-For: 127.0.0.1\r\n"));
  assert_true(peer_has(server, "\r\nX-Real-IP: 127.0.0.1\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Host: Foo.test:8080\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Port: 443\r\n")); /* whatever the https listener's number */
  assert_true(peer_has(server, "\r\nX-Forwarded-Proto: https\r\n"));
  assert_true(peer_has(server, "\r\nX-Original-Forwarded-For: 1.1.1.1, 2.2.2.2\r\n"));
  assert_true(peer_has(server, "\r\nX-Original-Forwarded-Host: other.test, x\r\n"));
  assert_false(peer_has(server, "gopher"));
  assert_false(peer_has(server, "evil"));
  assert_false(peer_has(server, "9.9.9.9"));
  assert_false(peer_has(server, "X-Original-URI"));
}

static void test_trusted(void **state) {
  (void)state;
  publish_settings(forwarded, 1, "127.0.0.0/8,2.2.2.2");
  struct peer *server = ask(client_connect(), lies);
  assert_true(peer_has(server, "Host: other.test\r\n"));
  assert_true(peer_has(server, "\r\nX-Real-IP: 1.1.1.1\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-For: 1.1.1.1\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Host: other.test\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Port: 8443\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Proto: https\r\n"));
  assert_true(peer_has(server, "\r\nX-Scheme: https\r\n"));
}

static void test_full_list(void **state) {
  (void)state;
  publish_settings(forwarded, 2, "0.0.0.0/0");
  struct peer *server = ask(client_connect(), lies);
  assert_true(peer_has(server, "\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 127.0.0.1\r\n"));
  assert_true(peer_has(server, "\r\nX-Real-IP: 1.1.1.1\r\n"));
}

static void test_trusts_only_its_peers(void **state) {
  (void)state;
  publish_settings(forwarded, 1, "10.0.0.0/8");
  struct peer *server = ask(client_connect(), lies);
  assert_true(peer_has(server, "\r\nX-Real-IP: 127.0.0.1\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Host: Foo.test:8080\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Proto: http\r\n"));
}

static void test_request_id(void **state) {
  (void)state;
  struct peer *client = client_connect();
  struct peer *server = ask(client, "X-Request-ID: mine\r\n");
  assert_true(peer_has(server, "\r\nX-Request-ID: mine\r\n"));
  server = ask(client, "");
  struct span in = buffer_span(&server->in);
  const char *id = memmem(in.data, in.length, "X-Request-ID: ", 14);
  assert_non_null(id);
  assert_int_equal(strspn(id + 14, "0123456789abcdef"), 32);
}

static void test_original_uri(void **state) {
  (void)state;
  publish_settings(original, 1, "0.0.0.0/0");
  assert_true(peer_has(ask(client_connect(), ""), "\r\nX-Original-URI: /a%20b?q\r\n"));
}

static void test_proxy_header_in_pieces(void **state) {
  (void)state;
  publish_settings(proxied, 1, "0.0.0.0/0");
  struct peer *client = client_connect();
  peer_send(client, "PROXY TCP4 4.4.4");
  peer_send(client, ".4 5.5.5.5 1234 ");
  peer_send(client, "443\r\nGET / HTTP/1.1\r\nHost: foo.test\r\n\r\n");
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  assert_true(peer_has(server, "\r\nX-Forwarded-For: 4.4.4.4\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Port: 443\r\n"));
  assert_true(peer_has(server, "\r\nX-Forwarded-Proto: https\r\n"));
  peer_send(server, OK);
  peer_await(client, "200 OK");
  struct peer *liar = client_connect();
  peer_send(liar, "GET / HTTP/1.1\r\nHost: foo.test\r\n\r\n");
  peer_await_end(liar);
}

static void check_list(const char *list, const char *trusted_list, const char *expected) {
  char error[100], text[ADDRESS_TEXT] = "none";
  struct ip_set *trusted = ip_set_new(span_of(trusted_list), error, sizeof error);
  struct address address;
  if (request_head_real_address(span_of(list), trusted, &address)) address_format_ip(&address, text);
  assert_string_equal(text, expected);
  ip_set_free(trusted);
}

static void test_lists(void **state) {
  (void)state;
  check_list("1.1.1.1", "10.0.0.0/8", "1.1.1.1");
  check_list("1.1.1.1, 10.0.0.1", "10.0.0.0/8", "1.1.1.1");
  check_list("9.9.9.9, 1.1.1.1, 10.0.0.1", "10.0.0.0/8", "1.1.1.1");
  check_list("10.0.0.2,10.0.0.1", "10.0.0.0/8", "10.0.0.2");
  check_list("unknown, 10.0.0.1", "10.0.0.0/8", "10.0.0.1");
  check_list("1.1.1.1, nonsense", "10.0.0.0/8", "none");
  check_list("[2001:db8::1]:99", "10.0.0.0/8", "2001:db8::1");
  check_list("1.2.3.4:567", "10.0.0.0/8", "1.2.3.4");
  check_list(" , ,", "10.0.0.0/8", "none");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, world_up, world_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_untrusted),
      TEST(test_trusted),
      TEST(test_full_list),
      TEST(test_trusts_only_its_peers),
      TEST(test_request_id),
      TEST(test_original_uri),
      TEST(test_proxy_header_in_pieces),
      cmocka_unit_test(test_lists),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
