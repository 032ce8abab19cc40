/* TLS: one SSL_CTX per worker and TLS profile; certificates are looked up per handshake through a function, so that a changed Secret
 * needs no new context. Records pass through our own BIO over the loop's shared buffers: an idle link keeps only the SSL. */
#ifndef NET_TLS_H
#define NET_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

struct certificate; /* immutable, shared by threads; parsed on first use */
struct tls_tickets; /* keys shared by workers; live outside snapshots */
struct tls_server;
struct tls_client;

/* Makes a certificate of PEM chain and key. Parsing happens here (publisher) so that errors are known; NULL and message on failure. */
struct certificate *certificate_new(struct span chain_pem, struct span key_pem, char *error, size_t error_size);
void certificate_free(struct certificate *certificate);
/* A self-signed one: O=Acme Co, CN=Kubernetes Ingress Controller Fake Certificate, SAN ingress.local; ECDSA P-256. */
struct certificate *certificate_new_self_signed(void);
/* Whether it is valid for this host name (SAN, wildcards; then CN as legacy). */
bool certificate_covers(const struct certificate *certificate, struct span host);
/* What dashboards ask of it; texts are cut to what fits. */
struct certificate_facts {
  int64_t not_after; /* unix seconds */
  char serial[72];   /* decimal */
  char issuer_serial[128], issuer_common_name[256], issuer_organization[256];
  const char *key_algorithm; /* "RSA", "ECDSA", "Ed25519", ... */
};
void certificate_describe(const struct certificate *certificate, struct certificate_facts *facts);

struct tls_tickets *tls_tickets_new(void);                                 /* random keys, rotated by tls_tickets_rotate */
void tls_tickets_rotate(struct tls_tickets *tickets, int64_t now_seconds); /* makes a new key when the current is older than its life; old ones still decrypt */
void tls_tickets_free(struct tls_tickets *tickets);

struct tls_profile {
  const char *protocols; /* "TLSv1.2 TLSv1.3" */
  const char *ciphers;   /* OpenSSL list, TLS 1.2 */
  const char *curves;    /* "auto" or a list */
  bool tickets;
  unsigned session_timeout; /* seconds */
  bool prefer_server_ciphers;
};

/* Chooses the certificate for a lower-cased name ("" without SNI); NULL: refuse. The result stays valid during the call. */
typedef struct certificate *(*tls_find_certificate)(void *context, struct span server_name);

struct tls_server *tls_server_new(const struct tls_profile *profile, struct tls_tickets *tickets, tls_find_certificate find, void *context, char *error,
                                  size_t error_size);
void tls_server_free(struct tls_server *server); /* links that started with it go on */

/* Upstream TLS. verify: with `ca_pem` (empty: the system's). */
struct tls_client *tls_client_new(bool verify, struct span ca_pem, char *error, size_t error_size);
void tls_client_free(struct tls_client *client);

#endif
