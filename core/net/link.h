/* Link: one connection, client or upstream side, plain or TLS, or in memory for specs.
 *
 * Ownership: link_close() ends it at once for its owner: no callback comes after it (also when called inside one), the
 * owner forgets the pointer, and the link frees itself when libuv has let go. A link is never freed behind its owner's back.
 *
 * Reading: bytes are handed to on_read from a buffer that the loop shares; what on_read does not take (returns less than it got)
 * is held by the link, at most LIMIT_LINK_HELD_BYTES, and reading stops until link_resume(), which hands it over again from a deferred
 * call, never from inside link_resume. Reading starts by itself; it is not stopped and started per message.
 *
 * Writing: link_write() takes everything. Small writes are staged and go out together at the end of the current callback
 * (one system call for head and body, one TLS record); big ones go out at once with what is staged before them. What the kernel does
 * not take is kept; when more than LIMIT_LINK_PENDING_BYTES are kept, link_is_full() is true and the source must pause; on_drain
 * comes once when less than half of that is left. A write error is reported by on_end from a deferred call.
 *
 * Nothing above net/ sees whether TLS is there, or may assume that ciphertext passes through user memory. Loop's thread only. */
#ifndef NET_LINK_H
#define NET_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/address.h"
#include "base/span.h"
#include "net/loop.h"

struct link;
struct tls_server; /* net/tls.h */
struct tls_client;

struct link_events {
  /* Connected, and TLS established where asked (client side: also after an accepted TLS handshake). status 0 or a negative code. */
  void (*on_open)(void *owner, int status);
  /* Bytes arrived; returns how many were taken. */
  size_t (*on_read)(void *owner, const char *data, size_t length);
  /* No more will be read: 0 for an orderly end (FIN, close_notify), else the error. Writing may still work after 0; if it then fails,
   * on_end comes a second time, with the error. TLS cut without close_notify is ERROR_CLOSED. What came before the end is read first,
   * except on an accepted link that broke off, and under link_watch_end: then its owner is told at once, paused or not. */
  void (*on_end)(void *owner, int error);
  /* link_is_full() was true, and now there is room. */
  void (*on_drain)(void *owner);
};

/* An accepted socket (a uv_stream_t that uv_accept can take from, in a listener's callback). NULL with *error set when it cannot be. */
struct link *link_accept(struct loop *loop, uv_stream_t *server, int *error);
/* Starts connecting; on_open follows, never from inside. `tls` may be NULL. */
struct link *link_connect(struct loop *loop, const struct address *address, struct tls_client *tls, const char *server_name, const struct link_events *events,
                          void *owner);
/* Two memory links, joined: what one writes the other reads, from deferred calls. For specs. */
void link_pair(struct loop *loop, struct link *ends[2]);

/* (Re)sets who is called. Bytes held are handed to the new owner from a deferred call; it starts unpaused. */
void link_set_owner(struct link *link, const struct link_events *events, void *owner);
/* Starts reading on an accepted or memory link that has an owner. */
void link_start(struct link *link);
/* Starts the server side of TLS; on_open follows. Bytes held (after a PROXY header) are part of it. `tls` is kept until the handshake ends. */
void link_start_tls(struct link *link, struct tls_server *tls);

void link_write(struct link *link, const struct iovec *parts, int count);
static inline void link_write_span(struct link *link, struct span bytes) {
  struct iovec part = {(void *)bytes.data, bytes.length};
  link_write(link, &part, 1);
}
bool link_is_full(const struct link *link);
size_t link_pending(const struct link *link); /* staged and unsent bytes */
/* Pausing: on_read is not called while paused (the kernel's window then closes). Resuming hands over held bytes first. */
void link_pause(struct link *link);
void link_resume(struct link *link);
/* While it is on, an orderly end is told at once, though bytes are held that came before it; and for that, reading goes on while held bytes leave room. */
void link_watch_end(struct link *link, bool on);
/* Ends our direction after what is pending (FIN, close_notify). Reading goes on. */
void link_end(struct link *link);
/* Closes after what is pending was sent, at most `linger_ms` later; received bytes are read and dropped meanwhile so that the
 * peer sees our last answer and no RST. Owner forgets the link now. */
void link_close_gracefully(struct link *link, unsigned linger_ms);
/* Closes now; pending bytes are lost. Owner forgets the link. */
void link_close(struct link *link);
/* As link_close, with RST where the protocol has one. */
void link_reset(struct link *link);

struct loop *link_loop(const struct link *link);
const struct address *link_peer(const struct link *link);
/* For an end of link_pair: who its other end is taken for. */
void link_set_peer(struct link *link, const struct address *peer);
const struct address *link_local(const struct link *link);
uint64_t link_bytes_read(const struct link *link);    /* plaintext */
uint64_t link_bytes_written(const struct link *link); /* plaintext handed to link_write and taken by the kernel, or lost while it waited for that */
/* When the kernel last took bytes from us or gave us some, loop milliseconds: for stall timeouts. */
uint64_t link_progress_ms(const struct link *link);

/* Facts of a finished handshake; NULL on a plain link. */
struct link_tls_info {
  const char *version;     /* "TLSv1.3" */
  const char *cipher;      /* "TLS_AES_128_GCM_SHA256" */
  struct span server_name; /* SNI, lower case, without a trailing dot; empty if none */
  struct span alpn;        /* "http/1.1", or empty */
  bool resumed;
};
const struct link_tls_info *link_tls(const struct link *link);

#endif
