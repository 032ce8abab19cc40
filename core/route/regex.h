/* Regex: PCRE2, JIT-compiled where available, with match, depth and heap limits (base/limits.h). Immutable; match data is per call (a small pool on the
 * caller's stack or arena). */
#ifndef ROUTE_REGEX_H
#define ROUTE_REGEX_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/limits.h"
#include "base/span.h"

struct regex;

#define REGEX_GROUPS 10 /* 0 = whole match, 1..9 */

struct regex_match {
  int count;                        /* groups of the pattern that we keep, 0: no match */
  struct span groups[REGEX_GROUPS]; /* data NULL where a group took no part */
};

struct regex *regex_new(struct span pattern, bool ignore_case, char *error, size_t error_size);
void regex_free(struct regex *regex);
/* True on a match. *limit: which limit ended it without one, for the caller to count; may be NULL. */
bool regex_match(const struct regex *regex, struct span subject, struct regex_match *match, enum limit_reached *limit);

#endif
