/* Ports: which addresses to listen on, and ports from the kernel. Main thread, at start. */
#ifndef APP_PORTS_H
#define APP_PORTS_H

#include "app/options.h"
#include "base/address.h"

#define PORTS_MAX 8

struct port_set {
  struct address addresses[PORTS_MAX];
  unsigned count;
  int reserved; /* a bound socket that holds a port from the kernel while workers bind theirs; -1 if none */
};

/* Fills the addresses of one listener: the given ones, or all of IPv4 and IPv6. Port 0: one from the kernel, the same for all workers. Checks that nobody else
 * listens there. 0, or -1 with one clear line. */
int ports_choose(struct port_set *set, const char *what, const struct option_list *binds, int64_t port, char *error, size_t error_size);
void ports_release(struct port_set *set);

#endif
