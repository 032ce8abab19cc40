/* Ports: see ports.h. */
#include "app/ports.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "net/listener.h"

static void set_port(struct address *address, uint16_t port) {
  if (address->any.sa_family == AF_INET6) address->v6.sin6_port = htons(port);
  else address->v4.sin_port = htons(port);
}

/* Binds without listening; the port stays ours while the descriptor is open, and workers bind beside it with SO_REUSEPORT. */
static int reserve(const struct address *address, uint16_t *port) {
  int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
  if (fd < 0) return -errno;
  setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes);
  if (address->any.sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
  struct address bound = *address;
  socklen_t size = sizeof bound;
  if (bind(fd, &address->any, address_size(address)) || getsockname(fd, &bound.any, &size)) {
    int code = -errno;
    close(fd);
    return code;
  }
  *port = address_port(&bound);
  return fd;
}

static bool has_ipv6(void) {
  struct address any = {.v6 = {.sin6_family = AF_INET6}};
  uint16_t port;
  int fd = reserve(&any, &port);
  if (fd < 0) return false;
  close(fd);
  return true;
}

int ports_choose(struct port_set *set, const char *what, const struct option_list *binds, int64_t port, char *error, size_t error_size) {
  *set = (struct port_set){.reserved = -1};
  if (binds->count == 0) {
    set->addresses[set->count++] = (struct address){.v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)}};
    if (has_ipv6()) set->addresses[set->count++] = (struct address){.v6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)}};
  }
  for (unsigned i = 0; i < binds->count && set->count < PORTS_MAX; i++) {
    if (address_parse_ip(span_of(binds->items[i]), (uint16_t)port, &set->addresses[set->count++])) {
      snprintf(error, error_size, "--bind-address: \"%s\" is not an IP address", binds->items[i]);
      return -1;
    }
  }
  if (port == 0) {
    uint16_t chosen = 0;
    set->reserved = reserve(&set->addresses[0], &chosen);
    if (set->reserved < 0) {
      snprintf(error, error_size, "no port for %s: %s", what, error_text(set->reserved));
      return -1;
    }
    for (unsigned i = 0; i < set->count; i++) set_port(&set->addresses[i], chosen);
    return 0;
  }
  for (unsigned i = 0; i < set->count; i++) {
    int code = listener_probe(&set->addresses[i]);
    if (code) {
      char text[ADDRESS_TEXT];
      address_format(&set->addresses[i], text);
      snprintf(error, error_size, "cannot listen on %s for %s: %s", text, what, error_text(code));
      return -1;
    }
  }
  return 0;
}

void ports_release(struct port_set *set) {
  if (set->reserved >= 0) close(set->reserved);
  set->reserved = -1;
}
