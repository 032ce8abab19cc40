/* Link, TLS: records between the wire and the owner. OpenSSL reads from the bytes just received and writes into the loop's cipher
 * buffer, which goes to the wire at the end of each step: so a link keeps nothing but its SSL. Both sides. Loop's thread only. */
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

#include "base/error.h"
#include "net/link_internal.h"
#include "net/tls_internal.h"

struct link_tls {
  SSL *ssl;
  struct link *link;
  const char *input; /* received and not yet read by OpenSSL; all of it is when a step ends */
  size_t input_length;
  size_t output; /* bytes in the loop's cipher buffer */
  bool is_client, is_done, has_failed, has_input;
  bool is_peer_shut; /* close_notify came */
  bool is_shut;      /* close_notify went */
  struct link_tls_info info;
  struct tls_handshake handshake;
};

/* ---- the BIO */

static void send_output(struct link_tls *tls) {
  if (tls->output == 0) return;
  struct iovec part = {tls->link->loop->cipher_buffer, tls->output};
  tls->output = 0;
  link_wire_write(tls->link, &part, 1);
}

static int bio_write(BIO *bio, const char *data, int length) {
  struct link_tls *tls = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  if (length <= 0) return 0;
  if (tls->output + (size_t)length > LOOP_READ_BUFFER) send_output(tls);
  must(length <= LOOP_READ_BUFFER); /* a record at most */
  memcpy(tls->link->loop->cipher_buffer + tls->output, data, (size_t)length);
  tls->output += (size_t)length;
  return length;
}

static int bio_read(BIO *bio, char *out, int length) {
  struct link_tls *tls = BIO_get_data(bio);
  BIO_clear_retry_flags(bio);
  if (tls->input_length == 0 || length <= 0) {
    BIO_set_retry_read(bio);
    return -1;
  }
  size_t size = (size_t)length < tls->input_length ? (size_t)length : tls->input_length;
  memcpy(out, tls->input, size);
  tls->input += size;
  tls->input_length -= size;
  return (int)size;
}

static long bio_control(BIO *bio, int command, long number, void *pointer) {
  (void)bio, (void)number, (void)pointer;
  return command == BIO_CTRL_FLUSH; /* the step sends; the rest we do not have */
}

static int bio_create(BIO *bio) {
  BIO_set_init(bio, 1);
  return 1;
}

static BIO *make_bio(struct link_tls *tls) {
  struct loop *loop = tls->link->loop;
  if (!loop->bio_method) {
    loop->bio_method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "link");
    if (!loop->bio_method) abort();
    BIO_meth_set_write(loop->bio_method, bio_write);
    BIO_meth_set_read(loop->bio_method, bio_read);
    BIO_meth_set_ctrl(loop->bio_method, bio_control);
    BIO_meth_set_create(loop->bio_method, bio_create);
  }
  BIO *bio = BIO_new(loop->bio_method);
  if (!bio) abort();
  BIO_set_data(bio, tls);
  return bio;
}

void link_tls_free_method(struct loop *loop) {
  BIO_meth_free(loop->bio_method);
  loop->bio_method = NULL;
}

static struct link_tls *tls_new(struct link *link, SSL_CTX *context) {
  struct link_tls *tls = calloc(1, sizeof *tls);
  if (!tls) abort();
  tls->link = link;
  tls->ssl = SSL_new(context);
  if (!tls->ssl) abort();
  BIO *bio = make_bio(tls);
  SSL_set_bio(tls->ssl, bio, bio);
  link->tls = tls;
  link->is_open = false;
  return tls;
}

static void forget_server(struct link_tls *tls) {
  SSL_set_app_data(tls->ssl, NULL);
  if (tls->handshake.server) tls_server_release(tls->handshake.server);
  tls->handshake.server = NULL;
}

void link_tls_free(struct link *link) {
  struct link_tls *tls = link->tls;
  link->tls = NULL;
  forget_server(tls);
  SSL_free(tls->ssl);
  free(tls);
}

/* ---- the handshake */

static void count(struct link_tls *tls, enum counter which) {
  if (!tls->is_client) counter_add(tls->link->loop->counters, which, 1);
}

static void handshake_failed(struct link_tls *tls, int error) {
  tls->has_failed = true;
  /* A probe that connects and says nothing is no failed handshake. */
  if (tls->has_input) count(tls, COUNTER_TLS_FAILED);
  forget_server(tls);
  link_opened(tls->link, error);
}

static void handshake_done(struct link_tls *tls) {
  const unsigned char *alpn;
  unsigned alpn_length;
  SSL_get0_alpn_selected(tls->ssl, &alpn, &alpn_length);
  tls->is_done = true;
  tls->info = (struct link_tls_info){
      .version = SSL_get_version(tls->ssl),
      .cipher = SSL_get_cipher_name(tls->ssl),
      .server_name = {tls->handshake.name, tls->handshake.name_length},
      .alpn = {(const char *)alpn, alpn_length},
      .resumed = SSL_session_reused(tls->ssl),
  };
  count(tls, COUNTER_TLS_HANDSHAKES);
  if (tls->info.resumed) count(tls, COUNTER_TLS_RESUMED);
  forget_server(tls);
  link_opened(tls->link, 0);
}

/* SSL_get_error looks at the thread's error queue, so it must be empty before each call. It nearly always is, and looking is cheaper than clearing. */
static void clear_errors(void) {
  if (ERR_peek_error()) ERR_clear_error();
}

/* One step with what input there is. False when the link was closed. */
static bool shake_hands(struct link_tls *tls) {
  ERR_clear_error();
  int result = SSL_do_handshake(tls->ssl);
  send_output(tls); /* an alert too */
  if (result == 1) {
    handshake_done(tls);
  } else if (SSL_get_error(tls->ssl, result) != SSL_ERROR_WANT_READ) {
    bool is_unverified = tls->is_client && SSL_get_verify_mode(tls->ssl) != SSL_VERIFY_NONE && SSL_get_verify_result(tls->ssl) != X509_V_OK;
    ERR_clear_error();
    handshake_failed(tls, is_unverified ? ERROR_VERIFY : ERROR_TLS);
  }
  return !tls->link->is_closing;
}

void link_start_tls(struct link *link, struct tls_server *server) {
  must(!link->tls && !link->is_closing);
  struct link_tls *tls = tls_new(link, server->context);
  tls_server_hold(server);
  tls->handshake.server = server;
  SSL_set_app_data(tls->ssl, &tls->handshake);
  SSL_set_accept_state(tls->ssl);
  link->is_started = true;
  link->is_paused = false;
  if (buffer_length(&link->held) > 0) {
    link->holds_wire_bytes = true;
    loop_defer(link->loop, &link->deferred);
  } else if (!link->in_read) {
    link_wire_receive(link, true);
  }
}

int link_tls_connect(struct link *link, struct tls_client *client, const char *server_name) {
  struct link_tls *tls = tls_new(link, client->context);
  tls->is_client = true;
  SSL_set_connect_state(tls->ssl);
  if (!server_name || !*server_name) return client->is_verifying ? ERROR_INVALID : 0;
  size_t length = strlen(server_name);
  if (length > TLS_NAME_MAX) return ERROR_INVALID;
  memcpy(tls->handshake.name, server_name, length + 1);
  tls->handshake.name_length = length;
  struct address literal;
  bool ok;
  if (address_parse_ip(span_make(server_name, length), 0, &literal) == 0) { /* RFC 6066, 3: no literals in SNI */
    ok = !client->is_verifying || X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(tls->ssl), server_name) == 1;
  } else {
    ok = SSL_set_tlsext_host_name(tls->ssl, server_name) == 1 && (!client->is_verifying || SSL_set1_host(tls->ssl, server_name) == 1);
  }
  return ok ? 0 : ERROR_INVALID;
}

bool link_tls_start(struct link *link) { return shake_hands(link->tls); }

/* ---- records */

/* SSL_read gave nothing more: `reason` tells whether the peer ended, more must arrive, or the connection broke. */
static void reading_stopped(struct link_tls *tls, int reason) {
  if (reason == SSL_ERROR_ZERO_RETURN) {
    tls->is_peer_shut = true;
    link_set_ended(tls->link, 0);
  } else if (reason != SSL_ERROR_WANT_READ) {
    ERR_clear_error();
    tls->has_failed = true;
    link_failed(tls->link, ERROR_TLS);
    link_set_ended(tls->link, ERROR_TLS);
  }
}

/* What OpenSSL answers by itself (an alert, a key update). It goes out before the owner is called: who writes to another connection of the loop from there
 * uses the same cipher buffer. */
static void send_answers(struct link_tls *tls) {
  if (tls->output == 0) return;
  send_output(tls);
  if (tls->link->failure || link_wire_pending(tls->link) <= LIMIT_TLS_PENDING_BYTES) return;
  counter_add(tls->link->loop->counters, COUNTER_LIMIT_TLS_PENDING_BYTES, 1);
  link_failed(tls->link, ERROR_LIMIT);
}

static bool read_records(struct link_tls *tls) {
  struct link *link = tls->link;
  char *plain = link->loop->plain_buffer;
  size_t total = 0;
  int reason = SSL_ERROR_NONE;
  while (reason == SSL_ERROR_NONE) {
    clear_errors();
    int result = SSL_read(tls->ssl, plain + total, (int)(LOOP_READ_BUFFER - total));
    if (result <= 0) {
      reason = SSL_get_error(tls->ssl, result);
      break;
    }
    total += (size_t)result;
    if (total < LOOP_READ_BUFFER) continue;
    send_answers(tls);
    if (!link_deliver(link, plain, total)) return false;
    total = 0;
  }
  send_answers(tls);
  if (total > 0 && !link_deliver(link, plain, total)) return false;
  reading_stopped(tls, reason);
  return !link->is_closing;
}

bool link_tls_input(struct link *link, const char *data, size_t length) {
  struct link_tls *tls = link->tls;
  if (tls->has_failed || tls->is_peer_shut) return true;
  tls->input = data;
  tls->input_length = length;
  tls->has_input = true;
  bool lives = true;
  if (!tls->is_done) lives = shake_hands(tls);
  if (lives && tls->is_done && !tls->is_peer_shut && !link->is_lingering) lives = read_records(tls);
  if (lives) tls->input_length = 0;
  return lives;
}

void link_tls_input_ended(struct link *link, int error) {
  struct link_tls *tls = link->tls;
  if (tls->is_done || tls->has_failed) return;
  link->is_ended = true;
  link->end_error = error ? error : ERROR_CLOSED;
  link->is_end_reported = true; /* by on_open */
  handshake_failed(tls, link->end_error);
}

void link_tls_write(struct link *link, const struct iovec *parts, int count_parts) {
  struct link_tls *tls = link->tls;
  if (tls->has_failed || tls->is_shut) return;
  for (int i = 0; i < count_parts; i++) {
    const char *data = parts[i].iov_base;
    for (size_t left = parts[i].iov_len; left > 0;) {
      int size = left > INT32_MAX / 2 ? INT32_MAX / 2 : (int)left;
      clear_errors();
      int written = SSL_write(tls->ssl, data, size);
      if (written <= 0) {
        tls->has_failed = true;
        send_output(tls);
        link_failed(link, ERROR_TLS);
        return;
      }
      data += written;
      left -= (size_t)written;
    }
  }
  send_output(tls);
}

void link_tls_shut(struct link *link) {
  struct link_tls *tls = link->tls;
  if (!tls->is_done || tls->has_failed || tls->is_shut) return;
  tls->is_shut = true;
  ERR_clear_error();
  SSL_shutdown(tls->ssl);
  send_output(tls);
}

const struct link_tls_info *link_tls(const struct link *link) { return link->tls && link->tls->is_done ? &link->tls->info : NULL; }
