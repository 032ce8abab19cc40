/* The upstream side of HTTP/1: one object per connection to an endpoint, one exchange at a time on it, idle in a pool between them. It owns
 * its link; its stream is part of it and is lent to the exchange from codec_upstream_open to finish or abort. An answer that is not
 * strictly HTTP/1, or that a laxer reader could take for two, ends the exchange and the connection; so do bytes that nobody asked for.
 * The loop's thread. */
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/limits.h"
#include "http/codec_side.h"
#include "http/h1_parse.h"
#include "http/h1_write.h"

enum { UPSTREAM_MAGIC = MAGIC('h', '1', 'u', 'p'), STREAM_MAGIC = MAGIC('h', '1', 'u', 's') };

enum awaiting {
  AWAITING_NOTHING = 0, /* idle, or the answer is complete: whatever comes is unexpected */
  AWAITING_HEAD = 1,
  AWAITING_BODY = 2,
  AWAITING_SWITCH = 3, /* a 101 came, the owner has not called tunnel yet */
  AWAITING_TUNNEL = 4,
  AWAITING_DROPPED = 5
};

struct h1_upstream {
  struct codec_upstream base;
  struct loop *loop;
  struct codec_stream stream;
  struct h1_parse parse;
  struct h1_sink sink;
  struct deferred later;
  enum awaiting awaiting;
  unsigned informational;
  uint64_t written_before; /* bytes that the link had sent when the request began */
  bool is_open;            /* a stream is lent out */
  bool is_dead;            /* its owner was told on_abort */
  bool is_request_begun, is_request_done, wants_reuse;
  bool is_answer_done, is_tainted; /* tainted: the connection must not carry another request */
  bool is_link_paused, has_refused, is_in_read;
  bool is_over;
};

static struct h1_upstream *upstream_of(void *pointer) {
  struct h1_upstream *upstream = pointer;
  must(upstream->base.magic == UPSTREAM_MAGIC);
  return upstream;
}

static struct h1_upstream *upstream_of_stream(const struct codec_stream *stream) {
  must(stream->magic == STREAM_MAGIC);
  struct h1_upstream *upstream = container_of(stream, struct h1_upstream, stream);
  must(upstream->is_open);
  return upstream;
}

/* ---- the end of a connection ----------------------------------------------------------------------------------------------- */

static struct link *forget_link(struct h1_upstream *upstream) {
  struct link *link = upstream->base.link;
  h1_parse_free(&upstream->parse);
  upstream->base.link = NULL;
  upstream->is_over = true;
  upstream->awaiting = AWAITING_DROPPED;
  loop_defer(upstream->loop, &upstream->later);
  return link;
}

static void close_now(struct h1_upstream *upstream) {
  if (!upstream->is_over) link_close(forget_link(upstream));
}

/* Freed from here, so that nobody up the stack is left with freed memory. */
static void on_later(struct deferred *deferred) {
  struct h1_upstream *upstream = upstream_of(container_of(deferred, struct h1_upstream, later));
  must(!upstream->is_open);
  upstream->base.magic = 0;
  free(upstream);
}

static void fail(struct h1_upstream *upstream, int error) {
  struct codec_stream *stream = &upstream->stream;
  if (upstream->is_dead) return;
  upstream->is_dead = upstream->is_tainted = true;
  upstream->awaiting = AWAITING_DROPPED;
  stream->is_request_on_wire = upstream->sink.bytes > 0 && link_bytes_written(upstream->base.link) > upstream->written_before;
  stream->events->on_abort(stream->owner, error);
}

/* An idle connection is of no more use. */
static void leave_pool(struct h1_upstream *upstream) {
  close_now(upstream);
  upstream->base.events->on_idle_close(upstream->base.owner, &upstream->base);
}

/* ---- reading --------------------------------------------------------------------------------------------------------------- */

static void update_reading(struct h1_upstream *upstream) {
  if (upstream->is_over) return;
  bool must_stop = upstream->stream.paused && (upstream->awaiting == AWAITING_BODY || upstream->awaiting == AWAITING_TUNNEL) && upstream->is_open;
  bool may_take = !must_stop && upstream->awaiting != AWAITING_SWITCH;
  if (must_stop && !upstream->is_link_paused) {
    upstream->is_link_paused = true;
    link_pause(upstream->base.link);
  } else if (!must_stop && (upstream->is_link_paused || (upstream->has_refused && may_take && !upstream->is_in_read))) {
    upstream->is_link_paused = false;
    upstream->has_refused = false;
    link_resume(upstream->base.link);
  }
}

static void end_answer(struct h1_upstream *upstream) {
  struct codec_stream *stream = &upstream->stream;
  upstream->awaiting = AWAITING_NOTHING;
  upstream->is_answer_done = true;
  if (!upstream->is_request_done || !stream->response->keep_alive) upstream->is_tainted = true;
  stream->trailers = upstream->parse.trailers;
  update_reading(upstream);
  stream->events->on_end(stream->owner);
}

static void take_informational(struct h1_upstream *upstream, const struct response_head *head) {
  if (++upstream->informational > LIMIT_INFORMATIONAL) {
    counter_add(upstream->loop->counters, COUNTER_LIMIT_INFORMATIONAL, 1);
    fail(upstream, ERROR_LIMIT);
    return;
  }
  h1_parse_reset(&upstream->parse);
  upstream->stream.events->on_informational(upstream->stream.owner, head);
}

static void take_head(struct h1_upstream *upstream, struct span head) {
  struct codec_stream *stream = &upstream->stream;
  struct response_head *response = arena_zalloc(stream->arena, sizeof *response);
  struct head_verdict verdict = h1_parse_response(&upstream->parse, head, stream->request->method, stream->arena, response);
  h1_parse_head_done(&upstream->parse);
  if (verdict.status) {
    counter_limit(upstream->loop->counters, verdict.limit);
    fail(upstream, verdict.limit ? ERROR_LIMIT : ERROR_PROTOCOL);
    return;
  }
  if (response->status < 200 && response->status != 101) {
    take_informational(upstream, response);
    return;
  }
  if (response->status == 101) {
    if (stream->request->upgrade.length == 0 || response->upgrade.length == 0 || !upstream->is_request_done) { /* nobody asked for it */
      fail(upstream, ERROR_PROTOCOL);
      return;
    }
    upstream->is_tainted = true;
    upstream->awaiting = AWAITING_SWITCH;
  } else {
    upstream->awaiting = AWAITING_BODY;
  }
  stream->response = response;
  stream->events->on_head(stream->owner);
  if (upstream->is_open && upstream->awaiting == AWAITING_BODY && upstream->parse.phase == H1_DONE) end_answer(upstream);
}

static void read_head(struct h1_upstream *upstream, const char *data, size_t length, size_t *taken) {
  size_t most = upstream->stream.head_limit;
  struct h1_rules rules = {.head_bytes = most, .line_bytes = most};
  struct span head;
  enum h1_gather result = h1_parse_gather(&upstream->parse, data, length, &rules, taken, &head);
  upstream->stream.answer_bytes += *taken;
  if (result == H1_GATHER_READY) take_head(upstream, head);
  if (result == H1_GATHER_TOO_LONG) {
    counter_add(upstream->loop->counters, COUNTER_LIMIT_HEAD_BYTES, 1);
    fail(upstream, ERROR_LIMIT);
  }
}

static void read_body(struct h1_upstream *upstream, const char *data, size_t length, size_t *taken) {
  struct span piece;
  enum h1_event event = h1_parse_body(&upstream->parse, data, length, taken, &piece);
  upstream->stream.answer_bytes += *taken;
  if (event == H1_EVENT_BAD) {
    counter_limit(upstream->loop->counters, upstream->parse.limit);
    fail(upstream, upstream->parse.limit ? ERROR_LIMIT : ERROR_PROTOCOL);
    return;
  }
  if (event == H1_EVENT_DATA) upstream->stream.events->on_body(upstream->stream.owner, piece);
  if (upstream->is_open && upstream->awaiting == AWAITING_BODY && upstream->parse.phase == H1_DONE) end_answer(upstream);
}

/* One step over arrived bytes; false: the rest must wait. */
static bool read_some(struct h1_upstream *upstream, const char *data, size_t length, size_t *taken) {
  switch (upstream->awaiting) {
    case AWAITING_HEAD:
      read_head(upstream, data, length, taken);
      return true;
    case AWAITING_BODY:
      if (upstream->stream.paused) return false;
      read_body(upstream, data, length, taken);
      return true;
    case AWAITING_SWITCH:
      return false;
    case AWAITING_TUNNEL:
      if (upstream->stream.paused) return false;
      *taken = length;
      upstream->stream.answer_bytes += length;
      upstream->stream.events->on_body(upstream->stream.owner, span_make(data, length));
      return true;
    case AWAITING_NOTHING: /* an answer to nothing: whoever sends it might mean it for the next request */
      upstream->is_tainted = true;
      *taken = length;
      if (!upstream->is_open) leave_pool(upstream);
      else if (!upstream->is_request_begun) fail(upstream, ERROR_PROTOCOL);
      return true;
    case AWAITING_DROPPED:
    default:
      *taken = length;
      return true;
  }
}

static size_t on_read(void *owner, const char *data, size_t length) {
  struct h1_upstream *upstream = upstream_of(owner);
  size_t total = 0;
  upstream->is_in_read = true;
  upstream->has_refused = false;
  while (total < length && !upstream->is_over) {
    size_t taken = 0;
    if (!read_some(upstream, data + total, length - total, &taken)) break;
    total += taken;
  }
  upstream->is_in_read = false;
  upstream->has_refused = total < length;
  return total;
}

static void on_link_end(void *owner, int error) {
  struct h1_upstream *upstream = upstream_of(owner);
  upstream->is_tainted = true;
  if (!upstream->is_open) {
    leave_pool(upstream);
  } else if (upstream->awaiting == AWAITING_TUNNEL && error == 0) {
    upstream->stream.events->on_half_close(upstream->stream.owner);
  } else if (upstream->is_answer_done) {
    return; /* the owner has all it can get, and is about to finish */
  } else if (upstream->awaiting == AWAITING_BODY && error == 0 && h1_parse_finish(&upstream->parse)) {
    end_answer(upstream);
  } else {
    fail(upstream, error ? error : ERROR_CLOSED);
  }
}

static void on_link_drain(void *owner) {
  struct h1_upstream *upstream = upstream_of(owner);
  if (upstream->is_open && !upstream->is_dead) upstream->stream.events->on_drain(upstream->stream.owner);
}

static const struct link_events link_handlers = {.on_read = on_read, .on_end = on_link_end, .on_drain = on_link_drain};

/* ---- the stream ------------------------------------------------------------------------------------------------------------ */

static void send_request(struct codec_stream *stream, const struct request_head *head) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  must(!upstream->is_request_begun);
  /* The parser needs the method, and the answer may come after the caller changed its head. */
  struct request_head *kept = arena_alloc(stream->arena, sizeof *kept);
  *kept = *head;
  stream->request = kept;
  upstream->is_request_begun = true;
  upstream->wants_reuse = head->keep_alive;
  upstream->awaiting = AWAITING_HEAD;
  if (upstream->is_over) return;
  upstream->written_before = link_bytes_written(upstream->base.link);
  h1_write_request(&upstream->sink, upstream->base.link, stream->arena, head);
  upstream->is_request_done = upstream->sink.framing == BODY_NONE || (upstream->sink.framing == BODY_LENGTH && upstream->sink.left == 0);
}

static void send_body(struct codec_stream *stream, const struct span *parts, int count) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  if (upstream->is_over) return;
  h1_write_body(&upstream->sink, upstream->base.link, parts, count);
}

static void send_end(struct codec_stream *stream, const struct headers *trailers) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  if (upstream->is_over || upstream->is_request_done) return;
  must(upstream->is_request_begun);
  h1_write_end(&upstream->sink, upstream->base.link, stream->arena, trailers);
  upstream->is_request_done = true;
  if (upstream->sink.is_wrong) upstream->is_tainted = true;
}

static bool is_full(const struct codec_stream *stream) {
  const struct h1_upstream *upstream = upstream_of_stream(stream);
  return !upstream->is_over && link_is_full(upstream->base.link);
}

static void pause_stream(struct codec_stream *stream, unsigned reason) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  stream->paused |= reason;
  update_reading(upstream);
}

static void resume_stream(struct codec_stream *stream, unsigned reason) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  stream->paused &= ~reason;
  update_reading(upstream);
}

static void tunnel(struct codec_stream *stream) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  if (upstream->is_over || upstream->is_dead) return;
  must(upstream->awaiting == AWAITING_SWITCH);
  upstream->awaiting = AWAITING_TUNNEL;
  upstream->sink.framing = BODY_UNTIL_CLOSE; /* bytes as they are */
  upstream->sink.is_ended = false;
  update_reading(upstream);
}

static void half_close(struct codec_stream *stream) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  if (!upstream->is_over) link_end(upstream->base.link);
}

static bool is_reusable(const struct codec_upstream *base) {
  const struct h1_upstream *upstream = (const struct h1_upstream *)base;
  if (upstream->is_over || upstream->is_tainted) return false;
  if (!upstream->is_request_begun) return true; /* idle, or opened and not used */
  return upstream->wants_reuse && upstream->is_request_done && upstream->is_answer_done;
}

static void finish(struct codec_stream *stream) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  bool is_tunnel = upstream->awaiting == AWAITING_TUNNEL, keeps = is_reusable(&upstream->base);
  upstream->is_open = false;
  stream->paused = 0;
  if (upstream->is_over) return;
  if (!keeps) {
    /* A tunnel's last bytes still go out. */
    if (is_tunnel) link_close_gracefully(forget_link(upstream), 5000);
    else close_now(upstream);
    return;
  }
  h1_parse_reset(&upstream->parse);
  upstream->awaiting = AWAITING_NOTHING;
  upstream->is_request_begun = false;
  stream->arena = NULL;
  update_reading(upstream);
}

static void abort_stream(struct codec_stream *stream) {
  struct h1_upstream *upstream = upstream_of_stream(stream);
  upstream->is_open = false;
  close_now(upstream);
}

static uint64_t bytes_sent(const struct codec_stream *stream) { return upstream_of_stream(stream)->sink.bytes; }
static uint64_t bytes_received(const struct codec_stream *stream) { return stream->answer_bytes; }

static void send_response(struct codec_stream *stream, const struct response_head *head) {
  (void)stream;
  (void)head;
  must(!"an upstream's stream sends no answers");
}

static void discard_body(struct codec_stream *stream, uint64_t limit) {
  (void)stream;
  (void)limit;
  must(!"an upstream's stream has no request body to read");
}

static const struct codec_ops stream_ops = {
    .name = "HTTP/1.1",
    .send_request = send_request,
    .send_response = send_response,
    .send_informational = send_response,
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

static struct codec_stream *open_stream(struct codec_upstream *base, struct arena *arena) {
  struct h1_upstream *upstream = upstream_of(base);
  must(!upstream->is_open && !upstream->is_over);
  upstream->stream = (struct codec_stream){.magic = STREAM_MAGIC, .ops = &stream_ops, .arena = arena, .head_limit = LIMIT_HEAD_BYTES};
  upstream->sink = (struct h1_sink){.framing = BODY_NONE};
  upstream->informational = 0;
  upstream->is_open = true;
  upstream->is_dead = upstream->is_request_begun = upstream->is_request_done = upstream->is_answer_done = false;
  return &upstream->stream;
}

static void close_upstream(struct codec_upstream *base) {
  struct h1_upstream *upstream = upstream_of(base);
  must(!upstream->is_open);
  close_now(upstream);
}

static const struct codec_upstream_ops upstream_ops = {open_stream, is_reusable, close_upstream};

struct codec_upstream *h1_upstream_new(struct link *link, const struct codec_upstream_events *events, void *owner) {
  struct h1_upstream *upstream = calloc(1, sizeof *upstream);
  must(upstream != NULL);
  upstream->base = (struct codec_upstream){UPSTREAM_MAGIC, &upstream_ops, link, events, owner};
  upstream->loop = link_loop(link);
  h1_parse_init(&upstream->parse, HEAD_RESPONSE);
  deferred_init(&upstream->later, on_later);
  link_set_owner(link, &link_handlers, upstream);
  return &upstream->base;
}
