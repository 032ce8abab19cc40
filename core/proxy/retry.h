/* Retry: whether a failed try is repeated, and what the client is told if not. Pure. */
#ifndef PROXY_RETRY_H
#define PROXY_RETRY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"
#include "route/route_settings.h"

struct retry_facts {
  int error;             /* of the try: ERROR_* or a libuv code; 0 when `status` is the reason */
  int status;            /* of the endpoint's answer, not yet passed on; 0 if none */
  bool was_written;      /* a byte of the request may have reached the endpoint */
  bool has_answer_begun; /* a byte of the answer went to the client */
  bool has_body, body_is_held;
  struct span method;
  bool is_stale;       /* a pooled connection ended before any byte of an answer: repeated on a fresh one, outside the count */
  unsigned tries;      /* made so far, this one included */
  unsigned endpoints;  /* of the upstream: without a limit each gets one try */
  uint64_t elapsed_ms; /* since the request came */
};

bool retry_is_allowed(const struct retry_facts *facts, const struct route_settings *settings);
/* 502 or 504. */
int retry_final_status(int error);
/* Which word of proxy-next-upstream a failure falls under; 0: none. */
uint32_t retry_reason(int error, int status);

#endif
