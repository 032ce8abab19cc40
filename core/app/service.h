/* Service: a small HTTP/1.1 service over the same listeners, links and codec as the proxy. The admin server and the sample application are made of it.
 * One loop, one thread. */
#ifndef APP_SERVICE_H
#define APP_SERVICE_H

#include "base/buffer.h"
#include "base/wheel.h"
#include "http/codec.h"
#include "http/uri.h"
#include "net/listener.h"

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
  uint64_t body_bytes; /* of the request, counted and dropped */
  struct timer timer;  /* the handler's */
  uint64_t left;       /* bytes still to send (service_send_bytes) */
  bool is_answered, is_tunnel, request_ended;
  void (*on_tunnel)(struct service_call *call, struct span data);
  struct buffer pending; /* tunnel: bytes of an incomplete frame */
};

struct service_options {
  struct loop *loop;
  /* Called when the request has been read whole. Answers now or later with one of the functions below. */
  void (*handle)(void *context, struct service_call *call);
  void *context;
};

struct service *service_new(const struct service_options *options);
/* 0 or a libuv code. */
int service_listen(struct service *service, const struct address *address);
void *service_context(const struct service *service); /* options.context */
uint16_t service_port(const struct service *service);
/* Stops accepting, says Connection: close; idle connections close now. */
void service_shutdown(struct service *service);
/* Closes everything, turning the loop until all is closed: its thread must not run it any more. */
void service_free(struct service *service);

void service_reply(struct service_call *call, int status, const char *content_type, struct span body);
/* With more fields: `extra` is a list of name, value, ..., NULL. */
void service_reply_with(struct service_call *call, int status, const char *content_type, struct span body, const char *const *extra);
/* `count` bytes of a fixed pattern, in constant memory. */
void service_send_bytes(struct service_call *call, uint64_t count);
/* Answers 101 with these fields and calls on_tunnel with what comes. */
void service_upgrade(struct service_call *call, const char *const *extra, void (*on_tunnel)(struct service_call *call, struct span data));
const struct address *service_peer(const struct service_call *call);

#endif
