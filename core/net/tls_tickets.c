/* Ticket keys: shared by all workers, outside snapshots, so that sessions live through every configuration change. The newest key
 * seals; older ones still open. A mutex, not held while sealing. Any thread. */
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "net/tls_internal.h"

#define KEYS 3
#define KEY_LIFE_SECONDS 43200 /* sealing; a ticket lives at most KEYS times as long */
#define NAME_BYTES 16

struct ticket_key {
  unsigned char name[NAME_BYTES], cipher[32], mac[32];
};

struct tls_tickets {
  pthread_mutex_t mutex;
  struct ticket_key keys[KEYS]; /* newest first */
  int count;
  int64_t made_at; /* 0: not known yet */
};

static void make_key(struct ticket_key *key) {
  int ok = RAND_bytes((unsigned char *)key, sizeof *key);
  must(ok == 1); /* without randomness nothing here is safe */
}

struct tls_tickets *tls_tickets_new(void) {
  struct tls_tickets *tickets = calloc(1, sizeof *tickets);
  if (!tickets) abort();
  pthread_mutex_init(&tickets->mutex, NULL);
  make_key(&tickets->keys[0]);
  tickets->count = 1;
  return tickets;
}

void tls_tickets_rotate(struct tls_tickets *tickets, int64_t now_seconds) {
  pthread_mutex_lock(&tickets->mutex);
  if (tickets->made_at == 0) tickets->made_at = now_seconds;
  if (now_seconds - tickets->made_at >= KEY_LIFE_SECONDS) {
    memmove(tickets->keys + 1, tickets->keys, (KEYS - 1) * sizeof *tickets->keys);
    make_key(&tickets->keys[0]);
    if (tickets->count < KEYS) tickets->count++;
    tickets->made_at = now_seconds;
  }
  pthread_mutex_unlock(&tickets->mutex);
}

void tls_tickets_free(struct tls_tickets *tickets) {
  if (!tickets) return;
  pthread_mutex_destroy(&tickets->mutex);
  OPENSSL_cleanse(tickets->keys, sizeof tickets->keys);
  free(tickets);
}

/* Copies the newest key, or the one of that name; its place, or -1. */
static int copy_key(struct tls_tickets *tickets, const unsigned char *name, struct ticket_key *key) {
  int found = -1;
  pthread_mutex_lock(&tickets->mutex);
  for (int i = 0; i < tickets->count && found < 0; i++) {
    if (!name || memcmp(tickets->keys[i].name, name, NAME_BYTES) == 0) found = i;
  }
  if (found >= 0) *key = tickets->keys[found];
  pthread_mutex_unlock(&tickets->mutex);
  return found;
}

/* OpenSSL's contract: 1 go on, 2 go on and give a new ticket, 0 no such key (full handshake), -1 error. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, int is_sealing) {
  struct tls_tickets *tickets = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
  struct ticket_key key;
  int place = copy_key(tickets, is_sealing ? NULL : name, &key);
  if (place < 0) return 0;
  /* TLS 1.3 clients use a ticket once (RFC 8446, C.4): each resumption gives the next one. */
  int result = !is_sealing && (place > 0 || SSL_version(ssl) >= TLS1_3_VERSION) ? 2 : 1;
  if (is_sealing) {
    memcpy(name, key.name, NAME_BYTES);
    if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) != 1) result = -1;
  }
  OSSL_PARAM parameters[] = {OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key.mac, sizeof key.mac),
                             OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0), OSSL_PARAM_construct_end()};
  if (result > 0 && (EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, key.cipher, iv, is_sealing) != 1 || EVP_MAC_CTX_set_params(mac, parameters) != 1)) {
    result = -1;
  }
  OPENSSL_cleanse(&key, sizeof key);
  return result;
}

void tls_tickets_use(struct tls_tickets *tickets, SSL_CTX *context) {
  SSL_CTX_set_app_data(context, tickets);
  SSL_CTX_set_tlsext_ticket_key_evp_cb(context, on_ticket);
}
