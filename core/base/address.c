/* Socket addresses and CIDR sets. Pure; a set is immutable and may be read by any thread until its owner frees it.
 * A set is two sorted arrays of disjoint ranges, one for IPv4 and one for IPv6; IPv4-mapped addresses count as IPv4 both in the
 * list and in the question. ("::/0" is all of IPv6, and not IPv4.) */
#include "base/address.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/error.h"

static const unsigned char mapped_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

int address_parse_ip(struct span text, uint16_t port, struct address *address) {
  char copy[INET6_ADDRSTRLEN];
  if (text.length == 0 || text.length >= sizeof copy || memchr(text.data, 0, text.length)) return ERROR_INVALID;
  memcpy(copy, text.data, text.length);
  copy[text.length] = 0;
  struct address found;
  memset(&found, 0, sizeof found);
  if (inet_pton(AF_INET, copy, &found.v4.sin_addr) == 1) {
    found.v4.sin_family = AF_INET;
    found.v4.sin_port = htons(port);
  } else if (inet_pton(AF_INET6, copy, &found.v6.sin6_addr) == 1) {
    found.v6.sin6_family = AF_INET6;
    found.v6.sin6_port = htons(port);
  } else {
    return ERROR_INVALID;
  }
  *address = found;
  return 0;
}

int address_parse(struct span text, struct address *address) {
  size_t colon = text.length;
  while (colon > 0 && text.data[colon - 1] != ':') colon--;
  if (colon == 0) return ERROR_INVALID;
  unsigned long long port;
  if (!span_to_u64(span_skip(text, colon), 65535, &port) || text.length - colon > 5) return ERROR_INVALID;
  struct span host = {text.data, colon - 1};
  if (host.length == 0) host = SPAN("0.0.0.0");
  bool has_brackets = host.data[0] == '[';
  if (has_brackets) {
    if (host.length < 2 || host.data[host.length - 1] != ']') return ERROR_INVALID;
    host = (struct span){host.data + 1, host.length - 2};
  }
  struct address found;
  int code = address_parse_ip(host, (uint16_t)port, &found);
  if (code != 0) return code;
  if (has_brackets != (found.any.sa_family == AF_INET6)) return ERROR_INVALID;
  *address = found;
  return 0;
}

/* The four bytes of an IPv4 or IPv4-mapped address, or NULL. */
static const unsigned char *ipv4_bytes(const struct address *address) {
  if (address->any.sa_family == AF_INET) return (const unsigned char *)&address->v4.sin_addr;
  if (address->any.sa_family != AF_INET6) return NULL;
  const unsigned char *bytes = address->v6.sin6_addr.s6_addr;
  return memcmp(bytes, mapped_prefix, sizeof mapped_prefix) == 0 ? bytes + 12 : NULL;
}

static char *put_decimal(char *out, unsigned value) {
  char digits[8];
  int count = 0;
  do digits[count++] = (char)('0' + value % 10);
  while ((value /= 10) != 0);
  while (count > 0) *out++ = digits[--count];
  return out;
}

size_t address_format_ip(const struct address *address, char out[ADDRESS_TEXT]) {
  out[0] = 0;
  const unsigned char *v4 = ipv4_bytes(address);
  if (v4) {
    char *p = out;
    for (int i = 0; i < 4; i++) {
      if (i > 0) *p++ = '.';
      p = put_decimal(p, v4[i]);
    }
    *p = 0;
    return (size_t)(p - out);
  }
  if (address->any.sa_family != AF_INET6) return 0;
  if (!inet_ntop(AF_INET6, &address->v6.sin6_addr, out, ADDRESS_TEXT)) return 0;
  return strlen(out);
}

size_t address_format(const struct address *address, char out[ADDRESS_TEXT]) {
  size_t length;
  if (!ipv4_bytes(address) && address->any.sa_family == AF_INET6) {
    char ip[ADDRESS_TEXT];
    length = address_format_ip(address, ip);
    out[0] = '[';
    memcpy(out + 1, ip, length);
    out[length + 1] = ']';
    length += 2;
  } else {
    length = address_format_ip(address, out);
    if (length == 0) return 0;
  }
  out[length++] = ':';
  char *end = put_decimal(out + length, address_port(address));
  *end = 0;
  return (size_t)(end - out);
}

uint16_t address_port(const struct address *address) {
  if (address->any.sa_family == AF_INET) return ntohs(address->v4.sin_port);
  if (address->any.sa_family == AF_INET6) return ntohs(address->v6.sin6_port);
  return 0;
}

bool address_equal(const struct address *a, const struct address *b) {
  if (address_port(a) != address_port(b)) return false;
  const unsigned char *x = ipv4_bytes(a), *y = ipv4_bytes(b);
  if (x || y) return x && y && memcmp(x, y, 4) == 0;
  if (a->any.sa_family != b->any.sa_family) return false;
  if (a->any.sa_family != AF_INET6) return true;
  return memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16) == 0 && a->v6.sin6_scope_id == b->v6.sin6_scope_id;
}

bool address_is_loopback(const struct address *address) {
  const unsigned char *v4 = ipv4_bytes(address);
  if (v4) return v4[0] == 127;
  return address->any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&address->v6.sin6_addr);
}

socklen_t address_size(const struct address *address) {
  return address->any.sa_family == AF_INET6 ? (socklen_t)sizeof address->v6 : (socklen_t)sizeof address->v4;
}

/* An address as a number: high half first. IPv4 uses `low` alone. */
struct number {
  uint64_t high, low;
};
struct range {
  struct number first, last;
};

struct ip_set {
  size_t v4_count, v6_count;
  struct range *v4, *v6; /* both lie in `ranges` */
  struct range ranges[];
};

static int number_compare(struct number a, struct number b) {
  if (a.high != b.high) return a.high < b.high ? -1 : 1;
  return (a.low > b.low) - (a.low < b.low);
}

static int range_compare(const void *a, const void *b) { return number_compare(((const struct range *)a)->first, ((const struct range *)b)->first); }

static struct number number_of(const unsigned char *bytes, size_t count) {
  struct number n = {0, 0};
  for (size_t i = 0; i < count; i++) {
    n.high = n.high << 8 | n.low >> 56;
    n.low = n.low << 8 | bytes[i];
  }
  return n;
}

/* The range of the addresses that share the first bits with `n`; `free_bits` are free. */
static struct range range_of(struct number n, unsigned free_bits) {
  struct number mask = {0, 0};
  if (free_bits >= 128) {
    mask.high = mask.low = UINT64_MAX;
  } else if (free_bits >= 64) {
    mask.high = ((uint64_t)1 << (free_bits - 64)) - 1;
    mask.low = UINT64_MAX;
  } else {
    mask.low = ((uint64_t)1 << free_bits) - 1;
  }
  return (struct range){{n.high & ~mask.high, n.low & ~mask.low}, {n.high | mask.high, n.low | mask.low}};
}

static bool is_separator(char c) { return c == ',' || c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static bool next_word(struct span *rest, struct span *word) {
  while (rest->length > 0 && is_separator(rest->data[0])) *rest = span_skip(*rest, 1);
  size_t length = 0;
  while (length < rest->length && !is_separator(rest->data[length])) length++;
  *word = (struct span){rest->data, length};
  *rest = span_skip(*rest, length);
  return length > 0;
}

static bool parse_range(struct span word, struct range *range, bool *is_v4) {
  size_t slash = span_find(word, '/');
  struct address address;
  if (address_parse_ip((struct span){word.data, slash}, 0, &address) != 0) return false;
  unsigned long long bits = address.any.sa_family == AF_INET ? 32 : 128;
  if (slash < word.length && !span_to_u64(span_skip(word, slash + 1), bits, &bits)) return false;
  if (address.any.sa_family == AF_INET) {
    *is_v4 = true;
    *range = range_of(number_of((const unsigned char *)&address.v4.sin_addr, 4), 32 - (unsigned)bits);
  } else if (bits >= 96 && ipv4_bytes(&address)) {
    *is_v4 = true;
    *range = range_of(number_of(ipv4_bytes(&address), 4), 128 - (unsigned)bits);
  } else {
    *is_v4 = false;
    *range = range_of(number_of(address.v6.sin6_addr.s6_addr, 16), 128 - (unsigned)bits);
  }
  return true;
}

static void say_bad(struct span word, char *error, size_t error_size) {
  if (!error || error_size == 0) return;
  char shown[65];
  size_t length = word.length < sizeof shown - 1 ? word.length : sizeof shown - 1;
  for (size_t i = 0; i < length; i++) shown[i] = word.data[i] >= 0x20 && word.data[i] < 0x7f ? word.data[i] : '?';
  shown[length] = 0;
  snprintf(error, error_size, "\"%s\" is not an IP address or CIDR", shown);
}

/* Sorts and joins what overlaps or touches; returns how many are left. */
static size_t merge(struct range *ranges, size_t count) {
  if (count == 0) return 0;
  qsort(ranges, count, sizeof *ranges, range_compare);
  size_t kept = 0;
  for (size_t i = 1; i < count; i++) {
    struct number after = ranges[kept].last; /* one past the end; the highest address of all has none */
    bool is_top = after.high == UINT64_MAX && after.low == UINT64_MAX;
    if (++after.low == 0) after.high++;
    if (is_top || number_compare(ranges[i].first, after) <= 0) {
      if (number_compare(ranges[i].last, ranges[kept].last) > 0) ranges[kept].last = ranges[i].last;
    } else {
      ranges[++kept] = ranges[i];
    }
  }
  return kept + 1;
}

struct ip_set *ip_set_new(struct span list, char *error, size_t error_size) {
  size_t words = 0;
  struct span rest = list, word;
  while (next_word(&rest, &word)) words++;
  struct ip_set *set = check_memory(calloc(1, sizeof *set + words * sizeof(struct range)));
  set->v4 = set->ranges;
  struct range *end = set->ranges + words, *v6 = end; /* IPv4 from the front, IPv6 from the back */
  for (rest = list; next_word(&rest, &word);) {
    struct range range;
    bool is_v4;
    if (!parse_range(word, &range, &is_v4)) {
      say_bad(word, error, error_size);
      free(set);
      return NULL;
    }
    if (is_v4) {
      set->v4[set->v4_count++] = range;
    } else {
      *--v6 = range;
    }
  }
  set->v6 = v6;
  set->v6_count = merge(v6, (size_t)(end - v6));
  set->v4_count = merge(set->v4, set->v4_count);
  return set;
}

void ip_set_free(struct ip_set *set) { free(set); }

static bool ranges_contain(const struct range *ranges, size_t count, struct number n) {
  size_t low = 0, high = count; /* the first range that begins after n */
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (number_compare(ranges[middle].first, n) <= 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low > 0 && number_compare(n, ranges[low - 1].last) <= 0;
}

bool ip_set_contains(const struct ip_set *set, const struct address *address) {
  const unsigned char *v4 = ipv4_bytes(address);
  if (v4) return ranges_contain(set->v4, set->v4_count, number_of(v4, 4));
  if (address->any.sa_family != AF_INET6) return false;
  return ranges_contain(set->v6, set->v6_count, number_of(address->v6.sin6_addr.s6_addr, 16));
}
