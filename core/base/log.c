/* Log lines: the ring that carries them to the writer thread, and how a line of our own log is made.
 * A ring belongs to app. One thread puts, one drains; `head` is written by the producer alone, `tail` by the consumer alone. What
 * comes from a peer is escaped here, so that a value can neither end its line nor leave its quotes. */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

/* Each record is a head and the line, rounded up to 8 bytes, contiguous; SKIP fills the rest before the ring's end. */
struct record {
  uint32_t length;
  uint32_t target;
};
enum { SKIP = 255 };

struct log_ring {
  size_t capacity; /* a power of two */
  char *data;
  void (*wake)(void *context);
  void *wake_context;
  _Alignas(64) _Atomic uint64_t head; /* bytes ever put */
  uint64_t tail_seen;                 /* the producer's view of tail, so that it seldom reads the other's cache line */
  _Atomic uint64_t dropped;
  _Alignas(64) _Atomic uint64_t tail; /* bytes ever drained */
};

const char *log_level_name(enum log_level level) {
  switch (level) {
    case LOG_DEBUG:
      return "debug";
    case LOG_INFO:
      return "info";
    case LOG_NOTICE:
      return "notice";
    case LOG_WARN:
      return "warn";
    case LOG_ERROR:
      return "error";
  }
  return "unknown";
}

struct log_ring *log_ring_new(size_t capacity_bytes) {
  size_t capacity = 1024;
  must(capacity_bytes <= (size_t)1 << 30);
  while (capacity < capacity_bytes) capacity *= 2;
  struct log_ring *ring = check_memory(aligned_alloc(64, sizeof *ring));
  memset(ring, 0, sizeof *ring);
  ring->capacity = capacity;
  ring->data = check_memory(malloc(capacity));
  return ring;
}

void log_ring_free(struct log_ring *ring) {
  if (!ring) return;
  free(ring->data);
  free(ring);
}

void log_ring_set_wake(struct log_ring *ring, void (*wake)(void *context), void *context) {
  ring->wake = wake;
  ring->wake_context = context;
}

uint64_t log_ring_dropped(const struct log_ring *ring) { return atomic_load_explicit(&ring->dropped, memory_order_relaxed); }

static void put_record(struct log_ring *ring, uint64_t at, uint32_t length, uint32_t target) {
  struct record record = {length, target};
  memcpy(ring->data + (at & (ring->capacity - 1)), &record, sizeof record);
}

bool log_ring_put(struct log_ring *ring, enum log_target target, struct span line) {
  uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
  if (line.length >= ring->capacity) goto full;
  size_t size = (sizeof(struct record) + line.length + 1 + 7) & ~(size_t)7;
  size_t before_end = ring->capacity - (head & (ring->capacity - 1)); /* at least 8: everything is a multiple of 8 */
  size_t skipped = size > before_end ? before_end : 0;
  if (head + skipped + size - ring->tail_seen > ring->capacity) {
    ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_acquire);
    if (head + skipped + size - ring->tail_seen > ring->capacity) goto full;
  }
  uint64_t at = head + skipped;
  if (skipped) put_record(ring, head, (uint32_t)(skipped - sizeof(struct record)), SKIP);
  put_record(ring, at, (uint32_t)line.length + 1, (uint32_t)target);
  char *out = ring->data + (at & (ring->capacity - 1)) + sizeof(struct record);
  if (line.length > 0) memcpy(out, line.data, line.length);
  out[line.length] = '\n';
  /* This store and the load after it stand in one order with the consumer's store of tail and load of head: either the consumer
   * sees this line before it sleeps, or we see that it had read everything and wake it. */
  atomic_store_explicit(&ring->head, at + size, memory_order_seq_cst);
  if (ring->wake) {
    ring->tail_seen = atomic_load_explicit(&ring->tail, memory_order_seq_cst);
    if (ring->tail_seen == head) ring->wake(ring->wake_context);
  }
  return true;
full:
  atomic_store_explicit(&ring->dropped, atomic_load_explicit(&ring->dropped, memory_order_relaxed) + 1, memory_order_relaxed);
  return false;
}

size_t log_ring_drain(struct log_ring *ring, void (*write)(void *context, enum log_target target, struct span line), void *context) {
  uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
  size_t lines = 0;
  for (;;) {
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_seq_cst);
    if (head == tail) return lines;
    while (tail != head) {
      struct record record;
      const char *at = ring->data + (tail & (ring->capacity - 1));
      memcpy(&record, at, sizeof record);
      if (record.target != SKIP) {
        write(context, (enum log_target)record.target, (struct span){at + sizeof record, record.length});
        lines++;
      }
      tail += (sizeof record + record.length + 7) & ~(uint64_t)7;
      if ((lines & 15) == 0) atomic_store_explicit(&ring->tail, tail, memory_order_release); /* room early under load */
    }
    atomic_store_explicit(&ring->tail, tail, memory_order_seq_cst);
  }
}

/* A line under construction. Pieces go in whole or not at all, and `limit` keeps back what the ending needs. */
struct line {
  char data[8192];
  size_t length, limit;
};

static bool put(struct line *line, const char *data, size_t length) {
  if (length > line->limit - line->length) return false;
  memcpy(line->data + line->length, data, length);
  line->length += length;
  return true;
}
static bool put_text(struct line *line, const char *text) { return put(line, text, strlen(text)); }

/* One character of a quoted value, escaped as JSON or as logfmt; returns how many bytes of `s` it was. */
static size_t escape(struct span s, bool json, char piece[8], size_t *piece_length) {
  unsigned char c = (unsigned char)s.data[0];
  size_t used = span_utf8(s);
  int length;
  if (c == '"' || c == '\\') {
    length = snprintf(piece, 8, "\\%c", c);
  } else if (c == '\n' || c == '\r' || c == '\t') {
    length = snprintf(piece, 8, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
  } else if (c < 0x20 || c == 0x7f) {
    length = snprintf(piece, 8, json ? "\\u%04x" : "\\x%02x", c);
  } else if (used == 0) {
    length = json ? snprintf(piece, 8, "\\ufffd") : snprintf(piece, 8, "\\x%02x", c);
    used = 1;
  } else {
    memcpy(piece, s.data, used);
    length = (int)used;
  }
  *piece_length = (size_t)length;
  return used;
}

static bool put_escaped(struct line *line, struct span value, bool json) {
  while (value.length > 0) {
    char piece[8];
    size_t length;
    value = span_skip(value, escape(value, json, piece, &length));
    if (!put(line, piece, length)) return false;
  }
  return true;
}

const char *log_quote(struct span value, char *out, size_t size) {
  must(size >= 3);
  size_t at = 0;
  out[at++] = '"';
  while (value.length > 0) {
    char piece[8];
    size_t length;
    value = span_skip(value, escape(value, false, piece, &length));
    if (at + length + 2 > size) break;
    memcpy(out + at, piece, length);
    at += length;
  }
  out[at++] = '"';
  out[at] = 0;
  return out;
}

static bool is_name_byte(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-'; }

/* Length of the name when `s` begins with name=, else 0. */
static size_t name_length(struct span s) {
  size_t i = 0;
  while (i < s.length && is_name_byte(s.data[i])) i++;
  return i > 0 && i < s.length && s.data[i] == '=' && !(s.data[0] >= '0' && s.data[0] <= '9') ? i : 0;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads "..." at the front of `*rest`, undoing log_quote in place (what comes out is never longer). False when it does not end. */
static bool take_quoted(char *data, size_t length, size_t *used, struct span *value) {
  size_t close = 1;
  while (close < length && data[close] != '"') close += data[close] == '\\' ? 2 : 1;
  if (close >= length || (close + 1 < length && data[close + 1] != ' ')) return false;
  size_t out = 1;
  for (size_t i = 1; i < close; i++) {
    char c = data[i];
    if (c == '\\' && i + 1 < close) {
      c = data[++i];
      if (c == 'n') {
        c = '\n';
      } else if (c == 'r') {
        c = '\r';
      } else if (c == 't') {
        c = '\t';
      } else if (c == 'x' && i + 2 < close && hex_digit(data[i + 1]) >= 0 && hex_digit(data[i + 2]) >= 0) {
        c = (char)(hex_digit(data[i + 1]) * 16 + hex_digit(data[i + 2]));
        i += 2;
      }
    }
    data[out++] = c;
  }
  *value = (struct span){data + 1, out - 1};
  *used = close + 1;
  return true;
}

static bool needs_quotes(struct span value) {
  if (value.length == 0) return true;
  for (size_t i = 0; i < value.length; i++) {
    unsigned char c = (unsigned char)value.data[i];
    if (c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '=') return true;
  }
  return false;
}

/* Adds a pair. The opening goes in only with room for an ending; a value may be cut, but its quotes are always closed. */
static void put_pair(struct line *line, struct span name, struct span value, bool json) {
  bool quoted = json || needs_quotes(value);
  if (name.length + 8 > line->limit - line->length) return;
  put_text(line, json ? ",\"" : " ");
  put(line, name.data, name.length);
  put_text(line, json ? "\":" : "=");
  if (!quoted) {
    if (value.length > line->limit - line->length) value.length = line->limit - line->length;
    put(line, value.data, value.length);
    return;
  }
  put_text(line, "\"");
  put_escaped(line, value, json);
  /* Its closing quote has room behind the limit; the limit moves, so that nothing else fits after a cut value. */
  if (line->length == line->limit) line->limit++;
  put_text(line, "\"");
}

static void put_fields(struct line *line, char *text, size_t length, bool json) {
  size_t at = 0;
  while (at < length) {
    if (text[at] == ' ') {
      at++;
      continue;
    }
    struct span rest = {text + at, length - at};
    size_t name_size = name_length(rest);
    struct span name = SPAN("detail"), value;
    if (name_size > 0) {
      name = (struct span){text + at, name_size};
      at += name_size + 1;
    }
    size_t used;
    if (name_size > 0 && at < length && text[at] == '"' && take_quoted(text + at, length - at, &used, &value)) {
      put_pair(line, name, value, json);
      at += used;
      continue;
    }
    /* A bare value runs to the next name=, so that an error's text need not be quoted. */
    size_t end = at;
    while (end < length && !(text[end] == ' ' && (end + 1 == length || name_length((struct span){text + end + 1, length - end - 1}) > 0))) {
      end++;
    }
    put_pair(line, name, (struct span){text + at, end - at}, json);
    at = end;
  }
}

bool log_is_on(const struct log *log, enum log_level level) {
  int threshold = log->level ? atomic_load_explicit(log->level, memory_order_relaxed) : LOG_INFO;
  return (int)level >= threshold;
}

static void put_head(struct line *line, const struct log *log, enum log_level level, const char *message) {
  struct timespec now;
  struct tm parts;
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &parts);
  char date[32], time[64];
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(time, sizeof time, "%s.%03dZ", date, (int)(now.tv_nsec / 1000000));
  put_text(line, log->json ? "{\"time\":\"" : "time=");
  put_text(line, time);
  put_text(line, log->json ? "\",\"level\":\"" : " level=");
  put_text(line, log_level_name(level));
  if (log->json) put_text(line, "\"");
  put_pair(line, SPAN("thread"), span_of(log->thread ? log->thread : "main"), log->json);
  put_text(line, log->json ? ",\"message\":\"" : " message=\"");
  put_escaped(line, span_of(message), log->json);
  put_text(line, "\"");
}

void log_write(struct log *log, enum log_level level, const char *message, const char *fields, ...) {
  if (!log_is_on(log, level)) return;
  struct line line;
  line.length = 0;
  line.limit = sizeof line.data - 64;
  put_head(&line, log, level, message);
  if (fields && *fields) {
    char text[4096];
    va_list values;
    va_start(values, fields);
    int length = vsnprintf(text, sizeof text, fields, values);
    va_end(values);
    must(length >= 0);
    bool is_cut = (size_t)length >= sizeof text;
    put_fields(&line, text, is_cut ? sizeof text - 1 : (size_t)length, log->json);
    if (is_cut) {
      line.limit = sizeof line.data - 16;
      put_pair(&line, SPAN("cut"), SPAN("true"), log->json);
    }
  }
  line.limit = sizeof line.data;
  if (log->json) put_text(&line, "}");
  if (log->capture) {
    log->capture(log->capture_context, level, (struct span){line.data, line.length});
  } else if (log->ring) {
    log_ring_put(log->ring, LOG_OWN, (struct span){line.data, line.length});
  } else {
    put_text(&line, "\n");
    ssize_t written = write(STDERR_FILENO, line.data, line.length);
    (void)written; /* where else to say it */
  }
}
