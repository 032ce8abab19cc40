/* Runner: runs an exchange's hooks in its worker's states. Configs are decoded at first use and kept by unit; an entry is good for exactly one unit (id and
 * birth) and one state (serial). Hooks that may wait run on coroutines; one that waits leaves its coroutine and its operation with the exchange, whose leases
 * keep the state and the config alive, and is continued by the next run of the same phase. Worker's thread. */
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "proxy/conditions.h"
#include "proxy/replace.h"
#include "proxy/reply.h"
#include "proxy/worker.h"
#include "script/exchange_members.h"
#include "script/guards.h"
#include "script/http_client.h"
#include "script/lua_pack.h"
#include "script/mirror.h"
#include "script/operation.h"
#include "script/policy_set.h"

#define SCRIPT_WORKER_MAGIC 0x6b777273u
#define HOOK_WAIT_MAGIC 0x74696177u
#define WAITING_PHASES (1u << HOOK_SERVER_REWRITE | 1u << HOOK_REWRITE | 1u << HOOK_ACCESS)

/* A decoded config (or the facts of a route) in one state's registry. */
struct decoded {
  struct script_state *state; /* may be gone: compare serial with what the current root has before use */
  uint64_t serial, set_serial;
  int reference;
};

/* Of one unit: its configs, then its routes' facts. */
struct unit_cache {
  const struct unit *unit;
  uint64_t born_at;
  unsigned count;
  struct decoded decoded[];
};

/* A hook that waits: exchange->wait, from its first yield to its end. */
struct hook_wait {
  uint32_t magic;
  struct script_state *state;
  struct state_thread thread;
  struct operation *operation;
  int64_t budget; /* left for all that it still does */
};

struct script_worker {
  uint32_t magic;
  struct worker *worker;
  struct log *log;
  struct unit_cache **caches; /* by unit id */
  uint32_t capacity;
  unsigned waiting, guests_waiting; /* hooks; guests leave half of the room to others */
  struct http_client_options http_options;
  struct http_client *http; /* made for the first request of a policy */
  const struct operation_stage *stage;
  struct mirrors mirrors;
  struct buffer filtered; /* what the last body_filter made */
};

struct script_worker *script_worker_new(struct worker *worker, struct log *log) {
  struct script_worker *script = calloc(1, sizeof *script);
  must(script != NULL);
  script->magic = SCRIPT_WORKER_MAGIC;
  script->worker = worker;
  script->log = log;
  mirror_init(&script->mirrors);
  return script;
}

void script_worker_set_http(struct script_worker *script, const struct http_client_options *options) { script->http_options = *options; }

void script_worker_set_stage(struct script_worker *script, const struct operation_stage *stage) { script->stage = stage; }

static struct script_worker *script_of(const struct exchange *exchange) {
  struct script_worker *script = exchange->worker->options.hooks.self;
  must(script->magic == SCRIPT_WORKER_MAGIC);
  return script;
}

struct mirrors *mirror_of(struct exchange *exchange) { return &script_of(exchange)->mirrors; }

const struct operation_stage *operation_stage(const struct exchange *exchange) { return script_of(exchange)->stage; }

static struct span closed_to_guests(void *worker) {
  const struct snapshot *root = ((struct worker *)worker)->root;
  return root ? root->settings->api_server : SPAN("");
}

struct http_client *operation_http_client(struct exchange *exchange) {
  struct script_worker *script = script_of(exchange);
  script->http_options.closed = closed_to_guests;
  script->http_options.closed_context = script->worker;
  script->http_options.body_budget = script->worker->options.body_budget;
  if (script->http == NULL) script->http = http_client_new(&script->worker->loop, script->worker->options.counters, &script->http_options);
  return script->http;
}

/* References live in states that may be gone; only those of the current root's states are worth giving back, the others go with their state. */
static void cache_free(struct script_worker *script, struct unit_cache *cache) {
  const struct snapshot *root = script->worker->root;
  const struct policy_set *set = root && root->policies ? policy_set_of(root->policies) : NULL;
  for (unsigned i = 0; set && i < cache->count; i++) {
    struct decoded *decoded = &cache->decoded[i];
    if (decoded->state && policy_set_has_state(set, script->worker->number, decoded->state, decoded->serial))
      luaL_unref(decoded->state->L, LUA_REGISTRYINDEX, decoded->reference);
  }
  free(cache);
}

void script_worker_free(struct script_worker *script) {
  if (script == NULL) return;
  must(script->waiting == 0);
  for (uint32_t i = 0; i < script->capacity; i++) free(script->caches[i]);
  free(script->caches);
  buffer_free(&script->filtered);
  script->magic = 0;
  free(script);
}

static struct unit_cache *cache_of(struct script_worker *script, const struct host *host) {
  uint32_t id = host->unit.id;
  if (id >= script->capacity) {
    uint32_t capacity = script->capacity ? script->capacity : 256;
    while (capacity <= id) capacity *= 2;
    script->caches = realloc(script->caches, capacity * sizeof *script->caches);
    must(script->caches != NULL);
    memset(script->caches + script->capacity, 0, (capacity - script->capacity) * sizeof *script->caches);
    script->capacity = capacity;
  }
  struct unit_cache *cache = script->caches[id];
  if (cache && cache->unit == &host->unit && cache->born_at == host->unit.born_at) return cache;
  if (cache) cache_free(script, cache);
  unsigned count = host->config_count + host->route_count;
  cache = calloc(1, sizeof *cache + count * sizeof *cache->decoded);
  must(cache != NULL);
  cache->unit = &host->unit;
  cache->born_at = host->unit.born_at;
  cache->count = count;
  script->caches[id] = cache;
  return cache;
}

/* Pushes entry `index` on the state's own stack, decoding `packed` where the cache has none for this state. A state older than the cached one gets its own copy
 * each time: it is on its way out. */
static bool push_decoded(struct script_worker *script, const struct host *host, unsigned index, struct span packed, const struct hook_config *config,
                         struct script_state *state, uint64_t set_serial, char *error, size_t error_size) {
  struct unit_cache *cache = cache_of(script, host);
  struct decoded *decoded = &cache->decoded[index];
  lua_State *L = state->L;
  if (decoded->state == state && decoded->serial == state->serial) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, decoded->reference);
    return true;
  }
  if (!lua_pack_decode(L, packed, config, error, error_size)) return false;
  if (decoded->state && decoded->set_serial > set_serial) return true;
  lua_pushvalue(L, -1);
  decoded->reference = luaL_ref(L, LUA_REGISTRYINDEX);
  decoded->state = state;
  decoded->serial = state->serial;
  decoded->set_serial = set_serial;
  return true;
}

void member_push_route_facts(lua_State *L, struct exchange *exchange, struct script_state *state) {
  const struct route *route = exchange->route;
  if (route == NULL || route->facts.length == 0) {
    lua_pushnil(L);
    return;
  }
  struct script_worker *script = script_of(exchange);
  char error[256];
  const struct host *host = route->host;
  /* Facts may grow past a guest's ceiling like configs do: they are the runtime's data. */
  bool was_bounded = state->is_bounded;
  state->is_bounded = false;
  bool is_done =
      push_decoded(script, host, host->config_count + route->index, route->facts, NULL, state, policy_set_of(exchange->policies)->serial, error, sizeof error);
  state->is_bounded = was_bounded;
  if (!is_done) luaL_error(L, "exchange.route: %s", error);
  if (L != state->L) lua_xmove(state->L, L, 1);
}

static void log_failure(struct script_worker *script, const struct exchange *exchange, const char *policy, enum hook_phase phase, const char *what,
                        bool is_skipped) {
  const struct route *route = phase == HOOK_SERVER_REWRITE ? NULL : exchange->route;
  const struct host *host = exchange->owner ? exchange->owner : exchange->host;
  struct span none = SPAN("-");
  struct span path = route ? route->path : none, kind = route ? route->source.kind : none, namespace = route ? route->source.namespace : none;
  struct span name = route ? route->source.name : none, host_name = host ? host->name : none;
  char plain[1024], quoted_path[512], quoted_id[256];
  state_plain_text(what, plain, sizeof plain);
  counter_add(script->worker->options.counters, COUNTER_HOOK_ERRORS, 1);
  log_write(script->log, LOG_ERROR, "policy failed", "policy=%s phase=%s host=%.*s path=%s source=%.*s/%.*s/%.*s request_id=%s outcome=%s detail=\"%s\"",
            policy, state_phase_name(phase), (int)host_name.length, host_name.data, log_quote(path, quoted_path, sizeof quoted_path), (int)kind.length,
            kind.data, (int)namespace.length, namespace.data, (int)name.length, name.data, log_quote(exchange->request_id, quoted_id, sizeof quoted_id),
            is_skipped || phase == HOOK_LOG ? "skipped"
            : phase == HOOK_BODY_FILTER     ? "reset"
                                            : "denied",
            plain);
}

/* Makes the answer that the hook returned. */
static enum hook_result answer(struct exchange *exchange, struct exchange_part *part) {
  enum answer_kind kind = part->answer;
  part->answer = ANSWER_NONE;
  switch (kind) {
    case ANSWER_RESPOND:
      exchange_respond(exchange, part->status, part->has_headers ? &part->headers : NULL, part->text);
      return HOOK_ANSWERED;
    case ANSWER_DENY:
      exchange_deny(exchange, part->status, part->text);
      return HOOK_ANSWERED;
    case ANSWER_REDIRECT:
      exchange_redirect(exchange, part->status, part->text);
      return HOOK_ANSWERED;
    case ANSWER_REPLACE:
      replace_ask(exchange, part->upstream, part->upstream_name, part->method, part->text, part->has_headers ? &part->headers : NULL);
      return HOOK_ANSWERED;
    case ANSWER_ALLOW: /* no opinion where no guards are asked */
      exchange->guards |= GUARD_ALLOWS;
      return HOOK_NEXT;
    default:
      return HOOK_NEXT;
  }
}

static void begin_running(struct script_worker *script, struct script_state *state, struct exchange *exchange, const struct policy_entry *entry,
                          lua_State *thread) {
  state->log = script->log;
  state->running_policy = entry->name;
  state->counters = script->worker->options.counters;
  state->skipped_ms = script->worker->loop.skipped_ms;
  state->running_index = entry->index;
  state->running_exchange = exchange;
  state->running_phase = exchange->phase;
  state->running_thread = thread;
  state->run++;
  atomic_store_explicit(&script->worker->running_policy, entry->name, memory_order_relaxed);
}

static void end_running(struct script_worker *script, struct script_state *state) {
  atomic_store_explicit(&script->worker->running_policy, NULL, memory_order_relaxed);
  state->running_policy = NULL;
  state->running_exchange = NULL;
  state->counters = NULL;
  state->running_thread = NULL;
}

/* What the hook that ended with the value on top of L decided. */
static enum hook_result outcome(lua_State *L, struct exchange *exchange, struct exchange_part *part, char *error, size_t error_size) {
  if (exchange_objects_is_answer(L, -1)) return answer(exchange, part);
  if (lua_isnil(L, -1)) {
    /* Without this a forgotten `return` would let everybody in. */
    const char *made = part->answer == ANSWER_DENY ? "deny" : part->answer == ANSWER_RESPOND ? "respond" : part->answer == ANSWER_REDIRECT ? "redirect" : NULL;
    if (made == NULL) return HOOK_NEXT;
    snprintf(error, error_size, "the %s hook made an answer and did not return it: return exchange:%s(...)", state_phase_name(exchange->phase), made);
    return HOOK_FAILED;
  }
  const char *answers = exchange->phase == HOOK_LOG             ? ""
                        : exchange->phase == HOOK_HEADER_FILTER ? ", or what exchange:replace_response gave"
                                                                : ", or what exchange:respond, deny or redirect gave";
  snprintf(error, error_size, "the %s hook returned a %s; return nothing%s", state_phase_name(exchange->phase), luaL_typename(L, -1), answers);
  return HOOK_FAILED;
}

/* ---- waiting ---- */

static void free_wait(struct script_worker *script, struct exchange *exchange) {
  struct hook_wait *wait = exchange->wait;
  must(wait->magic == HOOK_WAIT_MAGIC && script->waiting > 0);
  exchange->wait = NULL;
  script->waiting--;
  script->guests_waiting -= wait->state->is_guest;
  wait->magic = 0;
  free(wait);
}

static void free_operation(struct script_worker *script, struct hook_wait *wait) {
  operation_free(wait->operation);
  wait->operation = NULL;
  counter_add(script->worker->options.counters, COUNTER_HOOK_WAITS_ENDED, 1);
}

/* Gives up a hook that waits: its coroutine is never continued. */
static void abandon(struct script_worker *script, struct exchange *exchange) {
  struct hook_wait *wait = exchange->wait;
  free_operation(script, wait);
  state_give_thread(wait->state, wait->thread, false);
  free_wait(script, exchange);
}

/* "file:line: text" of the place where the coroutine stands. */
static void place(lua_State *thread, const char *text, char *error, size_t error_size) {
  lua_Debug at;
  bool is_known = lua_getstack(thread, 1, &at) && lua_getinfo(thread, "Sl", &at) && at.currentline > 0;
  if (is_known) snprintf(error, error_size, "%s:%d: %s", at.short_src, at.currentline, text);
  else snprintf(error, error_size, "%s", text);
}

/* The hook yielded. False: it may not wait; why, or the exchange has its answer. */
static bool may_wait(struct script_worker *script, struct exchange *exchange, struct script_state *state, lua_State *thread, int64_t budget,
                     enum hook_result *result, char *error, size_t error_size) {
  *result = HOOK_FAILED;
  if (!operation_is_wanted(state, thread)) {
    place(thread, "the hook yields; only moongate's own functions wait", error, error_size);
  } else if (state->is_guest && budget <= 0) {
    place(thread, "instruction budget spent, over all that the hook did between its waits", error, error_size);
  } else if (exchange->wait == NULL && (script->waiting >= LIMIT_WAITING || (state->is_guest && script->guests_waiting >= LIMIT_WAITING / 2))) {
    counter_add(script->worker->options.counters, COUNTER_LIMIT_WAITING, 1);
    (void)reply_error(exchange, 503, SPAN("too many exchanges wait in policies"));
    *result = HOOK_ANSWERED;
  } else {
    return true;
  }
  return false;
}

/* Keeps what the hook goes on with. True: it waits now; false: the operation is done already. */
static bool begin_waiting(struct script_worker *script, struct exchange *exchange, struct script_state *state, struct state_thread thread, int64_t budget) {
  struct hook_wait *wait = exchange->wait;
  if (wait == NULL) {
    wait = calloc(1, sizeof *wait);
    must(wait != NULL);
    wait->magic = HOOK_WAIT_MAGIC;
    wait->state = state;
    wait->thread = thread;
    exchange->wait = wait;
    script->waiting++;
    script->guests_waiting += state->is_guest;
  }
  wait->budget = budget;
  wait->operation = operation_take(state);
  counter_add(script->worker->options.counters, COUNTER_HOOK_WAITS, 1);
  return operation_begin(wait->operation, exchange);
}

/* Runs a coroutine until it waits or ends. HOOK_FAILED with a message: not logged yet. */
static enum hook_result drive(struct script_worker *script, struct exchange *exchange, struct exchange_part *part, const struct policy_entry *entry,
                              struct state_thread thread, int arguments, int64_t budget, char *error, size_t error_size) {
  struct script_state *state = part->state;
  lua_State *T = thread.L;
  int status;
  for (;;) {
    int64_t share = budget < STATE_BUDGET_HOOK ? budget : STATE_BUDGET_HOOK;
    begin_running(script, state, exchange, entry, T);
    status = state_resume(state, T, arguments, share);
    end_running(script, state);
    if (status != LUA_YIELD) break;
    enum hook_result result;
    budget -= share - state->budget + STATE_BUDGET_STEP;
    if (!may_wait(script, exchange, state, T, budget, &result, error, error_size)) {
      operation_drop_wanted(state);
      state_give_thread(state, thread, false);
      if (exchange->wait) free_wait(script, exchange);
      return result;
    }
    if (begin_waiting(script, exchange, state, thread, budget)) return HOOK_WAIT;
    arguments = operation_push(exchange->wait->operation, T);
    free_operation(script, exchange->wait);
  }
  operation_drop_wanted(state);
  if (exchange->wait) free_wait(script, exchange);
  enum hook_result result = HOOK_FAILED;
  if (status == 0) {
    lua_settop(T, 1);
    result = outcome(T, exchange, part, error, error_size);
  } else {
    snprintf(error, error_size, "%s", lua_tostring(T, -1));
  }
  part->answer = ANSWER_NONE;
  state_give_thread(state, thread, status == 0);
  return result;
}

/* What the hook of exchange->wait waited for is there, or its time is up. */
static enum hook_result continue_hook(struct script_worker *script, struct exchange *exchange, const struct policy_entry *entry, char *error,
                                      size_t error_size) {
  struct hook_wait *wait = exchange->wait;
  if (wait->operation->is_expired) {
    abandon(script, exchange);
    counter_add(script->worker->options.counters, COUNTER_LIMIT_HOOK_MS, 1);
    (void)reply_error(exchange, 504, arena_printf(&exchange->arena, "the policy %s waited longer than hook_timeout", entry->name));
    return HOOK_ANSWERED;
  }
  if (!operation_is_of(wait->operation, wait->thread.L)) {
    abandon(script, exchange);
    snprintf(error, error_size, "the hook's coroutine was resumed while it waited");
    return HOOK_FAILED;
  }
  int arguments = operation_push(wait->operation, wait->thread.L);
  free_operation(script, wait);
  return drive(script, exchange, exchange_objects_part(wait->state, exchange), entry, wait->thread, arguments, wait->budget, error, error_size);
}

static void cancel(void *self, struct exchange *exchange) {
  struct script_worker *script = self;
  must(script->magic == SCRIPT_WORKER_MAGIC);
  if (exchange->wait) abandon(script, exchange);
}

/* ---- running ---- */

/* One hook. HOOK_FAILED with a message: not logged yet. */
static enum hook_result run_hook(struct script_worker *script, struct exchange *exchange, const struct host *host, const struct hook *hook,
                                 enum hook_phase phase, const struct policy_entry *entry, uint64_t set_serial, char *error, size_t error_size) {
  must(script->worker->number < entry->group->worker_count);
  struct script_state *state = entry->group->states[script->worker->number];
  const struct state_policy *policy = &state->policies[entry->index];
  if (policy->hooks[phase] == LUA_NOREF) return HOOK_NEXT;
  lua_State *L = state->L;
  struct exchange_part *part = exchange_objects_part(state, exchange);
  if (part == NULL) {
    snprintf(error, error_size, "too many exchanges at once");
    return HOOK_FAILED;
  }
  part->answer = ANSWER_NONE;
  int top = lua_gettop(L);
  bool on_thread = WAITING_PHASES & 1u << phase;
  lua_rawgeti(L, LUA_REGISTRYINDEX, policy->hooks[phase]);
  exchange_objects_push(L, part, OBJECT_EXCHANGE);
  const struct hook_config *config = &host->configs[hook->config];
  if (!push_decoded(script, host, hook->config, config->packed, config, state, set_serial, error, error_size)) {
    lua_settop(L, top);
    return HOOK_FAILED;
  }
  if (on_thread) {
    struct state_thread thread = state_take_thread(state);
    lua_xmove(L, thread.L, 3);
    return drive(script, exchange, part, entry, thread, 2, STATE_BUDGET_WAITING, error, error_size);
  }
  begin_running(script, state, exchange, entry, NULL);
  int status = state_call_hook(state, 2, 1, STATE_BUDGET_HOOK);
  end_running(script, state);
  enum hook_result result = HOOK_FAILED;
  if (status != 0) snprintf(error, error_size, "%s", lua_tostring(L, -1));
  else result = outcome(L, exchange, part, error, error_size);
  part->answer = ANSWER_NONE;
  lua_settop(L, top);
  return result;
}

/* One body_filter: `data` becomes what it returns. */
static bool run_body_filter(struct script_worker *script, struct exchange *exchange, const struct hook *hook, const struct policy_entry *entry,
                            uint64_t set_serial, struct span *data, bool is_last, char *error, size_t error_size) {
  struct script_state *state = entry->group->states[script->worker->number];
  const struct host *host = exchange->route->host;
  const struct state_policy *policy = &state->policies[entry->index];
  const struct hook_config *config = &host->configs[hook->config];
  lua_State *L = state->L;
  int top = lua_gettop(L);
  bool is_good = false;
  if (policy->hooks[HOOK_BODY_FILTER] == LUA_NOREF) return true;
  struct exchange_part *part = exchange_objects_part(state, exchange);
  if (part == NULL) {
    snprintf(error, error_size, "too many exchanges at once");
    return false;
  }
  lua_rawgeti(L, LUA_REGISTRYINDEX, policy->hooks[HOOK_BODY_FILTER]);
  exchange_objects_push(L, part, OBJECT_EXCHANGE);
  if (push_decoded(script, host, hook->config, config->packed, config, state, set_serial, error, error_size)) {
    lua_pushlstring(L, data->length ? data->data : "", data->length);
    lua_pushboolean(L, is_last);
    begin_running(script, state, exchange, entry, NULL);
    int status = state_call_hook(state, 4, 1, STATE_BUDGET_HOOK);
    end_running(script, state);
    size_t length = lua_type(L, -1) == LUA_TSTRING ? lua_objlen(L, -1) : 0;
    if (status != 0) {
      snprintf(error, error_size, "%s", lua_tostring(L, -1));
    } else if (lua_isnil(L, -1)) {
      is_good = true;
    } else if (lua_type(L, -1) != LUA_TSTRING) {
      snprintf(error, error_size, "the body_filter hook returned a %s; return nothing, or a string", luaL_typename(L, -1));
    } else if (length > LIMIT_FILTERED_BYTES) {
      counter_add(script->worker->options.counters, COUNTER_LIMIT_FILTERED_BYTES, 1);
      snprintf(error, error_size, "the body_filter hook returned more than %d bytes", (int)LIMIT_FILTERED_BYTES);
    } else {
      is_good = true;
      buffer_consume(&script->filtered, buffer_length(&script->filtered));
      buffer_append(&script->filtered, span_make(lua_tostring(L, -1), length));
      *data = buffer_span(&script->filtered);
    }
  }
  lua_settop(L, top);
  return is_good;
}

static bool filter_body(void *self, struct exchange *exchange, struct span *data, bool is_last) {
  struct script_worker *script = self;
  must(script->magic == SCRIPT_WORKER_MAGIC && exchange->magic == EXCHANGE_MAGIC);
  const struct policy_set *set = exchange->policies ? policy_set_of(exchange->policies) : NULL;
  const struct route *route = exchange->route;
  for (unsigned i = 0; i < route->hook_count[HOOK_BODY_FILTER]; i++) {
    const struct hook *hook = &route->hooks[HOOK_BODY_FILTER][i];
    const struct policy_entry *entry = set && hook->policy < set->slot_count ? &set->by_slot[hook->policy] : NULL;
    char error[1024] = "the policy is not in the policy set";
    bool is_known = entry && entry->name;
    if (is_known && run_body_filter(script, exchange, hook, entry, set->serial, data, is_last, error, sizeof error)) continue;
    if (is_known) {
      atomic_fetch_add_explicit(&entry->tally->errors, 1, memory_order_relaxed);
      state_place_error(entry->group->states[script->worker->number], entry->index, HOOK_BODY_FILTER, error, sizeof error);
    }
    log_failure(script, exchange, is_known ? entry->name : "?", HOOK_BODY_FILTER, error, false);
    return false;
  }
  return true;
}

static bool is_guard(const struct script_worker *script, const struct policy_set *set, const struct hook *hook) {
  const struct policy_entry *entry = hook->policy < set->slot_count ? &set->by_slot[hook->policy] : NULL;
  return entry && entry->name && entry->group->states[script->worker->number]->policies[entry->index].is_guard;
}

static bool is_last_guard(const struct script_worker *script, const struct policy_set *set, const struct hook *hooks, unsigned count) {
  for (unsigned i = 0; i < count; i++)
    if (is_guard(script, set, &hooks[i])) return false;
  return true;
}

/* A hook whose condition does not hold has nothing to say, but for a guard that admits everybody else. */
static enum hook_result passed_over(struct exchange *exchange, const struct hook *hook) {
  if (hook->when->otherwise_allows) exchange->guards |= GUARD_ALLOWS;
  return HOOK_NEXT;
}

static enum hook_result run(void *self, struct exchange *exchange, enum hook_phase phase) {
  struct script_worker *script = self;
  must(script->magic == SCRIPT_WORKER_MAGIC && exchange->magic == EXCHANGE_MAGIC);
  struct policy_set *set = exchange->policies ? policy_set_of(exchange->policies) : NULL;
  const struct host *host = phase == HOOK_SERVER_REWRITE ? exchange->owner : exchange->route->host;
  const struct hook *hooks = phase == HOOK_SERVER_REWRITE ? host->hooks : exchange->route->hooks[phase];
  unsigned count = phase == HOOK_SERVER_REWRITE ? host->hook_count : exchange->route->hook_count[phase];
  exchange->phase = phase;
  for (unsigned i = exchange->wait ? exchange->hook_index : 0; i < count; i++) {
    char error[1024];
    const struct policy_entry *entry = set && hooks[i].policy < set->slot_count ? &set->by_slot[hooks[i].policy] : NULL;
    if (entry == NULL || entry->name == NULL) {
      /* The host was attached under another set: what the policy would have decided is unknown, so nobody passes. */
      log_failure(script, exchange, "?", phase, "the policy is not in the policy set", false);
      return HOOK_FAILED;
    }
    bool guards = phase == HOOK_ACCESS && is_guard(script, set, &hooks[i]);
    if (guards && guards_are_done(exchange)) continue;
    exchange->guards &= (unsigned char)~GUARD_ALLOWS;
    enum hook_result result;
    if (exchange->wait) result = continue_hook(script, exchange, entry, error, sizeof error);
    else if (hooks[i].when && conditions_check(exchange, hooks[i].when) == CONDITION_FAILS) result = passed_over(exchange, &hooks[i]);
    else result = run_hook(script, exchange, host, &hooks[i], phase, entry, set->serial, error, sizeof error);
    if (result == HOOK_WAIT) {
      exchange->hook_index = i;
      return HOOK_WAIT;
    }
    if (result == HOOK_FAILED) {
      struct script_state *state = entry->group->states[script->worker->number];
      bool is_skipped = state->policies[entry->index].is_skipping_errors;
      state_place_error(state, entry->index, phase, error, sizeof error);
      atomic_fetch_add_explicit(&entry->tally->errors, 1, memory_order_relaxed);
      log_failure(script, exchange, entry->name, phase, error, is_skipped);
      if (is_skipped) result = HOOK_NEXT;
    }
    bool is_ours = result == HOOK_ANSWERED && exchange->source == ANSWER_PROXY; /* the end of its wait, and no opinion */
    if (guards && !is_ours) result = guards_decide(exchange, result, is_last_guard(script, set, &hooks[i + 1], count - i - 1));
    if (result != HOOK_NEXT) return result;
  }
  return HOOK_NEXT;
}

static void stop(void *self) {
  struct script_worker *script = self;
  mirror_stop(&script->mirrors);
  http_client_free(script->http);
  script->http = NULL;
}

static void end(void *self, struct exchange *exchange) {
  (void)self;
  exchange_objects_end(exchange);
}

static void forget(void *self, struct unit *unit) {
  struct script_worker *script = self;
  if (unit->kind != UNIT_HOST || unit->id >= script->capacity) return;
  struct unit_cache *cache = script->caches[unit->id];
  if (cache == NULL || cache->unit != unit) return;
  script->caches[unit->id] = NULL;
  cache_free(script, cache);
}

struct hook_runner script_hook_runner(struct script_worker *script) {
  return (struct hook_runner){.self = script, .run = run, .filter_body = filter_body, .cancel = cancel, .stop = stop, .end = end, .forget = forget};
}
