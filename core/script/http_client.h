/* HTTP client: requests of policies, over libcurl's multi interface on the worker's loop. Addresses come from our resolver and are pinned: a connection is only
 * used again for the same name and the same address. Redirects are not followed, only http and https are spoken, certificates are verified. One per worker; its
 * thread only. */
#ifndef SCRIPT_HTTP_CLIENT_H
#define SCRIPT_HTTP_CLIENT_H

#include <stdbool.h>

#include "base/address.h"
#include "base/buffer.h"
#include "base/counters.h"
#include "net/loop.h"

struct http_client;
struct http_service;
struct curl_slist;
struct Curl_URL;

struct http_client_options {
  const char *resolver;          /* "ADDR:PORT[,...]"; NULL: /etc/resolv.conf */
  uint16_t own_ports[4];         /* of this process, 0: none */
  const char *api_server[2];     /* hosts, by address or name; NULL: none */
  struct span (*closed)(void *); /* what guests may not reach either, as of now: "IP:PORT,..."; NULL: nothing */
  void *closed_context;
  _Atomic uint64_t *body_budget; /* answers count in it; NULL: none */
};

#define HTTP_CALL_ADDRESSES 4

/* One request and its answer. Its maker owns it. */
struct http_call {
  uint32_t magic;
  struct http_client *client; /* while it runs */
  /* the request */
  char *method, *url;
  struct buffer fields; /* name NUL value NUL ... */
  struct buffer body;
  bool has_body;
  bool is_guests;    /* may not reach every address */
  bool drops_answer; /* nobody looks at its body */
  size_t max_body;
  struct address addresses[HTTP_CALL_ADDRESSES]; /* that it may be sent to, in this order; of an upstream: given */
  unsigned address_count, address_next;
  /* the answer: a status, or an error */
  int status;
  struct buffer answer_fields; /* name NUL value NUL ... */
  struct buffer answer;
  char error[256], detail[256];         /* detail: libcurl's words */
  void (*done)(struct http_call *call); /* once, never from inside http_client_start */
  void *context;
  /* the client's */
  void *easy;
  struct Curl_URL *parsed;
  struct curl_slist *lines, *connect_to;
  struct list waiting;          /* in the name that it waits for */
  struct http_service *service; /* while it runs */
  char host[256];
  uint16_t port;
  struct buffer head; /* of the answer, as much as is there */
  size_t head_bytes, body_bytes;
  bool has_head;
  _Atomic uint64_t *budget; /* where the answer is counted */
  bool is_failed;           /* `error` says why, whatever libcurl does */
};

struct http_client *http_client_new(struct loop *loop, struct counters *counters, const struct http_client_options *options);
/* No call may run. */
void http_client_free(struct http_client *client);

/* NULL with a message: not a URL that can be asked for. */
struct http_call *http_call_new(struct span method, struct span url, char *error, size_t error_size);
/* Whether they go to one service: host and port. */
bool http_call_is_to_same(const struct http_call *call, const struct http_call *other);
/* Both checked by the caller: no CR, LF or NUL. */
void http_call_add_field(struct http_call *call, struct span name, struct span value);
/* Walks fields of that form: *at begins as 0. False at the end. */
bool http_fields_next(struct span fields, size_t *at, struct span *name, struct span *value);
/* False with call->error when it failed at once. */
bool http_client_start(struct http_client *client, struct http_call *call);
/* Cancels it, if it runs. */
void http_call_free(struct http_call *call);

#endif
