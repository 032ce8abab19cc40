/* Sync thread: see sync_thread.h. */
#include "app/sync_thread.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "script/script.h"

struct sync_thread {
  struct sync *sync;
  struct script_options script;
  struct publisher *publisher;
  struct gauges *gauges;
  struct buffer flags;
  pthread_t thread;
  bool is_started;
};

static void emit(void *context, const char *bytes, size_t length, uint64_t taken_us, bool is_part) {
  struct sync_thread *self = context;
  if (self->publisher) publisher_submit(self->publisher, bytes, length, taken_us, is_part);
}

static void emit_gauge(void *context, struct span family, struct span key, const struct span *labels, double value) {
  struct gauges *gauges = ((struct sync_thread *)context)->gauges;
  if (!gauges) return;
  if (labels) gauges_set(gauges, family, key, *labels, value);
  else gauges_remove(gauges, family, key);
}

static void show_gauges(void *context, struct span family, bool is_shown) {
  struct gauges *gauges = ((struct sync_thread *)context)->gauges;
  if (gauges) gauges_show(gauges, family, is_shown);
}

static int open_state(void *context, lua_State *L, char *error, size_t error_size) {
  (void)error;
  (void)error_size;
  script_open(L, &((struct sync_thread *)context)->script);
  return 0;
}

static struct sync_options joints(struct sync_thread *self, const struct sync_thread_options *options) {
  char ports[64];
  const unsigned *own = options->own_ports;
  snprintf(ports, sizeof ports, "%u,%u,%u,%u", own[0], own[1], own[2], own[3]);
  options_pack(options->options, ports, &self->flags);
  self->publisher = options->publisher;
  self->gauges = options->gauges;
  self->script = (struct script_options){.lua_directory = options->script_path, .workers = 1, .log = options->log, .guest_memory = options->guest_memory};
  return (struct sync_options){
      .home = options->home,
      .manifests = *options->options->manifests ? options->options->manifests : NULL,
      .policies = options->options->policies.items,
      .policies_count = options->options->policies.count,
      .flags = buffer_span(&self->flags),
      .guest_memory = options->guest_memory,
      .emit = emit,
      .emit_gauge = emit_gauge,
      .show_gauges = show_gauges,
      .context = self,
      .log = options->log,
      .counters = options->counters,
      .open_state = open_state,
  };
}

struct sync_thread *sync_thread_new(const struct sync_thread_options *options, char *error, size_t error_size) {
  struct sync_thread *self = calloc(1, sizeof *self);
  must(self);
  struct sync_options joined = joints(self, options);
  self->sync = sync_new(&joined, error, error_size);
  if (self->sync) return self;
  buffer_free(&self->flags);
  free(self);
  return NULL;
}

static void *thread_main(void *context) {
  sync_run(((struct sync_thread *)context)->sync);
  return NULL;
}

int sync_thread_start(struct sync_thread *self) {
  int code = pthread_create(&self->thread, NULL, thread_main, self);
  self->is_started = code == 0;
  return -code;
}

bool sync_thread_has_broken_policies(const struct sync_thread *self) { return sync_has_broken_policies(self->sync); }

void sync_thread_leave(struct sync_thread *self) { sync_leave(self->sync); }
bool sync_thread_has_left(const struct sync_thread *self) { return sync_has_left(self->sync); }

bool sync_thread_review(struct sync_thread *self, struct review *review) { return sync_review(self->sync, review); }

void sync_thread_stop(struct sync_thread *self) {
  if (!self->is_started) return;
  self->is_started = false;
  sync_stop(self->sync);
  pthread_join(self->thread, NULL);
}

void sync_thread_free(struct sync_thread *self) {
  sync_thread_stop(self);
  sync_free(self->sync);
  buffer_free(&self->flags);
  free(self);
}

int sync_thread_check(const struct sync_thread_options *options, const char *const *paths, unsigned count,
                      void (*line)(void *context, const char *level, struct span text), void *context, char *error, size_t error_size) {
  struct sync_thread self = {0};
  struct sync_options joined = joints(&self, options);
  int found = sync_check(&joined, paths, count, line, context, error, error_size);
  buffer_free(&self.flags);
  return found;
}
