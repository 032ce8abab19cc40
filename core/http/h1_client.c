/* The client side of HTTP/1: one object per connection, one exchange at a time on it. It owns its link; its stream is part of it and is
 * lent to the exchange from on_new to finish or abort. Pipelined requests stay in the link, which stops reading meanwhile. Between requests
 * it holds no buffer and no arena. It calls nobody from inside finish, abort, shutdown or close but through deferred calls (codec_client_close:
 * on_abort). The loop's thread. */
#include <stdlib.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/error.h"
#include "base/limits.h"
#include "http/codec_side.h"
#include "http/h1_parse.h"
#include "http/h1_write.h"

enum { CLIENT_MAGIC = MAGIC('h', '1', 'c', 'l'), STREAM_MAGIC = MAGIC('h', '1', 'c', 's'), LINGER_MS = 5000 };

/* What arriving bytes are. */
enum reading {
  READING_HEAD = 0, /* no stream; idle, or part of a head is there */
  READING_BODY = 1,
  READING_NEXT = 2, /* the request is complete: what comes is the next one, and waits */
  READING_TUNNEL = 3,
  READING_DROPPED = 4, /* nothing that comes matters any more */
  READING_DRAIN = 5    /* no stream: the rest of a request whose exchange is over */
};

enum answering { ANSWER_NONE = 0, ANSWER_BEGUN = 1, ANSWER_DONE = 2 };

struct h1_client {
  struct codec_client base;
  struct loop *loop;
  struct codec_client_limits limits;
  struct codec_stream stream;
  struct h1_parse parse;
  struct h1_sink sink;
  struct timer timer;
  struct deferred later;
  enum reading reading;
  enum answering answering;
  unsigned requests;
  uint64_t since_ms; /* when this state of reading began, or last got bytes */
  uint64_t timer_ms; /* when the timer fires, if it is active */
  uint64_t full_since_ms;
  uint64_t received;  /* of this request */
  uint64_t drop_left; /* discarding, draining: bytes still tolerated */
  bool is_open;       /* a stream is lent out */
  bool is_dead;       /* its owner was told on_abort */
  bool closes;        /* after the current exchange */
  bool is_shutting_down;
  bool is_discarding, has_end_to_tell;
  bool is_link_paused, has_refused, is_in_read;
  bool is_continue_sent, has_body_begun, has_stray_cr;
  bool is_head_partial; /* counted so */
  bool awaits_room;     /* the next request waits until the client has taken answers */
  bool is_over;         /* the link is gone; `later` tells and frees */
};

static struct h1_client *client_of(void *pointer) {
  struct h1_client *client = pointer;
  must(client->base.magic == CLIENT_MAGIC);
  return client;
}

static struct h1_client *client_of_stream(const struct codec_stream *stream) {
  must(stream->magic == STREAM_MAGIC);
  struct h1_client *client = container_of(stream, struct h1_client, stream);
  must(client->is_open);
  return client;
}

static uint64_t now_of(const struct h1_client *client) { return loop_now_ms(client->loop); }

/* ---- the end of a connection ----------------------------------------------------------------------------------------------- */

static void note_partial_head(struct h1_client *client, bool is_partial) {
  if (client->is_head_partial == is_partial) return;
  client->is_head_partial = is_partial;
  counter_add(client->loop->counters, is_partial ? COUNTER_HEADS_WAITED : COUNTER_HEADS_WAITED_ENDED, 1);
}

static void forget_link(struct h1_client *client) {
  note_partial_head(client, false);
  loop_timer_stop(client->loop, &client->timer);
  h1_parse_free(&client->parse);
  client->base.link = NULL;
  client->is_over = true;
  client->reading = READING_DROPPED;
  loop_defer(client->loop, &client->later);
}

static void close_now(struct h1_client *client) {
  if (client->is_over) return;
  struct link *link = client->base.link;
  forget_link(client);
  link_close(link);
}

static void close_gracefully(struct h1_client *client) {
  if (client->is_over) return;
  struct link *link = client->base.link;
  forget_link(client);
  link_close_gracefully(link, LINGER_MS);
}

/* ---- timeouts -------------------------------------------------------------------------------------------------------------- */

enum stall { STALL_NONE = 0, STALL_IDLE = 1, STALL_HEAD = 2, STALL_BODY = 3, STALL_SEND = 4 };

static uint64_t later_by(uint64_t since, unsigned ms) { return ms ? since + ms : UINT64_MAX; }

/* When the present state has lasted too long. Nothing is set and unset per request: the timer looks here when it fires. */
static uint64_t deadline_of(const struct h1_client *client, enum stall *stall) {
  uint64_t deadline = UINT64_MAX;
  *stall = STALL_NONE;
  if (client->reading == READING_HEAD) {
    bool has_begun = h1_parse_has_partial(&client->parse) || client->requests == 0;
    *stall = h1_parse_has_partial(&client->parse) ? STALL_HEAD : STALL_IDLE;
    return later_by(client->since_ms, has_begun ? client->limits.header_timeout_ms : client->limits.idle_timeout_ms);
  }
  bool waits_for_body = (client->reading == READING_BODY && !client->stream.paused) || client->reading == READING_DRAIN;
  if (waits_for_body) {
    deadline = later_by(client->since_ms, client->limits.body_timeout_ms);
    *stall = STALL_BODY;
  }
  if (client->full_since_ms && link_is_full(client->base.link)) {
    uint64_t progress = link_progress_ms(client->base.link);
    uint64_t send = later_by(progress > client->full_since_ms ? progress : client->full_since_ms, client->limits.send_timeout_ms);
    if (send < deadline) {
      deadline = send;
      *stall = STALL_SEND;
    }
  }
  return deadline;
}

static void watch(struct h1_client *client) {
  enum stall stall;
  if (client->is_over) return;
  uint64_t deadline = deadline_of(client, &stall), now = now_of(client);
  if (deadline == UINT64_MAX) return;
  if (timer_is_active(&client->timer) && client->timer_ms <= deadline) return;
  client->timer_ms = deadline;
  loop_timer_start(client->loop, &client->timer, deadline > now ? deadline - now : 0);
}

/* Tells the owner that its stream is over. */
static void fail(struct h1_client *client, int error) {
  if (client->is_dead) return;
  client->is_dead = true;
  client->closes = true;
  client->has_end_to_tell = false;
  client->reading = READING_DROPPED;
  if (client->stream.events) client->stream.events->on_abort(client->stream.owner, error);
}

static void refuse(struct h1_client *client, struct span head, struct head_verdict verdict);

static void on_timer(struct timer *timer) {
  struct h1_client *client = client_of(container_of(timer, struct h1_client, timer));
  enum stall stall;
  if (client->is_over) return;
  if (deadline_of(client, &stall) > now_of(client)) {
    watch(client);
    return;
  }
  switch (stall) {
    case STALL_IDLE:
    case STALL_NONE:
      close_now(client);
      break;
    case STALL_HEAD:
      refuse(client, buffer_span(&client->parse.partial), REFUSE(408, "head not complete in time"));
      break;
    case STALL_BODY:
    case STALL_SEND:
      if (client->is_open) fail(client, ERROR_TIMEOUT);
      else close_now(client);
      break;
  }
  watch(client);
}

/* ---- reading --------------------------------------------------------------------------------------------------------------- */

static void update_reading(struct h1_client *client) {
  if (client->is_over) return;
  bool must_stop = client->stream.paused && (client->reading == READING_BODY || client->reading == READING_TUNNEL) && client->is_open;
  bool may_take = client->reading != READING_NEXT && !must_stop;
  if (must_stop && !client->is_link_paused) {
    client->is_link_paused = true;
    link_pause(client->base.link);
  } else if (!must_stop && (client->is_link_paused || (client->has_refused && may_take && !client->is_in_read))) {
    client->is_link_paused = false;
    client->has_refused = false;
    link_resume(client->base.link);
  }
}

/* The request's direction is over. */
static void end_request(struct h1_client *client) {
  client->reading = READING_NEXT;
  /* A client that leaves is noticed, whatever it has sent besides: more requests, or what it means for a tunnel that there is not yet. */
  link_watch_end(client->base.link, true);
  client->stream.trailers = client->parse.trailers;
  update_reading(client);
  client->stream.events->on_end(client->stream.owner);
}

/* What is left of the request is of no use: the owner's request direction ends, and the connection with the response. */
static void give_up_request(struct h1_client *client) {
  client->closes = true;
  client->reading = READING_DROPPED;
  client->has_end_to_tell = true;
  update_reading(client);
  loop_defer(client->loop, &client->later);
}

static struct codec_stream *open_stream(struct h1_client *client);

/* The stream is open, with what was readable of the request. */
static void tell_refusal(struct h1_client *client, struct head_verdict verdict) {
  counter_limit(client->loop->counters, verdict.limit);
  client->reading = READING_DROPPED;
  client->closes = true;
  client->base.events->on_bad_request(client->base.owner, &client->stream, verdict.status, verdict.why);
}

static void refuse(struct h1_client *client, struct span head, struct head_verdict verdict) {
  struct codec_stream *stream = open_stream(client);
  h1_parse_salvage(head, stream->arena, stream->request);
  h1_parse_head_done(&client->parse);
  client->received = head.length;
  tell_refusal(client, verdict);
}

static const struct codec_ops stream_ops;

static struct codec_stream *open_stream(struct h1_client *client) {
  struct codec_stream *stream = &client->stream;
  *stream = (struct codec_stream){.magic = STREAM_MAGIC, .ops = &stream_ops};
  client->sink = (struct h1_sink){.framing = BODY_NONE};
  client->answering = ANSWER_NONE;
  client->received = 0;
  client->is_open = true;
  client->is_dead = client->is_discarding = client->is_continue_sent = client->has_body_begun = false;
  client->requests++;
  note_partial_head(client, false);
  stream->arena = client->base.events->on_new(client->base.owner, stream);
  stream->request = arena_zalloc(stream->arena, sizeof *stream->request);
  return stream;
}

static void begin_request(struct h1_client *client, struct span head, const struct h1_rules *rules) {
  struct codec_stream *stream = open_stream(client);
  struct head_verdict verdict = h1_parse_request(&client->parse, head, rules, stream->arena, stream->request);
  h1_parse_head_done(&client->parse);
  client->received = head.length;
  if (verdict.status == 0 && span_equal(stream->request->method, SPAN("CONNECT"))) verdict = REFUSE(405, "CONNECT is not for us");
  /* A TRACE would be answered with the fields that we add, and with cookies that scripts may not read. */
  if (verdict.status == 0 && span_equal(stream->request->method, SPAN("TRACE"))) verdict = REFUSE(405, "TRACE is not for us");
  if (verdict.status) {
    tell_refusal(client, verdict);
    return;
  }
  client->reading = READING_BODY;
  client->base.events->on_request(client->base.owner, stream);
  if (!client->is_open || client->reading != READING_BODY) return;
  if (client->parse.phase == H1_DONE) end_request(client);
  else watch(client);
}

/* Bytes between requests. A blank line before one is skipped (RFC 9112, 2.2). True: all of it was taken. */
static bool read_head(struct h1_client *client, const char *data, size_t length, size_t *taken) {
  struct h1_rules rules = {client->limits.head_bytes, client->limits.request_line_bytes, client->limits.header_fields, client->limits.allow_underscores,
                           client->limits.ignore_invalid};
  struct span head;
  if (!h1_parse_has_partial(&client->parse)) {
    if (client->has_stray_cr && data[0] != '\n') {
      refuse(client, SPAN(""), REFUSE(400, "bare CR before a request"));
      *taken = length;
      return true;
    }
    if (client->has_stray_cr || data[0] == '\r') {
      client->has_stray_cr = !client->has_stray_cr;
      *taken = 1;
      return true;
    }
    unsigned char first = (unsigned char)data[0];
    if (first <= ' ' || first >= 0x7f) { /* no method begins so (TLS on the plain port, say): do not wait for the rest of it */
      refuse(client, SPAN(""), REFUSE(400, "not HTTP"));
      *taken = length;
      return true;
    }
    client->since_ms = now_of(client);
  }
  switch (h1_parse_gather(&client->parse, data, length, &rules, taken, &head)) {
    case H1_GATHER_MORE:
      note_partial_head(client, true);
      watch(client);
      return true;
    case H1_GATHER_READY:
      begin_request(client, head, &rules);
      return true;
    case H1_GATHER_TOO_LONG:
    default: {
      size_t line = head.length < rules.line_bytes ? head.length : rules.line_bytes;
      bool is_line = memchr(head.data, '\n', line) == NULL;
      refuse(client, head, is_line ? REFUSE_LIMIT(414, "request line too long", REQUEST_LINE_BYTES) : REFUSE_LIMIT(431, "head too long", HEAD_BYTES));
      return true;
    }
  }
}

static void count_drain(const struct h1_client *client) { counter_add(client->loop->counters, COUNTER_LIMIT_DRAIN_BYTES, 1); }

static bool read_body(struct h1_client *client, const char *data, size_t length, size_t *taken) {
  struct span piece = {NULL, 0};
  if (client->stream.paused) return false;
  client->has_body_begun = true;
  enum h1_event event = h1_parse_body(&client->parse, data, length, taken, &piece);
  client->received += *taken;
  if (event == H1_EVENT_BAD) {
    counter_limit(client->loop->counters, client->parse.limit);
    fail(client, ERROR_PROTOCOL);
    return true;
  }
  if (client->is_discarding) {
    if (*taken > client->drop_left) {
      count_drain(client);
      give_up_request(client);
      return true;
    }
    client->drop_left -= *taken;
  } else if (event == H1_EVENT_DATA) {
    client->stream.events->on_body(client->stream.owner, piece);
  }
  if (client->is_open && client->reading == READING_BODY && client->parse.phase == H1_DONE) end_request(client);
  return true;
}

static void next_request(struct h1_client *client);

static bool read_drain(struct h1_client *client, const char *data, size_t length, size_t *taken) {
  struct span piece;
  enum h1_event event = h1_parse_body(&client->parse, data, length, taken, &piece);
  if (event == H1_EVENT_BAD || *taken > client->drop_left) {
    if (event == H1_EVENT_BAD) counter_limit(client->loop->counters, client->parse.limit);
    else count_drain(client);
    close_gracefully(client);
    return true;
  }
  client->drop_left -= *taken;
  if (client->parse.phase == H1_DONE) next_request(client);
  return true;
}

/* One step over arrived bytes; false: the rest must wait. */
static bool read_some(struct h1_client *client, const char *data, size_t length, size_t *taken) {
  switch (client->reading) {
    case READING_HEAD:
      return read_head(client, data, length, taken);
    case READING_BODY:
      return read_body(client, data, length, taken);
    case READING_DRAIN:
      return read_drain(client, data, length, taken);
    case READING_TUNNEL:
      if (client->stream.paused) return false;
      *taken = length;
      client->received += length;
      client->stream.events->on_body(client->stream.owner, span_make(data, length));
      return true;
    case READING_DROPPED:
      *taken = length;
      return true;
    case READING_NEXT:
    default:
      return false;
  }
}

static size_t on_read(void *owner, const char *data, size_t length) {
  struct h1_client *client = client_of(owner);
  size_t total = 0;
  client->is_in_read = true;
  client->has_refused = false;
  if (client->reading != READING_HEAD) client->since_ms = now_of(client);
  while (total < length && !client->is_over) {
    size_t taken = 0;
    if (!read_some(client, data + total, length - total, &taken)) break;
    total += taken;
  }
  client->is_in_read = false;
  client->has_refused = total < length;
  return total;
}

static void on_link_end(void *owner, int error) {
  struct h1_client *client = client_of(owner);
  if (!client->is_open) {
    if (error == 0 && link_pending(client->base.link)) close_gracefully(client); /* the last answer is still on its way */
    else close_now(client);
  } else if (client->reading == READING_TUNNEL && error == 0) {
    client->stream.events->on_half_close(client->stream.owner);
  } else if (client->answering == ANSWER_DONE && error == 0) {
    client->closes = true; /* it has its answer; the owner is about to finish */
    if (client->reading == READING_BODY) fail(client, ERROR_CLOSED);
  } else {
    fail(client, error ? error : ERROR_CLOSED);
  }
}

static void on_link_drain(void *owner) {
  struct h1_client *client = client_of(owner);
  client->full_since_ms = 0;
  if (client->awaits_room) next_request(client);
  if (client->is_open && !client->is_dead && client->stream.events) client->stream.events->on_drain(client->stream.owner);
}

static const struct link_events link_handlers = {.on_read = on_read, .on_end = on_link_end, .on_drain = on_link_drain};

static void on_later(struct deferred *deferred) {
  struct h1_client *client = client_of(container_of(deferred, struct h1_client, later));
  if (client->is_over) {
    if (client->is_open) return; /* the owner of the stream has not aborted yet */
    client->base.events->on_close(client->base.owner);
    client->base.magic = 0;
    free(client);
    return;
  }
  if (client->has_end_to_tell && client->is_open) {
    client->has_end_to_tell = false;
    client->stream.events->on_end(client->stream.owner);
  }
}

/* ---- the stream ------------------------------------------------------------------------------------------------------------ */

static void note_full(struct h1_client *client) {
  if (client->full_since_ms || !link_is_full(client->base.link)) return;
  client->full_since_ms = now_of(client);
  watch(client);
}

static bool is_body_too_much(const struct h1_client *client) {
  return client->reading == READING_BODY && client->parse.phase == H1_LENGTH && client->parse.left > LIMIT_DRAIN_BYTES;
}

/* Whether the connection ends with this answer. */
static bool must_close(const struct h1_client *client, const struct request_head *request, const struct response_head *head) {
  bool body_may_not_come = request->expects_continue && !client->is_continue_sent && !client->has_body_begun && client->reading == READING_BODY;
  return client->closes || client->is_shutting_down || head->close || !request->keep_alive || body_may_not_come || is_body_too_much(client) ||
         client->limits.idle_timeout_ms == 0 || (client->limits.max_requests && client->requests >= client->limits.max_requests);
}

static void send_response(struct codec_stream *stream, const struct response_head *head) {
  struct h1_client *client = client_of_stream(stream);
  const struct request_head *request = stream->request;
  struct h1_sink *sink = &client->sink;
  if (client->is_over) return;
  must(client->answering == ANSWER_NONE);
  client->answering = ANSWER_BEGUN;
  bool is_modern = request->version_minor >= 1, has_body = status_has_body(head->status, request->method), declared_only = false;
  sink->left = 0;
  if (!has_body) {
    sink->framing = BODY_NONE;
    declared_only = head->body.framing == BODY_LENGTH && head->status >= 200 && head->status != 204;
  } else if (head->body.framing == BODY_NONE || head->body.framing == BODY_LENGTH) {
    sink->framing = BODY_LENGTH;
    sink->left = head->body.framing == BODY_LENGTH ? head->body.length : 0;
  } else {
    sink->framing = is_modern ? BODY_CHUNKED : BODY_UNTIL_CLOSE;
  }
  struct span upgrade = {NULL, 0};
  enum h1_connection connection = is_modern ? H1_CONNECTION_IMPLIED : H1_CONNECTION_KEEP_ALIVE;
  if (head->status == 101) {
    upgrade = head->upgrade.length ? head->upgrade : request->upgrade;
  } else if (sink->framing == BODY_UNTIL_CLOSE || must_close(client, request, head)) {
    client->closes = true;
    connection = H1_CONNECTION_CLOSE;
  }
  h1_write_response(sink, client->base.link, stream->arena, head, connection, upgrade, declared_only);
  if (head->status != 101 && (sink->framing == BODY_NONE || (sink->framing == BODY_LENGTH && sink->left == 0))) client->answering = ANSWER_DONE;
  note_full(client);
}

static void send_informational(struct codec_stream *stream, const struct response_head *head) {
  struct h1_client *client = client_of_stream(stream);
  if (client->is_over || client->answering != ANSWER_NONE || stream->request->version_minor == 0) return;
  if (head->status == 100) {
    /* Once, and only to who asked: others might take it for an answer. */
    if (!stream->request->expects_continue || client->is_continue_sent || client->reading != READING_BODY) return;
    client->is_continue_sent = true;
    client->since_ms = now_of(client); /* only now the body is due */
  }
  h1_write_informational(&client->sink, client->base.link, stream->arena, head);
}

static void send_body(struct codec_stream *stream, const struct span *parts, int count) {
  struct h1_client *client = client_of_stream(stream);
  if (client->is_over) return;
  must(client->answering != ANSWER_NONE);
  h1_write_body(&client->sink, client->base.link, parts, count);
  note_full(client);
}

static void send_end(struct codec_stream *stream, const struct headers *trailers) {
  struct h1_client *client = client_of_stream(stream);
  if (client->is_over || client->answering == ANSWER_DONE) return;
  must(client->answering != ANSWER_NONE);
  h1_write_end(&client->sink, client->base.link, stream->arena, trailers);
  client->answering = ANSWER_DONE;
}

static bool is_full(const struct codec_stream *stream) {
  const struct h1_client *client = client_of_stream(stream);
  return !client->is_over && link_is_full(client->base.link);
}

static void pause_stream(struct codec_stream *stream, unsigned reason) {
  struct h1_client *client = client_of_stream(stream);
  stream->paused |= reason;
  update_reading(client);
}

static void resume_stream(struct codec_stream *stream, unsigned reason) {
  struct h1_client *client = client_of_stream(stream);
  bool was_paused = stream->paused != 0;
  stream->paused &= ~reason;
  if (client->is_over || stream->paused || !was_paused) return;
  client->since_ms = now_of(client);
  update_reading(client);
  watch(client);
}

static void tunnel(struct codec_stream *stream) {
  struct h1_client *client = client_of_stream(stream);
  if (client->is_over || client->is_dead) return;
  must(client->answering == ANSWER_BEGUN && client->reading == READING_NEXT);
  client->reading = READING_TUNNEL;
  client->closes = true;
  link_watch_end(client->base.link, false); /* from now on an end comes behind the bytes before it */
  client->sink.framing = BODY_UNTIL_CLOSE;  /* bytes as they are */
  update_reading(client);
}

static void half_close(struct codec_stream *stream) {
  struct h1_client *client = client_of_stream(stream);
  if (client->is_over) return;
  client->answering = ANSWER_DONE;
  link_end(client->base.link);
}

static void discard_body(struct codec_stream *stream, uint64_t limit) {
  struct h1_client *client = client_of_stream(stream);
  if (client->is_over || client->reading != READING_BODY) return;
  client->is_discarding = true;
  client->drop_left = limit;
  stream->paused = 0;
  client->since_ms = now_of(client);
  bool may_not_come = stream->request->expects_continue && !client->is_continue_sent && !client->has_body_begun;
  bool is_too_much = client->parse.phase == H1_LENGTH && client->parse.left > limit;
  if (is_too_much) count_drain(client);
  if (may_not_come || is_too_much) give_up_request(client);
  update_reading(client);
  watch(client);
}

static void next_request(struct h1_client *client) {
  link_watch_end(client->base.link, false);
  if (client->closes || client->is_shutting_down) {
    close_gracefully(client);
    return;
  }
  /* Each answer may be begun on a full link: a client that asks and asks and reads nothing gets no further one. */
  client->awaits_room = link_is_full(client->base.link);
  if (client->awaits_room) {
    client->reading = READING_NEXT;
    watch(client);
    return;
  }
  h1_parse_reset(&client->parse);
  client->reading = READING_HEAD;
  client->since_ms = now_of(client);
  update_reading(client);
  watch(client);
}

static void finish(struct codec_stream *stream) {
  struct h1_client *client = client_of_stream(stream);
  enum reading reading = client->reading;
  client->is_open = false;
  client->has_end_to_tell = false;
  stream->paused = 0;
  if (client->is_over) {
    loop_defer(client->loop, &client->later);
  } else if (reading == READING_TUNNEL) {
    close_gracefully(client);
  } else if (client->answering != ANSWER_DONE || client->sink.is_wrong) {
    /* The client must not take what it got for the whole, nor what follows for an answer. */
    if (client->sink.is_wrong) close_gracefully(client);
    else close_now(client);
  } else if (client->closes || reading == READING_DROPPED || is_body_too_much(client)) {
    if (is_body_too_much(client)) count_drain(client);
    close_gracefully(client);
  } else if (reading == READING_BODY) {
    client->reading = READING_DRAIN;
    h1_parse_abandon(&client->parse); /* its arena ends with the exchange */
    client->drop_left = LIMIT_DRAIN_BYTES;
    client->since_ms = now_of(client);
    update_reading(client);
    watch(client);
  } else {
    next_request(client);
  }
}

static void abort_stream(struct codec_stream *stream) {
  struct h1_client *client = client_of_stream(stream);
  client->is_open = false;
  client->has_end_to_tell = false;
  if (client->is_over) {
    loop_defer(client->loop, &client->later);
  } else if (client->answering == ANSWER_BEGUN && client->sink.framing == BODY_UNTIL_CLOSE && client->reading != READING_TUNNEL) {
    /* Only a reset tells the client that this was not the end of the body. */
    struct link *link = client->base.link;
    forget_link(client);
    link_reset(link);
  } else if (client->answering == ANSWER_BEGUN && !client->is_dead) {
    /* What there is of the answer goes out: a client that sees none of it takes the connection for stale, and asks again. */
    close_gracefully(client);
  } else {
    close_now(client);
  }
}

static uint64_t bytes_sent(const struct codec_stream *stream) { return client_of_stream(stream)->sink.bytes; }
static uint64_t bytes_received(const struct codec_stream *stream) { return client_of_stream(stream)->received; }

static void send_request(struct codec_stream *stream, const struct request_head *head) {
  (void)stream;
  (void)head;
  must(!"a client's stream sends no requests");
}

static const struct codec_ops stream_ops = {
    .name = "HTTP/1.1",
    .send_request = send_request,
    .send_response = send_response,
    .send_informational = send_informational,
    .send_body = send_body,
    .send_end = send_end,
    .is_full = is_full,
    .pause = pause_stream,
    .resume = resume_stream,
    .tunnel = tunnel,
    .half_close = half_close,
    .discard_body = discard_body,
    .finish = finish,
    .abort = abort_stream,
    .bytes_sent = bytes_sent,
    .bytes_received = bytes_received,
};

/* ---- the connection -------------------------------------------------------------------------------------------------------- */

static bool is_idle(const struct codec_client *base) {
  const struct h1_client *client = (const struct h1_client *)base;
  return !client->is_open && client->reading == READING_HEAD && !h1_parse_has_partial(&client->parse);
}

static void shut_down(struct codec_client *base) {
  struct h1_client *client = client_of(base);
  client->is_shutting_down = true;
  if (!client->is_over && is_idle(base)) close_gracefully(client);
}

static void close_client(struct codec_client *base) {
  struct h1_client *client = client_of(base);
  if (client->is_open) fail(client, ERROR_CANCELLED);
  close_now(client);
}

static const struct codec_client_ops client_ops = {shut_down, close_client, is_idle};

struct codec_client *h1_client_new(struct link *link, const struct codec_client_limits *limits, const struct codec_client_events *events, void *owner) {
  struct h1_client *client = calloc(1, sizeof *client);
  must(client != NULL);
  client->base = (struct codec_client){CLIENT_MAGIC, &client_ops, link, events, owner};
  client->loop = link_loop(link);
  client->limits = *limits;
  h1_parse_init(&client->parse, HEAD_REQUEST);
  timer_init(&client->timer, on_timer);
  deferred_init(&client->later, on_later);
  client->since_ms = now_of(client);
  watch(client);
  link_set_owner(link, &link_handlers, client);
  return &client->base;
}
