/* Who we are to the API server and how it is reached: what every request of one client has in common. */
#ifndef KUBE_API_IDENTITY_H
#define KUBE_API_IDENTITY_H

#include <curl/curl.h>
#include <sys/stat.h>

#include "kube/api.h"

struct api_identity {
  char *url;         /* scheme, host, port and path before every request's path */
  char *server;      /* host:port, for messages */
  char *host, *name; /* the URL's host, and the one that the certificate must be for */
  char *host_field;  /* Host, where the URL has another name in it; NULL otherwise */
  struct curl_slist *connect_to;
  char *ca, *ca_file, *certificate, *certificate_file, *key, *key_file, *proxy;
  char *user_agent;
  bool is_tls, is_insecure;
  char *token; /* what is sent; NULL: none */
  char *token_file;
  struct stat token_stat;
  uint64_t token_looked_at; /* ms; 0: look at once */
  bool is_token_broken;     /* said in the log */
  struct log *log;
};

/* 0, or -1 with a message. */
int api_identity_init(struct api_identity *identity, const struct api_options *options, char *error, size_t error_size);
void api_identity_free(struct api_identity *identity);
/* Sets everything but method, path and fields. */
void api_identity_apply(const struct api_identity *identity, CURL *easy);
/* The token to send now, NULL if there is none. Looks at its file at most once a second, and at once after api_identity_refused. */
const char *api_identity_token(struct api_identity *identity, uint64_t now_ms);
/* The server answered 401. */
void api_identity_refused(struct api_identity *identity);

#endif
