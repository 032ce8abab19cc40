/* Digests over OpenSSL. No state; any thread. */
#include "net/digest.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "base/check.h"

size_t digest(enum digest_kind kind, struct span data, unsigned char out[DIGEST_MAX]) {
  const EVP_MD *method = kind == DIGEST_MD5 ? EVP_md5() : kind == DIGEST_SHA1 ? EVP_sha1() : EVP_sha256();
  unsigned length = 0;
  unsigned char result[EVP_MAX_MD_SIZE];
  int ok = EVP_Digest(data.length ? data.data : "", data.length, result, &length, method, NULL);
  must(ok == 1 && length <= DIGEST_MAX);
  memcpy(out, result, length);
  return length;
}

size_t digest_hex(enum digest_kind kind, struct span data, char out[2 * DIGEST_MAX + 1]) {
  unsigned char bytes[DIGEST_MAX];
  size_t length = digest(kind, data, bytes);
  for (size_t i = 0; i < length; i++) {
    out[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
    out[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
  }
  out[2 * length] = 0;
  return 2 * length;
}

size_t digest_hmac_sha256(struct span key, struct span data, unsigned char out[DIGEST_MAX]) {
  unsigned length = 0;
  const unsigned char *ok =
      HMAC(EVP_sha256(), key.length ? key.data : "", (int)key.length, (const unsigned char *)(data.length ? data.data : ""), data.length, out, &length);
  must(ok && length == DIGEST_MAX);
  return length;
}

bool digest_equal(struct span a, struct span b) { return a.length == b.length && (a.length == 0 || CRYPTO_memcmp(a.data, b.data, a.length) == 0); }

void digest_random(void *out, size_t size) {
  int ok = RAND_bytes(out, (int)size);
  must(ok == 1);
}
