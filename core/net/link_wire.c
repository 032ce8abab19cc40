/* Link, the wire: the way of a link's bytes to and from its socket, or its other end in memory. Sends at once what the kernel takes
 * (uv_try_write), keeps the rest in chunks and gives it to uv_write; receives into the loop's shared buffer. Owns the unsent chunks
 * and the handle; frees the link when libuv has let go of it. Loop's thread only. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "net/link_internal.h"

#define SPARE_CHUNKS 64
#define BATCH_PARTS 64           /* buffers of one system call */
#define DRAIN_AT_ONCE (1u << 20) /* bytes read after a failed write before the failure is told anyway */

_Static_assert(sizeof(uv_buf_t) == sizeof(struct iovec) && offsetof(uv_buf_t, len) == offsetof(struct iovec, iov_len), "libuv's buffers are iovecs here");

/* One uv_write on its way: on the heap, so that an idle link does not carry it. */
struct wire_write {
  uv_write_t request;
  struct link *link;
};

struct link_chunk *link_chunk_take(struct loop *loop) {
  struct link_chunk *chunk = loop->chunks;
  if (chunk) {
    loop->chunks = chunk->next;
    loop->spare_chunks--;
  } else {
    chunk = malloc(sizeof *chunk);
    if (!chunk) abort();
  }
  chunk->next = NULL;
  chunk->start = chunk->end = 0;
  return chunk;
}

void link_chunk_give(struct loop *loop, struct link_chunk *chunk) {
  if (loop->spare_chunks >= SPARE_CHUNKS) {
    free(chunk);
    return;
  }
  chunk->next = loop->chunks;
  loop->chunks = chunk;
  loop->spare_chunks++;
}

void link_wire_free_chunks(struct loop *loop) {
  while (loop->chunks) {
    struct link_chunk *chunk = loop->chunks;
    loop->chunks = chunk->next;
    free(chunk);
  }
  loop->spare_chunks = 0;
}

static void chunks_clear(struct loop *loop, struct link_chunks *chunks) {
  while (chunks->first) {
    struct link_chunk *chunk = chunks->first;
    chunks->first = chunk->next;
    link_chunk_give(loop, chunk);
  }
  *chunks = (struct link_chunks){0};
}

static void chunks_append(struct loop *loop, struct link_chunks *chunks, const char *data, size_t length) {
  chunks->bytes += length;
  while (length > 0) {
    struct link_chunk *chunk = chunks->last;
    if (!chunk || chunk->end == LINK_CHUNK_BYTES) {
      chunk = link_chunk_take(loop);
      if (chunks->last) {
        chunks->last->next = chunk;
      } else {
        chunks->first = chunk;
      }
      chunks->last = chunk;
    }
    size_t room = LINK_CHUNK_BYTES - chunk->end;
    size_t size = length < room ? length : room;
    memcpy(chunk->data + chunk->end, data, size);
    chunk->end += size;
    data += size;
    length -= size;
  }
}

struct link *link_new(struct loop *loop, bool is_pair) {
  struct link *link = calloc(1, sizeof *link);
  if (!link) abort();
  link->magic = LINK_MAGIC;
  link->loop = loop;
  link->is_pair = is_pair;
  link->progress_ms = loop_now_ms(loop);
  list_init(&link->node);
  loop->live_links++;
  return link;
}

void link_free(struct link *link) {
  must(link->magic == LINK_MAGIC);
  must(list_is_empty(&link->node) && list_is_empty(&link->deferred.node) && !timer_is_active(&link->linger));
  if (link->staged) link_chunk_give(link->loop, link->staged);
  chunks_clear(link->loop, &link->unsent);
  chunks_clear(link->loop, &link->sending);
  buffer_free(&link->early);
  buffer_free(&link->held);
  buffer_free(&link->inbox);
  if (link->tls) link_tls_free(link);
  link->loop->live_links--;
  link->magic = 0;
  free(link);
}

int link_fd(const struct link *link) {
  uv_os_fd_t fd = -1;
  if (link->is_pair || uv_fileno((const uv_handle_t *)&link->tcp, &fd)) return -1;
  return fd;
}

/* Of a link that has one for sure: it is open, and not closed. */
static int socket_of(const struct link *link) {
  int fd = link_fd(link);
  must(fd >= 0);
  return fd;
}

size_t link_wire_pending(const struct link *link) {
  if (!link->is_pair) return link->unsent.bytes + (link->sending.first ? uv_stream_get_write_queue_size((const uv_stream_t *)&link->tcp) : 0);
  return link->other ? buffer_length(&link->other->inbox) : 0;
}

/* ---- sending */

static void send_unsent(struct link *link);

static void on_written(uv_write_t *request, int status) {
  struct wire_write *write = container_of(request, struct wire_write, request);
  struct link *link = write->link;
  must(link->magic == LINK_MAGIC);
  struct loop *loop = link->loop;
  free(write);
  chunks_clear(loop, &link->sending);
  if (link->is_closing) return;
  if (status < 0) {
    link_failed(link, status);
  } else {
    link->progress_ms = loop_now_ms(loop);
    if (link->unsent.first) send_unsent(link);
    link_sent(link);
  }
  loop_flush(loop);
}

/* Gives all that is unsent to libuv, as one request. */
static void send_unsent(struct link *link) {
  must(!link->sending.first && link->unsent.first);
  struct wire_write *write = malloc(sizeof *write);
  if (!write) abort();
  write->link = link;
  uv_buf_t few[BATCH_PARTS];
  unsigned count = 0;
  size_t bytes = 0;
  struct link_chunk *last = NULL;
  for (struct link_chunk *chunk = link->unsent.first; chunk && count < BATCH_PARTS; chunk = chunk->next) {
    few[count++] = uv_buf_init(chunk->data + chunk->start, (unsigned)(chunk->end - chunk->start));
    bytes += chunk->end - chunk->start;
    last = chunk;
  }
  link->sending = (struct link_chunks){link->unsent.first, last, bytes};
  link->unsent.first = last->next;
  link->unsent.bytes -= bytes;
  if (!link->unsent.first) link->unsent.last = NULL;
  last->next = NULL;
  int error = uv_write(&write->request, (uv_stream_t *)&link->tcp, few, count, on_written);
  if (error) {
    free(write);
    chunks_clear(link->loop, &link->sending);
    link_failed(link, error);
    return;
  }
  link->sending_seen = uv_stream_get_write_queue_size((uv_stream_t *)&link->tcp);
}

static size_t bytes_of(const struct iovec *parts, int count) {
  size_t bytes = 0;
  for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
  return bytes;
}

/* The kernel takes none of these: they do not count as written. (With TLS they are a little more than what was handed over.) */
static void lose(struct link *link, const struct iovec *parts, int count) {
  size_t bytes = bytes_of(parts, count);
  link->bytes_handed -= bytes < link->bytes_handed ? bytes : link->bytes_handed;
}

/* Writes to the other end of a pair: its inbox stands for the kernel's buffers. */
static void pair_write(struct link *link, const struct iovec *parts, int count) {
  struct link *other = link->other;
  if (!other) {
    lose(link, parts, count);
    link_failed(link, UV_EPIPE);
    return;
  }
  for (int i = 0; i < count; i++) buffer_append(&other->inbox, span_make(parts[i].iov_base, parts[i].iov_len));
  loop_defer(link->loop, &other->deferred);
}

void link_wire_write(struct link *link, const struct iovec *parts, int count) {
  if (link->failure || link->is_shut || link->is_closing) {
    lose(link, parts, count);
    return;
  }
  if (link->is_pair) {
    pair_write(link, parts, count);
    return;
  }
  size_t taken = 0;
  bool has_room = !link->sending.first && !link->unsent.first;
  for (int i = 0; i < count;) {
    int batch = count - i < BATCH_PARTS ? count - i : BATCH_PARTS;
    size_t batch_bytes = bytes_of(&parts[i], batch), sent = 0;
    if (has_room && batch_bytes > 0) {
      int result = uv_try_write((uv_stream_t *)&link->tcp, (const uv_buf_t *)&parts[i], (unsigned)batch);
      if (result < 0 && result != UV_EAGAIN) {
        lose(link, &parts[i], count - i);
        link_failed(link, result);
        return;
      }
      sent = result > 0 ? (size_t)result : 0;
    }
    taken += sent;
    if (sent < batch_bytes) has_room = false;
    for (int j = i; j < i + batch; j++) {
      size_t skip = sent < parts[j].iov_len ? sent : parts[j].iov_len;
      sent -= skip;
      if (parts[j].iov_len > skip) chunks_append(link->loop, &link->unsent, (const char *)parts[j].iov_base + skip, parts[j].iov_len - skip);
    }
    i += batch;
  }
  if (taken) link->progress_ms = loop_now_ms(link->loop);
  if (link->unsent.first && !link->sending.first) send_unsent(link);
}

void link_wire_shut(struct link *link) {
  if (link->is_shut || link->failure) return;
  link->is_shut = true;
  if (!link->is_pair) {
    /* Directly, not by uv_shutdown: nothing is queued here, and that would cost two turns through epoll. */
    shutdown(socket_of(link), SHUT_WR);
  } else if (link->other) {
    link->other->other_ended = true;
    loop_defer(link->loop, &link->other->deferred);
  }
}

/* ---- receiving */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer) {
  (void)suggested;
  struct link *link = container_of((uv_tcp_t *)handle, struct link, tcp);
  *buffer = uv_buf_init(link->loop->read_buffer, LOOP_READ_BUFFER);
}

/* libuv tells "hung up" as an end even when it was a reset: the socket knows. */
static int socket_error(const struct link *link) {
  int error = 0;
  socklen_t size = sizeof error;
  return getsockopt(socket_of(link), SOL_SOCKET, SO_ERROR, &error, &size) ? -errno : -error;
}

static void on_received(uv_stream_t *stream, ssize_t length, const uv_buf_t *buffer) {
  struct link *link = container_of((uv_tcp_t *)stream, struct link, tcp);
  must(link->magic == LINK_MAGIC);
  struct loop *loop = link->loop;
  if (length > 0) {
    link->progress_ms = loop_now_ms(loop);
    link_input(link, buffer->base, (size_t)length);
  } else if (length < 0) {
    link->is_receiving = false;
    link_input_ended(link, length == UV_EOF ? socket_error(link) : (int)length);
  }
  loop_flush(loop);
}

void link_wire_receive(struct link *link, bool on) {
  if (on == link->is_receiving || link->is_ended || link->is_closing || link->is_connecting) return;
  link->is_receiving = on;
  if (link->is_pair) {
    if (on) loop_defer(link->loop, &link->deferred);
  } else if (on) {
    int error = uv_read_start((uv_stream_t *)&link->tcp, on_alloc, on_received);
    if (error) {
      link->is_receiving = false;
      link_failed(link, error);
    }
  } else {
    uv_read_stop((uv_stream_t *)&link->tcp);
  }
}

void link_wire_drain(struct link *link) {
  if (link->is_pair || link->is_ended || !link->is_started) return;
  link_wire_receive(link, false);
  for (size_t total = 0; total < DRAIN_AT_ONCE && !link->is_paused && !link->is_closing;) {
    ssize_t length = recv(socket_of(link), link->loop->read_buffer, LOOP_READ_BUFFER, MSG_DONTWAIT);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) break;
    total += (size_t)length;
    if (!link_input(link, link->loop->read_buffer, (size_t)length)) return;
  }
}

void link_wire_pair_run(struct link *link) {
  if (link->is_closing || !link->is_receiving) return;
  if (link->other_error) {
    buffer_free(&link->inbox);
    link->is_receiving = false;
    link_input_ended(link, link->other_error);
    return;
  }
  if (buffer_length(&link->inbox) > 0) {
    struct buffer bytes = link->inbox;
    link->inbox = (struct buffer){0};
    link->progress_ms = loop_now_ms(link->loop);
    if (link->other) {
      link->other->progress_ms = link->progress_ms;
      link_sent(link->other);
    }
    bool lives = link_input(link, bytes.data + bytes.start, buffer_length(&bytes));
    buffer_free(&bytes);
    if (!lives || !link->is_receiving) return;
  }
  if (link->other_ended) {
    link->is_receiving = false;
    link_input_ended(link, 0);
  }
}

/* ---- closing */

static void on_closed(uv_handle_t *handle) {
  struct link *link = container_of((uv_tcp_t *)handle, struct link, tcp);
  deferred_cancel(&link->deferred);
  link_free(link);
}

void link_wire_close(struct link *link, bool reset) {
  if (link->is_pair) {
    if (link->other) {
      link->other->other = NULL;
      if (reset) link->other->other_error = UV_ECONNRESET;
      link->other->other_ended = true;
      loop_defer(link->loop, &link->other->deferred);
      link->other = NULL;
    }
    loop_defer(link->loop, &link->deferred); /* frees it, when nobody is inside it any more */
    return;
  }
  if (reset && uv_tcp_close_reset(&link->tcp, on_closed) == 0) return;
  if (!uv_is_closing((uv_handle_t *)&link->tcp)) uv_close((uv_handle_t *)&link->tcp, on_closed);
}
