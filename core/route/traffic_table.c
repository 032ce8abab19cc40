/* Traffic table: see traffic_table.h. The lock is for the list of records that units name: the publisher changes it, the admin thread reads it and pins what it
 * found; what is not in the list is pinned by nobody anew. Everything else is the publisher's alone. */
#include "route/traffic_table.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/exposition.h"

struct traffic_table {
  struct traffic_shape shape;
  struct hashmap records;
  pthread_mutex_t lock;
  struct list named;
  struct list unnamed; /* until the next sweep, or as long as they are pinned */
  unsigned count;
  struct traffic *nobody;
};

static void lay_out(struct traffic_shape *shape) {
  static const enum traffic_bounds bounds[] = {
#define X(name, text, kind, help) TRAFFIC_##kind,
      TRAFFIC_HISTOGRAMS(X)
#undef X
  };
  unsigned cells = 0;
  for (unsigned i = 0; i < TRAFFIC_REQUESTS; i++) {
    shape->at[i] = shape->is_excluded[i] ? TRAFFIC_NO_CELLS : (uint16_t)cells;
    if (!shape->is_excluded[i]) cells += histogram_cells(&shape->bounds[bounds[i]]);
  }
  shape->cells = (uint16_t)cells;
}

struct traffic_table *traffic_table_new(const struct traffic_shape *shape) {
  struct traffic_table *table = check_memory(calloc(1, sizeof *table));
  table->shape = *shape;
  must(shape->workers > 0);
  for (unsigned i = 0; i < TRAFFIC_BOUNDS; i++) must(shape->bounds[i].count > 0);
  lay_out(&table->shape);
  hashmap_init_borrowing(&table->records);
  must(pthread_mutex_init(&table->lock, NULL) == 0);
  list_init(&table->named);
  list_init(&table->unnamed);
  table->nobody = traffic_table_hold(table, &(struct traffic_labels){.host = SPAN("_"), .path = SPAN("/")});
  return table;
}

static void free_group(struct traffic_shape *shape, struct traffic_group *group) {
  struct traffic_series *series = atomic_load_explicit(&group->series, memory_order_acquire);
  for (struct traffic_series *next; series; series = next) {
    next = atomic_load_explicit(&series->next, memory_order_relaxed);
    free(series);
  }
  atomic_fetch_sub_explicit(group->host ? &shape->host_series : &shape->series, group->count, memory_order_relaxed);
  hashmap_free(&group->hosts);
  free(group->host);
  free(group);
}

static void free_record(struct traffic *traffic) {
  struct traffic_shape *shape = traffic->shape;
  for (unsigned i = 0; i < shape->workers; i++) {
    struct traffic_group *group = atomic_load_explicit(&traffic->groups[i], memory_order_acquire);
    for (struct traffic_group *next; group; group = next) {
      next = atomic_load_explicit(&group->next, memory_order_acquire);
      free_group(shape, group);
    }
  }
  traffic->magic = 0;
  free(traffic);
}

void traffic_table_free(struct traffic_table *table) {
  if (!table) return;
  size_t cursor = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&table->records, &cursor));) free_record(entry->value);
  hashmap_free(&table->records);
  pthread_mutex_destroy(&table->lock);
  free(table);
}

const struct traffic_shape *traffic_table_shape(const struct traffic_table *table) { return &table->shape; }
struct traffic *traffic_table_nobody(const struct traffic_table *table) { return table->nobody; }
unsigned traffic_table_count(const struct traffic_table *table) { return table->count; }

/* Host, NUL, labels: the key in the table and what the exposition prints. */
static void put_key(const struct traffic_shape *shape, const struct traffic_labels *labels, struct buffer *out, size_t *host_length) {
  struct buffer text = {0};
  *host_length = shape->per_host ? labels->host.length : 0;
  buffer_append(out, span_make(labels->host.data, *host_length));
  buffer_append(out, span_make("", 1));
  exposition_label(&text, "path", labels->path);
  exposition_label(&text, "namespace", labels->namespace);
  exposition_label(&text, "ingress", labels->ingress);
  exposition_label(&text, "service", labels->service);
  exposition_label(&text, "canary", labels->canary);
  buffer_append(out, buffer_span(&text));
  buffer_free(&text);
}

static struct traffic *make_record(struct traffic_table *table, struct span key, size_t host_length) {
  must(key.data);
  size_t head = sizeof(struct traffic) + table->shape.workers * sizeof(_Atomic(struct traffic_group *));
  struct traffic *traffic = check_memory(calloc(1, head + key.length));
  char *text = (char *)traffic + head;
  memcpy(text, key.data, key.length);
  traffic->magic = TRAFFIC_MAGIC;
  traffic->table = table;
  traffic->shape = &table->shape;
  traffic->key = span_make(text, key.length);
  traffic->host = span_make(text, host_length);
  traffic->is_plain = !table->shape.per_host || !(span_equal(traffic->host, SPAN("_")) || span_starts_with(traffic->host, SPAN("*.")));
  traffic->labels = span_skip(traffic->key, host_length + 1);
  list_init(&traffic->node);
  hashmap_put(&table->records, traffic->key, traffic);
  table->count++;
  return traffic;
}

static void move(struct traffic_table *table, struct traffic *traffic, struct list *to) {
  pthread_mutex_lock(&table->lock);
  list_remove(&traffic->node);
  list_insert_last(to, &traffic->node);
  pthread_mutex_unlock(&table->lock);
}

struct traffic *traffic_table_hold(struct traffic_table *table, const struct traffic_labels *labels) {
  struct buffer key = {0};
  size_t host_length;
  put_key(&table->shape, labels, &key, &host_length);
  struct traffic *traffic = hashmap_get(&table->records, buffer_span(&key));
  if (!traffic) traffic = make_record(table, buffer_span(&key), host_length);
  buffer_free(&key);
  if (traffic->references++ == 0) move(table, traffic, &table->named);
  return traffic;
}

static void forget(struct traffic_table *table, struct traffic *traffic) {
  hashmap_remove(&table->records, traffic->key);
  table->count--;
  free_record(traffic);
}

void traffic_table_release(struct traffic *traffic) {
  must(traffic->magic == TRAFFIC_MAGIC && traffic->references > 0);
  if (--traffic->references > 0) return;
  move(traffic->table, traffic, &traffic->table->unnamed);
}

void traffic_table_sweep(struct traffic_table *table) {
  for (struct list *node = table->unnamed.next, *next; node != &table->unnamed; node = next) {
    next = node->next;
    struct traffic *traffic = container_of(node, struct traffic, node);
    if (atomic_load_explicit(&traffic->pins, memory_order_acquire) > 0) continue;
    list_remove(node); /* nobody else looks at this list */
    forget(table, traffic);
  }
}

static bool has_counted(const struct traffic *traffic) {
  for (unsigned i = 0; i < traffic->shape->workers; i++)
    if (atomic_load_explicit(&traffic->groups[i], memory_order_relaxed)) return true;
  return false;
}

struct traffic **traffic_table_list(struct traffic_table *table, unsigned *count) {
  struct traffic **list = NULL;
  unsigned capacity = 0;
  *count = 0;
  pthread_mutex_lock(&table->lock);
  for (struct list *node = table->named.next; node != &table->named; node = node->next) {
    struct traffic *traffic = container_of(node, struct traffic, node);
    if (!has_counted(traffic)) continue;
    if (*count == capacity) {
      capacity = capacity ? capacity * 2 : 64;
      list = check_memory(realloc(list, capacity * sizeof *list));
    }
    traffic_pin(traffic);
    list[(*count)++] = traffic;
  }
  pthread_mutex_unlock(&table->lock);
  return list;
}

void traffic_table_unlist(struct traffic **list, unsigned count) {
  for (unsigned i = 0; i < count; i++) traffic_unpin(list[i]);
  free(list);
}
