/* The HTTP client of policies, alone on a loop: what is pinned, what guests may reach, calls that are cancelled in each of their states, the bound. The
 * services are sockets that the test plays by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/limits.h"
#include "script/http_client.h"

static struct loop loop;
static struct counters counters;
static struct log silent;
static struct http_client *client;
static int listener, name_server;
static uint16_t port, name_port;
static unsigned done_count;
static _Atomic uint64_t budget;

static int bound_socket(int type, const char *ip, uint16_t *bound) {
  struct address address;
  socklen_t size = sizeof address.v4;
  int fd = socket(AF_INET, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
  assert_true(fd >= 0);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  assert_int_equal(address_parse_ip(span_of(ip), *bound, &address), 0);
  assert_int_equal(bind(fd, &address.any, size), 0);
  assert_int_equal(getsockname(fd, &address.any, &size), 0);
  *bound = address_port(&address);
  if (type == SOCK_STREAM) assert_int_equal(listen(fd, 64), 0);
  return fd;
}

static char closed_list[] = "203.0.113.9:6443,[2001:db8::9]:6443";
static struct span closed(void *context) { return span_of(context); }

static int up(void **state) {
  (void)state;
  static char servers[32];
  memset(&counters, 0, sizeof counters);
  done_count = 0;
  port = name_port = 0;
  assert_int_equal(loop_init(&loop, &counters, &silent), 0);
  listener = bound_socket(SOCK_STREAM, "127.0.0.1", &port);
  name_server = bound_socket(SOCK_DGRAM, "127.0.0.1", &name_port); /* says nothing */
  snprintf(servers, sizeof servers, "127.0.0.1:%u", name_port);
  struct http_client_options options = {.resolver = servers,
                                        .own_ports = {port},
                                        .api_server = {"203.0.113.7", "2001:db8:0:0::7"},
                                        .body_budget = &budget,
                                        .closed = closed,
                                        .closed_context = closed_list};
  client = http_client_new(&loop, &counters, &options);
  return 0;
}

static int down(void **state) {
  (void)state;
  http_client_free(client);
  loop_free(&loop);
  close(listener);
  close(name_server);
  return 0;
}

static void on_done(struct http_call *call) {
  assert_null(call->client);
  done_count++;
}

static struct http_call *make(const char *url) {
  char error[128] = "";
  struct http_call *call = http_call_new(SPAN("GET"), span_of(url), error, sizeof error);
  if (!call) fail_msg("%s: %s", url, error);
  call->max_body = 1000;
  call->done = on_done;
  return call;
}

static struct http_call *make_local(const char *path) {
  char url[128];
  snprintf(url, sizeof url, "http://127.0.0.1:%u%s", port, path);
  return make(url);
}

static int await_connection(int from) {
  for (int i = 0; i < 2000; i++) {
    loop_run_once(&loop, 1);
    int fd = accept4(from, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) return fd;
  }
  fail_msg("no connection");
  return -1;
}

static void await_bytes(int fd, const char *wanted) {
  char got[4096];
  size_t length = 0;
  for (int i = 0; i < 2000; i++) {
    loop_run_once(&loop, 1);
    ssize_t more = recv(fd, got + length, sizeof got - 1 - length, 0);
    if (more > 0) length += (size_t)more;
    got[length] = '\0';
    if (strstr(got, wanted)) return;
  }
  fail_msg("got \"%s\" and not \"%s\"", got, wanted);
}

static void say(int fd, const char *text) { assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text)); }

static void await_done(unsigned count) {
  for (int i = 0; i < 3000 && done_count < count; i++) loop_run_once(&loop, 1);
  assert_int_equal(done_count, count);
}

static void await_end(int fd) {
  char byte;
  for (int i = 0; i < 2000; i++) {
    loop_run_once(&loop, 1);
    ssize_t got = recv(fd, &byte, 1, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) return;
  }
  fail_msg("the connection is still open");
}

static void an_answer_has_status_fields_and_body(void **state) {
  (void)state;
  struct http_call *call = make_local("/a?b");
  http_call_add_field(call, SPAN("X-Empty"), SPAN(""));
  assert_true(http_client_start(client, call));
  int fd = await_connection(listener);
  await_bytes(fd, "GET /a?b HTTP/1.1\r\n");
  say(fd, "HTTP/1.1 103 Early\r\nX-Early: 1\r\n\r\nHTTP/1.1 404 No\r\nX-A:  b \r\nX-Empty:\r\nContent-Length: 3\r\n\r\nabc");
  await_done(1);
  struct span fields = buffer_span(&call->answer_fields), name, value;
  size_t at = 0;
  assert_int_equal(call->status, 404);
  assert_true(http_fields_next(fields, &at, &name, &value) && span_equal(name, SPAN("X-A")) && span_equal(value, SPAN("b")));
  assert_true(http_fields_next(fields, &at, &name, &value) && span_equal(name, SPAN("X-Empty")) && value.length == 0);
  assert_true(http_fields_next(fields, &at, &name, &value) && span_equal(name, SPAN("Content-Length")));
  assert_false(http_fields_next(fields, &at, &name, &value));
  assert_true(span_equal(buffer_span(&call->answer), SPAN("abc")));
  http_call_free(call);
  close(fd);
}

static void reset(int fd) {
  static const struct linger at_once = {.l_onoff = 1};
  assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once), 0);
  close(fd);
}

/* Services end connections as they like, some by a reset right behind an answer: that costs no request, whatever its method. */
static void a_connection_that_is_reset_behind_an_answer_costs_nothing(void **state) {
  (void)state;
  for (unsigned i = 0; i < 40; i++) {
    char url[64], error[128];
    snprintf(url, sizeof url, "http://127.0.0.1:%u/", port);
    struct http_call *call = http_call_new(i % 2 ? SPAN("POST") : SPAN("GET"), span_of(url), error, sizeof error);
    call->done = on_done;
    call->max_body = 60000;
    assert_true(http_client_start(client, call));
    int fd = await_connection(listener);
    await_bytes(fd, "\r\n\r\n");
    char answer[50100];
    snprintf(answer, sizeof answer, "HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n%050000d", 0);
    say(fd, answer);
    if (i % 4 < 2) reset(fd); /* which it learns of together with the answer, or after it, or when it sends the next request */
    await_done(i + 1);
    assert_string_equal(call->error, "");
    assert_int_equal(call->status, 200);
    http_call_free(call);
    if (i % 4 >= 2) reset(fd);
  }
}

/* What was not answered on a new connection is not sent again. */
static void a_request_is_sent_once_on_a_new_connection(void **state) {
  (void)state;
  struct http_call *call = make_local("/");
  assert_true(http_client_start(client, call));
  int fd = await_connection(listener);
  await_bytes(fd, "\r\n\r\n");
  reset(fd);
  await_done(1);
  assert_int_equal(call->status, 0);
  assert_true(call->error[0] != '\0');
  http_call_free(call);
  assert_true(accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC) < 0);
}

/* Whoever got a name to lead to one address must not be given the connection that somebody else has to another one under that name. */
static void connections_belong_to_a_name_and_an_address(void **state) {
  (void)state;
  int other = bound_socket(SOCK_STREAM, "127.0.0.2", &port);
  char url[64];
  int kept[2];
  snprintf(url, sizeof url, "http://service.test:%u/", port);
  for (unsigned i = 0; i < 4; i++) {
    struct http_call *call = make(url);
    assert_int_equal(address_parse_ip(span_of(i % 2 ? "127.0.0.2" : "127.0.0.1"), port, &call->addresses[0]), 0);
    call->address_count = 1;
    assert_true(http_client_start(client, call));
    if (i < 2) kept[i] = await_connection(i ? other : listener);
    await_bytes(kept[i % 2], "\r\n\r\n");
    say(kept[i % 2], "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    await_done(i + 1);
    assert_int_equal(call->status, 200);
    http_call_free(call);
  }
  close(kept[0]);
  close(kept[1]);
  close(other);
}

static void guests_do_not_reach_this_host_links_or_the_api_server(void **state) {
  (void)state;
  static const char *const urls[] = {"http://127.0.0.1/",
                                     "http://127.255.0.9/",
                                     "http://0.0.0.0/",
                                     "http://0x7f.1/",
                                     "http://[::1]/",
                                     "http://[::]/",
                                     "http://[::ffff:127.0.0.1]",
                                     "http://[::7f00:1]",
                                     "http://[64:ff9b::a9fe:a9fe]",
                                     "http://[2002:7f00:1::]/",
                                     "http://169.254.169.254/x",
                                     "http://[fe80::1]/",
                                     "http://224.0.0.1/",
                                     "http://255.255.255.255/",
                                     "http://[ff02::1]/",
                                     "https://203.0.113.7:6443/",
                                     "https://[::ffff:203.0.113.7]/",
                                     "https://[2001:db8::7]/",
                                     "https://203.0.113.9:6443/",
                                     "https://[::ffff:203.0.113.9]:6443/",
                                     "https://[2001:DB8:0::9]:6443/",
                                     "http://[fd00:ec2::254]/latest/",
                                     "http://100.100.100.200/latest/",
                                     "http://168.63.129.16/metadata",
                                     "http://192.0.0.192/opc"};
  for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
    struct http_call *call = make(urls[i]);
    call->is_guests = true;
    if (http_client_start(client, call)) fail_msg("%s is reached", urls[i]);
    assert_non_null(strstr(call->error, "a mounted policy may not reach "));
    http_call_free(call);
  }
  static const char *const others[] = {"http://192.0.2.1/", "http://203.0.113.9:30080/", "http://[fd00:ec2::253]/"};
  for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
    struct http_call *call = make(others[i]);
    call->is_guests = true;
    assert_true(http_client_start(client, call));
    http_call_free(call);
  }
  assert_int_equal(done_count, 0);
}

static void cancelled_calls_say_nothing(void **state) {
  (void)state;
  struct http_call *call = make("http://slow.test/"); /* its name is asked for */
  assert_true(http_client_start(client, call));
  loop_run_once(&loop, 1);
  http_call_free(call);
  call = make_local("/"); /* it connects */
  assert_true(http_client_start(client, call));
  http_call_free(call);
  call = make_local("/"); /* it waits for the answer */
  assert_true(http_client_start(client, call));
  int fd = await_connection(listener);
  http_call_free(call);
  await_end(fd);
  close(fd);
  call = make_local("/"); /* it has half of the answer */
  assert_true(http_client_start(client, call));
  fd = await_connection(listener);
  await_bytes(fd, "\r\n\r\n");
  say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc");
  for (int i = 0; i < 2000 && buffer_length(&call->answer) < 3; i++) loop_run_once(&loop, 1);
  http_call_free(call);
  await_end(fd);
  close(fd);
  for (int i = 0; i < 5; i++) loop_run_once(&loop, 1);
  assert_int_equal(done_count, 0);
}

/* Of the service at this port: one question for all of a name. */
static struct http_call *make_for(unsigned service, bool is_guests) {
  char url[64];
  snprintf(url, sizeof url, "http://slow.test:%u/", service);
  struct http_call *call = make(url);
  call->is_guests = is_guests;
  return call;
}

static void the_number_of_calls_is_bounded(void **state) {
  (void)state;
  static struct http_call *calls[LIMIT_HTTP_CALLS];
  for (unsigned i = 0; i < LIMIT_HTTP_CALLS; i++) {
    calls[i] = make_for(i + 1, i < LIMIT_HTTP_CALLS / 2);
    assert_true(http_client_start(client, calls[i]));
    if (i != LIMIT_HTTP_CALLS / 2 - 1) continue;
    struct http_call *guests = make("http://late.test/");
    guests->is_guests = true;
    assert_false(http_client_start(client, guests));
    http_call_free(guests);
  }
  struct http_call *one_more = make("http://more.test/");
  assert_false(http_client_start(client, one_more));
  assert_string_equal(one_more->error, "too many requests of policies are running");
  assert_int_equal(counter_get(&counters, COUNTER_LIMIT_HTTP_CALLS), 2);
  http_call_free(one_more);
  for (unsigned i = 0; i < LIMIT_HTTP_CALLS; i++) http_call_free(calls[i]);
  assert_int_equal(done_count, 0);
}

static void a_service_that_is_slow_leaves_room_to_others(void **state) {
  (void)state;
  static struct http_call *calls[LIMIT_HTTP_SERVICE_CALLS];
  for (unsigned i = 0; i < LIMIT_HTTP_SERVICE_CALLS; i++) {
    calls[i] = make("http://slow.test/");
    assert_true(http_client_start(client, calls[i]));
  }
  struct http_call *one_more = make("http://SLOW.test/other");
  assert_false(http_client_start(client, one_more));
  assert_string_equal(one_more->error, "too many requests to this service are running");
  assert_int_equal(counter_get(&counters, COUNTER_LIMIT_HTTP_SERVICE_CALLS), 1);
  struct http_call *other = make_local("/");
  assert_true(http_client_start(client, other));
  http_call_free(other);
  http_call_free(calls[0]);
  assert_true(http_client_start(client, one_more));
  for (unsigned i = 1; i < LIMIT_HTTP_SERVICE_CALLS; i++) http_call_free(calls[i]);
  http_call_free(one_more);
}

/* Any number of services that are slow at the same time: the next one is asked. */
static void slow_services_leave_room_to_others_together(void **state) {
  (void)state;
  static struct http_call *calls[LIMIT_HTTP_CALLS];
  static const unsigned expected[] = {1024, 512, 256, 128, 64, 32, 16, 8, 4};
  for (int is_guests = 1; is_guests >= 0; is_guests--) {
    unsigned total = 0;
    for (unsigned service = 1; service <= sizeof expected / sizeof *expected; service++) {
      struct http_call *call = make_for(service, is_guests);
      unsigned begun = 0;
      for (; http_client_start(client, call); call = make_for(service, is_guests)) calls[total + begun++] = call;
      assert_string_equal(call->error, "too many requests to this service are running");
      assert_int_equal(begun, is_guests ? expected[service - 1] / 2 : expected[service - 1]);
      total += begun;
      http_call_free(call);
    }
    struct http_call *healthy = make_for(99, is_guests);
    assert_true(http_client_start(client, healthy));
    http_call_free(healthy);
    for (unsigned i = 0; i < total; i++) http_call_free(calls[i]);
  }
}

/* What mounted policies have running to a service is not held against others' requests to it, nor the other way round. */
static void guests_and_others_have_shares_of_their_own(void **state) {
  (void)state;
  static struct http_call *calls[LIMIT_HTTP_CALLS];
  unsigned guests = 0, total = 0;
  for (int is_guests = 1; is_guests >= 0; is_guests--) {
    struct http_call *call = make_for(1, is_guests);
    for (; http_client_start(client, call); call = make_for(1, is_guests)) calls[total++] = call;
    if (is_guests) guests = total;
    http_call_free(call);
  }
  assert_int_equal(guests, LIMIT_HTTP_CALLS / 4);
  assert_int_equal(total, guests + (LIMIT_HTTP_CALLS - guests) / 2);
  for (unsigned i = 0; i < total; i++) http_call_free(calls[i]);
}

static void answers_respect_the_budget_of_the_process(void **state) {
  (void)state;
  for (unsigned i = 0; i < 2; i++) {
    struct http_call *call = make_local("/");
    assert_true(http_client_start(client, call));
    int fd = await_connection(listener);
    await_bytes(fd, "\r\n\r\n");
    atomic_store(&budget, i == 0 ? 0 : LIMIT_BODY_BUDGET_BYTES);
    say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc");
    await_done(i + 1);
    assert_int_equal(call->status, i == 0 ? 200 : 0);
    if (i == 0) assert_int_equal(atomic_load(&budget), 3);
    else assert_string_equal(call->error, "no room for the answer's body");
    http_call_free(call);
    assert_int_equal(atomic_load(&budget), i == 0 ? 0 : LIMIT_BODY_BUDGET_BYTES);
    close(fd);
  }
  assert_int_equal(counter_get(&counters, COUNTER_LIMIT_BODY_BUDGET_BYTES), 1);
}

static void a_name_that_is_not_resolved_ends_all_that_wait(void **state) {
  (void)state;
  struct http_call *calls[3];
  for (unsigned i = 0; i < 3; i++) {
    calls[i] = make("http://./");
    assert_true(http_client_start(client, calls[i]));
  }
  await_done(3);
  for (unsigned i = 0; i < 3; i++) {
    assert_int_equal(calls[i]->status, 0);
    assert_string_equal(calls[i]->error, ". is not resolved");
    http_call_free(calls[i]);
  }
  struct http_call *late = make("http://./"); /* remembered for a moment */
  assert_false(http_client_start(client, late));
  http_call_free(late);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(an_answer_has_status_fields_and_body, up, down),
      cmocka_unit_test_setup_teardown(a_connection_that_is_reset_behind_an_answer_costs_nothing, up, down),
      cmocka_unit_test_setup_teardown(a_request_is_sent_once_on_a_new_connection, up, down),
      cmocka_unit_test_setup_teardown(connections_belong_to_a_name_and_an_address, up, down),
      cmocka_unit_test_setup_teardown(guests_do_not_reach_this_host_links_or_the_api_server, up, down),
      cmocka_unit_test_setup_teardown(cancelled_calls_say_nothing, up, down),
      cmocka_unit_test_setup_teardown(the_number_of_calls_is_bounded, up, down),
      cmocka_unit_test_setup_teardown(a_service_that_is_slow_leaves_room_to_others, up, down),
      cmocka_unit_test_setup_teardown(slow_services_leave_room_to_others_together, up, down),
      cmocka_unit_test_setup_teardown(guests_and_others_have_shares_of_their_own, up, down),
      cmocka_unit_test_setup_teardown(answers_respect_the_budget_of_the_process, up, down),
      cmocka_unit_test_setup_teardown(a_name_that_is_not_resolved_ends_all_that_wait, up, down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
