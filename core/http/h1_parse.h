/* HTTP/1 messages from bytes: gathers a head, checks it raw, parses it with llhttp, then decodes its body, piece by piece. Used by both
 * sides of the HTTP/1 codec; knows no link and no stream. Holds memory only while a head, chunk line or trailer section is incomplete. */
#ifndef HTTP_H1_PARSE_H
#define HTTP_H1_PARSE_H

#include <llhttp.h>

#include "base/buffer.h"
#include "http/head_check.h"
#include "http/message.h"

enum h1_phase {
  H1_HEAD = 0,
  H1_LENGTH = 1,
  H1_CHUNK_LINE = 2,
  H1_CHUNK_DATA = 3,
  H1_CHUNK_CR = 4,
  H1_CHUNK_LF = 5,
  H1_TRAILERS = 6,
  H1_UNTIL_CLOSE = 7,
  H1_DONE = 8,
  H1_BROKEN = 9
};

struct h1_rules {
  size_t head_bytes, line_bytes;
  unsigned fields;
  bool allow_underscores, ignore_invalid;
};

struct h1_parse {
  llhttp_t http;
  enum head_kind kind;
  enum h1_phase phase;
  uint64_t left; /* of the body, or of the chunk */
  struct buffer partial;
  size_t searched;                     /* bytes of `partial` without an end in them */
  struct arena *arena;                 /* of the message being read */
  struct headers *fields;              /* where llhttp's fields go */
  struct headers *trailers;            /* NULL, or those of this message */
  struct span name, value, text, body; /* what llhttp reported last; text: target or reason */
  const char *why;                     /* of the last refusal */
  enum limit_reached limit;            /* the same */
  bool allow_underscores, ignore_invalid, skips_body;
  bool is_head_seen, is_complete; /* as llhttp sees it */
  bool is_chunked, has_length;
};

void h1_parse_init(struct h1_parse *parse, enum head_kind kind);
/* Gives back what it holds. */
void h1_parse_free(struct h1_parse *parse);
/* The message's arena goes away; the rest of its body is only read to find the next message. */
void h1_parse_abandon(struct h1_parse *parse);
/* Ready for the next message. */
void h1_parse_reset(struct h1_parse *parse);

enum h1_gather { H1_GATHER_MORE = 0, H1_GATHER_READY = 1, H1_GATHER_TOO_LONG = 2 };
/* Looks for a complete head. READY: *head is it, in `data` or in `partial`, until h1_parse_head_done. TOO_LONG: *head is its beginning. */
enum h1_gather h1_parse_gather(struct h1_parse *parse, const char *data, size_t length, const struct h1_rules *rules, size_t *taken, struct span *head);
bool h1_parse_has_partial(const struct h1_parse *parse);
void h1_parse_head_done(struct h1_parse *parse);

/* Checks and parses a head; it is copied into the arena. A refused request still gets what of method and target is readable. */
struct head_verdict h1_parse_request(struct h1_parse *parse, struct span head, const struct h1_rules *rules, struct arena *arena, struct request_head *request);
/* Method and target of a head that cannot be taken, for the log. */
void h1_parse_salvage(struct span head, struct arena *arena, struct request_head *request);
/* Of any length: who gathered the head has bounded it. */
struct head_verdict h1_parse_response(struct h1_parse *parse, struct span head, struct span method, struct arena *arena, struct response_head *response);

enum h1_event { H1_EVENT_MORE = 0, H1_EVENT_DATA = 1, H1_EVENT_END = 2, H1_EVENT_BAD = 3 };
/* Decodes the body behind the head: one piece, its end (also when `length` is 0), or BAD (`why` and `limit` say). */
enum h1_event h1_parse_body(struct h1_parse *parse, const char *data, size_t length, size_t *taken, struct span *piece);
/* The peer closed: true if that completes the message. */
bool h1_parse_finish(struct h1_parse *parse);

#endif
