/* libcurl shares a connection among transfers and does not notice that its other end fell silent: it would put new requests on it for ever. So we know its
 * sockets, by their local ports, and end one that is silent. Owned by its struct api. */
#include "kube/api_sockets.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

enum { KEEPALIVE_S = 15, KEEPALIVE_COUNT = 3, UNACKNOWLEDGED_MS = 30000 };

void api_sockets_free(struct api_sockets *sockets) {
  free(sockets->list);
  *sockets = (struct api_sockets){.list = NULL};
}

/* A peer that is gone without a word is noticed by the kernel. No child gets the socket: libcurl does not see to it everywhere. */
static void set_options(int fd) {
  int on = 1, idle = KEEPALIVE_S, count = KEEPALIVE_COUNT, unacknowledged = UNACKNOWLEDGED_MS;
  fcntl(fd, F_SETFD, FD_CLOEXEC);
  setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &idle, sizeof idle);
  setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged, sizeof unacknowledged);
}

static int on_open(void *context, curl_socket_t fd, curlsocktype purpose) {
  struct api_sockets *sockets = context;
  (void)purpose;
  set_options(fd);
  if (sockets->count == sockets->capacity) {
    sockets->capacity = sockets->capacity ? sockets->capacity * 2 : 4;
    sockets->list = check_memory(realloc(sockets->list, sockets->capacity * sizeof *sockets->list));
  }
  sockets->list[sockets->count++] = (struct api_socket){.fd = fd};
  return CURL_SOCKOPT_OK;
}

static int on_close(void *context, curl_socket_t fd) {
  struct api_sockets *sockets = context;
  for (unsigned i = 0; i < sockets->count; i++) {
    if (sockets->list[i].fd != fd) continue;
    sockets->list[i] = sockets->list[--sockets->count];
    break;
  }
  return close(fd);
}

void api_sockets_apply(struct api_sockets *sockets, CURL *easy) {
  must(curl_easy_setopt(easy, CURLOPT_SOCKOPTFUNCTION, on_open) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_SOCKOPTDATA, sockets) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, on_close) == CURLE_OK);
  must(curl_easy_setopt(easy, CURLOPT_CLOSESOCKETDATA, sockets) == CURLE_OK);
}

static int local_port(int fd) {
  union {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
  } name = {.any.sa_family = AF_UNSPEC};
  socklen_t length = sizeof name;
  if (getsockname(fd, &name.any, &length)) return 0;
  return name.any.sa_family == AF_INET6 ? ntohs(name.v6.sin6_port) : name.any.sa_family == AF_INET ? ntohs(name.v4.sin_port) : 0;
}

static struct api_socket *find(struct api_sockets *sockets, int port) {
  for (unsigned i = 0; i < sockets->count && port; i++)
    if (sockets->list[i].port == port) return &sockets->list[i];
  for (unsigned i = 0; i < sockets->count && port; i++) {
    if (sockets->list[i].port || local_port(sockets->list[i].fd) != port) continue;
    sockets->list[i].port = port;
    return &sockets->list[i];
  }
  return NULL;
}

void api_sockets_begin(struct api_sockets *sockets, int port, uint64_t now_ms) {
  struct api_socket *found = find(sockets, port);
  if (found && !found->heard_at) found->heard_at = now_ms;
}

void api_sockets_heard(struct api_sockets *sockets, int port, uint64_t now_ms) {
  struct api_socket *found = find(sockets, port);
  if (found) found->heard_at = now_ms;
}

void api_sockets_leave(struct api_sockets *sockets, int port, uint64_t now_ms, uint64_t quiet_ms) {
  const struct api_socket *found = find(sockets, port);
  if (found && now_ms - found->heard_at >= quiet_ms) shutdown(found->fd, SHUT_RDWR);
}
