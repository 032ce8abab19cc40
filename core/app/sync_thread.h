/* Sync thread: joins kube's sync with the script room (its Lua states) and the publisher (its messages). */
#ifndef APP_SYNC_THREAD_H
#define APP_SYNC_THREAD_H

#include "app/gauges.h"
#include "app/options.h"
#include "app/publisher.h"
#include "kube/sync.h"

struct sync_thread;

struct sync_thread_options {
  const struct options *options;
  const char *home;
  const char *script_path; /* lua_directory of script_options */
  unsigned long long guest_memory;
  struct publisher *publisher; /* NULL: check only */
  struct gauges *gauges;       /* NULL: check only */
  struct log *log;
  struct counters *counters; /* of the thread; NULL: check only */
  unsigned own_ports[4];     /* 0: none */
};

struct sync_thread *sync_thread_new(const struct sync_thread_options *options, char *error, size_t error_size);
int sync_thread_start(struct sync_thread *thread);
bool sync_thread_has_broken_policies(const struct sync_thread *thread);
/* Ends what others read of us in a cluster, for at most 5 s; serving goes on. Returns at once; sync_thread_has_left says when. */
void sync_thread_leave(struct sync_thread *thread);
bool sync_thread_has_left(const struct sync_thread *thread);
/* The webhook's question: as sync_review. */
bool sync_thread_review(struct sync_thread *thread, struct review *review);
/* Ends the thread; reviews that wait are given back unanswered, and no more are taken. */
void sync_thread_stop(struct sync_thread *thread);
void sync_thread_free(struct sync_thread *thread);

/* `moongate check` with the same joints. As sync_check. */
int sync_thread_check(const struct sync_thread_options *options, const char *const *paths, unsigned count,
                      void (*line)(void *context, const char *level, struct span text), void *context, char *error, size_t error_size);

#endif
