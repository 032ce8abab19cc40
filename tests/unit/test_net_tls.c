/* TLS links against OpenSSL's own client in a thread: SNI choice, certificate change, resumption bound to its name, ALPN, garbage,
 * renegotiation off, verification by our client side; certificates by themselves. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>

#include "base/error.h"
#include "net/link.h"
#include "net/listener.h"
#include "net/tls.h"

struct world {
  struct loop loop;
  struct counters counters;
  struct log log;
  struct listener *listener;
  struct address address;
  struct certificate *first, *second;
  struct certificate *by_default;
  struct tls_tickets *tickets;
  struct tls_server *server;
  int opened, failed, ended, end_error;
  char sni[64], alpn[16];
  bool resumed;
  unsigned ms_to_linger;
};

struct peer {
  struct world *world;
  struct link *link;
};

static struct certificate *find(void *context, struct span name) {
  struct world *world = context;
  if (span_equal(name, SPAN("second.test"))) return world->second;
  if (span_equal(name, SPAN("refused.test"))) return NULL;
  return world->by_default;
}

static void on_open(void *owner, int status) {
  struct peer *peer = owner;
  struct world *world = peer->world;
  if (status) {
    world->failed++;
    assert_null(link_tls(peer->link));
    link_close(peer->link);
    free(peer);
    return;
  }
  const struct link_tls_info *info = link_tls(peer->link);
  world->opened++;
  snprintf(world->sni, sizeof world->sni, "%.*s", (int)info->server_name.length, info->server_name.data);
  snprintf(world->alpn, sizeof world->alpn, "%.*s", (int)info->alpn.length, info->alpn.length ? info->alpn.data : "");
  world->resumed = info->resumed;
}
static size_t on_read(void *owner, const char *data, size_t length) {
  struct peer *peer = owner;
  link_write_span(peer->link, span_make(data, length));
  return length;
}
static void on_end(void *owner, int error) {
  struct peer *peer = owner;
  peer->world->ended++;
  peer->world->end_error = error;
  link_close_gracefully(peer->link, 100);
  free(peer);
}
static void on_drain(void *owner) { (void)owner; }
static const struct link_events events = {on_open, on_read, on_end, on_drain};

/* As behind a PROXY header: the first bytes are read plain, the rest belongs to TLS. */
static size_t skip_prefix(void *owner, const char *data, size_t length) {
  struct peer *peer = owner;
  assert_true(length >= 6 && memcmp(data, "PREFIX", 6) == 0);
  link_set_owner(peer->link, &events, peer);
  link_start_tls(peer->link, peer->world->server);
  return 6;
}
static const struct link_events prefix_events = {on_open, skip_prefix, on_end, on_drain};

static void on_accept(void *context, struct link *link) {
  struct peer *peer = calloc(1, sizeof *peer);
  *peer = (struct peer){context, link};
  link_set_owner(link, &events, peer);
  link_start_tls(link, peer->world->server);
}
static void on_accept_prefix(void *context, struct link *link) {
  struct peer *peer = calloc(1, sizeof *peer);
  *peer = (struct peer){context, link};
  link_set_owner(link, &prefix_events, peer);
  link_start(link);
}

static struct listener *listen_with(struct world *world, void (*accept_it)(void *, struct link *), struct address *address) {
  int error;
  address_parse_ip(SPAN("127.0.0.1"), 0, address);
  struct listener *listener = listener_new(&world->loop, address, true, 64, accept_it, world, &error);
  assert_int_equal(error, 0);
  address_parse_ip(SPAN("127.0.0.1"), listener_port(listener), address);
  return listener;
}

static struct tls_server *server_new(struct world *world, bool tickets, const char *protocols) {
  char error[200] = "";
  struct tls_profile profile = {
      .protocols = protocols, .ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256", .curves = "auto", .tickets = tickets, .session_timeout = 600};
  struct tls_server *server = tls_server_new(&profile, world->tickets, find, world, error, sizeof error);
  assert_string_equal(error, "");
  return server;
}

static int set_up(void **state) {
  struct world *world = calloc(1, sizeof *world);
  loop_init(&world->loop, &world->counters, &world->log);
  world->first = world->by_default = certificate_new_self_signed();
  world->second = certificate_new_self_signed();
  world->tickets = tls_tickets_new();
  world->server = server_new(world, true, "TLSv1.2 TLSv1.3");
  world->listener = listen_with(world, on_accept, &world->address);
  *state = world;
  return 0;
}

static int tear_down(void **state) {
  struct world *world = *state;
  listener_close(world->listener);
  tls_server_free(world->server);
  loop_free(&world->loop);
  tls_tickets_free(world->tickets);
  certificate_free(world->first);
  certificate_free(world->second);
  free(world);
  return 0;
}

/* A blocking client on a thread of its own. */
struct client {
  struct address address;
  const char *name, *alpn, *prefix;
  int version;          /* 0: any */
  SSL_SESSION *session; /* in: to offer; out: the last one given */
  bool ok, resumed, echoed, has_session, tries_to_renegotiate, can_renegotiate;
  char serial[64];
  atomic_bool is_finished;
};

static SSL_SESSION **session_slot(SSL *ssl) { return &((struct client *)SSL_get_app_data(ssl))->session; }
static int on_session(SSL *ssl, SSL_SESSION *session) {
  SSL_SESSION_free(*session_slot(ssl));
  *session_slot(ssl) = session;
  ((struct client *)SSL_get_app_data(ssl))->has_session = true;
  return 1;
}

static void talk(struct client *client, SSL *ssl, int fd) {
  if (client->prefix) {
    /* In one segment with the hello is not forced: the loop must cope with both. */
    ssize_t n = send(fd, client->prefix, strlen(client->prefix), 0);
    (void)n;
  }
  SSL_set_fd(ssl, fd);
  if (client->name) SSL_set_tlsext_host_name(ssl, client->name);
  if (client->session) SSL_set_session(ssl, client->session);
  if (SSL_connect(ssl) != 1) return;
  client->ok = true;
  client->resumed = SSL_session_reused(ssl);
  X509 *certificate = SSL_get1_peer_certificate(ssl);
  if (certificate) {
    const ASN1_INTEGER *serial = X509_get0_serialNumber(certificate);
    BIGNUM *number = ASN1_INTEGER_to_BN(serial, NULL);
    char *text = BN_bn2hex(number);
    snprintf(client->serial, sizeof client->serial, "%s", text);
    OPENSSL_free(text);
    BN_free(number);
    X509_free(certificate);
  }
  char out[4] = "";
  client->echoed = SSL_write(ssl, "ping", 4) == 4 && SSL_read(ssl, out, 4) == 4 && memcmp(out, "ping", 4) == 0;
  if (client->tries_to_renegotiate) {
    client->can_renegotiate = SSL_renegotiate(ssl) == 1 && SSL_do_handshake(ssl) == 1 && SSL_write(ssl, "x", 1) == 1 && SSL_read(ssl, out, 1) == 1;
  }
  SSL_shutdown(ssl);
}

static void *run_client(void *argument) {
  struct client *client = argument;
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, on_session);
  if (client->version) {
    SSL_CTX_set_min_proto_version(context, client->version);
    SSL_CTX_set_max_proto_version(context, client->version);
  }
  if (client->alpn) SSL_CTX_set_alpn_protos(context, (const unsigned char *)client->alpn, (unsigned)strlen(client->alpn));
  SSL *ssl = SSL_new(context);
  SSL_set_app_data(ssl, client);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct timeval patience = {5, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  if (connect(fd, &client->address.any, sizeof client->address.v4) == 0) talk(client, ssl, fd);
  SSL_free(ssl);
  SSL_CTX_free(context);
  close(fd);
  client->is_finished = true;
  return NULL;
}

static void run(struct world *world, struct client *client) {
  pthread_t thread;
  client->ok = client->resumed = client->echoed = client->has_session = client->can_renegotiate = false;
  client->is_finished = false;
  if (client->address.any.sa_family == 0) client->address = world->address;
  pthread_create(&thread, NULL, run_client, client);
  while (!client->is_finished) loop_run_once(&world->loop, 5);
  pthread_join(thread, NULL);
  for (int i = 0; i < 200 && world->loop.live_links > 0; i++) loop_run_once(&world->loop, 5);
  assert_int_equal(world->loop.live_links, 0);
}

static void test_names(void **state) {
  struct world *world = *state;
  struct client first = {.name = "First.Test"}, second = {.name = "second.test"}, none = {0}, refused = {.name = "refused.test"};
  run(world, &first);
  assert_true(first.ok && first.echoed);
  assert_string_equal(world->sni, "first.test");
  run(world, &second);
  assert_true(second.echoed);
  assert_string_not_equal(first.serial, second.serial);
  run(world, &none);
  assert_true(none.echoed);
  assert_string_equal(world->sni, "");
  assert_string_equal(none.serial, first.serial);
  run(world, &refused);
  assert_false(refused.ok);
  assert_int_equal(world->failed, 1);
  assert_int_equal(counter_get(&world->counters, COUNTER_TLS_HANDSHAKES), 3);
  assert_int_equal(counter_get(&world->counters, COUNTER_TLS_FAILED), 1);
  /* The certificate changes between two handshakes: the next one sees it. */
  world->by_default = world->second;
  SSL_SESSION_free(first.session);
  first.session = NULL;
  run(world, &first);
  assert_string_equal(first.serial, second.serial);
  SSL_SESSION_free(first.session), SSL_SESSION_free(second.session), SSL_SESSION_free(none.session);
}

static void resume_with(struct world *world, int version) {
  struct client client = {.name = "a.test", .version = version};
  run(world, &client);
  assert_true(client.echoed && client.has_session && !client.resumed);
  run(world, &client);
  assert_true(client.echoed && client.resumed && world->resumed);
  assert_string_equal(world->sni, "a.test");
  /* Another worker: another context, the same keys. */
  struct tls_server *before = world->server;
  world->server = server_new(world, true, "TLSv1.2 TLSv1.3");
  tls_server_free(before);
  run(world, &client);
  assert_true(client.echoed && client.resumed);
  /* Older keys still open. */
  tls_tickets_rotate(world->tickets, 1000000);
  tls_tickets_rotate(world->tickets, 1000000 + 86400);
  run(world, &client);
  assert_true(client.echoed && client.resumed);
  /* Another name: no resumption, its own certificate. */
  client.name = "second.test";
  run(world, &client);
  assert_true(client.echoed && !client.resumed);
  client.name = NULL;
  run(world, &client);
  assert_true(client.echoed && !client.resumed);
  SSL_SESSION_free(client.session);
}

static void test_resumption_13(void **state) { resume_with(*state, TLS1_3_VERSION); }
static void test_resumption_12(void **state) { resume_with(*state, TLS1_2_VERSION); }

static void test_keys_expire(void **state) {
  struct world *world = *state;
  struct client client = {.name = "a.test"};
  run(world, &client);
  for (int i = 0; i < 5; i++) tls_tickets_rotate(world->tickets, 1000000 + 86400L * i);
  run(world, &client);
  assert_true(client.echoed && !client.resumed);
  SSL_SESSION_free(client.session);
}

static void test_no_tickets(void **state) {
  struct world *world = *state;
  tls_server_free(world->server);
  world->server = server_new(world, false, "TLSv1.2 TLSv1.3");
  struct client client = {.name = "a.test", .version = TLS1_3_VERSION};
  run(world, &client);
  assert_true(client.echoed && !client.has_session);
  client.version = TLS1_2_VERSION;
  run(world, &client);
  assert_true(client.echoed);
  run(world, &client);
  assert_false(client.resumed);
  SSL_SESSION_free(client.session);
}

static void test_alpn_and_protocols(void **state) {
  struct world *world = *state;
  struct client client = {.name = "a.test", .alpn = "\x02h2\x08http/1.1"};
  run(world, &client);
  assert_true(client.echoed);
  assert_string_equal(world->alpn, "http/1.1");
  client.alpn = "\x02h2";
  run(world, &client);
  assert_false(client.ok);
  client.alpn = NULL;
  tls_server_free(world->server);
  world->server = server_new(world, true, "TLSv1.3");
  client.version = TLS1_2_VERSION;
  run(world, &client);
  assert_false(client.ok);
  SSL_SESSION_free(client.session);
  struct tls_profile bad = {.protocols = "TLSv9"};
  char error[100] = "";
  assert_null(tls_server_new(&bad, NULL, find, world, error, sizeof error));
  assert_true(error[0]);
}

static void test_no_renegotiation(void **state) {
  struct client client = {.name = "a.test", .version = TLS1_2_VERSION, .tries_to_renegotiate = true};
  run(*state, &client);
  assert_true(client.echoed);
  assert_false(client.can_renegotiate);
  SSL_SESSION_free(client.session);
}

static void test_behind_prefix(void **state) {
  struct world *world = *state;
  struct address address;
  struct listener *listener = listen_with(world, on_accept_prefix, &address);
  struct client client = {.address = address, .name = "a.test", .prefix = "PREFIX"};
  run(world, &client);
  assert_true(client.echoed);
  SSL_SESSION_free(client.session);
  listener_close(listener);
}

static void test_garbage(void **state) {
  struct world *world = *state;
  static const char *const junk[] = {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "\x16\x03\x01\xff\xff\x01", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
                                     "\x80\x2e\x01\x00\x02"};
  for (size_t i = 0; i < 4; i++) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, &world->address.any, sizeof world->address.v4), 0);
    size_t length = i == 0 ? strlen(junk[0]) : i == 1 ? 6 : i == 2 ? 10 : 5;
    assert_int_equal(send(fd, junk[i], length, 0), length);
    for (int turn = 0; turn < 5; turn++) loop_run_once(&world->loop, 2);
    close(fd);
    for (int turn = 0; turn < 100 && world->loop.live_links; turn++) loop_run_once(&world->loop, 5);
    assert_int_equal(world->failed, i + 1);
  }
  assert_int_equal(world->loop.live_links, 0);
}

/* A client in memory that sends and never reads. */
struct deaf {
  struct link *link;
  SSL *ssl;
  BIO *in, *out;
  bool is_deaf;
};
static size_t deaf_read(void *owner, const char *data, size_t length) {
  struct deaf *deaf = owner;
  if (deaf->is_deaf) return 0;
  BIO_write(deaf->in, data, (int)length);
  return length;
}
static void deaf_end(void *owner, int error) {
  (void)owner;
  (void)error;
}
static const struct link_events deaf_events = {on_open, deaf_read, deaf_end, on_drain};

static void deaf_send(struct world *world, struct deaf *deaf) {
  char part[16384];
  int length;
  while ((length = BIO_read(deaf->out, part, sizeof part)) > 0) link_write_span(deaf->link, span_make(part, (size_t)length));
  loop_run_once(&world->loop, 1);
}

/* Each key update wants one back. */
static void test_endless_key_updates(void **state) {
  struct world *world = *state;
  struct link *ends[2];
  struct deaf deaf = {.in = BIO_new(BIO_s_mem()), .out = BIO_new(BIO_s_mem())};
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  deaf.ssl = SSL_new(context);
  SSL_set_bio(deaf.ssl, deaf.in, deaf.out);
  SSL_set_connect_state(deaf.ssl);
  link_pair(&world->loop, ends);
  deaf.link = ends[0];
  link_set_owner(deaf.link, &deaf_events, &deaf);
  link_start(deaf.link);
  on_accept(world, ends[1]);
  for (int i = 0; i < 20 && world->opened == 0; i++) {
    SSL_do_handshake(deaf.ssl);
    deaf_send(world, &deaf);
  }
  assert_int_equal(world->opened, 1);
  deaf.is_deaf = true;
  for (int i = 0; i < 200 && world->ended == 0; i++) {
    for (int j = 0; j < 1000; j++) {
      assert_int_equal(SSL_key_update(deaf.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
      assert_int_equal(SSL_do_handshake(deaf.ssl), 1);
    }
    deaf_send(world, &deaf);
  }
  assert_int_equal(world->end_error, ERROR_LIMIT);
  assert_int_equal(counter_get(&world->counters, COUNTER_LIMIT_TLS_PENDING_BYTES), 1);
  link_close(deaf.link);
  SSL_free(deaf.ssl);
  SSL_CTX_free(context);
}

/* ---- our client side */

struct upstream {
  int status;
  bool is_open, is_ended;
  char text[16];
  size_t length;
};
static void up_open(void *owner, int status) {
  struct upstream *up = owner;
  up->status = status;
  up->is_open = true;
}
static size_t up_read(void *owner, const char *data, size_t length) {
  struct upstream *up = owner;
  if (up->length + length < sizeof up->text) memcpy(up->text + up->length, data, length);
  up->length += length;
  return length;
}
static void up_end(void *owner, int error) {
  (void)error;
  ((struct upstream *)owner)->is_ended = true;
}
static const struct link_events up_events = {up_open, up_read, up_end, on_drain};

static int verify_with(struct world *world, struct tls_client *client, const char *name) {
  struct upstream up = {0};
  struct link *link = link_connect(&world->loop, &world->address, client, name, &up_events, &up);
  link_write_span(link, SPAN("early"));
  for (int i = 0; i < 400 && (!up.is_open || (up.status == 0 && up.length < 5)); i++) loop_run_once(&world->loop, 5);
  assert_true(up.is_open);
  if (up.status == 0) assert_string_equal(up.text, "early");
  link_close(link);
  for (int i = 0; i < 100 && world->loop.live_links; i++) loop_run_once(&world->loop, 5);
  return up.status;
}

static void make_certificate(const char *host, char *chain, char *key, size_t size) {
  EVP_PKEY *pkey = EVP_EC_gen("P-256");
  X509 *x509 = X509_new();
  X509_set_version(x509, X509_VERSION_3);
  ASN1_INTEGER_set(X509_get_serialNumber(x509), 7);
  X509_gmtime_adj(X509_getm_notBefore(x509), -10);
  X509_gmtime_adj(X509_getm_notAfter(x509), 1000);
  X509_set_pubkey(x509, pkey);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC, (const unsigned char *)"common.test", -1, -1, 0);
  X509_set_issuer_name(x509, X509_get_subject_name(x509));
  char san[100];
  snprintf(san, sizeof san, "DNS:%s,DNS:*.wild.test", host);
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, x509, x509, NULL, NULL, 0);
  X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, NID_subject_alt_name, san);
  X509_add_ext(x509, extension, -1);
  X509_EXTENSION_free(extension);
  X509_sign(x509, pkey, EVP_sha256());
  BIO *bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, x509);
  chain[BIO_read(bio, chain, (int)size - 1)] = 0;
  PEM_write_bio_PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL);
  key[BIO_read(bio, key, (int)size - 1)] = 0;
  BIO_free(bio);
  X509_free(x509);
  EVP_PKEY_free(pkey);
}

static void test_client_side(void **state) {
  struct world *world = *state;
  char chain[4000], key[4000], error[200] = "";
  make_certificate("good.test", chain, key, sizeof chain);
  struct certificate *certificate = certificate_new(span_of(chain), span_of(key), error, sizeof error);
  assert_non_null(certificate);
  world->by_default = certificate;
  struct tls_client *lax = tls_client_new(false, (struct span){0}, error, sizeof error);
  struct tls_client *strict = tls_client_new(true, span_of(chain), error, sizeof error);
  struct tls_client *distrustful = tls_client_new(true, (struct span){0}, error, sizeof error);
  assert_non_null(strict);
  assert_int_equal(verify_with(world, lax, "any.test"), 0);
  assert_int_equal(verify_with(world, lax, "127.0.0.1"), 0);
  assert_int_equal(verify_with(world, strict, "good.test"), 0);
  assert_string_equal(world->sni, "good.test");
  assert_int_equal(verify_with(world, strict, "other.test"), ERROR_VERIFY);
  assert_int_equal(verify_with(world, distrustful, "good.test"), ERROR_VERIFY);
  assert_int_equal(verify_with(world, strict, NULL), ERROR_INVALID);
  assert_null(tls_client_new(true, SPAN("nonsense"), error, sizeof error));
  tls_client_free(lax);
  tls_client_free(strict);
  tls_client_free(distrustful);
  certificate_free(certificate);
}

static void test_certificate(void **state) {
  (void)state;
  char chain[4000], key[4000], other_chain[4000], other_key[4000], error[200] = "";
  make_certificate("a.test", chain, key, sizeof chain);
  make_certificate("b.test", other_chain, other_key, sizeof chain);
  assert_null(certificate_new(span_of(chain), span_of(other_key), error, sizeof error));
  assert_true(strstr(error, "does not belong"));
  assert_null(certificate_new(SPAN(""), span_of(key), error, sizeof error));
  assert_null(certificate_new(span_of(chain), SPAN("x"), error, sizeof error));
  struct certificate *certificate = certificate_new(span_of(chain), span_of(key), error, sizeof error);
  assert_true(certificate_covers(certificate, SPAN("a.test")));
  assert_true(certificate_covers(certificate, SPAN("A.test.")));
  assert_true(certificate_covers(certificate, SPAN("x.wild.test")));
  assert_false(certificate_covers(certificate, SPAN("x.y.wild.test")));
  assert_false(certificate_covers(certificate, SPAN("b.test")));
  assert_false(certificate_covers(certificate, SPAN("common.test"))); /* there are names: CN does not count */
  assert_false(certificate_covers(certificate, SPAN("")));
  struct certificate_facts facts;
  certificate_describe(certificate, &facts);
  assert_in_range(facts.not_after - time(NULL), 900, 1001);
  certificate_free(certificate);
  certificate = certificate_new_self_signed();
  assert_true(certificate_covers(certificate, SPAN("ingress.local")));
  certificate_free(certificate);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
  const struct CMUnitTest tests[] = {
      T(test_names),      T(test_resumption_13),       T(test_resumption_12),    T(test_keys_expire),
      T(test_no_tickets), T(test_alpn_and_protocols),  T(test_no_renegotiation), T(test_behind_prefix),
      T(test_garbage),    T(test_endless_key_updates), T(test_client_side),      cmocka_unit_test(test_certificate),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
