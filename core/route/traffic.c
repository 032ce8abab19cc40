/* Traffic: counting. A request finds its series through the few that were used last; only the first of its kind allocates. Worker's thread, but for the texts
 * of labels. */
#include "route/traffic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

enum method {
#define X(name) METHOD_##name,
  TRAFFIC_METHODS(X)
#undef X
      METHOD_OTHER
};

static const struct {
  const char *text;
  size_t length;
} methods[] = {
#define X(name) {#name, sizeof #name - 1},
    TRAFFIC_METHODS(X)
#undef X
};

static uint32_t method_of(struct span method) {
  if (method.length == 3 && method.data[0] == 'G' && method.data[1] == 'E' && method.data[2] == 'T') return METHOD_GET;
  for (uint32_t i = 0; i < METHOD_OTHER; i++)
    if (methods[i].length == method.length && memcmp(methods[i].text, method.data, method.length) == 0) return i;
  return METHOD_OTHER;
}

const char *traffic_method_name(uint32_t key) {
  uint32_t method = key >> 16;
  return method < METHOD_OTHER ? methods[method].text : "other";
}

struct span traffic_status_text(const struct traffic_shape *shape, uint32_t key, char out[8]) {
  int length = snprintf(out, 8, shape->by_class ? "%uxx" : "%03u", key & 0xffff);
  return span_make(out, (size_t)length);
}

void traffic_pin(struct traffic *traffic) {
  must(traffic->magic == TRAFFIC_MAGIC);
  atomic_fetch_add_explicit(&traffic->pins, 1, memory_order_relaxed);
}

void traffic_unpin(struct traffic *traffic) {
  must(traffic->magic == TRAFFIC_MAGIC);
  /* Release: who sees 0 and frees must see all that was done under the pin. */
  must(atomic_fetch_sub_explicit(&traffic->pins, 1, memory_order_release) > 0);
}

/* ---- the first of its kind ---------------------------------------------------------------------------------------------------- */

static bool take_one(_Atomic uint32_t *used, uint32_t limit) {
  if (atomic_fetch_add_explicit(used, 1, memory_order_relaxed) < limit) return true;
  atomic_fetch_sub_explicit(used, 1, memory_order_relaxed);
  return false;
}

static enum counter make_series(struct traffic_shape *shape, struct traffic_group *group, uint32_t key, struct traffic_series **out) {
  if (group->count >= LIMIT_METRIC_ROUTE_SERIES) return COUNTER_LIMIT_METRIC_ROUTE_SERIES;
  if (group->host ? !take_one(&shape->host_series, LIMIT_METRIC_HOST_SERIES) : !take_one(&shape->series, LIMIT_METRIC_SERIES))
    return group->host ? COUNTER_LIMIT_METRIC_HOST_SERIES : COUNTER_LIMIT_METRIC_SERIES;
  struct traffic_series *series = check_memory(calloc(1, sizeof *series + shape->cells * sizeof series->cells[0]));
  series->key = key;
  atomic_store_explicit(&series->next, atomic_load_explicit(&group->series, memory_order_relaxed), memory_order_relaxed);
  group->count++;
  atomic_store_explicit(&group->series, series, memory_order_release);
  *out = series;
  return COUNTER_COUNT;
}

static struct traffic_group *make_group(struct span host) {
  struct traffic_group *group = check_memory(calloc(1, sizeof *group));
  hashmap_init(&group->hosts);
  if (host.length) {
    group->host = check_memory(malloc(host.length + 1));
    memcpy(group->host, host.data, host.length);
    group->host[host.length] = 0;
  }
  return group;
}

/* The group of a name that is not the record's own. */
static struct traffic_group *other_group(struct traffic_shape *shape, struct traffic_group *first, struct span host) {
  struct traffic_group *group = first->recent_host;
  if (group && strlen(group->host) == host.length && memcmp(group->host, host.data, host.length) == 0) return group;
  group = hashmap_get(&first->hosts, host);
  if (!group) {
    /* Nobody makes a group that could have no series. */
    if (atomic_load_explicit(&shape->host_series, memory_order_relaxed) >= LIMIT_METRIC_HOST_SERIES) return NULL;
    group = make_group(host);
    hashmap_put(&first->hosts, host, group);
    atomic_store_explicit(&group->next, atomic_load_explicit(&first->next, memory_order_relaxed), memory_order_relaxed);
    atomic_store_explicit(&first->next, group, memory_order_release);
  }
  first->recent_host = group;
  return group;
}

/* ---- each request ------------------------------------------------------------------------------------------------------------- */

static enum counter find_series(struct traffic *traffic, unsigned worker, struct span host, uint32_t key, struct traffic_series **out) {
  struct traffic_group *group = atomic_load_explicit(&traffic->groups[worker], memory_order_relaxed);
  if (!group) {
    group = make_group((struct span){NULL, 0});
    atomic_store_explicit(&traffic->groups[worker], group, memory_order_release);
  }
  if (host.length && !(group = other_group(traffic->shape, group, host))) return COUNTER_LIMIT_METRIC_HOST_SERIES;
  struct traffic_series **recent = &group->recent[(key ^ key >> 16) % TRAFFIC_RECENT];
  if (*recent && (*recent)->key == key) {
    *out = *recent;
    return COUNTER_COUNT;
  }
  struct traffic_series *series = atomic_load_explicit(&group->series, memory_order_relaxed);
  while (series && series->key != key) series = atomic_load_explicit(&series->next, memory_order_relaxed);
  if (!series) {
    enum counter limit = make_series(traffic->shape, group, key, &series);
    if (limit != COUNTER_COUNT) return limit;
  }
  *recent = *out = series;
  return COUNTER_COUNT;
}

static inline void observe(const struct traffic_shape *shape, struct traffic_series *series, enum traffic_histogram which, enum traffic_bounds bounds,
                           uint64_t value) {
  unsigned at = shape->at[which];
  if (at != TRAFFIC_NO_CELLS) histogram_observe(&shape->bounds[bounds], series->cells + at, value);
}

enum counter traffic_count(struct traffic *traffic, unsigned worker, const struct traffic_sample *sample) {
  const struct traffic_shape *shape = traffic->shape;
  struct traffic_series *series = NULL;
  must(traffic->magic == TRAFFIC_MAGIC && worker < shape->workers);
  uint32_t status = sample->status > 0 && sample->status < 1000 ? (uint32_t)sample->status : 0;
  enum counter limit = find_series(traffic, worker, sample->host, method_of(sample->method) << 16 | (shape->by_class ? status / 100 : status), &series);
  if (limit != COUNTER_COUNT) return limit;
  histogram_add(&series->requests, 1);
  observe(shape, series, TRAFFIC_REQUEST_DURATION, TRAFFIC_TIME, sample->request_us);
  if (sample->response_us >= 0) observe(shape, series, TRAFFIC_RESPONSE_DURATION, TRAFFIC_TIME, (uint64_t)sample->response_us);
  if (sample->connect_us >= 0) observe(shape, series, TRAFFIC_CONNECT_DURATION, TRAFFIC_TIME, (uint64_t)sample->connect_us);
  if (sample->header_us >= 0) observe(shape, series, TRAFFIC_HEADER_DURATION, TRAFFIC_TIME, (uint64_t)sample->header_us);
  observe(shape, series, TRAFFIC_REQUEST_SIZE, TRAFFIC_LENGTH, sample->request_bytes);
  observe(shape, series, TRAFFIC_RESPONSE_SIZE, TRAFFIC_LENGTH, sample->response_bytes);
  observe(shape, series, TRAFFIC_BYTES_SENT, TRAFFIC_SIZE, sample->response_bytes);
  return COUNTER_COUNT;
}

bool traffic_place(const struct traffic *traffic, struct span matched, struct span requested, struct span *host) {
  const struct traffic_shape *shape = traffic->shape;
  bool is_nobodys = matched.length == 0 || span_equal(matched, SPAN("_")), is_wildcard = span_starts_with(matched, SPAN("*."));
  *host = (struct span){NULL, 0};
  if (!shape->per_host) return true;
  if (!is_nobodys && !(is_wildcard && shape->undefined_hosts)) {
    if (!span_equal(matched, traffic->host)) *host = matched; /* an alias */
    return true;
  }
  if (requested.length == 0) return true;
  *host = requested;
  return shape->undefined_hosts;
}
