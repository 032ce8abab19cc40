/* The steps of an exchange, listed once: enum, names, functions and the diagram in core/README.md come from here. DESIGN: a request's way. */
#ifndef PROXY_EXCHANGE_STEPS_H
#define PROXY_EXCHANGE_STEPS_H

/* X(NAME, function) */
#define EXCHANGE_STEPS(X) \
  X(READ_HEAD, step_read_head) \
  X(HOST, step_host) \
  X(SERVER_REWRITE, step_server_rewrite) \
  X(MATCH, step_match) \
  X(REWRITE, step_rewrite) \
  X(ACCESS, step_access) \
  X(BUFFER, step_buffer) \
  X(BALANCER, step_balancer) \
  X(CONNECT, step_connect) \
  X(SEND_HEAD, step_send_head) \
  X(RELAY, step_relay) \
  X(TUNNEL, step_tunnel) \
  X(RETRY, step_retry) \
  X(REPLACE, step_replace) \
  X(REPLY, step_reply) \
  X(LOG, step_log) \
  X(ENDED, step_ended)

enum exchange_step {
#define X(name, function) STEP_##name,
  EXCHANGE_STEPS(X)
#undef X
      STEP_COUNT
};

enum step_result { STEP_MORE = 0 /* run exchange->step now */, STEP_WAIT = 1 /* an event will run it */, STEP_DONE = 2 /* the exchange is gone */ };

#endif
