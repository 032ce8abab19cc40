/* The API server's client over plain HTTP, against scripted bytes: slow, cut, broken, too much, too late. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kube_server.h"

#include <time.h>

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- requests ---- */

static void answer_by_path(struct peer *peer) {
  while (peer_request(peer)) {
    if (strstr(peer->request, "/missing")) peer_answer(peer, "404 Not Found", "{\"reason\":\"NotFound\"}");
    else if (strstr(peer->request, "/busy")) peer_answer(peer, "429 Too Many Requests\r\nRetry-After: 7", "{}");
    else if (strstr(peer->request, "/moved")) peer_answer(peer, "302 Found\r\nLocation: /missing", "");
    else if (strstr(peer->request, "/none")) peer_send(peer, "HTTP/1.1 204 No Content\r\n\r\n");
    else if (strstr(peer->request, "/early")) peer_send(peer, "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}");
    else peer_answer(peer, "200 OK", "{\"kind\":\"X\"}");
  }
}

static void requests(void **state) {
  (void)state;
  struct server *server = server_start(answer_by_path, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  uint64_t id = client_send(api, (struct api_request){.path = "/apis/x/../y?limit=5&continue=a%2Fb"});
  client_expect_done(api, id, 200, "{\"kind\":\"X\"}");
  assert_true(server_saw(server, "GET /apis/x/../y?limit=5&continue=a%2Fb HTTP/1.1\n"));
  assert_true(server_saw(server, "\nAccept: application/json\n"));
  assert_true(server_saw(server, "\nUser-Agent: moongate/"));
  assert_false(server_saw(server, "Authorization"));
  assert_false(server_saw(server, "Accept-Encoding"));
  id = client_send(api, (struct api_request){.method = "PATCH", .path = "/a", .body = SPAN("{\"a\":1}"), .content_type = "application/merge-patch+json"});
  client_expect_done(api, id, 200, "{\"kind\":\"X\"}");
  assert_true(server_saw(server, "PATCH /a HTTP/1.1\n"));
  assert_true(server_saw(server, "\nContent-Type: application/merge-patch+json\n"));
  assert_true(server_saw(server, "\n\n{\"a\":1}"));
  id = client_send(api, (struct api_request){.method = "POST", .path = "/a", .body = SPAN("{}")});
  client_expect_done(api, id, 200, "{\"kind\":\"X\"}");
  assert_true(server_saw(server, "\nContent-Type: application/json\n"));
  id = client_send(api, (struct api_request){.method = "DELETE", .path = "/a"});
  client_expect_done(api, id, 200, "{\"kind\":\"X\"}");
  assert_true(server_saw(server, "DELETE /a HTTP/1.1\n"));
  assert_int_equal(server->connections, 1);
  api_free(api);
  server_stop(server);
}

static void statuses(void **state) {
  (void)state;
  struct server *server = server_start(answer_by_path, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  client_expect_done(api, client_send(api, (struct api_request){.path = "/missing"}), 404, "{\"reason\":\"NotFound\"}");
  client_expect_done(api, client_send(api, (struct api_request){.path = "/missing", .split = API_SPLIT_LIST}), 404, "{\"reason\":\"NotFound\"}");
  client_expect_done(api, client_send(api, (struct api_request){.path = "/missing", .split = API_SPLIT_WATCH}), 404, "{\"reason\":\"NotFound\"}");
  client_expect_done(api, client_send(api, (struct api_request){.path = "/moved"}), 302, "");
  client_expect_done(api, client_send(api, (struct api_request){.path = "/none"}), 204, "");
  client_expect_done(api, client_send(api, (struct api_request){.path = "/early"}), 201, "{}");
  client_send(api, (struct api_request){.path = "/busy", .split = API_SPLIT_WATCH});
  struct api_news *news = client_take(api);
  assert_int_equal(news->status, 429);
  assert_int_equal(news->retry_after, 7);
  api_news_free(news);
  assert_int_equal(server->requests, 7);
  api_free(api);
  server_stop(server);
}

static void refused_requests(void **state) {
  (void)state;
  struct api_options options = {.url = "http://127.0.0.1:1"};
  char error[256] = "";
  struct api *api = api_new(&options, error, sizeof error);
  static const struct api_request bad[] = {
      {.method = "GET", .path = "x"},         {.method = "GET", .path = "/a b"}, {.method = "GET", .path = "/a\r\nb"},
      {.method = "GET", .path = "/a#b"},      {.method = "BREW", .path = "/"},   {.method = "GET", .path = ""},
      {.method = "GET", .path = "/\xc3\xa9"}, {.method = "GET\n", .path = "/"},  {.method = "POST", .path = "/", .content_type = "a\nb"}};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    *error = '\0';
    assert_int_equal(api_send(api, &bad[i], error, sizeof error), 0);
    assert_true(*error);
  }
  api_free(api);
}

static void addresses(void **state) {
  (void)state;
  static const char *const bad[] = {"",
                                    "ftp://a/",
                                    "127.0.0.1:1:2",
                                    "http://",
                                    "http://u@a/",
                                    "http://u:p@a/",
                                    "http://a/?x",
                                    "http://a/#x",
                                    "file:///etc/passwd",
                                    "http://a:99999",
                                    "http://a b/",
                                    "unix:/x"};
  char error[256];
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct api_options options = {.url = bad[i]};
    *error = '\0';
    if (api_new(&options, error, sizeof error)) fail_msg("%s is taken", bad[i]);
    assert_true(strstr(error, "http or https"));
    assert_false(strstr(error, "u:p"));
  }
  struct api_options none = {.url = NULL}, clear = {.url = "http://127.0.0.1:1", .token = "secret"},
                     odd = {.url = "https://127.0.0.1:1", .token = "sec\r\nret"};
  assert_null(api_new(&none, error, sizeof error));
  assert_null(api_new(&clear, error, sizeof error));
  assert_string_equal(error, "a token is not sent to 127.0.0.1:1 without TLS");
  assert_null(api_new(&odd, error, sizeof error));
  assert_null(strstr(error, "ret"));
}

/* A path of the address goes before every request's. */
static void base_path(void **state) {
  (void)state;
  struct server *server = server_start(answer_by_path, NULL);
  char url[64];
  snprintf(url, sizeof url, "http://127.0.0.1:%u/k8s/clusters/c-1/", server->port);
  struct api *api = client_of(server, (struct api_options){.url = url});
  client_expect_done(api, client_send(api, (struct api_request){.path = "/version"}), 200, "{\"kind\":\"X\"}");
  assert_true(server_saw(server, "GET /k8s/clusters/c-1/version HTTP/1.1\n"));
  api_free(api);
  server_stop(server);
}

/* What the environment says about proxies does not count, what we are told does. */
static void proxies(void **state) {
  (void)state;
  struct server *server = server_start(answer_by_path, NULL);
  setenv("http_proxy", "http://127.0.0.1:1", 1);
  setenv("all_proxy", "http://127.0.0.1:1", 1);
  setenv("no_proxy", "*", 1);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  client_expect_done(api, client_send(api, (struct api_request){.path = "/"}), 200, "{\"kind\":\"X\"}");
  assert_true(server_saw(server, "GET / HTTP/1.1\n"));
  api_free(api);
  char proxy[64];
  snprintf(proxy, sizeof proxy, "http://127.0.0.1:%u", server->port);
  api = client_of(server, (struct api_options){.url = "http://api.invalid:81", .proxy = proxy});
  client_expect_done(api, client_send(api, (struct api_request){.path = "/a"}), 200, "{\"kind\":\"X\"}");
  assert_true(server_saw(server, "GET http://api.invalid:81/a HTTP/1.1\n"));
  api_free(api);
  unsetenv("http_proxy"), unsetenv("all_proxy"), unsetenv("no_proxy");
  server_stop(server);
}

static void no_connection(void **state) {
  (void)state;
  struct server *server = server_start(answer_by_path, NULL);
  char refused[100];
  snprintf(refused, sizeof refused, "the API server 127.0.0.1:%u: no connection: Connection refused", server->port);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  server_stop(server);
  uint64_t id = client_send(api, (struct api_request){.path = "/"});
  client_expect(api, id, API_NEWS_FAILED, refused);
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), "Connection refused", true);
  api_free(api);
  struct api_options options = {.url = "http://moongate.invalid"};
  api = api_new(&options, refused, sizeof refused);
  client_expect(api, client_send(api, (struct api_request){.path = "/"}), API_NEWS_FAILED,
                "the API server moongate.invalid:80: the name moongate.invalid does not resolve");
  api_free(api);
}

static void close_at_once(struct peer *peer) { peer_request(peer); }
static void cut_body(struct peer *peer) {
  peer_request(peer);
  peer_send(peer, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"half\":");
}
static void speak_nonsense(struct peer *peer) {
  peer_request(peer);
  peer_send(peer, "\x15\x03\x01 who are you\r\n\r\n");
}

static void lost_answers(void **state) {
  (void)state;
  static void (*const scripts[])(struct peer *peer) = {close_at_once, cut_body, speak_nonsense};
  static const char *const words[] = {"it closed the connection without an answer", "the answer broke off", "the API server 127.0.0.1:"};
  for (int i = 0; i < 3; i++) {
    struct server *server = server_start(scripts[i], NULL);
    struct api *api = client_of(server, (struct api_options){.url = NULL});
    client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), words[i], true);
    assert_false(api_has_news(api));
    api_free(api);
    server_stop(server);
  }
}

static void send_much(struct peer *peer) {
  while (peer_request(peer)) {
    bool is_error = strstr(peer->request, "/error") != NULL;
    peer_send(peer, "HTTP/1.1 %s\r\nContent-Length: 200000\r\n\r\n", is_error ? "500 Oops" : "200 OK");
    for (int i = 0; i < 200000 / 50; i++) peer_send(peer, "%050d", i);
  }
}

static void bodies_are_bounded(void **state) {
  (void)state;
  struct counters counters = {0};
  struct server *server = server_start(send_much, NULL);
  struct api *api = client_of(server, (struct api_options){.counters = &counters});
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/", .max_body = 199999}), "its answer is longer than 199999 bytes", false);
  client_send(api, (struct api_request){.path = "/", .max_body = 200000});
  struct api_news *news = client_take(api);
  assert_int_equal(news->kind, API_NEWS_DONE);
  assert_int_equal(news->text.length, 200000);
  api_news_free(news);
  assert_int_equal(counter_get(&counters, COUNTER_LIMIT_API_ERROR_BYTES), 0);
  client_send(api, (struct api_request){.path = "/error", .max_body = 200000});
  news = client_take(api);
  assert_int_equal(news->kind, API_NEWS_DONE);
  assert_int_equal(news->status, 500);
  assert_int_equal(news->text.length, LIMIT_API_ERROR_BYTES);
  api_news_free(news);
  assert_int_equal(counter_get(&counters, COUNTER_LIMIT_API_ERROR_BYTES), 1);
  api_free(api);
  server_stop(server);
}

/* ---- lists ---- */

static void send_list_in_two(struct peer *peer) {
  peer_request(peer);
  peer_send(peer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
  peer_chunk(peer, "{\"metadata\":{\"resourceVersion\":\"9\"},\"items\":[{\"n\":1},{\"n");
  sem_wait(&peer->server->go);
  peer_chunk(peer, "\":2}]}\n");
  sem_wait(&peer->server->go);
  peer_send(peer, "0\r\n\r\n");
  peer_linger(peer);
}

/* Each item is there when its last byte is, not at the end. */
static void list_as_it_comes(void **state) {
  (void)state;
  struct server *server = server_start(send_list_in_two, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  uint64_t id = client_send(api, (struct api_request){.split = API_SPLIT_LIST});
  client_expect(api, id, API_NEWS_ITEM, "{\"n\":1}");
  sem_post(&server->go);
  client_expect(api, id, API_NEWS_ITEM, "{\"n\":2}");
  client_expect(api, id, API_NEWS_LIST, "{\"resourceVersion\":\"9\"}");
  assert_false(api_has_news(api));
  sem_post(&server->go);
  client_expect_done(api, id, 200, "");
  api_free(api);
  server_stop(server);
}

/* The body of a 200 is the request's: what stands behind ? in the path, with %% for %. */
static void send_what_is_asked(struct peer *peer) {
  static const char *const bodies[] = {"{\"metadata\":{},\"items\":[{},{\"a\":",
                                       "{\"metadata\":{},\"items\":[{}",
                                       "{\"metadata\":{},\"items\":[{}],",
                                       "{\"metadata\":{},\"items\":[{} {}]}",
                                       "<html>",
                                       "{\"kind\":\"Status\"}",
                                       "",
                                       "{\"metadata\":{},\"items\":[{}]}{}"};
  while (peer_request(peer)) peer_answer(peer, "200 OK", bodies[strtoul(strchr(peer->request, '?') + 1, NULL, 10)]);
}

/* A list that is not whole is never taken for a short one. */
static void broken_lists(void **state) {
  (void)state;
  static const char *const words[] = {"ends in its midst",    "ends in its midst", "ends in its midst", "it is not JSON",
                                      "it is no JSON object", "it is no list",     "ends in its midst", "something follows its end"};
  struct server *server = server_start(send_what_is_asked, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  for (int i = 0; i < 8; i++) {
    char path[16];
    snprintf(path, sizeof path, "/?%d", i);
    uint64_t id = client_send(api, (struct api_request){.path = path, .split = API_SPLIT_LIST});
    if (i < 4 || i == 7) client_expect(api, id, API_NEWS_ITEM, "{}");
    if (i == 7) client_expect(api, id, API_NEWS_LIST, "{}");
    client_expect_failed(api, id, words[i], strstr(words[i], "midst") != NULL);
    api_wait(api, NULL, 0, 0);
    assert_false(api_has_news(api));
  }
  api_free(api);
  server_stop(server);
}

static void send_cut_list(struct peer *peer) {
  peer_request(peer);
  peer_send(peer, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"metadata\":{},\"items\":[{\"n\":1},{\"n");
}

static void cut_list(void **state) {
  (void)state;
  struct server *server = server_start(send_cut_list, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  uint64_t id = client_send(api, (struct api_request){.split = API_SPLIT_LIST});
  client_expect(api, id, API_NEWS_ITEM, "{\"n\":1}");
  client_expect_failed(api, id, "the answer broke off", true);
  api_free(api);
  server_stop(server);
}

static void send_huge_item(struct peer *peer) {
  static char spaces[65536];
  memset(spaces, ' ', sizeof spaces);
  peer_request(peer);
  peer_send(peer, "HTTP/1.1 200 OK\r\n\r\n{\"metadata\":{},\"items\":[{},{\"a\":");
  while (peer_send_bytes(peer, spaces, sizeof spaces)) continue;
}

static void huge_item(void **state) {
  (void)state;
  struct counters counters = {0};
  struct server *server = server_start(send_huge_item, NULL);
  struct api *api = client_of(server, (struct api_options){.counters = &counters});
  uint64_t id = client_send(api, (struct api_request){.split = API_SPLIT_LIST});
  client_expect(api, id, API_NEWS_ITEM, "{}");
  client_expect_failed(api, id, "one object of it is too long", false);
  assert_int_equal(counter_get(&counters, COUNTER_LIMIT_API_ITEM_BYTES), 1);
  api_free(api);
  server_stop(server);
}

static void send_deep_item(struct peer *peer) {
  static char brackets[LIMIT_JSON_DEPTH + 1];
  memset(brackets, '[', sizeof brackets);
  peer_request(peer);
  peer_send(peer, "HTTP/1.1 200 OK\r\n\r\n{\"metadata\":{},\"items\":[{\"a\":");
  peer_send_bytes(peer, brackets, sizeof brackets);
}

static void deep_item(void **state) {
  (void)state;
  struct counters counters = {0};
  struct server *server = server_start(send_deep_item, NULL);
  struct api *api = client_of(server, (struct api_options){.counters = &counters});
  uint64_t id = client_send(api, (struct api_request){.split = API_SPLIT_LIST});
  client_expect_failed(api, id, "it is nested too deeply", false);
  assert_int_equal(counter_get(&counters, COUNTER_LIMIT_JSON_DEPTH), 1);
  api_free(api);
  server_stop(server);
}

enum { MANY = 32 * 1024 };

/* 32 MiB of items, each with its number. */
static void send_many_items(struct peer *peer) {
  static char item[1100];
  peer_request(peer);
  peer_send(peer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
  peer_chunk(peer, "{\"metadata\":{},\"items\":[");
  for (int i = 0; i < MANY && !peer->server->is_over; i++) {
    snprintf(item, sizeof item, "%s{\"n\":%d,\"x\":\"%01000d\"}", i ? "," : "", i, 0);
    if (!peer_chunk(peer, item)) return;
  }
  peer_chunk(peer, "]}");
  peer_send(peer, "0\r\n\r\n");
  while (peer_request(peer)) peer_answer(peer, "200 OK", "{}");
}

static size_t until_it_stops(struct server *server, struct api *api) {
  size_t before;
  do {
    before = server->sent;
    for (int i = 0; i < 30; i++) {
      int pipe_fds[2];
      assert_int_equal(pipe(pipe_fds), 0);
      struct api_wait_fd fd = {.fd = pipe_fds[0]};
      (void)!write(pipe_fds[1], "x", 1);
      api_wait(api, &fd, 1, -1); /* drives, and does not wait */
      close(pipe_fds[0]), close(pipe_fds[1]);
      usleep(5000);
    }
  } while (server->sent != before);
  return before;
}

/* Nobody takes the news: reading stops at the bound, for longer than the request's time, and goes on when they are taken. Nothing is lost. */
static void back_pressure(void **state) {
  (void)state;
  struct counters counters = {0};
  struct server *server = server_start(send_many_items, NULL);
  struct api *api = client_of(server, (struct api_options){.counters = &counters});
  uint64_t id = client_send(api, (struct api_request){.split = API_SPLIT_LIST, .timeout_ms = 8000, .idle_ms = 100});
  double start = seconds();
  size_t sent = until_it_stops(server, api);
  assert_true(sent < (size_t)MANY * 1000 - (8 << 20));
  assert_true(seconds() - start > 0.15);
  assert_int_equal(counter_get(&counters, COUNTER_LIMIT_API_NEWS_BYTES), 1);
  for (int i = 0; i < MANY; i++) {
    struct api_news *news = client_take(api);
    if (news->kind != API_NEWS_ITEM) fail_msg("%d: %s", i, news->text.data);
    assert_int_equal(strtol(news->text.data + 5, NULL, 10), i);
    assert_true(news->text.length > 1000);
    api_news_free(news);
  }
  client_expect(api, id, API_NEWS_LIST, "{}");
  client_expect_done(api, id, 200, "");
  client_expect_done(api, client_send(api, (struct api_request){.path = "/"}), 200, "{}");
  api_free(api);
  server_stop(server);
}

/* A paused list is given up, or the client ended. */
static void paused_and_gone(void **state) {
  (void)state;
  for (int is_cancelled = 0; is_cancelled < 2; is_cancelled++) {
    struct server *server = server_start(send_many_items, NULL);
    struct api *api = client_of(server, (struct api_options){.url = NULL});
    uint64_t id = client_send(api, (struct api_request){.split = API_SPLIT_LIST});
    until_it_stops(server, api);
    assert_true(api_has_news(api));
    if (is_cancelled) {
      api_cancel(api, id);
      assert_false(api_has_news(api));
      api_wait(api, NULL, 0, 0);
      assert_false(api_has_news(api));
    }
    api_free(api);
    server_stop(server);
  }
}

/* ---- watches ---- */

static void send_events(struct peer *peer) {
  peer_request(peer);
  peer_send(peer, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
  peer_chunk(peer, "{\"type\":\"ADDED\"}\n{\"type\":");
  sem_wait(&peer->server->go);
  peer_chunk(peer, "\"MODIFIED\"}\n");
  sem_wait(&peer->server->go);
  bool is_cut = strstr(peer->request, "/cut") != NULL, is_half = strstr(peer->request, "/half") != NULL;
  if (is_half) peer_chunk(peer, "{\"type\":");
  if (is_cut) return;
  peer_send(peer, "0\r\n\r\n");
  peer_linger(peer);
}

static void watch_ends(const char *path, bool is_done, const char *words) {
  struct server *server = server_start(send_events, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  uint64_t id = client_send(api, (struct api_request){.path = path, .split = API_SPLIT_WATCH});
  client_expect(api, id, API_NEWS_EVENT, "{\"type\":\"ADDED\"}");
  assert_false(api_has_news(api));
  sem_post(&server->go);
  client_expect(api, id, API_NEWS_EVENT, "{\"type\":\"MODIFIED\"}");
  sem_post(&server->go);
  if (is_done) client_expect_done(api, id, 200, "");
  else client_expect_failed(api, id, words, true);
  api_free(api);
  server_stop(server);
}

static void watches(void **state) {
  (void)state;
  watch_ends("/clean", true, NULL);
  watch_ends("/half", false, "ends in its midst");
  watch_ends("/cut", false, "the answer broke off");
  watch_ends("/half/cut", false, "the answer broke off");
}

static void send_nothing(struct peer *peer) {
  peer_request(peer);
  if (strstr(peer->request, "/head")) peer_send(peer, "HTTP/1.1 200 OK\r\n\r\n");
  if (strstr(peer->request, "/drip"))
    for (int i = 0; i < 12 && peer_send(peer, i ? "\n" : "HTTP/1.1 200 OK\r\n\r\n{}"); i++) usleep(50000); /* what is tested is time */
  peer_linger(peer);
}

static void times(void **state) {
  (void)state;
  struct server *server = server_start(send_nothing, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  double start = seconds();
  client_expect_failed(api, client_send(api, (struct api_request){.timeout_ms = 150}), "no whole answer within 0.15 s", true);
  assert_true(seconds() - start >= 0.14 && seconds() - start < 5);
  client_expect_failed(api, client_send(api, (struct api_request){.split = API_SPLIT_WATCH, .idle_ms = 150}), "not a byte for 0.15 s", true);
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/head", .split = API_SPLIT_WATCH, .idle_ms = 150}), "not a byte for 0.15 s", true);
  start = seconds();
  uint64_t id = client_send(api, (struct api_request){.path = "/drip", .split = API_SPLIT_WATCH, .idle_ms = 300});
  client_expect(api, id, API_NEWS_EVENT, "{}");
  client_expect_failed(api, id, "not a byte for 0.3 s", true);
  assert_true(seconds() - start > 0.8);
  api_free(api);
  server_stop(server);
}

static void wait_for_go(struct peer *peer) {
  peer_request(peer);
  bool is_first = strstr(peer->request, "/first") != NULL;
  peer_send(peer, "HTTP/1.1 200 OK\r\n\r\n{}\n");
  if (is_first) {
    peer_linger(peer);
    return;
  }
  sem_wait(&peer->server->go);
  peer_send(peer, "{\"a\":1}\n");
}

static void cancelled(void **state) {
  (void)state;
  struct server *server = server_start(wait_for_go, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  uint64_t first = client_send(api, (struct api_request){.path = "/first", .split = API_SPLIT_WATCH});
  client_expect(api, first, API_NEWS_EVENT, "{}");
  uint64_t second = client_send(api, (struct api_request){.path = "/second", .split = API_SPLIT_WATCH});
  client_expect(api, second, API_NEWS_EVENT, "{}");
  api_cancel(api, first);
  api_cancel(api, first);
  api_cancel(api, 12345);
  sem_wait(&server->here); /* its server saw it leave */
  sem_post(&server->go);
  client_expect(api, second, API_NEWS_EVENT, "{\"a\":1}");
  client_expect_done(api, second, 200, "");
  api_cancel(api, second);
  api_wait(api, NULL, 0, 0);
  assert_false(api_has_news(api));
  api_free(api);
  server_stop(server);
}

/* News that wait are dropped with their transfer, those of others stay. */
static void cancelled_with_news(void **state) {
  (void)state;
  struct server *server = server_start(wait_for_go, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  uint64_t ids[3];
  for (int i = 0; i < 3; i++) {
    ids[i] = client_send(api, (struct api_request){.path = "/", .split = API_SPLIT_WATCH});
    struct api_news *news = client_take(api);
    api_news_free(news);
  }
  for (int i = 0; i < 3; i++) sem_post(&server->go);
  server_stop(server); /* all their bytes are on the way */
  api_wait(api, NULL, 0, 20000);
  api_cancel(api, ids[1]);
  for (int left = 2; left > 0;) {
    struct api_news *news = client_take(api);
    assert_true(news->id != ids[1]);
    left -= news->kind == API_NEWS_DONE;
    api_news_free(news);
  }
  assert_false(api_has_news(api));
  api_free(api);
}

static void many_watches(void **state) {
  (void)state;
  enum { WATCHES = 40 };
  struct server *server = server_start(wait_for_go, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  for (int i = 0; i < WATCHES; i++) client_send(api, (struct api_request){.path = "/", .split = API_SPLIT_WATCH});
  for (int i = 0; i < WATCHES; i++) api_news_free(client_take(api));
  for (int i = 0; i < WATCHES; i++) sem_post(&server->go);
  bool is_done[WATCHES + 1] = {false};
  for (int i = 0; i < 2 * WATCHES; i++) {
    struct api_news *news = client_take(api);
    assert_true(news->id >= 1 && news->id <= WATCHES && !is_done[news->id]);
    is_done[news->id] = news->kind == API_NEWS_DONE;
    api_news_free(news);
  }
  api_free(api);
  server_stop(server);
}

/* ---- waiting ---- */

static void waiting(void **state) {
  (void)state;
  struct server *server = server_start(wait_for_go, NULL);
  struct api *api = client_of(server, (struct api_options){.url = NULL});
  int pipes[2][2];
  assert_int_equal(pipe(pipes[0]) | pipe(pipes[1]), 0);
  struct api_wait_fd fds[] = {{.fd = pipes[0][0], .is_ready = true}, {.fd = pipes[1][0], .is_ready = true}};
  double start = seconds();
  api_wait(api, fds, 2, 60);
  assert_true(seconds() - start > 0.05);
  assert_false(fds[0].is_ready || fds[1].is_ready);
  assert_int_equal(write(pipes[1][1], "x", 1), 1);
  api_wait(api, fds, 2, -1);
  assert_true(!fds[0].is_ready && fds[1].is_ready);
  /* A transfer's news end the wait, and the fds are looked at all the same. */
  char byte;
  assert_int_equal(read(pipes[1][0], &byte, 1), 1);
  client_send(api, (struct api_request){.path = "/", .split = API_SPLIT_WATCH});
  api_wait(api, fds, 2, -1);
  assert_true(api_has_news(api) && !fds[0].is_ready && !fds[1].is_ready);
  assert_int_equal(write(pipes[0][1], "x", 1), 1);
  api_wait(api, fds, 2, -1);
  assert_true(api_has_news(api) && fds[0].is_ready && !fds[1].is_ready);
  close(pipes[0][1]), close(pipes[1][1]); /* a closed one is ready too */
  api_wait(api, fds, 2, -1);
  assert_true(fds[0].is_ready && fds[1].is_ready);
  api_free(api);
  close(pipes[0][0]), close(pipes[1][0]);
  server_stop(server);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {cmocka_unit_test(requests),
                                     cmocka_unit_test(statuses),
                                     cmocka_unit_test(refused_requests),
                                     cmocka_unit_test(addresses),
                                     cmocka_unit_test(base_path),
                                     cmocka_unit_test(proxies),
                                     cmocka_unit_test(no_connection),
                                     cmocka_unit_test(lost_answers),
                                     cmocka_unit_test(bodies_are_bounded),
                                     cmocka_unit_test(list_as_it_comes),
                                     cmocka_unit_test(broken_lists),
                                     cmocka_unit_test(cut_list),
                                     cmocka_unit_test(huge_item),
                                     cmocka_unit_test(deep_item),
                                     cmocka_unit_test(back_pressure),
                                     cmocka_unit_test(paused_and_gone),
                                     cmocka_unit_test(watches),
                                     cmocka_unit_test(times),
                                     cmocka_unit_test(cancelled),
                                     cmocka_unit_test(cancelled_with_news),
                                     cmocka_unit_test(many_watches),
                                     cmocka_unit_test(waiting)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
