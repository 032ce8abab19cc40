/* The upstream side of the HTTP/1 codec over a pair of memory links: raw bytes at one end, streams at the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/limits.h"
#include "http/codec.h"

struct world {
  struct loop loop;
  struct counters counters;
  struct log log;
  struct link *peer; /* the raw end */
  struct codec_upstream *upstream;
  struct codec_stream *stream;
  struct arena arena;
  bool pauses_at_body, peer_ended, stays_after_abort;
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

static void done(struct world *world, bool is_abort) {
  struct codec_stream *stream = world->stream;
  world->stream = NULL;
  if (is_abort) {
    stream->ops->abort(stream);
    world->upstream = NULL;
  } else {
    bool is_reusable = codec_upstream_is_reusable(world->upstream);
    stream->ops->finish(stream);
    assert_int_equal(codec_upstream_is_reusable(world->upstream), is_reusable);
    tell(world, is_reusable ? "kept " : "dropped ");
    if (!is_reusable) world->upstream = NULL;
  }
  arena_free(&world->arena);
}

static void on_head(void *owner) {
  struct world *world = owner;
  tell(world, "head(%d) ", world->stream->response->status);
}
static void on_informational(void *owner, const struct response_head *head) { tell(owner, "informational(%d) ", head->status); }
static void on_body(void *owner, struct span data) {
  struct world *world = owner;
  tell(world, "body(%.*s) ", (int)data.length, data.data);
  if (world->pauses_at_body) world->stream->ops->pause(world->stream, PAUSE_SINK_FULL);
}
static void on_end(void *owner) {
  struct world *world = owner;
  tell(world, "end ");
  for (unsigned i = 0; world->stream->trailers && i < world->stream->trailers->count; i++)
    tell(world, "trailer(%.*s) ", (int)world->stream->trailers->items[i].name.length, world->stream->trailers->items[i].name.data);
}
static void on_drain(void *owner) { tell(owner, "drain "); }
static void on_half_close(void *owner) { tell(owner, "half "); }
static void on_abort(void *owner, int error) {
  struct world *world = owner;
  tell(world, "abort(%s, %s%s) ", error_text(error), world->stream->answer_bytes ? "begun" : "nothing", world->stream->is_request_on_wire ? "" : ", unsent");
  done(world, true);
}

static const struct codec_events events = {on_head, on_informational, on_body, on_end, on_drain, on_half_close, on_abort};

static void on_idle_close(void *owner, struct codec_upstream *upstream) {
  struct world *world = owner;
  assert_ptr_equal(upstream, world->upstream);
  world->upstream = NULL;
  tell(world, "left ");
}
static const struct codec_upstream_events upstream_events = {on_idle_close};

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

static void begin(struct world *world) {
  struct link *ends[2];
  memset(world, 0, sizeof *world);
  assert_int_equal(loop_init(&world->loop, &world->counters, &world->log), 0);
  link_pair(&world->loop, ends);
  world->peer = ends[0];
  link_set_owner(ends[0], &peer_events, world);
  link_start(ends[0]);
  world->upstream = h1_upstream_new(ends[1], &upstream_events, world);
  link_start(ends[1]);
}

static void end(struct world *world) {
  if (world->stream) done(world, true);
  if (world->upstream) codec_upstream_close(world->upstream);
  if (world->peer) link_close(world->peer);
  run(world);
  assert_int_equal(world->loop.live_links, 0);
  buffer_free(&world->seen);
  loop_free(&world->loop);
}

static struct request_head head_of(struct world *world, const char *method, const char *target) {
  struct request_head head = {
      .method = span_of(method), .target = span_of(target), .host = SPAN("h"), .version_major = 1, .version_minor = 1, .keep_alive = true};
  headers_init(&head.headers, &world->arena);
  return head;
}

static void open_stream(struct world *world) {
  arena_init(&world->arena, NULL, 0);
  world->stream = codec_upstream_open(world->upstream, &world->arena);
  world->stream->events = &events;
  world->stream->owner = world;
}

static void ask(struct world *world, const char *method) {
  open_stream(world);
  struct request_head head = head_of(world, method, "/");
  world->stream->ops->send_request(world->stream, &head);
  world->stream->ops->send_end(world->stream, NULL);
  run(world);
  buffer_consume(&world->seen, buffer_length(&world->seen));
}

static void test_requests(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  open_stream(&world);
  struct request_head head = head_of(&world, "POST", "/a b?c\r\nX: y");
  headers_add(&head.headers, HEADER_ACCEPT, SPAN("Accept"), SPAN("*"));
  headers_add(&head.headers, HEADER_HOST, SPAN("Host"), SPAN("other"));
  headers_add(&head.headers, HEADER_EXPECT, SPAN("Expect"), SPAN("100-continue"));
  headers_add(&head.headers, HEADER_CONTENT_LENGTH, SPAN("Content-Length"), SPAN("9"));
  headers_add(&head.headers, HEADER_TRANSFER_ENCODING, SPAN("Transfer-Encoding"), SPAN("x"));
  headers_add(&head.headers, HEADER_OTHER, SPAN("X-Split"), SPAN("a\r\nb"));
  head.body = (struct message_body){BODY_LENGTH, 3};
  world.stream->ops->send_request(world.stream, &head);
  struct span parts[2] = {SPAN("ab"), SPAN("c")};
  world.stream->ops->send_body(world.stream, parts, 2);
  world.stream->ops->send_end(world.stream, NULL);
  run(&world);
  seen_is(&world, "POST /a%20b?c%0D%0AX:%20y HTTP/1.1\r\nHost: other\r\nAccept: *\r\nContent-Length: 3\r\n\r\nabc");
  say(&world, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  done(&world, false);
  story_is(&world, "head(200) body(ok) end kept ");

  open_stream(&world);
  head = head_of(&world, "PUT", "/");
  head.body.framing = BODY_CHUNKED;
  head.accepts_trailers = true;
  world.stream->ops->send_request(world.stream, &head);
  world.stream->ops->send_body(world.stream, parts, 2);
  struct headers trailers;
  headers_init(&trailers, &world.arena);
  headers_add(&trailers, HEADER_OTHER, SPAN("T"), SPAN("1"));
  world.stream->ops->send_end(world.stream, &trailers);
  run(&world);
  seen_is(&world, "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n\r\n3\r\nabc\r\n0\r\nT: 1\r\n\r\n");
  say(&world, "HTTP/1.1 204 No Content\r\n\r\n");
  done(&world, false);
  story_is(&world, "head(204) end kept ");

  open_stream(&world);
  head = head_of(&world, "POST", "/");
  world.stream->ops->send_request(world.stream, &head);
  run(&world);
  seen_is(&world, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
  say(&world, "HTTP/1.1 204 No Content\r\n\r\n");
  done(&world, false);
  story_is(&world, "head(204) end kept ");

  open_stream(&world);
  head = head_of(&world, "GET", "/");
  head.keep_alive = false;
  world.stream->ops->send_request(world.stream, &head);
  run(&world);
  seen_is(&world, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
  say(&world, "HTTP/1.1 204 No Content\r\n\r\n");
  done(&world, false);
  story_is(&world, "head(204) end dropped ");
  run(&world);
  assert_true(world.peer_ended);
  end(&world);
}

static const struct {
  const char *method, *text, *story; /* then finish */
} answers[] = {
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "head(200) body(ok) end kept "},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "head(200) end kept "},
    {"GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nT: 1\r\n\r\n", "head(200) body(ok) end trailer(T) kept "},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok", "head(200) body(ok) end dropped "},
    {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "head(200) body(ok) end dropped "},
    {"GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", "head(200) body(ok) end kept "},
    {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "head(200) end kept "},
    {"HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "head(200) end dropped "}, /* bytes that nobody asked for */
    {"GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n", "head(304) end kept "},
    {"GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "head(200) body(ok) end dropped "},
    {"GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
     "informational(100) informational(103) head(200) end kept "},
};

static void test_answers(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof answers / sizeof *answers; i++)
    for (int by_bytes = 0; by_bytes < 2; by_bytes++) {
      struct world world;
      begin(&world);
      ask(&world, answers[i].method);
      const char *text = answers[i].text;
      if (by_bytes) {
        for (size_t at = 0; at < strlen(text); at++) {
          link_write_span(world.peer, span_make(text + at, 1));
          run(&world);
        }
      } else {
        say(&world, text);
      }
      assert_non_null(world.stream);
      assert_int_equal(world.stream->answer_bytes <= strlen(text), 1);
      done(&world, false);
      if (by_bytes && strstr(world.story, "body(")) assert_non_null(strstr(world.story, "body(o) body(k) end"));
      else story_is(&world, answers[i].story);
      end(&world);
    }
}

static const struct {
  const char *text;
  bool closes;
  const char *story;
} failures[] = {
    {"", true, "abort(connection closed by peer, nothing) "},
    {"HTT", true, "abort(connection closed by peer, begun) "},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", true, "head(200) body(ab) abort(connection closed by peer, begun) "},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", true, "head(200) body(ab) abort(connection closed by peer, begun) "},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", false, "abort(protocol error, begun) "},
    {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", false, "abort(protocol error, begun) "},
    {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n", false, "head(200) body(ab) abort(protocol error, begun) "},
    {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", false, "abort(protocol error, begun) "},
    {"SSH-2.0-OpenSSH\r\n\r\n", false, "abort(protocol error, begun) "},
    {"HTTP/1.1 200 OK\nX: y\n\n", false, "abort(protocol error, begun) "},
};

static void test_failures(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
    struct world world;
    begin(&world);
    ask(&world, "GET");
    if (failures[i].text[0]) say(&world, failures[i].text);
    if (failures[i].closes) {
      link_close(world.peer);
      world.peer = NULL;
      run(&world);
    }
    story_is(&world, failures[i].story);
    end(&world);
  }
  struct world world;
  begin(&world); /* gone before anything was sent */
  open_stream(&world);
  link_close(world.peer);
  world.peer = NULL;
  run(&world);
  story_is(&world, "abort(connection closed by peer, nothing, unsent) ");
  end(&world);
  begin(&world); /* more 1xx than anybody means */
  ask(&world, "GET");
  for (int i = 0; i < LIMIT_INFORMATIONAL + 1; i++) link_write_span(world.peer, SPAN("HTTP/1.1 102 Processing\r\n\r\n"));
  run(&world);
  assert_non_null(strstr(world.story, "abort(limit reached, begun) "));
  end(&world);
}

static void test_until_close(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  ask(&world, "GET");
  say(&world, "HTTP/1.1 200 OK\r\n\r\nab");
  story_is(&world, "head(200) body(ab) ");
  say(&world, "cd");
  link_end(world.peer);
  run(&world);
  done(&world, false);
  story_is(&world, "body(cd) end dropped ");
  end(&world);
  begin(&world); /* cut, not ended */
  ask(&world, "GET");
  say(&world, "HTTP/1.1 200 OK\r\n\r\nab");
  link_reset(world.peer);
  world.peer = NULL;
  run(&world);
  assert_non_null(strstr(world.story, "head(200) body(ab) abort("));
  end(&world);
}

static void test_idle(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  assert_true(codec_upstream_is_reusable(world.upstream));
  link_end(world.peer);
  run(&world);
  story_is(&world, "left ");
  end(&world);
  begin(&world);
  ask(&world, "GET");
  say(&world, "HTTP/1.1 204 No Content\r\n\r\n");
  done(&world, false);
  say(&world, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"); /* for whom? */
  story_is(&world, "head(204) end kept left ");
  assert_true(world.peer_ended);
  end(&world);
  begin(&world); /* and between taking it and asking */
  open_stream(&world);
  say(&world, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
  story_is(&world, "abort(protocol error, nothing, unsent) ");
  end(&world);
}

static void test_early_answer(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  open_stream(&world);
  struct request_head head = head_of(&world, "POST", "/");
  head.body = (struct message_body){BODY_LENGTH, 10};
  world.stream->ops->send_request(world.stream, &head);
  struct span part = SPAN("ab");
  world.stream->ops->send_body(world.stream, &part, 1);
  say(&world, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n");
  done(&world, false);
  story_is(&world, "head(413) end dropped ");
  end(&world);
}

static void test_pause(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  ask(&world, "GET");
  world.pauses_at_body = true;
  say(&world, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n");
  story_is(&world, "head(200) body(a) ");
  world.stream->ops->resume(world.stream, PAUSE_SINK_FULL);
  run(&world);
  story_is(&world, "body(b) ");
  world.stream->ops->resume(world.stream, PAUSE_SINK_FULL);
  run(&world);
  story_is(&world, "end ");
  done(&world, false);
  story_is(&world, "kept ");
  end(&world);
}

static void test_tunnel(void **state) {
  (void)state;
  struct world world;
  begin(&world);
  open_stream(&world);
  struct request_head head = head_of(&world, "GET", "/ws");
  head.upgrade = SPAN("websocket");
  world.stream->ops->send_request(world.stream, &head);
  world.stream->ops->send_end(world.stream, NULL);
  run(&world);
  seen_is(&world, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
  say(&world, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly");
  story_is(&world, "head(101) ");
  assert_int_equal(world.stream->response->upgrade.length, 9);
  world.stream->ops->tunnel(world.stream);
  run(&world);
  story_is(&world, "body(early) ");
  struct span part = SPAN("up");
  world.stream->ops->send_body(world.stream, &part, 1);
  say(&world, "down");
  seen_is(&world, "up");
  link_end(world.peer);
  run(&world);
  story_is(&world, "body(down) half ");
  world.stream->ops->half_close(world.stream);
  done(&world, false);
  story_is(&world, "dropped ");
  end(&world);
  begin(&world); /* the upstream may refuse, and stay */
  open_stream(&world);
  head = head_of(&world, "GET", "/ws");
  head.upgrade = SPAN("websocket");
  world.stream->ops->send_request(world.stream, &head);
  say(&world, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
  done(&world, false);
  story_is(&world, "head(403) end kept ");
  end(&world);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_requests),    cmocka_unit_test(test_answers), cmocka_unit_test(test_failures),
                                     cmocka_unit_test(test_until_close), cmocka_unit_test(test_idle),    cmocka_unit_test(test_early_answer),
                                     cmocka_unit_test(test_pause),       cmocka_unit_test(test_tunnel)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
