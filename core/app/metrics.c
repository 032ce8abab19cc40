/* Metrics: see metrics.h. Counters come from the one list in base/counters.h; gauges of the publisher from the table below. */
#include "app/metrics.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct gauge {
  const char *name, *help;
  size_t offset;
};

static const struct gauge gauges_table[] = {
    {"moongate_snapshot_generation", "Number of the newest root.", offsetof(struct publisher_gauges, generation)},
    {"moongate_live_roots", "Snapshot roots that somebody holds.", offsetof(struct publisher_gauges, live_roots)},
    {"moongate_superseded_units", "Units that a newer root does not name and that are not freed yet.", offsetof(struct publisher_gauges, superseded_units)},
    {"moongate_oldest_superseded_unit_milliseconds", "Age of the oldest of them.", offsetof(struct publisher_gauges, oldest_superseded_ms)},
    {"moongate_hosts", "Hosts in the newest root.", offsetof(struct publisher_gauges, hosts)},
    {"moongate_upstream_slots", "Upstream slots in the newest root.", offsetof(struct publisher_gauges, upstreams)},
    {"moongate_endpoint_records", "Endpoint records of the process.", offsetof(struct publisher_gauges, records)},
    {"moongate_unit_changes", "Unit changes that crossed the seam.", offsetof(struct publisher_gauges, changes)},
    {"moongate_unit_changes_refused", "Of them, refused.", offsetof(struct publisher_gauges, refused)},
};

static void put(struct buffer *out, const char *name, const char *type, const char *help, unsigned long long value) {
  buffer_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %llu\n", name, help, name, type, name, value);
}

static unsigned long long sum(struct counters *const *counters, unsigned count, enum counter which) {
  unsigned long long total = 0;
  for (unsigned i = 0; i < count; i++) total += counter_get(counters[i], which);
  return total;
}

static void put_process(struct buffer *out) {
  FILE *file = fopen("/proc/self/statm", "re");
  unsigned long long size = 0, resident = 0;
  if (file && fscanf(file, "%llu %llu", &size, &resident) == 2)
    put(out, "moongate_resident_memory_bytes", "gauge", "Resident memory.", resident * (unsigned long long)sysconf(_SC_PAGESIZE));
  if (file) fclose(file);
}

/* Two monotonic counters read one after the other: the difference never shows below 0. */
static unsigned long long difference(unsigned long long more, unsigned long long less) { return more > less ? more - less : 0; }

void metrics_write(struct buffer *out, struct counters *const *counters, unsigned count, const struct publisher_gauges *gauges, const struct log_writer *logs,
                   struct series_registry *series) {
  for (size_t i = 0; i < sizeof gauges_table / sizeof gauges_table[0]; i++) {
    const _Atomic uint64_t *value = (const _Atomic uint64_t *)((const char *)gauges + gauges_table[i].offset);
    put(out, gauges_table[i].name, "gauge", gauges_table[i].help, atomic_load_explicit(value, memory_order_relaxed));
  }
  put(out, "moongate_exchanges", "gauge", "Exchanges in progress.",
      difference(sum(counters, count, COUNTER_REQUESTS), sum(counters, count, COUNTER_EXCHANGES_ENDED)));
  put(out, "moongate_connections", "gauge", "Client connections.",
      difference(sum(counters, count, COUNTER_CONNECTIONS_ACCEPTED), sum(counters, count, COUNTER_CONNECTIONS_CLOSED)));
  put(out, "moongate_tunnels", "gauge", "Tunnels.", difference(sum(counters, count, COUNTER_TUNNELS_OPENED), sum(counters, count, COUNTER_TUNNELS_CLOSED)));
  put_process(out);
  for (int which = 0; which < COUNTER_COUNT; which++) {
    unsigned long long total = sum(counters, count, (enum counter)which) + series_reached(series, (enum counter)which);
    if (which == COUNTER_LOG_DROPPED) total = log_writer_dropped(logs);
    put(out, counter_name((enum counter)which), "counter", counter_help((enum counter)which), total);
  }
  series_write(series, out);
}
