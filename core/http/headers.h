/* Header lists: the fields of one message, in order, in its arena. Names keep the case they came with; the well-known ones carry an id
 * so that comparing is one integer. Pure; the exchange's thread. */
#ifndef HTTP_HEADERS_H
#define HTTP_HEADERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/span.h"

/* X(ID, "lower-case-name", hop) — hop: 1 = hop-by-hop (RFC 9110, 7.6.1), never forwarded as received. The http room may add names. */
#define HEADER_NAMES(X) \
  X(HOST, "host", 0) \
  X(CONNECTION, "connection", 1) \
  X(KEEP_ALIVE, "keep-alive", 1) \
  X(PROXY_CONNECTION, "proxy-connection", 1) \
  X(TE, "te", 1) \
  X(TRAILER, "trailer", 0) \
  X(TRANSFER_ENCODING, "transfer-encoding", 1) \
  X(UPGRADE, "upgrade", 1) \
  X(CONTENT_LENGTH, "content-length", 0) \
  X(CONTENT_TYPE, "content-type", 0) \
  X(EXPECT, "expect", 0) \
  X(COOKIE, "cookie", 0) \
  X(SET_COOKIE, "set-cookie", 0) \
  X(LOCATION, "location", 0) \
  X(DATE, "date", 0) \
  X(SERVER, "server", 0) \
  X(ACCEPT, "accept", 0) \
  X(ACCEPT_ENCODING, "accept-encoding", 0) \
  X(ACCEPT_LANGUAGE, "accept-language", 0) \
  X(USER_AGENT, "user-agent", 0) \
  X(REFERER, "referer", 0) \
  X(ORIGIN, "origin", 0) \
  X(AUTHORIZATION, "authorization", 0) \
  X(CACHE_CONTROL, "cache-control", 0) \
  X(ETAG, "etag", 0) \
  X(LAST_MODIFIED, "last-modified", 0) \
  X(PROXY, "proxy", 0) \
  X(STRICT_TRANSPORT_SECURITY, "strict-transport-security", 0) \
  X(X_REQUEST_ID, "x-request-id", 0) \
  X(X_REAL_IP, "x-real-ip", 0) \
  X(X_FORWARDED_FOR, "x-forwarded-for", 0) \
  X(X_FORWARDED_HOST, "x-forwarded-host", 0) \
  X(X_FORWARDED_PORT, "x-forwarded-port", 0) \
  X(X_FORWARDED_PROTO, "x-forwarded-proto", 0) \
  X(X_FORWARDED_SCHEME, "x-forwarded-scheme", 0) \
  X(X_FORWARDED_PREFIX, "x-forwarded-prefix", 0) \
  X(X_SCHEME, "x-scheme", 0) \
  X(X_ORIGINAL_FORWARDED_FOR, "x-original-forwarded-for", 0) \
  X(X_ORIGINAL_FORWARDED_HOST, "x-original-forwarded-host", 0) \
  X(X_ORIGINAL_URI, "x-original-uri", 0) \
  X(CDN_LOOP, "cdn-loop", 0) \
  X(ACCESS_CONTROL_ALLOW_ORIGIN, "access-control-allow-origin", 0) \
  X(ACCESS_CONTROL_ALLOW_CREDENTIALS, "access-control-allow-credentials", 0) \
  X(ACCESS_CONTROL_ALLOW_METHODS, "access-control-allow-methods", 0) \
  X(ACCESS_CONTROL_ALLOW_HEADERS, "access-control-allow-headers", 0) \
  X(ACCESS_CONTROL_MAX_AGE, "access-control-max-age", 0) \
  X(ACCESS_CONTROL_EXPOSE_HEADERS, "access-control-expose-headers", 0)

enum header_id {
  HEADER_OTHER = 0,
#define X(id, name, hop) HEADER_##id,
  HEADER_NAMES(X)
#undef X
      HEADER_ID_COUNT
};

struct header {
  struct span name, value; /* value: trimmed, no CR LF NUL */
  uint16_t id;
  bool removed;    /* left in place so that indexes stay; skipped by all functions */
  bool is_checked; /* name and value are known to be valid; only the functions named _checked set it */
  bool is_lent;    /* name and value may belong to something that goes before the arena does; who lent them looks after it */
};

struct headers {
  struct arena *arena;
  struct header *items;
  unsigned count, capacity;
};

/* Id of a name, any case. */
enum header_id header_id_of(struct span name);
struct span header_id_name(enum header_id id);
bool header_is_hop_by_hop(enum header_id id);

void headers_init(struct headers *headers, struct arena *arena);
/* Makes room for `count` fields in all, so that adding them allocates nothing. */
void headers_reserve(struct headers *headers, unsigned count);
/* Keeps the spans (they must live as long as the arena). */
void headers_add(struct headers *headers, enum header_id id, struct span name, struct span value);
/* The same for a name that is a token and a value that cannot hold a control character: from a head that head_check passed, made by us of nothing else, or
 * looked at before, if only when the configuration was read. The writer does not look at it again. */
struct header *headers_add_checked(struct headers *headers, enum header_id id, struct span name, struct span value);
/* First field of that name, or NULL. The id form is for known ids only. */
struct header *headers_find(const struct headers *headers, enum header_id id);
struct header *headers_find_name(const struct headers *headers, struct span name);
struct span headers_get(const struct headers *headers, enum header_id id); /* empty if absent: data NULL */
/* Next field of that name after `previous` (NULL: first). */
struct header *headers_next_name(const struct headers *headers, struct span name, const struct header *previous);
/* All fields of that name as one list (RFC 9110, 5.3), empty ones left out: the value itself if it is one, else made in the arena. data NULL if absent. */
struct span headers_join(const struct headers *headers, struct span name, struct arena *arena);
/* Replaces all fields of that name by one, in the first one's place, or adds it. */
void headers_set(struct headers *headers, enum header_id id, struct span name, struct span value);
struct header *headers_set_checked(struct headers *headers, enum header_id id, struct span name, struct span value);
/* How many were removed. */
unsigned headers_remove(struct headers *headers, enum header_id id, struct span name);
/* True for a token (RFC 9110, 5.6.2), and for a value without control characters other than a tab. */
bool header_name_is_valid(struct span name);
bool header_value_is_valid(struct span value);

#endif
