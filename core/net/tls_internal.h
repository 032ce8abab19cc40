/* The inside of TLS, for the files of net/ that touch OpenSSL. */
#ifndef NET_TLS_INTERNAL_H
#define NET_TLS_INTERNAL_H

#include <openssl/ssl.h>

#include "net/tls.h"

#define TLS_NAME_MAX 255

struct certificate {
  X509 *leaf;
  EVP_PKEY *key;
  STACK_OF(X509) * chain;
};

/* Counted by the links whose handshake runs; one worker's, hence plain. */
struct tls_server {
  unsigned count;
  SSL_CTX *context;
  tls_find_certificate find;
  void *find_context;
  bool has_tickets;
};

struct tls_client {
  SSL_CTX *context;
  bool is_verifying;
};

/* What a handshake on the server side needs beside the SSL; the SSL's app data until it ends. */
struct tls_handshake {
  struct tls_server *server;
  char name[TLS_NAME_MAX + 1]; /* SNI, lower case */
  size_t name_length;
};

void tls_server_hold(struct tls_server *server);
void tls_server_release(struct tls_server *server);
/* Makes the context give and take tickets under these keys. */
void tls_tickets_use(struct tls_tickets *tickets, SSL_CTX *context);
/* Puts OpenSSL's last error into text, and empties its queue. */
void tls_explain(const char *what, char *error, size_t error_size);

#endif
