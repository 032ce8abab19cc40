/* The API server's client over HTTP/2, against frames that a test writes: one connection for all, flow control, resets, GOAWAY, a connection that died. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kube_pairs.h"
#include "kube_server.h"

#include <poll.h>

enum { DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, GOAWAY = 7, WINDOW_UPDATE = 8 };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4 };
enum { NO_ERROR = 0, INTERNAL_ERROR = 2, REFUSED_STREAM = 7, MAX_STREAMS_ID = 3, STREAMS = 64 };

/* What a test does when a request came, and when there is time; both on the connection's thread. */
struct h2;
struct rules {
  void (*on_request)(struct h2 *h2, uint32_t stream);
  void (*on_turn)(struct h2 *h2);
  uint32_t max_streams;
};
static const struct rules *rules; /* of the test that runs */
static _Atomic unsigned resets;   /* RST_STREAM of the client */

struct h2 {
  struct peer *peer;
  unsigned number;    /* of the connection, from 1 */
  unsigned requests;  /* on it */
  unsigned streams;   /* that stay open */
  uint32_t last;      /* stream */
  int64_t connection; /* windows: what may be sent */
  int64_t window[STREAMS];
  uint32_t list; /* stream on which a long list is being sent */
  int item;
};

static bool frame(struct h2 *h2, int type, int flags, uint32_t stream, const char *payload, size_t length) {
  unsigned char head[9] = {(unsigned char)(length >> 16), (unsigned char)(length >> 8), (unsigned char)length,
                           (unsigned char)type,           (unsigned char)flags,         (unsigned char)(stream >> 24),
                           (unsigned char)(stream >> 16), (unsigned char)(stream >> 8), (unsigned char)stream};
  return peer_send_bytes(h2->peer, (const char *)head, 9) && peer_send_bytes(h2->peer, payload, length);
}

static bool number_frame(struct h2 *h2, int type, uint32_t stream, uint32_t number) {
  unsigned char bytes[4] = {(unsigned char)(number >> 24), (unsigned char)(number >> 16), (unsigned char)(number >> 8), (unsigned char)number};
  return frame(h2, type, 0, stream, (const char *)bytes, 4);
}

static bool answer_head(struct h2 *h2, uint32_t stream) { return frame(h2, HEADERS, END_HEADERS, stream, "\x88", 1); } /* :status 200 */

static bool data(struct h2 *h2, uint32_t stream, const char *text, bool is_end) {
  size_t length = strlen(text);
  h2->connection -= (int64_t)length;
  h2->window[stream / 2 % STREAMS] -= (int64_t)length;
  return frame(h2, DATA, is_end ? END_STREAM : 0, stream, text, length);
}

static uint32_t number_of(const unsigned char *bytes) { return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3]; }

static bool read_all(struct h2 *h2, unsigned char *to, size_t length) {
  while (length > 0) {
    ssize_t got = peer_read(h2->peer, (char *)to, length);
    if (got <= 0) return false;
    to += got;
    length -= (size_t)got;
  }
  return true;
}

static bool take_frame(struct h2 *h2) {
  static const unsigned initial_window_id = 4;
  unsigned char head[9], payload[16384];
  if (!read_all(h2, head, 9)) return false;
  size_t length = (size_t)head[0] << 16 | (size_t)head[1] << 8 | head[2];
  uint32_t stream = number_of(head + 5) & 0x7fffffff;
  if (length > sizeof payload || !read_all(h2, payload, length)) return false;
  if (head[3] == SETTINGS && !(head[4] & ACK)) {
    for (size_t i = 0; i + 6 <= length; i += 6)
      if ((payload[i] << 8 | payload[i + 1]) == (int)initial_window_id)
        for (int k = 0; k < STREAMS; k++) h2->window[k] = number_of(payload + i + 2);
    return frame(h2, SETTINGS, ACK, 0, "", 0);
  }
  if (head[3] == PING && !(head[4] & ACK)) return frame(h2, PING, ACK, 0, (char *)payload, 8);
  if (head[3] == WINDOW_UPDATE && stream == 0) h2->connection += number_of(payload);
  if (head[3] == WINDOW_UPDATE && stream) h2->window[stream / 2 % STREAMS] += number_of(payload);
  if (head[3] == RST_STREAM) {
    resets++;
    if (stream == h2->list) h2->list = 0;
    sem_post(&h2->peer->server->here);
  }
  if (head[3] == HEADERS) {
    h2->last = stream;
    h2->requests++;
    h2->peer->server->requests++;
    rules->on_request(h2, stream);
  }
  return true;
}

static bool is_readable(struct peer *peer) {
  struct pollfd fd = {.fd = peer->fd, .events = POLLIN};
  return SSL_pending(peer->ssl) > 0 || poll(&fd, 1, 2) > 0;
}

static void serve(struct peer *peer) {
  static const size_t preface = 24;
  struct h2 h2 = {.peer = peer, .number = peer->server->connections, .connection = 65535};
  unsigned char bytes[24], max_streams[6] = {0, MAX_STREAMS_ID, 0, 0, 0, (unsigned char)rules->max_streams};
  for (int i = 0; i < STREAMS; i++) h2.window[i] = 65535;
  if (!read_all(&h2, bytes, preface) || !frame(&h2, SETTINGS, 0, 0, (char *)max_streams, sizeof max_streams)) return;
  while (!peer->server->is_over) {
    if (is_readable(peer) && !take_frame(&h2)) break;
    if (rules->on_turn) rules->on_turn(&h2);
  }
  peer->server->is_gone = true;
}

/* ---- world ---- */

struct world {
  struct pair authority, right;
  SSL_CTX *tls;
  struct server *server;
  struct api *api;
};

static int select_h2(SSL *ssl, const unsigned char **out, unsigned char *length, const unsigned char *in, unsigned in_length, void *context) {
  (void)ssl, (void)context;
  for (unsigned i = 0; i < in_length; i += in[i] + 1u)
    if (in[i] == 2 && memcmp(in + i + 1, "h2", 2) == 0) {
      *out = in + i + 1;
      *length = 2;
      return SSL_TLSEXT_ERR_OK;
    }
  return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int set_up(void **state) {
  struct world *world = calloc(1, sizeof *world);
  world->authority = pair_new("authority", NULL, NULL, -1, 1);
  world->right = pair_new("kubernetes", "IP:127.0.0.1", &world->authority, -1, 1);
  world->tls = pair_server(&world->right);
  SSL_CTX_set_alpn_select_cb(world->tls, select_h2, NULL);
  resets = 0;
  *state = world;
  return 0;
}

static void begin(struct world *world, const struct rules *chosen) {
  rules = chosen;
  world->server = server_start(serve, world->tls);
  world->api = client_of(world->server, (struct api_options){.ca = world->authority.pem});
}

static int tear_down(void **state) {
  struct world *world = *state;
  api_free(world->api);
  server_stop(world->server);
  SSL_CTX_free(world->tls);
  pair_free(&world->authority), pair_free(&world->right);
  free(world);
  return 0;
}

static uint64_t watch(struct world *world) { return client_send(world->api, (struct api_request){.path = "/watch", .split = API_SPLIT_WATCH}); }
static uint64_t ask(struct world *world) { return client_send(world->api, (struct api_request){.path = "/ask"}); }

/* ---- tests ---- */

static void answer_event(struct h2 *h2, uint32_t stream) {
  answer_head(h2, stream);
  data(h2, stream, "{\"a\":1}\n", false);
}

/* One event for each of `count` ids, in whatever order. */
static void expect_events(struct world *world, uint64_t first, unsigned count) {
  bool is_here[STREAMS] = {false};
  for (unsigned i = 0; i < count; i++) {
    struct api_news *news = client_take(world->api);
    if (news->kind != API_NEWS_EVENT || news->id < first || news->id >= first + count || is_here[news->id - first])
      fail_msg("id %d kind %d: %s", (int)news->id, news->kind, news->text.data);
    is_here[news->id - first] = true;
    api_news_free(news);
  }
}

/* Watches that begin before there is a connection wait for it; all share it. */
static void one_connection(void **state) {
  struct world *world = *state;
  static const struct rules events = {.on_request = answer_event, .max_streams = 100};
  begin(world, &events);
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < 20; i++) watch(world);
    expect_events(world, (uint64_t)round * 20 + 1, 20);
  }
  assert_int_equal(world->server->connections, 1);
  /* One is given up: only its stream ends. */
  api_cancel(world->api, 7);
  client_expect(world->api, watch(world), API_NEWS_EVENT, "{\"a\":1}");
  assert_int_equal(resets, 1);
  assert_int_equal(world->server->connections, 1);
}

/* A server that takes few streams at once, and refuses those that came before it could say so: the others get a connection all the same. */
static void answer_two(struct h2 *h2, uint32_t stream) {
  if (h2->streams == 2) number_frame(h2, RST_STREAM, stream, REFUSED_STREAM);
  else answer_event(h2, stream), h2->streams++;
}
static void few_streams(void **state) {
  struct world *world = *state;
  static const struct rules events = {.on_request = answer_two, .max_streams = 2};
  begin(world, &events);
  for (int i = 0; i < 7; i++) watch(world);
  expect_events(world, 1, 7);
  assert_true(world->server->connections >= 4);
}

static void answer_in_turn(struct h2 *h2, uint32_t stream) {
  answer_event(h2, stream);
  if (h2->requests == 2) data(h2, stream, "", true);
  if (h2->requests == 3) number_frame(h2, RST_STREAM, stream, INTERNAL_ERROR);
  if (h2->requests == 4) data(h2, stream, "{\"half\":", true);
}

/* A stream's end is its own: clean, reset, or in the midst of a line. */
static void streams_end(void **state) {
  struct world *world = *state;
  static const struct rules turns = {.on_request = answer_in_turn, .max_streams = 100};
  begin(world, &turns);
  for (int i = 0; i < 4; i++) watch(world);
  bool is_over[5] = {false};
  while (!is_over[2] || !is_over[3] || !is_over[4]) {
    struct api_news *news = client_take(world->api);
    assert_false(is_over[news->id]);
    is_over[news->id] = news->kind != API_NEWS_EVENT;
    if (news->id == 2 && is_over[2]) assert_true(news->kind == API_NEWS_DONE && news->status == 200);
    if (news->id == 3 && is_over[3]) assert_true(news->kind == API_NEWS_FAILED && news->is_retry && strstr(news->text.data, "the answer broke off"));
    if (news->id == 4 && is_over[4]) assert_true(news->kind == API_NEWS_FAILED && news->is_retry && strstr(news->text.data, "ends in its midst"));
    api_news_free(news);
  }
  assert_false(is_over[1]);
  client_expect(world->api, watch(world), API_NEWS_EVENT, "{\"a\":1}");
  assert_int_equal(world->server->connections, 1);
}

enum { ITEMS = 40000 };

/* The first request is a list of 40 MB, sent as the client's windows let it; the others are answered at once. */
static void answer_list_or_small(struct h2 *h2, uint32_t stream) {
  answer_head(h2, stream);
  if (h2->requests > 1) {
    data(h2, stream, "{}", true);
    return;
  }
  h2->list = stream;
  data(h2, stream, "{\"metadata\":{},\"items\":[", false);
}
static void send_items(struct h2 *h2) {
  static char item[1100];
  for (int i = 0; i < 100 && h2->list && h2->connection > 2000 && h2->window[h2->list / 2 % STREAMS] > 2000; i++) {
    snprintf(item, sizeof item, "%s{\"n\":%d,\"x\":\"%01000d\"}", h2->item ? "," : "", h2->item, 0);
    data(h2, h2->list, item, false);
    if (++h2->item < ITEMS) continue;
    data(h2, h2->list, "]}", true);
    h2->list = 0;
  }
}

/* A list that nobody takes stops at its stream's window; a watch or a small request on the same connection goes on. Then it comes whole. */
static void back_pressure(void **state) {
  struct world *world = *state;
  static const struct rules lists = {.on_request = answer_list_or_small, .on_turn = send_items, .max_streams = 100};
  begin(world, &lists);
  uint64_t id = client_send(world->api, (struct api_request){.path = "/list", .split = API_SPLIT_LIST, .timeout_ms = 60000});
  struct api_news *first = client_take(world->api);
  size_t before;
  int quiet = 0;
  int fds[2];
  assert_int_equal(pipe(fds), 0);
  assert_int_equal(write(fds[1], "x", 1), 1);
  struct api_wait_fd fd = {.fd = fds[0]};
  do {
    before = world->server->sent;
    for (int i = 0; i < 20; i++) {
      api_wait(world->api, &fd, 1, -1); /* drives, and does not wait */
      usleep(5000);
    }
    quiet = world->server->sent == before ? quiet + 1 : 0;
  } while (quiet < 2);
  assert_true(before < 24 << 20);
  close(fds[0]), close(fds[1]);
  api_news_free(first);
  int items = 1;
  uint64_t small = ask(world);
  bool is_small_done = false, is_list = false;
  for (;;) {
    struct api_news *news = client_take(world->api);
    if (news->kind == API_NEWS_FAILED) fail_msg("%s", news->text.data);
    if (news->kind == API_NEWS_ITEM) {
      assert_int_equal(strtol(news->text.data + 5, NULL, 10), items);
      items++;
    }
    is_list = is_list || news->kind == API_NEWS_LIST;
    is_small_done = is_small_done || (news->kind == API_NEWS_DONE && news->id == small);
    bool is_over = news->kind == API_NEWS_DONE && news->id == id;
    api_news_free(news);
    if (is_over) break;
  }
  assert_int_equal(items, ITEMS);
  assert_true(is_list && is_small_done);
  assert_int_equal(world->server->connections, 1);
}

/* After GOAWAY the streams that run go on, and new ones take a new connection. */
static void answer_and_go_away(struct h2 *h2, uint32_t stream) {
  answer_event(h2, stream);
  if (h2->number > 1) return;
  unsigned char bytes[8] = {(unsigned char)(stream >> 24), (unsigned char)(stream >> 16), (unsigned char)(stream >> 8), (unsigned char)stream};
  frame(h2, GOAWAY, 0, 0, (char *)bytes, 8);
}
static void send_when_told(struct h2 *h2) {
  if (h2->number == 1 && sem_trywait(&h2->peer->server->go) == 0) data(h2, h2->last, "{\"b\":2}\n", false);
}
static void goes_away(void **state) {
  struct world *world = *state;
  static const struct rules leaving = {.on_request = answer_and_go_away, .on_turn = send_when_told, .max_streams = 100};
  begin(world, &leaving);
  uint64_t first = watch(world);
  client_expect(world->api, first, API_NEWS_EVENT, "{\"a\":1}");
  api_wait(world->api, NULL, 0, 50);
  uint64_t second = watch(world);
  client_expect(world->api, second, API_NEWS_EVENT, "{\"a\":1}");
  assert_int_equal(world->server->connections, 2);
  sem_post(&world->server->go);
  client_expect(world->api, first, API_NEWS_EVENT, "{\"b\":2}");
}

/* A stream that the server did not begin on is tried again by itself, or says that it may be. */
static void refuse_first(struct h2 *h2, uint32_t stream) {
  if (h2->peer->server->requests == 1) number_frame(h2, RST_STREAM, stream, REFUSED_STREAM);
  else answer_event(h2, stream);
}
static void refused_stream(void **state) {
  struct world *world = *state;
  static const struct rules refusing = {.on_request = refuse_first, .max_streams = 100};
  begin(world, &refusing);
  uint64_t id = watch(world);
  struct api_news *news = client_take(world->api);
  assert_int_equal(news->id, id);
  assert_true(news->kind == API_NEWS_EVENT || (news->kind == API_NEWS_FAILED && news->is_retry));
  api_news_free(news);
  client_expect(world->api, watch(world), API_NEWS_EVENT, "{\"a\":1}");
}

/* The server falls silent: when a request has waited in vain, the connection is given up, and what else was on it begins again elsewhere. */
static void answer_first_connection_never(struct h2 *h2, uint32_t stream) {
  if (h2->number > 1 || h2->requests == 1) answer_event(h2, stream);
}
static void dead_connection(void **state) {
  struct world *world = *state;
  static const struct rules dying = {.on_request = answer_first_connection_never, .max_streams = 100};
  begin(world, &dying);
  uint64_t first = watch(world);
  client_expect(world->api, first, API_NEWS_EVENT, "{\"a\":1}");
  uint64_t second = client_send(world->api, (struct api_request){.path = "/ask", .timeout_ms = 10100});
  client_expect_failed(world->api, second, "no whole answer within 10.1 s", true);
  client_expect_failed(world->api, first, "the answer broke off", true);
  client_expect(world->api, watch(world), API_NEWS_EVENT, "{\"a\":1}");
  assert_int_equal(world->server->connections, 2);
}

/* A request that times out on a connection that lives harms nobody. */
static void answer_watches_only(struct h2 *h2, uint32_t stream) {
  if (h2->requests != 2) answer_event(h2, stream);
}
static void slow_request(void **state) {
  struct world *world = *state;
  static const struct rules slow = {.on_request = answer_watches_only, .max_streams = 100};
  begin(world, &slow);
  client_expect(world->api, watch(world), API_NEWS_EVENT, "{\"a\":1}");
  uint64_t second = client_send(world->api, (struct api_request){.path = "/ask", .timeout_ms = 100});
  client_expect_failed(world->api, second, "no whole answer within 0.1 s", true);
  client_expect(world->api, watch(world), API_NEWS_EVENT, "{\"a\":1}");
  assert_int_equal(world->server->connections, 1);
  assert_false(api_has_news(world->api));
}

/* The connection ends: all on it fail, each with its sentence. */
static void cut_at_third(struct h2 *h2, uint32_t stream) {
  answer_event(h2, stream);
  if (h2->requests == 3 && h2->number == 1) shutdown(h2->peer->fd, SHUT_RDWR);
}
static void cut(void **state) {
  struct world *world = *state;
  static const struct rules cutting = {.on_request = cut_at_third, .max_streams = 100};
  begin(world, &cutting);
  for (int i = 0; i < 3; i++) watch(world);
  int failed = 0;
  while (failed < 3) {
    struct api_news *news = client_take(world->api);
    failed += news->kind == API_NEWS_FAILED;
    if (news->kind == API_NEWS_FAILED) assert_true(news->is_retry && strstr(news->text.data, "the answer broke off"));
    api_news_free(news);
  }
  client_expect(world->api, watch(world), API_NEWS_EVENT, "{\"a\":1}");
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {TEST(one_connection),  TEST(few_streams),  TEST(streams_end), TEST(back_pressure), TEST(goes_away), TEST(refused_stream),
                                     TEST(dead_connection), TEST(slow_request), TEST(cut)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
