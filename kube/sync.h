/* The sync side: from a directory of manifests, or a cluster, and directories of policies to messages of docs/seam.md. */
#ifndef KUBE_SYNC_H
#define KUBE_SYNC_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counters.h"
#include "base/log.h"
#include "base/span.h"
#include "kube/review.h"

struct sync;

struct sync_options {
  const char *home;            /* the folder that holds kube/, policies/ and lua/ */
  const char *manifests;       /* the directory to serve; NULL: the cluster that flags and environment name (and for sync_check) */
  const char *const *policies; /* mounted policy directories, later ones win */
  unsigned policies_count;
  struct span flags; /* packed map: flag name without dashes -> value as text. Booleans are "true" or "false". "own-ports": our listeners' ports, comma list.
                        "watch-ingress-without-class" must be there as what is in force (standalone: "true") */
  unsigned long long guest_memory;
  /* One message, or a part of one: then more of it follows. NULL for specs of the loop. Called on the sync thread; the bytes are the caller's again
   * afterwards. `taken_us`: since when what it says was known here, in monotonic microseconds; 0: since before the start. */
  void (*emit)(void *context, const char *bytes, size_t length, uint64_t taken_us, bool is_part);
  /* One line of a metric that only this side knows: family, what tells the line from others, and its labels as the exposition writes them (NULL: the line
   * goes). Called on the sync thread, NULL where nobody wants them. */
  void (*emit_gauge)(void *context, struct span family, struct span key, const struct span *labels, double value);
  /* Whether a family's lines are to be seen at all. */
  void (*show_gauges)(void *context, struct span family, bool is_shown);
  void *context;
  struct log *log;
  struct counters *counters; /* of the sync thread; may be NULL */
  /* Registers moongate.core and moongate.owners in the state (script_open). 0, or not with a message. */
  int (*open_state)(void *context, lua_State *L, char *error, size_t error_size);
};

/* Everything that `options` points to is copied or must outlive the sync. NULL with one clear line: an unreadable directory, or a cluster that is not
 * named, ends the start. Does no work yet.
 */
struct sync *sync_new(const struct sync_options *options, char *error, size_t error_size);
void sync_free(struct sync *sync);
/* The thread's main; returns after sync_stop. */
void sync_run(struct sync *sync);
/* From any thread. */
void sync_stop(struct sync *sync);
/* The process is about to end: a cluster is told (status, Lease) while serving goes on; then sync_has_left. From any thread. */
void sync_leave(struct sync *sync);
bool sync_has_left(const struct sync *sync);
/* The first message has been emitted (it may be empty). From any thread. */
bool sync_is_ready(const struct sync *sync);
/* A mounted policy file does not load (--require-policies). From any thread. */
bool sync_has_broken_policies(const struct sync *sync);

/* Asks about an object that is not there yet; the answer comes through review->done, on the sync thread, between two slices of its work. False before the
 * first sync is over and after the end: the review is still the caller's. From any thread. */
bool sync_review(struct sync *sync, struct review *review);

/* `moongate check`: loads files and directories once, without emitting. Each finding comes as one line (it may hold newlines) with its level: "deny", "error",
 * "warn", "info". Returns the number of deny and error findings, or -1 with a message when it could not begin. */
int sync_check(const struct sync_options *options, const char *const *paths, unsigned count, void (*line)(void *context, const char *level, struct span text),
               void *context, char *error, size_t error_size);

#endif
