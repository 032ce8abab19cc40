/* Webhook: the admission webhook's HTTPS listener, on the admin thread's loop. It moves bytes: a review's body goes to the sync thread, and its answer back;
 * the loop waits for nothing. Admin thread only, but for what `review` hands over. */
#ifndef APP_WEBHOOK_H
#define APP_WEBHOOK_H

#include "base/address.h"
#include "base/counters.h"
#include "kube/review.h"
#include "net/loop.h"

struct webhook;

struct webhook_options {
  struct loop *loop;
  const char *listen;            /* ADDR:PORT; ":PORT" is all addresses */
  const char *certificate, *key; /* paths */
  /* Hands a review to who judges it, at once; review->done is called from any thread. False: nobody does yet. */
  bool (*review)(void *context, struct review *review);
  void *context;
  struct log *log;
  struct counters *counters; /* of limits and outcomes */
};

/* Binds (so that a port in use is an error at start). NULL with one clear line. */
struct webhook *webhook_new(const struct webhook_options *options, char *error, size_t error_size);
uint16_t webhook_port(const struct webhook *webhook);
/* All reviews that were handed over must be back. Its thread must not run the loop any more. */
void webhook_free(struct webhook *webhook);

#endif
