/* Digests by name over OpenSSL: md5 sha1 sha256, HMAC-SHA256. Any thread. */
#ifndef NET_DIGEST_H
#define NET_DIGEST_H

#include <stdbool.h>
#include <stddef.h>

#include "base/span.h"

enum digest_kind { DIGEST_MD5 = 1, DIGEST_SHA1 = 2, DIGEST_SHA256 = 3 };
#define DIGEST_MAX 32
size_t digest(enum digest_kind kind, struct span data, unsigned char out[DIGEST_MAX]);
/* Lower-case hex with NUL; out of 2*DIGEST_MAX+1. Returns the length. */
size_t digest_hex(enum digest_kind kind, struct span data, char out[2 * DIGEST_MAX + 1]);
size_t digest_hmac_sha256(struct span key, struct span data, unsigned char out[DIGEST_MAX]);
bool digest_equal(struct span a, struct span b); /* constant time for equal lengths */
void digest_random(void *out, size_t size);      /* cryptographic */

#endif
