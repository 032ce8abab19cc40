/* What the client and upstream sides of all protocol versions have in common: the heads of their objects, and the calls that codec.c hands on.
 * The http room's own. */
#ifndef HTTP_CODEC_SIDE_H
#define HTTP_CODEC_SIDE_H

#include "http/codec.h"

struct codec_client_ops {
  void (*shutdown)(struct codec_client *client);
  void (*close)(struct codec_client *client);
  bool (*is_idle)(const struct codec_client *client);
};

struct codec_client {
  uint32_t magic;
  const struct codec_client_ops *ops;
  struct link *link; /* NULL once it is over */
  const struct codec_client_events *events;
  void *owner;
};

struct codec_upstream_ops {
  struct codec_stream *(*open)(struct codec_upstream *upstream, struct arena *arena);
  bool (*is_reusable)(const struct codec_upstream *upstream);
  void (*close)(struct codec_upstream *upstream);
};

struct codec_upstream {
  uint32_t magic;
  const struct codec_upstream_ops *ops;
  struct link *link; /* NULL once it is over */
  const struct codec_upstream_events *events;
  void *owner;
};

#endif
