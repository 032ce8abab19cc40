/* Metrics: the Prometheus text exposition of the counters and gauges. Any thread that may read them. */
#ifndef APP_METRICS_H
#define APP_METRICS_H

#include "app/log_writer.h"
#include "app/publisher.h"
#include "base/buffer.h"
#include "base/series.h"

void metrics_write(struct buffer *out, struct counters *const *counters, unsigned count, const struct publisher_gauges *gauges, const struct log_writer *logs,
                   struct series_registry *series);

#endif
