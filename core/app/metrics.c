/* Metrics: see metrics.h. Counters come from the one list in base/counters.h; gauges of the publisher from the table below. A page owns its text and what it
 * holds of the traffic table. */
#include "app/metrics.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/options.h"
#include "app/process_metrics.h"
#include "app/traffic_page.h"
#include "base/check.h"
#include "base/exposition.h"

#define PREFIX "nginx_ingress_controller_"
#define REPOSITORY "moongate"

/* What is small is made at the beginning; of the rest each part is made when the one before it is out: ten thousand certificates are some megabytes, too. */
struct metrics_page {
  struct buffer made, constant; /* made: and not handed out; constant: the controller's labels */
  struct gauges *gauges;
  unsigned next_gauges;
  struct traffic_page *traffic;
};

#define PART_BYTES 16384

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

/* The same under the names of ingress-nginx: a message of the sync thread stands where a reload is there. */
static const struct {
  const char *name, *type, *help;
  size_t offset;
} controller_table[] = {
    {PREFIX "config_hash", "gauge", "Hash of the configuration that is served: equal in replicas that serve the same.",
     offsetof(struct publisher_gauges, content)},
    {PREFIX "config_last_reload_successful", "gauge", "0: a part of the last change was refused.", offsetof(struct publisher_gauges, is_last_good)},
    {PREFIX "config_last_reload_successful_timestamp_seconds", "gauge", "When a change was last published, as unix time.",
     offsetof(struct publisher_gauges, last_good_unix)},
    {PREFIX "success", "counter", "Changes that were published.", offsetof(struct publisher_gauges, good_messages)},
    {PREFIX "errors", "counter", "Changes of which a part was refused.", offsetof(struct publisher_gauges, bad_messages)},
};

static const struct span none = {NULL, 0};

static void put(struct buffer *out, const char *name, const char *type, const char *help, struct span labels, uint64_t value) {
  exposition_family(out, span_of(name), type, help);
  exposition_sample(out, span_of(name), labels, none, value);
}

static uint64_t sum(const struct metrics_source *source, enum counter which) {
  uint64_t total = 0;
  for (unsigned i = 0; i < source->count; i++) total += counter_get(source->counters[i], which);
  return total;
}

/* Two monotonic counters read one after the other: the difference never shows below 0. */
static uint64_t difference(uint64_t more, uint64_t less) { return more > less ? more - less : 0; }

static void put_states(struct buffer *out, const char *name, const char *type, const char *help, struct span constant, const char *const *states,
                       const uint64_t *values, unsigned count) {
  exposition_family(out, span_of(name), type, help);
  for (unsigned i = 0; i < count; i++) {
    struct buffer labels = {0};
    exposition_label(&labels, "state", span_of(states[i]));
    exposition_sample(out, span_of(name), constant, buffer_span(&labels), values[i]);
    buffer_free(&labels);
  }
}

static void put_connections(struct buffer *out, const struct metrics_source *source, struct span constant) {
  static const char *const states[] = {"active", "reading", "writing", "waiting"}, *const totals[] = {"accepted", "handled"};
  uint64_t ended = sum(source, COUNTER_EXCHANGES_ENDED), requests = sum(source, COUNTER_REQUESTS);
  uint64_t read = sum(source, COUNTER_HEADS_WAITED_ENDED), closed = sum(source, COUNTER_CONNECTIONS_CLOSED);
  uint64_t accepted = sum(source, COUNTER_CONNECTIONS_ACCEPTED), reading = difference(sum(source, COUNTER_HEADS_WAITED), read);
  uint64_t active = difference(accepted, closed), writing = difference(requests, ended);
  put(out, "moongate_exchanges", "gauge", "Exchanges in progress.", none, writing);
  put(out, "moongate_connections", "gauge", "Client connections.", none, active);
  put(out, "moongate_tunnels", "gauge", "Tunnels.", none, difference(sum(source, COUNTER_TUNNELS_OPENED), sum(source, COUNTER_TUNNELS_CLOSED)));
  put(out, "moongate_hooks_waiting", "gauge", "Hooks of policies that wait.", none,
      difference(sum(source, COUNTER_HOOK_WAITS), sum(source, COUNTER_HOOK_WAITS_ENDED)));
  put(out, "moongate_mirrors_running", "gauge", "Copies of requests that are on their way.", none,
      difference(sum(source, COUNTER_MIRRORS), sum(source, COUNTER_MIRRORS_ENDED)));
  put_states(out, PREFIX "nginx_process_connections", "gauge", "Client connections; reading: part of a head is there, writing: a request is in progress.",
             constant, states, (uint64_t[]){active, reading, writing, difference(active, reading + writing)}, 4);
  put_states(out, PREFIX "nginx_process_connections_total", "counter", "Client connections so far.", constant, totals, (uint64_t[]){accepted, accepted}, 2);
  put(out, PREFIX "nginx_process_requests_total", "counter", "Requests so far.", constant, requests);
}

static void put_build(struct buffer *out, struct span constant) {
  struct buffer labels = {0};
  exposition_label(&labels, "release", SPAN(MOONGATE_VERSION));
  exposition_label(&labels, "build", SPAN(MOONGATE_VERSION));
  exposition_label(&labels, "repository", SPAN(REPOSITORY));
  exposition_family(out, SPAN(PREFIX "build_info"), "gauge", "1; which build this is.");
  exposition_sample(out, SPAN(PREFIX "build_info"), constant, buffer_span(&labels), 1);
  buffer_free(&labels);
}

static void put_publisher(struct buffer *out, const struct metrics_source *source, struct span constant) {
  const struct publisher_gauges *gauges = publisher_gauges(source->publisher);
  for (size_t i = 0; i < sizeof gauges_table / sizeof gauges_table[0]; i++) {
    const _Atomic uint64_t *value = (const _Atomic uint64_t *)((const char *)gauges + gauges_table[i].offset);
    put(out, gauges_table[i].name, "gauge", gauges_table[i].help, none, atomic_load_explicit(value, memory_order_relaxed));
  }
  for (size_t i = 0; i < sizeof controller_table / sizeof controller_table[0]; i++) {
    const _Atomic uint64_t *value = (const _Atomic uint64_t *)((const char *)gauges + controller_table[i].offset);
    put(out, controller_table[i].name, controller_table[i].type, controller_table[i].help, constant, atomic_load_explicit(value, memory_order_relaxed));
  }
  publisher_write_metrics(source->publisher, out);
}

static void put_counters(struct buffer *out, const struct metrics_source *source) {
  for (int which = 0; which < COUNTER_COUNT; which++) {
    uint64_t total = sum(source, (enum counter)which) + series_reached(source->series, (enum counter)which);
    if (which == COUNTER_LOG_DROPPED) total = log_writer_dropped(source->logs);
    put(out, counter_name((enum counter)which), "counter", counter_help((enum counter)which), none, total);
  }
}

static void put_constant(struct buffer *labels, const struct metrics_source *source) {
  const char *namespace = getenv("POD_NAMESPACE"), *pod = getenv("POD_NAME");
  exposition_label(labels, "controller_class", span_of(source->controller_class));
  exposition_label(labels, "controller_namespace", span_of(namespace && *namespace ? namespace : "default"));
  exposition_label(labels, "controller_pod", span_of(pod ? pod : ""));
}

struct metrics_page *metrics_page_new(const struct metrics_source *source) {
  struct metrics_page *page = check_memory(calloc(1, sizeof *page));
  put_constant(&page->constant, source);
  struct span constant = buffer_span(&page->constant);
  if (source->publisher) put_publisher(&page->made, source, constant);
  put_connections(&page->made, source, constant);
  process_metrics_write(&page->made, constant, source->started_unix);
  put_build(&page->made, constant);
  put_counters(&page->made, source);
  series_write(source->series, &page->made);
  page->gauges = source->gauges;
  if (source->traffic) page->traffic = traffic_page_new(source->traffic, constant);
  return page;
}

bool metrics_page_more(void *self, struct buffer *out) {
  struct metrics_page *page = self;
  while (buffer_length(&page->made) == 0 && page->gauges)
    if (!gauges_write(page->gauges, &page->next_gauges, buffer_span(&page->constant), &page->made)) page->gauges = NULL;
  struct span made = buffer_span(&page->made);
  if (made.length == 0) return page->traffic && traffic_page_more(page->traffic, out);
  if (made.length > PART_BYTES) made.length = PART_BYTES;
  buffer_append(out, made);
  buffer_consume(&page->made, made.length);
  return buffer_length(&page->made) || page->gauges || page->traffic;
}

void metrics_page_free(void *self) {
  struct metrics_page *page = self;
  if (page->traffic) traffic_page_free(page->traffic);
  buffer_free(&page->made);
  buffer_free(&page->constant);
  free(page);
}

/* ---- flags -------------------------------------------------------------------------------------------------------------------- */

/* With or without the prefix, as in the reference. */
static unsigned find_family(struct span name) {
  unsigned i = 0;
  for (; i < TRAFFIC_FAMILIES; i++) {
    struct span full = traffic_page_family(i);
    if (span_equal(full, name) || span_equal(span_skip(full, sizeof PREFIX - 1), name)) break;
  }
  return i;
}

static void exclude(const struct option_list *list, struct traffic_shape *shape, void (*say)(void *context, struct span name), void *context) {
  for (unsigned i = 0; i < list->count; i++) {
    struct span rest = span_of(list->items[i]), item;
    while (span_next_item(&rest, ',', &item)) {
      unsigned family = find_family(item);
      if (family < TRAFFIC_FAMILIES) shape->is_excluded[family] = true;
      else say(context, item);
    }
  }
}

int metrics_shape(const struct options *options, unsigned workers, struct traffic_shape *shape, void (*say)(void *context, struct span name), void *context,
                  char *error, size_t error_size) {
  const struct {
    const char *flag, *value;
    unsigned digits;
  } flags[TRAFFIC_BOUNDS] = {
      {"time-buckets", options->time_buckets, 6}, {"length-buckets", options->length_buckets, 0}, {"size-buckets", options->size_buckets, 0}};
  *shape = (struct traffic_shape){.workers = workers,
                                  .by_class = options->report_status_classes,
                                  .per_host = options->metrics_per_host,
                                  .undefined_hosts = options->metrics_per_undefined_host};
  for (unsigned i = 0; i < TRAFFIC_BOUNDS; i++) {
    char why[128];
    if (histogram_bounds_parse(&shape->bounds[i], span_of(flags[i].value), flags[i].digits, why, sizeof why) == 0) continue;
    snprintf(error, error_size, "--%s: %s", flags[i].flag, why);
    return -1;
  }
  exclude(&options->exclude_socket_metrics, shape, say, context);
  return 0;
}
