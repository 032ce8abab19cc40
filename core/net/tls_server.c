/* TLS server: one SSL_CTX per worker and profile. A handshake finds its certificate by name through a function; a session resumes
 * only under the name that it was made under. Owned by its worker; links hold it while they shake hands. Worker's thread. */
#include <ctype.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "net/tls_internal.h"

void tls_explain(const char *what, char *error, size_t error_size) {
  char reason[160] = "unknown reason";
  unsigned long code = ERR_peek_last_error();
  if (code) ERR_error_string_n(code, reason, sizeof reason);
  ERR_clear_error();
  if (error_size) snprintf(error, error_size, "%s: %s", what, reason);
}

/* Takes the host name out of the server_name extension (RFC 6066, 3), lower-cased, without a trailing dot. False if malformed. */
static bool take_name(SSL *ssl, struct tls_handshake *handshake) {
  const unsigned char *data;
  size_t length;
  handshake->name_length = 0;
  if (!SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &data, &length)) return true;
  if (length < 5 || (size_t)(data[0] << 8 | data[1]) != length - 2 || data[2] != TLSEXT_NAMETYPE_host_name) return false;
  size_t name_length = (size_t)(data[3] << 8 | data[4]);
  if (name_length > length - 5 || name_length == 0 || name_length > TLS_NAME_MAX) return false;
  for (size_t i = 0; i < name_length; i++) {
    char c = (char)data[5 + i];
    if (c <= ' ' || c == 0x7f || c == '/') return false;
    handshake->name[i] = c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
  }
  if (handshake->name[name_length - 1] == '.') name_length--;
  handshake->name[name_length] = 0;
  handshake->name_length = name_length;
  return true;
}

/* Runs before a session is looked up: so the session id context may carry the name. */
static int on_client_hello(SSL *ssl, int *alert, void *context) {
  struct tls_server *server = context;
  struct tls_handshake *handshake = SSL_get_app_data(ssl);
  if (!handshake || !take_name(ssl, handshake)) {
    *alert = SSL_AD_DECODE_ERROR;
    return SSL_CLIENT_HELLO_ERROR;
  }
  if (!server->find(server->find_context, span_make(handshake->name, handshake->name_length))) {
    *alert = SSL_AD_UNRECOGNIZED_NAME;
    return SSL_CLIENT_HELLO_ERROR;
  }
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  if (!EVP_Digest(handshake->name, handshake->name_length, hash, &length, EVP_sha256(), NULL) || !SSL_set_session_id_context(ssl, hash, length)) {
    *alert = SSL_AD_INTERNAL_ERROR;
    return SSL_CLIENT_HELLO_ERROR;
  }
  return SSL_CLIENT_HELLO_SUCCESS;
}

/* Only for a full handshake: a resumed one shows no certificate. */
static int on_certificate(SSL *ssl, void *context) {
  struct tls_server *server = context;
  struct tls_handshake *handshake = SSL_get_app_data(ssl);
  struct certificate *certificate = handshake ? server->find(server->find_context, span_make(handshake->name, handshake->name_length)) : NULL;
  return certificate && SSL_use_cert_and_key(ssl, certificate->leaf, certificate->key, certificate->chain, 1) == 1;
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_length, const unsigned char *in, unsigned length, void *context) {
  (void)ssl;
  (void)context;
  static const unsigned char ours[] = "\x08http/1.1";
  unsigned char *chosen;
  if (SSL_select_next_proto(&chosen, out_length, ours, sizeof ours - 1, in, length) != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

/* Leaves on only the protocols that the list names; false for an unknown word or none. */
static bool set_protocols(SSL_CTX *context, struct span list) {
  static const struct {
    const char *name;
    uint64_t off;
  } known[] = {{"TLSv1", SSL_OP_NO_TLSv1}, {"TLSv1.1", SSL_OP_NO_TLSv1_1}, {"TLSv1.2", SSL_OP_NO_TLSv1_2}, {"TLSv1.3", SSL_OP_NO_TLSv1_3}};
  uint64_t off = SSL_OP_NO_SSLv3 | SSL_OP_NO_TLSv1 | SSL_OP_NO_TLSv1_1 | SSL_OP_NO_TLSv1_2 | SSL_OP_NO_TLSv1_3;
  bool has_any = false;
  struct span item;
  while (span_next_item(&list, ' ', &item)) {
    bool is_known = span_equal(item, SPAN("SSLv2")) || span_equal(item, SPAN("SSLv3")); /* OpenSSL has them no more */
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
      if (!span_equal(item, span_of(known[i].name))) continue;
      is_known = has_any = true;
      off &= ~known[i].off;
    }
    if (!is_known) return false;
  }
  if (!has_any) return false;
  SSL_CTX_set_min_proto_version(context, 0); /* the distribution's configuration may have set it */
  SSL_CTX_set_options(context, off);
  return true;
}

static bool fail(const char *what, char *error, size_t error_size) {
  tls_explain(what, error, error_size);
  return false;
}

static bool configure(struct tls_server *server, const struct tls_profile *profile, char *error, size_t error_size) {
  SSL_CTX *context = server->context;
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  if (profile->prefer_server_ciphers) SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE);
  if (!set_protocols(context, span_of(profile->protocols))) return fail("protocols", error, error_size);
  if (profile->ciphers && *profile->ciphers && !SSL_CTX_set_cipher_list(context, profile->ciphers)) {
    return fail("ciphers", error, error_size);
  }
  bool is_auto = !profile->curves || !*profile->curves || strcmp(profile->curves, "auto") == 0;
  if (!is_auto && !SSL_CTX_set1_groups_list(context, profile->curves)) return fail("curves", error, error_size);
  SSL_CTX_set_timeout(context, (long)profile->session_timeout);
  return true;
}

struct tls_server *tls_server_new(const struct tls_profile *profile, struct tls_tickets *tickets, tls_find_certificate find, void *context, char *error,
                                  size_t error_size) {
  struct tls_server *server = calloc(1, sizeof *server);
  if (!server) abort();
  server->count = 1;
  server->find = find;
  server->find_context = context;
  server->has_tickets = profile->tickets && tickets;
  server->context = SSL_CTX_new(TLS_server_method());
  if (!server->context) abort();
  if (!configure(server, profile, error, error_size)) {
    tls_server_release(server);
    return NULL;
  }
  SSL_CTX_set_client_hello_cb(server->context, on_client_hello, server);
  SSL_CTX_set_cert_cb(server->context, on_certificate, server);
  SSL_CTX_set_alpn_select_cb(server->context, on_alpn, NULL);
  if (server->has_tickets) {
    SSL_CTX_set_num_tickets(server->context, 1);
    tls_tickets_use(tickets, server->context);
  } else {
    SSL_CTX_set_options(server->context, SSL_OP_NO_TICKET);
    SSL_CTX_set_num_tickets(server->context, 0); /* else TLS 1.3 gives stateful ones */
  }
  return server;
}

void tls_server_hold(struct tls_server *server) { server->count++; }

void tls_server_release(struct tls_server *server) {
  must(server->count > 0);
  if (--server->count > 0) return;
  SSL_CTX_free(server->context);
  free(server);
}

void tls_server_free(struct tls_server *server) {
  if (server) tls_server_release(server);
}
