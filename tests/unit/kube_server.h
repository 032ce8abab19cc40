/* A server whose bytes are a test's: each connection runs the test's script on a thread of its own, plain or over TLS. Scripts do not assert: that is for the
 * test's thread, which looks at what they noted. */
#ifndef TESTS_KUBE_SERVER_H
#define TESTS_KUBE_SERVER_H

#include <arpa/inet.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kube/api.h"

enum { SERVER_PEERS = 64, SERVER_HEAD = 8192 };

struct server;
struct peer {
  struct server *server;
  pthread_t thread;
  int fd;
  SSL *ssl;
  char request[SERVER_HEAD]; /* the last one, with its body */
};
struct server {
  int fd;
  unsigned port;
  pthread_t acceptor;
  SSL_CTX *tls; /* the test's; NULL: plain */
  void (*script)(struct peer *peer);
  struct peer peers[SERVER_PEERS];
  _Atomic unsigned connections, requests;
  _Atomic size_t sent;
  atomic_bool is_over, is_gone; /* is_gone: a script saw its client leave */
  sem_t go, here;               /* the test lets a script go on; a script says that it is somewhere */
  pthread_mutex_t lock;
  char seen[SERVER_HEAD]; /* the last request of all, under the lock */
};

static ssize_t peer_read(struct peer *peer, char *to, size_t size) { return peer->ssl ? SSL_read(peer->ssl, to, (int)size) : recv(peer->fd, to, size, 0); }

static bool peer_send_bytes(struct peer *peer, const char *bytes, size_t length) {
  while (length > 0) {
    size_t piece = length < 65536 ? length : 65536;
    ssize_t sent = peer->ssl ? SSL_write(peer->ssl, bytes, (int)piece) : send(peer->fd, bytes, piece, MSG_NOSIGNAL);
    if (sent <= 0) return false;
    peer->server->sent += (size_t)sent;
    bytes += sent;
    length -= (size_t)sent;
  }
  return true;
}

static bool peer_send(struct peer *peer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static bool peer_send(struct peer *peer, const char *format, ...) {
  char *text = NULL;
  va_list values;
  va_start(values, format);
  int length = vasprintf(&text, format, values);
  va_end(values);
  bool is_ok = length >= 0 && peer_send_bytes(peer, text, (size_t)length);
  free(text);
  return is_ok;
}

/* One chunk of a chunked answer. */
static inline bool peer_chunk(struct peer *peer, const char *text) { return peer_send(peer, "%zx\r\n%s\r\n", strlen(text), text); }

/* An answer with its length. */
static inline bool peer_answer(struct peer *peer, const char *status_and_fields, const char *body) {
  return peer_send(peer, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n\r\n%s", status_and_fields, strlen(body), body);
}

/* Reads one request, head and body, into peer->request; false at the end. */
static inline bool peer_request(struct peer *peer) {
  size_t used = 0, want = SERVER_HEAD;
  memset(peer->request, 0, sizeof peer->request);
  while (used < want) {
    ssize_t got = peer_read(peer, peer->request + used, want == SERVER_HEAD ? 1 : want - used);
    if (got <= 0) return false;
    used += (size_t)got;
    if (used >= sizeof peer->request - 1) return false;
    if (want != SERVER_HEAD || !strstr(peer->request, "\r\n\r\n")) continue;
    const char *length = strcasestr(peer->request, "content-length: ");
    want = used + (length ? strtoul(length + 16, NULL, 10) : 0);
  }
  pthread_mutex_lock(&peer->server->lock);
  memcpy(peer->server->seen, peer->request, sizeof peer->request);
  pthread_mutex_unlock(&peer->server->lock);
  peer->server->requests++;
  return true;
}

/* Waits until the client has closed its side. */
static inline void peer_linger(struct peer *peer) {
  char byte;
  while (peer_read(peer, &byte, 1) > 0) continue;
  peer->server->is_gone = true;
  sem_post(&peer->server->here);
}

static void *server_serve(void *argument) {
  struct peer *peer = argument;
  struct server *server = peer->server;
  bool is_ok = true;
  if (server->tls) {
    peer->ssl = SSL_new(server->tls);
    SSL_set_fd(peer->ssl, peer->fd);
    is_ok = SSL_accept(peer->ssl) == 1;
  }
  if (is_ok) server->script(peer);
  if (peer->ssl && is_ok) SSL_shutdown(peer->ssl);
  shutdown(peer->fd, SHUT_RDWR);
  return NULL;
}

static void *server_accept(void *argument) {
  struct server *server = argument;
  int fd;
  while ((fd = accept(server->fd, NULL, NULL)) >= 0) {
    struct peer *peer = &server->peers[server->connections];
    *peer = (struct peer){.server = server, .fd = fd};
    if (pthread_create(&peer->thread, NULL, server_serve, peer)) abort();
    if (++server->connections == SERVER_PEERS) break;
  }
  return NULL;
}

static struct server *server_start(void (*script)(struct peer *peer), SSL_CTX *tls) {
  struct server *server = calloc(1, sizeof *server);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t length = sizeof address;
  int size = 65536;
  server->script = script;
  server->tls = tls;
  sem_init(&server->go, 0, 0);
  sem_init(&server->here, 0, 0);
  pthread_mutex_init(&server->lock, NULL);
  server->fd = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(server->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
  if (bind(server->fd, (struct sockaddr *)&address, sizeof address) || listen(server->fd, 64) || getsockname(server->fd, (struct sockaddr *)&address, &length))
    abort();
  server->port = ntohs(address.sin_port);
  if (pthread_create(&server->acceptor, NULL, server_accept, server)) abort();
  return server;
}

static void server_stop(struct server *server) {
  server->is_over = true;
  shutdown(server->fd, SHUT_RDWR);
  pthread_join(server->acceptor, NULL);
  close(server->fd);
  for (unsigned i = 0; i < SERVER_PEERS; i++) sem_post(&server->go);
  for (unsigned i = 0; i < server->connections; i++) {
    struct peer *peer = &server->peers[i];
    shutdown(peer->fd, SHUT_RDWR);
    pthread_join(peer->thread, NULL);
    SSL_free(peer->ssl);
    close(peer->fd);
  }
  sem_destroy(&server->go);
  sem_destroy(&server->here);
  pthread_mutex_destroy(&server->lock);
  free(server);
}

/* Something that the last request must hold, with its line breaks as \n. */
static inline bool server_saw(struct server *server, const char *text) {
  char seen[SERVER_HEAD];
  size_t length = 0;
  pthread_mutex_lock(&server->lock);
  for (const char *at = server->seen; *at; at++)
    if (*at != '\r') seen[length++] = *at;
  pthread_mutex_unlock(&server->lock);
  seen[length] = '\0';
  return strstr(seen, text) != NULL;
}

/* ---- the client's side ---- */

static inline struct api *client_of(struct server *server, struct api_options options) {
  char url[64], error[256] = "";
  snprintf(url, sizeof url, "%s://127.0.0.1:%u", server->tls ? "https" : "http", server->port);
  if (!options.url) options.url = url;
  struct api *api = api_new(&options, error, sizeof error);
  assert_string_equal(error, "");
  return api;
}

static inline uint64_t client_send(struct api *api, struct api_request request) {
  char error[256] = "";
  if (!request.method) request.method = "GET";
  if (!request.path) request.path = "/x";
  if (!request.max_body) request.max_body = 1 << 20;
  if (!request.timeout_ms && request.split != API_SPLIT_WATCH) request.timeout_ms = 30000;
  uint64_t id = api_send(api, &request, error, sizeof error);
  assert_string_equal(error, "");
  assert_true(id > 0);
  return id;
}

/* The next news; whoever takes it frees it. */
static inline struct api_news *client_take(struct api *api) {
  api_wait(api, NULL, 0, 20000);
  struct api_news *news = api_next(api);
  assert_non_null(news);
  return news;
}

static inline void client_expect(struct api *api, uint64_t id, enum api_news_kind kind, const char *text) {
  struct api_news *news = client_take(api);
  if (news->kind != kind || news->id != id || strcmp(news->text.data, text) != 0)
    fail_msg("news: id %d kind %d: %s\n  not id %d kind %d: %s", (int)news->id, news->kind, news->text.data, (int)id, kind, text);
  api_news_free(news);
}

static inline void client_expect_done(struct api *api, uint64_t id, int status, const char *body) {
  struct api_news *news = client_take(api);
  if (news->kind != API_NEWS_DONE) fail_msg("not done: %s", news->text.data);
  assert_int_equal(news->id, id);
  assert_int_equal(news->status, status);
  assert_string_equal(news->text.data, body);
  api_news_free(news);
}

/* A sentence that holds `words`. */
static inline void client_expect_failed(struct api *api, uint64_t id, const char *words, bool is_retry) {
  struct api_news *news = client_take(api);
  if (news->kind != API_NEWS_FAILED || !strstr(news->text.data, words)) fail_msg("kind %d, \"%s\" does not say \"%s\"", news->kind, news->text.data, words);
  assert_int_equal(news->id, id);
  assert_true(news->is_retry == is_retry);
  api_news_free(news);
}

#endif
