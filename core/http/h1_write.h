/* Writing HTTP/1: heads in one staged write, bodies in the framing that the head announced. The http room's own; the loop's thread. */
#ifndef HTTP_H1_WRITE_H
#define HTTP_H1_WRITE_H

#include "http/message.h"
#include "net/link.h"

/* How one message's body goes out. */
struct h1_sink {
  enum body_framing framing; /* of what is sent, not of what was received */
  uint64_t left;             /* BODY_LENGTH: still owed */
  bool is_ended, is_wrong;   /* wrong: not what the head promised; the connection cannot be used again */
  uint64_t bytes;            /* head and body */
};

void h1_write_request(struct h1_sink *sink, struct link *link, struct arena *arena, const struct request_head *head);
enum h1_connection { H1_CONNECTION_IMPLIED = 0, H1_CONNECTION_CLOSE = 1, H1_CONNECTION_KEEP_ALIVE = 2 };
/* `sink->framing` and `left` say what to announce; `declared_only`: the length is that of a body that is not sent (HEAD, 304). */
void h1_write_response(struct h1_sink *sink, struct link *link, struct arena *arena, const struct response_head *head, enum h1_connection connection,
                       struct span upgrade, bool declared_only);
void h1_write_informational(struct h1_sink *sink, struct link *link, struct arena *arena, const struct response_head *head);
void h1_write_body(struct h1_sink *sink, struct link *link, const struct span *parts, int count);
void h1_write_end(struct h1_sink *sink, struct link *link, struct arena *arena, const struct headers *trailers);

#endif
