/* Admin: a thread of its own with /healthz and /metrics on the health port, and the admission webhook where one is asked for. Reads counters and immutable
 * data only, never waits for sync. */
#ifndef APP_ADMIN_H
#define APP_ADMIN_H

#include "app/metrics.h"
#include "app/webhook.h"
#include "base/address.h"

struct admin;

struct admin_options {
  struct address address;
  const char *health_path;
  struct metrics_source metrics;
  bool (*is_ready)(void *context); /* false: /healthz answers 500; asked in our thread */
  void *context;
  struct log *log;
  const struct webhook_options *webhook; /* NULL: there is none; its loop and log are ours */
};

/* Binds (so that a port in use is an error at start); *port gets the port. NULL with a message. */
struct admin *admin_new(const struct admin_options *options, uint16_t *port, char *error, size_t error_size);
uint16_t admin_webhook_port(const struct admin *admin); /* 0: there is none */
int admin_start(struct admin *admin);
void admin_free(struct admin *admin);

#endif
