/* Two links joined as a relay over real loopback sockets: back-pressure both ways, slow readers, half close, plain and TLS. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "net/link.h"
#include "net/listener.h"
#include "net/tls.h"

#define PATTERN 65521 /* a prime: no buffer size divides it */
#define BIG (64u << 20)

static unsigned char pattern[PATTERN];

struct world {
  struct loop loop;
  struct counters counters;
  struct log log;
  struct certificate *certificate;
  struct tls_tickets *tickets;
  struct tls_server *server;
  struct tls_client *client;
};

/* One side: sends `to_send` pattern bytes, checks what it gets. */
struct side {
  struct world *world;
  struct link *link;
  size_t to_send, sent, received;
  size_t block; /* bytes of one write */
  bool is_slow, is_ended, is_wrong, is_open, has_said_end;
  int error;
  unsigned calls;
  size_t most_pending;
  struct timer nap;
};

struct relay {
  struct world *world;
  struct link *front, *back;
  bool front_ended, back_ended;
  int error;
  size_t most_pending;
  const struct address *target;
  bool back_tls;
};

static struct certificate *find(void *context, struct span name) {
  (void)name;
  return ((struct world *)context)->certificate;
}

static void world_init(struct world *world) {
  *world = (struct world){0};
  assert_int_equal(loop_init(&world->loop, &world->counters, &world->log), 0);
  char error[200] = "";
  world->certificate = certificate_new_self_signed();
  world->tickets = tls_tickets_new();
  struct tls_profile profile = {.protocols = "TLSv1.2 TLSv1.3", .curves = "auto", .tickets = true, .session_timeout = 600};
  world->server = tls_server_new(&profile, world->tickets, find, world, error, sizeof error);
  assert_string_equal(error, "");
  world->client = tls_client_new(false, (struct span){0}, error, sizeof error);
}

static void world_free(struct world *world) {
  tls_server_free(world->server);
  tls_client_free(world->client);
  loop_free(&world->loop);
  tls_tickets_free(world->tickets);
  certificate_free(world->certificate);
}

static void side_pump(struct side *side) {
  while (side->sent < side->to_send && !link_is_full(side->link)) {
    size_t offset = side->sent % PATTERN, size = PATTERN - offset;
    if (size > side->block) size = side->block;
    if (size > side->to_send - side->sent) size = side->to_send - side->sent;
    /* In three parts, to exercise gathering. */
    struct iovec parts[3] = {{pattern + offset, size / 3}, {pattern + offset + size / 3, size / 3}, {pattern + offset + 2 * (size / 3), size - 2 * (size / 3)}};
    link_write(side->link, parts, 3);
    side->sent += size;
    if (link_pending(side->link) > side->most_pending) side->most_pending = link_pending(side->link);
  }
  if (side->sent == side->to_send && !side->has_said_end) {
    side->has_said_end = true;
    link_end(side->link);
  }
}

static void side_open(void *owner, int status) {
  struct side *side = owner;
  side->error = status;
  side->is_open = status == 0;
  if (status == 0) side_pump(side);
}

static size_t side_read(void *owner, const char *data, size_t length) {
  struct side *side = owner;
  side->calls++;
  size_t take = length;
  if (side->is_slow && side->calls % 16 == 0) {
    take = length / 2;
    loop_timer_start(&side->world->loop, &side->nap, 1);
    link_pause(side->link);
  }
  for (size_t done = 0; done < take;) {
    size_t offset = (side->received + done) % PATTERN, size = PATTERN - offset;
    if (size > take - done) size = take - done;
    if (memcmp(pattern + offset, data + done, size) != 0) side->is_wrong = true;
    done += size;
  }
  side->received += take;
  return take;
}

static void side_nap_over(struct timer *timer) {
  struct side *side = container_of(timer, struct side, nap);
  link_resume(side->link);
  loop_flush(&side->world->loop);
}

static void side_end(void *owner, int error) {
  struct side *side = owner;
  side->is_ended = true;
  if (!side->error) side->error = error;
}

static void side_drain(void *owner) { side_pump(owner); }

static const struct link_events side_events = {side_open, side_read, side_end, side_drain};

static void side_init(struct side *side, struct world *world, size_t to_send, size_t block, bool is_slow) {
  *side = (struct side){.world = world, .to_send = to_send, .block = block, .is_slow = is_slow};
  timer_init(&side->nap, side_nap_over);
}

static void relay_copy(struct relay *relay, struct link *from, struct link *to, const char *data, size_t length) {
  link_write_span(to, span_make(data, length));
  if (link_pending(to) > relay->most_pending) relay->most_pending = link_pending(to);
  if (link_is_full(to)) link_pause(from);
}
static void relay_open(void *owner, int status) { ((struct relay *)owner)->error |= status; }
static size_t front_read(void *owner, const char *data, size_t length) {
  struct relay *relay = owner;
  relay_copy(relay, relay->front, relay->back, data, length);
  return length;
}
static size_t back_read(void *owner, const char *data, size_t length) {
  struct relay *relay = owner;
  relay_copy(relay, relay->back, relay->front, data, length);
  return length;
}
static void front_end(void *owner, int error) {
  struct relay *relay = owner;
  relay->front_ended = true;
  relay->error |= error;
  link_end(relay->back);
}
static void back_end(void *owner, int error) {
  struct relay *relay = owner;
  relay->back_ended = true;
  relay->error |= error;
  link_end(relay->front);
}
static void front_drain(void *owner) { link_resume(((struct relay *)owner)->back); }
static void back_drain(void *owner) { link_resume(((struct relay *)owner)->front); }
static const struct link_events front_events = {relay_open, front_read, front_end, front_drain};
static const struct link_events back_events = {relay_open, back_read, back_end, back_drain};

struct target {
  struct side *side;
  bool tls;
};

static void accept_side(void *context, struct link *link) {
  struct target *target = context;
  struct side *side = target->side;
  side->link = link;
  link_set_owner(link, &side_events, side);
  if (target->tls) {
    link_start_tls(link, side->world->server);
  } else {
    link_start(link);
    side_open(side, 0);
  }
}

struct front_target {
  struct relay *relay;
  bool tls;
};

static void accept_front(void *context, struct link *link) {
  struct front_target *target = context;
  struct relay *relay = target->relay;
  relay->front = link;
  relay->back = link_connect(&relay->world->loop, relay->target, relay->back_tls ? relay->world->client : NULL, "sink.local", &back_events, relay);
  link_set_owner(link, &front_events, relay);
  if (target->tls) {
    link_start_tls(link, relay->world->server);
  } else {
    link_start(link);
  }
}

static struct listener *listen_here(struct world *world, struct address *address, void (*on_accept)(void *, struct link *), void *context) {
  int error;
  assert_int_equal(address_parse_ip(SPAN("127.0.0.1"), 0, address), 0);
  struct listener *listener = listener_new(&world->loop, address, true, 16, on_accept, context, &error);
  assert_int_equal(error, 0);
  assert_int_equal(address_parse_ip(SPAN("127.0.0.1"), listener_port(listener), address), 0);
  return listener;
}

static void run_relay(size_t up, size_t down, size_t block, bool front_tls, bool back_tls, bool slow_source, bool slow_sink) {
  struct world world;
  world_init(&world);
  struct side source, sink;
  side_init(&source, &world, up, block, slow_source);
  side_init(&sink, &world, down, block, slow_sink);
  struct address sink_address, front_address;
  struct target target = {&sink, back_tls};
  struct listener *sink_listener = listen_here(&world, &sink_address, accept_side, &target);
  struct relay relay = {.world = &world, .target = &sink_address, .back_tls = back_tls};
  struct front_target front = {&relay, front_tls};
  struct listener *front_listener = listen_here(&world, &front_address, accept_front, &front);
  source.link = link_connect(&world.loop, &front_address, front_tls ? world.client : NULL, "front.local", &side_events, &source);
  uint64_t start = loop_now_us(&world.loop);
  while (!(source.is_ended && sink.is_ended) && loop_now_us(&world.loop) - start < 60000000) loop_run_once(&world.loop, 100);
  assert_true(source.is_ended && sink.is_ended);
  assert_int_equal(source.error, 0);
  assert_int_equal(sink.error, 0);
  assert_int_equal(relay.error, 0);
  assert_false(source.is_wrong || sink.is_wrong);
  assert_int_equal(sink.received, up);
  assert_int_equal(source.received, down);
  assert_int_equal(link_bytes_read(relay.front), up);
  assert_int_equal(link_bytes_written(source.link), up);
  assert_int_equal(link_bytes_read(source.link), down);
  /* One read more than the limit, and what encryption adds. */
  assert_true(relay.most_pending < LIMIT_LINK_PENDING_BYTES + 2 * LOOP_READ_BUFFER);
  assert_true(source.most_pending < LIMIT_LINK_PENDING_BYTES + 2 * PATTERN);
  if (slow_sink && up == BIG) assert_true(counter_get(&world.counters, COUNTER_LIMIT_LINK_PENDING_BYTES) > 0);
  link_close(source.link);
  link_close(sink.link);
  link_close(relay.front);
  link_close(relay.back);
  listener_close(sink_listener);
  listener_close(front_listener);
  world_free(&world);
}

static void test_plain(void **state) {
  (void)state;
  run_relay(BIG, 8u << 20, PATTERN, false, false, false, true);
}
static void test_plain_other_way(void **state) {
  (void)state;
  run_relay(8u << 20, BIG, PATTERN, false, false, true, false);
}
static void test_tls(void **state) {
  (void)state;
  run_relay(BIG, 8u << 20, PATTERN, true, true, false, true);
}
static void test_tls_small_writes(void **state) {
  (void)state;
  run_relay(3u << 20, 3u << 20, 777, true, false, true, true);
}
static void test_small_writes(void **state) {
  (void)state;
  run_relay(3u << 20, 3u << 20, 777, false, true, true, true);
}
static void test_nothing(void **state) {
  (void)state;
  run_relay(0, 0, 1, false, false, false, false);
  run_relay(0, 1, 1, true, true, false, false);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  for (size_t i = 0; i < PATTERN; i++) pattern[i] = (unsigned char)(i * 2654435761u >> 13);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_nothing), cmocka_unit_test(test_plain),        cmocka_unit_test(test_plain_other_way),
      cmocka_unit_test(test_tls),     cmocka_unit_test(test_small_writes), cmocka_unit_test(test_tls_small_writes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
