/* Addresses and CIDR sets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/address.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/own_address.h"

static void check_format(const char *text, const char *ip, const char *full) {
  struct address a;
  char out[ADDRESS_TEXT];
  assert_int_equal(address_parse(span_of(text), &a), 0);
  assert_int_equal(address_format_ip(&a, out), strlen(ip));
  assert_string_equal(out, ip);
  assert_int_equal(address_format(&a, out), strlen(full));
  assert_string_equal(out, full);
}

static void parses_and_formats(void **state) {
  (void)state;
  check_format("1.2.3.4:80", "1.2.3.4", "1.2.3.4:80");
  check_format("[::1]:65535", "::1", "[::1]:65535");
  check_format(":8080", "0.0.0.0", "0.0.0.0:8080");
  check_format("255.255.255.255:0", "255.255.255.255", "255.255.255.255:0");
  check_format("[::ffff:10.1.2.3]:443", "10.1.2.3", "10.1.2.3:443");
  check_format("[2001:DB8::0:1]:1", "2001:db8::1", "[2001:db8::1]:1");
  struct address a;
  static const char *const bad[] = {
      "",        ":",       "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:+1", "1.2.3.4:000080", "::1:80",       "[1.2.3.4]:80",      "[::1]",
      "[::1:80", "::1]:80", "[]:80",   "[:80",     "01.2.3.4:80",   "1.2.3:80",   "1.2.3.4.5:80",   "localhost:80", "[fe80::1%eth0]:80", " 1.2.3.4:80"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    if (address_parse(span_of(bad[i]), &a) != ERROR_INVALID) fail_msg("accepted: %s", bad[i]);
  assert_int_equal(address_parse_ip(SPAN("1.2.3.4\0x"), 0, &a), ERROR_INVALID);
  assert_int_equal(address_parse_ip(SPAN("[::1]"), 0, &a), ERROR_INVALID);
  assert_int_equal(address_parse_ip(SPAN("11111111111111111111111111111111111111111111111111111"), 0, &a), ERROR_INVALID);
  assert_int_equal(address_parse_ip(SPAN("::1"), 7, &a), 0);
  assert_int_equal(address_port(&a), 7);
  assert_int_equal(address_size(&a), sizeof(struct sockaddr_in6));
  memset(&a, 0, sizeof a);
  char out[ADDRESS_TEXT];
  assert_int_equal(address_format(&a, out), 0);
  assert_string_equal(out, "");
}

static struct address ip(const char *text) {
  struct address a;
  assert_int_equal(address_parse_ip(span_of(text), 80, &a), 0);
  return a;
}

static void compares(void **state) {
  (void)state;
  struct address a = ip("10.0.0.1"), b = ip("::ffff:10.0.0.1"), c = ip("10.0.0.2"), d = ip("::1");
  assert_true(address_equal(&a, &b));
  assert_false(address_equal(&a, &c));
  assert_false(address_equal(&a, &d));
  assert_true(address_equal(&d, &d));
  b.v6.sin6_port = htons(81);
  assert_false(address_equal(&a, &b));
  struct address l = ip("127.9.9.9"), m = ip("::ffff:127.0.0.1");
  assert_true(address_is_loopback(&l) && address_is_loopback(&m) && address_is_loopback(&d));
  assert_false(address_is_loopback(&a));
}

static bool has(const struct ip_set *set, const char *text) {
  struct address a = ip(text);
  return ip_set_contains(set, &a);
}

static void holds_ranges(void **state) {
  (void)state;
  char error[128] = "";
  struct ip_set *set =
      ip_set_new(SPAN(" 10.0.0.0/8, 192.168.1.7,2001:db8::/32\t::ffff:172.16.0.0/108 ,10.1.0.0/16 9.255.255.255,fe80::1/128"), error, sizeof error);
  assert_non_null(set);
  assert_true(has(set, "10.0.0.0") && has(set, "10.255.255.255") && has(set, "9.255.255.255") && has(set, "192.168.1.7"));
  assert_false(has(set, "9.255.255.254") || has(set, "11.0.0.0") || has(set, "192.168.1.6") || has(set, "192.168.1.8"));
  assert_true(has(set, "172.16.0.0") && has(set, "172.31.255.255"));
  assert_false(has(set, "172.32.0.0") || has(set, "172.15.255.255"));
  assert_true(has(set, "::ffff:10.2.3.4"));
  assert_true(has(set, "2001:db8::") && has(set, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff") && has(set, "fe80::1"));
  assert_false(has(set, "2001:db9::") || has(set, "2001:db7:ffff::") || has(set, "fe80::2") || has(set, "::"));
  ip_set_free(set);
  set = ip_set_new(SPAN("0.0.0.0/0"), NULL, 0);
  assert_true(has(set, "0.0.0.0") && has(set, "255.255.255.255") && has(set, "::ffff:1.1.1.1"));
  assert_false(has(set, "::1"));
  ip_set_free(set);
  set = ip_set_new(SPAN("::/0 ffff::/16 ffff:ffff::1"), NULL, 0);
  assert_true(has(set, "::") && has(set, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
  assert_false(has(set, "1.2.3.4") || has(set, "::ffff:1.2.3.4"));
  ip_set_free(set);
  set = ip_set_new(SPAN(" , "), NULL, 0);
  assert_non_null(set);
  assert_false(has(set, "1.2.3.4") || has(set, "::1"));
  ip_set_free(set);
  ip_set_free(NULL);
}

static void names_the_bad_item(void **state) {
  (void)state;
  static const char *const bad[] = {"10.0.0.0/33", "10.0.0.0/", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8", "x", "/8", "10.0.0.0/0x8", "1.2.3.4:80"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char list[64], error[128] = "";
    snprintf(list, sizeof list, "10.0.0.1, %s", bad[i]);
    assert_null(ip_set_new(span_of(list), error, sizeof error));
    assert_int_equal(error[0], '"');
    assert_int_equal(strncmp(error + 1, bad[i], strlen(bad[i])), 0);
    assert_null(strstr(error, "10.0.0.1\""));
  }
  char error[128];
  assert_null(ip_set_new(SPAN("\x1b[31m\xff"), error, sizeof error));
  for (char *p = error; *p; p++) assert_in_range(*p, 0x20, 0x7e);
}

static void agrees_with_a_plain_scan(void **state) {
  (void)state;
  struct random random = {11};
  for (int round = 0; round < 50; round++) {
    char list[4096];
    size_t length = 0;
    uint32_t base[60], mask[60];
    for (int i = 0; i < 60; i++) { /* all within 10.0.0.0/20, so that many overlap and touch */
      unsigned bits = 24 + (unsigned)random_below(&random, 9);
      base[i] = 0x0a000000 | (uint32_t)random_below(&random, 4096);
      mask[i] = bits == 0 ? 0 : ~0u << (32 - bits);
      length += (size_t)snprintf(list + length, sizeof list - length, "%s%u.%u.%u.%u/%u ", i % 2 ? "" : "::ffff:", base[i] >> 24, base[i] >> 16 & 255,
                                 base[i] >> 8 & 255, base[i] & 255, i % 2 ? bits : bits + 96);
    }
    struct ip_set *set = ip_set_new((struct span){list, length}, NULL, 0);
    assert_non_null(set);
    for (uint32_t n = 0x0a000000 - 10; n < 0x0a000000 + 4200; n++) {
      bool expected = false;
      for (int i = 0; i < 60; i++) expected |= ((n ^ base[i]) & mask[i]) == 0;
      struct address a = {.v4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(n)}};
      if (ip_set_contains(set, &a) != expected) fail_msg("%x", n);
    }
    ip_set_free(set);
  }
}

static bool is_own(const char *text) {
  struct address address;
  assert_int_equal(address_parse_ip(span_of(text), 80, &address), 0);
  return own_address_is(&address);
}

static void knows_its_own(void **state) {
  (void)state;
  assert_true(is_own("127.0.0.1") && is_own("127.9.9.9") && is_own("0.0.0.0") && is_own("::ffff:127.0.0.1"));
  assert_false(is_own("192.0.2.77") || is_own("255.255.255.255") || is_own("2001:db8::1"));
  /* Whatever this host is called by others. */
  struct address outside, own = {0};
  socklen_t size = sizeof own;
  assert_int_equal(address_parse_ip(SPAN("192.0.2.77"), 9, &outside), 0);
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (connect(fd, &outside.any, address_size(&outside)) == 0 && getsockname(fd, &own.any, &size) == 0) assert_true(own_address_is(&own));
  close(fd);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(knows_its_own), cmocka_unit_test(parses_and_formats), cmocka_unit_test(compares),
                                     cmocka_unit_test(holds_ranges),  cmocka_unit_test(names_the_bad_item), cmocka_unit_test(agrees_with_a_plain_scan)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
