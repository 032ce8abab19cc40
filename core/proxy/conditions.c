/* Conditions: see conditions.h. The cheapest questions come first. */
#include "proxy/conditions.h"

#include "proxy/worker.h"

static bool is_source(const struct exchange *exchange, struct span name) {
  static const struct span names[] = {
      [ANSWER_UPSTREAM] = SPAN("upstream"), [ANSWER_POLICY] = SPAN("policy"), [ANSWER_PROXY] = SPAN("proxy"), [ANSWER_REPLACEMENT] = SPAN("replacement")};
  return span_equal(names[exchange->source], name);
}

static enum condition_result check_text(struct exchange *exchange, const struct regex *regex, struct span text) {
  struct regex_match match;
  enum limit_reached limit = REACHED_NONE;
  if (regex_match(regex, text, &match, &limit)) return CONDITION_HOLDS;
  counter_limit(exchange->worker->options.counters, limit);
  return limit == REACHED_NONE ? CONDITION_FAILS : CONDITION_UNKNOWN;
}

static const struct header *find(const struct headers *headers, uint16_t id, struct span name) {
  return id ? headers_find(headers, (enum header_id)id) : headers_find_name(headers, name);
}

enum condition_result conditions_check(struct exchange *exchange, const struct condition *condition) {
  if (condition->path.data && !span_equal(exchange->uri.path, condition->path)) return CONDITION_FAILS;
  if (condition->method.data && !span_equal(exchange->request->method, condition->method)) return CONDITION_FAILS;
  if (condition->source.data && !is_source(exchange, condition->source)) return CONDITION_FAILS;
  if (condition->variable.data && exchange_variable(exchange, condition->variable).length == 0) return CONDITION_FAILS;
  if (condition->response_header.data && (!exchange->response || !find(&exchange->response->headers, condition->response_id, condition->response_header)))
    return CONDITION_FAILS;
  if (condition->client_in && !ip_set_contains(condition->client_in->ip_set, &exchange->client_address)) return CONDITION_FAILS;
  if (condition->client_not_in && ip_set_contains(condition->client_not_in->ip_set, &exchange->client_address)) return CONDITION_FAILS;
  if (!condition->request_header.data) return CONDITION_HOLDS;
  const struct header *header = find(&exchange->request->headers, condition->request_id, condition->request_header);
  if (!header) return CONDITION_FAILS;
  return condition->matches ? check_text(exchange, condition->matches->regex, header->value) : CONDITION_HOLDS;
}
