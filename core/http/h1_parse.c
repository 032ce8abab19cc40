/* HTTP/1 parsing. A head is looked at three times, each time for another reason: head_check over the raw bytes, llhttp over one contiguous
 * copy in the exchange's arena, and the meaning of the fields here. Where llhttp and we would frame a body differently, the message is
 * refused. llhttp sees a body only in pieces whose borders were checked raw before. The owner's loop's thread. */
#include "http/h1_parse.h"

#include "base/check.h"
#include "base/limits.h"
#include "http/scan.h"
#include "http/uri.h"

/* ---- what llhttp calls ----------------------------------------------------------------------------------------------------- */

static int extend(struct span *span, const char *at, size_t length) {
  if (span->data && span->data + span->length == at) span->length += length;
  else *span = span_make(at, length);
  return 0;
}

static int on_text(llhttp_t *http, const char *at, size_t length) { return extend(&((struct h1_parse *)http->data)->text, at, length); }
static int on_name(llhttp_t *http, const char *at, size_t length) { return extend(&((struct h1_parse *)http->data)->name, at, length); }
static int on_value(llhttp_t *http, const char *at, size_t length) { return extend(&((struct h1_parse *)http->data)->value, at, length); }
static int on_body(llhttp_t *http, const char *at, size_t length) { return extend(&((struct h1_parse *)http->data)->body, at, length); }

static bool is_dropped(const struct h1_parse *parse, struct span name) {
  uint8_t all = SCAN_PLAIN;
  for (size_t i = 0; i < name.length; i++) {
    uint8_t class = scan_class[(unsigned char)name.data[i]];
    if (class & SCAN_UNDERSCORE) {
      if (!parse->allow_underscores) return true;
    } else {
      all &= class;
    }
  }
  return !all && parse->ignore_invalid;
}

static int on_field(llhttp_t *http) {
  struct h1_parse *parse = http->data;
  struct span name = parse->name, value = span_trim(parse->value);
  parse->name = parse->value = (struct span){NULL, 0};
  if (value.length == 0) value.data = ""; /* present but empty; no data would mean absent */
  enum header_id id = header_id_of(name);
  if (id == HEADER_OTHER && is_dropped(parse, name)) return 0;
  headers_add_checked(parse->fields, id, name, value); /* heads and trailers come here only after head_check */
  return 0;
}

static int on_head(llhttp_t *http) {
  struct h1_parse *parse = http->data;
  parse->is_head_seen = true;
  parse->is_chunked = (http->flags & F_CHUNKED) != 0;
  parse->has_length = (http->flags & F_CONTENT_LENGTH) != 0;
  parse->left = http->content_length;
  return parse->skips_body ? 1 : 0;
}

static int on_complete(llhttp_t *http) {
  ((struct h1_parse *)http->data)->is_complete = true;
  return 0;
}

static const llhttp_settings_t settings = {
    .on_url = on_text,
    .on_status = on_text,
    .on_header_field = on_name,
    .on_header_value = on_value,
    .on_header_value_complete = on_field,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_complete,
};

static bool feed(struct h1_parse *parse, const char *data, size_t length) {
  llhttp_errno_t result = llhttp_execute(&parse->http, data, length);
  /* llhttp stops behind a message that asks for an upgrade; whether one happens is not its to know. */
  return result == HPE_OK || (result == HPE_PAUSED_UPGRADE && parse->is_complete);
}

/* ---- gathering ------------------------------------------------------------------------------------------------------------- */

void h1_parse_init(struct h1_parse *parse, enum head_kind kind) {
  memset(parse, 0, sizeof *parse);
  parse->kind = kind;
  llhttp_init(&parse->http, kind == HEAD_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE, &settings);
  parse->http.data = parse;
}

void h1_parse_free(struct h1_parse *parse) {
  buffer_free(&parse->partial);
  parse->partial = (struct buffer){NULL, 0, 0, 0};
}

void h1_parse_abandon(struct h1_parse *parse) {
  parse->arena = NULL;
  parse->fields = parse->trailers = NULL;
}

void h1_parse_reset(struct h1_parse *parse) {
  h1_parse_head_done(parse);
  llhttp_reset(&parse->http);
  parse->phase = H1_HEAD;
  parse->arena = NULL;
  parse->fields = parse->trailers = NULL;
  parse->name = parse->value = parse->text = parse->body = (struct span){NULL, 0};
  parse->is_head_seen = parse->is_complete = parse->skips_body = false;
}

bool h1_parse_has_partial(const struct h1_parse *parse) { return buffer_length(&parse->partial) > 0; }

void h1_parse_head_done(struct h1_parse *parse) {
  if (parse->partial.data) h1_parse_free(parse);
  parse->searched = 0;
}

/* End of a section, or 0; trailers may be nothing but the blank line. */
static size_t find_end(const char *data, size_t length, size_t from, bool may_be_empty) {
  if (may_be_empty && length >= 1 && data[0] == '\n') return 1; /* refused by the check */
  if (may_be_empty && length >= 2 && data[0] == '\r' && data[1] == '\n') return 2;
  return head_find_end(data, length, from);
}

static enum h1_gather gather(struct h1_parse *parse, const char *data, size_t length, size_t max, bool may_be_empty, size_t *taken, struct span *section) {
  size_t old = buffer_length(&parse->partial);
  if (old == 0) {
    size_t end = find_end(data, length, 0, may_be_empty);
    *section = span_make(data, end ? end : length);
    *taken = section->length;
    if (end && end <= max) return H1_GATHER_READY;
    if (length > max) return H1_GATHER_TOO_LONG;
    buffer_append(&parse->partial, *section);
    parse->searched = length;
    return H1_GATHER_MORE;
  }
  *taken = length < max + 1 - old ? length : max + 1 - old;
  buffer_append(&parse->partial, span_make(data, *taken));
  struct span all = buffer_span(&parse->partial);
  must(all.length > 0);
  size_t end = find_end(all.data, all.length, parse->searched, may_be_empty);
  *section = span_make(all.data, end ? end : all.length);
  *taken -= all.length - section->length;
  if (end && end <= max) return H1_GATHER_READY;
  if (all.length > max) return H1_GATHER_TOO_LONG;
  parse->searched = all.length;
  return H1_GATHER_MORE;
}

enum h1_gather h1_parse_gather(struct h1_parse *parse, const char *data, size_t length, const struct h1_rules *rules, size_t *taken, struct span *head) {
  size_t old = buffer_length(&parse->partial);
  enum h1_gather result = gather(parse, data, length, rules->head_bytes, false, taken, head);
  /* A first line that is already too long need not be read to its end. */
  if (result == H1_GATHER_MORE && head->length > rules->line_bytes && old <= rules->line_bytes + 2 && memchr(head->data, '\n', rules->line_bytes + 1) == NULL)
    result = H1_GATHER_TOO_LONG;
  return result;
}

/* ---- the meaning of the fields --------------------------------------------------------------------------------------------- */

struct meaning {
  bool is_close, is_keep_alive, is_upgrade, has_others;
  unsigned options;
  bool is_chunked, has_length, accepts_trailers, expects_continue;
  unsigned long long length;
  struct span host, upgrade;
};

static void read_connection(struct meaning *meaning, struct span value) {
  struct span option;
  while (span_next_item(&value, ',', &option)) {
    meaning->options++;
    if (span_equal_nocase(option, SPAN("close"))) meaning->is_close = true;
    else if (span_equal_nocase(option, SPAN("keep-alive"))) meaning->is_keep_alive = true;
    else if (span_equal_nocase(option, SPAN("upgrade"))) meaning->is_upgrade = true;
    else meaning->has_others = true;
  }
}

/* Fields that Connection may not take away: framing and routing rest on them. */
static bool is_protected(uint16_t id) { return id == HEADER_HOST || id == HEADER_CONTENT_LENGTH; }

static void drop_named(struct headers *headers, struct span value) {
  struct span option;
  while (span_next_item(&value, ',', &option)) {
    struct header *header = NULL;
    while ((header = headers_next_name(headers, option, header)) != NULL)
      if (!is_protected(header->id)) header->removed = true;
  }
}

static bool has_item(struct span list, struct span wanted) {
  struct span item;
  while (span_next_item(&list, ',', &item))
    if (span_equal_nocase(span_trim(span_make(item.data, span_find(item, ';'))), wanted)) return true;
  return false;
}

/* A list of protocols (RFC 9110, 7.8), none of them HTTP: upgrading to HTTP/2 in clear text would let a client speak past us to the upstream. What is no
 * such list is not for us to guess at. */
static bool is_upgrade_for_us(struct span list) {
  struct span item = {NULL, 0};
  while (span_next_item(&list, ',', &item)) {
    size_t name = scan_token(item.data, item.length), version = name + 1;
    if (name == 0 || span_equal_nocase(span_make(item.data, name), SPAN("h2c")) || span_equal_nocase(span_make(item.data, name), SPAN("HTTP"))) return false;
    if (name == item.length) continue;
    if (item.data[name] != '/' || version == item.length || version + scan_token(item.data + version, item.length - version) != item.length) return false;
  }
  return item.length > 0;
}

/* Reads the fields that concern the connection or the framing, and drops those that go no further than to us. */
static bool read_meaning(struct headers *headers, struct meaning *meaning) {
  *meaning = (struct meaning){.host = {NULL, 0}};
  for (unsigned i = 0; i < headers->count; i++) {
    struct header *header = &headers->items[i];
    switch (header->id) {
      case HEADER_CONNECTION:
        read_connection(meaning, header->value);
        break;
      case HEADER_CONTENT_LENGTH:
        meaning->has_length = span_to_u64(header->value, INT64_MAX, &meaning->length);
        break;
      case HEADER_TRANSFER_ENCODING:
        meaning->is_chunked = true;
        break;
      case HEADER_UPGRADE:
        if (meaning->upgrade.length == 0) meaning->upgrade = header->value;
        break;
      case HEADER_TE:
        meaning->accepts_trailers = has_item(header->value, SPAN("trailers"));
        break;
      case HEADER_EXPECT:
        meaning->expects_continue = span_equal_nocase(header->value, SPAN("100-continue"));
        break;
      case HEADER_HOST:
        if (meaning->host.data == NULL) meaning->host = header->value;
        break;
      default:
        break;
    }
  }
  if (meaning->options > LIMIT_CONNECTION_OPTIONS) return false; /* a handful is honest use, and dropping what they name is work */
  for (unsigned i = 0; meaning->has_others && i < headers->count; i++)
    if (headers->items[i].id == HEADER_CONNECTION) drop_named(headers, headers->items[i].value);
  for (unsigned i = 0; i < headers->count; i++)
    if (header_is_hop_by_hop((enum header_id)headers->items[i].id)) headers->items[i].removed = true;
  if (!meaning->is_upgrade || !is_upgrade_for_us(meaning->upgrade)) meaning->upgrade = (struct span){NULL, 0};
  return true;
}

static bool keeps_alive(const struct meaning *meaning, unsigned version_minor) { return !meaning->is_close && (version_minor >= 1 || meaning->is_keep_alive); }

/* ---- heads ----------------------------------------------------------------------------------------------------------------- */

void h1_parse_salvage(struct span head, struct arena *arena, struct request_head *request) {
  struct span line = span_make(head.data, scan_text(head.data, head.length < LIMIT_REQUEST_LINE_BYTES ? head.length : LIMIT_REQUEST_LINE_BYTES));
  size_t space = span_find(line, ' ');
  request->size = (uint32_t)head.length;
  request->version_major = request->version_minor = 1;
  headers_init(&request->headers, arena);
  if (space == 0 || space > 32 || scan_token(line.data, space) != space) return;
  request->method = arena_span(arena, span_make(line.data, space));
  struct span rest = span_skip(line, space + 1);
  request->target = arena_span(arena, span_make(rest.data, span_find(rest, ' ')));
}

/* Takes the lines out whose names are no tokens; the head was checked before. */
static size_t drop_odd_lines(char *head, size_t length) {
  size_t out = 0, at = 0;
  bool is_first = true;
  while (at < length) {
    const char *feed_at = memchr(head + at, '\n', length - at);
    size_t size = (size_t)(feed_at - (head + at)) + 1;
    size_t name = scan_token(head + at, size);
    if (is_first || head[at] == '\r' || head[at + name] == ':') {
      memmove(head + out, head + at, size);
      out += size;
    }
    is_first = false;
    at += size;
  }
  return out;
}

/* Copies a checked head into the arena, and makes room for its fields and for those that a proxy adds. */
static struct span adopt(struct h1_parse *parse, struct span head, const struct head_facts *facts, struct arena *arena, struct headers *headers) {
  char *copy = arena_copy(arena, head.data, head.length);
  size_t length = facts->odd_names ? drop_odd_lines(copy, head.length) : head.length;
  headers_init(headers, arena);
  headers_reserve(headers, facts->fields + 12);
  parse->arena = arena;
  parse->fields = headers;
  return span_make(copy, length);
}

/* Methods that llhttp knows and that mean nothing special to it. Others are shown to it as POST, so that extension methods pass, and so
 * that those which it reserves for RTSP or ICE do not. */
static bool is_plain_method(struct span method) {
  return span_equal(method, SPAN("GET")) || span_equal(method, SPAN("POST")) || span_equal(method, SPAN("HEAD")) || span_equal(method, SPAN("PUT")) ||
         span_equal(method, SPAN("DELETE")) || span_equal(method, SPAN("OPTIONS")) || span_equal(method, SPAN("PATCH")) || span_equal(method, SPAN("CONNECT"));
}

static bool feed_request(struct h1_parse *parse, struct span copy, struct span method) {
  if (is_plain_method(method)) return feed(parse, copy.data, copy.length);
  return feed(parse, "POST", 4) && feed(parse, copy.data + method.length, copy.length - method.length);
}

static void set_phase(struct h1_parse *parse, const struct message_body *body, bool has_body) {
  parse->phase = H1_DONE;
  parse->left = body->length;
  if (!has_body) return;
  if (body->framing == BODY_CHUNKED) parse->phase = H1_CHUNK_LINE;
  if (body->framing == BODY_LENGTH && body->length > 0) parse->phase = H1_LENGTH;
  if (body->framing == BODY_UNTIL_CLOSE) parse->phase = H1_UNTIL_CLOSE;
}

/* Whether llhttp read the same framing as we. */
static bool agrees(const struct h1_parse *parse, const struct meaning *meaning) {
  if (!parse->is_head_seen || parse->is_chunked != meaning->is_chunked || parse->has_length != meaning->has_length) return false;
  return !meaning->has_length || parse->left == meaning->length;
}

static struct message_body body_of(const struct meaning *meaning) {
  if (meaning->is_chunked) return (struct message_body){BODY_CHUNKED, 0};
  if (meaning->has_length) return (struct message_body){BODY_LENGTH, meaning->length};
  return (struct message_body){BODY_NONE, 0};
}

static struct head_verdict parse_request(struct h1_parse *parse, struct span head, const struct h1_rules *rules, struct arena *arena,
                                         struct request_head *request) {
  struct head_facts facts = {0, 0};
  struct head_verdict verdict = head_check_facts(HEAD_REQUEST, head, rules->line_bytes, rules->fields, &facts);
  if (verdict.status) return verdict;
  if (facts.odd_names && !rules->ignore_invalid) return REFUSE(400, "field name that is not a token");
  parse->allow_underscores = rules->allow_underscores;
  parse->ignore_invalid = rules->ignore_invalid;
  struct span copy = adopt(parse, head, &facts, arena, &request->headers);
  request->method = span_make(copy.data, span_find(copy, ' '));
  if (!feed_request(parse, copy, request->method)) return REFUSE(400, "refused by the parser");
  request->target = parse->text;
  request->version_major = 1;
  request->version_minor = parse->http.http_minor;
  request->size = (uint32_t)head.length;
  struct meaning meaning;
  if (!read_meaning(&request->headers, &meaning)) return REFUSE_LIMIT(400, "too many options in Connection", CONNECTION_OPTIONS);
  if (!agrees(parse, &meaning)) return REFUSE(400, "framing read in two ways");
  request->body = body_of(&meaning);
  if (parse->is_complete != (request->body.framing == BODY_NONE || (request->body.framing == BODY_LENGTH && request->body.length == 0)))
    return REFUSE(400, "framing read in two ways");
  request->keep_alive = keeps_alive(&meaning, request->version_minor);
  request->expects_continue = meaning.expects_continue && request->version_minor >= 1 && !parse->is_complete;
  request->accepts_trailers = meaning.accepts_trailers;
  request->upgrade = request->version_minor >= 1 ? meaning.upgrade : (struct span){NULL, 0};
  request->host = meaning.host;
  struct span authority = uri_authority(request->target);
  if (authority.length) { /* RFC 9112, 3.2.2: it replaces the Host field */
    request->host = authority;
    headers_set(&request->headers, HEADER_HOST, SPAN("Host"), authority);
  }
  set_phase(parse, &request->body, true);
  return REFUSE(0, NULL);
}

struct head_verdict h1_parse_request(struct h1_parse *parse, struct span head, const struct h1_rules *rules, struct arena *arena,
                                     struct request_head *request) {
  memset(request, 0, sizeof *request);
  h1_parse_salvage(SPAN(""), arena, request);
  struct head_verdict verdict = parse_request(parse, head, rules, arena, request);
  if (verdict.status == 0) return verdict;
  memset(request, 0, sizeof *request);
  h1_parse_salvage(head, arena, request);
  parse->phase = H1_BROKEN;
  return verdict;
}

static struct head_verdict parse_response(struct h1_parse *parse, struct span head, struct span method, struct arena *arena, struct response_head *response) {
  struct head_facts facts = {0, 0};
  struct head_verdict verdict = head_check_facts(HEAD_RESPONSE, head, head.length, LIMIT_HEADER_FIELDS, &facts);
  if (verdict.status) return verdict;
  parse->allow_underscores = true;
  parse->ignore_invalid = false;
  struct span copy = adopt(parse, head, &facts, arena, &response->headers);
  response->status = (copy.data[9] - '0') * 100 + (copy.data[10] - '0') * 10 + (copy.data[11] - '0');
  bool has_body = status_has_body(response->status, method);
  parse->skips_body = !has_body;
  if (!feed(parse, copy.data, copy.length)) return REFUSE(400, "refused by the parser");
  response->reason = parse->text;
  response->version_minor = parse->http.http_minor;
  response->size = (uint32_t)head.length;
  struct meaning meaning;
  if (!read_meaning(&response->headers, &meaning)) return REFUSE_LIMIT(400, "too many options in Connection", CONNECTION_OPTIONS);
  if (!agrees(parse, &meaning)) return REFUSE(400, "framing read in two ways");
  response->body = body_of(&meaning);
  if (has_body && response->body.framing == BODY_NONE) response->body.framing = BODY_UNTIL_CLOSE;
  response->keep_alive = keeps_alive(&meaning, response->version_minor) && response->body.framing != BODY_UNTIL_CLOSE;
  if (response->status == 101) response->upgrade = meaning.upgrade;
  set_phase(parse, &response->body, has_body);
  return REFUSE(0, NULL);
}

struct head_verdict h1_parse_response(struct h1_parse *parse, struct span head, struct span method, struct arena *arena, struct response_head *response) {
  memset(response, 0, sizeof *response);
  headers_init(&response->headers, arena);
  struct head_verdict verdict = parse_response(parse, head, method, arena, response);
  if (verdict.status) parse->phase = H1_BROKEN;
  return verdict;
}

/* ---- bodies ---------------------------------------------------------------------------------------------------------------- */

static void note(struct h1_parse *parse, const char *why, enum limit_reached limit) {
  parse->why = why;
  parse->limit = limit;
}

/* `why` and `limit` are noted already. */
static enum h1_event fall(struct h1_parse *parse) {
  parse->phase = H1_BROKEN;
  h1_parse_head_done(parse);
  return H1_EVENT_BAD;
}

static enum h1_event broken(struct h1_parse *parse, const char *why) {
  note(parse, why, REACHED_NONE);
  return fall(parse);
}

static enum h1_event broken_by_limit(struct h1_parse *parse, const char *why, enum limit_reached limit) {
  note(parse, why, limit);
  return fall(parse);
}

static enum h1_event take_data(struct h1_parse *parse, const char *data, size_t length, size_t *taken, struct span *piece) {
  size_t size = length < parse->left ? length : (size_t)parse->left;
  parse->body = (struct span){NULL, 0};
  if (!feed(parse, data, size) || parse->body.length != size) return broken(parse, "body read in two ways");
  *piece = span_make(data, size);
  *taken += size;
  parse->left -= size;
  if (parse->left > 0) return H1_EVENT_DATA;
  if (parse->phase == H1_CHUNK_DATA) {
    parse->phase = H1_CHUNK_CR;
    return H1_EVENT_DATA;
  }
  if (!parse->is_complete) return broken(parse, "body read in two ways");
  parse->phase = H1_DONE;
  return H1_EVENT_DATA;
}

/* A chunk-size line is complete: llhttp gets its digits, without the extensions, which go no further than to us. */
static bool begin_chunk(struct h1_parse *parse, struct span line) {
  struct head_verdict verdict = head_check_chunk_line(line);
  note(parse, verdict.why, verdict.limit);
  if (verdict.status) return false;
  size_t digits = 0;
  parse->left = 0;
  for (; digits < line.length; digits++) {
    char c = line.data[digits], low = (char)(c | 0x20);
    if (c >= '0' && c <= '9') parse->left = parse->left << 4 | (unsigned)(c - '0');
    else if (low >= 'a' && low <= 'f') parse->left = parse->left << 4 | (unsigned)(low - 'a' + 10);
    else break;
  }
  note(parse, "chunk size read in two ways", REACHED_NONE);
  if (!feed(parse, line.data, digits) || !feed(parse, "\r\n", 2)) return false;
  parse->phase = parse->left ? H1_CHUNK_DATA : H1_TRAILERS;
  return true;
}

/* One line into *taken bytes: true when there was progress to another phase, or an error. */
static enum h1_event take_chunk_line(struct h1_parse *parse, const char *data, size_t length, size_t *taken) {
  const char *feed_at = memchr(data, '\n', length);
  size_t size = feed_at ? (size_t)(feed_at - data) + 1 : length;
  size_t old = buffer_length(&parse->partial);
  *taken += size;
  if (old + size > LIMIT_CHUNK_LINE_BYTES) return broken_by_limit(parse, "chunk line too long", REACHED_CHUNK_LINE_BYTES);
  struct span line = span_make(data, size);
  if (old || feed_at == NULL) {
    buffer_append(&parse->partial, line);
    line = buffer_span(&parse->partial);
  }
  if (feed_at == NULL) return H1_EVENT_MORE;
  bool is_fine = begin_chunk(parse, line);
  h1_parse_head_done(parse);
  return is_fine ? H1_EVENT_DATA : fall(parse);
}

static bool read_trailers(struct h1_parse *parse, struct span section, struct arena *arena) {
  struct head_verdict verdict = head_check(HEAD_TRAILERS, section, LIMIT_TRAILER_BYTES, LIMIT_HEADER_FIELDS);
  note(parse, verdict.why, verdict.limit);
  if (verdict.status) return false;
  note(parse, "trailers refused by the parser", REACHED_NONE);
  if (section.length == 2) return feed(parse, "\r\n", 2) && parse->is_complete;
  char *copy = arena_copy(arena, section.data, section.length);
  parse->trailers = arena_zalloc(arena, sizeof *parse->trailers);
  headers_init(parse->trailers, arena);
  parse->fields = parse->trailers;
  if (!feed(parse, copy, section.length) || !parse->is_complete) return false;
  for (unsigned i = 0; i < parse->trailers->count; i++)
    if (header_is_hop_by_hop((enum header_id)parse->trailers->items[i].id)) parse->trailers->items[i].removed = true;
  return true;
}

static bool take_trailer_fields(struct h1_parse *parse, struct span section) {
  if (parse->arena) return read_trailers(parse, section, parse->arena);
  struct arena scratch; /* nobody wants them any more, but they must be right for what comes behind them to be believed */
  arena_init(&scratch, NULL, 0);
  bool is_fine = read_trailers(parse, section, &scratch);
  arena_free(&scratch);
  parse->fields = parse->trailers = NULL;
  return is_fine;
}

static enum h1_event take_trailers(struct h1_parse *parse, const char *data, size_t length, size_t *taken) {
  struct span section;
  size_t size = 0;
  enum h1_gather result = gather(parse, data, length, LIMIT_TRAILER_BYTES, true, &size, &section);
  *taken += size;
  if (result == H1_GATHER_MORE) return H1_EVENT_MORE;
  if (result == H1_GATHER_TOO_LONG) return broken_by_limit(parse, "trailers too long", REACHED_TRAILER_BYTES);
  bool is_fine = take_trailer_fields(parse, section);
  h1_parse_head_done(parse);
  if (!is_fine) return fall(parse);
  parse->phase = H1_DONE;
  return H1_EVENT_END;
}

static enum h1_event take_until_close(struct h1_parse *parse, const char *data, size_t length, size_t *taken, struct span *piece) {
  parse->body = (struct span){NULL, 0};
  if (!feed(parse, data, length) || parse->body.length != length) return broken(parse, "body read in two ways");
  *piece = span_make(data, length);
  *taken += length;
  return H1_EVENT_DATA;
}

enum h1_event h1_parse_body(struct h1_parse *parse, const char *data, size_t length, size_t *taken, struct span *piece) {
  *taken = 0;
  for (;;) {
    if (parse->phase == H1_DONE) return H1_EVENT_END;
    if (parse->phase == H1_BROKEN) return H1_EVENT_BAD;
    if (*taken == length) return H1_EVENT_MORE;
    const char *at = data + *taken;
    size_t left = length - *taken;
    enum h1_event event;
    switch (parse->phase) {
      case H1_LENGTH:
      case H1_CHUNK_DATA:
        return take_data(parse, at, left, taken, piece);
      case H1_UNTIL_CLOSE:
        return take_until_close(parse, at, left, taken, piece);
      case H1_TRAILERS:
        return take_trailers(parse, at, left, taken);
      case H1_CHUNK_LINE:
        event = take_chunk_line(parse, at, left, taken);
        if (event != H1_EVENT_DATA) return event;
        break;
      case H1_CHUNK_CR:
        if (*at != '\r') return broken(parse, "chunk without CRLF behind it");
        parse->phase = H1_CHUNK_LF;
        ++*taken;
        break;
      case H1_CHUNK_LF:
        if (*at != '\n' || !feed(parse, "\r\n", 2)) return broken(parse, "chunk without CRLF behind it");
        parse->phase = H1_CHUNK_LINE;
        ++*taken;
        break;
      case H1_HEAD:
      case H1_DONE:
      case H1_BROKEN:
      default:
        must(!"a body is read before its head");
        return H1_EVENT_BAD;
    }
  }
}

bool h1_parse_finish(struct h1_parse *parse) {
  if (parse->phase == H1_DONE) return true;
  if (parse->phase != H1_UNTIL_CLOSE) return false;
  if (llhttp_finish(&parse->http) != HPE_OK) return false;
  parse->phase = H1_DONE;
  return true;
}
