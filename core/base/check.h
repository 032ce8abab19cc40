/* Invariants. must() is always on and means a bug of ours: it prints, dumps what the thread is doing, and aborts.
 * A peer's fault is never a must(): it is an answer and a counter. */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

#include <stdint.h>

#define must(condition) ((condition) ? (void)0 : check_failed(#condition, __FILE__, __LINE__))

/* Called by must(); runs the hook set by check_set_dump (once per process) and aborts. */
_Noreturn void check_failed(const char *condition, const char *file, int line);

/* `pointer`, unless it is NULL: a small allocation that failed ends the process. */
void *check_memory(void *pointer);

/* The crash dump's writer: called with an async-signal-safe context in mind. Set once by app at start. */
void check_set_dump(void (*dump)(const char *what));

/* A long-lived struct begins with `uint32_t magic`; each void pointer that comes back is checked against it. */
#define MAGIC(a, b, c, d) ((uint32_t)(a) | (uint32_t)(b) << 8 | (uint32_t)(c) << 16 | (uint32_t)(d) << 24)

#endif
