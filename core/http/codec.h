/* Codec: one small interface between the exchange and a protocol version, with a client side (requests come in, responses go out) and an
 * upstream side (requests go out, responses come in). N client protocols and M upstream protocols are N+M files.
 *
 * A *stream* carries one request and its response on one connection. HTTP/1 has one stream at a time, HTTP/2 many. The codec owns the link;
 * the exchange talks only to streams. All calls on the loop's thread. A stream calls its owner's events; between codec_finish or codec_abort
 * and the end of time it calls nothing (also when they are called inside one of its events), and the owner forgets the pointer.
 *
 * Framing is the codec's: it drops what arrives as hop-by-hop fields and writes its own Connection, Keep-Alive, Transfer-Encoding,
 * Content-Length, TE and Upgrade from the head's `body`, `keep_alive`, `upgrade`. */
#ifndef HTTP_CODEC_H
#define HTTP_CODEC_H

#include "http/message.h"
#include "net/link.h"

struct codec_stream;

/* Why the source of a body pauses: bits. */
enum pause_reason {
  PAUSE_SINK_FULL = 1,
  PAUSE_NOT_READY = 2 /* no upstream yet */,
  PAUSE_TURN = 4 /* others are to have the worker */,
  PAUSE_RATE = 8,
  PAUSE_BUFFER = 16
};

struct codec_events {
  /* Upstream side: the final head is in stream->response. (Client side: the codec's `on_request`.) */
  void (*on_head)(void *owner);
  /* Upstream side: a 1xx other than 101; its head is in `head`, valid during the call. */
  void (*on_informational)(void *owner, const struct response_head *head);
  /* A part of the body, valid during the call; the owner takes it all. Not called while paused (but for what was already decoded of one read). */
  void (*on_body)(void *owner, struct span data);
  /* The message is complete; trailers, if any, are in stream->trailers. Comes for every message, also for one without a body (right after
   * on_request or on_head), and also while paused. Not for a 101. */
  void (*on_end)(void *owner);
  /* The stream's sink was full and now has room. */
  void (*on_drain)(void *owner);
  /* Tunnel mode: the peer ended its direction (half close); bytes in tunnel mode come by on_body. */
  void (*on_half_close)(void *owner);
  /* The peer is gone or broke the protocol before the message was complete, or while we were writing: ERROR_*. No event follows; owner still calls codec_abort.
   * Client side, ERROR_PROTOCOL or ERROR_TIMEOUT: the link is still there, so an owner that has not answered may answer (400, 408) and finish.
   * For a bad request head the codec answers by itself through on_bad_request. */
  void (*on_abort)(void *owner, int error);
};

struct codec_ops {
  const char *name; /* "HTTP/1.1" */
  void (*send_request)(struct codec_stream *stream, const struct request_head *head);
  void (*send_response)(struct codec_stream *stream, const struct response_head *head);
  void (*send_informational)(struct codec_stream *stream, const struct response_head *head); /* 1xx; 100 included */
  void (*send_body)(struct codec_stream *stream, const struct span *parts, int count);
  void (*send_end)(struct codec_stream *stream, const struct headers *trailers); /* trailers may be NULL; needless where there is no body */
  bool (*is_full)(const struct codec_stream *stream);
  void (*pause)(struct codec_stream *stream, unsigned reason);
  void (*resume)(struct codec_stream *stream, unsigned reason); /* reading goes on when no reason is left; never from inside */
  void (*tunnel)(struct codec_stream *stream);                  /* after a 101 (or 2xx to CONNECT): bytes both ways, no framing */
  void (*half_close)(struct codec_stream *stream);              /* tunnel: end our direction */
  /* Client side: read and drop the rest of the request, up to limit; on_end comes at its end, or at the limit, or soon when reading it is no use; then the
   * connection closes after the response. */
  void (*discard_body)(struct codec_stream *stream, uint64_t limit);
  void (*finish)(struct codec_stream *stream);               /* both directions done; the connection may be used again */
  void (*abort)(struct codec_stream *stream);                /* give up: H1 closes the connection, H2 resets the stream */
  uint64_t (*bytes_sent)(const struct codec_stream *stream); /* head and body, on the wire, of this stream */
  uint64_t (*bytes_received)(const struct codec_stream *stream);
};

struct codec_stream {
  uint32_t magic;
  const struct codec_ops *ops;
  const struct codec_events *events;
  void *owner;
  struct arena *arena;            /* where heads go: the exchange's */
  struct request_head *request;   /* client side: filled before on_request; upstream side: kept from send_request */
  struct response_head *response; /* upstream side: filled before on_head */
  struct headers *trailers;       /* filled before on_end; NULL if none */
  unsigned paused;                /* pause_reason bits */
  size_t head_limit;              /* upstream side, the owner's to set before send_request: bytes of the answer's head */
  uint64_t answer_bytes;          /* upstream side: bytes of the answer that have come, 1xx included */
  bool is_request_on_wire;        /* upstream side, set before on_abort: whether any byte of the request was handed to the kernel */
};

/* ---- client side: one object per connection -------------------------------------------------------------------------------- */

struct codec_client;

struct codec_client_limits {
  uint32_t head_bytes, request_line_bytes, header_fields;
  unsigned header_timeout_ms, body_timeout_ms, idle_timeout_ms, send_timeout_ms;
  unsigned max_requests;  /* keep-alive-requests */
  bool allow_underscores; /* else fields with "_" in their name are dropped */
  bool ignore_invalid;    /* drop fields with invalid names instead of 400 */
};

struct codec_client_events {
  /* A request head is complete. The callee makes an exchange: gives an arena (called first, before the head is stored) ... */
  struct arena *(*on_new)(void *owner, struct codec_stream *stream);
  /* ... and sets stream->events and ->owner here, then begins. stream->request is filled. */
  void (*on_request)(void *owner, struct codec_stream *stream);
  /* A head that cannot be taken: the status to answer (400, 408, 413, 414, 431, 505) and why; stream->request holds what was readable of it
   * (method and target may be empty). The callee answers on the stream as usual; the codec closes after it. */
  void (*on_bad_request)(void *owner, struct codec_stream *stream, int status, const char *why);
  /* The connection is over; the codec frees itself after this call. No stream is open then. Always from a deferred call, never from inside a call of the
   * owner's. */
  void (*on_close)(void *owner);
};

/* Takes the link (started, TLS already up) and begins to read requests. `limits` is copied. */
struct codec_client *h1_client_new(struct link *link, const struct codec_client_limits *limits, const struct codec_client_events *events, void *owner);
struct link *codec_client_link(struct codec_client *client);
/* Graceful end: an idle connection closes now (after a request already being read, if any), else after the response, which says Connection: close. */
void codec_client_shutdown(struct codec_client *client);
/* Closes now; open streams get on_abort, then on_close comes. */
void codec_client_close(struct codec_client *client);
bool codec_client_is_idle(const struct codec_client *client);

/* ---- upstream side --------------------------------------------------------------------------------------------------------- */

struct codec_upstream;

struct codec_upstream_events {
  /* An idle connection ended or got unexpected bytes: it is closed and freed after this call; take it out of the pool. */
  void (*on_idle_close)(void *owner, struct codec_upstream *upstream);
};

/* Takes a link that is open. */
struct codec_upstream *h1_upstream_new(struct link *link, const struct codec_upstream_events *events, void *owner);
/* Opens a stream on an idle connection; the caller sets events and owner, then send_request. */
struct codec_stream *codec_upstream_open(struct codec_upstream *upstream, struct arena *arena);
/* Just before or after finish: whether the connection may carry another request. If not, it closes at finish and frees itself soon after. */
bool codec_upstream_is_reusable(const struct codec_upstream *upstream);
struct link *codec_upstream_link(struct codec_upstream *upstream);
void codec_upstream_close(struct codec_upstream *upstream); /* idle ones only */

#endif
