/* Answers that another upstream's answer replaces: what becomes of the old connection, of the request's body, of clients that leave, and when there is nothing
 * to replace it with. */
#include "proxy/hook_runner.h"
#include "proxy/pool.h"
#include "proxy/replace.h"
#include "proxy_world.h"

static int wanted_status, sources[8];
static unsigned filters;

/* A header_filter that replaces the answers with one status by those of the upstream "errors". */
static enum hook_result filter(void *self, struct exchange *exchange, enum hook_phase phase) {
  (void)self;
  if (phase != HOOK_HEADER_FILTER) return HOOK_NEXT;
  must(filters < 8);
  sources[filters++] = (int)exchange->source;
  if (exchange->replacement || exchange->response->status != wanted_status) return HOOK_NEXT;
  struct headers headers;
  headers_init(&headers, &exchange->arena);
  headers_add(&headers, HEADER_OTHER, SPAN("X-Code"), SPAN("404"));
  replace_ask(exchange, snapshot_upstream_slot(world.builder, SPAN("default/errors/80")), SPAN("default/errors/80"), SPAN(""), SPAN("/"), &headers);
  return HOOK_ANSWERED;
}

static const int error_port[] = {9009};

static int up(void **state) {
  world_up(state);
  world.worker.options.hooks = (struct hook_runner){.run = filter};
  wanted_status = 404;
  filters = 0;
  put_upstream("default/errors/80", error_port, 1);
  put_hooked_host((const char *const[]){"header_filter"}, 1);
  publish();
  return 0;
}

static const char GET[] = "GET /missing HTTP/1.1\r\nHost: foo.test\r\nRange: bytes=0-1\r\nIf-None-Match: \"x\"\r\n\r\n";
static const char NEXT[] = "HEAD /next HTTP/1.1\r\nHost: foo.test\r\n\r\n";
static const char NOT_FOUND[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone";
static const char PAGE[] = "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nX-Page: yes\r\n\r\nour page.";

static void the_connection_of_the_old_answer_is_used_again(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *app = server_await(0);
  peer_await(app, "GET /missing");
  peer_send(app, NOT_FOUND);
  struct peer *errors = server_await(1);
  peer_await(errors, "\r\n\r\n");
  assert_true(peer_has(errors, "GET / HTTP/1.1"));
  assert_true(peer_has(errors, "X-Code: 404"));
  assert_false(peer_has(errors, "Range"));
  assert_false(peer_has(errors, "If-None-Match"));
  assert_true(errors->record == &world.records[world.record_count - 1]);
  peer_send(errors, PAGE);
  peer_await(client, "our page.");
  assert_false(peer_has(client, "gone"));
  peer_clear(client);
  peer_clear(app);
  peer_send(client, NEXT);
  peer_await(app, "HEAD /next"); /* the same connection, though its answer was thrown away */
  peer_clear(errors);
  peer_send(app, "HTTP/1.1 404 Not Found\r\nContent-Length: 99999999\r\n\r\n"); /* a HEAD's: nothing follows */
  peer_await(errors, "HEAD / ");
  peer_send(errors, "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n");
  peer_await(client, "Content-Length: 9\r\n");
  assert_at_rest();
  assert_int_equal(world.server_count, 2);
  assert_int_equal(pool_idle(world.worker.pool), 2);
  assert_int_equal(filters, 4);
  assert_int_equal(sources[0], ANSWER_UPSTREAM);
  assert_int_equal(sources[1], ANSWER_REPLACEMENT);
}

static void an_old_answer_that_is_too_long_costs_its_connection(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *app = server_await(0);
  peer_await(app, "GET /missing");
  peer_send(app, "HTTP/1.1 404 Not Found\r\nContent-Length: 99999999\r\n\r\nsome");
  peer_await_end(app);
  struct peer *errors = server_await(1);
  peer_await(errors, "X-Code");
  peer_send(errors, PAGE);
  peer_await(client, "our page.");
  assert_int_equal(counter_get(&world.counters, COUNTER_LIMIT_DRAIN_BYTES), 1);
}

static void an_old_answer_without_end_costs_its_connection(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *app = server_await(0);
  peer_await(app, "GET /missing");
  peer_send(app, "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n");
  char chunk[4096 + 8];
  memset(chunk, 'x', sizeof chunk);
  memcpy(chunk, "1000\r\n", 6);
  memcpy(chunk + 4102, "\r\n", 2);
  for (int i = 0; i < 80 && !app->is_ended; i++) {
    link_write_span(app->link, span_make(chunk, 4104));
    turn();
  }
  peer_await_end(app);
  assert_int_equal(counter_get(&world.counters, COUNTER_LIMIT_DRAIN_BYTES), 1);
  struct peer *errors = server_await(1);
  peer_await(errors, "X-Code");
  peer_send(errors, PAGE);
  peer_await(client, "our page.");
}

static void an_old_answer_that_stops_is_not_waited_for(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *app = server_await(0);
  peer_await(app, "GET /missing");
  peer_send(app, "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngo");
  peer_await_end(app);
  peer_send(server_await(1), PAGE);
  peer_await(client, "our page.");
}

static void pipelined_requests_each_get_theirs(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, "GET /one HTTP/1.1\r\nHost: foo.test\r\n\r\nGET /two HTTP/1.1\r\nHost: foo.test\r\n\r\n");
  struct peer *app = server_await(0);
  peer_await(app, "GET /one");
  peer_send(app, NOT_FOUND);
  peer_send(server_await(1), PAGE);
  peer_await(app, "GET /two");
  peer_await(client, "our page.");
  assert_false(peer_has(client, "200 OK"));
  peer_send(app, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo");
  peer_await(client, "two");
}

static void an_early_answer_leaves_the_body_behind(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, "POST /missing HTTP/1.1\r\nHost: foo.test\r\nContent-Type: text/plain\r\nContent-Length: 100000\r\n\r\nhello");
  struct peer *app = server_await(0);
  peer_await(app, "hello");
  peer_send(app, NOT_FOUND);
  peer_await_end(app); /* it waits for the rest of a request */
  struct peer *errors = server_await(1);
  peer_await(errors, "X-Code");
  assert_true(peer_has(errors, "GET / HTTP/1.1"));
  assert_false(peer_has(errors, "Content-Length"));
  assert_false(peer_has(errors, "Content-Type"));
  assert_false(peer_has(errors, "hello"));
  peer_send(errors, PAGE);
  peer_await(client, "our page.");
  char rest[5000];
  memset(rest, 'x', sizeof rest);
  for (int i = 0; i < 20; i++) link_write_span(client->link, span_make(rest, i < 19 ? 5000 : 4995));
  peer_clear(client);
  peer_clear(errors);
  peer_send(client, GET);
  app = server_await(2);
  peer_await(app, "GET /missing");
  peer_send(app, NOT_FOUND);
  peer_await(errors, "X-Code"); /* that connection is whole */
  peer_send(errors, PAGE);
  peer_await(client, "our page.");
}

static void a_client_that_leaves_ends_all(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *app = server_await(0);
  peer_await(app, "GET /missing");
  peer_send(app, "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngo"); /* while the old body comes */
  peer_close(client);
  peer_await_end(app);
  assert_at_rest();
  assert_true(log_has(" 499 "));
  client = client_connect();
  peer_send(client, GET);
  app = server_await(1);
  peer_await(app, "GET /missing");
  peer_send(app, NOT_FOUND);
  struct peer *errors = server_await(2);
  peer_await(errors, "X-Code"); /* while the other answer comes */
  peer_close(client);
  peer_await_end(errors);
  assert_at_rest();
}

static void without_an_endpoint_it_is_a_page_of_our_own(void **state) {
  (void)state;
  put_upstream("default/errors/80", error_port, 0);
  publish();
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *app = server_await(0);
  peer_await(app, "GET /missing");
  peer_send(app, NOT_FOUND);
  peer_await(client, "<h1>404 Not Found</h1>");
  assert_false(peer_has(client, "gone"));
  assert_true(log_has("it has no endpoint that is ready"));
  assert_int_equal(filters, 2);
  assert_int_equal(sources[1], ANSWER_PROXY);
}

static void who_cannot_be_reached_is_tried_as_often_as_any_other(void **state) {
  (void)state;
  const int two[] = {9009, 9008};
  put_upstream("default/errors/80", two, 2);
  publish();
  for (unsigned i = 0; i < world.record_count; i++) world.refuses[i] = address_port(&world.records[i].address) == 9008;
  for (unsigned i = 0; i < 2; i++) { /* whichever is the first */
    struct peer *client = client_connect();
    peer_send(client, GET);
    struct peer *app = server_await(0);
    peer_await(app, "GET /missing");
    peer_clear(app);
    peer_send(app, NOT_FOUND);
    struct peer *errors = server_await(1);
    peer_await(errors, "X-Code");
    peer_clear(errors);
    peer_send(errors, PAGE);
    peer_await(client, "our page.");
  }
  assert_true(log_has("127.0.0.1:9001 : 127.0.0.1:9008, 127.0.0.1:9009"));
  for (unsigned i = 0; i < world.record_count; i++) world.refuses[i] = address_port(&world.records[i].address) >= 9008;
  peer_close(world.servers[1]);
  turns(3);
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *app = server_await(0);
  peer_await(app, "GET /missing");
  peer_send(app, NOT_FOUND);
  peer_await(client, "<h1>404 Not Found</h1>");
}

static void answers_of_our_own_are_replaced_too(void **state) {
  (void)state;
  wanted_status = 503;
  put_upstream("default-web-80", one_port, 0);
  publish();
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *errors = server_await(0);
  peer_await(errors, "X-Code");
  peer_send(errors, "HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsorry\r\n0\r\n\r\n");
  peer_await(client, "sorry\r\n0\r\n\r\n");
  assert_int_equal(sources[0], ANSWER_PROXY);
  assert_int_equal(sources[1], ANSWER_REPLACEMENT);
}

/* The request's own framing is broken: it gets its answer at once. */
static void a_broken_request_waits_for_nobody(void **state) {
  (void)state;
  wanted_status = 400;
  struct peer *client = client_connect();
  peer_send(client, "POST / HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
  turns(3);
  peer_send(client, "nonsense\r\n");
  peer_await(client, "<h1>400 Bad Request</h1>");
  peer_await_end(client);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, up, world_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(the_connection_of_the_old_answer_is_used_again),
      TEST(an_old_answer_that_is_too_long_costs_its_connection),
      TEST(an_old_answer_without_end_costs_its_connection),
      TEST(an_old_answer_that_stops_is_not_waited_for),
      TEST(pipelined_requests_each_get_theirs),
      TEST(an_early_answer_leaves_the_body_behind),
      TEST(a_client_that_leaves_ends_all),
      TEST(without_an_endpoint_it_is_a_page_of_our_own),
      TEST(who_cannot_be_reached_is_tried_as_often_as_any_other),
      TEST(answers_of_our_own_are_replaced_too),
      TEST(a_broken_request_waits_for_nobody),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
