/* Listener: one accepting socket of one worker (SO_REUSEPORT, so that the kernel spreads connections). Loop's thread only. */
#ifndef NET_LISTENER_H
#define NET_LISTENER_H

#include "base/address.h"
#include "net/link.h"
#include "net/loop.h"

struct listener;

/* Binds and listens. `on_accept` gets each new link (no owner yet, not reading). NULL with *error set: libuv code. */
struct listener *listener_new(struct loop *loop, const struct address *address, bool reuse_port, int backlog,
                              void (*on_accept)(void *context, struct link *link), void *context, int *error);
/* Stops and starts accepting (at the connection limit); the kernel queues meanwhile. */
void listener_pause(struct listener *listener);
void listener_resume(struct listener *listener);
/* Accepts until nothing is queued, then closes. */
void listener_close(struct listener *listener);
uint16_t listener_port(const struct listener *listener);

/* Tries to bind once without SO_REUSEPORT and closes again: so that a second process on the same port is an error at start. 0 or a libuv code. */
int listener_probe(const struct address *address);

#endif
