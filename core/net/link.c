/* Link: one connection as its owner sees it: staging of writes, bytes held while the owner pauses, events that must not come from
 * inside the owner's own call, and closing. The wire below owns the handle; here the link is closed, there it is freed.
 * After each callback the link may be closed (is_closing): its memory is still there, nothing else may be done with it.
 * Loop's thread only. */
#include "net/link.h"

#include <stdlib.h>

#include "base/error.h"
#include "net/link_internal.h"

#define GATHER_PARTS 16 /* parts of one link_write that go out in one call with what is staged */

struct connecting {
  uv_connect_t request;
  struct link *link;
  struct tls_client *tls;
};

/* ---- events */

static void report_end(struct link *link) {
  if (!link->is_ended || link->is_end_reported || link->is_lingering || !link->events) return;
  /* What came before the end is read first; but a client that broke off is told at once, whatever it had sent. */
  bool is_client_gone = link->watches_end || (link->is_accepted && link->end_error);
  if (buffer_length(&link->held) > 0 && !is_client_gone) return;
  link->is_end_reported = true;
  link->events->on_end(link->owner, link->end_error);
}

static void report_failure(struct link *link) {
  if (link->is_failure_reported || !link->events) return;
  /* An upstream that answers early and closes makes our writes fail while its answer is still to be read. */
  if (!link->is_paused) link_wire_drain(link);
  if (link->is_closing || link->is_lingering) return;
  bool is_left_to_read = link->is_paused || buffer_length(&link->held) > 0;
  if (is_left_to_read && !link->is_accepted) return;
  if (link->is_end_reported && link->end_error) return; /* it knows */
  link->is_failure_reported = link->is_end_reported = true;
  link->events->on_end(link->owner, link->failure);
}

static void deliver_held(struct link *link) {
  struct buffer bytes = link->held;
  link->held = (struct buffer){0};
  if (link->holds_wire_bytes) {
    link->holds_wire_bytes = false;
    link_input(link, bytes.data + bytes.start, buffer_length(&bytes));
  } else {
    link_deliver(link, bytes.data + bytes.start, buffer_length(&bytes));
  }
  buffer_free(&bytes);
}

static void on_deferred(struct deferred *deferred) {
  struct link *link = container_of(deferred, struct link, deferred);
  must(link->magic == LINK_MAGIC);
  if (link->is_closing) { /* only pairs: a socket's link is freed by libuv's callback */
    link_free(link);
    return;
  }
  if (link->is_lingering) {
    if (link->failure) link_close(link);
    return;
  }
  if (link->is_open_due) {
    link->is_open_due = false;
    link_opened(link, link->open_status);
    if (link->is_closing) return;
  }
  if (buffer_length(&link->held) > 0 && (link->holds_wire_bytes || !link->is_paused)) deliver_held(link);
  if (link->is_closing || link->is_lingering) return;
  if (link->is_started && !link->is_paused && buffer_length(&link->held) == 0) link_wire_receive(link, true);
  if (link->is_pair) link_wire_pair_run(link);
  if (!link->is_closing) report_end(link);
  if (link->failure && !link->is_closing) report_failure(link);
  if (link->is_closing || !link->is_drain_due || !link->events) return;
  link->is_drain_due = false;
  if (!link->failure) link->events->on_drain(link->owner);
}

/* ---- receiving */

bool link_input(struct link *link, char *data, size_t length) {
  if (link->is_lingering) return true; /* read and dropped */
  if (link->holds_wire_bytes) {
    buffer_append(&link->held, span_make(data, length));
    return true;
  }
  if (link->tls) return link_tls_input(link, data, length);
  return link_deliver(link, data, length);
}

/* Holds what nobody takes now, and stops reading; who watches for the end reads on while there is room for one more read. */
static void hold(struct link *link, const char *data, size_t length) {
  bool has_room = buffer_length(&link->held) + length <= LIMIT_LINK_HELD_BYTES - LOOP_READ_BUFFER;
  link_wire_receive(link, link->watches_end && has_room);
  if (buffer_length(&link->held) + length > LIMIT_LINK_HELD_BYTES) {
    counter_add(link->loop->counters, COUNTER_LIMIT_LINK_HELD_BYTES, 1);
    link_failed(link, ERROR_LIMIT);
    link_input_ended(link, ERROR_LIMIT);
    return;
  }
  buffer_append(&link->held, span_make(data, length));
}

bool link_deliver(struct link *link, const char *data, size_t length) {
  if (link->is_lingering) return true;
  if (link->is_paused || !link->events || buffer_length(&link->held) > 0) {
    hold(link, data, length);
    return !link->is_closing;
  }
  struct link_tls *tls_before = link->tls;
  link->in_read = true;
  link->was_resumed = false;
  link->bytes_read += length;
  size_t taken = link->events->on_read(link->owner, data, length);
  if (link->is_closing) return false;
  link->in_read = false;
  must(taken <= length);
  link->bytes_read -= length - taken;
  if (taken == length || link->is_lingering) return true;
  hold(link, data + taken, length - taken);
  if (link->is_closing) return false;
  if (link->tls != tls_before) {
    link->holds_wire_bytes = true;
    loop_defer(link->loop, &link->deferred);
  } else if (link->was_resumed) {
    loop_defer(link->loop, &link->deferred);
  } else {
    link->is_paused = true;
  }
  return true;
}

void link_input_ended(struct link *link, int error) {
  if (link->is_ended || link->is_closing) return;
  if (link->tls && !link->is_lingering) {
    link_tls_input_ended(link, error);
    if (link->is_closing || link->is_ended) return;
    if (!error) error = ERROR_CLOSED; /* FIN without close_notify: somebody may have cut it */
  }
  link_set_ended(link, error);
}

void link_set_ended(struct link *link, int error) {
  if (link->is_ended || link->is_closing) return;
  link->is_ended = true;
  link->end_error = error ? error : link->failure; /* a failed write takes the socket's error: the read then sees a plain end */
  if (link->is_lingering) {
    if (link->is_shut || error) link_close(link);
    return;
  }
  report_end(link);
}

void link_pause(struct link *link) {
  link->is_paused = true; /* what arrives once more is held, and then reading stops: no system call for a short pause */
  link->was_resumed = false;
}

void link_watch_end(struct link *link, bool on) {
  link->watches_end = on;
  if (on && link->is_ended && !link->is_end_reported) loop_defer(link->loop, &link->deferred);
}

void link_resume(struct link *link) {
  link->was_resumed = true;
  link->is_paused = false;
  if (link->in_read) {
    /* Held bytes: after on_read returns. But an end that waits is not seen there. */
    if (link->is_ended || link->failure || !link->is_receiving) loop_defer(link->loop, &link->deferred);
    return;
  }
  bool is_event_due = (link->is_ended && !link->is_end_reported) || (link->failure && !link->is_failure_reported);
  if (buffer_length(&link->held) > 0 || is_event_due || link->is_pair) {
    loop_defer(link->loop, &link->deferred);
  } else if (link->is_started) {
    link_wire_receive(link, true);
  }
}

/* ---- sending */

static void end_if_sent(struct link *link) {
  if (!link->is_ending || !link->is_open || link->is_shut || link->failure || link->is_closing) return;
  if (link->tls) link_tls_shut(link);
  if (!link->is_pair && link_wire_pending(link) > 0) return;
  link_wire_shut(link);
  if (link->is_lingering && link->is_ended) link_close(link);
}

void link_sent(struct link *link) {
  if (link->is_closing) return;
  if (link->was_full && link_pending(link) < LIMIT_LINK_PENDING_BYTES / 2) {
    link->was_full = false;
    link->is_drain_due = true;
    loop_defer(link->loop, &link->deferred);
  }
  if (link->is_ending) end_if_sent(link);
}

static void note_fullness(struct link *link) {
  if (link->was_full || link->failure || !link_is_full(link)) return;
  link->was_full = true;
  counter_add(link->loop->counters, COUNTER_LIMIT_LINK_PENDING_BYTES, 1);
}

static void transmit(struct link *link, const struct iovec *parts, int count) {
  if (link->tls) {
    link_tls_write(link, parts, count);
  } else {
    link_wire_write(link, parts, count);
  }
}

void link_flush(struct link *link) {
  struct link_chunk *staged = link->staged;
  if (!staged) return;
  link->staged = NULL;
  struct iovec part = {staged->data, staged->end};
  transmit(link, &part, 1);
  link_chunk_give(link->loop, staged);
  if (link->was_full) link_sent(link);
}

/* Copies what fits of the parts behind what is staged; *index and *offset are left at the first byte that did not fit. */
static void stage(struct link *link, const struct iovec *parts, int count, int *index, size_t *offset) {
  if (!link->staged) link->staged = link_chunk_take(link->loop);
  struct link_chunk *chunk = link->staged;
  for (; *index < count; (*index)++, *offset = 0) {
    size_t length = parts[*index].iov_len - *offset, room = LINK_CHUNK_BYTES - chunk->end;
    size_t size = length < room ? length : room;
    if (size > 0) memcpy(chunk->data + chunk->end, (const char *)parts[*index].iov_base + *offset, size);
    chunk->end += size;
    if (size < length) {
      *offset += size;
      return;
    }
  }
}

/* Big and plain: no copy, staged bytes and parts in one call. */
static void write_plain(struct link *link, const struct iovec *parts, int count) {
  struct iovec all[GATHER_PARTS + 1];
  struct link_chunk *staged = link->staged;
  list_remove(&link->node);
  if (!staged || count > GATHER_PARTS) {
    link_flush(link);
    link_wire_write(link, parts, count);
    return;
  }
  link->staged = NULL;
  all[0] = (struct iovec){staged->data, staged->end};
  memcpy(all + 1, parts, (size_t)count * sizeof *parts);
  link_wire_write(link, all, count + 1);
  link_chunk_give(link->loop, staged);
}

/* Big and TLS: full records first, the rest straight from the parts. */
static void write_records(struct link *link, const struct iovec *parts, int count) {
  int index = 0;
  size_t offset = 0;
  if (link->staged) stage(link, parts, count, &index, &offset);
  list_remove(&link->node);
  link_flush(link);
  if (index == count) return;
  struct iovec first = {(char *)parts[index].iov_base + offset, parts[index].iov_len - offset};
  link_tls_write(link, &first, 1);
  if (index + 1 < count) link_tls_write(link, parts + index + 1, count - index - 1);
}

void link_write(struct link *link, const struct iovec *parts, int count) {
  must(link->magic == LINK_MAGIC && !link->is_closing);
  if (link->failure || link->is_ending) return;
  size_t total = 0;
  for (int i = 0; i < count; i++) total += parts[i].iov_len;
  if (total == 0) return;
  link->bytes_handed += total;
  if (!link->is_open) {
    for (int i = 0; i < count; i++) buffer_append(&link->early, span_make(parts[i].iov_base, parts[i].iov_len));
  } else if (total + (link->staged ? link->staged->end : 0) <= LINK_CHUNK_BYTES) {
    int index = 0;
    size_t offset = 0;
    stage(link, parts, count, &index, &offset);
    if (list_is_empty(&link->node)) list_insert_last(&link->loop->flush, &link->node);
  } else if (link->tls) {
    write_records(link, parts, count);
  } else {
    write_plain(link, parts, count);
  }
  note_fullness(link);
}

size_t link_pending(const struct link *link) { return (link->staged ? link->staged->end : 0) + buffer_length(&link->early) + link_wire_pending(link); }

bool link_is_full(const struct link *link) { return link_pending(link) > LIMIT_LINK_PENDING_BYTES; }

void link_failed(struct link *link, int error) {
  if (link->failure || link->is_closing) return;
  link->failure = error;
  while (link->unsent.first) {
    struct link_chunk *chunk = link->unsent.first;
    link->unsent.first = chunk->next;
    link_chunk_give(link->loop, chunk);
  }
  link->unsent = (struct link_chunks){0};
  loop_defer(link->loop, &link->deferred);
}

void link_end(struct link *link) {
  if (link->is_ending) return;
  link->is_ending = true;
  if (!link->is_lingering) list_remove(&link->node);
  link_flush(link);
  end_if_sent(link);
}

/* ---- opening */

void link_opened(struct link *link, int status) {
  if (status == 0) {
    link->is_open = link->is_started = true;
    link->progress_ms = loop_now_ms(link->loop);
    if (buffer_length(&link->early) > 0) {
      struct iovec part = {link->early.data + link->early.start, buffer_length(&link->early)};
      transmit(link, &part, 1);
      buffer_free(&link->early);
      link->early = (struct buffer){0};
    }
    if (!link->is_paused) link_wire_receive(link, true);
    link_sent(link);
  }
  if (link->events && link->events->on_open) link->events->on_open(link->owner, status);
}

static void on_connected(uv_connect_t *request, int status) {
  struct connecting *connecting = container_of(request, struct connecting, request);
  struct link *link = connecting->link;
  must(link->magic == LINK_MAGIC);
  struct loop *loop = link->loop;
  free(connecting);
  if (link->is_closing) return;
  link->is_connecting = false;
  if (status == 0 && link->tls) {
    link_wire_receive(link, true);
    link_tls_start(link);
  } else {
    link_opened(link, status);
  }
  loop_flush(loop);
}

static void prepare(struct link *link) {
  deferred_init(&link->deferred, on_deferred);
  timer_init(&link->linger, NULL);
}

static void open_later(struct link *link, int status) {
  link->is_open_due = true;
  link->open_status = status;
  loop_defer(link->loop, &link->deferred);
}

struct link *link_connect(struct loop *loop, const struct address *address, struct tls_client *tls, const char *server_name, const struct link_events *events,
                          void *owner) {
  struct link *link = link_new(loop, false);
  prepare(link);
  link->events = events;
  link->owner = owner;
  link->peer = *address;
  link->has_peer = link->is_connecting = true;
  int error = uv_tcp_init(&loop->uv, &link->tcp);
  must(error == 0);              /* makes no socket yet */
  uv_tcp_nodelay(&link->tcp, 1); /* remembered until there is a socket */
  if (tls) error = link_tls_connect(link, tls, server_name);
  if (!error) {
    struct connecting *connecting = malloc(sizeof *connecting);
    if (!connecting) abort();
    connecting->link = link;
    error = uv_tcp_connect(&connecting->request, &link->tcp, &address->any, on_connected);
    if (error) free(connecting);
  }
  if (error) open_later(link, error);
  return link;
}

static struct link *accepted(struct loop *loop) {
  struct link *link = link_new(loop, false);
  prepare(link);
  link->is_accepted = link->is_open = true;
  int error = uv_tcp_init(&loop->uv, &link->tcp);
  must(error == 0);
  return link;
}

struct link *link_accept(struct loop *loop, uv_stream_t *server, int *error) {
  struct link *link = accepted(loop);
  *error = uv_accept(server, (uv_stream_t *)&link->tcp);
  if (*error == 0) return link;
  link_close(link);
  return NULL;
}

struct link *link_adopt(struct loop *loop, int fd, int *error) {
  struct link *link = accepted(loop);
  *error = uv_tcp_open(&link->tcp, fd);
  if (*error == 0) return link;
  uv_fs_t request;
  uv_fs_close(NULL, &request, fd, NULL);
  uv_fs_req_cleanup(&request);
  link_close(link);
  return NULL;
}

void link_pair(struct loop *loop, struct link *ends[2]) {
  for (int i = 0; i < 2; i++) {
    ends[i] = link_new(loop, true);
    prepare(ends[i]);
    ends[i]->is_open = true;
    ends[i]->has_peer = ends[i]->has_local = true;
    address_parse_ip(SPAN("127.0.0.1"), 0, &ends[i]->peer);
    ends[i]->local = ends[i]->peer;
  }
  ends[0]->other = ends[1];
  ends[1]->other = ends[0];
}

void link_set_peer(struct link *link, const struct address *peer) {
  must(link->other != NULL);
  link->peer = *peer;
}

void link_set_owner(struct link *link, const struct link_events *events, void *owner) {
  link->events = events;
  link->owner = owner;
  if (link->is_started || buffer_length(&link->held) > 0 || link->failure) link_resume(link);
}

void link_start(struct link *link) {
  must(link->events);
  link->is_started = true;
  if (!link->is_paused) link_wire_receive(link, true);
}

/* ---- closing */

static void close_with(struct link *link, bool reset) {
  must(link->magic == LINK_MAGIC && !link->is_closing);
  link->is_closing = true;
  link->events = NULL;
  list_remove(&link->node);
  deferred_cancel(&link->deferred);
  loop_timer_stop(link->loop, &link->linger);
  link_wire_close(link, reset);
}

void link_close(struct link *link) { close_with(link, false); }

void link_reset(struct link *link) { close_with(link, true); }

static void on_linger_timeout(struct timer *timer) { link_close(container_of(timer, struct link, linger)); }

void link_close_gracefully(struct link *link, unsigned linger_ms) {
  must(link->magic == LINK_MAGIC && !link->is_closing);
  if (!link->is_open || link->failure) {
    link_close(link);
    return;
  }
  link_end(link);
  if (link->is_pair || link->failure || (link->is_shut && link->is_ended)) {
    link_close(link);
    return;
  }
  link->events = NULL;
  link->is_lingering = true;
  link->is_paused = false;
  buffer_free(&link->held);
  link->held = (struct buffer){0};
  list_remove(&link->node);
  list_insert_last(&link->loop->lingering, &link->node);
  timer_init(&link->linger, on_linger_timeout);
  loop_timer_start(link->loop, &link->linger, linger_ms);
  link_wire_receive(link, true);
}

/* ---- facts */

struct loop *link_loop(const struct link *link) { return link->loop; }

/* The kernel is asked once, when somebody wants to know. */
static void fetch_address(struct address *address, int (*get)(const uv_tcp_t *, struct sockaddr *, int *), const uv_tcp_t *tcp) {
  int size = sizeof *address;
  if (get(tcp, &address->any, &size)) address_parse_ip(SPAN("0.0.0.0"), 0, address); /* gone already */
}

const struct address *link_peer(const struct link *link) {
  struct link *cache = (struct link *)link;
  if (!cache->has_peer) fetch_address(&cache->peer, uv_tcp_getpeername, &link->tcp);
  cache->has_peer = true;
  return &link->peer;
}

const struct address *link_local(const struct link *link) {
  struct link *cache = (struct link *)link;
  if (!cache->has_local) fetch_address(&cache->local, uv_tcp_getsockname, &link->tcp);
  cache->has_local = true;
  return &link->local;
}

uint64_t link_bytes_read(const struct link *link) { return link->bytes_read; }

uint64_t link_bytes_written(const struct link *link) {
  size_t pending = link_pending(link); /* ciphertext on a TLS link: a little more */
  return link->bytes_handed > pending ? link->bytes_handed - pending : 0;
}

uint64_t link_progress_ms(const struct link *link) {
  /* libuv writes parts of a request without a word: its queue size tells. */
  struct link *cache = (struct link *)link;
  if (link->sending.first) {
    size_t left = uv_stream_get_write_queue_size((const uv_stream_t *)&link->tcp);
    if (left < cache->sending_seen) cache->progress_ms = loop_now_ms(link->loop);
    cache->sending_seen = left;
  }
  return link->progress_ms;
}
