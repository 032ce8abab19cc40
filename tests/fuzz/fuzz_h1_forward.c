/* Fuzz target: a message that is read and written on. Whatever came in, what goes out is exactly one message that our own reader takes, with the method,
 * the body and the framing that were read. First byte: bit 0 an answer in place of a request, bit 1 an answer to HEAD. */
#include <stdint.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/limits.h"
#include "http/h1_parse.h"
#include "http/h1_write.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct h1_rules rules = {LIMIT_HEAD_BYTES, LIMIT_HEAD_BYTES, LIMIT_HEADER_FIELDS, false, true};

static struct loop loop;
static struct counters counters;
static struct log logs;
static struct link *ends[2];
static struct buffer out;

static void expect(int condition) {
  if (!condition) abort();
}

static void on_open(void *owner, int status) { (void)owner, (void)status; }
static size_t on_read(void *owner, const char *data, size_t length) {
  (void)owner;
  buffer_append(&out, span_make(data, length));
  return length;
}
static void on_end(void *owner, int error) { (void)owner, (void)error; }
static void on_drain(void *owner) { (void)owner; }
static const struct link_events events = {on_open, on_read, on_end, on_drain};

static void start(void) {
  if (ends[0]) return;
  expect(loop_init(&loop, &counters, &logs) == 0);
  link_pair(&loop, ends);
  for (int i = 0; i < 2; i++) {
    link_set_owner(ends[i], &events, &loop);
    link_start(ends[i]);
  }
}

/* All that was written, as the other end sees it. */
static struct span written(const struct h1_sink *sink) {
  loop_flush(&loop);
  while (buffer_length(&out) < sink->bytes) loop_run_once(&loop, 0);
  expect(buffer_length(&out) == sink->bytes);
  return buffer_span(&out);
}

struct message {
  struct h1_parse parse;
  struct arena arena;
  struct request_head request;
  struct response_head response;
  struct buffer body;
  bool is_answer, is_whole;
  size_t used;
};

/* Reads one message; false: there is none that is whole and good. */
static bool take(struct message *message, bool is_answer, struct span method, struct span bytes) {
  struct span piece;
  message->is_answer = is_answer;
  message->used = 0;
  arena_init(&message->arena, NULL, 0);
  h1_parse_init(&message->parse, is_answer ? HEAD_RESPONSE : HEAD_REQUEST);
  if (bytes.length == 0 || h1_parse_gather(&message->parse, bytes.data, bytes.length, &rules, &message->used, &piece) != H1_GATHER_READY) return false;
  struct head_verdict verdict = is_answer ? h1_parse_response(&message->parse, piece, method, &message->arena, &message->response)
                                          : h1_parse_request(&message->parse, piece, &rules, &message->arena, &message->request);
  h1_parse_head_done(&message->parse);
  if (verdict.status) return false;
  while (message->parse.phase != H1_DONE) {
    size_t taken = 0;
    piece = (struct span){NULL, 0};
    if (message->used == bytes.length) return h1_parse_finish(&message->parse);
    if (h1_parse_body(&message->parse, bytes.data + message->used, bytes.length - message->used, &taken, &piece) == H1_EVENT_BAD) return false;
    message->used += taken;
    buffer_append(&message->body, piece);
  }
  return true;
}

static void drop(struct message *message) {
  h1_parse_free(&message->parse);
  buffer_free(&message->body);
  arena_free(&message->arena);
}

static void write_on(struct message *message, struct span method, struct h1_sink *sink) {
  if (message->is_answer) {
    const struct response_head *head = &message->response;
    bool has_body = status_has_body(head->status, method);
    sink->framing = !has_body ? BODY_NONE : head->body.framing == BODY_UNTIL_CLOSE ? BODY_CHUNKED : head->body.framing;
    sink->left = head->body.length;
    bool is_declared = !has_body && head->body.framing == BODY_LENGTH && head->status >= 200 && head->status != 204;
    h1_write_response(sink, ends[0], &message->arena, head, H1_CONNECTION_IMPLIED, head->upgrade, is_declared);
  } else {
    if (message->request.host.length == 0) message->request.host = SPAN("10.0.0.1:80"); /* HTTP/1.0; the endpoint's, as upstream_head does */
    h1_write_request(sink, ends[0], &message->arena, &message->request);
  }
  struct span body = buffer_span(&message->body);
  if (body.length) h1_write_body(sink, ends[0], &body, 1);
  h1_write_end(sink, ends[0], &message->arena, message->parse.trailers);
  expect(!sink->is_wrong);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2 || size > 32768) return 0;
  start();
  struct message in = {.used = 0}, again = {.used = 0};
  bool is_answer = data[0] & 1;
  struct span method = data[0] & 2 ? SPAN("HEAD") : SPAN("GET");
  if (take(&in, is_answer, method, span_make((const char *)data + 1, size - 1))) {
    struct h1_sink sink = {.framing = BODY_NONE};
    write_on(&in, method, &sink);
    struct span bytes = written(&sink);
    expect(take(&again, is_answer, method, bytes) && again.used == bytes.length);
    expect(span_equal(buffer_span(&in.body), buffer_span(&again.body)));
    if (is_answer) {
      expect(in.response.status == again.response.status);
    } else {
      expect(span_equal(in.request.method, again.request.method) && span_equal(in.request.target, again.request.target));
      expect(in.request.body.framing == again.request.body.framing || in.request.body.framing == BODY_NONE);
      expect(in.request.upgrade.length == again.request.upgrade.length);
    }
    buffer_free(&out);
    out = (struct buffer){0};
    drop(&again);
  }
  drop(&in);
  return 0;
}
