/* Log writer: see log_writer.h. A producer that puts into an empty ring wakes the thread through an eventfd; it then waits a few milliseconds so
 * that a busy process is woken a hundred times a second and not once a line. */
#include "app/log_writer.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"

#define RINGS_MAX 80
#define RING_BYTES (1u << 20)
#define BATCH_NS 10000000L

struct log_writer {
  struct log logs[RINGS_MAX];
  unsigned count;
  bool json, is_started;
  _Atomic int level;
  _Atomic bool is_stopping;
  int event;
  pthread_t thread;
  struct buffer out[2]; /* by log_target */
};

struct log_writer *log_writer_new(bool json, enum log_level level) {
  struct log_writer *writer = calloc(1, sizeof *writer);
  must(writer);
  writer->json = json;
  atomic_store(&writer->level, (int)level);
  writer->event = eventfd(0, EFD_CLOEXEC);
  must(writer->event >= 0);
  return writer;
}

static void wake(void *context) {
  uint64_t one = 1;
  ssize_t ignored = write(((struct log_writer *)context)->event, &one, sizeof one);
  (void)ignored;
}

struct log *log_writer_log(struct log_writer *writer, const char *thread) {
  must(writer->count < RINGS_MAX && !writer->is_started);
  struct log *log = &writer->logs[writer->count++];
  log->ring = log_ring_new(RING_BYTES);
  log_ring_set_wake(log->ring, wake, writer);
  log->level = &writer->level;
  log->json = writer->json;
  log->thread = thread;
  return log;
}

_Atomic int *log_writer_level(struct log_writer *writer) { return &writer->level; }

uint64_t log_writer_dropped(const struct log_writer *writer) {
  uint64_t sum = 0;
  for (unsigned i = 0; i < writer->count; i++) sum += log_ring_dropped(writer->logs[i].ring);
  return sum;
}

static void write_all(int fd, struct buffer *out) {
  while (buffer_length(out)) {
    struct span rest = buffer_span(out);
    ssize_t done = write(fd, rest.data, rest.length);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) { /* the reader is gone: lines are lost, the process goes on */
      buffer_consume(out, rest.length);
      return;
    }
    buffer_consume(out, (size_t)done);
  }
}

static void gather(void *context, enum log_target target, struct span line) {
  struct log_writer *writer = context;
  buffer_append(&writer->out[target], line);
  if (buffer_length(&writer->out[target]) > 65536) write_all(target == LOG_OWN ? STDERR_FILENO : STDOUT_FILENO, &writer->out[target]);
}

static void drain(struct log_writer *writer) {
  for (unsigned i = 0; i < writer->count; i++) log_ring_drain(writer->logs[i].ring, gather, writer);
  write_all(STDERR_FILENO, &writer->out[LOG_OWN]);
  write_all(STDOUT_FILENO, &writer->out[LOG_ACCESS]);
}

static void *thread_main(void *context) {
  struct log_writer *writer = context;
  while (!atomic_load(&writer->is_stopping)) {
    uint64_t value;
    ssize_t got = read(writer->event, &value, sizeof value);
    (void)got;
    if (!atomic_load(&writer->is_stopping)) nanosleep(&(struct timespec){0, BATCH_NS}, NULL);
    drain(writer);
  }
  drain(writer);
  return NULL;
}

int log_writer_start(struct log_writer *writer) {
  int code = pthread_create(&writer->thread, NULL, thread_main, writer);
  writer->is_started = code == 0;
  return -code;
}

void log_writer_stop(struct log_writer *writer) {
  atomic_store(&writer->is_stopping, true);
  wake(writer);
  if (writer->is_started) pthread_join(writer->thread, NULL);
  writer->is_started = false;
  drain(writer);
}

void log_writer_free(struct log_writer *writer) {
  log_writer_stop(writer);
  for (unsigned i = 0; i < writer->count; i++) log_ring_free(writer->logs[i].ring);
  buffer_free(&writer->out[LOG_OWN]);
  buffer_free(&writer->out[LOG_ACCESS]);
  close(writer->event);
  free(writer);
}
