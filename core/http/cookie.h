/* Cookies (RFC 6265). Pure. */
#ifndef HTTP_COOKIE_H
#define HTTP_COOKIE_H

#include "base/limits.h"
#include "http/headers.h"

/* Value of the first cookie of that name over all Cookie fields; data NULL if absent. Quotes are kept. At most LIMIT_COOKIES are looked at; *limit says when
 * that was not all of them. */
struct span cookie_get(const struct headers *headers, struct span name, enum limit_reached *limit);

/* IMF-fixdate (RFC 9110, 5.6.7) of a unix time; "Sun, 06 Nov 1994 08:49:37 GMT". Returns 29. */
size_t http_date(int64_t unix_seconds, char out[32]);

#endif
