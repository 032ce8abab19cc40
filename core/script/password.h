/* Password: whether a text is the one that a hash was made of. The forms of htpasswd and of nginx: {PLAIN} {SHA} {SSHA} $apr1$ $1$ $2a$ $2b$ $2y$ $5$ $6$ and
 * the old crypt of 13 characters. Pure; any thread. */
#ifndef SCRIPT_PASSWORD_H
#define SCRIPT_PASSWORD_H

#include <stdbool.h>

#include "base/span.h"

enum { PASSWORD_HASH_BYTES = 512, PASSWORD_TEXT_BYTES = 512 }; /* no longer ones match */

/* NULL, or why a hash cannot be checked: "has ...". */
const char *password_complaint(struct span hash);
/* Whether checking takes no time worth mentioning: a few microseconds. */
bool password_is_quick(struct span hash);
/* False also for a hash that has a complaint. */
bool password_matches(struct span hash, struct span text);

#endif
