/* The raw head check: decides, over bytes exactly as they came, whether a head may be looked at at all. It shares no code with the parser that
 * runs after it, so that a message which the two would read differently is refused by one of them. It is stricter than RFC 9112 asks where
 * leniency is what request smuggling lives from: bare CR or LF, folding, repeated framing fields, codings other than "chunked". Pure; any thread. */
#include "http/head_check.h"

#include <stdint.h>

#include "base/limits.h"
#include "http/scan.h"
#include "http/uri.h"

static const struct head_verdict fine = {0, NULL, REACHED_NONE};

size_t head_find_end(const char *data, size_t length, size_t from) {
  /* A line feed may be the last byte of what was searched before. */
  const char *at = data + (from > 2 ? from - 2 : 0), *end = data + length;
  while (at < end) {
    const char *feed = memchr(at, '\n', (size_t)(end - at));
    if (feed == NULL) return 0;
    size_t left = (size_t)(end - feed) - 1;
    if (left >= 1 && feed[1] == '\n') return (size_t)(feed - data) + 2; /* bare LF: complete, so that it is refused now and not at a timeout */
    if (left >= 2 && feed[1] == '\r' && feed[2] == '\n') return (size_t)(feed - data) + 3;
    at = feed + 1;
  }
  return 0;
}

/* What fields say together. */
struct survey {
  enum head_kind kind;
  bool is_http_1_1, is_absolute;
  unsigned hosts, lengths, encodings;
  struct head_facts *facts;
};

/* Why a control character ends a line's text wrongly. */
static struct head_verdict refuse_control(const char *at, const char *end) {
  if (*at == '\r') return REFUSE(400, at + 1 < end ? "bare CR in a head" : "head is not complete");
  if (*at == '\n') return REFUSE(400, "bare LF in a head");
  if (*at == '\0') return REFUSE(400, "NUL in a head");
  return REFUSE(400, "control character in a head");
}

static bool is_digits(struct span text) {
  for (size_t i = 0; i < text.length; i++)
    if (!(scan_class[(unsigned char)text.data[i]] & SCAN_DIGIT)) return false;
  return text.length > 0;
}

static struct head_verdict check_version(struct span version, struct survey *survey) {
  if (version.length != 8 || memcmp(version.data, "HTTP/", 5) != 0 || version.data[6] != '.' || !is_digits(span_make(version.data + 5, 1)) ||
      !is_digits(span_make(version.data + 7, 1)))
    return REFUSE(400, "malformed HTTP version");
  if (version.data[5] != '1' || version.data[7] > '1') return REFUSE(505, "HTTP version not supported");
  survey->is_http_1_1 = version.data[7] == '1';
  return fine;
}

/* Upper-case letters, digits, "-" and "_": "get" is not GET to one server and is to another. */
static bool is_method(struct span method) {
  for (size_t i = 0; i < method.length; i++) {
    char c = method.data[i];
    if (!((c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) return false;
  }
  return method.length > 0 && method.length <= 32;
}

static struct head_verdict check_target(struct span target, struct span method, struct survey *survey) {
  if (target.length == 0) return REFUSE(400, "no request target");
  for (size_t i = 0; i < target.length; i++) {
    unsigned char c = (unsigned char)target.data[i];
    if (c <= 0x20 || c >= 0x7f) return REFUSE(400, "byte in the request target that is not allowed there");
    if (c == '#') return REFUSE(400, "fragment in the request target");
  }
  struct span host, port;
  if (span_equal(method, SPAN("CONNECT"))) return uri_split_authority(target, &host, &port) && port.length ? fine : REFUSE(400, "malformed CONNECT target");
  if (target.data[0] == '/') return fine;
  if (target.length == 1 && target.data[0] == '*') return span_equal(method, SPAN("OPTIONS")) ? fine : REFUSE(400, "\"*\" is for OPTIONS only");
  struct span authority = uri_authority(target);
  if (authority.data == NULL) return REFUSE(400, "request target of an unknown form");
  if (!uri_split_authority(authority, &host, &port)) return REFUSE(400, "malformed authority in the request target");
  survey->is_absolute = true;
  return fine;
}

static struct head_verdict check_request_line(struct span line, struct survey *survey) {
  size_t first = span_find(line, ' ');
  struct span method = span_make(line.data, first);
  if (!is_method(method)) return REFUSE(400, "malformed method");
  if (first == line.length) return REFUSE(400, "malformed request line");
  struct span rest = span_skip(line, first + 1);
  size_t second = span_find(rest, ' ');
  if (second == rest.length) return REFUSE(400, "request line without a version");
  struct head_verdict verdict = check_version(span_skip(rest, second + 1), survey);
  if (verdict.status) return verdict;
  return check_target(span_make(rest.data, second), method, survey);
}

static struct head_verdict check_status_line(struct span line, struct survey *survey) {
  if (line.length < 12) return REFUSE(400, "malformed status line");
  struct head_verdict verdict = check_version(span_make(line.data, 8), survey);
  if (verdict.status) return verdict;
  if (line.data[8] != ' ' || !is_digits(span_make(line.data + 9, 3)) || line.data[9] == '0') return REFUSE(400, "malformed status");
  if (line.length > 12 && line.data[12] != ' ') return REFUSE(400, "malformed status line");
  return fine;
}

/* Framing fields: one of a kind, no tabs (which parsers trim differently), nothing but what we would write ourselves. */
static struct head_verdict check_length(struct span value, struct survey *survey) {
  unsigned long long number;
  if (survey->lengths++) return REFUSE(400, "more than one Content-Length");
  if (!is_digits(value) || !span_to_u64(value, INT64_MAX, &number)) return REFUSE(400, "malformed Content-Length");
  return fine;
}

static struct head_verdict check_encoding(struct span value, struct survey *survey) {
  if (survey->encodings++) return REFUSE(400, "more than one Transfer-Encoding");
  if (!survey->is_http_1_1) return REFUSE(400, "Transfer-Encoding in HTTP/1.0");
  if (span_equal_nocase(value, SPAN("chunked"))) return fine;
  struct span rest = value, coding, last = {NULL, 0};
  bool is_list_of_tokens = span_find(value, '\t') == value.length;
  while (span_next_item(&rest, ',', &coding)) {
    is_list_of_tokens = is_list_of_tokens && scan_token(coding.data, coding.length) == coding.length && !span_equal_nocase(last, SPAN("chunked"));
    last = coding;
  }
  if (is_list_of_tokens && span_equal_nocase(last, SPAN("chunked"))) return REFUSE(501, "Transfer-Encoding with another coding than chunked");
  return REFUSE(400, "malformed Transfer-Encoding");
}

static struct head_verdict check_host(struct span value, struct survey *survey) {
  struct span host, port;
  if (survey->hosts++) return REFUSE(400, "more than one Host");
  return uri_split_authority(value, &host, &port) ? fine : REFUSE(400, "malformed Host");
}

/* Value without spaces at its ends, but with tabs. */
static struct span trim_spaces(struct span value) {
  while (value.length && value.data[0] == ' ') value = span_skip(value, 1);
  while (value.length && value.data[value.length - 1] == ' ') value.length--;
  return value;
}

static struct head_verdict check_known(struct span name, struct span value, struct survey *survey) {
  bool is_length = false, is_encoding = false, is_host = false;
  switch (name.length) {
    case 4:
      is_host = survey->kind != HEAD_RESPONSE && span_equal_nocase(name, SPAN("host"));
      break;
    case 14:
      is_length = span_equal_nocase(name, SPAN("content-length"));
      break;
    case 17:
      is_encoding = span_equal_nocase(name, SPAN("transfer-encoding"));
      break;
    default:
      return fine;
  }
  if (survey->kind == HEAD_TRAILERS) return is_length || is_encoding || is_host ? REFUSE(400, "framing field in trailers") : fine;
  if (is_length) return check_length(trim_spaces(value), survey);
  if (is_encoding) return check_encoding(trim_spaces(value), survey);
  if (is_host) return check_host(span_trim(value), survey);
  return fine;
}

/* One field line at `line`; *next is set behind it. */
static struct head_verdict check_field(const char *line, const char *end, struct survey *survey, const char **next) {
  if (*line == ' ' || *line == '\t') return REFUSE(400, "folded field line");
  size_t length = scan_token(line, (size_t)(end - line));
  const char *at = line + length;
  bool is_odd = false;
  while (at < end && *at != ':') { /* not a token: see whether it is merely unusual */
    if (scan_is_control((unsigned char)*at))
      return *at == '\r' && at + 1 < end && at[1] == '\n' ? REFUSE(400, "field line without a colon") : refuse_control(at, end);
    if (*at == ' ' || *at == '\t') return REFUSE(400, "space in or behind a field name");
    is_odd = true;
    at++;
  }
  if (at == end) return REFUSE(400, "field line without a colon");
  struct span name = span_make(line, (size_t)(at - line));
  if (name.length == 0) return REFUSE(400, "empty field name");
  if (name.length > LIMIT_HEADER_NAME_BYTES) return REFUSE_LIMIT(400, "field name too long", HEADER_NAME_BYTES);
  if (is_odd && survey->facts == NULL) return REFUSE(400, "field name that is not a token");
  const char *value = at + 1;
  at = value + scan_text(value, (size_t)(end - value));
  if (at == end) return REFUSE(400, "head is not complete");
  if (at[0] != '\r' || at + 1 == end || at[1] != '\n') return refuse_control(at, end);
  *next = at + 2;
  if (survey->facts) {
    survey->facts->fields++;
    survey->facts->odd_names += is_odd;
  }
  return check_known(name, span_make(value, (size_t)(at - value)), survey);
}

static struct head_verdict check_start(struct span head, size_t max_line, struct survey *survey, const char **next) {
  size_t length = scan_text(head.data, head.length);
  if (length > max_line)
    return survey->kind == HEAD_REQUEST ? REFUSE_LIMIT(414, "request line too long", REQUEST_LINE_BYTES)
                                        : REFUSE_LIMIT(400, "status line too long", HEAD_BYTES);
  const char *at = head.data + length, *end = head.data + head.length;
  if (at == end) return REFUSE(400, "head is not complete");
  if (at[0] != '\r' || at + 1 == end || at[1] != '\n') return refuse_control(at, end);
  *next = at + 2;
  struct span line = span_make(head.data, length);
  return survey->kind == HEAD_REQUEST ? check_request_line(line, survey) : check_status_line(line, survey);
}

struct head_verdict head_check_facts(enum head_kind kind, struct span head, size_t max_line, unsigned max_fields, struct head_facts *facts) {
  struct survey survey = {.kind = kind, .facts = facts};
  const char *at = head.data, *end = head.data + head.length;
  struct head_verdict verdict = fine;
  unsigned fields = 0;
  if (kind != HEAD_TRAILERS) verdict = check_start(head, max_line, &survey, &at);
  while (verdict.status == 0) {
    if (at == end) return REFUSE(400, "head is not complete");
    if (*at == '\r' && at + 1 < end && at[1] == '\n') break;
    if (++fields > max_fields) return REFUSE_LIMIT(431, "too many fields", HEADER_FIELDS);
    verdict = check_field(at, end, &survey, &at);
  }
  if (verdict.status) return verdict;
  if (at + 2 != end) return REFUSE(400, "bytes behind the head");
  if (survey.lengths && survey.encodings) return REFUSE(400, "Content-Length with Transfer-Encoding");
  if (kind == HEAD_REQUEST && survey.is_http_1_1 && survey.hosts == 0) return REFUSE(400, "no Host");
  return fine;
}

struct head_verdict head_check(enum head_kind kind, struct span head, size_t max_line, unsigned max_fields) {
  return head_check_facts(kind, head, max_line, max_fields, NULL);
}

/* One chunk extension at *rest, which begins with ";" (RFC 9112, 7.1.1); spaces around "=" and ";" are refused. */
static bool skip_extension(struct span *rest) {
  *rest = span_skip(*rest, 1);
  size_t name = scan_token(rest->data, rest->length);
  if (name == 0) return false;
  *rest = span_skip(*rest, name);
  if (rest->length == 0 || rest->data[0] == ';') return true;
  if (rest->data[0] != '=') return false;
  *rest = span_skip(*rest, 1);
  if (rest->length == 0) return false;
  if (rest->data[0] != '"') {
    size_t value = scan_token(rest->data, rest->length);
    *rest = span_skip(*rest, value);
    return value > 0;
  }
  size_t at = 1;
  while (at < rest->length && rest->data[at] != '"') {
    if (rest->data[at] == '\\') at++;
    at++;
  }
  if (at >= rest->length) return false;
  *rest = span_skip(*rest, at + 1);
  return true;
}

struct head_verdict head_check_chunk_line(struct span line) {
  if (line.length > LIMIT_CHUNK_LINE_BYTES) return REFUSE_LIMIT(400, "chunk line too long", CHUNK_LINE_BYTES);
  if (line.length < 2 || line.data[line.length - 2] != '\r' || line.data[line.length - 1] != '\n') return REFUSE(400, "chunk line without CRLF");
  struct span rest = span_make(line.data, line.length - 2);
  if (scan_text(rest.data, rest.length) != rest.length) return REFUSE(400, "control character in a chunk line");
  size_t digits = 0, significant = 0;
  for (; digits < rest.length; digits++) {
    char c = rest.data[digits], low = (char)(c | 0x20);
    if (!((c >= '0' && c <= '9') || (low >= 'a' && low <= 'f'))) break;
    if (significant || c != '0') significant++;
  }
  if (digits == 0) return REFUSE(400, "chunk line without a size");
  if (digits > 16 || significant > 15) return REFUSE(400, "chunk size too large"); /* 15 digits: sums of it fit 63 bits */
  rest = span_skip(rest, digits);
  while (rest.length && rest.data[0] == ';')
    if (!skip_extension(&rest)) return REFUSE(400, "malformed chunk extension");
  return rest.length == 0 ? fine : REFUSE(400, "malformed chunk size");
}
