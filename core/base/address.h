/* Socket addresses and CIDR sets. Pure. */
#ifndef BASE_ADDRESS_H
#define BASE_ADDRESS_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"

struct address {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  };
};

#define ADDRESS_TEXT 64 /* enough for "[v6]:port" and NUL */

/* Parses an IPv4 or IPv6 literal without port or brackets. 0 or ERROR_INVALID. */
int address_parse_ip(struct span text, uint16_t port, struct address *address);
/* Parses "1.2.3.4:80", "[::1]:80", ":80" (any, v4). */
int address_parse(struct span text, struct address *address);
/* The address alone ("10.0.0.1", "::1"; IPv4-mapped v6 as v4), and "ip:port" with brackets for v6. Return the length. */
size_t address_format_ip(const struct address *address, char out[ADDRESS_TEXT]);
size_t address_format(const struct address *address, char out[ADDRESS_TEXT]);
uint16_t address_port(const struct address *address);
bool address_equal(const struct address *a, const struct address *b);
bool address_is_loopback(const struct address *address);
socklen_t address_size(const struct address *address);

struct ip_set; /* immutable; shared by threads */
/* From a comma or space list of IPs and CIDRs; NULL and a message naming the bad item in `error`. */
struct ip_set *ip_set_new(struct span list, char *error, size_t error_size);
void ip_set_free(struct ip_set *set);
/* IPv4-mapped IPv6 counts as IPv4. O(log n). */
bool ip_set_contains(const struct ip_set *set, const struct address *address);

#endif
