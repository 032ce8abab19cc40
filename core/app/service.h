/* Service: a small HTTP/1.1 service over the same listeners, links and codec as the proxy. The admin server, the admission webhook and the
 * sample application are made of it. One loop, one thread. */
#ifndef APP_SERVICE_H
#define APP_SERVICE_H

#include "base/buffer.h"
#include "base/counters.h"
#include "base/wheel.h"
#include "http/codec.h"
#include "http/uri.h"
#include "net/listener.h"
#include "net/tls.h"

struct service;

/* One request. Freed by the service when it is answered or the client left. */
struct service_call {
  uint32_t magic;
  struct service *service;
  struct service_client *client;
  struct codec_stream *stream;
  struct request_head *request;
  struct uri uri;
  struct arena arena;
  uint64_t body_bytes;                 /* of the request */
  struct buffer body;                  /* what came of it, where options.body_limit is set */
  struct timer timer;                  /* the handler's; it may be set from `begin` on */
  void *data;                          /* the handler's */
  uint64_t left;                       /* bytes still to send (service_send_bytes) */
  const struct service_source *source; /* what is still to come (service_stream), and its own */
  void *source_context;
  struct deferred again;
  bool is_answered, is_tunnel, request_ended;
  void (*on_tunnel)(struct service_call *call, struct span data);
  struct buffer pending; /* tunnel: bytes of an incomplete frame */
};

struct service_options {
  struct loop *loop;
  /* Called when the request has been read whole. Answers now or later with one of the functions below. */
  void (*handle)(void *context, struct service_call *call);
  void *context;
  /* What follows may be absent. */
  /* The head is there, the body is not: it may answer, or pause the stream. */
  void (*begin)(void *context, struct service_call *call);
  /* The call is about to be freed: answered, or its client left. */
  void (*gone)(void *context, struct service_call *call);
  /* Connections begin with TLS; NULL from it: the connection is closed. */
  struct tls_server *(*tls_server)(void *context);
  size_t body_limit;                                     /* bodies are kept up to here, longer ones get 413; 0: they are counted and dropped */
  unsigned client_limit;                                 /* at so many connections accepting pauses; 0: no limit */
  struct counters *counters;                             /* with a limit: where it is counted ... */
  enum counter body_limit_counter, client_limit_counter; /* ... and as what */
};

struct service *service_new(const struct service_options *options);
/* 0 or a libuv code. Up to SERVICE_LISTENERS times. */
#define SERVICE_LISTENERS 2
int service_listen(struct service *service, const struct address *address);
void *service_context(const struct service *service); /* options.context */
uint16_t service_port(const struct service *service); /* of the first listener */
/* Stops accepting, says Connection: close; idle connections close now. */
void service_shutdown(struct service *service);
/* Closes everything, turning the loop until all is closed: its thread must not run it any more. */
void service_free(struct service *service);

void service_reply(struct service_call *call, int status, const char *content_type, struct span body);
/* With more fields: `extra` is a list of name, value, ..., NULL. */
void service_reply_with(struct service_call *call, int status, const char *content_type, struct span body, const char *const *extra);
/* `count` bytes of a fixed pattern, in constant memory. */
void service_send_bytes(struct service_call *call, uint64_t count);
/* A body that is made as it is sent, in constant memory. */
struct service_source {
  bool (*more)(void *context, struct buffer *out); /* the next part; false: that was the last */
  void (*end)(void *context);                      /* all of it was made, or the client is gone */
};
void service_stream(struct service_call *call, const char *content_type, const struct service_source *source, void *context);
/* Answers 101 with these fields and calls on_tunnel with what comes. */
void service_upgrade(struct service_call *call, const char *const *extra, void (*on_tunnel)(struct service_call *call, struct span data));
const struct address *service_peer(const struct service_call *call);

#endif
