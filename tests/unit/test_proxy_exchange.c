/* Exchanges end to end over memory links: the bytes of a client and of an endpoint, everything between them real. */
#include <sys/socket.h>
#include <unistd.h>

#include "proxy_world.h"

#define GET "GET /a?b=1 HTTP/1.1\r\nHost: foo.test\r\n\r\n"
#define OK "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: secret\r\n\r\nok"

static void test_get(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  assert_true(peer_has(server, "GET /a?b=1 HTTP/1.1\r\nHost: foo.test\r\n"));
  assert_true(peer_has(server, "X-Request-ID: "));
  assert_true(peer_has(server, "X-Real-IP: 127.0.0.1\r\n"));
  assert_true(peer_has(server, "X-Forwarded-For: 127.0.0.1\r\n"));
  assert_true(peer_has(server, "X-Forwarded-Host: foo.test\r\n"));
  assert_true(peer_has(server, "X-Forwarded-Port: 80\r\n"));
  assert_true(peer_has(server, "X-Forwarded-Proto: http\r\n"));
  assert_true(peer_has(server, "X-Forwarded-Scheme: http\r\n"));
  assert_true(peer_has(server, "X-Scheme: http\r\n"));
  assert_false(peer_has(server, "Original"));
  peer_send(server, OK);
  peer_await(client, "\r\n\r\nok");
  assert_true(peer_has(client, "HTTP/1.1 200 OK\r\n"));
  assert_true(peer_has(client, "Date: "));
  assert_false(peer_has(client, "Server:"));
  assert_true(log_has("\"GET /a?b=1 HTTP/1.1\" 200 2 \"-\" \"-\" "));
  assert_true(log_has("[default-web-80] [") && log_has("] 127.0.0.1:9001 "));
}

static void test_keep_alive_and_pool(void **state) {
  (void)state;
  struct peer *client = client_connect();
  for (int i = 0; i < 5; i++) {
    peer_send(client, GET);
    struct peer *server = server_await(0);
    peer_await(server, "\r\n\r\n");
    peer_clear(server);
    peer_send(server, OK);
    peer_await(client, "\r\n\r\nok");
    peer_clear(client);
  }
  assert_int_equal(world.server_count, 1);
  assert_int_equal(pool_idle(world.worker.pool), 1);
}

static void test_pipelining(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET "GET /second HTTP/1.1\r\nHost: foo.test\r\n\r\nGET /third HTTP/1.1\r\nHost: none.test\r\n\r\n");
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  assert_false(peer_has(server, "/second"));
  peer_send(server, OK);
  peer_await(server, "GET /second");
  peer_send(server, OK);
  peer_await(client, "default backend - 404");
}

/* The second request is not read while the first one is under way, and nor is what follows: a client that leaves behind them is noticed all the same. */
static void test_client_leaves_behind_a_pipelined_request(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET GET);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  peer_send(client, GET); /* later ones too */
  turns(3);
  peer_close(client);
  peer_await_end(server);
  assert_true(log_has(" 499 "));
  assert_at_rest();
}

/* What was held while nobody took its body holds the next request too, which stays when the body goes on. */
static void test_client_leaves_behind_a_body_that_waited(void **state) {
  (void)state;
  put_host("foo.test", "/", "default-web-80", (struct option[]){{"request_buffering", 0}}, 1);
  publish();
  struct peer *client = client_connect();
  peer_send(client, "POST /u HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 4\r\n\r\nbody" GET);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\nbody");
  turns(3);
  peer_close(client);
  peer_await_end(server);
  assert_true(log_has(" 499 "));
  assert_at_rest();
}

static void test_chunked_both_ways(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, "POST /u HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
  turns(5);
  assert_int_equal(world.server_count, 0); /* held until it is whole */
  peer_send(client, "2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n");
  struct peer *server = server_await(0);
  peer_await(server, "X-Sum: 5\r\n\r\n");
  assert_true(peer_has(server, "Transfer-Encoding: chunked\r\n"));
  assert_true(peer_has(server, "abcde"));
  peer_send(server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n");
  peer_await(client, "wxyz");
  peer_send(server, "0\r\nX-End: 1\r\n\r\n");
  peer_await(client, "X-End: 1\r\n\r\n");
}

/* Waits for the end of a body of ten thousand chunks; the most bytes of it that went on in one turn. */
static uint64_t most_of_a_turn(struct peer *sink, const char *end) {
  uint64_t most = 0;
  for (int i = 0; i < 3000 && !peer_has(sink, end); i++) {
    uint64_t before = sink->taken;
    turn();
    if (sink->taken - before > most) most = sink->taken - before;
  }
  peer_await(sink, end);
  return most;
}

static char *many_chunks(const char *head) {
  enum { CHUNKS = 10000, CHUNK = 6 };
  char *text = malloc(strlen(head) + CHUNKS * CHUNK + 64), *at = text + sprintf(text, "%s", head);
  for (int i = 0; i < CHUNKS; i++) at += sprintf(at, "1\r\na\r\n");
  sprintf(at, "3\r\nend\r\n0\r\n\r\n");
  return text;
}

static void test_many_parts_leave_time_to_others(void **state) {
  (void)state;
  put_host("foo.test", "/", "default-web-80", (struct option[]){{"request_buffering", 0}}, 1);
  publish();
  struct peer *client = client_connect();
  char *request = many_chunks("POST / HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\n\r\n");
  peer_send(client, request);
  struct peer *server = server_await(0);
  assert_in_range(most_of_a_turn(server, "end\r\n0\r\n\r\n"), 1, 8000); /* 1,024 parts of six bytes */
  char *answer = many_chunks("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
  peer_clear(client);
  peer_send(server, answer);
  assert_in_range(most_of_a_turn(client, "end\r\n0\r\n\r\n"), 1, 8000); /* 1,024 parts of six bytes */
  assert_true(client->taken > 60000 && server->taken > 60000);
  assert_at_rest();
  free(request);
  free(answer);
}

static bool is_slow;

static bool filter_slowly(void *self, struct exchange *exchange, struct span *data, bool is_last) {
  (void)self;
  (void)data;
  uint64_t began = loop_now_us(&exchange->worker->loop);
  while (is_slow && !is_last && loop_now_us(&exchange->worker->loop) - began < 500) continue;
  return true;
}

static void test_slow_hooks_leave_time_to_others(void **state) {
  (void)state;
  world.worker.options.hooks = (struct hook_runner){.filter_body = filter_slowly};
  put_hooked_host((const char *const[]){"body_filter"}, 1);
  publish();
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  char *answer = many_chunks("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
  is_slow = true;
  peer_send(server, answer);
  for (int i = 0; i < 20; i++) {
    uint64_t before = client->taken;
    turn();
    assert_in_range(client->taken - before, 0, 600); /* of parts that go out as six bytes each */
  }
  is_slow = false;
  peer_await(client, "end\r\n0\r\n\r\n");
  assert_at_rest();
  free(answer);
}

static enum hook_result ask_by_get(void *self, struct exchange *exchange, enum hook_phase phase) {
  (void)self;
  (void)phase;
  exchange_set_method(exchange, SPAN("GET"));
  return HOOK_NEXT;
}

static void test_a_body_that_the_client_does_not_get(void **state) {
  (void)state;
  world.worker.options.hooks = (struct hook_runner){.run = ask_by_get};
  put_hooked_host((const char *const[]){"rewrite"}, 1);
  publish();
  struct peer *client = client_connect();
  for (unsigned i = 0; i < 2; i++) {
    peer_send(client, "HEAD / HTTP/1.1\r\nHost: foo.test\r\n\r\n");
    struct peer *server = server_await(i);
    peer_await(server, "GET / HTTP/1.1\r\n");
    peer_send(server, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nabc"); /* and no more */
    peer_await(client, "Content-Length: 1000000\r\n");
    peer_await_end(server);
    assert_at_rest();
    assert_false(peer_has(client, "abc"));
    peer_clear(client);
  }
}

static void test_unbuffered_body_streams(void **state) {
  (void)state;
  struct option options[] = {{"request_buffering", 0}};
  put_host("foo.test", "/", "default-web-80", options, 1);
  publish();
  struct peer *client = client_connect();
  peer_send(client, "POST /u HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 6\r\n\r\nabc");
  struct peer *server = server_await(0);
  peer_await(server, "abc");
  assert_true(peer_has(server, "Content-Length: 6\r\n"));
  peer_send(client, "def");
  peer_await(server, "abcdef");
  peer_send(server, OK);
  peer_await(client, "\r\n\r\nok");
}

static void test_expect_continue(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, "POST /u HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
  peer_await(client, "HTTP/1.1 100 Continue\r\n\r\n");
  peer_send(client, "abc");
  struct peer *server = server_await(0);
  peer_await(server, "abc");
  assert_false(peer_has(server, "Expect"));
  peer_send(server, OK);
  peer_await(client, "\r\n\r\nok");
}

static void test_body_limit(void **state) {
  (void)state;
  struct option options[] = {{"body_limit", 4}, {"request_buffering", 0}};
  put_host("foo.test", "/", "default-web-80", options, 2);
  publish();
  struct peer *client = client_connect();
  peer_send(client, "POST /u HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 5\r\n\r\nabcde");
  peer_await(client, "HTTP/1.1 413 ");
  assert_int_equal(world.server_count, 0);
  struct peer *other = client_connect();
  peer_send(other, "POST /u HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
  struct peer *server = server_await(0);
  peer_await(server, "abc");
  peer_send(other, "3\r\ndef\r\n0\r\n\r\n");
  peer_await(other, "HTTP/1.1 413 ");
  peer_await_end(server);
  assert_false(peer_has(server, "def"));
}

/* The bodies of all exchanges together are more than may be held. */
static void test_body_budget(void **state) {
  (void)state;
  const char head[] = "POST /u HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", end[] = "3\r\ndef\r\n0\r\n\r\n";
  struct peer *held = client_connect(), *late = client_connect();
  peer_send(held, head);
  turns(5);
  assert_int_equal(world.server_count, 0);
  atomic_fetch_add(&world.budget, LIMIT_BODY_BUDGET_BYTES);
  peer_send(late, head); /* is not held at all */
  peer_await(server_await(0), "abc");
  assert_int_equal(world.server_count, 1);
  peer_send(held, "1\r\nx\r\n"); /* is held no longer */
  peer_await(server_await(1), "abcx");
  assert_int_equal(counter_get(&world.counters, COUNTER_LIMIT_BODY_BUDGET_BYTES), 2);
  struct peer *clients[] = {late, held};
  for (unsigned i = 0; i < 2; i++) {
    peer_send(clients[i], end);
    peer_await(world.servers[i], "def");
    peer_send(world.servers[i], OK);
    peer_await(clients[i], "\r\n\r\nok");
  }
  atomic_fetch_sub(&world.budget, LIMIT_BODY_BUDGET_BYTES);
}

static void test_own_answers(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, "GET / HTTP/1.1\r\nHost: none.test\r\n\r\n");
  peer_await(client, "\r\n\r\ndefault backend - 404");
  assert_true(peer_has(client, "HTTP/1.1 404 Not Found\r\n"));
  assert_true(peer_has(client, "Content-Length: 21\r\n"));
  peer_clear(client);
  peer_send(client, "GET /healthz HTTP/1.1\r\nHost: none.test\r\n\r\n");
  peer_await(client, "HTTP/1.1 200 OK\r\n");
  peer_clear(client);
  peer_send(client, "GET /%zz HTTP/1.1\r\nHost: foo.test\r\n\r\n");
  peer_await(client, "<h1>400 Bad Request</h1>");
  peer_await_end(client);
  put_host("bar.test", "/", "default-nobody-80", NULL, 0);
  put_upstream("default-empty-80", NULL, 0);
  put_host("empty.test", "/p/", "default-empty-80", NULL, 0);
  publish();
  client = client_connect();
  peer_send(client, "GET / HTTP/1.1\r\nHost: bar.test\r\n\r\n");
  peer_await(client, "HTTP/1.1 503 Service Temporarily Unavailable\r\n");
  peer_clear(client);
  peer_send(client, "GET /p/x HTTP/1.1\r\nHost: empty.test\r\n\r\n");
  peer_await(client, "</html>");
  assert_true(peer_has(client, "HTTP/1.1 50"));
  peer_clear(client);
  peer_send(client, "GET /p?a=1 HTTP/1.1\r\nHost: empty.test:8080\r\n\r\n");
  peer_await(client, "HTTP/1.1 301 ");
  assert_true(peer_has(client, "Location: http://empty.test/p/?a=1\r\n"));
}

static void test_json_line(void **state) {
  (void)state;
  struct buffer body = {0};
  char error[200];
  pack_put_map(&body, 1);
  pack_put_string(&body, SPAN("access_log_json"));
  pack_put_boolean(&body, true);
  put_settings(settings_new(buffer_span(&body), error, sizeof error));
  buffer_free(&body);
  publish();
  struct peer *client = client_connect();
  peer_send(client, "GET / HTTP/1.1\r\nHost: foo.test\r\nUser-Agent: caf\xc3\xa9 \xff\"\r\n\r\n");
  peer_await(server_await(0), "\r\n\r\n");
  peer_send(world.servers[0], OK);
  peer_await(client, "\r\n\r\nok");
  assert_at_rest();
  assert_true(log_has("\"method\":\"GET\",\"scheme\":\"http\",\"host\":\"foo.test\",\"uri\":\"/\""));
  assert_true(log_has("\"status\":200,"));
  assert_true(log_has("\"user_agent\":\"caf\xc3\xa9 \\ufffd\\\"\","));
}

static void test_refused_everywhere(void **state) {
  (void)state;
  world.refuses[0] = world.refuses[1] = true;
  struct peer *client = client_connect();
  peer_send(client, "POST /x HTTP/1.1\r\nHost: two.test\r\nContent-Length: 2\r\n\r\nab");
  peer_await(client, "HTTP/1.1 502 Bad Gateway\r\n");
  assert_int_equal(counter_get(&world.counters, COUNTER_UPSTREAM_RETRIES), 2);
  assert_true(log_has(" 502, 502, 502 "));
}

static void test_retry_avoids_the_tried(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, "PUT /x HTTP/1.1\r\nHost: two.test\r\nContent-Length: 2\r\n\r\nab");
  struct peer *first = server_await(0);
  peer_await(first, "\r\n\r\nab");
  peer_close(first); /* dies after it had the request: idempotent and whole, hence repeated */
  struct peer *second = server_await(1);
  assert_ptr_not_equal(first->record, second->record);
  peer_await(second, "\r\n\r\nab");
  peer_send(second, OK);
  peer_await(client, "\r\n\r\nok");
  peer_clear(client);
  peer_send(client, "POST /x HTTP/1.1\r\nHost: two.test\r\nContent-Length: 2\r\n\r\nab");
  for (int i = 0; i < 100 && world.worker.exchange_count == 0; i++) turn();
  turns(5);
  for (unsigned i = 0; i < world.server_count; i++)
    if (peer_has(world.servers[i], "POST")) peer_close(world.servers[i]);
  peer_await(client, "HTTP/1.1 502 "); /* not idempotent */
}

static void test_stale_connection_is_replaced(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  peer_clear(server);
  peer_send(server, OK);
  peer_await(client, "\r\n\r\nok");
  peer_clear(client);
  peer_send(client, GET);
  peer_await(server, "\r\n\r\n");
  peer_close(server); /* before a byte of the answer */
  peer_await(server_await(1), "\r\n\r\n");
  peer_send(server_await(1), OK);
  peer_await(client, "\r\n\r\nok");
}

/* A port that neither takes nor refuses connections: its queue is full. */
static int deaf_socket(int *port, int fillers[4]) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(fd, 0), 0);
  assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
  for (int i = 0; i < 4; i++) {
    fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    (void)connect(fillers[i], (struct sockaddr *)&address, sizeof address);
  }
  *port = ntohs(address.sin_port);
  return fd;
}

/* The kept connection turns out to be gone before anything of the request was written. While the next one is being made the client's body waits at the client.
 */
static void test_body_waits_while_a_retry_connects(void **state) {
  (void)state;
  int port, fillers[4], deaf = deaf_socket(&port, fillers);
  put_upstream("default-web-80", &port, 1);
  put_host("foo.test", "/", "default-web-80", (struct option[]){{"request_buffering", 0}, {"body_limit", 0}, {"connect_timeout", 0.5}, {"retry_tries", 1}}, 4);
  publish();
  struct peer *client = client_connect();
  peer_send(client, GET);
  peer_await(server_await(0), "\r\n\r\n");
  peer_send(world.servers[0], OK);
  peer_await(client, "\r\n\r\nok");
  worker_set_dial(&world.worker, NULL, NULL);
  peer_send(client, "POST / HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 1000000\r\n\r\n");
  peer_close(world.servers[0]); /* its end is looked at after the request was begun on it */
  turns(2);
  assert_int_equal(world.worker.exchange_count, 1);
  struct exchange *exchange = container_of(world.worker.exchanges.next, struct exchange, node);
  assert_int_equal(exchange->step, STEP_CONNECT);
  assert_int_equal(exchange->try_count, 2);
  static char part[32768];
  for (int i = 0; i < 8; i++) {
    link_write_span(client->link, span_make(part, sizeof part));
    turns(2);
  }
  assert_int_equal(buffer_length(&exchange->body), 0);
  assert_true(link_is_full(client->link));
  peer_await(client, " 504 ");
  for (int i = 0; i < 4; i++) close(fillers[i]);
  close(deaf);
}

static void test_timeouts(void **state) {
  (void)state;
  struct option options[] = {{"read_timeout", 0.05}, {"retry_tries", 1}};
  put_host("foo.test", "/", "default-web-80", options, 2);
  publish();
  struct peer *client = client_connect();
  peer_send(client, GET);
  peer_await(client, "HTTP/1.1 504 Gateway Time-out\r\n");
  peer_await_end(server_await(0));
  peer_clear(client);
  peer_send(client, GET);
  struct peer *server = server_await(1);
  peer_await(server, "\r\n\r\n");
  peer_send(server, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
  peer_await(client, "\r\n\r\nab");
  peer_await_end(client); /* cut off: it must not look whole */
}

static void test_early_answer(void **state) {
  (void)state;
  struct option options[] = {{"body_limit", 0}};
  put_host("foo.test", "/", "default-web-80", options, 1);
  publish();
  struct peer *client = client_connect();
  peer_send(client, "POST /u HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 200000\r\n\r\nabc");
  struct peer *server = server_await(0);
  peer_await(server, "abc");
  peer_send(server, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
  peer_await(client, "\r\n\r\nno");
  peer_await_end(server);
  assert_int_equal(pool_idle(world.worker.pool), 0);
}

static void test_early_success_goes_on(void **state) {
  (void)state;
  struct option options[] = {{"request_buffering", 0}};
  put_host("foo.test", "/", "default-web-80", options, 1);
  publish();
  struct peer *client = client_connect();
  peer_send(client, "POST /u HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
  struct peer *server = server_await(0);
  peer_await(server, "1\r\na\r\n");
  peer_send(server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n");
  peer_await(client, "1\r\nA\r\n");
  peer_send(client, "1\r\nb\r\n");
  peer_await(server, "1\r\nb\r\n");
  peer_send(server, "1\r\nB\r\n");
  peer_await(client, "1\r\nB\r\n");
  peer_send(client, "0\r\n\r\n");
  peer_await(server, "0\r\n\r\n");
  peer_send(server, "0\r\n\r\n");
  peer_await(client, "0\r\n\r\n");
  assert_at_rest();
  assert_int_equal(pool_idle(world.worker.pool), 1);
}

static void test_back_pressure(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  client->is_paused = true;
  link_pause(client->link);
  peer_send(server, "HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n");
  static char block[10001];
  memset(block, 'x', 10000);
  unsigned sent = 0;
  while (sent < 800 && !link_is_full(server->link)) {
    peer_send(server, block);
    sent++;
  }
  assert_true(sent < 100); /* the endpoint was made to wait */
  client->is_paused = false;
  link_resume(client->link);
  while (sent < 800) {
    if (!link_is_full(server->link)) {
      link_write_span(server->link, span_of(block));
      sent++;
    }
    turn();
    peer_clear(client);
  }
  for (int i = 0; i < 2000 && world.worker.exchange_count; i++) turn();
  turns(5);
  assert_true(client->taken > 8000000);
}

#define UPGRADE "GET /ws HTTP/1.1\r\nHost: foo.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
#define SWITCH "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

static struct peer *open_tunnel(struct peer **client) {
  *client = client_connect();
  peer_send(*client, UPGRADE);
  struct peer *server = server_await(world.server_count);
  peer_await(server, "\r\n\r\n");
  assert_true(peer_has(server, "Upgrade: websocket\r\n"));
  peer_send(server, SWITCH "hello");
  peer_await(*client, "\r\n\r\nhello");
  assert_true(peer_has(*client, "HTTP/1.1 101 "));
  return server;
}

/* What it sent ahead would be the tunnel's; it may have closed or broken off, which is not told apart while nobody reads. */
static void test_client_leaves_before_the_tunnel(void **state) {
  (void)state;
  struct peer *client = client_connect();
  peer_send(client, UPGRADE "early");
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  peer_close(client);
  peer_await_end(server);
  assert_true(log_has(" 499 "));
  assert_at_rest();
}

static void test_tunnel(void **state) {
  (void)state;
  struct peer *client, *server = open_tunnel(&client);
  assert_int_equal(world.worker.tunnel_count, 1);
  assert_int_equal(world.worker.lease_count, 0); /* detached */
  put_host("foo.test", "/", "default-two-80", NULL, 0);
  publish();
  assert_int_equal(world.retired_count, 0);
  peer_send(client, "ping");
  peer_await(server, "ping");
  peer_send(server, "pong");
  peer_await(client, "pong");
  link_end(client->link); /* half closed: the other direction goes on */
  peer_await_end(server);
  peer_send(server, "last");
  peer_await(client, "last");
  link_end(server->link);
  peer_await_end(client);
  assert_at_rest();
  assert_true(log_has(" 101 "));
}

static void test_tunnel_idle(void **state) {
  (void)state;
  struct option options[] = {{"read_timeout", 0.05}};
  put_host("foo.test", "/", "default-web-80", options, 1);
  publish();
  struct peer *client, *server = open_tunnel(&client);
  peer_await_end(client);
  peer_await_end(server);
}

static void test_detaching(void **state) {
  (void)state;
  world.worker.detach_after_ms = 40;
  struct peer *client = client_connect();
  peer_send(client, GET);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  peer_send(server, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
  peer_await(client, "abc");
  assert_int_equal(world.worker.lease_count, 1);
  put_host("foo.test", "/", "default-two-80", NULL, 0);
  publish();
  assert_int_equal(world.retired_count, 1);
  for (int i = 0; i < 1000 && world.worker.lease_count; i++) turn();
  assert_int_equal(world.worker.lease_count, 0);
  assert_int_equal(world.retired_count, 0);
  assert_int_equal(counter_get(&world.counters, COUNTER_EXCHANGES_DETACHED), 1);
  peer_send(server, "def");
  peer_await(client, "abcdef");
  assert_at_rest();
  assert_true(log_has("[default-web-80] ["));
}

static void test_draining(void **state) {
  (void)state;
  struct peer *client = client_connect(), *idle = client_connect(), *fresh = client_connect();
  peer_send(idle, "GET / HTTP/1.1\r\nHost: none.test\r\n\r\n");
  peer_await(idle, "404");
  peer_send(client, GET);
  struct peer *server = server_await(0);
  peer_await(server, "\r\n\r\n");
  worker_command(&world.worker, WORKER_DRAIN);
  peer_await_end(idle);
  peer_send(fresh, "GET / HTTP/1.1\r\nHost: none.test\r\n\r\n");
  peer_await(fresh, "Connection: close\r\n");
  peer_await_end(fresh);
  peer_send(server, OK);
  peer_await(client, "\r\n\r\nok");
  assert_true(peer_has(client, "Connection: close\r\n"));
  peer_await_end(client);
}

/* ---- leaving at every step ---- */

enum who { CLIENT, SERVER };
struct move {
  enum who who;
  const char *sends, *until; /* the other one waits for it */
};

static const struct move upload[] = {
    {CLIENT, "PO", NULL},
    {CLIENT, "ST /u HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\n\r\n", NULL},
    {CLIENT, "3\r\n", NULL},
    {CLIENT, "abc\r\n", "abc"},
    {CLIENT, "3\r\ndef\r\n", "def"},
    {CLIENT, "0\r\n\r\n", "0\r\n\r\n"},
    {SERVER, "HTTP/1.1 20", NULL},
    {SERVER, "0 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 OK"},
    {SERVER, "3\r\n", NULL},
    {SERVER, "uvw\r\n", "uvw"},
    {SERVER, "0\r\n", NULL},
    {SERVER, "\r\n", "0\r\n\r\n"},
};
static const struct move websocket[] = {
    {CLIENT, UPGRADE, "websocket"}, {SERVER, SWITCH, "101"}, {CLIENT, "abc", "abc"}, {SERVER, "def", "def"}, {CLIENT, "ghi", "ghi"},
};

static void play(const struct move *moves, unsigned count, unsigned leave_after, enum who leaver, bool swaps) {
  struct peer *client = client_connect();
  unsigned server_index = world.server_count;
  for (unsigned i = 0; i < count; i++) {
    struct peer *server = world.server_count > server_index ? world.servers[server_index] : NULL;
    if (i == leave_after) {
      if (leaver == CLIENT) peer_close(client);
      else if (server) peer_close(server);
      break;
    }
    if (swaps) {
      put_host("foo.test", "/", "default-web-80", (struct option[]){{"request_buffering", 0}, {"retry_tries", 1}}, 2);
      publish();
    }
    if (moves[i].who == CLIENT) {
      peer_send(client, moves[i].sends);
      if (moves[i].until) peer_await(server_await(server_index), moves[i].until);
    } else {
      must(server);
      peer_send(server, moves[i].sends);
      if (moves[i].until) peer_await(client, moves[i].until);
    }
  }
  turns(6);
  peer_close(client); /* if nobody left, or the endpoint did */
  turns(6);
  for (unsigned i = server_index; i < world.server_count; i++) peer_close(world.servers[i]);
  turns(6);
  assert_at_rest();
}

static void leave_everywhere(const struct move *moves, unsigned count) {
  put_host("foo.test", "/", "default-web-80", (struct option[]){{"request_buffering", 0}, {"retry_tries", 1}}, 2);
  publish();
  for (int swaps = 0; swaps < 2; swaps++)
    for (unsigned leave_after = 0; leave_after <= count; leave_after++)
      for (int leaver = CLIENT; leaver <= SERVER; leaver++) play(moves, count, leave_after, (enum who)leaver, swaps);
}

static void test_leaving_uploads(void **state) {
  (void)state;
  leave_everywhere(upload, sizeof upload / sizeof upload[0]);
  assert_true(world.most_retired > 0); /* swaps really met leases */
  assert_true(log_has(" 499 "));
}
static void test_leaving_tunnels(void **state) {
  (void)state;
  leave_everywhere(websocket, sizeof websocket / sizeof websocket[0]);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, world_up, world_down)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_get),
      TEST(test_keep_alive_and_pool),
      TEST(test_pipelining),
      TEST(test_client_leaves_behind_a_pipelined_request),
      TEST(test_client_leaves_behind_a_body_that_waited),
      TEST(test_chunked_both_ways),
      TEST(test_many_parts_leave_time_to_others),
      TEST(test_slow_hooks_leave_time_to_others),
      TEST(test_a_body_that_the_client_does_not_get),
      TEST(test_unbuffered_body_streams),
      TEST(test_expect_continue),
      TEST(test_body_limit),
      TEST(test_body_budget),
      TEST(test_own_answers),
      TEST(test_json_line),
      TEST(test_refused_everywhere),
      TEST(test_retry_avoids_the_tried),
      TEST(test_stale_connection_is_replaced),
      TEST(test_body_waits_while_a_retry_connects),
      TEST(test_timeouts),
      TEST(test_early_answer),
      TEST(test_early_success_goes_on),
      TEST(test_back_pressure),
      TEST(test_client_leaves_before_the_tunnel),
      TEST(test_tunnel),
      TEST(test_tunnel_idle),
      TEST(test_detaching),
      TEST(test_draining),
      TEST(test_leaving_uploads),
      TEST(test_leaving_tunnels),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
