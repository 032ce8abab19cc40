/* Webhook: see webhook.h. A question is one review from its head to its answer. It belongs to the call, but for the time between `review` and `done`, when the
 * sync thread has it: a call that ends meanwhile leaves it behind, abandoned, and it is freed when it comes back. At most LIMIT_REVIEWS are read or judged at
 * once; others stand in line with their bodies unread. */
#include "app/webhook.h"

#include <stdio.h>
#include <stdlib.h>

#include "app/certificate_files.h"
#include "app/service.h"
#include "base/check.h"
#include "base/error.h"

#define QUESTION_MAGIC MAGIC('q', 'u', 'e', 's')
#define REVIEW_PATH "/networking/v1/ingresses"

enum question_state { QUESTION_IN_LINE = 0, QUESTION_READ = 1, QUESTION_ASKED = 2 };

struct question {
  uint32_t magic;
  enum question_state state;
  struct webhook *webhook;
  struct service_call *call; /* NULL: it was answered, or its client left */
  struct list node;          /* in line */
  struct review review;
};

struct webhook {
  struct webhook_options options;
  struct service *service;
  struct tls_server *tls;
  struct certificate_files *files;
  struct list line;
  unsigned at_once;     /* questions that are not in line */
  pthread_mutex_t lock; /* of `answered` */
  struct list answered; /* reviews that are back */
  uv_async_t wake;
};

static struct question *question_of(struct review *review) {
  struct question *question = container_of(review, struct question, review);
  must(question->magic == QUESTION_MAGIC);
  return question;
}

static void begin_reading(struct question *question) {
  question->state = QUESTION_READ;
  question->webhook->at_once++;
}

static void question_free(struct question *question) {
  struct webhook *webhook = question->webhook;
  if (question->state != QUESTION_IN_LINE) webhook->at_once--;
  list_remove(&question->node);
  buffer_free(&question->review.text);
  question->magic = 0;
  free(question);
  if (webhook->at_once >= LIMIT_REVIEWS || list_is_empty(&webhook->line)) return;
  struct question *next = container_of(webhook->line.next, struct question, node);
  list_remove(&next->node);
  begin_reading(next);
  next->call->stream->ops->resume(next->call->stream, PAUSE_NOT_READY);
}

/* The call needs its question no more. */
static void let_go(struct service_call *call) {
  struct question *question = call->data;
  if (!question) return;
  call->data = question->call = NULL;
  if (question->state == QUESTION_ASKED) atomic_store(&question->review.is_abandoned, true);
  else question_free(question);
}

static void answer(struct service_call *call, int status, const char *type, struct span body) {
  struct webhook *webhook = service_context(call->service);
  loop_timer_stop(webhook->options.loop, &call->timer);
  let_go(call);
  service_reply(call, status, type, body);
}

static void fail(struct service_call *call, int status, const char *why) {
  struct webhook *webhook = service_context(call->service);
  counter_add(webhook->options.counters, COUNTER_REVIEWS_UNANSWERED, 1);
  log_write(webhook->options.log, LOG_WARN, "admission review not answered", "status=%d reason=\"%s\"", status, why);
  answer(call, status, "text/plain", span_of(why));
}

static void on_late(struct timer *timer) {
  struct service_call *call = container_of(timer, struct service_call, timer);
  struct webhook *webhook = service_context(call->service);
  struct question *question = call->data;
  if (call->is_answered) { /* with 413: what is left of the body may come, but it keeps nobody waiting */
    let_go(call);
    return;
  }
  counter_add(webhook->options.counters, COUNTER_LIMIT_REVIEW_MS, 1);
  if (question->state == QUESTION_READ) fail(call, 408, "the body did not come in time");
  else fail(call, 500, question->state == QUESTION_ASKED ? "no answer in time" : "too many reviews at once");
}

/* ---- requests -------------------------------------------------------------------------------------------------------------- */

static bool is_health(const struct service_call *call) { return span_equal(call->uri.path, SPAN("/healthz")); }

static void begin(void *context, struct service_call *call) {
  struct webhook *webhook = context;
  struct span method = call->request->method, type = headers_get(&call->request->headers, HEADER_CONTENT_TYPE);
  bool is_review = span_equal(call->uri.path, SPAN(REVIEW_PATH));
  if (!is_review && !is_health(call)) {
    service_reply(call, 404, "text/plain", SPAN("not found: try POST " REVIEW_PATH "\n"));
  } else if (is_health(call)) {
    const char *const allow[] = {"Allow", "GET, HEAD", NULL};
    if (!span_equal(method, SPAN("GET")) && !span_equal(method, SPAN("HEAD"))) service_reply_with(call, 405, "text/plain", SPAN("GET only\n"), allow);
  } else if (!span_equal(method, SPAN("POST"))) {
    const char *const allow[] = {"Allow", "POST", NULL};
    service_reply_with(call, 405, "text/plain", SPAN("POST only\n"), allow);
  } else if (type.length < 16 || !span_equal_nocase(span_make(type.data, 16), SPAN("application/json"))) {
    service_reply(call, 415, "text/plain", SPAN("application/json only\n"));
  } else {
    struct question *question = calloc(1, sizeof *question);
    must(question);
    *question = (struct question){.magic = QUESTION_MAGIC, .webhook = webhook, .call = call};
    list_init(&question->node);
    call->data = question;
    timer_init(&call->timer, on_late);
    loop_timer_start(webhook->options.loop, &call->timer, LIMIT_REVIEW_MS);
    if (webhook->at_once < LIMIT_REVIEWS) {
      begin_reading(question);
      return;
    }
    counter_add(webhook->options.counters, COUNTER_LIMIT_REVIEWS, 1);
    list_insert_last(&webhook->line, &question->node);
    call->stream->ops->pause(call->stream, PAUSE_NOT_READY);
  }
}

static void gone(void *context, struct service_call *call) {
  (void)context;
  let_go(call);
}

/* On whatever thread answers. */
static void on_done(struct review *review) {
  struct webhook *webhook = question_of(review)->webhook;
  must(pthread_mutex_lock(&webhook->lock) == 0);
  list_insert_last(&webhook->answered, &review->node);
  must(pthread_mutex_unlock(&webhook->lock) == 0);
  uv_async_send(&webhook->wake);
}

static void handle(void *context, struct service_call *call) {
  struct webhook *webhook = context;
  struct question *question = call->data;
  if (is_health(call)) {
    service_reply(call, 200, "text/plain", SPAN("ok"));
    return;
  }
  if (buffer_length(&call->body) == 0) {
    fail(call, 400, "there is no body");
    return;
  }
  question->review.text = call->body;
  call->body = (struct buffer){0};
  question->review.done = on_done;
  question->state = QUESTION_ASKED;
  if (webhook->options.review(webhook->options.context, &question->review)) return;
  question->state = QUESTION_READ;
  fail(call, 500, "the first sync is not over");
}

static void take_answer(struct webhook *webhook, struct question *question) {
  struct service_call *call = question->call;
  struct review *review = &question->review;
  if (call) {
    call->data = question->call = NULL;
    struct span body = buffer_span(&review->text);
    if (review->status == 0) {
      fail(call, 500, "the sync thread has no answer");
    } else if (review->status != 200) {
      counter_add(webhook->options.counters, COUNTER_REVIEWS_UNANSWERED, 1);
      answer(call, review->status, "text/plain", body);
    } else {
      counter_add(webhook->options.counters, review->is_allowed ? COUNTER_REVIEWS_ALLOWED : COUNTER_REVIEWS_REFUSED, 1);
      answer(call, 200, "application/json", body);
    }
  }
  question_free(question);
}

static void take_answers(struct webhook *webhook) {
  for (;;) {
    struct review *review = NULL;
    must(pthread_mutex_lock(&webhook->lock) == 0);
    if (!list_is_empty(&webhook->answered)) {
      review = container_of(webhook->answered.next, struct review, node);
      list_remove(&review->node);
    }
    must(pthread_mutex_unlock(&webhook->lock) == 0);
    if (!review) return;
    take_answer(webhook, question_of(review));
  }
}

static void on_wake(uv_async_t *async) {
  struct webhook *webhook = async->data;
  take_answers(webhook);
  loop_flush(webhook->options.loop);
}

/* ---- TLS ------------------------------------------------------------------------------------------------------------------- */

static struct certificate *find_certificate(void *context, struct span server_name) {
  (void)server_name;
  return certificate_files_current(((struct webhook *)context)->files);
}

static struct tls_server *tls_server(void *context) {
  struct webhook *webhook = context;
  certificate_files_look(webhook->files);
  return webhook->tls;
}

/* ---- the whole ------------------------------------------------------------------------------------------------------------- */

static int listen_on(struct webhook *webhook, const struct address *address, char *error, size_t error_size) {
  int code = service_listen(webhook->service, address);
  if (code == 0) return 0;
  char text[ADDRESS_TEXT];
  address_format(address, text);
  snprintf(error, error_size, "cannot listen on %s for the admission webhook: %s", text, error_text(code));
  return code;
}

/* A host without IPv6 has IPv4 all the same. */
static int listen_on_all(struct webhook *webhook, const struct address *v4, char *error, size_t error_size) {
  int code = listen_on(webhook, v4, error, error_size);
  if (code) return code;
  struct address v6 = {.v6 = {.sin6_family = AF_INET6, .sin6_port = htons(webhook_port(webhook))}};
  code = listen_on(webhook, &v6, error, error_size);
  return code == UV_EADDRINUSE ? code : 0;
}

struct webhook *webhook_new(const struct webhook_options *options, char *error, size_t error_size) {
  struct address address;
  if (address_parse(span_of(options->listen), &address)) {
    snprintf(error, error_size, "--validating-webhook: \"%s\" is not ADDR:PORT or :PORT", options->listen);
    return NULL;
  }
  if (!*options->certificate || !*options->key) {
    snprintf(error, error_size, "--validating-webhook needs --validating-webhook-certificate and --validating-webhook-key");
    return NULL;
  }
  struct webhook *webhook = calloc(1, sizeof *webhook);
  must(webhook);
  webhook->options = *options;
  list_init(&webhook->line);
  list_init(&webhook->answered);
  must(pthread_mutex_init(&webhook->lock, NULL) == 0);
  must(uv_async_init(&options->loop->uv, &webhook->wake, on_wake) == 0);
  webhook->wake.data = webhook;
  webhook->files = certificate_files_new(options->certificate, options->key, options->log);
  struct tls_profile profile = {.protocols = "TLSv1.2 TLSv1.3", .ciphers = "ECDHE+AESGCM:ECDHE+CHACHA20", .curves = "auto", .prefer_server_ciphers = true};
  webhook->tls = tls_server_new(&profile, NULL, find_certificate, webhook, error, error_size);
  webhook->service = service_new(&(struct service_options){
      .loop = options->loop,
      .handle = handle,
      .context = webhook,
      .begin = begin,
      .gone = gone,
      .tls_server = tls_server,
      .body_limit = LIMIT_REVIEW_BYTES,
      .client_limit = LIMIT_REVIEW_CONNECTIONS,
      .counters = webhook->options.counters,
      .body_limit_counter = COUNTER_LIMIT_REVIEW_BYTES,
      .client_limit_counter = COUNTER_LIMIT_REVIEW_CONNECTIONS,
  });
  bool is_all = options->listen[0] == ':';
  if (!webhook->tls || (is_all ? listen_on_all(webhook, &address, error, error_size) : listen_on(webhook, &address, error, error_size)))
    return NULL; /* the process ends now */
  return webhook;
}

uint16_t webhook_port(const struct webhook *webhook) { return service_port(webhook->service); }

static void on_closed(uv_handle_t *handle) {
  struct webhook *webhook = handle->data;
  pthread_mutex_destroy(&webhook->lock);
  free(webhook);
}

void webhook_free(struct webhook *webhook) {
  if (!webhook) return;
  take_answers(webhook);
  service_free(webhook->service);
  must(webhook->at_once == 0 && list_is_empty(&webhook->line));
  tls_server_free(webhook->tls);
  certificate_files_free(webhook->files);
  uv_close((uv_handle_t *)&webhook->wake, on_closed);
}
