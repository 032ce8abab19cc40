/* Mirror: exchange:mirror. The copy has the request's method and header fields as they are now, and a body that is there as a whole: nothing streams. It counts
 * as having come by here once more (CDN-Loop), since its target may be ourselves. Its answer is read and dropped. Worker's thread. */
#include "script/mirror.h"

#include <lauxlib.h>
#include <stdlib.h>

#include "base/check.h"
#include "proxy/relay.h"
#include "proxy/request_head.h"
#include "proxy/worker.h"
#include "script/core_module.h"
#include "script/exchange_members.h"
#include "script/http_client.h"
#include "script/lua_value.h"
#include "script/operation.h"

#define FUNCTION "exchange:mirror"

enum { MIRROR_MAGIC = MAGIC('m', 'i', 'r', 'r'), MIRROR_MS = 10000 };

struct mirror {
  uint32_t magic;
  struct mirrors *mirrors;
  struct worker *worker;
  struct http_call *call;
  struct timer timer;
  struct list node;
};

void mirror_init(struct mirrors *mirrors) {
  list_init(&mirrors->running);
  mirrors->count = 0;
}

static void end(struct mirror *mirror) {
  must(mirror->magic == MIRROR_MAGIC && mirror->mirrors->count > 0);
  if (mirror->call->status == 0) counter_add(mirror->worker->options.counters, COUNTER_MIRRORS_FAILED, 1);
  counter_add(mirror->worker->options.counters, COUNTER_MIRRORS_ENDED, 1);
  mirror->mirrors->count--;
  list_remove(&mirror->node);
  loop_timer_stop(&mirror->worker->loop, &mirror->timer);
  http_call_free(mirror->call);
  mirror->magic = 0;
  free(mirror);
}

void mirror_stop(struct mirrors *mirrors) {
  while (!list_is_empty(&mirrors->running)) end(container_of(mirrors->running.next, struct mirror, node));
}

static void on_timer(struct timer *timer) { end(container_of(timer, struct mirror, timer)); }
static void on_done(struct http_call *call) { end(call->context); }

/* ---- the copy ---- */

static bool get_text(lua_State *L, const char *name, struct span *text) {
  lua_getfield(L, 2, name); /* stays on the stack: it holds the text */
  if (lua_isnil(L, -1)) return false;
  if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, FUNCTION ": %s is a %s, not a string", name, luaL_typename(L, -1));
  text->data = lua_tolstring(L, -1, &text->length);
  state_charge_bytes(L, text->length);
  return true;
}

static void copy_fields(const struct exchange *exchange, struct http_call *call, struct span host) {
  const struct headers *headers = &exchange->request->headers;
  for (unsigned i = 0; i < headers->count; i++) {
    const struct header *header = &headers->items[i];
    bool is_left_out = header->removed || header_is_hop_by_hop(header->id) || header->id == HEADER_HOST || header->id == HEADER_CONTENT_LENGTH ||
                       header->id == HEADER_EXPECT || header->id == HEADER_TRAILER;
    if (!is_left_out) http_call_add_field(call, header->name, header->value);
  }
  http_call_add_field(call, SPAN("CDN-Loop"), REQUEST_HEAD_PASS);
  if (host.length) http_call_add_field(call, SPAN("Host"), host);
}

/* One target that does not answer leaves half of the room to others. */
static bool has_room(struct exchange *exchange, const struct http_call *call) {
  const struct mirrors *mirrors = mirror_of(exchange);
  unsigned same = 0;
  for (const struct list *node = mirrors->running.next; mirrors->count >= LIMIT_SERVICE_MIRRORS && node != &mirrors->running; node = node->next)
    same += http_call_is_to_same(container_of(node, struct mirror, node)->call, call);
  if (same < LIMIT_SERVICE_MIRRORS && mirrors->count < LIMIT_MIRRORS) return true;
  counter_add(exchange->worker->options.counters, same < LIMIT_SERVICE_MIRRORS ? COUNTER_LIMIT_MIRRORS : COUNTER_LIMIT_SERVICE_MIRRORS, 1);
  return false;
}

/* Takes the call. */
static bool start(struct exchange *exchange, struct http_call *call) {
  call->done = on_done;
  call->drops_answer = true;
  call->max_body = LIMIT_DRAIN_BYTES;
  if (!http_client_start(operation_http_client(exchange), call)) {
    http_call_free(call);
    return false;
  }
  struct mirrors *mirrors = mirror_of(exchange);
  struct mirror *mirror = calloc(1, sizeof *mirror);
  must(mirror != NULL);
  call->context = mirror;
  mirror->magic = MIRROR_MAGIC;
  mirror->mirrors = mirrors;
  mirror->worker = exchange->worker;
  mirror->call = call;
  timer_init(&mirror->timer, on_timer);
  list_insert_last(&mirrors->running, &mirror->node);
  mirrors->count++;
  counter_add(exchange->worker->options.counters, COUNTER_MIRRORS, 1);
  loop_timer_start(&mirror->worker->loop, &mirror->timer, MIRROR_MS);
  return true;
}

static int skip(lua_State *L, struct exchange *exchange, const char *why) {
  counter_add(exchange->worker->options.counters, COUNTER_MIRRORS_SKIPPED, 1);
  lua_pushnil(L);
  lua_pushstring(L, why);
  return 2;
}

/* exchange:mirror { url, or upstream with path, host, body } -> true | nil, why */
int member_exchange_do_mirror(lua_State *L, struct exchange *exchange, const struct object *object) {
  struct operation staged = {.magic = OPERATION_MAGIC, .kind = OPERATION_HTTP, .exchange = exchange, .timeout_ms = MIRROR_MS};
  struct span url, host = {NULL, 0}, body, path = SPAN("/");
  if (!lua_istable(L, 2)) return luaL_error(L, FUNCTION ": wants a table such as { url = \"http://name/path\" }");
  lua_settop(L, 2);
  static const char *const options[] = {"url", "upstream", "path", "host", "body", NULL};
  core_check_options(L, 2, options, FUNCTION);
  bool has_host = get_text(L, "host", &host), has_url = get_text(L, "url", &url), has_body = false;
  lua_getfield(L, 2, "body");
  bool has_own = lua_isboolean(L, -1) && lua_toboolean(L, -1);
  if (!lua_isboolean(L, -1)) has_body = get_text(L, "body", &body);
  get_text(L, "path", &path);
  lua_getfield(L, 2, "upstream");
  staged.has_upstream = !lua_isnil(L, -1);
  if (has_url == staged.has_upstream) return luaL_error(L, FUNCTION ": wants either a url or an upstream");
  if (has_host && (host.length == 0 || !header_value_is_valid(host))) return luaL_error(L, FUNCTION ": the host is empty or has CR, LF or NUL");
  if (has_body && body.length > LIMIT_BODY_BUFFER_BYTES) return luaL_error(L, FUNCTION ": the body is longer than %d bytes", (int)LIMIT_BODY_BUFFER_BYTES);
  if (staged.has_upstream) {
    const struct value_box *handle = lua_value_to(L, -1);
    if (handle == NULL || handle->value->kind != PACK_UPSTREAM) return luaL_error(L, FUNCTION ": upstream wants what route:upstream() gave");
    staged.upstream = (struct upstream_ref){handle->value->upstream_slot, handle->value->upstream_generation};
    url = operation_push_url(L, handle->value->upstream, path, FUNCTION);
  }
  if (has_own && relay_body(exchange, LIMIT_BODY_BUFFER_BYTES) != RELAY_BODY_THERE) return skip(L, exchange, "the body is not held");
  if (has_own) body = buffer_span(&exchange->body);
  char why[256];
  struct http_call *call = http_call_new(exchange->request->method, url, why, sizeof why);
  if (call == NULL) return skip(L, exchange, why);
  if (!has_room(exchange, call)) {
    http_call_free(call);
    return skip(L, exchange, "too many copies are on their way");
  }
  call->is_guests = object->part->state->is_guest;
  copy_fields(exchange, call, host);
  if (has_body || (has_own && body.length)) {
    call->has_body = true;
    buffer_append(&call->body, body);
  }
  const struct operation_stage *stage = operation_stage(exchange);
  if (stage) {
    staged.call = call;
    stage->answer(stage->context, call, &staged);
    http_call_free(call);
  } else {
    bool is_led = !staged.has_upstream || operation_choose_endpoints(exchange->worker, staged.upstream, call);
    if (!is_led) http_call_free(call);
    if (!is_led || !start(exchange, call)) return skip(L, exchange, "it cannot be sent there");
  }
  lua_pushboolean(L, true);
  return 1;
}
