/* The sockets of the API server's client: those that are open, and when something was last heard on each. */
#ifndef KUBE_API_SOCKETS_H
#define KUBE_API_SOCKETS_H

#include <curl/curl.h>
#include <stdint.h>

struct api_socket {
  curl_socket_t fd;
  int port;          /* local; 0: not known yet */
  uint64_t heard_at; /* 0: nothing ran on it yet */
};
struct api_sockets {
  struct api_socket *list;
  unsigned count, capacity;
};

void api_sockets_free(struct api_sockets *sockets);
/* The transfer's connection, if it needs a new one, becomes one of these. `sockets` must outlive the connection. */
void api_sockets_apply(struct api_sockets *sockets, CURL *easy);
/* A transfer begins on the connection of this local port. */
void api_sockets_begin(struct api_sockets *sockets, int port, uint64_t now_ms);
/* Something came on it. */
void api_sockets_heard(struct api_sockets *sockets, int port, uint64_t now_ms);
/* Ends the connection of this local port if nothing was heard on it for `quiet_ms`: all its transfers fail, and nobody begins another on it. */
void api_sockets_leave(struct api_sockets *sockets, int port, uint64_t now_ms, uint64_t quiet_ms);

#endif
