/* Body filter: see body_filter.h. Worker's thread. */
#include "proxy/body_filter.h"

#include "proxy/lease.h"
#include "proxy/worker.h"

void body_filter_head(struct exchange *exchange) {
  struct response_head *response = exchange->response;
  if (!body_filter_is_wanted(exchange) || response->status == 101) return;
  headers_remove(&response->headers, HEADER_ETAG, SPAN("etag"));
  headers_remove(&response->headers, HEADER_OTHER, SPAN("accept-ranges"));
  response->body.framing = BODY_CHUNKED; /* a HEAD's too says no length */
  exchange->filters_body = status_has_body(response->status, exchange->stream->request->method);
}

bool body_filter_run(struct exchange *exchange, struct span *data, bool is_last) {
  const struct hook_runner *hooks = &exchange->worker->options.hooks;
  exchange->phase = HOOK_BODY_FILTER;
  lease_note_hooks(exchange);
  return hooks->filter_body(hooks->self, exchange, data, is_last);
}
