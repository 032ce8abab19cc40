/* The client of the Kubernetes API server: requests, lists and watches over one server and one identity. No call waits but api_wait.
 * Owned and used by one thread. */
#ifndef KUBE_API_H
#define KUBE_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/counters.h"
#include "base/log.h"
#include "base/span.h"

struct api;

/* Milliseconds: for name, connection and TLS handshake; and for the head of a watch's answer. */
enum { API_CONNECT_MS = 10000, API_HEAD_MS = 30000 };

/* Texts are copied; NULL: not given. Where both are, a file goes before a text. */
struct api_options {
  const char *url;          /* http or https, a path is put before every request's */
  const char *ca, *ca_file; /* PEM; neither: the system's */
  const char *certificate, *certificate_file, *key, *key_file;
  const char *token, *token_file; /* the file is read again when it changed */
  const char *server_name;        /* that the server's certificate must be for, instead of the URL's host */
  const char *proxy;              /* URL; NULL: none, whatever the environment says */
  bool is_insecure;               /* the server's certificate is not verified */
  struct log *log;                /* may be NULL */
  struct counters *counters;      /* of the thread; may be NULL */
};

/* NULL with one clear line. */
struct api *api_new(const struct api_options *options, char *error, size_t error_size);
/* Ends all transfers without news. */
void api_free(struct api *api);

enum api_split { API_SPLIT_NONE = 0, API_SPLIT_LIST = 1, API_SPLIT_WATCH = 2 };

/* Everything is copied. */
struct api_request {
  const char *method; /* GET, POST, PUT, PATCH, DELETE */
  const char *path;   /* with its query, as it goes out */
  struct span body;   /* data NULL: none */
  const char *content_type;
  enum api_split split; /* of an answer with status 200 */
  unsigned timeout_ms;  /* for the whole; 0: none (a watch's head has API_HEAD_MS all the same) */
  unsigned idle_ms;     /* without a byte; 0: no limit */
  size_t max_body;      /* of an answer that is not split */
};

/* The id of the transfer that begins with the next api_wait, from 1 on; 0 with a message. */
uint64_t api_send(struct api *api, const struct api_request *request, char *error, size_t error_size);
/* No more news come for it; those that wait are dropped. An id that is over is no error. */
void api_cancel(struct api *api, uint64_t id);

enum api_news_kind {
  API_NEWS_ITEM = 0,  /* one element of a list's items */
  API_NEWS_LIST = 1,  /* a list's metadata, at its end */
  API_NEWS_EVENT = 2, /* one line of a watch */
  API_NEWS_DONE = 3,  /* the answer's end; the last one of its id */
  API_NEWS_FAILED = 4 /* a sentence for an operator; the last one of its id */
};
struct api_news {
  uint64_t id;
  enum api_news_kind kind;
  struct span text; /* JSON, DONE: the body that was not split, FAILED: the sentence */
  int status;       /* DONE */
  long retry_after; /* DONE: seconds, 0: not said */
  bool is_retry;    /* FAILED: the same request may succeed later without a change of anything here */
};

/* The oldest news, to be given back with api_news_free before the next call; NULL: none. */
struct api_news *api_next(struct api *api);
void api_news_free(struct api_news *news);
/* api_next would give something. */
bool api_has_news(const struct api *api);

struct api_wait_fd {
  int fd;
  bool is_ready; /* set by api_wait: readable, or in error */
};
enum { API_WAIT_FDS = 16 };
/* Waits until there are news or one of the fds is ready, or timeout_ms passed (-1: no limit), and drives the transfers. */
void api_wait(struct api *api, struct api_wait_fd *fds, unsigned count, int timeout_ms);

#endif
