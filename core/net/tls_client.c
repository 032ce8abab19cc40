/* TLS client: the SSL_CTX for connections to upstreams. Owned by its worker. */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>

#include "net/tls_internal.h"

static bool add_authorities(SSL_CTX *context, struct span pem) {
  BIO *bio = BIO_new_mem_buf(pem.data, (int)pem.length);
  if (!bio) abort();
  X509_STORE *store = SSL_CTX_get_cert_store(context);
  int count = 0;
  X509 *authority;
  while ((authority = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL))) {
    X509_STORE_add_cert(store, authority);
    X509_free(authority);
    count++;
  }
  BIO_free(bio);
  /* The last read always fails: at the end with "no start line", which is no error once there was one. */
  bool is_at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (count > 0 && is_at_end) ERR_clear_error();
  return count > 0 && is_at_end;
}

struct tls_client *tls_client_new(bool verify, struct span ca_pem, char *error, size_t error_size) {
  struct tls_client *client = calloc(1, sizeof *client);
  if (!client) abort();
  client->is_verifying = verify;
  client->context = SSL_CTX_new(TLS_client_method());
  if (!client->context) abort();
  SSL_CTX_set_mode(client->context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(client->context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(client->context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_alpn_protos(client->context, (const unsigned char *)"\x08http/1.1", 9);
  if (!verify) return client;
  SSL_CTX_set_verify(client->context, SSL_VERIFY_PEER, NULL);
  bool ok = span_is_empty(ca_pem) ? SSL_CTX_set_default_verify_paths(client->context) == 1 : add_authorities(client->context, ca_pem);
  if (ok) return client;
  tls_explain("certificate authorities", error, error_size);
  tls_client_free(client);
  return NULL;
}

void tls_client_free(struct tls_client *client) {
  if (!client) return;
  SSL_CTX_free(client->context);
  free(client);
}
