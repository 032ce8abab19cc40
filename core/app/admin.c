/* Admin: see admin.h. */
#include "app/admin.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "app/service.h"
#include "base/check.h"
#include "base/error.h"

struct admin {
  struct admin_options options;
  struct loop loop;
  struct counters counters; /* the admin server's own connections: not shown */
  struct service *service;
  struct webhook *webhook;
  uv_async_t stop;
  pthread_t thread;
  bool is_started;
};

static void handle(void *context, struct service_call *call) {
  struct admin *admin = context;
  if (span_equal(call->uri.path, span_of(admin->options.health_path)) || span_starts_with(call->uri.path, SPAN("/healthz"))) {
    if (admin->options.is_ready(admin->options.context)) service_reply(call, 200, "text/plain", SPAN("ok"));
    else service_reply(call, 500, "text/plain", SPAN("not ready"));
  } else if (span_equal(call->uri.path, SPAN("/metrics"))) {
    static const struct service_source source = {metrics_page_more, metrics_page_free};
    service_stream(call, "text/plain; version=0.0.4; charset=utf-8", &source, metrics_page_new(&admin->options.metrics));
  } else {
    service_reply(call, 404, "text/plain", SPAN("not found: try /healthz or /metrics\n"));
  }
}

static void on_stop(uv_async_t *async) { loop_stop(&((struct admin *)async->data)->loop); }

struct admin *admin_new(const struct admin_options *options, uint16_t *port, char *error, size_t error_size) {
  struct admin *admin = calloc(1, sizeof *admin);
  must(admin);
  admin->options = *options;
  must(loop_init(&admin->loop, &admin->counters, options->log) == 0);
  must(uv_async_init(&admin->loop.uv, &admin->stop, on_stop) == 0);
  admin->stop.data = admin;
  admin->service = service_new(&(struct service_options){.loop = &admin->loop, .handle = handle, .context = admin});
  int code = service_listen(admin->service, &options->address);
  if (code) {
    char text[ADDRESS_TEXT];
    address_format(&options->address, text);
    snprintf(error, error_size, "cannot listen on %s for health and metrics: %s", text, error_text(code));
    return NULL; /* the process ends now */
  }
  *port = service_port(admin->service);
  if (!options->webhook) return admin;
  struct webhook_options webhook = *options->webhook;
  webhook.loop = &admin->loop;
  webhook.log = options->log;
  admin->webhook = webhook_new(&webhook, error, error_size);
  if (!admin->webhook) return NULL;
  return admin;
}

uint16_t admin_webhook_port(const struct admin *admin) { return admin->webhook ? webhook_port(admin->webhook) : 0; }

static void *thread_main(void *context) {
  struct admin *admin = context;
  loop_run(&admin->loop);
  return NULL;
}

int admin_start(struct admin *admin) {
  int code = pthread_create(&admin->thread, NULL, thread_main, admin);
  admin->is_started = code == 0;
  return -code;
}

void admin_free(struct admin *admin) {
  if (admin->is_started) {
    uv_async_send(&admin->stop);
    pthread_join(admin->thread, NULL);
  }
  webhook_free(admin->webhook);
  service_free(admin->service);
  uv_close((uv_handle_t *)&admin->stop, NULL);
  loop_free(&admin->loop);
  free(admin);
}
