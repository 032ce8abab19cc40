/* Request targets, authorities, paths and queries. A path is decoded exactly once, here; matching and guards look at the result, the
 * upstream gets the bytes as received. Results live in the caller's arena or inside the input. Pure; any thread. */
#include "http/uri.h"

#include "base/error.h"

static int hex_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  char low = (char)(c | 0x20);
  return low >= 'a' && low <= 'f' ? low - 'a' + 10 : -1;
}

static bool is_alphanumeric(char c) { return (c >= '0' && c <= '9') || ((char)(c | 0x20) >= 'a' && (char)(c | 0x20) <= 'z'); }

/* Whether the received path is its own normal form: the usual case, which then needs no copy. */
static bool is_normal(struct span path) {
  for (size_t i = 0; i < path.length; i++) {
    char c = path.data[i];
    if (c == '%' || c == '\0') return false;
    if (c == '/' && i + 1 < path.length && (path.data[i + 1] == '/' || path.data[i + 1] == '.')) return false;
  }
  return true;
}

/* Resolves "." and ".." and merges slashes in place, as nginx does with merge_slashes: an escaped "/" or "." counts like a plain one.
 * Returns the new length, or -1 when the path climbs above the root. */
static long resolve(char *path, size_t length) {
  size_t out = 1, at = 1; /* path[0] is '/'; path[0..out) always ends with '/' here */
  while (at < length) {
    if (path[at] == '/') {
      at++;
      continue;
    }
    size_t end = at;
    while (end < length && path[end] != '/') end++;
    size_t size = end - at;
    if (size == 1 && path[at] == '.') {
      at = end;
      continue;
    }
    if (size == 2 && path[at] == '.' && path[at + 1] == '.') {
      if (out == 1) return -1;
      out--;
      while (path[out - 1] != '/') out--;
      at = end;
      continue;
    }
    memmove(path + out, path + at, size);
    out += size;
    at = end;
    if (at < length) path[out++] = '/';
  }
  return (long)out;
}

static int normalise(struct span raw, struct arena *arena, struct span *path) {
  if (is_normal(raw)) {
    *path = raw;
    return 0;
  }
  char *out = arena_alloc(arena, raw.length + 1);
  size_t length = 0;
  for (size_t i = 0; i < raw.length; i++) {
    char c = raw.data[i];
    if (c == '%') {
      if (i + 2 >= raw.length) return ERROR_INVALID;
      int high = hex_value(raw.data[i + 1]), low = hex_value(raw.data[i + 2]);
      if (high < 0 || low < 0) return ERROR_INVALID;
      c = (char)(high << 4 | low);
      i += 2;
    }
    if (c == '\0') return ERROR_INVALID;
    out[length++] = c;
  }
  long resolved = resolve(out, length);
  if (resolved < 0) return ERROR_INVALID;
  out[resolved] = '\0';
  *path = span_make(out, (size_t)resolved);
  return 0;
}

/* Length of "http://" or "https://" at the start, or 0. */
static size_t scheme_length(struct span target) {
  if (target.length >= 7 && span_equal_nocase(span_make(target.data, 7), SPAN("http://"))) return 7;
  if (target.length >= 8 && span_equal_nocase(span_make(target.data, 8), SPAN("https://"))) return 8;
  return 0;
}

struct span uri_authority(struct span target) {
  size_t start = scheme_length(target), end = start;
  if (start == 0) return (struct span){NULL, 0};
  while (end < target.length && target.data[end] != '/' && target.data[end] != '?' && target.data[end] != '#') end++;
  return span_make(target.data + start, end - start);
}

int uri_parse_target(struct span target, struct span method, struct arena *arena, struct uri *uri) {
  *uri = (struct uri){.query = {NULL, 0}};
  if (target.length == 0 || span_find(target, '#') != target.length) return ERROR_INVALID;
  if (target.length == 1 && target.data[0] == '*') {
    if (!span_equal(method, SPAN("OPTIONS"))) return ERROR_INVALID;
    uri->raw_path = uri->path = target;
    return 0;
  }
  struct span rest = target;
  if (target.data[0] != '/') {
    size_t scheme = scheme_length(target);
    if (scheme == 0) return ERROR_INVALID;
    uri->authority = uri_authority(target);
    if (uri->authority.length == 0) return ERROR_INVALID;
    rest = span_skip(target, scheme + uri->authority.length);
  }
  size_t question = span_find(rest, '?');
  if (question < rest.length) uri->query = span_skip(rest, question + 1);
  if (uri->query.data && span_find(uri->query, '\0') != uri->query.length) return ERROR_INVALID;
  uri->raw_path = span_make(rest.data, question);
  if (uri->raw_path.length == 0) uri->raw_path = SPAN("/"); /* "http://host?query" */
  return normalise(uri->raw_path, arena, &uri->path);
}

/* Bytes of a host name: RFC 3986's unreserved and sub-delims but for what only makes trouble. Escapes and userinfo are refused, and "*": it names an entry of
 * the routing table, never a host. */
static const bool host_bytes[256] = {
    ['0' ... '9'] = true, ['A' ... 'Z'] = true, ['a' ... 'z'] = true, ['-'] = true, ['.'] = true, ['_'] = true, ['~'] = true, ['!'] = true,
    ['$'] = true,         ['&'] = true,         ['\''] = true,        ['('] = true, [')'] = true, ['+'] = true, [';'] = true, ['='] = true,
};
static bool is_host_byte(char c) { return host_bytes[(unsigned char)c]; }

bool uri_split_authority(struct span authority, struct span *host, struct span *port) {
  size_t end = 0;
  *port = (struct span){NULL, 0};
  if (authority.length && authority.data[0] == '[') {
    end = span_find(authority, ']');
    if (end == authority.length || end < 3) return false;
    for (size_t i = 1; i < end; i++)
      if (hex_value(authority.data[i]) < 0 && authority.data[i] != ':' && authority.data[i] != '.') return false;
    end++;
  } else {
    while (end < authority.length && is_host_byte(authority.data[end])) end++;
  }
  *host = span_make(authority.data, end);
  if (end == 0) return false;
  if (end == authority.length) return true;
  if (authority.data[end] != ':') return false;
  *port = span_skip(authority, end + 1);
  unsigned long long number;
  return port->length == 0 || span_to_u64(*port, 65535, &number); /* "host:" is allowed by RFC 3986, 3.2.3 */
}

bool uri_host(struct span authority, struct arena *arena, struct span *host, struct span *port) {
  struct span name;
  if (!uri_split_authority(authority, &name, port)) return false;
  if (name.data[name.length - 1] == '.') name.length--;
  /* "." alone, or "a..", names nothing. */
  if (name.length == 0 || name.data[name.length - 1] == '.' || name.data[0] == '.') return false;
  bool is_lower = true;
  for (size_t i = 0; i < name.length; i++) {
    if (name.data[i] >= 'A' && name.data[i] <= 'Z') is_lower = false;
    if (name.data[i] == '.' && i + 1 < name.length && name.data[i + 1] == '.') return false;
  }
  if (!is_lower) {
    char *copy = arena_copy(arena, name.data, name.length);
    for (size_t i = 0; i < name.length; i++)
      if (copy[i] >= 'A' && copy[i] <= 'Z') copy[i] = (char)(copy[i] | 0x20);
    name.data = copy;
  }
  *host = name;
  return true;
}

static bool path_needs_escape(char c) {
  unsigned char byte = (unsigned char)c;
  return byte <= 0x20 || byte >= 0x7f || strchr("\"#%<>?\\^`{|}", c) != NULL;
}
static bool component_needs_escape(char c) { return !is_alphanumeric(c) && c != '-' && c != '.' && c != '_' && c != '~'; }

static struct span escape(struct span text, bool (*needs)(char c), struct arena *arena) {
  static const char digits[] = "0123456789ABCDEF";
  size_t escapes = 0;
  for (size_t i = 0; i < text.length; i++) escapes += needs(text.data[i]);
  if (escapes == 0) return text;
  char *out = arena_alloc(arena, text.length + 2 * escapes + 1), *at = out;
  for (size_t i = 0; i < text.length; i++) {
    if (!needs(text.data[i])) {
      *at++ = text.data[i];
      continue;
    }
    unsigned char byte = (unsigned char)text.data[i];
    *at++ = '%';
    *at++ = digits[byte >> 4];
    *at++ = digits[byte & 15];
  }
  *at = '\0';
  return span_make(out, (size_t)(at - out));
}

struct span uri_escape_path(struct span path, struct arena *arena) { return escape(path, path_needs_escape, arena); }
struct span uri_escape_component(struct span text, struct arena *arena) { return escape(text, component_needs_escape, arena); }

struct span uri_unescape(struct span text, bool plus_is_space, struct arena *arena) {
  bool is_plain = span_find(text, '%') == text.length && (!plus_is_space || span_find(text, '+') == text.length);
  if (is_plain) return text;
  char *out = arena_alloc(arena, text.length + 1);
  size_t length = 0;
  for (size_t i = 0; i < text.length; i++) {
    char c = text.data[i];
    if (c == '+' && plus_is_space) c = ' ';
    if (c == '%' && i + 2 < text.length) {
      int high = hex_value(text.data[i + 1]), low = hex_value(text.data[i + 2]);
      if (high >= 0 && low >= 0) {
        c = (char)(high << 4 | low);
        i += 2;
      }
    }
    out[length++] = c;
  }
  out[length] = '\0';
  return span_make(out, length);
}

struct span uri_argument(struct span query, struct span name) {
  struct span rest = query;
  while (rest.length > 0) {
    size_t end = span_find(rest, '&');
    struct span pair = span_make(rest.data, end);
    size_t equals = span_find(pair, '=');
    /* nginx's $arg_ names are compared without regard to case. */
    if (span_equal_nocase(span_make(pair.data, equals), name)) return span_skip(pair, equals + 1);
    rest = span_skip(rest, end + 1);
  }
  return (struct span){NULL, 0};
}
