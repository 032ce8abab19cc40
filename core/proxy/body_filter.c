/* Body filter: see body_filter.h. Worker's thread. */
#include "proxy/body_filter.h"

#include "proxy/lease.h"
#include "proxy/worker.h"

/* Fields that say what is true of one body only. */
static void drop_claims(struct headers *headers) {
  static const char *const names[] = {"etag", "accept-ranges", "content-digest", "repr-digest", "digest", "content-md5"};
  for (unsigned i = 0; i < sizeof names / sizeof *names; i++) headers_remove(headers, header_id_of(span_of(names[i])), span_of(names[i]));
}

void body_filter_head(struct exchange *exchange) {
  struct response_head *response = exchange->response;
  if (!body_filter_is_wanted(exchange) || response->status == 101) return;
  drop_claims(&response->headers);
  response->body.framing = BODY_CHUNKED; /* a HEAD's too says no length */
  exchange->filters_body = status_has_body(response->status, exchange->stream->request->method);
}

struct headers *body_filter_trailers(struct exchange *exchange) {
  struct headers *trailers = exchange->upstream_stream->trailers;
  if (exchange->filters_body && trailers) drop_claims(trailers);
  return trailers;
}

bool body_filter_run(struct exchange *exchange, struct span *data, bool is_last) {
  const struct hook_runner *hooks = &exchange->worker->options.hooks;
  exchange->phase = HOOK_BODY_FILTER;
  lease_note_hooks(exchange);
  return hooks->filter_body(hooks->self, exchange, data, is_last);
}
