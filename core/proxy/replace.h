/* Replace: another upstream's answer takes the place of one that a header_filter hook did not want (error pages). Worker's thread only. */
#ifndef PROXY_REPLACE_H
#define PROXY_REPLACE_H

#include "proxy/exchange.h"

struct replacement {
  uint32_t magic;
  struct exchange *exchange;
  struct deferred later;
  struct upstream_ref upstream;
  struct span upstream_name; /* its key; empty: there is none */
  struct request_head head;  /* what it is asked; without a body */
  int status;                /* of the answer that it replaces, and the client's if it cannot be had */
  unsigned tries_before;
  uint64_t dropped; /* bytes of the old body */
  bool has_begun, is_due;
};

/* `method` may be empty: GET. A client's HEAD stays one. `upstream_name` empty: the default backend. Headers go on top of the client's. */
void replace_ask(struct exchange *exchange, struct upstream_ref upstream, struct span upstream_name, struct span method, struct span path,
                 const struct headers *headers);
enum step_result step_replace(struct exchange *exchange);
/* A part of the old body came. */
void replace_drop(struct exchange *exchange, struct span data);
/* It cannot be had: the old status with a page of our own. */
enum step_result replace_failed(struct exchange *exchange, struct span reason);
/* What the upstream of the current try is asked. */
static inline const struct request_head *replace_request(const struct exchange *exchange) {
  return exchange->replacement ? &exchange->replacement->head : exchange->request;
}
/* The exchange ends. */
void replace_end(struct exchange *exchange);

#endif
