/* Metrics: the Prometheus text exposition of everything that is counted. The admin thread. */
#ifndef APP_METRICS_H
#define APP_METRICS_H

#include "app/gauges.h"
#include "app/log_writer.h"
#include "app/publisher.h"
#include "base/buffer.h"
#include "base/series.h"
#include "route/traffic_table.h"

/* Where the figures are. */
struct metrics_source {
  struct counters *const *counters; /* one block per thread that counts */
  unsigned count;
  const struct log_writer *logs;
  struct series_registry *series; /* policies' counters */
  struct publisher *publisher;    /* or NULL, in tests */
  struct gauges *gauges;          /* the sync thread's; or NULL */
  struct traffic_table *traffic;  /* NULL: --enable-metrics is off */
  const char *controller_class;
  int64_t started_unix;
};

/* One answer to a scrape, made a part at a time. Keeps `source`. */
struct metrics_page;
struct metrics_page *metrics_page_new(const struct metrics_source *source);
/* Appends the next part; false: that was the last. */
bool metrics_page_more(void *page, struct buffer *out);
void metrics_page_free(void *page);

/* What is kept of each series, as the flags say; `say` gets names in --exclude-socket-metrics that are no metric of ours. 0, or -1 with a message. */
struct options;
int metrics_shape(const struct options *options, unsigned workers, struct traffic_shape *shape, void (*say)(void *context, struct span name), void *context,
                  char *error, size_t error_size);

#endif
