/* Own addresses: see own_address.h. No list of interfaces is kept, which would have to follow them: the kernel's route to an address of its own has that
 * address as its source. Connecting a datagram socket looks the route up and sends nothing. Any thread. */
#include "base/own_address.h"

#include <sys/socket.h>
#include <unistd.h>

bool own_address_is(const struct address *address) {
  if (address_is_loopback(address)) return true;
  int fd = socket(address->any.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  struct address target = *address, source = {0};
  socklen_t size = sizeof source;
  if (target.any.sa_family == AF_INET6) target.v6.sin6_port = htons(9);
  else target.v4.sin_port = htons(9);
  bool is_known = connect(fd, &target.any, address_size(&target)) == 0 && getsockname(fd, &source.any, &size) == 0;
  close(fd);
  if (!is_known) return false;
  if (source.any.sa_family == AF_INET6) source.v6.sin6_port = target.v6.sin6_port;
  else source.v4.sin_port = target.v4.sin_port;
  return address_is_loopback(&source) || address_equal(&source, &target);
}
