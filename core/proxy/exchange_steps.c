/* Exchange steps: the table of names and functions, and the steps before an upstream is chosen: reading the head, host, hooks, matching; and the last ones.
 * Nothing here waits but hooks. Worker's thread. */
#include "base/check.h"
#include "base/error.h"
#include "proxy/access_log.h"
#include "proxy/client.h"
#include "proxy/connect.h"
#include "proxy/detach.h"
#include "proxy/lease.h"
#include "proxy/pace.h"
#include "proxy/relay.h"
#include "proxy/replace.h"
#include "proxy/reply.h"
#include "proxy/request_head.h"
#include "proxy/step_table.h"
#include "proxy/tally.h"
#include "proxy/tunnel.h"
#include "route/upstream.h"

static const struct worker *worker_of(const struct exchange *exchange) { return exchange->worker; }
static const struct snapshot *root_of(const struct exchange *exchange) { return exchange->worker->root; }

static enum step_result go(struct exchange *exchange, enum exchange_step step) {
  exchange->step = step;
  return STEP_MORE;
}

static enum step_result step_read_head(struct exchange *exchange) {
  const char *why = NULL;
  if (exchange->client->is_plain) return reply_plain_to_tls(exchange);
  if (!root_of(exchange)) return reply_error(exchange, 503, SPAN("no configuration yet"));
  int status = request_head_parse(exchange, &why);
  if (status) {
    exchange->reply_closes = true;
    return reply_error(exchange, status, span_of(why));
  }
  return go(exchange, STEP_HOST);
}

static void lease(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  lease_take(worker, &exchange->owner->unit);
  if (exchange->host != exchange->owner) lease_take(worker, &exchange->host->unit);
  exchange->policies = worker->root->policies;
  if (exchange->policies) lease_take(worker, exchange->policies);
  exchange->has_leases = true;
}

static enum step_result step_host(struct exchange *exchange) {
  const struct snapshot *root = root_of(exchange);
  exchange->settings = &worker_of(exchange)->default_settings;
  exchange->host = (struct host *)router_find_host(root, exchange->host_name);
  if (!exchange->host) return go(exchange, STEP_MATCH);
  exchange->owner = exchange->host;
  if (exchange->host->owner.length) {
    exchange->owner = (struct host *)router_find_host(root, exchange->host->owner);
    if (!exchange->owner || !span_equal(exchange->owner->name, exchange->host->owner)) {
      exchange->owner = exchange->host;
      exchange->host_is_missing = true;
    }
  }
  lease(exchange);
  exchange->facts.server_name = exchange->owner->name;
  if (exchange->host_is_missing) return reply_error(exchange, 503, SPAN("the host of this alias is not there"));
  if (exchange->owner->denied.length) return reply_error(exchange, 503, exchange->owner->denied);
  return go(exchange, STEP_SERVER_REWRITE);
}

/* Runs the hooks of one phase; `next` follows when none answers. */
static enum step_result run_hooks(struct exchange *exchange, enum hook_phase phase, unsigned count, enum exchange_step next) {
  const struct hook_runner *hooks = &exchange->worker->options.hooks;
  enum exchange_step step = exchange->step;
  if (count == 0) return go(exchange, next);
  if (!hooks->run) return reply_error(exchange, 500, SPAN("hooks cannot run here"));
  if (exchange->phase != phase) {
    exchange->phase = phase;
    exchange->hook_index = 0;
    lease_note_hooks(exchange);
  }
  switch (hooks->run(hooks->self, exchange, phase)) {
    case HOOK_NEXT:
      return go(exchange, next);
    case HOOK_ANSWERED:
      must(exchange->response);
      return go(exchange, STEP_REPLY);
    case HOOK_WAIT:
      exchange->step = step; /* a guard before may have denied, which another one may yet overrule */
      return STEP_WAIT;
    case HOOK_FAILED:
    default:
      return reply_error(exchange, 500, SPAN("a policy failed"));
  }
}

static enum step_result step_server_rewrite(struct exchange *exchange) {
  return run_hooks(exchange, HOOK_SERVER_REWRITE, exchange->owner->hook_count, STEP_MATCH);
}

static bool is_health_check(const struct exchange *exchange) {
  bool is_nobodys = !exchange->host || exchange->host == root_of(exchange)->catch_all;
  return is_nobodys && span_equal(exchange->uri.path, SPAN("/healthz")) && (!exchange->route || exchange->route->is_default_backend);
}

static void note_route(struct exchange *exchange) {
  const struct route *route = exchange->route;
  exchange->settings = &route->settings;
  exchange->facts.namespace = route->source.namespace;
  exchange->facts.ingress = route->source.name;
  exchange->facts.path = route->path;
  if (route->upstream_count == 0) return;
  exchange->upstream_info = &route->upstreams[0];
  exchange->upstream = route->upstreams[0].upstream;
  exchange->upstream_name = route->upstreams[0].name;
  exchange->facts.service = route->upstreams[0].service;
  exchange->facts.port = route->upstreams[0].port;
}

static enum step_result step_match(struct exchange *exchange) {
  if (exchange->host && exchange->host->is_redirect) return reply_default(exchange);
  if (exchange->owner) {
    struct route_match match = router_match(exchange->owner, exchange->uri.path);
    counter_limit(exchange->worker->options.counters, match.limit);
    exchange->route = match.route;
    exchange->captures = match.captures;
    if (exchange->route) note_route(exchange);
    tally_begin(exchange);
    if (match.add_slash) return reply_add_slash(exchange);
  } else {
    tally_begin(exchange);
  }
  exchange->is_default = !exchange->route || exchange->route->is_default_backend;
  if (is_health_check(exchange)) {
    exchange->traffic = NULL;
    return reply_default(exchange);
  }
  if (exchange->is_default && (!exchange->route || exchange->route->upstream_count == 0)) {
    if (snapshot_upstream(root_of(exchange), root_of(exchange)->default_upstream)) {
      exchange->upstream = root_of(exchange)->default_upstream;
      exchange->upstream_name = upstream_shown(root_of(exchange)->settings->default_upstream, &exchange->arena);
    } else if (!exchange->route) {
      return reply_default(exchange);
    }
  }
  if (exchange->route && exchange->route->denied.length) return reply_error(exchange, 503, exchange->route->denied);
  const struct message_body *body = &exchange->request->body;
  if (exchange->settings->body_limit && body->framing == BODY_LENGTH && body->length > exchange->settings->body_limit) return reply_too_large(exchange);
  return go(exchange, exchange->route ? STEP_REWRITE : STEP_BUFFER);
}

static enum step_result step_rewrite(struct exchange *exchange) {
  return run_hooks(exchange, HOOK_REWRITE, exchange->route->hook_count[HOOK_REWRITE], STEP_ACCESS);
}

static enum step_result step_access(struct exchange *exchange) {
  return run_hooks(exchange, HOOK_ACCESS, exchange->route->hook_count[HOOK_ACCESS], STEP_BUFFER);
}

static int final_status(const struct exchange *exchange) {
  if (exchange->response_started && exchange->response) return exchange->response->status;
  return exchange->log_status;
}

static void count_answer(struct exchange *exchange) {
  struct counters *counters = exchange->worker->options.counters;
  static const enum counter by_class[] = {COUNTER_ANSWERS_1XX, COUNTER_ANSWERS_2XX, COUNTER_ANSWERS_3XX, COUNTER_ANSWERS_4XX, COUNTER_ANSWERS_5XX};
  int status = final_status(exchange);
  if (exchange->response_started && status >= 100 && status < 600) counter_add(counters, by_class[status / 100 - 1], 1);
  if (exchange->client_left) counter_add(counters, COUNTER_CLIENT_ABORTS, 1);
  counter_add(counters, COUNTER_BYTES_SENT, exchange->bytes_sent);
  counter_add(counters, COUNTER_BYTES_RECEIVED, exchange->request_bytes);
  counter_add(counters, COUNTER_EXCHANGES_ENDED, 1);
  tally_end(exchange, status);
}

static enum step_result step_log(struct exchange *exchange) {
  must(!exchange->is_logged);
  exchange->is_logged = true;
  loop_timer_stop(&exchange->worker->loop, &exchange->timer);
  pace_stop(exchange);
  if (exchange->is_tunnel) {
    exchange->worker->tunnel_count--;
    counter_add(exchange->worker->options.counters, COUNTER_TUNNELS_CLOSED, 1);
  }
  exchange_drop_upstream(exchange, exchange->client_left ? ERROR_CANCELLED : exchange->failure);
  if (exchange->stream) {
    exchange->bytes_sent = exchange->stream->ops->bytes_sent(exchange->stream);
    exchange->request_bytes = exchange->stream->ops->bytes_received(exchange->stream);
  }
  exchange->ended_us = loop_now_us(&exchange->worker->loop);
  count_answer(exchange);
  const struct hook_runner *hooks = &exchange->worker->options.hooks;
  if (exchange->route && exchange->route->hook_count[HOOK_LOG] && !exchange->is_detached && hooks->run) {
    exchange->phase = HOOK_LOG;
    exchange->hook_index = 0;
    lease_note_hooks(exchange);
    (void)hooks->run(hooks->self, exchange, HOOK_LOG);
  }
  access_log_write(exchange);
  return go(exchange, STEP_ENDED);
}

static enum step_result step_ended(struct exchange *exchange) {
  exchange_release(exchange);
  return STEP_DONE;
}

const struct step_entry step_table[STEP_COUNT] = {
#define X(name, function) [STEP_##name] = {#name, function},
    EXCHANGE_STEPS(X)
#undef X
};
