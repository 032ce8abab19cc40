/* Own log and access log: bounded rings, one per thread, drained by one writer thread (app). Writing a line never waits:
 * a full ring drops it and counts. Lines of our own log are key=value text (logfmt) or JSON, made here. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"

enum log_level { LOG_DEBUG = 0, LOG_INFO = 1, LOG_NOTICE = 2, LOG_WARN = 3, LOG_ERROR = 4 };
const char *log_level_name(enum log_level level);

enum log_target { LOG_OWN = 0 /* stderr */, LOG_ACCESS = 1 /* stdout */ };

struct log_ring; /* single producer, single consumer */
struct log_ring *log_ring_new(size_t capacity_bytes);
void log_ring_free(struct log_ring *ring);
/* Copies one line (a newline is added) into the ring; false when it did not fit (counted in log_ring_dropped). */
bool log_ring_put(struct log_ring *ring, enum log_target target, struct span line);
uint64_t log_ring_dropped(const struct log_ring *ring);
/* Consumer side: hands each line with its newline to `write`; returns how many lines. */
size_t log_ring_drain(struct log_ring *ring, void (*write)(void *context, enum log_target target, struct span line), void *context);
/* Called by the producer when it puts into an empty ring, so that the writer sleeps without polling. */
void log_ring_set_wake(struct log_ring *ring, void (*wake)(void *context), void *context);

/* A thread's way to log. `ring` NULL: straight to stderr (start and specs). */
struct log {
  struct log_ring *ring;
  _Atomic int *level; /* the process's level; NULL means LOG_INFO */
  bool json;
  const char *thread;                                               /* "sync", "worker-0", ... */
  void (*capture)(void *context, enum log_level, struct span line); /* specs: see the lines instead */
  void *capture_context;
};

bool log_is_on(const struct log *log, enum log_level level);
/* `message` is a constant sentence; then pairs: name, format... e.g. log_write(l, LOG_WARN, "endpoint failed", "upstream=%s error=%s", u, e).
 * A bare value runs to the next name=; what a peer sent goes through log_quote. Words before the first name= become `detail`. */
void log_write(struct log *log, enum log_level level, const char *message, const char *fields, ...) __attribute__((format(printf, 4, 5)));
/* `value` in quotes and escaped, cut to what fits, NUL-terminated; size is at least 3. Returns `out`, for a %s. */
const char *log_quote(struct span value, char *out, size_t size);

#endif
