/* The API server's client over TLS: who is trusted, which names, our certificate, our token and its file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "kube_pairs.h"
#include "kube_server.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct world {
  struct pair authority, other, right, user;
  SSL_CTX *tls;
  char directory[32], path[64];
  struct log log;
  char lines[4096];
};

static void on_line(void *context, enum log_level level, struct span line) {
  struct world *world = context;
  size_t used = strlen(world->lines);
  (void)level;
  snprintf(world->lines + used, sizeof world->lines - used, "%.*s\n", (int)line.length, line.data);
}

static int count_of(const char *text, const char *words) {
  int count = 0;
  for (const char *at = text; (at = strstr(at, words)); at++) count++;
  return count;
}

static int set_up(void **state) {
  struct world *world = calloc(1, sizeof *world);
  world->authority = pair_new("authority", NULL, NULL, -1, 1);
  world->other = pair_new("another authority", NULL, NULL, -1, 1);
  world->right = pair_new("kubernetes", "IP:127.0.0.1,DNS:kubernetes.test", &world->authority, -1, 1);
  world->user = pair_new("user", "DNS:user", &world->authority, -1, 1);
  world->tls = pair_server(&world->right);
  world->log = (struct log){.capture = on_line, .capture_context = world};
  strcpy(world->directory, "/tmp/kube-api-XXXXXX");
  assert_non_null(mkdtemp(world->directory));
  *state = world;
  return 0;
}

static int tear_down(void **state) {
  struct world *world = *state;
  char command[64];
  pair_free(&world->authority), pair_free(&world->other), pair_free(&world->right), pair_free(&world->user);
  SSL_CTX_free(world->tls);
  snprintf(command, sizeof command, "rm -rf %s", world->directory);
  assert_int_equal(system(command), 0);
  free(world);
  return 0;
}

/* A file, written as kubelet does: beside it, then renamed. */
static const char *file(struct world *world, const char *name, const char *text) {
  char part[64];
  snprintf(world->path, sizeof world->path, "%s/%s", world->directory, name);
  snprintf(part, sizeof part, "%s/.part", world->directory);
  FILE *out = fopen(part, "w");
  assert_non_null(out);
  fputs(text, out);
  fclose(out);
  assert_int_equal(rename(part, world->path), 0);
  return world->path;
}

static void answer(struct peer *peer) {
  while (peer_request(peer)) {
    if (strstr(peer->request, "Bearer expired")) peer_answer(peer, "401 Unauthorized", "{}");
    else peer_answer(peer, "200 OK", "{}");
  }
}

static void works(struct server *server, struct api_options options) {
  struct api *api = client_of(server, options);
  client_expect_done(api, client_send(api, (struct api_request){.path = "/"}), 200, "{}");
  api_free(api);
}

static void fails(struct server *server, struct api_options options, const char *words) {
  unsigned before = server->requests;
  struct api *api = client_of(server, options);
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), words, false);
  assert_int_equal(server->requests, before);
  api_free(api);
}

static void trust(void **state) {
  struct world *world = *state;
  struct server *server = server_start(answer, world->tls);
  works(server, (struct api_options){.ca = world->authority.pem});
  works(server, (struct api_options){.ca_file = file(world, "ca.crt", world->authority.pem)});
  fails(server, (struct api_options){.ca = world->other.pem}, "its certificate is not signed by the given authority");
  fails(server, (struct api_options){.ca_file = file(world, "other.crt", world->other.pem)}, "/other.crt");
  fails(server, (struct api_options){.url = NULL}, "its certificate is not signed by an authority that this system knows");
  fails(server, (struct api_options){.ca = "rubbish"}, "the authority's certificate cannot be read");
  fails(server, (struct api_options){.ca_file = file(world, "rubbish.crt", "rubbish")}, "/rubbish.crt");
  fails(server, (struct api_options){.ca_file = "/nonesuch/ca.crt"}, "the authority's certificate in /nonesuch/ca.crt cannot be read");
  /* Two in one file, ours the second. */
  char both[8192];
  snprintf(both, sizeof both, "%s%s", world->other.pem, world->authority.pem);
  works(server, (struct api_options){.ca = both});
  works(server, (struct api_options){.ca_file = file(world, "both.crt", both)});
  server_stop(server);
}

static void close_after_one(struct peer *peer) {
  if (peer_request(peer)) peer_answer(peer, "200 OK\r\nConnection: close", "{}");
}

/* A file of authorities that changed holds from the next connection on. */
static void authority_rotates(void **state) {
  struct world *world = *state;
  struct server *server = server_start(close_after_one, world->tls);
  struct api *api = client_of(server, (struct api_options){.ca_file = file(world, "ca.crt", world->other.pem)});
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), "not signed", false);
  file(world, "ca.crt", world->authority.pem);
  client_expect_done(api, client_send(api, (struct api_request){.path = "/"}), 200, "{}");
  file(world, "ca.crt", world->other.pem);
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), "not signed", false);
  api_free(api);
  server_stop(server);
}

static void names(void **state) {
  struct world *world = *state;
  struct server *server = server_start(answer, world->tls);
  char host[64];
  works(server, (struct api_options){.ca = world->authority.pem, .server_name = "kubernetes.test"});
  snprintf(host, sizeof host, "\nHost: 127.0.0.1:%u\n", server->port);
  assert_true(server_saw(server, host));
  fails(server, (struct api_options){.ca = world->authority.pem, .server_name = "kubernetes.example"}, "its certificate is not for \"kubernetes.example\"");
  server_stop(server);
  struct pair named = pair_new("127.0.0.1", "DNS:kubernetes.test", &world->authority, -1, 1);
  SSL_CTX *tls = pair_server(&named);
  server = server_start(answer, tls);
  fails(server, (struct api_options){.ca = world->authority.pem}, "its certificate is not for \"127.0.0.1\"");
  server_stop(server);
  SSL_CTX_free(tls);
  pair_free(&named);
}

static void validity(void **state) {
  struct world *world = *state;
  static const int days[][2] = {{-2, -1}, {1, 2}};
  static const char *const words[] = {"its certificate has expired", "its certificate is not valid yet"};
  for (int i = 0; i < 2; i++) {
    struct pair pair = pair_new("x", "IP:127.0.0.1", &world->authority, days[i][0], days[i][1]);
    SSL_CTX *tls = pair_server(&pair);
    struct server *server = server_start(answer, tls);
    fails(server, (struct api_options){.ca = world->authority.pem}, words[i]);
    server_stop(server);
    SSL_CTX_free(tls);
    pair_free(&pair);
  }
}

static void insecure(void **state) {
  struct world *world = *state;
  struct server *server = server_start(answer, world->tls);
  struct api *api = client_of(server, (struct api_options){.is_insecure = true, .server_name = "wrong.test", .log = &world->log});
  for (int i = 0; i < 3; i++) client_expect_done(api, client_send(api, (struct api_request){.path = "/"}), 200, "{}");
  api_free(api);
  assert_non_null(strstr(world->lines, "level=warn"));
  assert_int_equal(count_of(world->lines, "the API server's certificate is not verified"), 1);
  server_stop(server);
}

static void old_protocols(void **state) {
  struct world *world = *state;
  SSL_CTX_set_security_level(world->tls, 0);
  SSL_CTX_set_cipher_list(world->tls, "ALL:@SECLEVEL=0");
  SSL_CTX_set_min_proto_version(world->tls, TLS1_VERSION);
  SSL_CTX_set_max_proto_version(world->tls, TLS1_1_VERSION);
  struct server *server = server_start(answer, world->tls);
  struct api *api = client_of(server, (struct api_options){.ca = world->authority.pem});
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), "no TLS connection: ", true);
  api_free(api);
  server_stop(server);
  SSL_CTX_set_max_proto_version(world->tls, TLS1_2_VERSION);
  server = server_start(answer, world->tls);
  works(server, (struct api_options){.ca = world->authority.pem});
  server_stop(server);
}

static void answer_anything(struct peer *peer) {
  char bytes[512];
  if (peer_read(peer, bytes, sizeof bytes) > 0) peer_answer(peer, "400 Bad Request", "");
}

/* What is spoken on the port is no TLS, or the other way round. */
static void plain_and_tls(void **state) {
  struct world *world = *state;
  char url[64];
  struct server *server = server_start(answer_anything, NULL);
  snprintf(url, sizeof url, "https://127.0.0.1:%u", server->port);
  struct api *api = client_of(server, (struct api_options){.url = url});
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), "no TLS connection: wrong version number", true);
  api_free(api);
  server_stop(server);
  server = server_start(answer, world->tls);
  snprintf(url, sizeof url, "http://127.0.0.1:%u", server->port);
  api = client_of(server, (struct api_options){.url = url});
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), "the API server 127.0.0.1:", true);
  api_free(api);
  server_stop(server);
}

static void client_certificate(void **state) {
  struct world *world = *state;
  X509_STORE_add_cert(SSL_CTX_get_cert_store(world->tls), world->authority.certificate);
  SSL_CTX_set_verify(world->tls, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
  struct server *server = server_start(answer, world->tls);
  works(server, (struct api_options){.ca = world->authority.pem, .certificate = world->user.pem, .key = world->user.key_pem});
  char *certificate = strdup(file(world, "user.crt", world->user.pem)), *key = strdup(file(world, "user.key", world->user.key_pem));
  works(server, (struct api_options){.ca = world->authority.pem, .certificate_file = certificate, .key_file = key});
  works(server, (struct api_options){.ca = world->authority.pem, .certificate_file = certificate, .key = world->user.key_pem});
  fails(server, (struct api_options){.ca = world->authority.pem, .certificate = world->user.pem, .key = world->other.key_pem},
        "our certificate or its key cannot be used");
  fails(server, (struct api_options){.ca = world->authority.pem, .certificate = "rubbish", .key = world->user.key_pem},
        "our certificate or its key cannot be used");
  fails(server, (struct api_options){.ca = world->authority.pem, .certificate_file = "/nonesuch.crt", .key_file = key},
        "our certificate or its key cannot be used");
  struct api *api = client_of(server, (struct api_options){.ca = world->authority.pem});
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), "certificate required", true);
  api_free(api);
  free(certificate), free(key);
  server_stop(server);
}

/* ---- the token ---- */

static void static_token(void **state) {
  struct world *world = *state;
  struct server *server = server_start(answer, world->tls);
  works(server, (struct api_options){.ca = world->authority.pem, .token = "a.b-c_d"});
  assert_true(server_saw(server, "\nAuthorization: Bearer a.b-c_d\n"));
  /* The file goes before the text; the text stands in while there is no file. */
  works(server, (struct api_options){.ca = world->authority.pem, .token = "a", .token_file = file(world, "token", "b\n")});
  assert_true(server_saw(server, "\nAuthorization: Bearer b\n"));
  works(server, (struct api_options){.ca = world->authority.pem, .token = "a", .token_file = "/nonesuch/token"});
  assert_true(server_saw(server, "\nAuthorization: Bearer a\n"));
  server_stop(server);
}

static void bad_token_files(void **state) {
  struct world *world = *state;
  static const char *const texts[] = {"", "\n", "to ken", "tok\nen", "t\x01", "\xc3\xa9"};
  char error[256];
  struct api_options options = {.url = "https://127.0.0.1:1", .token_file = "/nonesuch/token"};
  assert_null(api_new(&options, error, sizeof error));
  assert_string_equal(error, "the token's file /nonesuch/token: No such file or directory");
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
    options.token_file = file(world, "token", texts[i]);
    assert_null(api_new(&options, error, sizeof error));
    assert_non_null(strstr(error, "it holds no token"));
  }
  char *long_one = malloc(100001);
  memset(long_one, 'x', 100000);
  long_one[100000] = '\0';
  options.token_file = file(world, "token", long_one);
  assert_null(api_new(&options, error, sizeof error));
  assert_non_null(strstr(error, "it is too long"));
  free(long_one);
}

/* Sends until the token of the last request is `token`: the file is looked at once a second. Returns how many other requests went before. */
static int requests_until(struct server *server, struct api *api, const char *token) {
  char field[64];
  snprintf(field, sizeof field, "\nAuthorization: Bearer %s\n", token);
  for (int i = 0; i < 1000; i++) {
    uint64_t id = client_send(api, (struct api_request){.path = "/"});
    api_wait(api, NULL, 0, 10000);
    struct api_news *news = api_next(api);
    assert_true(news && news->id == id && news->kind == API_NEWS_DONE);
    api_news_free(news);
    if (server_saw(server, field)) return i;
    api_wait(api, NULL, 0, 10);
  }
  fail_msg("%s never came", token);
  return 0;
}

static void token_rotates(void **state) {
  struct world *world = *state;
  struct server *server = server_start(answer, world->tls);
  struct api *api = client_of(server, (struct api_options){.ca = world->authority.pem, .token_file = file(world, "token", "first"), .log = &world->log});
  assert_int_equal(requests_until(server, api, "first"), 0);
  file(world, "token", "second");
  assert_true(requests_until(server, api, "second") > 0);
  /* A 401 makes the next request look at once. */
  file(world, "token", "expired");
  requests_until(server, api, "expired");
  file(world, "token", "third");
  assert_int_equal(requests_until(server, api, "third"), 0);
  assert_string_equal(world->lines, "");
  /* It is gone, or broken: the one before stays, and that is said once, without it. */
  file(world, "token", "a secret with spaces");
  for (int i = 0; i < 3; i++) {
    client_expect_done(api, client_send(api, (struct api_request){.path = "/"}), 200, "{}");
    api_wait(api, NULL, 0, 1010);
  }
  assert_true(server_saw(server, "Bearer third\n"));
  assert_int_equal(count_of(world->lines, "the API token's file cannot be read"), 1);
  file(world, "token", "fourth");
  requests_until(server, api, "fourth");
  assert_null(strstr(world->lines, "secret"));
  assert_null(strstr(world->lines, "third"));
  api_free(api);
  server_stop(server);
}

/* Sends on what comes from either side, once the client has asked for a tunnel to 127.0.0.1:port. Without a port it refuses. */
static _Atomic unsigned tunnel_port;
static void tunnel(struct peer *peer) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)tunnel_port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  char bytes[16384];
  if (!peer_request(peer)) return;
  if (!tunnel_port) {
    peer_answer(peer, "403 Forbidden", "not there");
    return;
  }
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) || !peer_send(peer, "HTTP/1.1 200 OK\r\n\r\n")) abort();
  struct pollfd fds[2] = {{.fd = peer->fd, .events = POLLIN}, {.fd = fd, .events = POLLIN}};
  for (bool is_open = true; is_open;) {
    poll(fds, 2, -1);
    for (int i = 0; i < 2; i++) {
      if (!fds[i].revents) continue;
      ssize_t got = recv(fds[i].fd, bytes, sizeof bytes, 0);
      if (got <= 0 || send(fds[!i].fd, bytes, (size_t)got, MSG_NOSIGNAL) != got) is_open = false;
    }
  }
  close(fd);
}

/* The proxy sees a name and no token. */
static void proxy(void **state) {
  struct world *world = *state;
  struct server *server = server_start(answer, world->tls), *between = server_start(tunnel, NULL);
  char url[64];
  snprintf(url, sizeof url, "http://user:secret@127.0.0.1:%u", between->port);
  struct api_options options = {.ca = world->authority.pem, .token = "abc", .proxy = url};
  tunnel_port = server->port;
  works(server, options);
  assert_true(server_saw(between, "CONNECT 127.0.0.1:") && server_saw(between, "Proxy-Authorization: Basic "));
  assert_false(server_saw(between, "\nAuthorization"));
  assert_true(server_saw(server, "\nAuthorization: Bearer abc\n"));
  assert_false(server_saw(server, "Proxy-"));
  tunnel_port = 0;
  struct api *api = client_of(server, options);
  client_expect_failed(api, client_send(api, (struct api_request){.path = "/"}), "the proxy refuses: CONNECT tunnel failed, response 403", true);
  api_free(api);
  server_stop(between);
  api = client_of(server, options);
  client_send(api, (struct api_request){.path = "/"});
  struct api_news *news = client_take(api);
  assert_true(news->kind == API_NEWS_FAILED && news->is_retry);
  assert_non_null(strstr(news->text.data, "no connection to the proxy: Connection refused"));
  assert_null(strstr(news->text.data, "secret"));
  api_news_free(news);
  api_free(api);
  server_stop(server);
}

/* ---- the system's authorities ---- */

/* From here on this process sees a system that trusts the authority, and nothing else. */
static bool enter_system(struct world *world) {
  char path[64];
  snprintf(path, sizeof path, "etc/ssl/certs/%08lx.0", X509_subject_name_hash(world->authority.certificate));
  if (chdir(world->directory) || mkdir("etc", 0755) || mkdir("etc/ssl", 0755) || mkdir("etc/ssl/certs", 0755)) return false;
  FILE *bundle = fopen("etc/ssl/certs/ca-certificates.crt", "w"), *hashed = fopen(path, "w");
  if (!bundle || !hashed || fputs(world->authority.pem, bundle) < 0 || fputs(world->authority.pem, hashed) < 0 || fclose(bundle) || fclose(hashed))
    return false;
  if (geteuid() != 0 && unshare(CLONE_NEWUSER)) return false;
  return chroot(".") == 0;
}

static enum api_news_kind outcome(struct server *server, const char *ca, const char *ca_file) {
  struct api *api = client_of(server, (struct api_options){.ca = ca, .ca_file = ca_file});
  client_send(api, (struct api_request){.path = "/"});
  api_wait(api, NULL, 0, 10000);
  struct api_news *news = api_next(api);
  enum api_news_kind kind = news ? news->kind : API_NEWS_ITEM;
  api_news_free(news);
  api_free(api);
  return kind;
}

/* In a system that trusts our authority: it counts, unless another one is given. The first of the tests, and its server begins after the fork, which takes
 * the locks along that other threads hold. */
static void own_authority_only(void **state) {
  struct world *world = *state;
  file(world, "other.crt", world->other.pem);
  int ports[2];
  assert_int_equal(pipe(ports), 0);
  pid_t child = fork();
  if (child == 0) {
    struct server theirs = {.fd = -1, .tls = world->tls};
    alarm(60); /* never to be waited for without end */
    if (read(ports[0], &theirs.port, sizeof theirs.port) != sizeof theirs.port || !enter_system(world)) _exit(2);
    if (outcome(&theirs, NULL, NULL) != API_NEWS_DONE) _exit(3);
    if (outcome(&theirs, world->other.pem, NULL) != API_NEWS_FAILED) _exit(4);
    if (outcome(&theirs, NULL, "/other.crt") != API_NEWS_FAILED) _exit(5);
    _exit(0);
  }
  struct server *server = server_start(answer, world->tls);
  assert_int_equal(write(ports[1], &server->port, sizeof server->port), sizeof server->port);
  int status = 0;
  assert_int_equal(waitpid(child, &status, 0), child);
  close(ports[0]);
  close(ports[1]);
  assert_true(WIFEXITED(status));
  assert_int_equal(WEXITSTATUS(status), 0);
  server_stop(server);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)
int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {TEST(own_authority_only),
                                     TEST(trust),
                                     TEST(authority_rotates),
                                     TEST(names),
                                     TEST(validity),
                                     TEST(insecure),
                                     TEST(old_protocols),
                                     TEST(plain_and_tls),
                                     TEST(client_certificate),
                                     TEST(static_token),
                                     TEST(bad_token_files),
                                     TEST(token_rotates),
                                     TEST(proxy)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
