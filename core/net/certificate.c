/* Certificates: PEM in, an immutable object out that all threads share. Made and freed by the publisher. */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "net/tls_internal.h"

#define SELF_SIGNED_DAYS 365

static int no_password(char *buffer, int size, int is_writing, void *context) {
  (void)buffer, (void)size, (void)is_writing, (void)context;
  return 0; /* an encrypted key is an error, not a question on the terminal */
}

static const char *read_chain(struct certificate *certificate, struct span pem) {
  BIO *bio = BIO_new_mem_buf(pem.data, (int)pem.length);
  if (!bio) abort();
  certificate->leaf = PEM_read_bio_X509_AUX(bio, NULL, no_password, NULL);
  certificate->chain = sk_X509_new_null();
  X509 *next;
  while (certificate->leaf && (next = PEM_read_bio_X509(bio, NULL, no_password, NULL))) sk_X509_push(certificate->chain, next);
  BIO_free(bio);
  if (!certificate->leaf) return "no certificate in PEM form";
  if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE) return "broken certificate in the chain";
  ERR_clear_error();
  return NULL;
}

struct certificate *certificate_new(struct span chain_pem, struct span key_pem, char *error, size_t error_size) {
  struct certificate *certificate = calloc(1, sizeof *certificate);
  if (!certificate) abort();
  ERR_clear_error();
  const char *problem = read_chain(certificate, chain_pem);
  if (!problem) {
    BIO *bio = BIO_new_mem_buf(key_pem.data, (int)key_pem.length);
    if (!bio) abort();
    certificate->key = PEM_read_bio_PrivateKey(bio, NULL, no_password, NULL);
    BIO_free(bio);
    if (!certificate->key) problem = "no private key in PEM form";
  }
  if (!problem && X509_check_private_key(certificate->leaf, certificate->key) != 1) problem = "the key does not belong to the certificate";
  if (!problem) {
    /* OpenSSL fills the certificate's cached fields on first use: here, while one thread has it. */
    X509_check_purpose(certificate->leaf, -1, 0);
    return certificate;
  }
  tls_explain(problem, error, error_size);
  certificate_free(certificate);
  return NULL;
}

void certificate_free(struct certificate *certificate) {
  if (!certificate) return;
  X509_free(certificate->leaf);
  EVP_PKEY_free(certificate->key);
  sk_X509_pop_free(certificate->chain, X509_free);
  free(certificate);
}

static bool add_extension(X509 *leaf, int nid, const char *value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, leaf, leaf, NULL, NULL, 0);
  X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
  bool ok = extension && X509_add_ext(leaf, extension, -1) == 1;
  X509_EXTENSION_free(extension);
  return ok;
}

static bool add_name(X509_NAME *name, const char *field, const char *value) {
  return X509_NAME_add_entry_by_txt(name, field, MBSTRING_ASC, (const unsigned char *)value, -1, -1, 0) == 1;
}

struct certificate *certificate_new_self_signed(void) {
  struct certificate *certificate = calloc(1, sizeof *certificate);
  if (!certificate) abort();
  X509 *leaf = certificate->leaf = X509_new();
  certificate->chain = sk_X509_new_null();
  certificate->key = EVP_EC_gen("P-256");
  uint64_t serial = 0;
  if (!leaf || !certificate->chain || !certificate->key || RAND_bytes((unsigned char *)&serial, sizeof serial) != 1) abort();
  X509_NAME *name = X509_get_subject_name(leaf);
  bool ok = X509_set_version(leaf, X509_VERSION_3) && ASN1_INTEGER_set_uint64(X509_get_serialNumber(leaf), serial >> 1 | 1) &&
            X509_gmtime_adj(X509_getm_notBefore(leaf), -3600) && X509_gmtime_adj(X509_getm_notAfter(leaf), 86400L * SELF_SIGNED_DAYS) &&
            X509_set_pubkey(leaf, certificate->key) && add_name(name, "O", "Acme Co") &&
            add_name(name, "CN", "Kubernetes Ingress Controller Fake Certificate") && X509_set_issuer_name(leaf, name) &&
            add_extension(leaf, NID_basic_constraints, "critical,CA:FALSE") && add_extension(leaf, NID_key_usage, "critical,digitalSignature") &&
            add_extension(leaf, NID_ext_key_usage, "serverAuth") && add_extension(leaf, NID_subject_alt_name, "DNS:ingress.local") &&
            X509_sign(leaf, certificate->key, EVP_sha256()) > 0;
  if (!ok) abort(); /* memory; nothing here depends on input */
  X509_check_purpose(leaf, -1, 0);
  return certificate;
}

bool certificate_covers(const struct certificate *certificate, struct span host) {
  if (span_ends_with(host, SPAN("."))) host.length--;
  if (span_is_empty(host)) return false; /* X509_check_host would take it for "any" */
  return X509_check_host(certificate->leaf, host.data, host.length, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS, NULL) == 1;
}

static void copy_field(const X509_NAME *name, int nid, char *out, size_t size) {
  int at = X509_NAME_get_index_by_NID(name, nid, -1);
  unsigned char *text = NULL;
  int length = at < 0 ? -1 : ASN1_STRING_to_UTF8(&text, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(name, at)));
  snprintf(out, size, "%.*s", length > 0 ? length : 0, length > 0 ? (const char *)text : "");
  OPENSSL_free(text);
}

static const char *key_algorithm(const X509 *leaf) {
  switch (EVP_PKEY_get_base_id(X509_get0_pubkey(leaf))) {
    case EVP_PKEY_RSA:
    case EVP_PKEY_RSA_PSS:
      return "RSA";
    case EVP_PKEY_EC:
      return "ECDSA";
    case EVP_PKEY_ED25519:
      return "Ed25519";
    case EVP_PKEY_DSA:
      return "DSA";
    default:
      return "unknown";
  }
}

void certificate_describe(const struct certificate *certificate, struct certificate_facts *facts) {
  const X509_NAME *issuer = X509_get_issuer_name(certificate->leaf);
  BIGNUM *serial = ASN1_INTEGER_to_BN(X509_get0_serialNumber(certificate->leaf), NULL);
  char *decimal = serial ? BN_bn2dec(serial) : NULL;
  struct tm when;
  *facts = (struct certificate_facts){.key_algorithm = key_algorithm(certificate->leaf)};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(certificate->leaf), &when) == 1) facts->not_after = (int64_t)timegm(&when);
  snprintf(facts->serial, sizeof facts->serial, "%s", decimal ? decimal : "");
  copy_field(issuer, NID_serialNumber, facts->issuer_serial, sizeof facts->issuer_serial);
  copy_field(issuer, NID_commonName, facts->issuer_common_name, sizeof facts->issuer_common_name);
  copy_field(issuer, NID_organizationName, facts->issuer_organization, sizeof facts->issuer_organization);
  OPENSSL_free(decimal);
  BN_free(serial);
}
