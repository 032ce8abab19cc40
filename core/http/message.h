/* Heads of requests and responses, as every protocol version yields them. Spans live in the message's arena. */
#ifndef HTTP_MESSAGE_H
#define HTTP_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "http/headers.h"

enum body_framing { BODY_NONE = 0, BODY_LENGTH = 1, BODY_CHUNKED = 2, BODY_UNTIL_CLOSE = 3 /* responses only */ };

struct message_body {
  enum body_framing framing;
  uint64_t length; /* BODY_LENGTH */
};

struct request_head {
  struct span method; /* "GET" */
  struct span target; /* as received */
  struct span host;   /* authority of an absolute target (the Host field is then set to it), else the Host field; may be empty for HTTP/1.0 */
  uint8_t version_major, version_minor;
  struct headers headers;
  struct message_body body;
  bool keep_alive;      /* the client would reuse the connection */
  bool says_keep_alive; /* send_request: write Connection: keep-alive, though it goes without saying */
  bool expects_continue;
  bool accepts_trailers; /* TE: trailers */
  struct span upgrade;   /* value of Upgrade when Connection names it; else empty */
  uint32_t size;         /* bytes of the head on the wire */
};

struct response_head {
  int status;
  struct span reason; /* may be empty: the standard phrase is used */
  uint8_t version_minor;
  struct headers headers;
  struct message_body body; /* as the fields say; whether one follows: status_has_body */
  bool keep_alive;          /* the upstream's connection can be reused after this message; means nothing to send_response */
  bool close;               /* send_response: say Connection: close, whatever the codec would do */
  struct span upgrade;      /* 101: value of Upgrade; send_response falls back on the request's */
  uint32_t size;
};

bool method_is_idempotent(struct span method); /* RFC 9110, 9.2.2 */
bool method_is_safe(struct span method);

/* Standard phrase ("Not Found"; nginx's texts where they differ: 503 "Service Temporarily Unavailable", ...); "" if unknown. */
const char *status_phrase(int status);
/* nginx-like small HTML page of a status, e.g. "<html>\r\n<head><title>404 Not Found</title></head>..." without naming a server version. */
struct span status_page(int status, struct arena *arena);
/* Whether a response with this status, to this method, has a body at all (RFC 9112, 6.3). */
bool status_has_body(int status, struct span request_method);

#endif
