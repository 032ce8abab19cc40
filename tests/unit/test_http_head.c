/* The raw head check and the HTTP/1 parser over hostile and ordinary heads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/limits.h"
#include "http/h1_parse.h"

static const struct h1_rules rules = {LIMIT_HEAD_BYTES, LIMIT_REQUEST_LINE_BYTES, LIMIT_HEADER_FIELDS, false, true};

struct sample {
  const char *what, *text;
  int status;
  size_t length; /* when the text holds a NUL */
};

#define HOST "Host: a\r\n"
#define GET "GET / HTTP/1.1\r\n" HOST
#define POST "POST / HTTP/1.1\r\n" HOST

static const struct sample requests[] = {
    {"plain", GET "\r\n", 0, 0},
    {"1.0 without host", "GET / HTTP/1.0\r\n\r\n", 0, 0},
    {"1.1 without host", "GET / HTTP/1.1\r\n\r\n", 400, 0},
    {"two hosts", GET "Host: b\r\n\r\n", 400, 0},
    {"two equal hosts", GET HOST "\r\n", 400, 0},
    {"two hosts in 1.0", "GET / HTTP/1.0\r\n" HOST HOST "\r\n", 400, 0},
    {"empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, 0},
    {"host with slash", "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400, 0},
    {"host with userinfo", "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", 400, 0},
    {"host with two values", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, 0},
    {"host with space", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400, 0},
    {"host with port", "GET / HTTP/1.1\r\nHost: a:8080\r\n\r\n", 0, 0},
    {"host with bad port", "GET / HTTP/1.1\r\nHost: a:80x\r\n\r\n", 400, 0},
    {"host with big port", "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n", 400, 0},
    {"host v6", "GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0, 0},
    {"host v6 open", "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400, 0},
    {"host percent", "GET / HTTP/1.1\r\nHost: a%2fb\r\n\r\n", 400, 0},
    {"absolute", "GET http://a/x HTTP/1.1\r\n" HOST "\r\n", 0, 0},
    {"absolute, other host", "GET http://b/x HTTP/1.1\r\n" HOST "\r\n", 0, 0}, /* the target wins, below */
    {"absolute, no host field", "GET http://b/x HTTP/1.1\r\n\r\n", 400, 0},
    {"absolute, userinfo", "GET http://u:p@b/x HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"absolute, empty authority", "GET http:///x HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"absolute, other scheme", "GET ftp://b/x HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"relative target", "GET x HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"star", "OPTIONS * HTTP/1.1\r\n" HOST "\r\n", 0, 0},
    {"star, get", "GET * HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"connect", "CONNECT a:443 HTTP/1.1\r\n" HOST "\r\n", 0, 0},
    {"connect without port", "CONNECT a HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"fragment", "GET /a#b HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"tab in target", "GET /a\tb HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"high byte in target", "GET /\xc3\xa4 HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"no target", "GET  HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"two spaces", "GET  / HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"space at end", "GET / HTTP/1.1 \r\n" HOST "\r\n", 400, 0},
    {"space at start", " GET / HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"tab as separator", "GET\t/ HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"lower-case method", "get / HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"method with colon", "GE:T / HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"no method", "/ HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"unknown method", "QUERY / HTTP/1.1\r\n" HOST "\r\n", 0, 0},
    {"method of RTSP", "DESCRIBE / HTTP/1.1\r\n" HOST "\r\n", 0, 0},
    {"method of ICE", "SOURCE / HTTP/1.1\r\n" HOST "\r\n", 0, 0},
    {"long method", "ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGH / HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"HTTP/0.9", "GET /\r\n\r\n", 400, 0},
    {"HTTP/1.2", "GET / HTTP/1.2\r\n" HOST "\r\n", 505, 0},
    {"HTTP/2.0", "GET / HTTP/2.0\r\n" HOST "\r\n", 505, 0},
    {"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\n", 505, 0},
    {"HTTP/1.10", "GET / HTTP/1.10\r\n" HOST "\r\n", 400, 0},
    {"HTTP/1.", "GET / HTTP/1.\r\n" HOST "\r\n", 400, 0},
    {"http/1.1", "GET / http/1.1\r\n" HOST "\r\n", 400, 0},
    {"HTTP/ 1.1", "GET / HTTP/ 1.1\r\n" HOST "\r\n", 400, 0},
    {"HTTPS/1.1", "GET / HTTPS/1.1\r\n" HOST "\r\n", 400, 0},

    {"bare LF after the first line", "GET / HTTP/1.1\n" HOST "\r\n", 400, 0},
    {"bare LF after a field", "GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", 400, 0},
    {"bare LF at the end", "GET / HTTP/1.1\r\nHost: a\n\n", 400, 0},
    {"bare LF as blank line", "GET / HTTP/1.1\r\nHost: a\r\n\n", 400, 0},
    {"bare CR in a value", GET "X: a\rb\r\n\r\n", 400, 0},
    {"bare CR before a name", GET "\rX: a\r\n\r\n", 400, 0},
    {"CR CR LF", GET "X: a\r\r\n\r\n", 400, 0},
    {"bare CR in the first line", "GET /\r HTTP/1.1\r\n" HOST "\r\n", 400, 0},
    {"NUL in a value", GET "X: a\0b\r\n\r\n", 400, sizeof(GET "X: a\0b\r\n\r\n") - 1},
    {"NUL in a name", GET "X\0: b\r\n\r\n", 400, sizeof(GET "X\0: b\r\n\r\n") - 1},
    {"NUL in the target", "GET /\0 HTTP/1.1\r\n" HOST "\r\n", 400, sizeof("GET /\0 HTTP/1.1\r\n" HOST "\r\n") - 1},
    {"control byte in a value", GET "X: a\x01\r\n\r\n", 400, 0},
    {"vertical tab before the coding",
     POST "Transfer-Encoding: \x0b"
          "chunked\r\n\r\n",
     400, 0},
    {"DEL in a value", GET "X: a\x7f\r\n\r\n", 400, 0},
    {"tab in a value", GET "X: a\tb\r\n\r\n", 0, 0},
    {"high bytes in a value", GET "X: \xff\xfe\r\n\r\n", 0, 0},
    {"folded", GET "X: a\r\n b\r\n\r\n", 400, 0},
    {"folded with tab", GET "X: a\r\n\tb\r\n\r\n", 400, 0},
    {"folded first field", "GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, 0},
    {"space before the colon", GET "X : a\r\n\r\n", 400, 0},
    {"tab before the colon", GET "X\t: a\r\n\r\n", 400, 0},
    {"length with space before the colon", POST "Content-Length : 5\r\n\r\n", 400, 0},
    {"coding with space before the colon", POST "Transfer-Encoding : chunked\r\n\r\n", 400, 0},
    {"no colon", GET "X\r\n\r\n", 400, 0},
    {"empty name", GET ": a\r\n\r\n", 400, 0},
    {"odd name, dropped", GET "X(a): b\r\n\r\n", 0, 0},
    {"odd name with high byte, dropped", GET "X\xff: b\r\n\r\n", 0, 0},
    {"space in a name", GET "X y: b\r\n\r\n", 400, 0},

    {"length", POST "Content-Length: 5\r\n\r\n", 0, 0},
    {"length 0", POST "Content-Length: 0\r\n\r\n", 0, 0},
    {"length with zeros", POST "Content-Length: 005\r\n\r\n", 0, 0},
    {"two lengths", POST "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400, 0},
    {"two equal lengths", POST "Content-Length: 5\r\ncontent-length: 5\r\n\r\n", 400, 0},
    {"list of lengths", POST "Content-Length: 5, 5\r\n\r\n", 400, 0},
    {"plus", POST "Content-Length: +5\r\n\r\n", 400, 0},
    {"minus", POST "Content-Length: -5\r\n\r\n", 400, 0},
    {"hex", POST "Content-Length: 0x5\r\n\r\n", 400, 0},
    {"space inside", POST "Content-Length: 5 0\r\n\r\n", 400, 0},
    {"tab behind", POST "Content-Length: 5\t\r\n\r\n", 400, 0},
    {"empty length", POST "Content-Length:\r\n\r\n", 400, 0},
    {"overflow", POST "Content-Length: 18446744073709551617\r\n\r\n", 400, 0},
    {"above 63 bits", POST "Content-Length: 9223372036854775808\r\n\r\n", 400, 0},
    {"63 bits", POST "Content-Length: 9223372036854775807\r\n\r\n", 0, 0},

    {"chunked", POST "Transfer-Encoding: chunked\r\n\r\n", 0, 0},
    {"Chunked", POST "transfer-encoding: Chunked\r\n\r\n", 0, 0},
    {"CL.TE", POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
    {"TE.CL", POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400, 0},
    {"TE.TE, identity first", POST "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
    {"TE.TE, twice", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
    {"TE.TE, xchunked", POST "Transfer-Encoding: xchunked\r\n\r\n", 400, 0},
    {"TE.TE, quoted", POST "Transfer-Encoding: \"chunked\"\r\n\r\n", 400, 0},
    {"TE.TE, chunked twice in one", POST "Transfer-Encoding: chunked, chunked\r\n\r\n", 400, 0},
    {"TE.TE, chunked not last", POST "Transfer-Encoding: chunked, gzip\r\n\r\n", 400, 0},
    {"TE.TE, chunked and identity", POST "Transfer-Encoding: chunked, identity\r\n\r\n", 400, 0},
    {"TE.TE, parameter", POST "Transfer-Encoding: chunked;x=1\r\n\r\n", 400, 0},
    {"TE.TE, tab before", POST "Transfer-Encoding:\tchunked\r\n\r\n", 400, 0},
    {"TE.TE, tab behind", POST "Transfer-Encoding: chunked\t\r\n\r\n", 400, 0},
    {"TE.TE, folded", POST "Transfer-Encoding:\r\n chunked\r\n\r\n", 400, 0},
    {"TE.TE, comma", POST "Transfer-Encoding: ,chunked\r\n\r\n", 501, 0},
    {"TE.TE, empty", POST "Transfer-Encoding:\r\n\r\n", 400, 0},
    {"TE.TE, one with a space before the colon", POST "Transfer-Encoding: chunked\r\nTransfer-Encoding : x\r\n\r\n", 400, 0},
    {"identity", POST "Transfer-Encoding: identity\r\n\r\n", 400, 0},
    {"gzip, chunked", POST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, 0},
    {"coding in 1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
    {"underscore coding is no coding", POST "Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 0, 0},
    {"dotted coding is no coding", POST "Transfer.Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 0, 0},
};

static size_t length_of(const struct sample *sample) { return sample->length ? sample->length : strlen(sample->text); }

static struct head_verdict parse_request(const struct sample *sample, struct arena *arena, struct request_head *request) {
  struct h1_parse parse;
  h1_parse_init(&parse, HEAD_REQUEST);
  struct head_verdict verdict = h1_parse_request(&parse, span_make(sample->text, length_of(sample)), &rules, arena, request);
  h1_parse_free(&parse);
  return verdict;
}

static void test_requests(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) {
    struct arena arena;
    struct request_head request;
    arena_init(&arena, NULL, 0);
    struct head_verdict verdict = parse_request(&requests[i], &arena, &request);
    if (verdict.status != requests[i].status)
      fail_msg("%s: %d (%s), not %d", requests[i].what, verdict.status, verdict.why ? verdict.why : "", requests[i].status);
    /* What passes the raw check, the parser must take too: it is llhttp's opinion that may never differ silently. */
    struct head_facts facts = {0, 0};
    int raw = head_check_facts(HEAD_REQUEST, span_make(requests[i].text, length_of(&requests[i])), rules.line_bytes, rules.fields, &facts).status;
    assert_int_equal(raw, requests[i].status);
    arena_free(&arena);
  }
}

static const struct sample responses[] = {
    {"plain", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", 0, 0},
    {"no reason", "HTTP/1.1 200\r\n\r\n", 0, 0},
    {"empty reason", "HTTP/1.1 200 \r\n\r\n", 0, 0},
    {"1.0", "HTTP/1.0 404 Not Found\r\n\r\n", 0, 0},
    {"two digits", "HTTP/1.1 20 OK\r\n\r\n", 400, 0},
    {"four digits", "HTTP/1.1 2000 OK\r\n\r\n", 400, 0},
    {"status 099", "HTTP/1.1 099 OK\r\n\r\n", 400, 0},
    {"no status", "HTTP/1.1  OK\r\n\r\n", 400, 0},
    {"HTTP/2", "HTTP/2.0 200 OK\r\n\r\n", 505, 0},
    {"not HTTP", "ICY 200 OK\r\nX: y\r\n\r\n", 400, 0},
    {"CL.TE", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
    {"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n", 400, 0},
    {"coding in 1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 400, 0},
    {"gzip, chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501, 0},
    {"bare LF", "HTTP/1.1 200 OK\nX: y\r\n\r\n", 400, 0},
    {"folded", "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", 400, 0},
    {"odd name", "HTTP/1.1 200 OK\r\nX@y: z\r\n\r\n", 0, 0},
    {"two hosts mean nothing here", "HTTP/1.1 200 OK\r\nHost: a\r\nHost: b\r\n\r\n", 0, 0},
    {"leading blank line", "\r\nHTTP/1.1 200 OK\r\n\r\n", 400, 0},
};

static void test_responses(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof responses / sizeof *responses; i++) {
    struct arena arena;
    struct h1_parse parse;
    struct response_head response;
    arena_init(&arena, NULL, 0);
    h1_parse_init(&parse, HEAD_RESPONSE);
    struct head_verdict verdict = h1_parse_response(&parse, span_of(responses[i].text), SPAN("GET"), &arena, &response);
    if (verdict.status != responses[i].status) fail_msg("%s: %d (%s)", responses[i].what, verdict.status, verdict.why ? verdict.why : "");
    h1_parse_free(&parse);
    arena_free(&arena);
  }
}

static void assert_span(struct span actual, const char *text) {
  if (!span_equal(actual, span_of(text))) fail_msg("\"%.*s\", not \"%s\"", (int)actual.length, actual.data ? actual.data : "", text);
}

static struct request_head parse_fine(const char *text, struct arena *arena) {
  struct request_head request;
  struct sample sample = {"", text, 0, 0};
  arena_init(arena, NULL, 0);
  struct head_verdict verdict = parse_request(&sample, arena, &request);
  if (verdict.status) fail_msg("%s: %s", text, verdict.why);
  return request;
}

static void test_meaning(void **state) {
  (void)state;
  struct arena arena;
  struct request_head r = parse_fine(
      "GET /a?b HTTP/1.1\r\nHost:  a.b:80 \r\nX-Y:\r\nKeep-Alive: 5\r\nTE: gzip, trailers\r\nConnection: TE, X-Y\r\nExpect: 100-Continue\r\n\r\n", &arena);
  assert_span(r.method, "GET");
  assert_span(r.target, "/a?b");
  assert_span(r.host, "a.b:80");
  assert_true(r.keep_alive);
  assert_true(r.accepts_trailers);
  assert_false(r.expects_continue); /* nothing follows that could be waited for */
  assert_int_equal(r.body.framing, BODY_NONE);
  assert_null(headers_find_name(&r.headers, SPAN("x-y")));
  assert_null(headers_find(&r.headers, HEADER_CONNECTION));
  assert_null(headers_find(&r.headers, HEADER_TE));
  assert_non_null(headers_find(&r.headers, HEADER_HOST));
  arena_free(&arena);

  r = parse_fine("GET http://b:81?q HTTP/1.1\r\nX-Empty:\r\nHost: a\r\nConnection: close, Host\r\n\r\n", &arena);
  assert_span(r.host, "b:81");
  assert_span(headers_get(&r.headers, HEADER_HOST), "b:81");
  assert_non_null(headers_find_name(&r.headers, SPAN("x-empty"))->value.data);
  assert_false(r.keep_alive);
  arena_free(&arena);

  r = parse_fine(
      "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
      &arena);
  assert_span(r.upgrade, "websocket");
  assert_true(r.expects_continue);
  assert_int_equal(r.body.framing, BODY_CHUNKED);
  assert_null(headers_find(&r.headers, HEADER_UPGRADE));
  assert_null(headers_find(&r.headers, HEADER_TRANSFER_ENCODING));
  arena_free(&arena);

  r = parse_fine("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n\r\n", &arena);
  assert_int_equal(r.upgrade.length, 0);
  assert_null(headers_find_name(&r.headers, SPAN("http2-settings")));
  arena_free(&arena);

  r = parse_fine("GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nX_a: 1\r\nX.b: 2\r\nX(c): 3\r\nX-d: 4\r\n\r\n", &arena);
  assert_int_equal(r.upgrade.length, 0); /* Connection does not name it */
  assert_null(headers_find_name(&r.headers, SPAN("x_a")));
  assert_null(headers_find_name(&r.headers, SPAN("x.b")));
  assert_null(headers_find_name(&r.headers, SPAN("x(c)")));
  assert_span(headers_find_name(&r.headers, SPAN("X-D"))->value, "4");
  arena_free(&arena);

  r = parse_fine("GET / HTTP/1.0\r\n\r\n", &arena);
  assert_false(r.keep_alive);
  assert_int_equal(r.host.length, 0);
  arena_free(&arena);
  r = parse_fine("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\nUpgrade: x\r\n\r\n", &arena);
  assert_true(r.keep_alive);
  arena_free(&arena);
  r = parse_fine("SOURCE /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n", &arena);
  assert_span(r.method, "SOURCE");
  assert_span(r.target, "/x");
  assert_int_equal(r.body.length, 3);
  arena_free(&arena);
}

static void test_salvage(void **state) {
  (void)state;
  struct arena arena;
  struct request_head request;
  arena_init(&arena, NULL, 0);
  struct sample sample = {"", "GET /secret HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, 0};
  assert_int_equal(parse_request(&sample, &arena, &request).status, 400);
  assert_span(request.method, "GET");
  assert_span(request.target, "/secret");
  assert_int_equal(request.headers.count, 0);
  struct sample garbage = {"", "\x16\x03\x01\r\n\r\n", 400, 0};
  assert_int_equal(parse_request(&garbage, &arena, &request).status, 400);
  assert_int_equal(request.method.length, 0);
  arena_free(&arena);
}

static void test_limits(void **state) {
  (void)state;
  char text[20000] = "GET /";
  size_t length = 5;
  memset(text + length, 'a', 9000);
  memcpy(text + length + 9000, " HTTP/1.1\r\nHost: a\r\n\r\n", 23);
  assert_int_equal(head_check(HEAD_REQUEST, span_of(text), 8192, 128).status, 414);
  length = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost: a\r\n");
  for (int i = 0; i < 127; i++) length += (size_t)sprintf(text + length, "X: %d\r\n", i);
  memcpy(text + length, "\r\n", 3);
  assert_int_equal(head_check(HEAD_REQUEST, span_of(text), 8192, 128).status, 0);
  memcpy(text + length, "X: y\r\n\r\n", 9);
  assert_int_equal(head_check(HEAD_REQUEST, span_of(text), 8192, 128).status, 431);
  length = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost: a\r\n");
  memset(text + length, 'n', LIMIT_HEADER_NAME_BYTES + 1);
  memcpy(text + length + LIMIT_HEADER_NAME_BYTES + 1, ": x\r\n\r\n", 8);
  assert_int_equal(head_check(HEAD_REQUEST, span_of(text), 8192, 128).status, 400);
  /* Naming very many fields in Connection would make dropping them costly. */
  length = (size_t)sprintf(text, "GET / HTTP/1.1\r\nHost: a\r\nConnection: a");
  for (int i = 0; i < 40; i++) length += (size_t)sprintf(text + length, ",a");
  memcpy(text + length, "\r\n\r\n", 5);
  struct arena arena;
  struct request_head request;
  arena_init(&arena, NULL, 0);
  struct sample sample = {"", text, 400, 0};
  assert_int_equal(parse_request(&sample, &arena, &request).status, 400);
  arena_free(&arena);
}

static void test_find_end(void **state) {
  (void)state;
  const char *head = "GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
  size_t end = strlen(head) - 4;
  for (size_t length = 0; length <= strlen(head); length++)
    for (size_t from = 0; from <= length && from < end; from++) assert_int_equal(head_find_end(head, length, from), length >= end ? end : 0);
  assert_int_equal(head_find_end("a\n\nb", 4, 0), 3);
  assert_int_equal(head_find_end("a\r\n\n", 4, 0), 4);
  assert_int_equal(head_find_end("a\r\n\r", 4, 0), 0);
}

static const struct sample chunk_lines[] = {
    {"", "5\r\n", 0, 0},
    {"", "0\r\n", 0, 0},
    {"", "00aF\r\n", 0, 0},
    {"", "5;a\r\n", 0, 0},
    {"", "5;a=b\r\n", 0, 0},
    {"", "5;a=\"b c\"\r\n", 0, 0},
    {"", "5;a=\"\\\"\";b\r\n", 0, 0},
    {"", "\r\n", 400, 0},
    {"", "5\n", 400, 0},
    {"", "+5\r\n", 400, 0},
    {"", "-5\r\n", 400, 0},
    {"", "0x5\r\n", 400, 0},
    {"", " 5\r\n", 400, 0},
    {"", "5 \r\n", 400, 0},
    {"", "5\t\r\n", 400, 0},
    {"", "5 ;a\r\n", 400, 0},
    {"", "5;\r\n", 400, 0},
    {"", "5;a=\r\n", 400, 0},
    {"", "5;a=\"b\r\n", 400, 0},
    {"", "5;a\rb\r\n", 400, 0},
    {"", "5g\r\n", 400, 0},
    {"", "5;a\x01\r\n", 400, 0},
    {"", ";a\r\n", 400, 0},
    {"", "5;a\nb\r\n", 400, 0},
    {"", "fffffffffffffff\r\n", 0, 0},
    {"", "ffffffffffffffff\r\n", 400, 0},
    {"", "10000000000000005\r\n", 400, 0},
    {"", "00000000000000005\r\n", 400, 0},
    {"", "5\r\r\n", 400, 0},
};

static void test_chunk_lines(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof chunk_lines / sizeof *chunk_lines; i++)
    if (head_check_chunk_line(span_of(chunk_lines[i].text)).status != chunk_lines[i].status) fail_msg("%s", chunk_lines[i].text);
  char text[400] = "5;";
  memset(text + 2, 'a', 300);
  memcpy(text + 302, "\r\n", 3);
  assert_int_equal(head_check_chunk_line(span_of(text)).status, 400);
}

/* ---- bodies: the same events however the bytes are cut ---------------------------------------------------------------------- */

struct outcome {
  char text[1024];
  size_t length;
};

static void note(struct outcome *outcome, struct span text) {
  memcpy(outcome->text + outcome->length, text.data, text.length);
  outcome->length += text.length;
  outcome->text[outcome->length] = '\0';
}

/* Reads a whole request from pieces cut after `cuts[i]` bytes, into a line that tells what came out. */
static void read_pieces(const char *text, size_t length, const size_t *cuts, int count, struct outcome *outcome) {
  struct arena arena;
  struct h1_parse parse;
  struct request_head request;
  bool has_head = false;
  *outcome = (struct outcome){.length = 0};
  arena_init(&arena, NULL, 0);
  h1_parse_init(&parse, HEAD_REQUEST);
  size_t start = 0;
  for (int i = 0; i <= count; i++) {
    size_t end = i < count ? cuts[i] : length;
    char *piece = malloc(end - start + 1); /* its own block, so that reading past it is seen */
    memcpy(piece, text + start, end - start);
    size_t at = 0, size = end - start;
    while (at < size) {
      size_t taken = 0;
      struct span data;
      if (!has_head) {
        enum h1_gather gather = h1_parse_gather(&parse, piece + at, size - at, &rules, &taken, &data);
        at += taken;
        if (gather == H1_GATHER_MORE) break;
        if (gather == H1_GATHER_TOO_LONG || h1_parse_request(&parse, data, &rules, &arena, &request).status) {
          note(outcome, SPAN("REFUSED"));
          break;
        }
        h1_parse_head_done(&parse);
        note(outcome, request.method);
        has_head = true;
        continue;
      }
      enum h1_event event = h1_parse_body(&parse, piece + at, size - at, &taken, &data);
      at += taken;
      if (event == H1_EVENT_DATA) note(outcome, data);
      if (event == H1_EVENT_BAD) note(outcome, SPAN("BAD"));
      if (event == H1_EVENT_END || event == H1_EVENT_BAD) break;
      if (event == H1_EVENT_MORE) assert_int_equal(at, size);
    }
    free(piece);
    start = end;
    if (parse.phase == H1_BROKEN) break;
  }
  if (parse.phase == H1_DONE) {
    note(outcome, SPAN("|END"));
    for (unsigned i = 0; parse.trailers && i < parse.trailers->count; i++) {
      note(outcome, SPAN("|"));
      note(outcome, parse.trailers->items[i].name);
      note(outcome, SPAN("="));
      note(outcome, parse.trailers->items[i].value);
    }
  }
  assert_true(parse.phase == H1_HEAD || parse.phase == H1_BROKEN || !h1_parse_has_partial(&parse) || parse.phase == H1_CHUNK_LINE ||
              parse.phase == H1_TRAILERS);
  h1_parse_free(&parse);
  arena_free(&arena);
}

static const struct {
  const char *text, *expected;
} bodies[] = {
    {POST "Content-Length: 5\r\n\r\nhello", "POSThello|END"},
    {POST "Content-Length: 5\r\n\r\nhell", "POSThell"},
    {POST "Content-Length: 0\r\n\r\n", "POST|END"},
    {GET "\r\n", "GET|END"},
    {GET "Upgrade: websocket\r\nConnection: upgrade\r\n\r\n", "GET|END"},
    {POST "Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 2\r\n\r\nhi", "POSThi|END"},
    {POST "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "POSThi|END"},
    {POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=\"y\"\r\n world\r\n0\r\n\r\n", "POSThello world|END"},
    {POST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "POST|END"},
    {POST "Transfer-Encoding: chunked\r\n\r\n000;a\r\nX: y\r\nZ:\r\n\r\n", "POST|END|X=y|Z="},
    {POST "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nConnection: close\r\nGrpc-Status: 0\r\n\r\n", "POSTa|END|Connection=close|Grpc-Status=0"},
    {POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\n0\r\n\r\n", "POSThelloBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n0\r\n\r\n", "POSThelloBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r0\r\n\r\n", "POSThelloBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", "POSTBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\nx\r\n", "POSTBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "POSTBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", "POSTBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n z\r\n\r\n", "POSTBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\n", "POSTBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\n0\r\n\n", "POSTBAD"},
    {POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0", "POSTabc"},
    {POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", "REFUSED"},
};

static void test_fragments(void **state) {
  (void)state;
  for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
    size_t length = strlen(bodies[i].text), cuts[512];
    struct outcome outcome;
    read_pieces(bodies[i].text, length, NULL, 0, &outcome);
    assert_string_equal(outcome.text, bodies[i].expected);
    for (size_t first = 1; first < length; first++) {
      cuts[0] = first;
      read_pieces(bodies[i].text, length, cuts, 1, &outcome);
      assert_string_equal(outcome.text, bodies[i].expected);
      for (size_t second = first + 1; second < length; second += 3) {
        cuts[1] = second;
        read_pieces(bodies[i].text, length, cuts, 2, &outcome);
        assert_string_equal(outcome.text, bodies[i].expected);
      }
    }
    for (size_t at = 0; at + 1 < length; at++) cuts[at] = at + 1;
    read_pieces(bodies[i].text, length, cuts, (int)length - 1, &outcome);
    assert_string_equal(outcome.text, bodies[i].expected);
  }
}

static void test_long_things(void **state) {
  (void)state;
  static char text[LIMIT_HEAD_BYTES + 100];
  struct h1_parse parse;
  size_t taken;
  struct span head;
  h1_parse_init(&parse, HEAD_REQUEST);
  memset(text, 'a', sizeof text);
  assert_int_equal(h1_parse_gather(&parse, text, 100, &rules, &taken, &head), H1_GATHER_MORE);
  assert_int_equal(h1_parse_gather(&parse, text, 9000, &rules, &taken, &head), H1_GATHER_TOO_LONG); /* no line of 8 KiB is waited for */
  h1_parse_reset(&parse);
  text[10] = '\n';
  assert_int_equal(h1_parse_gather(&parse, text, 20000, &rules, &taken, &head), H1_GATHER_MORE);
  assert_int_equal(h1_parse_gather(&parse, text, 20000, &rules, &taken, &head), H1_GATHER_TOO_LONG);
  h1_parse_reset(&parse);
  assert_null(parse.partial.data);
  h1_parse_free(&parse);
}

static void test_response_bodies(void **state) {
  (void)state;
  static const struct {
    const char *head, *method;
    enum h1_phase phase;
    enum body_framing framing;
    bool keep_alive;
  } table[] = {
      {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "GET", H1_LENGTH, BODY_LENGTH, true},
      {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "HEAD", H1_DONE, BODY_LENGTH, true},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD", H1_DONE, BODY_CHUNKED, true},
      {"HTTP/1.1 200 OK\r\n\r\n", "HEAD", H1_DONE, BODY_NONE, true},
      {"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", "GET", H1_DONE, BODY_LENGTH, true},
      {"HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", "GET", H1_DONE, BODY_LENGTH, true},
      {"HTTP/1.1 304 Not Modified\r\n\r\n", "GET", H1_DONE, BODY_NONE, true},
      {"HTTP/1.1 100 Continue\r\n\r\n", "GET", H1_DONE, BODY_NONE, true},
      {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "GET", H1_DONE, BODY_NONE, true},
      {"HTTP/1.1 200 OK\r\n\r\n", "GET", H1_UNTIL_CLOSE, BODY_UNTIL_CLOSE, false},
      {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", "GET", H1_LENGTH, BODY_LENGTH, false},
      {"HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", "GET", H1_LENGTH, BODY_LENGTH, true},
      {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", "GET", H1_LENGTH, BODY_LENGTH, false},
  };
  for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
    struct arena arena;
    struct h1_parse parse;
    struct response_head response;
    arena_init(&arena, NULL, 0);
    h1_parse_init(&parse, HEAD_RESPONSE);
    assert_int_equal(h1_parse_response(&parse, span_of(table[i].head), span_of(table[i].method), &arena, &response).status, 0);
    assert_int_equal(parse.phase, table[i].phase);
    assert_int_equal(response.body.framing, table[i].framing);
    assert_int_equal(response.keep_alive, table[i].keep_alive);
    h1_parse_free(&parse);
    arena_free(&arena);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_requests),    cmocka_unit_test(test_responses),       cmocka_unit_test(test_meaning),     cmocka_unit_test(test_salvage),
      cmocka_unit_test(test_limits),      cmocka_unit_test(test_find_end),        cmocka_unit_test(test_chunk_lines), cmocka_unit_test(test_fragments),
      cmocka_unit_test(test_long_things), cmocka_unit_test(test_response_bodies),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
