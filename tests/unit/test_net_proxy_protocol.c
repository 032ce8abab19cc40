/* PROXY protocol: good headers of both versions at every split, and what must be refused. Digests too small for a file of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/error.h"
#include "net/digest.h"
#include "net/proxy_protocol.h"

/* An exact copy per try, so that a read past the end is seen. */
static long parse(const char *data, size_t length, struct proxy_header *header) {
  char *copy = malloc(length ? length : 1);
  if (length) memcpy(copy, data, length);
  long result = proxy_protocol_parse(copy, length, header);
  free(copy);
  return result;
}

static void check_splits(const char *data, size_t length, struct proxy_header *header) {
  char with_rest[600];
  for (size_t i = 0; i < length; i++) assert_int_equal(parse(data, i, header), 0);
  assert_int_equal(parse(data, length, header), length);
  memcpy(with_rest, data, length);
  memcpy(with_rest + length, "GET / HTTP/1.1\r\n", 16);
  assert_int_equal(parse(with_rest, length + 16, header), length);
}

static void check_source(const struct proxy_header *header, const char *source, const char *destination) {
  char text[ADDRESS_TEXT];
  address_format(&header->source, text);
  assert_string_equal(text, source);
  address_format(&header->destination, text);
  assert_string_equal(text, destination);
}

static void test_v1(void **state) {
  (void)state;
  struct proxy_header header;
  struct span v4 = SPAN("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n");
  check_splits(v4.data, v4.length, &header);
  check_source(&header, "192.0.2.1:56324", "198.51.100.2:443");
  assert_false(header.local || header.tls);
  struct span v6 = SPAN("PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n");
  check_splits(v6.data, v6.length, &header);
  check_source(&header, "[2001:db8::1]:1", "[2001:db8::2]:65535");
  struct span unknown = SPAN("PROXY UNKNOWN whatever there is\r\n");
  check_splits(unknown.data, unknown.length, &header);
  assert_true(header.local);
  struct span bare = SPAN("PROXY UNKNOWN\r\n");
  check_splits(bare.data, bare.length, &header);
}

static void test_v1_refused(void **state) {
  (void)state;
  static const char *const bad[] = {"GET / HTTP/1.1\r\n",
                                    "PROXX",
                                    "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n\n",
                                    "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
                                    "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
                                    "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
                                    "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
                                    "PROXY TCP4 ::1 ::1 1 2\r\n",
                                    "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
                                    "PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
                                    "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
                                    "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
                                    "PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n",
                                    "PROXY \r\n",
                                    "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX",
                                    "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n"};
  struct proxy_header header;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(parse(bad[i], strlen(bad[i]), &header), ERROR_PROTOCOL);
  char endless[200];
  memset(endless, 'x', sizeof endless);
  memcpy(endless, "PROXY UNKNOWN ", 14);
  assert_int_equal(parse(endless, 100, &header), 0);
  assert_int_equal(parse(endless, 200, &header), ERROR_PROTOCOL);
}

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

static void test_v2(void **state) {
  (void)state;
  struct proxy_header header;
  struct span v4 = SPAN(SIGNATURE "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb");
  check_splits(v4.data, v4.length, &header);
  check_source(&header, "192.0.2.1:56324", "198.51.100.2:443");
  struct span v6 = SPAN(SIGNATURE
                        "\x21\x21\x00\x24"
                        "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x00\x01\xff\xff");
  check_splits(v6.data, v6.length, &header);
  check_source(&header, "[2001:db8::1]:1", "[2001:db8::2]:65535");
  struct span tls = SPAN(SIGNATURE "\x21\x11\x00\x17\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb\x20\x00\x05\x01\0\0\0\0\x04\x00\x00");
  check_splits(tls.data, tls.length, &header);
  assert_true(header.tls);
  struct span local = SPAN(SIGNATURE "\x20\x00\x00\x00");
  check_splits(local.data, local.length, &header);
  assert_true(header.local);
  struct span unspecified = SPAN(SIGNATURE "\x21\x00\x00\x02zz");
  check_splits(unspecified.data, unspecified.length, &header);
  assert_true(header.local);
}

static void test_v2_refused(void **state) {
  (void)state;
  struct proxy_header header;
  const struct span bad[] = {SPAN("\r\n\r\n\1"),
                             SPAN(SIGNATURE "\x11"),
                             SPAN(SIGNATURE "\x22"), /* signature, version, command */
                             SPAN(SIGNATURE "\x21\x12\x00\x00"),
                             SPAN(SIGNATURE "\x21\x31\x00\x00"),                                                         /* UDP, unix */
                             SPAN(SIGNATURE "\x21\x11\x00\x0b\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01"),             /* too short */
                             SPAN(SIGNATURE "\x21\x11\x00\x0e\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb\x04\x00"), /* cut TLV */
                             SPAN(SIGNATURE "\x21\x11\x00\x0f\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb\x04\x00\x01"),
                             SPAN(SIGNATURE "\x21\x11\x00\x10\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb\x20\x00\x01\x01"),
                             SPAN("\x16\x03\x01")};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(parse(bad[i].data, bad[i].length, &header), ERROR_PROTOCOL);
  struct span endless = SPAN(SIGNATURE "\x21\x11\xff\xff");
  assert_int_equal(parse(endless.data, endless.length, &header), ERROR_LIMIT);
}

static void test_digest(void **state) {
  (void)state;
  char hex[2 * DIGEST_MAX + 1];
  assert_int_equal(digest_hex(DIGEST_MD5, SPAN("abc"), hex), 32);
  assert_string_equal(hex, "900150983cd24fb0d6963f7d28e17f72");
  digest_hex(DIGEST_SHA1, SPAN("abc"), hex);
  assert_string_equal(hex, "a9993e364706816aba3e25717850c26c9cd0d89d");
  digest_hex(DIGEST_SHA256, (struct span){0}, hex);
  assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  unsigned char mac[DIGEST_MAX]; /* RFC 4231, 4.3 */
  digest_hmac_sha256(SPAN("Jefe"), SPAN("what do ya want for nothing?"), mac);
  assert_memory_equal(mac, "\x5b\xdc\xc1\x46\xbf\x60\x75\x4e\x6a\x04\x24\x26\x08\x95\x75\xc7", 16);
  assert_true(digest_equal(SPAN("ab"), SPAN("ab")));
  assert_false(digest_equal(SPAN("ab"), SPAN("ac")));
  assert_false(digest_equal(SPAN("ab"), SPAN("abc")));
  unsigned char a[16] = {0}, b[16] = {0};
  digest_random(a, sizeof a);
  digest_random(b, sizeof b);
  assert_memory_not_equal(a, b, 16);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_v1), cmocka_unit_test(test_v1_refused), cmocka_unit_test(test_v2), cmocka_unit_test(test_v2_refused),
                                     cmocka_unit_test(test_digest)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
