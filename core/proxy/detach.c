/* Detach: see detach.h. What stays alive afterwards is the exchange's arena alone, so that tunnels and long downloads outlive any number of changes. */
#include "proxy/detach.h"

#include <string.h>

#include "base/check.h"
#include "proxy/lease.h"
#include "proxy/tally.h"
#include "proxy/worker.h"

void detach_drop_leases(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  if (!exchange->has_leases) return;
  exchange->has_leases = false;
  struct host *owner = exchange->owner, *host = exchange->host;
  struct unit *policies = exchange->policies;
  exchange->owner = exchange->host = NULL;
  exchange->route = NULL;
  exchange->upstream_info = NULL;
  exchange->policies = NULL;
  lease_drop(worker, &owner->unit);
  if (host != owner) lease_drop(worker, &host->unit);
  if (policies) lease_drop(worker, policies);
}

static void keep(struct exchange *exchange, struct span *text) { *text = arena_span(&exchange->arena, *text); }

void detach_exchange(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  const struct hook_runner *hooks = &worker->options.hooks;
  if (exchange->is_detached) return;
  exchange->is_detached = true;
  counter_add(worker->options.counters, COUNTER_EXCHANGES_DETACHED, 1);
  if (exchange->route && exchange->route->hook_count[HOOK_LOG] && hooks->run) {
    exchange->phase = HOOK_LOG;
    exchange->hook_index = 0;
    lease_note_hooks(exchange);
    (void)hooks->run(hooks->self, exchange, HOOK_LOG);
  }
  /* Its tables belong to the policy set that is about to be given back. */
  if (exchange->script) hooks->end(hooks->self, exchange);
  exchange->script = NULL;
  if (exchange->settings != &worker->default_settings) {
    struct route_settings *copy = arena_alloc(&exchange->arena, sizeof *copy);
    *copy = *exchange->settings;
    route_settings_drop_texts(copy);
    exchange->settings = copy;
  }
  keep(exchange, &exchange->facts.namespace);
  keep(exchange, &exchange->facts.ingress);
  keep(exchange, &exchange->facts.service);
  keep(exchange, &exchange->facts.port);
  keep(exchange, &exchange->facts.path);
  keep(exchange, &exchange->facts.server_name);
  keep(exchange, &exchange->upstream_name);
  keep(exchange, &exchange->alternative_name);
  keep(exchange, &exchange->main_name);
  keep(exchange, &exchange->reply_reason);
  tally_keep(exchange);
  for (unsigned i = 0; exchange->response && i < exchange->response->headers.count; i++) {
    struct header *header = &exchange->response->headers.items[i];
    if (!header->is_lent) continue;
    keep(exchange, &header->name);
    keep(exchange, &header->value);
    header->is_lent = false;
  }
  detach_drop_leases(exchange);
}
