/* Pace: answers keep to limit_rate and limit_rate_after, whole and in order; what is held is bounded and given back. The clock is moved by hand. */
#include "proxy_world.h"

#define GET "GET / HTTP/1.1\r\nHost: foo.test\r\n\r\n"
#define RATE 10000

static char body[300000];

static void pace(double rate, double after, double read_timeout) {
  struct option options[] = {{"limit_rate", rate}, {"limit_rate_after", after}, {"read_timeout", read_timeout}};
  put_host("foo.test", "/", "default-web-80", options, 3);
  publish();
}

/* Body bytes that the client has. */
static size_t got(const struct peer *client) {
  struct span in = buffer_span(&client->in);
  const char *end = in.length ? memmem(in.data, in.length, "\r\n\r\n", 4) : NULL;
  return end ? in.length - (size_t)(end + 4 - in.data) : 0;
}

static void pass(uint64_t ms) {
  loop_skip(&world.worker.loop, ms);
  turns(3);
}

/* What the endpoint has still to send: in blocks, as long as its link takes them. */
static size_t sent, to_send;

static void feed(struct peer *server) {
  while (sent < to_send && server->link && !link_is_full(server->link)) {
    size_t block = to_send - sent < 16384 ? to_send - sent : 16384;
    link_write_span(server->link, span_make(body + sent, block));
    sent += block;
    turns(2);
  }
}

/* A client and an endpoint that answers with a head and `count` of `length` bytes of the body. */
static struct peer *ask(struct peer **server, size_t length, size_t count) {
  struct peer *client = client_connect();
  char head[100];
  peer_send(client, GET);
  *server = server_await(world.server_count ? world.server_count - 1 : 0);
  peer_await(*server, "\r\n\r\n");
  snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", length);
  link_write_span((*server)->link, span_of(head));
  sent = 0;
  to_send = count;
  feed(*server);
  turns(3);
  return client;
}

/* Moves the clock in steps until the client has `length` bytes; milliseconds that it took. */
static uint64_t receive(struct peer *server, struct peer *client, size_t length, uint64_t rate, size_t after) {
  uint64_t passed = 0;
  while (got(client) < length) {
    pass(50);
    feed(server);
    passed += 50;
    assert_true(passed < 1000000);
    /* a tick ahead, and what the real clock adds */
    assert_true(got(client) <= after + rate * (passed + 500) / 1000);
  }
  struct span in = buffer_span(&client->in);
  assert_memory_equal(in.data + in.length - length, body, length);
  return passed;
}

static void a_short_answer_takes_its_time(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(RATE, 0, 1); /* the read timeout is about the endpoint, which we make wait */
  client = ask(&server, 30000, 30000);
  assert_true(got(client) < 2000);
  assert_in_range(receive(server, client, 30000, RATE, 0), 2500, 3300);
  assert_at_rest();
  assert_true(log_has("\" 200 30000 "));
  assert_true(world.budget == 0);
}

static void a_long_answer_is_read_as_it_goes_out(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(100000, 0, 60);
  client = ask(&server, sizeof body, sizeof body);
  assert_true(world.budget > 0);
  assert_true(world.budget <= 65536);
  assert_true(sent < 200000); /* the endpoint was made to wait */
  assert_in_range(receive(server, client, sizeof body, 100000, 0), 2500, 3300);
  assert_at_rest();
  assert_true(world.budget == 0);
}

static void the_first_bytes_are_at_full_speed(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(RATE, 40000, 60);
  client = ask(&server, 60000, 60000);
  assert_in_range(got(client), 40000, 43000);
  assert_in_range(receive(server, client, 60000, RATE, 40000), 1500, 2300);
  assert_at_rest();
  /* and the next answer on the connection begins anew */
  peer_clear(client);
  peer_send(client, GET);
  peer_await(server, "\r\n\r\n");
  peer_send(server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  peer_await(client, "\r\n\r\nok");
}

static void a_slow_endpoint_is_not_slowed_down(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(RATE, 0, 60);
  client = ask(&server, 6000, 500);
  assert_int_equal(got(client), 500);
  pass(2000); /* two seconds of the rate are saved up */
  link_write_span(server->link, span_make(body + 500, 5500));
  turns(3);
  assert_int_equal(got(client), 6000);
  assert_at_rest();
}

static void an_endpoint_that_closes_after_its_answer_does_not_cut_it_off(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(RATE, 0, 60);
  client = ask(&server, 20000, 20000);
  peer_close(server);
  turns(3);
  receive(server, client, 20000, RATE, 0);
  assert_at_rest();
  assert_false(client->is_ended);
}

static void an_endpoint_that_closes_within_its_answer_does(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(RATE, 0, 60);
  client = ask(&server, 20000, 10000);
  peer_close(server);
  for (int i = 0; i < 100 && !client->is_ended; i++) pass(50);
  assert_true(client->is_ended);
  assert_at_rest();
  assert_true(world.budget == 0);
}

static void a_client_that_leaves_ends_it(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(RATE, 0, 60);
  client = ask(&server, sizeof body, sizeof body);
  assert_true(world.budget > 0);
  peer_close(client);
  turns(3);
  assert_at_rest();
  assert_true(world.budget == 0);
  pass(1000);
}

static void without_room_it_goes_on_in_larger_pieces(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(RATE, 0, 60);
  atomic_fetch_add(&world.budget, LIMIT_BODY_BUDGET_BYTES);
  client = ask(&server, sizeof body, sizeof body);
  assert_int_equal(world.budget, LIMIT_BODY_BUDGET_BYTES); /* nothing is held */
  assert_true(got(client) > 2000 && got(client) <= 131072);
  uint64_t passed = 0;
  while (got(client) < sizeof body) {
    pass(1000);
    feed(server);
    passed += 1000;
    assert_true(passed < 60000);
  }
  assert_in_range(passed, 10000, 30000);
  atomic_fetch_sub(&world.budget, LIMIT_BODY_BUDGET_BYTES);
  assert_at_rest();
  assert_true(world.budget == 0);
}

static void a_client_that_reads_slowly_is_waited_for(void **state) {
  (void)state;
  struct peer *server, *client;
  pace(1000000, 0, 60);
  client = client_connect();
  peer_send(client, GET);
  server = server_await(0);
  client->is_paused = true;
  link_write_span(server->link, SPAN("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"));
  sent = 0;
  to_send = sizeof body;
  for (int i = 0; i < 20; i++) {
    feed(server);
    pass(100);
  }
  client->is_paused = false;
  link_resume(client->link);
  for (int i = 0; i < 100 && got(client) < sizeof body; i++) {
    feed(server);
    pass(100);
  }
  assert_int_equal(got(client), sizeof body);
  assert_at_rest();
  assert_true(world.budget == 0);
}

static void a_detached_answer_keeps_its_pace(void **state) {
  (void)state;
  struct peer *server, *client;
  world.worker.detach_after_ms = 1000;
  pace(RATE, 0, 60);
  client = ask(&server, 30000, 30000);
  pass(1500);
  assert_int_equal(counter_get(&world.counters, COUNTER_EXCHANGES_DETACHED), 1);
  put_host("foo.test", "/", "default-two-80", NULL, 0);
  publish();
  assert_true(got(client) < 20000);
  receive(server, client, 30000, RATE, 20000);
  assert_at_rest();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_up, world_down)

int main(void) {
  for (size_t i = 0; i < sizeof body; i++) body[i] = (char)('a' + i % 23);
  const struct CMUnitTest tests[] = {
      TEST(a_short_answer_takes_its_time),
      TEST(a_long_answer_is_read_as_it_goes_out),
      TEST(the_first_bytes_are_at_full_speed),
      TEST(a_slow_endpoint_is_not_slowed_down),
      TEST(an_endpoint_that_closes_after_its_answer_does_not_cut_it_off),
      TEST(an_endpoint_that_closes_within_its_answer_does),
      TEST(a_client_that_leaves_ends_it),
      TEST(without_room_it_goes_on_in_larger_pieces),
      TEST(a_client_that_reads_slowly_is_waited_for),
      TEST(a_detached_answer_keeps_its_pace),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
