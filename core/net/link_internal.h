/* The inside of a link, for the files link*.c and loop.c only. Layers, from the owner to the kernel:
 *   link.c       owner's calls, staging, held bytes, deferred events, closing
 *   link_tls.c   records (only where there is TLS)
 *   link_wire.c  socket or memory pair, unsent bytes */
#ifndef NET_LINK_INTERNAL_H
#define NET_LINK_INTERNAL_H

#include "base/buffer.h"
#include "base/check.h"
#include "net/link.h"

#define LINK_MAGIC MAGIC('l', 'i', 'n', 'k')
#define LINK_CHUNK_BYTES 16384 /* one full TLS record; more than this at once is not staged but written */

/* A block of staged plaintext or unsent wire bytes; spare ones wait in the loop. */
struct link_chunk {
  struct link_chunk *next;
  size_t start, end;
  char data[LINK_CHUNK_BYTES];
};

struct link_chunks {
  struct link_chunk *first, *last;
  size_t bytes;
};

struct link_tls;

struct link {
  uint32_t magic;
  bool is_accepted : 1; /* client side */
  bool is_pair : 1;
  bool is_open : 1; /* connected, and the handshake done */
  bool is_connecting : 1;
  bool is_started : 1;   /* reading was asked for */
  bool is_receiving : 1; /* the wire hands over what comes */
  bool is_paused : 1;
  bool was_resumed : 1;      /* link_resume since on_read was called */
  bool in_read : 1;          /* inside on_read */
  bool watches_end : 1;      /* link_watch_end */
  bool holds_wire_bytes : 1; /* `held` has not been through TLS yet */
  bool is_ended : 1;         /* no more input; end_error says why */
  bool is_end_reported : 1;
  bool is_failure_reported : 1;
  bool was_full : 1; /* owes an on_drain */
  bool is_drain_due : 1;
  bool is_open_due : 1;             /* on_open(open_status) is to be called */
  bool is_ending : 1;               /* link_end was called */
  bool is_shut : 1;                 /* FIN is out */
  bool is_lingering : 1;            /* closes gracefully; has no owner */
  bool is_closing : 1;              /* link_close was called */
  bool has_peer : 1, has_local : 1; /* addresses fetched */
  int end_error, failure, open_status;
  struct loop *loop;
  const struct link_events *events;
  void *owner;
  struct deferred deferred;
  struct list node;           /* loop->flush, or loop->lingering */
  struct link_chunk *staged;  /* plaintext of this turn */
  struct buffer early;        /* plaintext written before the link is open */
  struct buffer held;         /* received and not taken */
  struct link_chunks unsent;  /* wire bytes that wait for `sending` */
  struct link_chunks sending; /* wire bytes that libuv has */
  size_t sending_seen;        /* libuv's queue size when last looked at */
  struct link_tls *tls;
  uint64_t bytes_read, bytes_handed, progress_ms;
  struct timer linger;
  struct address peer, local;
  struct link *other;  /* pair: the other end, NULL when closed */
  struct buffer inbox; /* pair: what the other end wrote */
  bool other_ended;    /* pair: the other end wrote its last */
  int other_error;     /* pair: it was reset */
  uv_tcp_t tcp;        /* last: a pair's is not used */
};

/* link.c */
void link_flush(struct link *link);
void link_opened(struct link *link, int status);
/* Plaintext for the owner. False when the link was closed meanwhile. */
bool link_deliver(struct link *link, const char *data, size_t length);
void link_input_ended(struct link *link, int error); /* from the wire */
void link_set_ended(struct link *link, int error);   /* for the owner */
void link_failed(struct link *link, int error);      /* writing is over; reported later */
void link_sent(struct link *link);                   /* fewer bytes are pending than before */
/* Bytes from the wire. False when the link was closed meanwhile. */
bool link_input(struct link *link, char *data, size_t length);

/* link_wire.c */
void link_wire_write(struct link *link, const struct iovec *parts, int count);
size_t link_wire_pending(const struct link *link);
void link_wire_receive(struct link *link, bool on); /* starts or stops handing over input */
void link_wire_drain(struct link *link);            /* reads what the kernel has; the link may close */
void link_wire_shut(struct link *link);             /* FIN */
void link_wire_close(struct link *link, bool reset);
void link_wire_pair_run(struct link *link); /* pair: hands over the inbox */
struct link *link_new(struct loop *loop, bool is_pair);
void link_free(struct link *link);
struct link_chunk *link_chunk_take(struct loop *loop);
void link_chunk_give(struct loop *loop, struct link_chunk *chunk);
void link_wire_free_chunks(struct loop *loop);
/* A connected socket taken by accept4; listener_close uses it. The socket is closed on failure. */
struct link *link_adopt(struct loop *loop, int fd, int *error);
int link_fd(const struct link *link); /* or -1 */

/* link_tls.c */
int link_tls_connect(struct link *link, struct tls_client *client, const char *server_name);
bool link_tls_start(struct link *link); /* first flight of a client; false when closed meanwhile */
bool link_tls_input(struct link *link, const char *data, size_t length);
void link_tls_input_ended(struct link *link, int error);
void link_tls_write(struct link *link, const struct iovec *parts, int count);
void link_tls_shut(struct link *link); /* close_notify */
void link_tls_free(struct link *link);
void link_tls_free_method(struct loop *loop);

#endif
