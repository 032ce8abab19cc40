/* Writing HTTP/1. A head is put together in one piece, so that the link stages it with one copy. Whatever a policy put into a field, no
 * control character leaves here: such a field is left out, such a target is escaped. The loop's thread. */
#include "http/h1_write.h"

#include <stdio.h>

#include "base/check.h"
#include "http/scan.h"
#include "http/uri.h"

enum { STACK_HEAD = 4096, FIXED_PART = 512 /* framing fields and fixed words of any head */, MOST_PARTS = 14 };

/* A piece of text being put together; whoever made it knew the size beforehand. */
struct pen {
  char *start, *at, *end;
};

static void put(struct pen *pen, struct span text) {
  must((size_t)(pen->end - pen->at) >= text.length);
  if (text.length) memcpy(pen->at, text.data, text.length);
  pen->at += text.length;
}

static void put_number(struct pen *pen, uint64_t number) {
  char digits[20];
  size_t at = sizeof digits;
  do digits[--at] = (char)('0' + number % 10);
  while (number /= 10);
  put(pen, span_make(digits + at, sizeof digits - at));
}

static size_t size_of_fields(const struct headers *headers) {
  size_t size = 0;
  for (unsigned i = 0; i < headers->count; i++) size += headers->items[i].name.length + headers->items[i].value.length + 4;
  return size;
}

static void put_field(struct pen *pen, struct span name, struct span value) {
  put(pen, name);
  put(pen, SPAN(": "));
  put(pen, value);
  put(pen, SPAN("\r\n"));
}

/* Framing is ours, and hop-by-hop fields end at us. */
static bool is_ours(const struct header *header) { return header->id == HEADER_CONTENT_LENGTH || header_is_hop_by_hop((enum header_id)header->id); }

static void put_fields(struct pen *pen, const struct headers *headers, enum header_id without1, enum header_id without2) {
  for (unsigned i = 0; i < headers->count; i++) {
    const struct header *header = &headers->items[i];
    if (header->removed) continue;
    if (header->id != HEADER_OTHER && (is_ours(header) || header->id == without1 || header->id == without2)) continue;
    /* What is marked went through head_check as a whole, or is our own; headers_set, the only way to another value in place, takes the mark away. */
    bool is_good = header->is_checked || ((header->id != HEADER_OTHER || header_name_is_valid(header->name)) && header_value_is_valid(header->value));
    if (is_good) put_field(pen, header->name, header->value);
  }
}

static struct pen begin(char *stack, struct arena *arena, size_t size) {
  char *start = size <= STACK_HEAD ? stack : arena_alloc(arena, size);
  return (struct pen){start, start, start + (size <= STACK_HEAD ? STACK_HEAD : size)};
}

static void end(struct h1_sink *sink, struct link *link, struct pen *pen) {
  struct span head = span_make(pen->start, (size_t)(pen->at - pen->start));
  sink->bytes += head.length;
  link_write_span(link, head);
}

/* A target as it may stand in a request line: a rewrite may have put anything into it. */
static struct span clean_target(struct span target, struct arena *arena) {
  bool is_clean = scan_text(target.data, target.length) == target.length && span_find(target, ' ') == target.length && span_find(target, '\t') == target.length;
  if (is_clean) return target;
  char *out = arena_alloc(arena, 3 * target.length + 1), *at = out;
  for (size_t i = 0; i < target.length; i++) {
    unsigned char c = (unsigned char)target.data[i];
    if (c > 0x20 && c != 0x7f) *at++ = (char)c;
    else at += snprintf(at, 4, "%%%02X", c);
  }
  return span_make(out, (size_t)(at - out));
}

static bool usually_has_body(struct span method) {
  return span_equal(method, SPAN("POST")) || span_equal(method, SPAN("PUT")) || span_equal(method, SPAN("PATCH"));
}

void h1_write_request(struct h1_sink *sink, struct link *link, struct arena *arena, const struct request_head *head) {
  char stack[STACK_HEAD];
  struct span target = clean_target(head->target, arena);
  struct span host = headers_get(&head->headers, HEADER_HOST);
  if (host.data == NULL || !header_value_is_valid(host)) host = head->host;
  if (!header_value_is_valid(host)) host = (struct span){"", 0};
  bool is_upgrade = head->upgrade.length && header_value_is_valid(head->upgrade);
  struct pen pen = begin(stack, arena, FIXED_PART + head->method.length + target.length + host.length + head->upgrade.length + size_of_fields(&head->headers));
  put(&pen, head->method);
  put(&pen, SPAN(" "));
  put(&pen, target);
  put(&pen, SPAN(" HTTP/1.1\r\nHost: "));
  put(&pen, host);
  put(&pen, SPAN("\r\n"));
  put_fields(&pen, &head->headers, HEADER_HOST, HEADER_EXPECT); /* we ask the client to continue ourselves */
  *sink = (struct h1_sink){.framing = head->body.framing, .left = head->body.length};
  if (sink->framing == BODY_CHUNKED) {
    put(&pen, SPAN("Transfer-Encoding: chunked\r\n"));
  } else if (sink->framing == BODY_LENGTH || usually_has_body(head->method)) {
    put(&pen, SPAN("Content-Length: "));
    put_number(&pen, sink->framing == BODY_LENGTH ? sink->left : 0);
    put(&pen, SPAN("\r\n"));
  }
  if (is_upgrade) {
    put(&pen, SPAN("Connection: Upgrade\r\n"));
    put_field(&pen, SPAN("Upgrade"), head->upgrade);
  } else if (head->accepts_trailers) {
    put(&pen, head->keep_alive ? SPAN("TE: trailers\r\nConnection: TE\r\n") : SPAN("TE: trailers\r\nConnection: TE, close\r\n"));
  } else if (!head->keep_alive) {
    put(&pen, SPAN("Connection: close\r\n"));
  } else if (head->says_keep_alive) {
    put(&pen, SPAN("Connection: keep-alive\r\n"));
  }
  put(&pen, SPAN("\r\n"));
  end(sink, link, &pen);
}

static void put_status_line(struct pen *pen, const struct response_head *head, struct span reason) {
  put(pen, SPAN("HTTP/1.1 "));
  put_number(pen, head->status >= 100 && head->status <= 999 ? (uint64_t)head->status : 500);
  put(pen, SPAN(" "));
  put(pen, reason);
  put(pen, SPAN("\r\n"));
}

static struct span reason_of(const struct response_head *head) {
  return head->reason.length && header_value_is_valid(head->reason) ? head->reason : span_of(status_phrase(head->status));
}

void h1_write_response(struct h1_sink *sink, struct link *link, struct arena *arena, const struct response_head *head, enum h1_connection connection,
                       struct span upgrade, bool declared_only) {
  char stack[STACK_HEAD];
  struct span reason = reason_of(head);
  struct pen pen = begin(stack, arena, FIXED_PART + reason.length + upgrade.length + size_of_fields(&head->headers));
  put_status_line(&pen, head, reason);
  put_fields(&pen, &head->headers, HEADER_OTHER, HEADER_OTHER);
  if (sink->framing == BODY_LENGTH || declared_only) {
    put(&pen, SPAN("Content-Length: "));
    put_number(&pen, declared_only ? head->body.length : sink->left);
    put(&pen, SPAN("\r\n"));
  } else if (sink->framing == BODY_CHUNKED) {
    put(&pen, SPAN("Transfer-Encoding: chunked\r\n"));
  }
  if (upgrade.length && header_value_is_valid(upgrade)) {
    put(&pen, SPAN("Connection: upgrade\r\n"));
    put_field(&pen, SPAN("Upgrade"), upgrade);
  } else if (connection == H1_CONNECTION_CLOSE) {
    put(&pen, SPAN("Connection: close\r\n"));
  } else if (connection == H1_CONNECTION_KEEP_ALIVE) {
    put(&pen, SPAN("Connection: keep-alive\r\n"));
  }
  put(&pen, SPAN("\r\n"));
  end(sink, link, &pen);
}

void h1_write_informational(struct h1_sink *sink, struct link *link, struct arena *arena, const struct response_head *head) {
  char stack[STACK_HEAD];
  struct span reason = reason_of(head);
  struct pen pen = begin(stack, arena, FIXED_PART + reason.length + size_of_fields(&head->headers));
  put_status_line(&pen, head, reason);
  put_fields(&pen, &head->headers, HEADER_OTHER, HEADER_OTHER);
  put(&pen, SPAN("\r\n"));
  end(sink, link, &pen);
}

static void write_parts(struct h1_sink *sink, struct link *link, const struct span *parts, int count) {
  struct iovec vector[MOST_PARTS + 2];
  char size_line[20];
  size_t total = 0;
  int used = sink->framing == BODY_CHUNKED ? 1 : 0;
  for (int i = 0; i < count; i++) {
    if (parts[i].length == 0) continue;
    vector[used++] = (struct iovec){(void *)parts[i].data, parts[i].length};
    total += parts[i].length;
  }
  if (total == 0) return; /* an empty chunk would end the body */
  if (sink->framing == BODY_CHUNKED) {
    int length = snprintf(size_line, sizeof size_line, "%zx\r\n", total);
    vector[0] = (struct iovec){size_line, (size_t)length};
    vector[used++] = (struct iovec){(void *)"\r\n", 2};
    total += (size_t)length + 2;
  }
  sink->bytes += total;
  link_write(link, vector, used);
}

void h1_write_body(struct h1_sink *sink, struct link *link, const struct span *parts, int count) {
  if (sink->is_ended || sink->framing == BODY_NONE) return;
  for (int from = 0; from < count; from += MOST_PARTS) {
    struct span some[MOST_PARTS];
    int size = count - from < MOST_PARTS ? count - from : MOST_PARTS;
    for (int i = 0; i < size; i++) {
      some[i] = parts[from + i];
      if (sink->framing != BODY_LENGTH) continue;
      if (some[i].length > sink->left) { /* more than the head promised: bytes behind it would be read as the next message */
        some[i].length = (size_t)sink->left;
        sink->is_wrong = true;
      }
      sink->left -= some[i].length;
    }
    write_parts(sink, link, some, size);
  }
}

void h1_write_end(struct h1_sink *sink, struct link *link, struct arena *arena, const struct headers *trailers) {
  if (sink->is_ended) return;
  sink->is_ended = true;
  if (sink->framing == BODY_LENGTH && sink->left > 0) sink->is_wrong = true;
  if (sink->framing != BODY_CHUNKED) return;
  char stack[STACK_HEAD];
  struct pen pen = begin(stack, arena, FIXED_PART + (trailers ? size_of_fields(trailers) : 0));
  put(&pen, SPAN("0\r\n"));
  if (trailers) put_fields(&pen, trailers, HEADER_HOST, HEADER_OTHER);
  put(&pen, SPAN("\r\n"));
  end(sink, link, &pen);
}
