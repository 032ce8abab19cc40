/* Gauges: see gauges.h. A family owns its lines; the one lock guards them all. */
#include "app/gauges.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/exposition.h"
#include "base/hashmap.h"

#define PREFIX "nginx_ingress_controller_"

static const struct family {
  struct span name;
  const char *type, *help;
  bool is_ours; /* carries the controller's labels */
} families[] = {
    {SPAN(PREFIX "leader_election_status"), "gauge", "1: this replica leads; name is the Lease's.", true},
    {SPAN(PREFIX "orphan_ingress"), "gauge", "1: an Ingress with a Service that does not exist or has no endpoint; absent for all others.", true},
    {SPAN(PREFIX "ssl_expire_time_seconds"), "gauge", "When the certificate of a host expires, as unix time.", false},
    {SPAN(PREFIX "ssl_certificate_info"), "gauge", "1; what the certificate of a host is.", false},
    {SPAN("moongate_watch_restarts_total"), "counter", "Watches of the API server that had to begin anew.", false},
};

enum { FAMILIES = sizeof families / sizeof families[0] };

struct line {
  double value;
  size_t length;
  char labels[];
};

struct gauges {
  pthread_mutex_t lock;
  struct hashmap lines[FAMILIES];
  bool is_hidden[FAMILIES];
};

struct gauges *gauges_new(void) {
  struct gauges *gauges = check_memory(calloc(1, sizeof *gauges));
  must(pthread_mutex_init(&gauges->lock, NULL) == 0);
  for (unsigned i = 0; i < FAMILIES; i++) hashmap_init(&gauges->lines[i]);
  return gauges;
}

void gauges_free(struct gauges *gauges) {
  for (unsigned i = 0; i < FAMILIES; i++) {
    size_t cursor = 0;
    for (struct hashmap_entry *entry; (entry = hashmap_next(&gauges->lines[i], &cursor));) free(entry->value);
    hashmap_free(&gauges->lines[i]);
  }
  pthread_mutex_destroy(&gauges->lock);
  free(gauges);
}

static unsigned find(struct span name) {
  unsigned i = 0;
  while (i < FAMILIES && !span_equal(families[i].name, name)) i++;
  must(i < FAMILIES);
  return i;
}

void gauges_set(struct gauges *gauges, struct span family, struct span key, struct span labels, double value) {
  struct line *line = check_memory(malloc(sizeof *line + labels.length));
  line->value = value;
  line->length = labels.length;
  if (labels.length) memcpy(line->labels, labels.data, labels.length);
  pthread_mutex_lock(&gauges->lock);
  struct line *before = hashmap_put(&gauges->lines[find(family)], key, line);
  pthread_mutex_unlock(&gauges->lock);
  free(before);
}

void gauges_remove(struct gauges *gauges, struct span family, struct span key) {
  pthread_mutex_lock(&gauges->lock);
  struct line *before = hashmap_remove(&gauges->lines[find(family)], key);
  pthread_mutex_unlock(&gauges->lock);
  free(before);
}

void gauges_show(struct gauges *gauges, struct span family, bool is_shown) {
  pthread_mutex_lock(&gauges->lock);
  gauges->is_hidden[find(family)] = !is_shown;
  pthread_mutex_unlock(&gauges->lock);
}

static void put_line(const struct family *family, const struct line *line, struct span constant, struct buffer *out) {
  char text[EXPOSITION_FLOAT];
  struct span none = {NULL, 0}, labels = {line->labels, line->length};
  exposition_begin(out, family->name, family->is_ours ? constant : none, labels);
  bool is_whole = line->value >= 0 && line->value < 9e15 && floor(line->value) == line->value;
  if (is_whole) exposition_number(out, (uint64_t)line->value);
  else buffer_append(out, exposition_float(line->value, text));
  buffer_append(out, SPAN("\n"));
}

bool gauges_write(struct gauges *gauges, unsigned *next, struct span constant, struct buffer *out) {
  unsigned i = *next;
  size_t cursor = 0;
  if (i == FAMILIES) return false;
  ++*next;
  pthread_mutex_lock(&gauges->lock);
  if (!gauges->is_hidden[i] && gauges->lines[i].count) {
    exposition_family(out, families[i].name, families[i].type, families[i].help);
    for (struct hashmap_entry *entry; (entry = hashmap_next(&gauges->lines[i], &cursor));) put_line(&families[i], entry->value, constant, out);
  }
  pthread_mutex_unlock(&gauges->lock);
  return true;
}
