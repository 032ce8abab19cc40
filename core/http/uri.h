/* URIs: origin form, absolute form, authority; decoding and normalising as nginx does. Pure. */
#ifndef HTTP_URI_H
#define HTTP_URI_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/span.h"

struct uri {
  struct span raw_path;  /* as received, without query */
  struct span path;      /* decoded once, dot segments resolved, repeated slashes merged; begins with "/" ("*" for OPTIONS *) */
  struct span query;     /* without "?"; data NULL if there is no "?" */
  struct span authority; /* of an absolute target; else empty */
};

/* Parses a request target. 0, or ERROR_INVALID for a target that gets 400: NUL, bad escapes, climbing above the root, not "/"-rooted. */
int uri_parse_target(struct span target, struct span method, struct arena *arena, struct uri *uri);
/* Authority of an absolute "http(s)://" target; data NULL for other forms. */
struct span uri_authority(struct span target);
/* Splits "host[:port]" without changing it; false if malformed (userinfo, escapes, bad port, empty host). */
bool uri_split_authority(struct span authority, struct span *host, struct span *port);
/* Host of an authority: lower case, without port, userinfo refused, trailing dot removed, IPv6 literals kept in brackets; false if malformed. */
bool uri_host(struct span authority, struct arena *arena, struct span *host, struct span *port);
/* Decoded path to escaped form, as nginx escapes a rewritten URI for the upstream. */
struct span uri_escape_path(struct span path, struct arena *arena);
/* As nginx's $escaped_request_uri / ngx.escape_uri: all but unreserved characters. */
struct span uri_escape_component(struct span text, struct arena *arena);
/* %XX decoding; bad escapes are left as they are. plus_is_space for query values. */
struct span uri_unescape(struct span text, bool plus_is_space, struct arena *arena);
/* Raw value of a query argument ("a" in "a=1&b"), first occurrence, names compared without case; data NULL if absent. */
struct span uri_argument(struct span query, struct span name);

#endif
