/* Listener: one accepting socket of one worker. Nodelay is set here once and inherited by what is accepted. Pausing leaves one
 * connection with libuv and the others in the kernel's queue. Owned by who made it; frees itself after listener_close.
 * Loop's thread only. */
#include "net/listener.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "net/link_internal.h"

#define LISTENER_MAGIC MAGIC('l', 's', 't', 'n')
#define RESERVED_FDS 16 /* accepting pauses when so few are left: what is open needs files too */
#define SHORTAGE_PAUSE_MS 100

struct listener {
  uint32_t magic;
  struct loop *loop;
  uv_tcp_t tcp;
  void (*on_accept)(void *context, struct link *link);
  void *context;
  bool is_paused, is_short, is_waiting, is_closing; /* is_waiting: libuv holds a connection that we did not take */
  int highest_fd;
  struct timer shortage;
  struct deferred take;
};

static void accept_waiting(struct listener *listener) {
  int error;
  struct link *link = link_accept(listener->loop, (uv_stream_t *)&listener->tcp, &error);
  if (!link) return;
  if (link_fd(link) > listener->highest_fd && !listener->is_closing) {
    listener->is_short = true;
    loop_timer_start(listener->loop, &listener->shortage, SHORTAGE_PAUSE_MS);
  }
  listener->on_accept(listener->context, link);
}

static void on_connection(uv_stream_t *stream, int status) {
  struct listener *listener = container_of((uv_tcp_t *)stream, struct listener, tcp);
  must(listener->magic == LISTENER_MAGIC);
  struct loop *loop = listener->loop;
  if (status == UV_EMFILE || status == UV_ENFILE || status == UV_ENOMEM || status == UV_ENOBUFS) {
    /* libuv turned away what was queued; the next ones wait. */
    listener->is_short = true;
    loop_timer_start(loop, &listener->shortage, SHORTAGE_PAUSE_MS);
    log_write(loop->log, LOG_WARN, "accepting paused", "error=%s", uv_err_name(status));
  }
  if (status < 0) return;
  if (listener->is_paused || listener->is_short) {
    listener->is_waiting = true;
  } else {
    accept_waiting(listener);
  }
  loop_flush(loop);
}

static void on_take(struct deferred *deferred) {
  struct listener *listener = container_of(deferred, struct listener, take);
  if (!listener->is_waiting || listener->is_paused || listener->is_short) return;
  listener->is_waiting = false;
  accept_waiting(listener);
}

static void on_shortage_over(struct timer *timer) {
  struct listener *listener = container_of(timer, struct listener, shortage);
  listener->is_short = false;
  loop_defer(listener->loop, &listener->take);
}

static void on_closed(uv_handle_t *handle) {
  struct listener *listener = container_of((uv_tcp_t *)handle, struct listener, tcp);
  must(listener->magic == LISTENER_MAGIC);
  listener->magic = 0;
  free(listener);
}

static void close_handle(struct listener *listener) {
  loop_timer_stop(listener->loop, &listener->shortage);
  deferred_cancel(&listener->take);
  uv_close((uv_handle_t *)&listener->tcp, on_closed);
}

static int set_up(struct listener *listener, const struct address *address, bool reuse_port, int backlog) {
  uv_os_fd_t fd;
  int error = uv_fileno((uv_handle_t *)&listener->tcp, &fd);
  if (error) return error;
  int yes = 1;
  if (reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &yes, sizeof yes)) return -errno;
  error = uv_tcp_bind(&listener->tcp, &address->any, address->any.sa_family == AF_INET6 ? UV_TCP_IPV6ONLY : 0);
  if (!error) error = uv_tcp_nodelay(&listener->tcp, 1);
  if (!error) error = uv_listen((uv_stream_t *)&listener->tcp, backlog, on_connection);
  return error;
}

struct listener *listener_new(struct loop *loop, const struct address *address, bool reuse_port, int backlog,
                              void (*on_accept)(void *context, struct link *link), void *context, int *error) {
  struct listener *listener = calloc(1, sizeof *listener);
  if (!listener) abort();
  listener->magic = LISTENER_MAGIC;
  listener->loop = loop;
  listener->on_accept = on_accept;
  listener->context = context;
  timer_init(&listener->shortage, on_shortage_over);
  deferred_init(&listener->take, on_take);
  struct rlimit limit;
  getrlimit(RLIMIT_NOFILE, &limit);
  listener->highest_fd = limit.rlim_cur > 1 << 30 ? 1 << 30 : (int)limit.rlim_cur - RESERVED_FDS;
  *error = uv_tcp_init_ex(&loop->uv, &listener->tcp, address->any.sa_family);
  if (*error) {
    free(listener);
    return NULL;
  }
  *error = set_up(listener, address, reuse_port, backlog);
  if (*error == 0) return listener;
  close_handle(listener);
  return NULL;
}

void listener_pause(struct listener *listener) { listener->is_paused = true; }

void listener_resume(struct listener *listener) {
  listener->is_paused = false;
  if (listener->is_waiting) loop_defer(listener->loop, &listener->take);
}

void listener_close(struct listener *listener) {
  must(listener->magic == LISTENER_MAGIC && !listener->is_closing);
  listener->is_closing = true;
  if (listener->is_waiting) accept_waiting(listener);
  uv_os_fd_t fd;
  if (uv_fileno((uv_handle_t *)&listener->tcp, &fd) == 0) {
    for (;;) {
      int accepted = accept(fd, NULL, NULL); /* uv_tcp_open makes it non-blocking */
      if (accepted < 0 && (errno == EINTR || errno == ECONNABORTED)) continue;
      if (accepted < 0) break;
      fcntl(accepted, F_SETFD, FD_CLOEXEC);
      int error;
      struct link *link = link_adopt(listener->loop, accepted, &error);
      if (link) listener->on_accept(listener->context, link);
    }
  }
  close_handle(listener);
}

uint16_t listener_port(const struct listener *listener) {
  struct address address;
  int size = sizeof address;
  return uv_tcp_getsockname(&listener->tcp, &address.any, &size) ? 0 : address_port(&address);
}

int listener_probe(const struct address *address) {
  int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -errno;
  int yes = 1, error = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (address->any.sa_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &yes, sizeof yes);
  /* Listening too: two sockets may share a bound port under SO_REUSEADDR as long as none listens. */
  if (bind(fd, &address->any, address_size(address)) || listen(fd, 1)) error = -errno;
  close(fd);
  return error;
}
