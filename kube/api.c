/* The API server's client over libcurl's multi interface. A transfer belongs to its struct api until its last news are made; news belong to the queue until
 * they are taken. What is not taken pauses the transfers, so that a list of any length needs bounded memory. Times are ours: libcurl's do not count for a
 * transfer that waits for its turn. One thread. */
#include "kube/api.h"

#include <curl/curl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/limits.h"
#include "base/list.h"
#include "kube/api_error.h"
#include "kube/api_identity.h"
#include "kube/api_sockets.h"
#include "kube/json_split.h"

#define API_MAGIC MAGIC('a', 'p', 'i', ' ')
#define TRANSFER_MAGIC MAGIC('a', 'p', 'i', 't')
enum { STATUS_OK = 200, STATUS_UNAUTHORIZED = 401, CONNECTION_QUIET_MS = 10000 };

struct api {
  uint32_t magic;
  struct api_identity identity;
  struct api_sockets sockets;
  struct counters *counters;
  CURLM *multi;
  struct list transfers, news;
  size_t news_bytes;
  uint64_t last_id;
};

struct transfer {
  uint32_t magic;
  struct list node;
  struct api *api;
  uint64_t id;
  CURL *easy;
  struct curl_slist *fields;
  char *body;
  enum api_split split;
  struct json_split splitter;
  struct buffer answer;
  size_t max_body;
  uint64_t started_at, heard_at, paused_at; /* ms; paused_at 0: it is not */
  unsigned timeout_ms, idle_ms;
  int port;         /* local, of its connection; 0 before */
  long status;      /* of the head that came, 0 before */
  bool is_answered; /* something of the answer came */
  bool is_cut;      /* the rest of the body is not wanted */
  bool is_refused;
  struct buffer refusal; /* why, if we ended it */
  char detail[CURL_ERROR_SIZE];
};

struct queued {
  struct list node;
  struct api_news news;
  char bytes[];
};

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void count(const struct api *api, enum counter which) {
  if (api->counters) counter_add(api->counters, which, 1);
}

/* ---- news ---- */

static struct api_news *add_news(struct transfer *transfer, enum api_news_kind kind, struct span text) {
  struct queued *queued = check_memory(malloc(sizeof *queued + text.length + 1));
  if (text.length) memcpy(queued->bytes, text.data, text.length);
  queued->bytes[text.length] = '\0';
  queued->news = (struct api_news){.id = transfer->id, .kind = kind, .text = span_make(queued->bytes, text.length)};
  transfer->api->news_bytes += sizeof *queued + text.length;
  list_insert_last(&transfer->api->news, &queued->node);
  return &queued->news;
}

static struct queued *queued_of(struct list *node) { return container_of(node, struct queued, node); }

static struct queued *take_queued(struct api *api, struct list *node) {
  struct queued *queued = queued_of(node);
  list_remove(node);
  api->news_bytes -= sizeof *queued + queued->news.text.length;
  return queued;
}

static bool is_full(const struct api *api) { return api->news_bytes >= LIMIT_API_NEWS_BYTES; }

bool api_has_news(const struct api *api) { return !list_is_empty(&api->news); }

void api_news_free(struct api_news *news) {
  if (news) free(container_of(news, struct queued, news));
}

/* ---- a transfer ---- */

static struct transfer *transfer_of(void *context) {
  struct transfer *transfer = context;
  must(transfer->magic == TRANSFER_MAGIC);
  return transfer;
}

static void transfer_free(struct transfer *transfer) {
  curl_multi_remove_handle(transfer->api->multi, transfer->easy);
  curl_easy_cleanup(transfer->easy);
  curl_slist_free_all(transfer->fields);
  free(transfer->body);
  json_split_free(&transfer->splitter);
  buffer_free(&transfer->answer);
  buffer_free(&transfer->refusal);
  list_remove(&transfer->node);
  transfer->magic = 0;
  free(transfer);
}

static void fail(struct transfer *transfer, struct span sentence, bool is_retry) { add_news(transfer, API_NEWS_FAILED, sentence)->is_retry = is_retry; }

/* The answer is not what was asked for: the transfer ends. */
static size_t refuse_split(struct transfer *transfer) {
  const struct json_split *splitter = &transfer->splitter;
  buffer_printf(&transfer->refusal, "the API server %s: its answer is broken at byte %llu: %s", transfer->api->identity.server,
                (unsigned long long)splitter->offset, splitter->error);
  transfer->is_refused = true;
  if (splitter->limit) count(transfer->api, splitter->limit);
  return 0;
}

static void on_part(void *context, enum json_part part, struct span text) {
  struct transfer *transfer = transfer_of(context);
  add_news(transfer, part == JSON_PART_METADATA ? API_NEWS_LIST : part == JSON_PART_ITEM ? API_NEWS_ITEM : API_NEWS_EVENT, text);
}

static bool is_split(const struct transfer *transfer) { return transfer->split && transfer->status == STATUS_OK; }

static size_t keep_answer(struct transfer *transfer, struct span piece) {
  bool is_ok = transfer->status == STATUS_OK;
  size_t most = is_ok || transfer->max_body < LIMIT_API_ERROR_BYTES ? transfer->max_body : LIMIT_API_ERROR_BYTES;
  size_t room = most - buffer_length(&transfer->answer);
  if (piece.length <= room) {
    buffer_append(&transfer->answer, piece);
    return piece.length;
  }
  if (is_ok) {
    buffer_printf(&transfer->refusal, "the API server %s: its answer is longer than %zu bytes", transfer->api->identity.server, most);
    transfer->is_refused = true;
  } else {
    count(transfer->api, COUNTER_LIMIT_API_ERROR_BYTES);
    buffer_append(&transfer->answer, span_make(piece.data, room));
    transfer->is_cut = true;
  }
  return 0;
}

static void note_heard(struct transfer *transfer) {
  transfer->heard_at = now_ms();
  transfer->is_answered = true;
  api_sockets_heard(&transfer->api->sockets, transfer->port, transfer->heard_at);
}

static size_t on_body(char *data, size_t size, size_t number, void *context) {
  struct transfer *transfer = transfer_of(context);
  struct span piece = span_make(data, size * number);
  note_heard(transfer);
  curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &transfer->status);
  if (!is_split(transfer)) return keep_answer(transfer, piece);
  if (is_full(transfer->api)) {
    count(transfer->api, COUNTER_LIMIT_API_NEWS_BYTES);
    transfer->paused_at = transfer->heard_at;
    return CURL_WRITEFUNC_PAUSE;
  }
  return json_split_add(&transfer->splitter, piece) ? piece.length : refuse_split(transfer);
}

static size_t on_head(char *data, size_t size, size_t number, void *context) {
  (void)data;
  note_heard(transfer_of(context));
  return size * number;
}

/* The transfer has its connection, a new one or one of another's. */
static int on_connection(void *context, char *address, char *local_address, int port, int local_port) {
  struct transfer *transfer = transfer_of(context);
  (void)address, (void)local_address, (void)port;
  transfer->port = local_port;
  api_sockets_begin(&transfer->api->sockets, local_port, now_ms());
  return CURL_PREREQFUNC_OK;
}

static void finish_answer(struct transfer *transfer) {
  curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &transfer->status);
  if (is_split(transfer) && !json_split_end(&transfer->splitter)) {
    refuse_split(transfer);
    fail(transfer, buffer_span(&transfer->refusal), true);
    return;
  }
  if (transfer->status == STATUS_UNAUTHORIZED) api_identity_refused(&transfer->api->identity);
  curl_off_t wait = 0;
  curl_easy_getinfo(transfer->easy, CURLINFO_RETRY_AFTER, &wait);
  struct api_news *news = add_news(transfer, API_NEWS_DONE, buffer_span(&transfer->answer));
  news->status = (int)transfer->status;
  news->retry_after = wait > 0 && wait < INT_MAX ? (long)wait : 0;
}

/* Makes the last news of a transfer, and frees it. */
static void finish(struct transfer *transfer, CURLcode code) {
  struct buffer sentence = {.data = NULL};
  if (transfer->is_refused) {
    fail(transfer, buffer_span(&transfer->refusal), false);
  } else if (code == CURLE_OK || transfer->is_cut) {
    finish_answer(transfer);
  } else {
    bool is_retry = api_error_describe(&transfer->api->identity, transfer->easy, code, transfer->detail, &sentence);
    fail(transfer, buffer_span(&sentence), is_retry);
  }
  buffer_free(&sentence);
  transfer_free(transfer);
}

/* ---- sending ---- */

static void add_field(struct transfer *transfer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add_field(struct transfer *transfer, const char *format, ...) {
  char *field = NULL;
  va_list values;
  va_start(values, format);
  must(vasprintf(&field, format, values) >= 0);
  va_end(values);
  struct curl_slist *fields = curl_slist_append(transfer->fields, field);
  must(fields);
  transfer->fields = fields;
  free(field);
}

static void set_fields(struct transfer *transfer, const struct api_request *request, uint64_t now) {
  struct api_identity *identity = &transfer->api->identity;
  const char *token = api_identity_token(identity, now);
  add_field(transfer, "Accept: application/json");
  if (identity->host_field) add_field(transfer, "%s", identity->host_field);
  if (request->body.data) add_field(transfer, "Content-Type: %s", request->content_type ? request->content_type : "application/json");
  if (token) add_field(transfer, "Authorization: Bearer %s", token);
  must(curl_easy_setopt(transfer->easy, CURLOPT_HTTPHEADER, transfer->fields) == CURLE_OK);
}

static void set_request(struct transfer *transfer, const struct api_request *request) {
  CURL *easy = transfer->easy;
  struct buffer url = {.data = NULL};
  buffer_printf(&url, "%s%s", transfer->api->identity.url, request->path);
  buffer_append(&url, span_make("", 1));
  must(curl_easy_setopt(easy, CURLOPT_URL, buffer_span(&url).data) == CURLE_OK);
  buffer_free(&url);
  must(curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L) == CURLE_OK);
  if (request->body.data) {
    transfer->body = check_memory(malloc(request->body.length + 1));
    memcpy(transfer->body, request->body.data, request->body.length);
    must(curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)request->body.length) == CURLE_OK);
    must(curl_easy_setopt(easy, CURLOPT_POSTFIELDS, transfer->body) == CURLE_OK);
  }
  must(curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method) == CURLE_OK);
}

static void set_callbacks(struct transfer *transfer) {
  CURL *easy = transfer->easy;
  must(curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_head) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, on_connection) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_PREREQDATA, transfer) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->detail) == CURLE_OK);
}

static bool is_printable(const char *text) {
  for (; *text; text++)
    if ((unsigned char)*text <= ' ' || (unsigned char)*text >= 0x7f || *text == '#') return false;
  return true;
}

static const char *why_not(const struct api_request *request) {
  static const char *const methods[] = {"GET", "POST", "PUT", "PATCH", "DELETE"};
  bool is_method = false;
  for (unsigned i = 0; i < sizeof methods / sizeof *methods; i++) is_method = is_method || strcmp(request->method, methods[i]) == 0;
  if (!is_method) return "the method is none of GET, POST, PUT, PATCH, DELETE";
  if (request->path[0] != '/' || !is_printable(request->path)) return "the path does not begin with /, or holds bytes that must be escaped";
  if (request->content_type && strpbrk(request->content_type, "\r\n")) return "the content type has line breaks in it";
  return NULL;
}

uint64_t api_send(struct api *api, const struct api_request *request, char *error, size_t error_size) {
  must(api->magic == API_MAGIC);
  const char *why = why_not(request);
  if (why) {
    snprintf(error, error_size, "%s", why);
    return 0;
  }
  struct transfer *transfer = check_memory(calloc(1, sizeof *transfer));
  uint64_t now = now_ms();
  *transfer = (struct transfer){.magic = TRANSFER_MAGIC,
                                .api = api,
                                .id = ++api->last_id,
                                .easy = curl_easy_init(),
                                .split = request->split,
                                .max_body = request->max_body,
                                .started_at = now,
                                .heard_at = now,
                                .timeout_ms = request->timeout_ms,
                                .idle_ms = request->idle_ms};
  must(transfer->easy);
  json_split_init(&transfer->splitter, request->split == API_SPLIT_LIST ? JSON_SPLIT_LIST : JSON_SPLIT_WATCH, on_part, transfer);
  list_insert_last(&api->transfers, &transfer->node);
  api_identity_apply(&api->identity, transfer->easy);
  api_sockets_apply(&api->sockets, transfer->easy);
  set_callbacks(transfer);
  set_request(transfer, request);
  set_fields(transfer, request, now);
  must(curl_multi_add_handle(api->multi, transfer->easy) == CURLM_OK);
  return transfer->id;
}

void api_cancel(struct api *api, uint64_t id) {
  must(api->magic == API_MAGIC);
  for (struct list *node = api->news.next, *next; node != &api->news; node = next) {
    next = node->next;
    if (queued_of(node)->news.id == id) free(take_queued(api, node));
  }
  for (struct list *node = api->transfers.next; node != &api->transfers; node = node->next) {
    struct transfer *transfer = container_of(node, struct transfer, node);
    if (transfer->id != id) continue;
    transfer_free(transfer);
    return;
  }
}

/* ---- time ---- */

/* When a transfer has waited too long; UINT64_MAX: never. A paused one waits for us. */
static uint64_t deadline(const struct transfer *transfer, const char **what, unsigned *ms) {
  uint64_t first = UINT64_MAX;
  if (transfer->paused_at) return first;
  if (transfer->timeout_ms) {
    first = transfer->started_at + transfer->timeout_ms;
    *what = "no whole answer within";
    *ms = transfer->timeout_ms;
  }
  bool is_awaited = transfer->split == API_SPLIT_WATCH && !transfer->is_answered;
  unsigned quiet = is_awaited && (!transfer->idle_ms || transfer->idle_ms > API_HEAD_MS) ? API_HEAD_MS : transfer->idle_ms;
  if (quiet && transfer->heard_at + quiet < first) {
    first = transfer->heard_at + quiet;
    *what = "not a byte for";
    *ms = quiet;
  }
  return first;
}

static void expire(struct api *api, struct transfer *transfer, uint64_t now, const char *what, unsigned ms) {
  struct buffer sentence = {.data = NULL};
  api_sockets_leave(&api->sockets, transfer->port, now, CONNECTION_QUIET_MS); /* it may be dead for all */
  buffer_printf(&sentence, "the API server %s: %s %g s", api->identity.server, what, ms / 1000.0);
  fail(transfer, buffer_span(&sentence), true);
  buffer_free(&sentence);
  transfer_free(transfer);
}

/* Ends what has waited too long; returns when to look again. */
static uint64_t expire_all(struct api *api, uint64_t now) {
  uint64_t first = UINT64_MAX;
  for (struct list *node = api->transfers.next, *next; node != &api->transfers; node = next) {
    next = node->next;
    struct transfer *transfer = container_of(node, struct transfer, node);
    const char *what = NULL;
    unsigned ms = 0;
    uint64_t at = deadline(transfer, &what, &ms);
    if (at <= now) expire(api, transfer, now, what, ms);
    else if (at < first) first = at;
  }
  return first;
}

/* ---- the loop ---- */

static void drive(struct api *api) {
  int running = 0, left = 0;
  CURLMsg *message;
  must(curl_multi_perform(api->multi, &running) == CURLM_OK);
  while ((message = curl_multi_info_read(api->multi, &left))) {
    char *context = NULL;
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode code = message->data.result;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &context);
    finish(transfer_of(context), code);
  }
}

static void resume_paused(struct api *api) {
  for (struct list *node = api->transfers.next, *next; node != &api->transfers; node = next) {
    next = node->next;
    struct transfer *transfer = container_of(node, struct transfer, node);
    if (!transfer->paused_at) continue;
    uint64_t now = now_ms();
    transfer->started_at += now - transfer->paused_at;
    transfer->heard_at = now;
    transfer->paused_at = 0;
    curl_easy_pause(transfer->easy, CURLPAUSE_CONT); /* it may hand over what it held, and be paused again */
    if (transfer->is_refused) finish(transfer, CURLE_WRITE_ERROR);
  }
}

struct api_news *api_next(struct api *api) {
  must(api->magic == API_MAGIC);
  return list_is_empty(&api->news) ? NULL : &take_queued(api, api->news.next)->news;
}

static int wait_ms(uint64_t now, uint64_t until) {
  if (until <= now) return 0;
  return until - now > INT_MAX ? INT_MAX : (int)(until - now);
}

void api_wait(struct api *api, struct api_wait_fd *fds, unsigned number, int timeout_ms) {
  struct curl_waitfd polled[API_WAIT_FDS];
  must(api->magic == API_MAGIC && number <= API_WAIT_FDS);
  uint64_t now = now_ms(), end = timeout_ms < 0 ? UINT64_MAX : now + (unsigned)timeout_ms;
  for (;;) {
    if (api->news_bytes < LIMIT_API_NEWS_BYTES / 2) resume_paused(api);
    drive(api);
    now = now_ms();
    uint64_t next = expire_all(api, now);
    bool is_over = api_has_news(api) || now >= end, is_any = false;
    for (unsigned i = 0; i < number; i++) polled[i] = (struct curl_waitfd){.fd = fds[i].fd, .events = CURL_WAIT_POLLIN};
    must(curl_multi_poll(api->multi, polled, number, is_over ? 0 : wait_ms(now, end < next ? end : next), NULL) == CURLM_OK);
    for (unsigned i = 0; i < number; i++) {
      fds[i].is_ready = polled[i].revents != 0;
      is_any = is_any || fds[i].is_ready;
    }
    if (is_over || is_any) return;
  }
}

/* ---- the whole ---- */

struct api *api_new(const struct api_options *options, char *error, size_t error_size) {
  struct api_identity identity;
  must(curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
  if (api_identity_init(&identity, options, error, error_size)) {
    curl_global_cleanup();
    return NULL;
  }
  struct api *api = check_memory(calloc(1, sizeof *api));
  *api = (struct api){.magic = API_MAGIC, .identity = identity, .counters = options->counters, .multi = curl_multi_init()};
  must(api->multi);
  list_init(&api->transfers);
  list_init(&api->news);
  return api;
}

void api_free(struct api *api) {
  if (!api) return;
  must(api->magic == API_MAGIC);
  while (!list_is_empty(&api->transfers)) transfer_free(container_of(api->transfers.next, struct transfer, node));
  while (!list_is_empty(&api->news)) free(take_queued(api, api->news.next));
  curl_multi_cleanup(api->multi);
  api_sockets_free(&api->sockets);
  api_identity_free(&api->identity);
  curl_global_cleanup();
  api->magic = 0;
  free(api);
}
