/* Echo: the sample application behind the first scenario. One thread.
 *   any path        method, path, headers, client address and its own name, as text, or as JSON where Accept asks for it
 *   /healthz        200          /status/N   that status         /sleep/S   the echo after S seconds
 *   /bytes/N        N bytes      WebSocket   echoes each message */
#include "app/echo.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/service.h"
#include "app/websocket.h"
#include "base/check.h"
#include "base/error.h"

struct echo {
  struct loop loop;
  struct counters counters;
  struct log log;
  struct service *service;
  const char *name;
  char host[256]; /* the name, where none is given */
  bool log_requests;
  uv_signal_t signals[2];
};

static void put_json(struct buffer *out, struct span text) {
  buffer_append(out, SPAN("\""));
  buffer_append_json(out, text);
  buffer_append(out, SPAN("\""));
}

static void reply_echo(struct echo *echo, struct service_call *call) {
  const struct request_head *request = call->request;
  struct span accept = headers_get(&request->headers, HEADER_ACCEPT);
  bool json = accept.length && strstr(arena_copy(&call->arena, accept.data, accept.length), "application/json");
  char client[ADDRESS_TEXT];
  address_format(service_peer(call), client);
  struct buffer out = {0};
  if (json) {
    buffer_append(&out, SPAN("{\"name\":"));
    put_json(&out, span_of(echo->name));
    buffer_append(&out, SPAN(",\"method\":"));
    put_json(&out, request->method);
    buffer_append(&out, SPAN(",\"path\":"));
    put_json(&out, request->target);
    buffer_printf(&out, ",\"client\":\"%s\",\"body_bytes\":%llu,\"headers\":{", client, (unsigned long long)call->body_bytes);
    const char *separator = "";
    for (unsigned i = 0; i < request->headers.count; i++) {
      const struct header *header = &request->headers.items[i];
      if (header->removed) continue;
      buffer_append(&out, span_of(separator));
      put_json(&out, header->name);
      buffer_append(&out, SPAN(":"));
      put_json(&out, header->value);
      separator = ",";
    }
    buffer_append(&out, SPAN("}}\n"));
  } else {
    buffer_printf(&out, "name: %s\nclient: %s\n\n%.*s %.*s HTTP/%d.%d\n", echo->name, client, (int)request->method.length, request->method.data,
                  (int)request->target.length, request->target.data, request->version_major, request->version_minor);
    for (unsigned i = 0; i < request->headers.count; i++) {
      const struct header *header = &request->headers.items[i];
      if (!header->removed) buffer_printf(&out, "%.*s: %.*s\n", (int)header->name.length, header->name.data, (int)header->value.length, header->value.data);
    }
    if (call->body_bytes) buffer_printf(&out, "\nbody: %llu bytes\n", (unsigned long long)call->body_bytes);
  }
  const char *const extra[] = {"X-Echo-Name", echo->name, NULL};
  service_reply_with(call, 200, json ? "application/json" : "text/plain", buffer_span(&out), extra);
  buffer_free(&out);
}

static void on_slept(struct timer *timer) {
  struct service_call *call = container_of(timer, struct service_call, timer);
  reply_echo(service_context(call->service), call);
}

/* The number behind `prefix`, or false. */
static bool path_number(struct span path, struct span prefix, unsigned long long max, unsigned long long *number) {
  return span_starts_with(path, prefix) && span_to_u64(span_skip(path, prefix.length), max, number);
}

static void handle(void *context, struct service_call *call) {
  struct echo *echo = context;
  struct span path = call->uri.path;
  unsigned long long number;
  if (echo->log_requests)
    printf("%.*s %.*s name=%s\n", (int)call->request->method.length, call->request->method.data, (int)call->request->target.length, call->request->target.data,
           echo->name);
  if (span_equal_nocase(call->request->upgrade, SPAN("websocket"))) websocket_echo(call);
  else if (span_equal(path, SPAN("/healthz"))) service_reply(call, 200, "text/plain", SPAN("ok\n"));
  else if (path_number(path, SPAN("/status/"), 599, &number) && number >= 200) {
    struct span body = arena_printf(&call->arena, "%llu from %s\n", number, echo->name);
    service_reply(call, (int)number, "text/plain", body);
  } else if (path_number(path, SPAN("/sleep/"), 3600, &number)) {
    timer_init(&call->timer, on_slept);
    loop_timer_start(&echo->loop, &call->timer, number * 1000);
  } else if (path_number(path, SPAN("/bytes/"), 1ull << 40, &number)) service_send_bytes(call, number);
  else reply_echo(echo, call);
}

static void on_signal(uv_signal_t *signal, int number) {
  (void)number;
  struct echo *echo = signal->data;
  service_shutdown(echo->service);
  loop_stop(&echo->loop);
}

static const char usage_text[] = "usage: moongate echo --listen ADDR:PORT [--name NAME] [--quiet]\n";

static int usage(const char *why) {
  fprintf(stderr, "moongate echo: %s\n%s", why, usage_text);
  return 2;
}

int echo_main(int argc, char **argv) {
  static struct echo echo; /* large; one per process */
  if (gethostname(echo.host, sizeof echo.host - 1)) snprintf(echo.host, sizeof echo.host, "echo");
  echo.name = getenv("POD_NAME") ? getenv("POD_NAME") : echo.host;
  echo.log_requests = true;
  const char *listen = NULL;
  for (int i = 0; i < argc; i++) {
    const char **target = NULL;
    if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
      fputs(usage_text, stdout);
      return 0;
    }
    size_t length = strcspn(argv[i], "=");
    if (strcmp(argv[i], "--quiet") == 0) {
      echo.log_requests = false;
      continue;
    }
    if (length == 8 && strncmp(argv[i], "--listen", 8) == 0) target = &listen;
    else if (length == 6 && strncmp(argv[i], "--name", 6) == 0) target = &echo.name;
    else return usage("unknown flag");
    if (argv[i][length] == '=') *target = argv[i] + length + 1;
    else if (++i < argc) *target = argv[i];
    else return usage("a value is missing");
  }
  struct address address;
  if (!listen) return usage("--listen is missing");
  if (address_parse(span_of(listen), &address)) return usage("--listen is not ADDR:PORT");
  setvbuf(stdout, NULL, _IOLBF, 0);
  signal(SIGPIPE, SIG_IGN);
  echo.log.thread = "echo";
  must(loop_init(&echo.loop, &echo.counters, &echo.log) == 0);
  struct service_options options = {.loop = &echo.loop, .handle = handle, .context = &echo};
  echo.service = service_new(&options);
  int code = service_listen(echo.service, &address);
  if (code) {
    fprintf(stderr, "moongate echo: cannot listen on %s: %s\n", listen, error_text(code));
    return 1;
  }
  printf("moongate echo %s listens on port %u\n", echo.name, service_port(echo.service));
  for (int i = 0; i < 2; i++) {
    uv_signal_init(&echo.loop.uv, &echo.signals[i]);
    echo.signals[i].data = &echo;
    uv_signal_start(&echo.signals[i], on_signal, i ? SIGINT : SIGTERM);
  }
  loop_run(&echo.loop);
  service_free(echo.service);
  for (int i = 0; i < 2; i++) uv_close((uv_handle_t *)&echo.signals[i], NULL);
  loop_free(&echo.loop);
  return 0;
}
