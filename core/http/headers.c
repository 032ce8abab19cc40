/* Header lists. Every list belongs to one message and lives in that message's arena; names and values are spans into the head as it was
 * received, or into the arena. Pure; runs on the thread of the exchange that owns the arena. */
#include "http/headers.h"

#include "base/check.h"
#include "http/scan.h"

static const struct span names[HEADER_ID_COUNT] = {
#define X(id, name, hop) [HEADER_##id] = {name, sizeof(name) - 1},
    HEADER_NAMES(X)
#undef X
};

static const bool hop_by_hop[HEADER_ID_COUNT] = {
#define X(id, name, hop) [HEADER_##id] = (hop) != 0,
    HEADER_NAMES(X)
#undef X
};

/* What a byte may be part of; see scan.h. */
const uint8_t scan_class[256] = {
    ['!'] = SCAN_TOKEN,
    ['#'] = SCAN_TOKEN,
    ['$'] = SCAN_TOKEN,
    ['%'] = SCAN_TOKEN,
    ['&'] = SCAN_TOKEN,
    ['\''] = SCAN_TOKEN,
    ['*'] = SCAN_TOKEN,
    ['+'] = SCAN_TOKEN,
    ['.'] = SCAN_TOKEN,
    ['^'] = SCAN_TOKEN,
    ['`'] = SCAN_TOKEN,
    ['|'] = SCAN_TOKEN,
    ['~'] = SCAN_TOKEN,
    ['-'] = SCAN_TOKEN | SCAN_PLAIN,
    ['_'] = SCAN_TOKEN | SCAN_UNDERSCORE,
    ['0' ... '9'] = SCAN_TOKEN | SCAN_PLAIN | SCAN_DIGIT,
    ['A' ... 'Z'] = SCAN_TOKEN | SCAN_PLAIN,
    ['a' ... 'z'] = SCAN_TOKEN | SCAN_PLAIN,
};

/* The well-known names by length: one comparison usually decides, and a name of another length costs nothing. */
enum { LONGEST_NAME = 32, SAME_LENGTH = 7 };
static const uint8_t by_length[LONGEST_NAME + 1][SAME_LENGTH] = {
    [2] = {HEADER_TE},
    [4] = {HEADER_HOST, HEADER_DATE, HEADER_ETAG},
    [5] = {HEADER_PROXY},
    [6] = {HEADER_ACCEPT, HEADER_COOKIE, HEADER_EXPECT, HEADER_SERVER, HEADER_ORIGIN},
    [7] = {HEADER_TRAILER, HEADER_UPGRADE, HEADER_REFERER},
    [8] = {HEADER_LOCATION, HEADER_X_SCHEME, HEADER_CDN_LOOP},
    [9] = {HEADER_X_REAL_IP},
    [10] = {HEADER_CONNECTION, HEADER_KEEP_ALIVE, HEADER_USER_AGENT, HEADER_SET_COOKIE},
    [12] = {HEADER_CONTENT_TYPE, HEADER_X_REQUEST_ID},
    [13] = {HEADER_CACHE_CONTROL, HEADER_LAST_MODIFIED, HEADER_AUTHORIZATION},
    [14] = {HEADER_CONTENT_LENGTH, HEADER_X_ORIGINAL_URI},
    [15] = {HEADER_ACCEPT_ENCODING, HEADER_ACCEPT_LANGUAGE, HEADER_X_FORWARDED_FOR},
    [16] = {HEADER_PROXY_CONNECTION, HEADER_X_FORWARDED_HOST, HEADER_X_FORWARDED_PORT},
    [17] = {HEADER_TRANSFER_ENCODING, HEADER_X_FORWARDED_PROTO},
    [18] = {HEADER_X_FORWARDED_SCHEME, HEADER_X_FORWARDED_PREFIX},
    [24] = {HEADER_X_ORIGINAL_FORWARDED_FOR},
    [22] = {HEADER_ACCESS_CONTROL_MAX_AGE},
    [25] = {HEADER_STRICT_TRANSPORT_SECURITY, HEADER_X_ORIGINAL_FORWARDED_HOST},
    [27] = {HEADER_ACCESS_CONTROL_ALLOW_ORIGIN},
    [28] = {HEADER_ACCESS_CONTROL_ALLOW_METHODS, HEADER_ACCESS_CONTROL_ALLOW_HEADERS},
    [29] = {HEADER_ACCESS_CONTROL_EXPOSE_HEADERS},
    [32] = {HEADER_ACCESS_CONTROL_ALLOW_CREDENTIALS},
};

/* Right for what it is compared with, letters and "-": of the bytes of a token, none but a letter becomes a letter, and none but "-" becomes "-". */
static char lower(char c) { return (char)(c | 0x20); }

static bool is_word_same(const char *data, const char *known) {
  uint64_t a, b;
  memcpy(&a, data, 8);
  memcpy(&b, known, 8);
  return (a | 0x2020202020202020u) == b;
}

/* Eight bytes a step, the last ones again with some that were compared before. */
static bool is_known_name(struct span name, const char *known) {
  size_t at = 0;
  if (name.length < 8) {
    while (at < name.length && lower(name.data[at]) == known[at]) at++;
    return at == name.length;
  }
  for (; at + 8 <= name.length; at += 8)
    if (!is_word_same(name.data + at, known + at)) return false;
  return is_word_same(name.data + name.length - 8, known + name.length - 8);
}

enum header_id header_id_of(struct span name) {
  if (name.length > LONGEST_NAME || name.length < 2) return HEADER_OTHER;
  const uint8_t *candidates = by_length[name.length];
  char last = lower(name.data[name.length - 1]);
  for (int i = 0; i < SAME_LENGTH && candidates[i] != HEADER_OTHER; i++) {
    const char *known = names[candidates[i]].data;
    if (known[name.length - 1] != last) continue;
    if (is_known_name(name, known)) return (enum header_id)candidates[i];
  }
  return HEADER_OTHER;
}

struct span header_id_name(enum header_id id) {
  must((unsigned)id < HEADER_ID_COUNT);
  return names[id];
}

bool header_is_hop_by_hop(enum header_id id) { return (unsigned)id < HEADER_ID_COUNT && hop_by_hop[id]; }

void headers_init(struct headers *headers, struct arena *arena) { *headers = (struct headers){.arena = arena}; }

void headers_reserve(struct headers *headers, unsigned count) {
  if (count <= headers->capacity) return;
  struct header *items = arena_alloc(headers->arena, count * sizeof *items);
  if (headers->count) memcpy(items, headers->items, headers->count * sizeof *items);
  headers->items = items;
  headers->capacity = count;
}

static struct header *add(struct headers *headers, struct header field) {
  if (headers->count == headers->capacity) headers_reserve(headers, headers->capacity ? headers->capacity * 2 : 16);
  headers->items[headers->count] = field;
  return &headers->items[headers->count++];
}

void headers_add(struct headers *headers, enum header_id id, struct span name, struct span value) {
  (void)add(headers, (struct header){.name = name, .value = value, .id = (uint16_t)id});
}

struct header *headers_add_checked(struct headers *headers, enum header_id id, struct span name, struct span value) {
  return add(headers, (struct header){.name = name, .value = value, .id = (uint16_t)id, .is_checked = true});
}

struct header *headers_find(const struct headers *headers, enum header_id id) {
  for (unsigned i = 0; i < headers->count; i++) {
    struct header *header = &headers->items[i];
    if (header->id == id && !header->removed) return header;
  }
  return NULL;
}

static bool matches(const struct header *header, enum header_id id, struct span name) {
  if (header->id != id || header->removed) return false;
  return id != HEADER_OTHER || span_equal_nocase(header->name, name);
}

struct header *headers_next_name(const struct headers *headers, struct span name, const struct header *previous) {
  enum header_id id = header_id_of(name);
  for (unsigned i = previous ? (unsigned)(previous - headers->items) + 1 : 0; i < headers->count; i++)
    if (matches(&headers->items[i], id, name)) return &headers->items[i];
  return NULL;
}

struct header *headers_find_name(const struct headers *headers, struct span name) { return headers_next_name(headers, name, NULL); }

struct span headers_get(const struct headers *headers, enum header_id id) {
  const struct header *header = headers_find(headers, id);
  return header ? header->value : (struct span){NULL, 0};
}

struct span headers_join(const struct headers *headers, struct span name, struct arena *arena) {
  const struct header *first = headers_next_name(headers, name, NULL), *only = first;
  size_t total = 0;
  for (const struct header *header = first; header; header = headers_next_name(headers, name, header)) {
    if (header->value.length == 0) continue;
    if (total == 0) only = header;
    total += header->value.length + 2;
  }
  if (!first) return (struct span){NULL, 0};
  if (total <= only->value.length + 2) return only->value;
  char *out = arena_alloc(arena, total), *at = out;
  for (const struct header *header = only; header; header = headers_next_name(headers, name, header)) {
    if (header->value.length == 0) continue;
    if (at > out) {
      memcpy(at, ", ", 2);
      at += 2;
    }
    memcpy(at, header->value.data, header->value.length);
    at += header->value.length;
  }
  return span_make(out, (size_t)(at - out));
}

static struct header *set(struct headers *headers, struct header field) {
  struct header *place = NULL;
  for (unsigned i = 0; i < headers->count; i++) {
    struct header *header = &headers->items[i];
    if (!matches(header, (enum header_id)field.id, field.name)) continue;
    header->removed = place != NULL;
    if (place == NULL) *(place = header) = field;
  }
  return place ? place : add(headers, field);
}

void headers_set(struct headers *headers, enum header_id id, struct span name, struct span value) {
  (void)set(headers, (struct header){.name = name, .value = value, .id = (uint16_t)id});
}

struct header *headers_set_checked(struct headers *headers, enum header_id id, struct span name, struct span value) {
  return set(headers, (struct header){.name = name, .value = value, .id = (uint16_t)id, .is_checked = true});
}

unsigned headers_remove(struct headers *headers, enum header_id id, struct span name) {
  unsigned removed = 0;
  for (unsigned i = 0; i < headers->count; i++) {
    struct header *header = &headers->items[i];
    if (!matches(header, id, name)) continue;
    header->removed = true;
    removed++;
  }
  return removed;
}

bool header_name_is_valid(struct span name) {
  for (size_t i = 0; i < name.length; i++)
    if (!(scan_class[(unsigned char)name.data[i]] & SCAN_TOKEN)) return false;
  return name.length > 0;
}

bool header_value_is_valid(struct span value) {
  /* Other control bytes do not split a message, but no peer should get them from us either. */
  return scan_text(value.data, value.length) == value.length;
}
