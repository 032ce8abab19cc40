/* Client: one connection from a client: PROXY header, TLS, then its codec. Owned by its worker; freed when its codec or link is gone. */
#ifndef PROXY_CLIENT_H
#define PROXY_CLIENT_H

#include "net/proxy_protocol.h"
#include "proxy/worker.h"

#define CLIENT_MAGIC 0x746e6c63u

struct client {
  uint32_t magic;
  struct worker *worker;
  struct list node;  /* in worker->clients */
  struct link *link; /* until the codec has it */
  struct codec_client *codec;
  bool is_https, has_proxy_header, is_starting;
  bool awaits_hello; /* its first byte tells whether it speaks TLS */
  bool is_plain;     /* it speaks plain HTTP where TLS is due */
  uint16_t listener_port;
  struct address peer; /* of the connection, or the PROXY header's source */
  char peer_ip[ADDRESS_TEXT];
  struct proxy_header proxy;
  bool peer_is_trusted;  /* by the settings of when the connection was made */
  struct buffer partial; /* an incomplete PROXY header */
  struct timer timer;    /* PROXY header, TLS handshake */
  struct deferred start;
  struct exchange *fresh; /* between on_new and on_request */
  uint64_t serial;
  unsigned requests;
};

struct client *client_new(struct worker *worker, struct link *link, bool is_https, uint16_t listener_port);
/* Graceful: after the request that runs, if any. */
void client_shut_down(struct client *client);
void client_close(struct client *client);

#endif
