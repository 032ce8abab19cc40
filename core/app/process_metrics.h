/* Process metrics: what the kernel says about this process, under the names that ingress-nginx has for its nginx. Any thread. */
#ifndef APP_PROCESS_METRICS_H
#define APP_PROCESS_METRICS_H

#include <stdint.h>

#include "base/buffer.h"
#include "base/span.h"

void process_metrics_write(struct buffer *out, struct span labels, int64_t started_unix);

#endif
