/* Password: see password.h. crypt's forms are libcrypt's; Apache's own (apr1) and LDAP's are made here of OpenSSL's digests. What a hash may cost is bounded:
 * its owner writes that into it, and others pay. */
#include "script/password.h"

#include <crypt.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define BCRYPT_COST_MAX 14      /* a second or so */
#define SHA_ROUNDS_MAX 1000000u /* the same */
#define APR1_ROUNDS 1000
#define APR1_SALT_MAX 8u

enum form { FORM_NONE = 0, FORM_PLAIN, FORM_SHA, FORM_SSHA, FORM_APR1, FORM_MD5, FORM_BCRYPT, FORM_SHA_CRYPT, FORM_DES };

static const char alphabet[] = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static bool is_of_alphabet(struct span text) {
  for (size_t i = 0; i < text.length; i++)
    if (text.data[i] == '\0' || strchr(alphabet, text.data[i]) == NULL) return false;
  return true;
}

static enum form form_of(struct span hash) {
  static const struct {
    const char *mark;
    enum form form;
  } marks[] = {{"{PLAIN}", FORM_PLAIN}, {"{SHA}", FORM_SHA},   {"{SSHA}", FORM_SSHA}, {"$apr1$", FORM_APR1},   {"$1$", FORM_MD5},
               {"$2a$", FORM_BCRYPT},   {"$2b$", FORM_BCRYPT}, {"$2y$", FORM_BCRYPT}, {"$5$", FORM_SHA_CRYPT}, {"$6$", FORM_SHA_CRYPT}};
  if (hash.length > PASSWORD_HASH_BYTES) return FORM_NONE;
  for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
    if (span_starts_with(hash, span_of(marks[i].mark))) return marks[i].form;
  return hash.length == 13 && is_of_alphabet(hash) ? FORM_DES : FORM_NONE;
}

/* ---- LDAP's forms */

/* Bytes of base64 text in `out`, which has room for PASSWORD_HASH_BYTES; -1: it is none. */
static int decode(struct span text, unsigned char *out) {
  size_t padding = 0;
  if (text.length == 0 || text.length % 4 != 0) return -1;
  while (padding < 2 && text.data[text.length - 1 - padding] == '=') padding++;
  int length = EVP_DecodeBlock(out, (const unsigned char *)text.data, (int)text.length);
  return length < 0 ? -1 : length - (int)padding;
}

/* The digest and the salt behind it: 20 bytes, then `salt`. */
static bool read_sha(struct span hash, enum form form, unsigned char *bytes, int *length) {
  *length = decode(span_skip(hash, form == FORM_SHA ? 5 : 6), bytes);
  return form == FORM_SHA ? *length == 20 : *length >= 20;
}

static bool matches_sha(struct span hash, enum form form, struct span text) {
  unsigned char bytes[PASSWORD_HASH_BYTES], salted[PASSWORD_TEXT_BYTES + PASSWORD_HASH_BYTES], digest[EVP_MAX_MD_SIZE];
  int length;
  if (!read_sha(hash, form, bytes, &length)) return false;
  size_t salt = (size_t)length - 20;
  if (text.length) memcpy(salted, text.data, text.length);
  memcpy(salted + text.length, bytes + 20, salt);
  must(EVP_Digest(salted, text.length + salt, digest, NULL, EVP_sha1(), NULL) == 1);
  return CRYPTO_memcmp(bytes, digest, 20) == 0;
}

/* ---- Apache's form: MD5 over and over */

static void digest(EVP_MD_CTX *context, const struct span *parts, size_t count, unsigned char out[16]) {
  must(EVP_DigestInit_ex(context, EVP_md5(), NULL) == 1);
  for (size_t i = 0; i < count; i++) must(EVP_DigestUpdate(context, parts[i].data, parts[i].length) == 1);
  must(EVP_DigestFinal_ex(context, out, NULL) == 1);
}

static void apr1_digest(struct span salt, struct span text, unsigned char sum[16]) {
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  must(context != NULL);
  digest(context, (struct span[]){text, salt, text}, 3, sum);
  must(EVP_DigestInit_ex(context, EVP_md5(), NULL) == 1);
  struct span first[] = {text, SPAN("$apr1$"), salt};
  for (size_t i = 0; i < 3; i++) must(EVP_DigestUpdate(context, first[i].data, first[i].length) == 1);
  for (size_t left = text.length; left > 0; left -= left < 16 ? left : 16) must(EVP_DigestUpdate(context, sum, left < 16 ? left : 16) == 1);
  for (size_t bits = text.length; bits > 0; bits >>= 1) must(EVP_DigestUpdate(context, bits & 1 ? "" : text.data, 1) == 1);
  must(EVP_DigestFinal_ex(context, sum, NULL) == 1);
  for (int round = 0; round < APR1_ROUNDS; round++) {
    struct span last = span_make((const char *)sum, 16), parts[4];
    size_t count = 0;
    parts[count++] = round & 1 ? text : last;
    if (round % 3) parts[count++] = salt;
    if (round % 7) parts[count++] = text;
    parts[count++] = round & 1 ? last : text;
    digest(context, parts, count, sum);
  }
  EVP_MD_CTX_free(context);
}

static void put_letters(char **out, unsigned long value, int count) {
  for (; count > 0; count--, value >>= 6) *(*out)++ = alphabet[value & 63];
}

static struct span apr1_salt(struct span hash) {
  struct span rest = span_skip(hash, 6);
  size_t length = span_find(rest, '$');
  return span_make(rest.data, length < APR1_SALT_MAX ? length : APR1_SALT_MAX);
}

static bool matches_apr1(struct span hash, struct span text) {
  unsigned char sum[16];
  char made[23], *out = made;
  struct span rest = span_skip(hash, 6), written = span_skip(rest, span_find(rest, '$') + 1);
  if (written.length != 22) return false;
  apr1_digest(apr1_salt(hash), text, sum);
  for (int i = 0; i < 5; i++) put_letters(&out, (unsigned long)sum[i] << 16 | (unsigned long)sum[i + 6] << 8 | sum[i == 4 ? 5 : i + 12], 4);
  put_letters(&out, sum[11], 2);
  return CRYPTO_memcmp(made, written.data, 22) == 0;
}

/* ---- crypt's forms */

static bool matches_crypt(struct span hash, struct span text) {
  char setting[PASSWORD_HASH_BYTES + 1], phrase[PASSWORD_TEXT_BYTES + 1];
  struct crypt_data *data = calloc(1, sizeof *data);
  must(data != NULL);
  memcpy(setting, hash.data, hash.length);
  setting[hash.length] = '\0';
  if (text.length) memcpy(phrase, text.data, text.length);
  phrase[text.length] = '\0';
  const char *made = crypt_rn(phrase, setting, data, (int)sizeof *data);
  bool is_same = made && made[0] != '*' && strlen(made) == hash.length && CRYPTO_memcmp(made, setting, hash.length) == 0;
  OPENSSL_cleanse(phrase, sizeof phrase);
  OPENSSL_cleanse(data, sizeof *data);
  free(data);
  return is_same;
}

/* ---- all of them */

static const char *complaint_of_bcrypt(struct span hash) {
  if (hash.length != 60 || hash.data[6] != '$' || !is_of_alphabet(span_skip(hash, 7))) return "has a bcrypt hash that is malformed";
  unsigned cost = (unsigned)(hash.data[4] - '0') * 10 + (unsigned)(hash.data[5] - '0');
  if (hash.data[4] < '0' || hash.data[4] > '3' || hash.data[5] < '0' || hash.data[5] > '9' || cost < 4) return "has a bcrypt hash that is malformed";
  return cost > BCRYPT_COST_MAX ? "has a bcrypt hash of a cost above 14" : NULL;
}

/* "$5$rounds=N$salt$hash", or without the rounds. */
static const char *complaint_of_sha_crypt(struct span hash) {
  static const char malformed[] = "has a sha-crypt hash that is malformed";
  struct span rest = span_skip(hash, 3), rounds = SPAN("rounds=");
  unsigned long long count = 0;
  if (span_starts_with(rest, rounds)) {
    struct span number = span_skip(rest, rounds.length);
    size_t end = span_find(number, '$');
    if (end >= number.length || !span_to_u64(span_make(number.data, end), UINT64_MAX, &count)) return malformed;
    rest = span_skip(number, end + 1);
  }
  size_t salt = span_find(rest, '$'), letters = hash.data[1] == '5' ? 43 : 86;
  if (salt >= rest.length || rest.length - salt - 1 != letters || !is_of_alphabet(span_skip(rest, salt + 1))) return malformed;
  return count > SHA_ROUNDS_MAX ? "has a sha-crypt hash of more than 1000000 rounds" : NULL;
}

const char *password_complaint(struct span hash) {
  enum form form = form_of(hash);
  unsigned char bytes[PASSWORD_HASH_BYTES];
  int length;
  if (hash.length && memchr(hash.data, '\0', hash.length)) return "has a hash with a zero byte";
  switch (form) {
    case FORM_NONE:
      return "has a hash of an unknown form";
    case FORM_PLAIN:
    case FORM_DES:
      return NULL;
    case FORM_SHA:
    case FORM_SSHA:
      return read_sha(hash, form, bytes, &length) ? NULL : "has a SHA hash that is malformed";
    case FORM_APR1:
    case FORM_MD5: {
      struct span rest = span_skip(hash, form == FORM_APR1 ? 6 : 3);
      size_t salt = span_find(rest, '$');
      return salt < rest.length && rest.length - salt - 1 == 22 && is_of_alphabet(span_skip(rest, salt + 1)) ? NULL : "has an MD5 hash that is malformed";
    }
    case FORM_BCRYPT:
      return complaint_of_bcrypt(hash);
    case FORM_SHA_CRYPT:
      return complaint_of_sha_crypt(hash);
  }
  return NULL;
}

bool password_is_quick(struct span hash) {
  enum form form = form_of(hash);
  return form == FORM_NONE || form == FORM_PLAIN || form == FORM_SHA || form == FORM_SSHA;
}

bool password_matches(struct span hash, struct span text) {
  if (password_complaint(hash) || text.length > PASSWORD_TEXT_BYTES) return false;
  switch (form_of(hash)) {
    case FORM_PLAIN:
      hash = span_skip(hash, 7);
      return hash.length == text.length && CRYPTO_memcmp(hash.data, text.data, text.length) == 0;
    case FORM_SHA:
    case FORM_SSHA:
      return matches_sha(hash, form_of(hash), text);
    case FORM_APR1:
      return matches_apr1(hash, text);
    default:
      return !(text.length && memchr(text.data, '\0', text.length)) && matches_crypt(hash, text);
  }
}
