/* The client side of the HTTP/1 codec over a pair of memory links: raw bytes at one end, streams at the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/limits.h"
#include "http/codec.h"

/* What the codec's owner does on its own when a request is complete. */
enum habit { HABIT_NONE = 0, HABIT_ANSWER = 1 };

struct world {
  struct loop loop;
  struct counters counters;
  struct log log;
  struct link *peer; /* the raw end */
  struct codec_client *client;
  struct codec_client_limits limits;
  struct codec_stream *stream;
  struct arena arena;
  enum habit habit;
  bool has_arena, pauses_at_body, peer_ended, is_closed, finishes_at_request;
  char story[4096];
  size_t length;
  struct buffer seen;
};

static void tell(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void tell(struct world *world, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(world->story + world->length, sizeof world->story - world->length, format, arguments);
  va_end(arguments);
  world->length += (size_t)length;
  assert_true(world->length < sizeof world->story);
}

/* ---- the codec's owner */

static void done(struct world *world, bool is_abort) {
  struct codec_stream *stream = world->stream;
  world->stream = NULL;
  if (is_abort) stream->ops->abort(stream);
  else stream->ops->finish(stream);
  arena_free(&world->arena);
  world->has_arena = false;
}

static void answer(struct world *world, int status, const char *body) {
  struct codec_stream *stream = world->stream;
  struct response_head head = {.status = status, .body = {BODY_LENGTH, strlen(body)}};
  headers_init(&head.headers, stream->arena);
  headers_add(&head.headers, HEADER_OTHER, SPAN("X-Test"), SPAN("1"));
  stream->ops->send_response(stream, &head);
  struct span part = span_of(body);
  stream->ops->send_body(stream, &part, 1);
  stream->ops->send_end(stream, NULL);
}

static void on_body(void *owner, struct span data) {
  struct world *world = owner;
  if (data.length < 100) tell(world, "body(%.*s) ", (int)data.length, data.data);
  else tell(world, "body[%zu] ", data.length);
  if (world->pauses_at_body) world->stream->ops->pause(world->stream, PAUSE_SINK_FULL);
}

static void on_end(void *owner) {
  struct world *world = owner;
  tell(world, "end ");
  for (unsigned i = 0; world->stream->trailers && i < world->stream->trailers->count; i++)
    tell(world, "trailer(%.*s) ", (int)world->stream->trailers->items[i].name.length, world->stream->trailers->items[i].name.data);
  if (world->habit != HABIT_ANSWER) return;
  answer(world, 200, "ok");
  done(world, false);
}

static void on_drain(void *owner) { tell(owner, "drain "); }
static void on_half_close(void *owner) { tell(owner, "half "); }

static void on_abort(void *owner, int error) {
  struct world *world = owner;
  tell(world, "abort(%s) ", error_text(error));
  done(world, true);
}

static const struct codec_events events = {.on_body = on_body, .on_end = on_end, .on_drain = on_drain, .on_half_close = on_half_close, .on_abort = on_abort};

static struct arena *on_new(void *owner, struct codec_stream *stream) {
  struct world *world = owner;
  assert_null(world->stream);
  world->stream = stream;
  arena_init(&world->arena, NULL, 0);
  world->has_arena = true;
  return &world->arena;
}

static void on_request(void *owner, struct codec_stream *stream) {
  struct world *world = owner;
  stream->events = &events;
  stream->owner = world;
  tell(world, "%.*s(%.*s) ", (int)stream->request->method.length, stream->request->method.data, (int)stream->request->target.length,
       stream->request->target.data);
  if (!world->finishes_at_request) return;
  answer(world, 403, "no");
  done(world, false);
}

static void on_bad_request(void *owner, struct codec_stream *stream, int status, const char *why) {
  struct world *world = owner;
  stream->events = &events;
  stream->owner = world;
  assert_non_null(why);
  tell(world, "bad(%d) ", status);
  answer(world, status, "bad");
  done(world, false);
}

static void on_close(void *owner) {
  struct world *world = owner;
  world->is_closed = true;
  world->client = NULL;
  tell(world, "closed ");
}

static const struct codec_client_events client_events = {on_new, on_request, on_bad_request, on_close};

/* ---- the raw end */

static size_t peer_read(void *owner, const char *data, size_t length) {
  struct world *world = owner;
  buffer_append(&world->seen, span_make(data, length));
  return length;
}
static void peer_end(void *owner, int error) {
  struct world *world = owner;
  (void)error;
  world->peer_ended = true;
}
static void peer_drain(void *owner) { (void)owner; }
static const struct link_events peer_events = {.on_read = peer_read, .on_end = peer_end, .on_drain = peer_drain};

static void run(struct world *world) {
  for (int i = 0; i < 8; i++) loop_run_once(&world->loop, 0);
}
static void wait_for(struct world *world, const bool *flag) {
  for (int i = 0; i < 200 && !*flag; i++) loop_run_once(&world->loop, 20);
  assert_true(*flag);
}
static void say(struct world *world, const char *text) {
  link_write_span(world->peer, span_of(text));
  run(world);
}
static void story_is(struct world *world, const char *expected) {
  assert_string_equal(world->story, expected);
  world->length = 0;
  world->story[0] = '\0';
}
static void seen_is(struct world *world, const char *expected) {
  buffer_append(&world->seen, span_make("", 1));
  assert_string_equal(world->seen.data + world->seen.start, expected);
  buffer_consume(&world->seen, buffer_length(&world->seen));
}

static void begin_with(struct world *world, struct codec_client_limits limits) {
  struct link *ends[2];
  memset(world, 0, sizeof *world);
  assert_int_equal(loop_init(&world->loop, &world->counters, &world->log), 0);
  link_pair(&world->loop, ends);
  world->peer = ends[0];
  link_set_owner(ends[0], &peer_events, world);
  link_start(ends[0]);
  world->limits = limits;
  world->client = h1_client_new(ends[1], &limits, &client_events, world);
  link_start(ends[1]);
  world->habit = HABIT_ANSWER;
}

static const struct codec_client_limits ordinary = {.head_bytes = LIMIT_HEAD_BYTES,
                                                    .request_line_bytes = LIMIT_REQUEST_LINE_BYTES,
                                                    .header_fields = LIMIT_HEADER_FIELDS,
                                                    .header_timeout_ms = 60000,
                                                    .body_timeout_ms = 60000,
                                                    .idle_timeout_ms = 75000,
                                                    .send_timeout_ms = 60000,
                                                    .max_requests = 1000,
                                                    .ignore_invalid = true};

static void begin(struct world *world) { begin_with(world, ordinary); }

static void end(struct world *world) {
  if (world->client) codec_client_close(world->client);
  if (world->peer) link_close(world->peer);
  run(world);
  assert_true(world->is_closed);
  assert_null(world->stream);
  assert_int_equal(world->loop.live_links, 0);
  buffer_free(&world->seen);
  loop_free(&world->loop);
}

#define OK "HTTP/1.1 200 OK\r\nX-Test: 1\r\nContent-Length: 2\r\n\r\nok"
#define OK_CLOSE "HTTP/1.1 200 OK\r\nX-Test: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

static void test_keep_alive(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  assert_true(codec_client_is_idle(world.client));
  say(&world, "GET /a HTTP/1.1\r\nHost: h\r\n\r\n");
  story_is(&world, "GET(/a) end ");
  seen_is(&world, OK);
  assert_true(codec_client_is_idle(world.client));
  say(&world, "\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
  story_is(&world, "POST(/b) body(abc) end ");
  seen_is(&world, OK);
  say(&world, "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\nX-T: 1\r\n\r\n");
  story_is(&world, "POST(/c) body(abc) body(de) end trailer(X-T) ");
  seen_is(&world, OK);
  say(&world, "GET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  seen_is(&world, OK_CLOSE);
  story_is(&world, "GET(/d) end closed ");
  assert_true(world.peer_ended);
  end(&world);
}

static void test_pipelining(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  say(&world, "GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nxGET /c HTTP/1.1\r\nHost: h\r\n\r\n");
  story_is(&world, "GET(/a) end POST(/b) body(x) end GET(/c) end ");
  seen_is(&world, OK OK OK);
  world.habit = HABIT_NONE; /* an answer that takes its time: the next request waits */
  say(&world, "GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
  story_is(&world, "GET(/a) end ");
  answer(&world, 200, "ok");
  world.habit = HABIT_ANSWER;
  done(&world, false);
  run(&world);
  story_is(&world, "GET(/b) end ");
  seen_is(&world, OK OK);
  world.finishes_at_request = true; /* answered and finished from inside on_request */
  say(&world, "GET /a HTTP/1.1\r\nHost: h\r\n\r\nPOST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /c HTTP/1.1\r\nHost: h\r\n\r\n");
  story_is(&world, "GET(/a) POST(/b) GET(/c) ");
  end(&world);
}

/* Byte by byte: the same story. */
static void test_bytes(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  const char *text = "\r\nPOST /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nT: 1\r\n\r\n\r\nGET /c HTTP/1.1\r\nHost: h\r\n\r\n";
  for (size_t i = 0; i < strlen(text); i++) {
    link_write_span(world.peer, span_make(text + i, 1));
    run(&world);
  }
  story_is(&world, "POST(/b) body(a) body(b) end trailer(T) GET(/c) end ");
  seen_is(&world, OK OK);
  assert_true(codec_client_is_idle(world.client));
  end(&world);
}

static void test_bad(void **state) {
  (void)state;
  static const struct {
    const char *text, *story;
  } table[] = {
      {"GET / HTTP/1.1\r\n\r\n", "bad(400) closed "},
      {"GET / HTTP/1.1\nHost: h\n\n", "bad(400) closed "},
      {"GET / HTTP/3.0\r\nHost: h\r\n\r\n", "bad(505) closed "},
      {"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "bad(405) closed "},
      {"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
       "bad(400) closed "},
      {"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", "bad(400) closed "},
      {"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX", "POST(/) body(abc) abort(protocol error) closed "},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    struct world world;
    begin(&world);
    say(&world, table[i].text);
    story_is(&world, table[i].story);
    end(&world);
  }
  struct world world;
  struct codec_client_limits small = ordinary;
  small.head_bytes = 200;
  small.request_line_bytes = 50;
  begin_with(&world, small);
  char text[300];
  memset(text, 'a', sizeof text);
  memcpy(text, "GET /", 5);
  link_write_span(world.peer, span_make(text, 60));
  run(&world);
  story_is(&world, "bad(414) closed ");
  end(&world);
  begin_with(&world, small);
  memcpy(text, "GET / HTTP/1.1\r\n", 16);
  link_write_span(world.peer, span_make(text, sizeof text));
  run(&world);
  story_is(&world, "bad(431) closed ");
  end(&world);
}

static void send_chunks(struct world *world, const struct response_head *head, const struct headers *trailers) {
  struct codec_stream *stream = world->stream;
  stream->ops->send_response(stream, head);
  struct span parts[3] = {SPAN("ab"), SPAN(""), SPAN("c")};
  stream->ops->send_body(stream, parts, 3);
  stream->ops->send_body(stream, parts + 1, 1);
  stream->ops->send_end(stream, trailers);
  done(world, false);
  run(world);
}

static void test_framings(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  world.habit = HABIT_NONE;
  struct response_head chunked = {.status = 200, .body = {BODY_CHUNKED, 0}}, until_close = {.status = 200, .body = {BODY_UNTIL_CLOSE, 0}};
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  send_chunks(&world, &chunked, NULL);
  seen_is(&world, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  struct headers trailers;
  headers_init(&trailers, &world.arena);
  headers_add(&trailers, HEADER_OTHER, SPAN("T"), SPAN("1"));
  headers_add(&trailers, HEADER_OTHER, SPAN("Bad"), SPAN("1\r\nInjected: 1"));
  headers_add(&trailers, HEADER_CONTENT_LENGTH, SPAN("Content-Length"), SPAN("1"));
  send_chunks(&world, &until_close, &trailers);
  seen_is(&world, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n");
  say(&world, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
  struct response_head known = {.status = 200, .body = {BODY_LENGTH, 3}};
  send_chunks(&world, &known, NULL);
  seen_is(&world, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
  say(&world, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
  send_chunks(&world, &chunked, NULL);
  seen_is(&world, "HTTP/1.1 200 OK\r\n\r\n");
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  struct response_head none = {.status = 204, .body = {BODY_NONE, 0}};
  send_chunks(&world, &none, NULL);
  seen_is(&world, "HTTP/1.1 204 No Content\r\n\r\n");
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  none.status = 304;
  send_chunks(&world, &none, NULL);
  seen_is(&world, "HTTP/1.1 304 Not Modified\r\n\r\n");
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  none.status = 404;
  world.stream->ops->send_response(world.stream, &none);
  done(&world, false);
  run(&world);
  seen_is(&world, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
  say(&world, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  send_chunks(&world, &known, NULL);
  seen_is(&world, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nabc");
  say(&world, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  send_chunks(&world, &chunked, NULL);
  seen_is(&world, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc");
  assert_true(world.peer_ended);
  end(&world);
}

static void test_lengths_that_lie(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  world.habit = HABIT_NONE;
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  struct response_head shorter = {.status = 200, .body = {BODY_LENGTH, 2}};
  send_chunks(&world, &shorter, NULL);
  seen_is(&world, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"); /* the third byte would be the next answer's first */
  assert_true(world.peer_ended);
  end(&world);
  begin(&world);
  world.habit = HABIT_NONE;
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  struct response_head longer = {.status = 200, .body = {BODY_LENGTH, 9}};
  send_chunks(&world, &longer, NULL);
  assert_true(world.peer_ended);
  end(&world);
}

static void test_response_fields(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  world.habit = HABIT_NONE;
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  struct response_head head = {.status = 200, .reason = SPAN("Fine\r\nX: y"), .body = {BODY_LENGTH, 0}};
  headers_init(&head.headers, &world.arena);
  headers_add(&head.headers, HEADER_DATE, SPAN("Date"), SPAN("today"));
  headers_add(&head.headers, HEADER_CONNECTION, SPAN("Connection"), SPAN("x"));
  headers_add(&head.headers, HEADER_CONTENT_LENGTH, SPAN("Content-Length"), SPAN("77"));
  headers_add(&head.headers, HEADER_OTHER, SPAN("X-Split"), SPAN("a\nb"));
  headers_add(&head.headers, HEADER_OTHER, SPAN("X Name"), SPAN("a"));
  headers_add(&head.headers, HEADER_OTHER, SPAN("X-Gone"), SPAN("a"));
  headers_remove(&head.headers, HEADER_OTHER, SPAN("x-gone"));
  world.stream->ops->send_response(world.stream, &head);
  done(&world, false);
  run(&world);
  seen_is(&world, "HTTP/1.1 200 OK\r\nDate: today\r\nContent-Length: 0\r\n\r\n");
  /* A head larger than the stack's. */
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  struct response_head large = {.status = 200, .body = {BODY_LENGTH, 0}};
  headers_init(&large.headers, &world.arena);
  char *value = arena_alloc(&world.arena, 30000);
  memset(value, 'v', 30000);
  headers_add(&large.headers, HEADER_OTHER, SPAN("X-Large"), span_make(value, 30000));
  world.stream->ops->send_response(world.stream, &large);
  assert_true(world.stream->ops->bytes_sent(world.stream) > 30000);
  done(&world, false);
  run(&world);
  assert_int_equal(buffer_length(&world.seen), 30000 + strlen("HTTP/1.1 200 OK\r\nX-Large: \r\nContent-Length: 0\r\n\r\n"));
  end(&world);
}

static void test_continue(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  world.habit = HABIT_NONE;
  struct response_head go_on = {.status = 100}, hints = {.status = 103};
  say(&world, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  assert_true(world.stream->request->expects_continue);
  headers_init(&hints.headers, &world.arena);
  headers_add(&hints.headers, HEADER_OTHER, SPAN("Link"), SPAN("x"));
  world.stream->ops->send_informational(world.stream, &go_on);
  world.stream->ops->send_informational(world.stream, &go_on);
  world.stream->ops->send_informational(world.stream, &hints);
  run(&world);
  seen_is(&world, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n");
  world.habit = HABIT_ANSWER;
  say(&world, "hi");
  story_is(&world, "POST(/) body(hi) end ");
  seen_is(&world, OK);
  /* Answered without asking for the body: it may come or not, so nothing can follow. */
  world.finishes_at_request = true;
  say(&world, "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
  seen_is(&world, "HTTP/1.1 403 Forbidden\r\nX-Test: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
  story_is(&world, "POST(/) closed ");
  end(&world);
}

static void test_early_answer(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  world.finishes_at_request = true;
  say(&world, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 20\r\n\r\n0123456789");
  seen_is(&world, "HTTP/1.1 403 Forbidden\r\nX-Test: 1\r\nContent-Length: 2\r\n\r\nno");
  assert_false(codec_client_is_idle(world.client));
  say(&world, "0123456789GET /b HTTP/1.1\r\nHost: h\r\n\r\n"); /* drained, then the next */
  story_is(&world, "POST(/a) GET(/b) ");
  say(&world, "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"); /* with trailers, when the exchange's arena is gone */
  say(&world, "1\r\na\r\n0\r\nT: 1\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
  story_is(&world, "POST(/a) GET(/b) ");
  buffer_consume(&world.seen, buffer_length(&world.seen));
  say(&world, "POST /c HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n"); /* too much to drain */
  seen_is(&world, "HTTP/1.1 403 Forbidden\r\nX-Test: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
  story_is(&world, "POST(/c) closed ");
  end(&world);

  begin(&world); /* the same, by the owner's wish */
  world.habit = HABIT_NONE;
  say(&world, "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n");
  answer(&world, 200, "ok");
  world.stream->ops->discard_body(world.stream, 40);
  say(&world, "3\r\nabc\r\n0\r\n\r\n");
  story_is(&world, "POST(/a) body(abc) end ");
  done(&world, false);
  say(&world, "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
  world.stream->ops->discard_body(world.stream, 4);
  say(&world, "3\r\nabc\r\n3\r\nabc\r\n");
  story_is(&world, "POST(/a) end ");
  buffer_consume(&world.seen, buffer_length(&world.seen));
  answer(&world, 200, "ok");
  done(&world, false);
  run(&world);
  seen_is(&world, OK_CLOSE);
  story_is(&world, "closed ");
  end(&world);

  begin(&world); /* not worth reading at all */
  world.habit = HABIT_NONE;
  say(&world, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nabc");
  world.stream->ops->discard_body(world.stream, 4);
  story_is(&world, "POST(/a) body(abc) ");
  run(&world);
  story_is(&world, "end ");
  answer(&world, 200, "ok");
  done(&world, false);
  run(&world);
  seen_is(&world, OK_CLOSE);
  end(&world);

  begin(&world); /* drained up to the limit, not further */
  world.finishes_at_request = true;
  say(&world, "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
  char *chunk = malloc(60000);
  size_t head = (size_t)sprintf(chunk, "%x\r\n", 50000);
  memset(chunk + head, 'x', 50000);
  memcpy(chunk + head + 50000, "\r\n", 2);
  for (int i = 0; i < 8 && !world.is_closed; i++) {
    link_write_span(world.peer, span_make(chunk, head + 50002));
    run(&world);
  }
  free(chunk);
  assert_true(world.is_closed);
  end(&world);
}

static void test_pause(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  world.pauses_at_body = true;
  say(&world, "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n");
  story_is(&world, "POST(/a) body(a) ");
  world.stream->ops->pause(world.stream, PAUSE_TURN);
  world.stream->ops->resume(world.stream, PAUSE_SINK_FULL);
  run(&world);
  story_is(&world, "");
  world.stream->ops->resume(world.stream, PAUSE_TURN);
  run(&world);
  story_is(&world, "body(b) ");
  world.stream->ops->resume(world.stream, PAUSE_SINK_FULL);
  run(&world);
  story_is(&world, "end GET(/b) end ");
  seen_is(&world, OK OK);
  /* Paused while the last bytes come: the end is still told, and the client's leaving is seen. */
  world.habit = HABIT_NONE;
  say(&world, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na");
  story_is(&world, "POST(/a) body(a) end ");
  link_close(world.peer);
  world.peer = NULL;
  run(&world);
  story_is(&world, "abort(connection closed by peer) closed ");
  end(&world);
}

static void test_client_leaves(void **state) {
  (void)state;
  static const char *const texts[] = {"", "GET / HT", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"};
  static const char *const stories[] = {"closed ", "closed ", "POST(/) body(ab) abort(connection closed by peer) closed ",
                                        "GET(/) end abort(connection closed by peer) closed "};
  for (size_t i = 0; i < 4; i++) {
    struct world world;
    begin(&world);
    world.habit = HABIT_NONE;
    say(&world, texts[i]);
    link_end(world.peer);
    run(&world);
    story_is(&world, stories[i]);
    end(&world);
  }
}

static void test_back_pressure(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  world.habit = HABIT_NONE;
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  link_pause(world.peer);
  struct response_head head = {.status = 200, .body = {BODY_CHUNKED, 0}};
  world.stream->ops->send_response(world.stream, &head);
  char *data = calloc(1, 200000);
  struct span part = span_make(data, 200000);
  world.stream->ops->send_body(world.stream, &part, 1);
  free(data);
  assert_true(world.stream->ops->is_full(world.stream));
  world.length = 0;
  world.story[0] = '\0';
  link_resume(world.peer);
  run(&world);
  story_is(&world, "drain ");
  assert_false(world.stream->ops->is_full(world.stream));
  world.stream->ops->send_end(world.stream, NULL);
  done(&world, false);
  run(&world);
  assert_true(buffer_length(&world.seen) > 200000);
  end(&world);
}

static void test_tunnel(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  world.habit = HABIT_NONE;
  say(&world, "GET /ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly");
  story_is(&world, "GET(/ws) end ");
  struct response_head head = {.status = 101};
  world.stream->ops->send_response(world.stream, &head);
  world.stream->ops->tunnel(world.stream);
  run(&world);
  seen_is(&world, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
  story_is(&world, "body(early) ");
  struct span part = SPAN("down");
  world.stream->ops->send_body(world.stream, &part, 1);
  say(&world, "GET / HTTP/1.1\r\n\r\n");
  seen_is(&world, "down");
  story_is(&world, "body(GET / HTTP/1.1\r\n\r\n) ");
  world.stream->ops->pause(world.stream, PAUSE_SINK_FULL);
  say(&world, "later");
  story_is(&world, "");
  world.stream->ops->resume(world.stream, PAUSE_SINK_FULL);
  run(&world);
  story_is(&world, "body(later) ");
  link_end(world.peer);
  run(&world);
  story_is(&world, "half ");
  world.stream->ops->send_body(world.stream, &part, 1);
  world.stream->ops->half_close(world.stream);
  run(&world);
  seen_is(&world, "down");
  assert_true(world.peer_ended);
  done(&world, false);
  run(&world);
  story_is(&world, "closed ");
  end(&world);
}

static void test_shutdown(void **state) {
  (void)state;
  struct world world;
  begin(&world); /* idle */
  codec_client_shutdown(world.client);
  run(&world);
  story_is(&world, "closed ");
  end(&world);
  begin(&world); /* a head that has begun */
  say(&world, "GET / HTTP/1.1\r\n");
  codec_client_shutdown(world.client);
  say(&world, "Host: h\r\n\r\n");
  seen_is(&world, OK_CLOSE);
  end(&world);
  begin(&world); /* in an exchange */
  world.habit = HABIT_NONE;
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  codec_client_shutdown(world.client);
  run(&world);
  answer(&world, 200, "ok");
  done(&world, false);
  run(&world);
  seen_is(&world, OK_CLOSE);
  story_is(&world, "GET(/) end closed ");
  end(&world);
  struct codec_client_limits two = ordinary; /* enough requests */
  two.max_requests = 2;
  begin_with(&world, two);
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
  seen_is(&world, OK OK_CLOSE);
  story_is(&world, "GET(/) end GET(/) end closed ");
  end(&world);
  begin(&world); /* closed under an exchange */
  world.habit = HABIT_NONE;
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  codec_client_close(world.client);
  run(&world);
  story_is(&world, "GET(/) end abort(cancelled) closed ");
  end(&world);
}

static void test_timeouts(void **state) {
  (void)state;
  struct codec_client_limits quick = ordinary;
  quick.header_timeout_ms = quick.body_timeout_ms = 80;
  quick.idle_timeout_ms = 80;
  struct world world;
  begin_with(&world, quick); /* nothing came */
  wait_for(&world, &world.is_closed);
  story_is(&world, "closed ");
  seen_is(&world, "");
  end(&world);
  begin_with(&world, quick); /* a head that stalls, though bytes trickle */
  for (int i = 0; i < 40 && !world.is_closed; i++) {
    if (!world.peer_ended) link_write_span(world.peer, SPAN("G"));
    loop_run_once(&world.loop, 10);
    if (world.length) break;
  }
  wait_for(&world, &world.is_closed);
  story_is(&world, "bad(408) closed ");
  seen_is(&world, "HTTP/1.1 408 Request Time-out\r\nX-Test: 1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbad");
  end(&world);
  begin_with(&world, quick); /* idle between requests */
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  wait_for(&world, &world.is_closed);
  story_is(&world, "GET(/) end closed ");
  end(&world);
  begin_with(&world, quick); /* a body that stalls */
  say(&world, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab");
  wait_for(&world, &world.is_closed);
  story_is(&world, "POST(/) body(ab) abort(timed out) closed ");
  end(&world);
  begin_with(&world, quick); /* but not while we do not read it, nor while we think about the answer */
  world.habit = HABIT_NONE;
  world.pauses_at_body = true;
  say(&world, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab");
  for (int i = 0; i < 20; i++) loop_run_once(&world.loop, 10);
  assert_false(world.is_closed);
  world.stream->ops->resume(world.stream, PAUSE_SINK_FULL);
  say(&world, "cde");
  for (int i = 0; i < 20; i++) loop_run_once(&world.loop, 10);
  story_is(&world, "POST(/) body(ab) body(cde) end ");
  answer(&world, 200, "ok");
  done(&world, false);
  end(&world);
  quick = ordinary;
  quick.send_timeout_ms = 80;
  begin_with(&world, quick); /* a client that does not read */
  world.habit = HABIT_NONE;
  say(&world, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  link_pause(world.peer);
  struct response_head head = {.status = 200, .body = {BODY_CHUNKED, 0}};
  world.stream->ops->send_response(world.stream, &head);
  char *data = calloc(1, 500000);
  struct span part = span_make(data, 500000);
  for (int i = 0; i < 4; i++) world.stream->ops->send_body(world.stream, &part, 1);
  free(data);
  run(&world);
  if (world.stream->ops->is_full(world.stream)) {
    wait_for(&world, &world.is_closed);
    story_is(&world, "GET(/) end abort(timed out) closed ");
  } else { /* the memory link took it all */
    world.stream->ops->send_end(world.stream, NULL);
    done(&world, false);
  }
  end(&world);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_keep_alive),      cmocka_unit_test(test_pipelining),
      cmocka_unit_test(test_bytes),           cmocka_unit_test(test_bad),
      cmocka_unit_test(test_framings),        cmocka_unit_test(test_lengths_that_lie),
      cmocka_unit_test(test_response_fields), cmocka_unit_test(test_continue),
      cmocka_unit_test(test_early_answer),    cmocka_unit_test(test_pause),
      cmocka_unit_test(test_client_leaves),   cmocka_unit_test(test_back_pressure),
      cmocka_unit_test(test_tunnel),          cmocka_unit_test(test_shutdown),
      cmocka_unit_test(test_timeouts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
