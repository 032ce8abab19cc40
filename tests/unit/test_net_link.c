/* Links: pairs, held bytes, pause and resume, new owners, closing in each callback and with bytes pending, ends and resets. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/error.h"
#include "net/link.h"
#include "net/listener.h"

enum what_to_do { NOTHING = 0, CLOSE, CLOSE_GRACEFULLY, RESET };

struct world {
  struct loop loop;
  struct counters counters;
  struct log log;
  struct listener *listener;
  struct address address;
  struct link *accepted[64];
  int accepted_count;
};

struct owner {
  struct link *link;
  char text[256];
  size_t length, take_at_most;
  bool pause_when_short, is_open, is_ended, is_drained;
  int status, error, calls, ends;
  enum what_to_do on_open, on_read, on_end, on_drain;
  bool was_closed; /* then no call may come */
};

static void act(struct owner *owner, enum what_to_do what) {
  if (what == NOTHING) return;
  owner->was_closed = true;
  if (what == CLOSE) link_close(owner->link);
  if (what == CLOSE_GRACEFULLY) link_close_gracefully(owner->link, 1000);
  if (what == RESET) link_reset(owner->link);
  owner->link = NULL;
}

static void on_open(void *context, int status) {
  struct owner *owner = context;
  assert_false(owner->was_closed);
  owner->is_open = status == 0;
  owner->status = status;
  act(owner, owner->on_open);
}
static size_t on_read(void *context, const char *data, size_t length) {
  struct owner *owner = context;
  assert_false(owner->was_closed);
  owner->calls++;
  size_t take = owner->take_at_most && length > owner->take_at_most ? owner->take_at_most : length;
  if (owner->length + take < sizeof owner->text) memcpy(owner->text + owner->length, data, take);
  owner->length += take;
  act(owner, owner->on_read);
  return take;
}
static void on_end(void *context, int error) {
  struct owner *owner = context;
  assert_false(owner->was_closed);
  owner->is_ended = true;
  owner->ends++;
  owner->error = error;
  act(owner, owner->on_end);
}
static void on_drain(void *context) {
  struct owner *owner = context;
  assert_false(owner->was_closed);
  owner->is_drained = true;
  act(owner, owner->on_drain);
}
static const struct link_events events = {on_open, on_read, on_end, on_drain};

static void own(struct owner *owner, struct link *link) {
  owner->link = link;
  link_set_owner(link, &events, owner);
  link_start(link);
}

static void on_accept(void *context, struct link *link) {
  struct world *world = context;
  assert_true(world->accepted_count < 64);
  world->accepted[world->accepted_count++] = link;
}

static void turn(struct world *world, int count) {
  for (int i = 0; i < count; i++) loop_run_once(&world->loop, 2);
}
#define WAIT(world, condition) \
  do { \
    for (int wait_ = 0; wait_ < 2000 && !(condition); wait_++) turn(world, 1); \
    assert_true(condition); \
  } while (0)

static int set_up(void **state) {
  struct world *world = calloc(1, sizeof *world);
  assert_int_equal(loop_init(&world->loop, &world->counters, &world->log), 0);
  int error;
  address_parse_ip(SPAN("127.0.0.1"), 0, &world->address);
  world->listener = listener_new(&world->loop, &world->address, true, 64, on_accept, world, &error);
  assert_int_equal(error, 0);
  address_parse_ip(SPAN("127.0.0.1"), listener_port(world->listener), &world->address);
  *state = world;
  return 0;
}

static int tear_down(void **state) {
  struct world *world = *state;
  if (world->listener) listener_close(world->listener);
  loop_free(&world->loop);
  assert_int_equal(world->loop.live_links, 0);
  free(world);
  return 0;
}

/* Two ends of a real connection. */
static void connect_two(struct world *world, struct owner *client, struct owner *server) {
  client->link = link_connect(&world->loop, &world->address, NULL, NULL, &events, client);
  int before = world->accepted_count;
  WAIT(world, world->accepted_count > before && client->is_open);
  own(server, world->accepted[before]);
}

static void test_pair(void **state) {
  struct world *world = *state;
  struct link *ends[2];
  link_pair(&world->loop, ends);
  struct owner a = {0}, b = {0};
  own(&a, ends[0]);
  own(&b, ends[1]);
  link_write_span(a.link, SPAN("hello"));
  assert_int_equal(b.length, 0); /* never from inside */
  assert_int_equal(link_pending(a.link), 5);
  turn(world, 2);
  assert_string_equal(b.text, "hello");
  assert_int_equal(link_bytes_written(a.link), 5);
  link_end(a.link);
  turn(world, 2);
  assert_true(b.is_ended && b.error == 0);
  link_write_span(b.link, SPAN("late")); /* half closed: the other way still works */
  turn(world, 2);
  assert_string_equal(a.text, "late");
  link_reset(b.link);
  turn(world, 2);
  assert_true(a.is_ended && a.error == UV_ECONNRESET);
  link_close(a.link);
}

/* What the kernel refused was not written: whether a request may be sent again rests on this. */
static void test_refused_bytes_are_not_written(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  connect_two(world, &client, &server);
  link_write_span(client.link, SPAN("first"));
  WAIT(world, server.length == 5);
  link_reset(server.link);
  link_write_span(client.link, SPAN("second"));
  WAIT(world, client.is_ended);
  assert_true(client.error < 0);
  assert_int_equal(link_bytes_written(client.link), 5);
  link_close(client.link);

  struct link *ends[2];
  link_pair(&world->loop, ends);
  struct owner a = {0};
  own(&a, ends[0]);
  link_close(ends[1]);
  link_write_span(a.link, SPAN("lost"));
  turn(world, 2);
  assert_true(a.is_ended);
  assert_int_equal(link_bytes_written(a.link), 0);
  link_close(a.link);
}

static void test_pair_pressure(void **state) {
  struct world *world = *state;
  struct link *ends[2];
  link_pair(&world->loop, ends);
  struct owner a = {0}, b = {0};
  own(&a, ends[0]);
  own(&b, ends[1]);
  link_pause(b.link);
  char *big = calloc(1, 200000);
  link_write_span(a.link, span_make(big, 40000));
  turn(world, 2); /* one read is held */
  link_write_span(a.link, span_make(big, 100000));
  turn(world, 3);
  assert_true(link_is_full(a.link));
  assert_false(a.is_drained);
  link_resume(b.link);
  assert_int_equal(b.length, 0); /* not from inside link_resume */
  turn(world, 3);
  assert_int_equal(b.length, 140000);
  assert_true(a.is_drained);
  link_close(a.link);
  link_close(b.link);
  free(big);
}

/* What does not fit ends the connection: a socket is not read while its owner pauses, so only one read can be too much. */
static void test_held_limit(void **state) {
  struct world *world = *state;
  struct link *ends[2];
  link_pair(&world->loop, ends);
  struct owner a = {0}, b = {0};
  own(&a, ends[0]);
  own(&b, ends[1]);
  link_pause(b.link);
  char *big = calloc(1, LIMIT_LINK_HELD_BYTES + 1);
  link_write_span(a.link, span_make(big, LIMIT_LINK_HELD_BYTES + 1));
  turn(world, 3);
  assert_true(b.is_ended && b.error == ERROR_LIMIT);
  assert_int_equal(b.length, 0);
  assert_int_equal(counter_get(&world->counters, COUNTER_LIMIT_LINK_HELD_BYTES), 1);
  link_close(a.link);
  link_close(b.link);
  free(big);
}

static void test_held(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {.take_at_most = 2};
  connect_two(world, &client, &server);
  link_write_span(client.link, SPAN("abcdef"));
  WAIT(world, server.length == 2);
  turn(world, 3);
  assert_int_equal(server.length, 2);
  link_write_span(client.link, SPAN("gh"));
  turn(world, 3);
  link_resume(server.link);
  link_resume(server.link);
  assert_int_equal(server.length, 2);
  WAIT(world, server.length == 4);
  turn(world, 3);
  assert_int_equal(server.length, 4);
  assert_int_equal(link_bytes_read(server.link), 4);
  /* The end waits for what came before it. */
  link_end(client.link);
  turn(world, 5);
  assert_false(server.is_ended);
  server.take_at_most = 0;
  link_resume(server.link);
  WAIT(world, server.is_ended);
  assert_string_equal(server.text, "abcdefgh");
  assert_int_equal(server.error, 0);
  link_close(client.link);
  link_close(server.link);
}

static void test_new_owner(void **state) {
  struct world *world = *state;
  struct owner client = {0}, first = {.take_at_most = 3}, second = {0};
  connect_two(world, &client, &first);
  link_write_span(client.link, SPAN("PROrest"));
  WAIT(world, first.length == 3);
  second.link = first.link;
  link_set_owner(first.link, &events, &second);
  assert_int_equal(second.length, 0);
  WAIT(world, second.length == 4);
  assert_string_equal(second.text, "rest");
  link_write_span(client.link, SPAN("more"));
  WAIT(world, second.length == 8);
  link_close(client.link);
  WAIT(world, second.is_ended);
  assert_int_equal(second.ends, 1);
  link_close(second.link);
}

/* One system call for what one turn writes: the other side gets it in one read. */
static void test_staging(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  connect_two(world, &client, &server);
  for (int i = 0; i < 20; i++) link_write_span(client.link, SPAN("0123456789"));
  assert_int_equal(link_pending(client.link), 200);
  WAIT(world, server.length == 200);
  assert_int_equal(server.calls, 1);
  assert_int_equal(link_pending(client.link), 0);
  link_close(client.link);
  link_close(server.link);
}

static void test_write_before_open(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  client.link = link_connect(&world->loop, &world->address, NULL, NULL, &events, &client);
  char *big = malloc(100000);
  memset(big, 'x', 100000);
  link_write_span(client.link, span_make(big, 100000));
  assert_true(link_is_full(client.link));
  link_end(client.link);
  WAIT(world, world->accepted_count == 1);
  own(&server, world->accepted[0]);
  WAIT(world, server.is_ended);
  assert_int_equal(server.length, 100000);
  assert_true(client.is_drained);
  link_close(client.link);
  link_close(server.link);
  free(big);
}

static void test_refused(void **state) {
  struct world *world = *state;
  listener_close(world->listener);
  world->listener = NULL;
  turn(world, 2);
  struct owner client = {0};
  client.link = link_connect(&world->loop, &world->address, NULL, NULL, &events, &client);
  assert_int_equal(client.status, 0);
  WAIT(world, client.status != 0);
  assert_int_equal(client.status, UV_ECONNREFUSED);
  link_close(client.link);
  client.status = 0;
  client.link = link_connect(&world->loop, &world->address, NULL, NULL, &events, &client);
  link_close(client.link); /* while connecting: no call comes */
  client.was_closed = true;
  turn(world, 5);
}

static void close_in(struct world *world, enum what_to_do what, int where) {
  struct owner client = {0}, server = {0};
  if (where == 0) {
    client.on_open = what;
    client.link = link_connect(&world->loop, &world->address, NULL, NULL, &events, &client);
    WAIT(world, client.was_closed);
    WAIT(world, world->accepted_count > 0);
    own(&server, world->accepted[world->accepted_count - 1]);
    WAIT(world, server.is_ended);
    link_close(server.link);
    return;
  }
  connect_two(world, &client, &server);
  if (where == 1) server.on_read = what;
  if (where == 2) server.on_end = what;
  if (where == 3) server.on_drain = what;
  if (where == 3) {
    link_pause(client.link);
    char *big = calloc(1, 16 << 20);
    link_write_span(server.link, span_make(big, 16 << 20));
    free(big);
    assert_true(link_is_full(server.link));
    turn(world, 3);
    link_resume(client.link);
    WAIT(world, server.was_closed);
  } else {
    link_write_span(client.link, SPAN("data"));
    turn(world, 3);
    if (where == 2) link_end(client.link);
    WAIT(world, server.was_closed);
  }
  WAIT(world, client.is_ended);
  if (what == CLOSE_GRACEFULLY) assert_int_equal(client.error, 0);
  if (what == RESET && where != 3) assert_int_equal(client.error, UV_ECONNRESET);
  link_close(client.link);
  turn(world, 3);
}

static void test_close_in_callbacks(void **state) {
  for (int what = CLOSE; what <= RESET; what++) {
    for (int where = 0; where < 4; where++) close_in(*state, (enum what_to_do)what, where);
  }
}

static void test_close_with_pending(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  connect_two(world, &client, &server);
  link_pause(server.link);
  char *big = calloc(1, 16 << 20);
  link_write_span(client.link, span_make(big, 16 << 20));
  link_write_span(client.link, SPAN("staged"));
  turn(world, 3);
  assert_true(link_pending(client.link) > 0);
  client.was_closed = true;
  link_close(client.link);
  turn(world, 3);
  link_resume(server.link);
  WAIT(world, server.is_ended);
  link_close(server.link);
  free(big);
}

/* All of it arrives, then the end; what the peer sends meanwhile is dropped without a reset. */
static void test_graceful(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  connect_two(world, &client, &server);
  link_pause(client.link);
  char *big = calloc(1, 8 << 20);
  link_write_span(server.link, span_make(big, 8 << 20));
  server.was_closed = true;
  link_close_gracefully(server.link, 5000);
  link_write_span(client.link, SPAN("unwanted"));
  turn(world, 5);
  assert_int_equal(world->loop.live_links, 2);
  link_resume(client.link);
  WAIT(world, client.is_ended);
  assert_int_equal(client.error, 0);
  assert_int_equal(client.length, 8 << 20);
  link_close(client.link);
  WAIT(world, world->loop.live_links == 0);
  free(big);
}

static void test_graceful_times_out(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  connect_two(world, &client, &server);
  server.was_closed = true;
  link_close_gracefully(server.link, 30);
  WAIT(world, client.is_ended);
  WAIT(world, world->loop.live_links == 1);
  link_close(client.link);
}

/* An upstream that answers and closes with our request unread: the answer is read, then the error is told. */
static void test_early_answer(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  connect_two(world, &client, &server);
  link_write_span(client.link, SPAN("request"));
  link_pause(server.link);
  turn(world, 4);
  link_write_span(server.link, SPAN("answer"));
  loop_flush(&world->loop);
  link_reset(server.link);
  loop_run_once(&world->loop, 0);
  link_write_span(client.link, SPAN("rest of the request"));
  WAIT(world, client.is_ended);
  assert_string_equal(client.text, "answer");
  assert_true(client.error < 0);
  turn(world, 3);
  assert_int_equal(client.ends, 1);
  link_close(client.link);
}

/* A client that breaks off is told even while reading is paused. */
static void test_client_gone_while_paused(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  connect_two(world, &client, &server);
  link_pause(server.link);
  link_write_span(client.link, SPAN("pipelined"));
  turn(world, 4);
  link_reset(client.link);
  turn(world, 3);
  link_write_span(server.link, SPAN("an answer"));
  WAIT(world, server.is_ended);
  assert_true(server.error < 0);
  link_close(server.link);
}

static void test_addresses(void **state) {
  struct world *world = *state;
  struct owner client = {0}, server = {0};
  connect_two(world, &client, &server);
  assert_true(address_equal(link_peer(client.link), &world->address));
  assert_true(address_equal(link_local(server.link), &world->address));
  assert_true(address_equal(link_peer(server.link), link_local(client.link)));
  link_close(client.link);
  link_close(server.link);
}

static void test_listener_pause(void **state) {
  struct world *world = *state;
  listener_pause(world->listener);
  struct owner clients[5] = {0};
  for (int i = 0; i < 5; i++) clients[i].link = link_connect(&world->loop, &world->address, NULL, NULL, &events, &clients[i]);
  turn(world, 10);
  assert_int_equal(world->accepted_count, 0);
  listener_resume(world->listener);
  assert_int_equal(world->accepted_count, 0);
  WAIT(world, world->accepted_count == 5);
  listener_pause(world->listener);
  for (int i = 0; i < 5; i++) link_close(clients[i].link);
  for (int i = 0; i < 5; i++) {
    clients[i] = (struct owner){0};
    clients[i].link = link_connect(&world->loop, &world->address, NULL, NULL, &events, &clients[i]);
  }
  turn(world, 5);
  assert_int_equal(world->accepted_count, 5);
  listener_close(world->listener); /* takes all that is queued */
  world->listener = NULL;
  assert_int_equal(world->accepted_count, 10);
  for (int i = 0; i < 10; i++) link_close(world->accepted[i]);
  for (int i = 0; i < 5; i++) WAIT(world, clients[i].is_ended);
  for (int i = 0; i < 5; i++) link_close(clients[i].link);
}

static void test_port_in_use(void **state) {
  struct world *world = *state;
  assert_int_equal(listener_probe(&world->address), UV_EADDRINUSE);
  int error;
  struct listener *second = listener_new(&world->loop, &world->address, true, 16, on_accept, world, &error);
  assert_non_null(second); /* our own workers share it */
  listener_close(second);
  assert_null(listener_new(&world->loop, &world->address, false, 16, on_accept, world, &error));
  assert_int_equal(error, UV_EADDRINUSE);
}

struct wait {
  struct timer timer;
  struct loop *loop;
  uint64_t fired_ms;
};
static void on_wait(struct timer *timer) {
  struct wait *wait = container_of(timer, struct wait, timer);
  wait->fired_ms = loop_now_ms(wait->loop);
}

/* A timer started after a long sleep counts from now, not from when the wheel was last looked at. */
static void test_timer_after_sleep(void **state) {
  struct world *world = *state;
  struct wait wait = {.loop = &world->loop};
  timer_init(&wait.timer, on_wait);
  usleep(200000);
  loop_run_once(&world->loop, 1);
  uint64_t start = loop_now_ms(&world->loop);
  loop_timer_start(&world->loop, &wait.timer, 100);
  while (!wait.fired_ms) loop_run_once(&world->loop, 1000);
  assert_in_range(wait.fired_ms - start, 100, 180);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(test_pair),
      T(test_refused_bytes_are_not_written),
      T(test_pair_pressure),
      T(test_held),
      T(test_held_limit),
      T(test_new_owner),
      T(test_staging),
      T(test_write_before_open),
      T(test_refused),
      T(test_close_in_callbacks),
      T(test_close_with_pending),
      T(test_graceful),
      T(test_graceful_times_out),
      T(test_early_answer),
      T(test_client_gone_while_paused),
      T(test_addresses),
      T(test_listener_pause),
      T(test_port_in_use),
      T(test_timer_after_sleep),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
