/* Names and help texts of the counters, for the exposition. Pure; any thread. */
#include "base/counters.h"

#include "base/check.h"

/* The limits are written in capitals once, in limits.h; their metric's name is made from that by the compiler. */
#define LOW(s, i) \
  ((i) < sizeof(s) ? (char)((s)[(i) % sizeof(s)] >= 'A' && (s)[(i) % sizeof(s)] <= 'Z' ? (s)[(i) % sizeof(s)] + 32 : (s)[(i) % sizeof(s)]) : (char)0)
#define LOW4(s, i) LOW(s, (i)), LOW(s, (i) + 1), LOW(s, (i) + 2), LOW(s, (i) + 3)
#define LOW16(s, i) LOW4(s, (i)), LOW4(s, (i) + 4), LOW4(s, (i) + 8), LOW4(s, (i) + 12)
#define LOW64(s) {LOW16(s, 0), LOW16(s, 16), LOW16(s, 32), LOW16(s, 48)}

static const char limit_names[][64] = {
#define X(name, value, unit, answer, what) LOW64("moongate_limit_" #name "_total"),
    LIMITS(X)
#undef X
};

#define X(name, value, unit, answer, what) _Static_assert(sizeof("moongate_limit_" #name "_total") <= 64, "a limit's name is too long");
LIMITS(X)
#undef X

static const char *const names[] = {
#define X(name, prometheus, help) prometheus,
    COUNTERS(X)
#undef X
};

static const char *const helps[] = {
#define X(name, prometheus, help) help,
    COUNTERS(X)
#undef X
#define X(name, value, unit, answer, what) "Times this limit was reached: " what " (" #value " " unit "; answer: " answer ").",
        LIMITS(X)
#undef X
};

enum { NAMED = sizeof names / sizeof names[0] };

const char *counter_name(enum counter which) {
  must((unsigned)which < COUNTER_COUNT);
  return (unsigned)which < NAMED ? names[which] : limit_names[which - NAMED];
}

const char *counter_help(enum counter which) {
  must((unsigned)which < COUNTER_COUNT);
  return helps[which];
}
