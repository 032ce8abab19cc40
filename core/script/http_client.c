/* HTTP client: see http_client.h. libcurl says which sockets and which time it waits for; libuv waits. A call belongs to its maker; while it runs the client
 * keeps its easy handle, and the name that it waits for lists it. Nothing of a freed call is called back. */
#include "script/http_client.h"

#include <curl/curl.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/check.h"
#include "base/hashmap.h"
#include "base/limits.h"
#include "base/own_address.h"
#include "http/head_check.h"
#include "http/headers.h"
#include "script/http_names.h"

#define CLIENT_MAGIC MAGIC('h', 't', 'c', 'l')
#define CALL_MAGIC MAGIC('h', 't', 'c', 'a')
enum { IDLE_CONNECTIONS = 64, IDLE_SECONDS = 30, READ_BUFFER = 16384 };

/* What a guest may not reach by any name: this host, links, groups, ways to write IPv4 addresses in IPv6, and where clouds serve their machines' credentials
 * off the link: AWS by IPv6, Alibaba, Azure, Oracle. */
#define GUESTS_DENIED \
  "0.0.0.0/8,127.0.0.0/8,169.254.0.0/16,224.0.0.0/3,::/96,64:ff9b::/96,64:ff9b:1::/48,2002::/16,fe80::/10,ff00::/8," \
  "fd00:ec2::254,100.100.100.200,168.63.129.16,192.0.0.192"

_Static_assert(LIMIT_HTTP_SERVICE_CALLS == LIMIT_HTTP_CALLS / 2, "a service alone, see has_room");

struct http_client {
  uint32_t magic;
  struct loop *loop;
  struct counters *counters;
  struct http_client_options options;
  struct ip_set *guests_denied;
  struct http_names *names;
  CURLM *multi;
  uv_timer_t *timer; /* on the heap, since it outlives us by a turn */
  X509_STORE *authorities;
  unsigned running, guests_running; /* guests leave half of the room to others */
  struct hashmap services;          /* that calls run to */
  size_t turn;                      /* a name's addresses take turns */
};

/* Where calls of guests, or of others, go: a host in lower case, a port. There is one as long as a call runs. */
struct http_service {
  unsigned running;
  char key[272];
};

/* A socket that libcurl waits for; frees itself when libuv has let go. */
struct socket_watch {
  uv_poll_t poll;
  struct http_client *client;
  curl_socket_t fd;
};

static struct http_client *client_of(void *pointer) {
  struct http_client *client = pointer;
  must(client->magic == CLIENT_MAGIC);
  return client;
}

static struct http_call *call_of(void *pointer) {
  struct http_call *call = pointer;
  must(call->magic == CALL_MAGIC);
  return call;
}

static void set_error(struct http_call *call, const char *text) {
  snprintf(call->error, sizeof call->error, "%s", text);
  call->is_failed = true;
}

static void count(const struct http_client *client, enum counter which) { counter_add(client->counters, which, 1); }

/* ---- making a call ---- */

static char *copy(struct span text) {
  char *out = malloc(text.length + 1);
  must(out != NULL);
  if (text.length) memcpy(out, text.data, text.length);
  out[text.length] = '\0';
  return out;
}

static bool get_part(CURLU *url, CURLUPart part, unsigned flags, char *out, size_t size) {
  char *text = NULL;
  bool is_good = curl_url_get(url, part, &text, flags) == CURLUE_OK && strlen(text) < size;
  if (is_good) snprintf(out, size, "%s", text);
  curl_free(text);
  return is_good;
}

/* libcurl's own parser, and what it understood is what it is told to ask for: no second reading of the same text. */
static const char *parse_url(struct http_call *call) {
  char scheme[16], port[8];
  if (strlen(call->url) > LIMIT_REWRITE_BYTES) return "the URL is too long";
  for (const char *c = call->url; *c; c++)
    if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 0x7f) return "the URL has a character that must be escaped";
  call->parsed = curl_url();
  must(call->parsed != NULL);
  CURLUcode code = curl_url_set(call->parsed, CURLUPART_URL, call->url, CURLU_DISALLOW_USER | CURLU_PATH_AS_IS | CURLU_NON_SUPPORT_SCHEME);
  if (code != CURLUE_OK) return "not a URL such as http://name/path";
  if (!get_part(call->parsed, CURLUPART_SCHEME, 0, scheme, sizeof scheme) || (strcmp(scheme, "http") != 0 && strcmp(scheme, "https") != 0))
    return "the URL's scheme is neither http nor https";
  if (!get_part(call->parsed, CURLUPART_HOST, 0, call->host, sizeof call->host) ||
      !get_part(call->parsed, CURLUPART_PORT, CURLU_DEFAULT_PORT, port, sizeof port))
    return "the URL's host is malformed";
  size_t length = strlen(call->host);
  bool has_brackets = length > 2 && call->host[0] == '[';
  if (has_brackets) {
    memmove(call->host, call->host + 1, length - 2);
    call->host[length - 2] = '\0';
  }
  if (strspn(call->host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:") != strlen(call->host)) return "the URL's host is malformed";
  unsigned long number = strtoul(port, NULL, 10);
  if (number == 0 || number > 65535) return "the URL's port is not from 1 to 65535";
  call->port = (uint16_t)number;
  return NULL;
}

static const char *check_method(struct span method) {
  static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$%&'*+-.^_`|~";
  if (method.length == 0 || method.length > 32) return "the method has not from 1 to 32 characters";
  for (size_t i = 0; i < method.length; i++)
    if (method.data[i] == '\0' || strchr(allowed, method.data[i]) == NULL) return "the method has a character that no method may have";
  return span_equal(method, SPAN("CONNECT")) || span_equal(method, SPAN("TRACE")) ? "CONNECT and TRACE are not sent" : NULL;
}

struct http_call *http_call_new(struct span method, struct span url, char *error, size_t error_size) {
  struct http_call *call = calloc(1, sizeof *call);
  must(call != NULL);
  call->magic = CALL_MAGIC;
  list_init(&call->waiting);
  const char *why = check_method(method);
  if (!why && memchr(url.data, '\0', url.length)) why = "the URL has a NUL";
  call->method = copy(method);
  call->url = copy(url);
  if (!why) why = parse_url(call);
  if (!why) return call;
  snprintf(error, error_size, "%s", why);
  http_call_free(call);
  return NULL;
}

static void put_field(struct buffer *fields, struct span name, struct span value) {
  buffer_append(fields, name);
  buffer_append(fields, span_make("", 1));
  buffer_append(fields, value);
  buffer_append(fields, span_make("", 1));
}

void http_call_add_field(struct http_call *call, struct span name, struct span value) { put_field(&call->fields, name, value); }

bool http_fields_next(struct span fields, size_t *at, struct span *name, struct span *value) {
  if (*at >= fields.length) return false;
  *name = span_of(fields.data + *at);
  *value = span_of(fields.data + *at + name->length + 1);
  *at += name->length + value->length + 2;
  return true;
}

/* Takes it out of the client: nothing is called back from here on. */
static void detach(struct http_call *call) {
  struct http_client *client = call->client;
  if (client == NULL) return;
  must(client->running > 0);
  client->running--;
  client->guests_running -= call->is_guests;
  if (--call->service->running == 0) free(hashmap_remove(&client->services, span_of(call->service->key)));
  call->service = NULL;
  call->client = NULL;
  list_remove(&call->waiting);
  list_init(&call->waiting);
  if (call->easy == NULL) return;
  curl_multi_remove_handle(client->multi, call->easy);
  curl_easy_cleanup(call->easy);
  call->easy = NULL;
}

void http_call_free(struct http_call *call) {
  if (call == NULL) return;
  detach(call_of(call));
  curl_url_cleanup(call->parsed);
  curl_slist_free_all(call->lines);
  curl_slist_free_all(call->connect_to);
  free(call->method);
  free(call->url);
  buffer_free(&call->fields);
  buffer_free(&call->body);
  if (call->budget) atomic_fetch_sub_explicit(call->budget, buffer_length(&call->answer), memory_order_relaxed);
  buffer_free(&call->head);
  buffer_free(&call->answer_fields);
  buffer_free(&call->answer);
  call->magic = 0;
  free(call);
}

/* ---- the answer ---- */

static size_t refuse(struct http_call *call, const char *why, enum counter limit) {
  set_error(call, why);
  count(call->client, limit);
  return 0;
}

/* A whole head, as it came: libcurl reads much that is none. False: it is refused. */
static bool take_head(struct http_call *call) {
  struct span head = buffer_span(&call->head);
  struct head_facts facts = {0};
  struct head_verdict verdict = head_check_facts(HEAD_RESPONSE, head, LIMIT_HEAD_BYTES, LIMIT_HEADER_FIELDS, &facts);
  if (verdict.status) {
    char text[128];
    snprintf(text, sizeof text, "the answer's head is malformed: %s", verdict.why);
    bool has_many = verdict.limit == REACHED_HEADER_FIELDS;
    set_error(call, has_many ? "the answer's head has too many fields" : text);
    if (has_many) count(call->client, COUNTER_LIMIT_HEADER_FIELDS);
    return false;
  }
  enum { STATUS_AT = 9 };
  must(head.length > STATUS_AT && head.data);
  call->has_head = head.data[STATUS_AT] != '1';
  for (struct span line; call->has_head && span_next_item(&head, '\n', &line);) {
    if (line.data[line.length - 1] == '\r') line.length--;
    size_t colon = span_find(line, ':');
    struct span name = span_make(line.data, colon < line.length ? colon : 0);
    if (header_name_is_valid(name)) put_field(&call->answer_fields, name, span_trim(span_skip(line, colon + 1)));
  }
  buffer_free(&call->head);
  return true;
}

/* Each line of each head, an interim answer's too, and of trailers, which nobody gets. */
static size_t on_head(char *data, size_t size, size_t number, void *context) {
  struct http_call *call = call_of(context);
  struct span line = span_make(data, size * number);
  call->head_bytes += line.length;
  if (call->head_bytes > LIMIT_HEAD_BYTES) return refuse(call, "the answer's head is too large", COUNTER_LIMIT_HEAD_BYTES);
  if (call->has_head) return line.length;
  buffer_append(&call->head, line);
  bool is_end = span_equal(line, SPAN("\r\n")) || span_equal(line, SPAN("\n"));
  return is_end && !take_head(call) ? 0 : line.length;
}

static size_t on_body(char *data, size_t size, size_t number, void *context) {
  struct http_call *call = call_of(context);
  size_t length = size * number;
  if (length > call->max_body - call->body_bytes) return refuse(call, "the answer's body is too large", COUNTER_LIMIT_HTTP_ANSWER_BYTES);
  call->body_bytes += length;
  if (call->drops_answer) return length;
  _Atomic uint64_t *budget = call->client->options.body_budget;
  if (budget && atomic_fetch_add_explicit(budget, length, memory_order_relaxed) >= LIMIT_BODY_BUDGET_BYTES) {
    atomic_fetch_sub_explicit(budget, length, memory_order_relaxed);
    return refuse(call, "no room for the answer's body", COUNTER_LIMIT_BODY_BUDGET_BYTES);
  }
  call->budget = budget;
  buffer_append(&call->answer, span_make(data, length));
  return length;
}

/* ---- sending ---- */

/* The system's authorities, read once: libcurl would read them for each connection. */
static CURLcode on_tls(CURL *easy, void *tls, void *context) {
  struct http_client *client = client_of(context);
  (void)easy;
  if (client->authorities == NULL) {
    client->authorities = X509_STORE_new();
    must(client->authorities != NULL);
    X509_STORE_set_default_paths(client->authorities);
  }
  SSL_CTX_set1_cert_store(tls, client->authorities);
  return CURLE_OK;
}

static void add_line(struct http_call *call, const char *line) {
  struct curl_slist *lines = curl_slist_append(call->lines, line);
  must(lines != NULL);
  call->lines = lines;
}

/* What the maker said, and nothing of libcurl's own accord. */
static void make_lines(struct http_call *call) {
  struct span name, value;
  struct buffer line = {0};
  bool has_accept = false, has_type = false;
  for (size_t at = 0; http_fields_next(buffer_span(&call->fields), &at, &name, &value);) {
    has_accept = has_accept || span_equal_nocase(name, SPAN("accept"));
    has_type = has_type || span_equal_nocase(name, SPAN("content-type"));
    buffer_consume(&line, buffer_length(&line));
    buffer_append(&line, name);
    buffer_append(&line, value.length ? SPAN(": ") : SPAN(";")); /* libcurl's way to send an empty one */
    buffer_append(&line, value);
    buffer_append(&line, span_make("", 1));
    add_line(call, buffer_span(&line).data);
  }
  buffer_free(&line);
  if (!has_accept) add_line(call, "Accept:");
  if (!has_type) add_line(call, "Content-Type:");
  add_line(call, "Expect:");
}

#define SET(option, value) must(curl_easy_setopt(easy, option, value) == CURLE_OK)

static void set_request(struct http_call *call, CURL *easy) {
  bool is_head = strcmp(call->method, "HEAD") == 0;
  bool may_have_body = strcmp(call->method, "POST") == 0 || strcmp(call->method, "PUT") == 0 || strcmp(call->method, "PATCH") == 0;
  SET(CURLOPT_CURLU, call->parsed);
  SET(CURLOPT_PATH_AS_IS, 1L);
  if (is_head) SET(CURLOPT_NOBODY, 1L);
  if (call->has_body || may_have_body) {
    struct span body = buffer_span(&call->body);
    SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.length);
    SET(CURLOPT_POSTFIELDS, body.length ? body.data : "");
  }
  if (!is_head) SET(CURLOPT_CUSTOMREQUEST, call->method);
  if (call->lines == NULL) make_lines(call);
  SET(CURLOPT_HTTPHEADER, call->lines);
}

/* The name of the URL leads to this address and to no other. */
static struct curl_slist *pin(const struct address *address) {
  char text[ADDRESS_TEXT], line[ADDRESS_TEXT + 3];
  address_format(address, text);
  snprintf(line, sizeof line, "::%s", text);
  struct curl_slist *list = curl_slist_append(NULL, line);
  must(list != NULL);
  return list;
}

/* Sends it to its next address. */
static void connect_call(struct http_call *call) {
  struct http_client *client = call->client;
  CURL *easy = curl_easy_init();
  must(easy != NULL && call->address_next < call->address_count);
  struct curl_slist *to = pin(&call->addresses[call->address_next++]);
  call->easy = easy;
  set_request(call, easy);
  SET(CURLOPT_CONNECT_TO, to);
  SET(CURLOPT_PROTOCOLS_STR, "http,https");
  SET(CURLOPT_FOLLOWLOCATION, 0L);
  SET(CURLOPT_PROXY, "");
  SET(CURLOPT_NOSIGNAL, 1L);
  SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
  SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
  SET(CURLOPT_CAINFO, NULL);
  SET(CURLOPT_CAPATH, NULL);
  SET(CURLOPT_SSL_CTX_FUNCTION, on_tls);
  SET(CURLOPT_SSL_CTX_DATA, client);
  SET(CURLOPT_MAXAGE_CONN, (long)IDLE_SECONDS);
  SET(CURLOPT_BUFFERSIZE, (long)READ_BUFFER);
  SET(CURLOPT_HEADERFUNCTION, on_head);
  SET(CURLOPT_HEADERDATA, call);
  SET(CURLOPT_WRITEFUNCTION, on_body);
  SET(CURLOPT_WRITEDATA, call);
  SET(CURLOPT_ERRORBUFFER, call->detail);
  SET(CURLOPT_PRIVATE, call);
  must(curl_multi_add_handle(client->multi, easy) == CURLM_OK);
  curl_slist_free_all(call->connect_to);
  call->connect_to = to;
}

/* ---- addresses ---- */

static bool is_own_port(const struct http_client *client, uint16_t port) {
  for (unsigned i = 0; i < 4; i++)
    if (client->options.own_ports[i] == port) return true;
  return false;
}

static bool is_closed(const struct http_client *client, const struct address *address) {
  struct span list = client->options.closed ? client->options.closed(client->options.closed_context) : SPAN(""), item;
  struct address known;
  while (span_next_item(&list, ',', &item))
    if (address_parse(item, &known) == 0 && address_equal(&known, address)) return true;
  return false;
}

static bool is_denied(const struct http_client *client, const struct http_call *call, const struct address *address) {
  if (!call->is_guests) return false;
  if (ip_set_contains(client->guests_denied, address)) return true;
  if (is_own_port(client, address_port(address)) && own_address_is(address)) return true;
  if (is_closed(client, address)) return true;
  for (unsigned i = 0; i < 2; i++) {
    const char *server = client->options.api_server[i];
    struct address known;
    if (server && strcasecmp(server, call->host) == 0) return true;
    if (server && address_parse_ip(span_of(server), address_port(address), &known) == 0 && address_equal(&known, address)) return true;
  }
  return false;
}

/* Keeps those that it may be sent to. False with an error: none. */
static bool take_addresses(struct http_client *client, struct http_call *call, const struct address *addresses, size_t known_count) {
  for (size_t i = 0; i < known_count && call->address_count < HTTP_CALL_ADDRESSES; i++) {
    struct address address = addresses[(client->turn + i) % known_count];
    if (address.any.sa_family == AF_INET6) address.v6.sin6_port = htons(call->port);
    else address.v4.sin_port = htons(call->port);
    if (!is_denied(client, call, &address)) call->addresses[call->address_count++] = address;
  }
  client->turn++;
  if (call->address_count > 0) return true;
  char text[256];
  snprintf(text, sizeof text, known_count > 0 ? "a mounted policy may not reach %.200s" : "%.200s is not resolved", call->host);
  set_error(call, text);
  return false;
}

static void finish(struct http_call *call) {
  detach(call);
  call->done(call);
}

static void on_name(void *context, struct list *waiting, const struct address *addresses, size_t known_count) {
  struct http_client *client = client_of(context);
  while (!list_is_empty(waiting)) {
    struct http_call *call = call_of(container_of(waiting->next, struct http_call, waiting));
    list_remove(&call->waiting);
    list_init(&call->waiting);
    if (take_addresses(client, call, addresses, known_count)) connect_call(call);
    else finish(call);
  }
  loop_flush(client->loop);
}

bool http_call_is_to_same(const struct http_call *call, const struct http_call *other) {
  return call->port == other->port && strcasecmp(call->host, other->host) == 0;
}

/* Guests and others have services of their own, as they have rooms. */
static void make_key(const struct http_call *call, struct http_service *service) {
  snprintf(service->key, sizeof service->key, "%c %u %s", call->is_guests ? 'g' : 'o', call->port, call->host);
  for (char *c = service->key; *c; c++)
    if (*c >= 'A' && *c <= 'Z') *c = (char)(*c + 32);
}

/* A service may have as many calls as there is room left: the first one half of it, the second one half of the rest, and whoever is slow leaves some to
 * the next. */
static bool has_room(const struct http_client *client, struct http_call *call, unsigned running) {
  unsigned left = LIMIT_HTTP_CALLS - client->running;
  unsigned guests_left = LIMIT_HTTP_CALLS / 2 - client->guests_running;
  if (call->is_guests && guests_left < left) left = guests_left;
  if (left == 0) {
    set_error(call, "too many requests of policies are running");
    count(client, COUNTER_LIMIT_HTTP_CALLS);
  } else if (running >= left) {
    set_error(call, "too many requests to this service are running");
    count(client, COUNTER_LIMIT_HTTP_SERVICE_CALLS);
  } else {
    return true;
  }
  return false;
}

static struct http_service *add_service(struct http_client *client, const char *key) {
  struct http_service *service = calloc(1, sizeof *service);
  must(service != NULL);
  snprintf(service->key, sizeof service->key, "%s", key);
  hashmap_put(&client->services, span_of(service->key), service);
  return service;
}

bool http_client_start(struct http_client *client, struct http_call *call) {
  must(client_of(client) && call_of(call)->client == NULL);
  struct http_service wanted;
  make_key(call, &wanted);
  struct http_service *service = hashmap_get(&client->services, span_of(wanted.key));
  if (!has_room(client, call, service ? service->running : 0)) return false;
  struct address literal;
  const struct address *known = NULL;
  size_t known_count = 0;
  if (call->address_count == 0) {
    bool is_literal = address_parse_ip(span_of(call->host), 0, &literal) == 0;
    enum http_name_state state = is_literal ? HTTP_NAME_KNOWN : http_names_get(client->names, call->host, &known, &known_count);
    if (is_literal) {
      known = &literal;
      known_count = 1;
    }
    if (state == HTTP_NAME_KNOWN && !take_addresses(client, call, known, known_count)) return false;
  }
  client->running++;
  client->guests_running += call->is_guests;
  call->service = service ? service : add_service(client, wanted.key);
  call->service->running++;
  call->client = client;
  if (call->address_count > 0) {
    connect_call(call);
  } else if (!http_names_wait(client->names, call->host, &call->waiting)) {
    detach(call);
    return take_addresses(client, call, NULL, 0);
  }
  return true;
}

/* ---- the loop ---- */

/* Whether another address may be tried: nothing was sent. */
static bool try_next(struct http_call *call, CURLcode code) {
  if (code != CURLE_COULDNT_CONNECT || call->address_next >= call->address_count) return false;
  curl_multi_remove_handle(call->client->multi, call->easy);
  curl_easy_cleanup(call->easy);
  call->easy = NULL;
  connect_call(call);
  return true;
}

static void end_call(struct http_call *call, CURLcode code) {
  long status = 0;
  if (try_next(call, code)) return;
  curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
  if (code == CURLE_OK && !call->has_head && !call->is_failed) set_error(call, "the answer's head is cut off"); /* which libcurl takes for a whole one */
  else if (code == CURLE_OK) call->status = (int)status;
  else if (!call->is_failed) set_error(call, call->detail[0] ? call->detail : curl_easy_strerror(code));
  finish(call);
}

static void end_calls(struct http_client *client) {
  int left;
  for (CURLMsg *message; (message = curl_multi_info_read(client->multi, &left));) {
    char *context = NULL;
    if (message->msg != CURLMSG_DONE) continue;
    CURLcode code = message->data.result;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &context);
    end_call(call_of(context), code);
  }
  loop_flush(client->loop);
}

static void act(struct http_client *client, curl_socket_t fd, int events) {
  int running;
  curl_multi_socket_action(client->multi, fd, events, &running);
  end_calls(client);
}

/* A socket that was reset may hold a whole answer yet: libcurl reads, and learns of it behind that. libuv does not look at such a socket any more. */
static void on_ready(uv_poll_t *poll, int status, int events) {
  struct socket_watch *watch = container_of(poll, struct socket_watch, poll);
  if (status < 0) events = UV_READABLE | UV_WRITABLE;
  act(client_of(watch->client), watch->fd, (events & UV_READABLE ? CURL_CSELECT_IN : 0) | (events & UV_WRITABLE ? CURL_CSELECT_OUT : 0));
  if (status < 0 && !uv_is_closing((uv_handle_t *)poll)) uv_poll_start(poll, UV_READABLE, on_ready);
}

static void on_timeout(uv_timer_t *timer) { act(client_of(timer->data), CURL_SOCKET_TIMEOUT, 0); }

static void free_watch(uv_handle_t *handle) { free(container_of((uv_poll_t *)handle, struct socket_watch, poll)); }
static void free_timer(uv_handle_t *handle) { free(handle); }

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *context, void *socket_context) {
  struct http_client *client = client_of(context);
  struct socket_watch *watch = socket_context;
  (void)easy;
  if (what == CURL_POLL_REMOVE) {
    if (watch == NULL) return 0;
    uv_poll_stop(&watch->poll);
    uv_close((uv_handle_t *)&watch->poll, free_watch);
    curl_multi_assign(client->multi, fd, NULL);
    return 0;
  }
  if (watch == NULL) {
    watch = calloc(1, sizeof *watch);
    must(watch != NULL);
    watch->client = client;
    watch->fd = fd;
    if (uv_poll_init_socket(&client->loop->uv, &watch->poll, fd)) { /* the call's timeout ends it */
      free(watch);
      return 0;
    }
    curl_multi_assign(client->multi, fd, watch);
  }
  uv_poll_start(&watch->poll, (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0), on_ready);
  return 0;
}

static int on_timer_wanted(CURLM *multi, long timeout_ms, void *context) {
  struct http_client *client = client_of(context);
  (void)multi;
  if (timeout_ms < 0) uv_timer_stop(client->timer);
  else uv_timer_start(client->timer, on_timeout, (uint64_t)timeout_ms, 0);
  return 0;
}

/* ---- life ---- */

struct http_client *http_client_new(struct loop *loop, struct counters *counters, const struct http_client_options *options) {
  struct http_client *client = calloc(1, sizeof *client);
  char error[128];
  must(client != NULL && curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK);
  client->magic = CLIENT_MAGIC;
  hashmap_init_borrowing(&client->services);
  client->loop = loop;
  client->counters = counters;
  client->options = *options;
  client->guests_denied = ip_set_new(SPAN(GUESTS_DENIED), error, sizeof error);
  client->names = http_names_new(loop, options->resolver, on_name, client);
  client->multi = curl_multi_init();
  client->timer = calloc(1, sizeof *client->timer);
  must(client->guests_denied && client->multi && client->timer);
  uv_timer_init(&loop->uv, client->timer);
  client->timer->data = client;
  must(curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, on_socket) == CURLM_OK);
  must(curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client) == CURLM_OK);
  must(curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, on_timer_wanted) == CURLM_OK);
  must(curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client) == CURLM_OK);
  must(curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, (long)IDLE_CONNECTIONS) == CURLM_OK);
  return client;
}

void http_client_free(struct http_client *client) {
  if (client == NULL) return;
  must(client_of(client)->running == 0 && client->services.count == 0);
  hashmap_free(&client->services);
  curl_multi_cleanup(client->multi);
  http_names_free(client->names);
  uv_close((uv_handle_t *)client->timer, free_timer);
  X509_STORE_free(client->authorities);
  ip_set_free(client->guests_denied);
  client->magic = 0;
  free(client);
  curl_global_cleanup();
}
