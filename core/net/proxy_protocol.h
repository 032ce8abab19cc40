/* PROXY protocol v1 and v2, receiving side (haproxy.org, proxy-protocol.txt). Pure. */
#ifndef NET_PROXY_PROTOCOL_H
#define NET_PROXY_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/address.h"

struct proxy_header {
  bool local; /* LOCAL or UNKNOWN: keep the connection's own addresses */
  struct address source, destination;
  bool tls; /* v2 PP2_TYPE_SSL with PP2_CLIENT_SSL */
};

/* Returns the header's length when complete (header filled), 0 when more bytes are needed, ERROR_PROTOCOL when it is none, ERROR_LIMIT when it is too long. */
long proxy_protocol_parse(const char *data, size_t length, struct proxy_header *header);

#endif
