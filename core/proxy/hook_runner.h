/* Hook runner: what proxy asks of script. Declared here, implemented by core/script, joined by app. One instance per worker; worker's thread only. */
#ifndef PROXY_HOOK_RUNNER_H
#define PROXY_HOOK_RUNNER_H

#include "proxy/exchange.h"

enum hook_result {
  HOOK_NEXT = 0,     /* all hooks of the phase ran; go on */
  HOOK_ANSWERED = 1, /* exchange->response is set (exchange_respond and friends) */
  HOOK_WAIT = 2,     /* a hook waits (server_rewrite, rewrite, access): exchange_hook_resume follows, never from inside; then `run` goes on with it */
  HOOK_FAILED = 3    /* an uncaught error with on_error "deny": answer 500 (already logged and counted) */
};

struct hook_runner {
  void *self;
  /* Runs exchange->route's (or owner host's, for HOOK_SERVER_REWRITE) hooks of that phase. Only called when the list is not empty. The policy set is
   * exchange->policies. Hooks with on_error "skip" that fail are logged and passed over. */
  enum hook_result (*run)(void *self, struct exchange *exchange, enum hook_phase phase);
  /* Runs the route's body_filter hooks over a part of the answer's body and makes *data what they made of it, good until the next call. False: one failed
   * (logged and counted). NULL: there are none. */
  bool (*filter_body)(void *self, struct exchange *exchange, struct span *data, bool is_last);
  /* What the exchange waits for is of no use any more: stops it. Called when exchange->wait is not NULL. */
  void (*cancel)(void *self, struct exchange *exchange);
  /* The worker's loop ends: everything of the runner's that is on it goes. */
  void (*stop)(void *self);
  /* The exchange is over: late uses of its userdata raise. Called when exchange->script is not NULL. */
  void (*end)(void *self, struct exchange *exchange);
  /* The last lease of a superseded unit is gone on this worker: drop what was decoded for it. */
  void (*forget)(void *self, struct unit *unit);
};

#endif
