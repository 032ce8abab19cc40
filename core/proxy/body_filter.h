/* Body filter: answers whose route has body_filter hooks go through them, part by part. Worker's thread only. */
#ifndef PROXY_BODY_FILTER_H
#define PROXY_BODY_FILTER_H

#include "proxy/worker.h"

static inline bool body_filter_is_wanted(const struct exchange *exchange) {
  return exchange->route && exchange->route->hook_count[HOOK_BODY_FILTER] > 0 && exchange->worker->options.hooks.filter_body;
}
/* The head is about to go out: takes from it what would not be true of another body. Sets exchange->filters_body. */
void body_filter_head(struct exchange *exchange);
/* Those of the endpoint's answer that the client gets; may be NULL. */
struct headers *body_filter_trailers(struct exchange *exchange);
/* What is to be sent in the place of `data`, good until the next call. False: a hook failed, and the answer is to be cut off. */
bool body_filter_run(struct exchange *exchange, struct span *data, bool is_last);

#endif
