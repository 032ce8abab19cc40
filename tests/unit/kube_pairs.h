/* Certificates with their keys, made when a test needs them. After cmocka.h. */
#ifndef TESTS_KUBE_PAIRS_H
#define TESTS_KUBE_PAIRS_H

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

enum { DAY = 86400 };

struct pair {
  X509 *certificate;
  EVP_PKEY *key;
  char *pem, *key_pem;
};

static char *pem_of(int (*write)(BIO *out, const void *what), const void *what) {
  BIO *out = BIO_new(BIO_s_mem());
  char *data;
  assert_true(write(out, what));
  long length = BIO_get_mem_data(out, &data);
  char *text = strndup(data, (size_t)length);
  BIO_free(out);
  return text;
}
static int write_certificate(BIO *out, const void *what) { return PEM_write_bio_X509(out, what); }
static int write_key(BIO *out, const void *what) { return PEM_write_bio_PrivateKey(out, what, NULL, NULL, 0, NULL, NULL); }

/* `issuer` NULL: an authority signed by itself. `names`: as in subjectAltName. Valid from and to: days from now. */
static struct pair pair_new(const char *subject, const char *names, const struct pair *issuer, int from, int to) {
  struct pair pair = {.certificate = X509_new(), .key = EVP_EC_gen("P-256")};
  X509 *certificate = pair.certificate;
  X509V3_CTX context;
  static long serial = 100;
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), (long)from * DAY);
  X509_gmtime_adj(X509_getm_notAfter(certificate), (long)to * DAY);
  X509_set_pubkey(certificate, pair.key);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC, (const unsigned char *)subject, -1, -1, 0);
  X509_set_issuer_name(certificate, X509_get_subject_name(issuer ? issuer->certificate : certificate));
  X509V3_set_ctx(&context, issuer ? issuer->certificate : certificate, certificate, NULL, NULL, 0);
  X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, issuer ? NID_subject_alt_name : NID_basic_constraints, issuer ? names : "critical,CA:TRUE");
  assert_non_null(extension);
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
  assert_true(X509_sign(certificate, issuer ? issuer->key : pair.key, EVP_sha256()));
  pair.pem = pem_of(write_certificate, certificate);
  pair.key_pem = pem_of(write_key, pair.key);
  return pair;
}

static void pair_free(struct pair *pair) {
  X509_free(pair->certificate);
  EVP_PKEY_free(pair->key);
  free(pair->pem);
  free(pair->key_pem);
}

/* A server's context with it. */
static SSL_CTX *pair_server(const struct pair *pair) {
  SSL_CTX *tls = SSL_CTX_new(TLS_server_method());
  assert_true(SSL_CTX_use_certificate(tls, pair->certificate) == 1 && SSL_CTX_use_PrivateKey(tls, pair->key) == 1);
  return tls;
}

#endif
