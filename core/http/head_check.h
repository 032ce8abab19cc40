/* The raw head check: our own strictness over the raw bytes of each head, chunk line and trailer section, before any parser sees them, for
 * requests and responses (RFC 9112; request smuggling). Pure. */
#ifndef HTTP_HEAD_CHECK_H
#define HTTP_HEAD_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/limits.h"
#include "base/span.h"

enum head_kind { HEAD_REQUEST = 0, HEAD_RESPONSE = 1, HEAD_TRAILERS = 2 };

struct head_verdict {
  int status;      /* 0: fine; else what a client should be told: 400 414 431 501 505 */
  const char *why; /* constant text for the log */
  enum limit_reached limit;
};
#define REFUSE(code, reason) ((struct head_verdict){(code), (reason), REACHED_NONE})
#define REFUSE_LIMIT(code, reason, name) ((struct head_verdict){(code), (reason), REACHED_##name})

/* Offset just behind the blank line that ends a head, 0 when it is not there yet. `from`: where the last search ended (bytes already searched). */
size_t head_find_end(const char *data, size_t length, size_t from);
/* Checks a complete head, blank line included. Bare CR, bare LF, NUL and other control bytes, obs-fold, space before the colon, empty or
 * invalid names (reported; the caller may drop them when they are merely unusual), bad version, several or non-equal Content-Length, Content-Length with
 * Transfer-Encoding, Transfer-Encoding other than one final "chunked", Transfer-Encoding in HTTP/1.0, missing, repeated or malformed Host in HTTP/1.1, bad
 * method token, whitespace in the target, fragments, size and count limits. */
struct head_verdict head_check(enum head_kind kind, struct span head, size_t max_line, unsigned max_fields);
/* The same; with `facts`, names that are not tokens but hold no space or control character are counted there instead of refused. */
struct head_facts {
  unsigned fields;
  unsigned odd_names;
};
struct head_verdict head_check_facts(enum head_kind kind, struct span head, size_t max_line, unsigned max_fields, struct head_facts *facts);
/* Checks one chunk-size line with its CRLF (RFC 9112, 7.1): digits, no leading "+", "0x" or spaces, no overflow, extensions bounded and without control bytes.
 */
struct head_verdict head_check_chunk_line(struct span line);

#endif
