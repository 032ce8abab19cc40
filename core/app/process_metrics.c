/* Process metrics: see process_metrics.h. What cannot be read is left out. */
#include "app/process_metrics.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/exposition.h"

#define PREFIX "nginx_ingress_controller_nginx_process_"
static const struct span none = {NULL, 0};

static void put(struct buffer *out, struct span name, const char *type, const char *help, struct span labels, uint64_t value) {
  exposition_family(out, name, type, help);
  exposition_sample(out, name, labels, none, value);
}

static void put_memory(struct buffer *out, struct span labels) {
  unsigned long long size = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "re");
  int got = file ? fscanf(file, "%llu %llu", &size, &resident) : 0;
  if (file) fclose(file);
  if (got != 2) return;
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  put(out, SPAN(PREFIX "resident_memory_bytes"), "gauge", "Resident memory.", labels, resident * page);
  put(out, SPAN(PREFIX "virtual_memory_bytes"), "gauge", "Virtual memory.", labels, size * page);
  put(out, SPAN("moongate_resident_memory_bytes"), "gauge", "Resident memory.", none, resident * page);
}

static void put_processor(struct buffer *out, struct span labels) {
  const struct span name = SPAN(PREFIX "cpu_seconds_total");
  struct rusage usage;
  if (getrusage(RUSAGE_SELF, &usage)) return;
  exposition_family(out, name, "counter", "Processor time, user and system.");
  exposition_begin(out, name, labels, none);
  exposition_scaled(out, (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000 + (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec), 6);
  buffer_append(out, SPAN("\n"));
}

/* The kernel may keep these from a process with file capabilities. */
static void put_storage(struct buffer *out, struct span labels) {
  unsigned long long value, bytes[2] = {0, 0};
  bool is_known = false;
  char line[128];
  FILE *file = fopen("/proc/self/io", "re");
  while (file && fgets(line, sizeof line, file)) {
    if (sscanf(line, "read_bytes: %llu", &value) == 1) {
      bytes[0] = value;
      is_known = true;
    } else if (sscanf(line, "write_bytes: %llu", &value) == 1) {
      bytes[1] = value;
    }
  }
  if (file) fclose(file);
  if (!is_known) return;
  put(out, SPAN(PREFIX "read_bytes_total"), "counter", "Bytes read from storage.", labels, bytes[0]);
  put(out, SPAN(PREFIX "write_bytes_total"), "counter", "Bytes written to storage.", labels, bytes[1]);
}

void process_metrics_write(struct buffer *out, struct span labels, int64_t started_unix) {
  put(out, SPAN(PREFIX "num_procs"), "gauge", "Processes: one, with a thread for each worker.", labels, 1);
  put(out, SPAN(PREFIX "oldest_start_time_seconds"), "gauge", "When the process began, as unix time.", labels, (uint64_t)started_unix);
  put_processor(out, labels);
  put_memory(out, labels);
  put_storage(out, labels);
}
