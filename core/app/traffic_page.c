/* Traffic page: see traffic_page.h. The format wants all series of a family together, so the records are gone through once a family; of each record, the
 * series of all workers with the same host, method and status are one. One record may have very many, of names that no Ingress has: a part ends anywhere
 * between two series. */
#include "app/traffic_page.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/exposition.h"
#include "base/hash.h"

#define PREFIX "nginx_ingress_controller_"
#define PART_BYTES 16384
#define PART_LOOKS 256 /* records and series that one part looks at: not all of them say something in each family */
#define CELLS (HISTOGRAM_BOUNDS + 2)

static const struct {
  struct span name;
  enum traffic_bounds bounds;
  const char *help;
} families[TRAFFIC_FAMILIES] = {
#define X(name, text, kind, help) {SPAN(PREFIX text), TRAFFIC_##kind, help},
    TRAFFIC_HISTOGRAMS(X)
#undef X
        {SPAN(PREFIX "requests"), TRAFFIC_BOUNDS, "Requests that were answered, or given up by their clients."},
};

struct span traffic_page_family(unsigned family) { return families[family].name; }

/* One worker's series. */
struct row {
  uint64_t hash;    /* of the host: sorting compares it first */
  const char *host; /* NULL: the record's own */
  const struct traffic_series *series;
};

struct traffic_page {
  struct traffic **list;
  unsigned count;
  struct span constant;
  unsigned family, at;
  bool has_begun;   /* this family */
  struct row *rows; /* of the record before `at`, those from row_at on are still to come */
  unsigned row_at, row_count, row_capacity;
};

struct traffic_page *traffic_page_new(struct traffic_table *table, struct span constant) {
  struct traffic_page *page = check_memory(calloc(1, sizeof *page));
  page->list = traffic_table_list(table, &page->count);
  page->constant = constant;
  return page;
}

void traffic_page_free(struct traffic_page *page) {
  traffic_table_unlist(page->list, page->count);
  free(page->rows);
  free(page);
}

static void add_group(struct traffic_page *page, const struct traffic_group *group) {
  const struct traffic_series *series = atomic_load_explicit(&group->series, memory_order_acquire);
  uint64_t hash = group->host ? hash_bytes(span_of(group->host), 0) : 0;
  for (; series; series = atomic_load_explicit(&series->next, memory_order_acquire)) {
    if (page->row_count == page->row_capacity) {
      page->row_capacity = page->row_capacity ? page->row_capacity * 2 : 64;
      page->rows = check_memory(realloc(page->rows, page->row_capacity * sizeof *page->rows));
    }
    page->rows[page->row_count++] = (struct row){hash, group->host, series};
  }
}

static int compare_hosts(const struct row *a, const struct row *b) {
  if (a->hash != b->hash) return a->hash > b->hash ? 1 : -1;
  if (!a->host || !b->host) return (a->host != NULL) - (b->host != NULL);
  return strcmp(a->host, b->host);
}

static int compare(const void *left, const void *right) {
  const struct row *a = left, *b = right;
  int order = compare_hosts(a, b);
  return order ? order : (a->series->key > b->series->key) - (a->series->key < b->series->key);
}

static void collect(struct traffic_page *page, const struct traffic *traffic) {
  page->row_at = page->row_count = 0;
  for (unsigned i = 0; i < traffic->shape->workers; i++) {
    const struct traffic_group *group = atomic_load_explicit(&traffic->groups[i], memory_order_acquire);
    for (; group; group = atomic_load_explicit(&group->next, memory_order_acquire)) add_group(page, group);
  }
  if (page->row_count) qsort(page->rows, page->row_count, sizeof *page->rows, compare);
}

static void put_labels(const struct traffic_page *page, const struct traffic *traffic, const struct row *row, struct buffer *labels) {
  char status[8];
  struct span host = row->host ? span_of(row->host) : traffic->host;
  buffer_append(labels, page->constant);
  if (traffic->shape->per_host) exposition_label(labels, "host", host);
  if (buffer_length(labels)) buffer_append(labels, SPAN(","));
  buffer_append(labels, traffic->labels);
  exposition_label(labels, "method", span_of(traffic_method_name(row->series->key)));
  exposition_label(labels, "status", traffic_status_text(traffic->shape, row->series->key, status));
}

static void begin_family(struct traffic_page *page, struct buffer *out) {
  if (!page->has_begun)
    exposition_family(out, families[page->family].name, page->family == TRAFFIC_REQUESTS ? "counter" : "histogram", families[page->family].help);
  page->has_begun = true;
}

/* `rows` are one series, by worker. */
static void put_series(struct traffic_page *page, const struct traffic *traffic, const struct row *rows, unsigned count, struct buffer *out) {
  const struct traffic_shape *shape = traffic->shape;
  struct span name = families[page->family].name;
  struct buffer labels = {0};
  uint64_t cells[CELLS] = {0}, requests = 0, seen = 0;
  if (page->family == TRAFFIC_REQUESTS) {
    put_labels(page, traffic, rows, &labels);
    for (unsigned i = 0; i < count; i++) requests += atomic_load_explicit(&rows[i].series->requests, memory_order_relaxed);
    begin_family(page, out);
    exposition_sample(out, name, buffer_span(&labels), (struct span){NULL, 0}, requests);
  } else {
    const struct histogram_bounds *bounds = &shape->bounds[families[page->family].bounds];
    for (unsigned i = 0; i < count; i++)
      for (unsigned cell = 0; cell < histogram_cells(bounds); cell++)
        cells[cell] += atomic_load_explicit(&rows[i].series->cells[shape->at[page->family] + cell], memory_order_relaxed);
    for (unsigned cell = 1; cell < histogram_cells(bounds); cell++) seen += cells[cell];
    if (seen) { /* else no endpoint was asked */
      put_labels(page, traffic, rows, &labels);
      begin_family(page, out);
      histogram_write(out, bounds, cells, name, buffer_span(&labels));
    }
  }
  buffer_free(&labels);
}

static void put_next_series(struct traffic_page *page, struct buffer *out) {
  unsigned first = page->row_at, next = first + 1;
  while (next < page->row_count && compare(&page->rows[first], &page->rows[next]) == 0) next++;
  page->row_at = next;
  put_series(page, page->list[page->at - 1], &page->rows[first], next - first, out);
}

static void begin_next_family(struct traffic_page *page) {
  page->family++;
  page->at = 0;
  page->has_begun = false;
}

bool traffic_page_more(struct traffic_page *page, struct buffer *out) {
  size_t enough = buffer_length(out) + PART_BYTES;
  unsigned looks = 0;
  while (page->count && page->family < TRAFFIC_FAMILIES && buffer_length(out) < enough && looks++ < PART_LOOKS) {
    if (page->row_at < page->row_count) put_next_series(page, out);
    else if (page->at == page->count || page->list[0]->shape->is_excluded[page->family]) begin_next_family(page);
    else collect(page, page->list[page->at++]);
  }
  return page->count && page->family < TRAFFIC_FAMILIES;
}
