/* Testing: a world for specs: one real worker, driven by hand, whose clients and endpoints are memory links. Changes come in the seam's form, so that hosts,
 * upstreams and policies are built as the publisher builds them. A world belongs to its Lua userdata; one thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hashmap.h"
#include "http/head_check.h"
#include "net/digest.h"
#include "proxy/worker.h"
#include "route/upstream.h"
#include "script/core_module.h"
#include "script/http_client.h"
#include "script/lua_pack.h"
#include "script/lua_raise.h"
#include "script/operation.h"
#include "script/script.h"

#define WORLD_MAGIC 0x646c7277u
#define WORLD_TIMEOUT_MS 10000

/* What an endpoint received, in order. */
struct received {
  struct received *next;
  struct endpoint_record *record;
  struct buffer bytes;
};

struct world {
  uint32_t magic;
  struct worker worker;
  bool is_running;
  struct counters counters;
  struct series_registry *series;
  struct dict_store *dicts;
  _Atomic uint64_t body_budget;
  struct log log;
  struct script_worker *script;
  struct snapshot_builder *builder;
  struct policy_slots *slots;
  struct snapshot *root;
  struct unit **units;
  unsigned unit_count;
  struct hashmap records; /* "upstream address" to record */
  struct buffer lines;    /* of the log */
  struct buffer client;   /* what the client received */
  bool client_ended;
  struct received *received, **received_end;
  struct hashmap answers; /* by address: struct buffer; "" is for all others */
  struct operation_stage stage;
  lua_State *spec;         /* while an exchange runs: the spec's, with its http function at HTTP_FUNCTION */
  struct buffer complaint; /* why the spec itself is wrong */
};

#define HTTP_FUNCTION 8

/* An endpoint's side of one connection. */
struct origin {
  struct world *world;
  struct link *link;
  struct endpoint_record *record;
  struct buffer bytes;
};

static void capture(void *context, enum log_level level, struct span line) {
  struct world *world = context;
  (void)level;
  buffer_append(&world->lines, line);
  buffer_append(&world->lines, SPAN("\n"));
}

static void push_buffer(lua_State *L, const struct buffer *buffer) {
  lua_pushlstring(L, buffer_length(buffer) ? buffer_span(buffer).data : "", buffer_length(buffer));
}

/* ---- endpoints ---- */

/* Length of a whole request at the front, 0 when it is not there yet. Only what our own codec writes needs to be understood. */
static size_t whole_request(struct span bytes) {
  size_t head = bytes.length > 0 ? head_find_end(bytes.data, bytes.length, 0) : 0;
  if (head == 0) return 0;
  struct span rest = {bytes.data, head};
  unsigned long long length = 0;
  bool is_chunked = false;
  while (rest.length > 0) {
    struct span line = {rest.data, span_find(rest, '\n')};
    rest = span_skip(rest, line.length + 1);
    size_t colon = span_find(line, ':');
    struct span name = {line.data, colon}, value = span_skip(line, colon + 1);
    if (value.length > 0 && value.data[value.length - 1] == '\r') value.length--;
    if (span_equal_nocase(name, SPAN("content-length"))) span_to_u64(span_trim(value), 1ull << 40, &length);
    if (span_equal_nocase(name, SPAN("transfer-encoding"))) is_chunked = true;
  }
  if (!is_chunked) return bytes.length >= head + length ? head + (size_t)length : 0;
  const char *end = memmem(bytes.data + head - 2, bytes.length - head + 2, "\r\n0\r\n\r\n", 7);
  return end ? (size_t)(end - bytes.data) + 7 : 0;
}

static void origin_free(struct origin *origin) {
  buffer_free(&origin->bytes);
  free(origin);
}

static size_t origin_read(void *owner, const char *data, size_t length) {
  struct origin *origin = owner;
  struct world *world = origin->world;
  buffer_append(&origin->bytes, span_make(data, length));
  size_t whole;
  while ((whole = whole_request(buffer_span(&origin->bytes))) > 0) {
    struct received *received = calloc(1, sizeof *received);
    must(received != NULL);
    received->record = origin->record;
    buffer_append(&received->bytes, span_make(buffer_span(&origin->bytes).data, whole));
    buffer_consume(&origin->bytes, whole);
    *world->received_end = received;
    world->received_end = &received->next;
    struct buffer *answer = hashmap_get(&world->answers, origin->record->name);
    if (answer == NULL) answer = hashmap_get(&world->answers, SPAN("default"));
    if (answer && buffer_length(answer) > 0) link_write_span(origin->link, buffer_span(answer));
  }
  return length;
}

static void origin_end(void *owner, int error) {
  struct origin *origin = owner;
  (void)error;
  link_close(origin->link);
  origin_free(origin);
}

static void ignore_open(void *owner, int status) {
  (void)owner;
  (void)status;
}
static void ignore_drain(void *owner) { (void)owner; }
static const struct link_events origin_events = {ignore_open, origin_read, origin_end, ignore_drain};

/* An answer of "refuse" refuses the connection. */
static struct link *dial(void *context, struct worker *worker, struct endpoint_record *record) {
  struct world *world = context;
  struct buffer *answer = hashmap_get(&world->answers, record->name);
  if (answer && span_equal(buffer_span(answer), SPAN("refuse"))) return NULL;
  struct link *ends[2];
  link_pair(&worker->loop, ends);
  struct origin *origin = calloc(1, sizeof *origin);
  must(origin != NULL);
  origin->world = world;
  origin->link = ends[1];
  origin->record = record;
  link_set_owner(ends[1], &origin_events, origin);
  link_start(ends[1]);
  return ends[0];
}

/* ---- client ---- */

static size_t client_read(void *owner, const char *data, size_t length) {
  struct world *world = owner;
  buffer_append(&world->client, span_make(data, length));
  return length;
}
static void client_end(void *owner, int error) {
  (void)error;
  ((struct world *)owner)->client_ended = true;
}
static const struct link_events client_events = {ignore_open, client_read, client_end, ignore_drain};

/* ---- what policies ask for ---- */

static void complain(struct world *world, struct http_call *call, const char *why) {
  snprintf(call->error, sizeof call->error, "%s", why);
  if (buffer_length(&world->complaint) == 0) buffer_append(&world->complaint, span_of(why));
}

static void push_fields(lua_State *L, struct span fields) {
  struct span name, value;
  lua_newtable(L);
  for (size_t at = 0; http_fields_next(fields, &at, &name, &value);) {
    char lower[LIMIT_HEADER_NAME_BYTES + 1];
    for (size_t i = 0; i <= name.length; i++) lower[i] = (char)(name.data[i] >= 'A' && name.data[i] <= 'Z' ? name.data[i] | 32 : name.data[i]);
    lua_pushlstring(L, value.data, value.length);
    lua_setfield(L, -2, lower);
  }
}

/* { method, url, upstream, headers, body, timeout, max_body } */
static void push_call(lua_State *L, const struct world *world, const struct http_call *call, const struct operation *operation) {
  const struct upstream *upstream = operation->has_upstream ? snapshot_upstream(world->root, operation->upstream) : NULL;
  lua_createtable(L, 0, 8);
  lua_pushstring(L, call->method);
  lua_setfield(L, -2, "method");
  lua_pushstring(L, call->url);
  lua_setfield(L, -2, "url");
  if (upstream) {
    lua_pushlstring(L, upstream->name.data, upstream->name.length);
    lua_setfield(L, -2, "upstream");
  }
  push_fields(L, buffer_span(&call->fields));
  lua_setfield(L, -2, "headers");
  if (call->has_body) {
    push_buffer(L, &call->body);
    lua_setfield(L, -2, "body");
  }
  lua_pushnumber(L, (lua_Number)operation->timeout_ms / 1e3);
  lua_setfield(L, -2, "timeout");
}

/* { status, headers, body } at the top, or nil and why. */
static void take_answer(lua_State *L, struct world *world, struct http_call *call) {
  if (!lua_istable(L, -2)) {
    snprintf(call->error, sizeof call->error, "%s", lua_tostring(L, -1) ? lua_tostring(L, -1) : "no answer");
    return;
  }
  lua_pop(L, 1);
  lua_getfield(L, -1, "status");
  call->status = lua_isnil(L, -1) ? 200 : (int)lua_tointeger(L, -1);
  lua_pop(L, 1);
  lua_getfield(L, -1, "body");
  struct span body = {"", 0};
  if (lua_isstring(L, -1)) body.data = lua_tolstring(L, -1, &body.length);
  if (!call->drops_answer) buffer_append(&call->answer, body);
  lua_pop(L, 1);
  lua_getfield(L, -1, "fields"); /* names and values in turn, made by testing.lua */
  for (int i = 1; lua_istable(L, -1) && i <= (int)lua_objlen(L, -1); i++) {
    lua_rawgeti(L, -1, i);
    buffer_append(&call->answer_fields, span_of(lua_tostring(L, -1)));
    buffer_append(&call->answer_fields, span_make("", 1));
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  if (call->status < 200 || call->status > 599) complain(world, call, "http: the status is not from 200 to 599");
  if (body.length <= call->max_body) return;
  call->status = 0;
  snprintf(call->error, sizeof call->error, "the answer's body is too large");
}

static void answer_call(void *context, struct http_call *call, const struct operation *operation) {
  struct world *world = context;
  lua_State *L = world->spec;
  char why[512];
  if (L == NULL || !lua_isfunction(L, HTTP_FUNCTION)) {
    snprintf(why, sizeof why, "the policy asks for %.300s, and the spec has no http = function(request) that answers", call->url);
    complain(world, call, why);
    return;
  }
  int top = lua_gettop(L);
  lua_pushvalue(L, HTTP_FUNCTION);
  push_call(L, world, call, operation);
  if (lua_pcall(L, 1, 2, 0)) {
    complain(world, call, lua_tostring(L, -1) ? lua_tostring(L, -1) : "http: error");
  } else {
    take_answer(L, world, call);
  }
  lua_settop(L, top);
}

/* ---- building ---- */

static struct endpoint_record *find_record(void *context, const struct address *address, struct span upstream) {
  struct world *world = context;
  char text[ADDRESS_TEXT];
  size_t length = address_format(address, text);
  struct buffer key = {0};
  buffer_append(&key, upstream);
  buffer_append(&key, span_make(text, length));
  struct endpoint_record *record = hashmap_get(&world->records, buffer_span(&key));
  if (record == NULL) {
    record = calloc(1, sizeof *record + length + 1);
    must(record != NULL);
    record->magic = ENDPOINT_MAGIC;
    record->address = *address;
    record->index = (uint32_t)world->records.count;
    char *name = (char *)(record + 1);
    memcpy(name, text, length);
    record->name = span_make(name, length);
    char hex[2 * DIGEST_MAX + 1];
    struct arena arena;
    arena_init(&arena, NULL, 0);
    struct span shown = upstream_shown(buffer_span(&key), &arena);
    digest_hex(DIGEST_MD5, shown, hex);
    memcpy(record->key_md5, hex, 32);
    digest_hex(DIGEST_SHA1, shown, hex);
    memcpy(record->key_sha1, hex, 40);
    arena_free(&arena);
    atomic_store(&record->is_listed, true);
    hashmap_put(&world->records, buffer_span(&key), record);
  }
  buffer_free(&key);
  return record;
}

static struct upstream_ref resolve_upstream(void *context, struct span name) { return snapshot_upstream_slot(((struct world *)context)->builder, name); }
static uint32_t resolve_policy(void *context, struct span name) { return policy_slot(((struct world *)context)->slots, name); }

static uint16_t header_id(struct span name) { return (uint16_t)header_id_of(name); }

static void keep_unit(struct world *world, struct unit *unit) {
  world->units = realloc(world->units, (world->unit_count + 1) * sizeof *world->units);
  must(world->units != NULL);
  unit->id = world->unit_count;
  unit->born_at = 1;
  world->units[world->unit_count++] = unit;
}

static bool apply(struct world *world, struct span change, const struct script_options *options, char *error, size_t error_size) {
  struct span kind = pack_get_string(change, "kind", SPAN("")), key = pack_get_string(change, "key", SPAN("")), body;
  if (!pack_find(change, "body", &body)) {
    snprintf(error, error_size, "a change has no body");
    return false;
  }
  if (span_equal(kind, SPAN("settings"))) {
    struct settings *settings = settings_new(body, error, error_size);
    if (settings == NULL) return false;
    keep_unit(world, &settings->unit);
    snapshot_put_settings(world->builder, settings);
  } else if (span_equal(kind, SPAN("policies"))) {
    struct unit *policies = policy_set_new(body, world->slots, options, NULL, error, error_size);
    if (policies == NULL) return false;
    keep_unit(world, policies);
    snapshot_put_policies(world->builder, policies);
  } else if (span_equal(kind, SPAN("upstream"))) {
    struct upstream *upstream = upstream_new(key, body, find_record, world, error, error_size);
    if (upstream == NULL) return false;
    keep_unit(world, &upstream->unit);
    snapshot_put_upstream(world->builder, key, upstream);
  } else if (span_equal(kind, SPAN("host"))) {
    struct host_resolver resolver = {.upstream = resolve_upstream, .policy = resolve_policy, .context = world, .header_id = header_id};
    struct host *host = host_new(key, body, &resolver, error, error_size);
    if (host == NULL) return false;
    keep_unit(world, &host->unit);
    snapshot_put_host(world->builder, key, host);
  } else {
    snprintf(error, error_size, "a change has an unknown kind");
    return false;
  }
  return true;
}

static void ignore_root(void *context, struct snapshot *root, struct unit *const *leased, unsigned count) {
  (void)context;
  (void)root;
  (void)leased;
  (void)count;
}
static void ignore_unit(void *context, struct unit *unit) {
  (void)context;
  (void)unit;
}

static bool start(struct world *world, char *error, size_t error_size) {
  world->script = script_worker_new(&world->worker, &world->log);
  world->stage = (struct operation_stage){answer_call, world};
  script_worker_set_stage(world->script, &world->stage);
  struct worker_options options = {.hooks = script_hook_runner(world->script),
                                   .returns = {world, ignore_root, ignore_unit},
                                   .log = &world->log,
                                   .counters = &world->counters,
                                   .body_budget = &world->body_budget};
  if (worker_init(&world->worker, &options, error, error_size) != 0) return false;
  world->is_running = true;
  worker_set_dial(&world->worker, dial, world);
  world->root = snapshot_build(world->builder);
  worker_give_root(&world->worker, world->root);
  worker_take_root(&world->worker);
  return true;
}

/* ---- Lua ---- */

static void clear_traffic(struct world *world) {
  while (world->received) {
    struct received *received = world->received;
    world->received = received->next;
    buffer_free(&received->bytes);
    free(received);
  }
  world->received_end = &world->received;
  size_t cursor = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&world->answers, &cursor));) {
    buffer_free(entry->value);
    free(entry->value);
  }
  hashmap_free(&world->answers);
  hashmap_init(&world->answers);
  buffer_consume(&world->client, buffer_length(&world->client));
  buffer_consume(&world->lines, buffer_length(&world->lines));
  world->client_ended = false;
}

static int world_close(lua_State *L) {
  struct world **box = luaL_checkudata(L, 1, "moongate.world");
  struct world *world = *box;
  if (world == NULL) return 0;
  *box = NULL;
  if (world->is_running) worker_free(&world->worker);
  script_worker_free(world->script);
  if (world->root) snapshot_free(world->root);
  while (world->unit_count > 0) {
    struct unit *unit = world->units[--world->unit_count];
    unit->release(unit);
  }
  free(world->units);
  snapshot_builder_free(world->builder);
  policy_slots_free(world->slots);
  series_registry_free(world->series);
  dict_store_free(world->dicts);
  clear_traffic(world);
  size_t cursor = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&world->records, &cursor));) free(entry->value);
  hashmap_free(&world->records);
  buffer_free(&world->client);
  buffer_free(&world->lines);
  buffer_free(&world->complaint);
  free(world);
  return 0;
}

static struct world *check_world(lua_State *L) {
  struct world **box = luaL_checkudata(L, 1, "moongate.world");
  if (*box == NULL) luaL_error(L, "world: is closed");
  must((*box)->magic == WORLD_MAGIC);
  return *box;
}

/* testing.open(packed changes, lua_directory) -> world | nil, why */
static int testing_open(lua_State *L) {
  struct span changes;
  changes.data = luaL_checklstring(L, 1, &changes.length);
  const char *directory = luaL_checkstring(L, 2);
  struct world **box = lua_newuserdata(L, sizeof *box);
  struct world *world = calloc(1, sizeof *world);
  must(world != NULL);
  *box = world;
  luaL_getmetatable(L, "moongate.world");
  lua_setmetatable(L, -2);
  world->magic = WORLD_MAGIC;
  world->received_end = &world->received;
  world->log = (struct log){.thread = "spec", .capture = capture, .capture_context = world};
  world->builder = snapshot_builder_new(1);
  world->slots = policy_slots_new();
  world->series = series_registry_new();
  world->dicts = dict_store_new();
  hashmap_init(&world->records);
  hashmap_init(&world->answers);
  struct settings *settings = settings_new_default();
  keep_unit(world, &settings->unit);
  snapshot_put_settings(world->builder, settings);
  struct script_options options = {
      .lua_directory = directory, .workers = 1, .log = &world->log, .guest_memory = 32u << 20, .series = world->series, .dicts = world->dicts};
  char error[512] = "malformed changes";
  struct pack_reader reader;
  struct pack_item array;
  pack_reader_init(&reader, changes);
  bool is_done = pack_next(&reader, &array) && array.type == PACK_ARRAY;
  for (uint32_t i = 0; is_done && i < array.count; i++) {
    struct span change;
    is_done = pack_skip(&reader, &change) && apply(world, change, &options, error, sizeof error);
  }
  if (is_done) is_done = start(world, error, sizeof error);
  if (is_done) return 1;
  lua_pushnil(L);
  lua_pushstring(L, error);
  return 2;
}

static struct span upstream_of(const struct world *world, const struct endpoint_record *record) {
  for (uint32_t slot = 0; slot < world->root->upstream_count; slot++) {
    const struct upstream *upstream = world->root->upstreams[slot].upstream;
    for (unsigned i = 0; upstream && i < upstream->count; i++)
      if (upstream->endpoints[i].record == record) return upstream->name;
  }
  return SPAN("");
}

static void push_results(lua_State *L, struct world *world) {
  lua_newtable(L);
  push_buffer(L, &world->client);
  lua_setfield(L, -2, "client");
  push_buffer(L, &world->lines);
  lua_setfield(L, -2, "log");
  lua_newtable(L);
  int count = 0;
  for (const struct received *received = world->received; received; received = received->next) {
    struct span upstream = upstream_of(world, received->record);
    lua_newtable(L);
    lua_pushlstring(L, received->record->name.data, received->record->name.length);
    lua_setfield(L, -2, "endpoint");
    lua_pushlstring(L, upstream.data, upstream.length);
    lua_setfield(L, -2, "upstream");
    push_buffer(L, &received->bytes);
    lua_setfield(L, -2, "bytes");
    lua_rawseti(L, -2, ++count);
  }
  lua_setfield(L, -2, "received");
}

/* world:exchange(bytes, is_https, listener_port, answers, client address, late bytes or nil, http function or nil) -> { client =, log =, received = { {
 * endpoint, upstream, bytes }
 * ... } } | nil, why */
static int world_exchange(lua_State *L) {
  struct world *world = check_world(L);
  struct span bytes;
  bytes.data = luaL_checklstring(L, 2, &bytes.length);
  bool is_https = lua_toboolean(L, 3);
  lua_Integer port = luaL_checkinteger(L, 4);
  luaL_checktype(L, 5, LUA_TTABLE);
  struct span client;
  struct address peer;
  client.data = luaL_checklstring(L, 6, &client.length);
  if (address_parse_ip(client, 0, &peer) != 0) return luaL_error(L, "the client is no IP address: %s", client.data);
  clear_traffic(world);
  lua_pushnil(L);
  while (lua_next(L, 5)) {
    struct span address, answer;
    lua_pushvalue(L, -2);
    address.data = luaL_checklstring(L, -1, &address.length);
    answer.data = luaL_checklstring(L, -2, &answer.length);
    struct buffer *buffer = calloc(1, sizeof *buffer);
    must(buffer != NULL);
    buffer_append(buffer, answer);
    hashmap_put(&world->answers, address, buffer);
    lua_pop(L, 2);
  }
  struct worker *worker = &world->worker;
  struct link *ends[2];
  link_pair(&worker->loop, ends);
  link_set_owner(ends[1], &client_events, world);
  link_start(ends[1]);
  link_set_peer(ends[0], &peer);
  worker_serve(worker, ends[0], is_https, (uint16_t)port);
  link_write_span(ends[1], bytes);
  struct span late = {NULL, 0};
  if (!lua_isnoneornil(L, 7)) late.data = luaL_checklstring(L, 7, &late.length);
  lua_settop(L, HTTP_FUNCTION);
  world->spec = L;
  buffer_consume(&world->complaint, buffer_length(&world->complaint));
  uint64_t begun = uv_hrtime() / 1000000;
  bool is_late = false;
  while (!is_late && !(buffer_length(&world->client) > 0 && worker->exchange_count == 0) && !world->client_ended) {
    loop_run_once(&worker->loop, 20);
    /* Late enough for the policies: none of them waits any more. */
    if (late.length > 0 && worker->exchange_count > 0 && counter_get(&world->counters, COUNTER_HOOK_WAITS) > 0 &&
        counter_get(&world->counters, COUNTER_HOOK_WAITS) == counter_get(&world->counters, COUNTER_HOOK_WAITS_ENDED)) {
      link_write_span(ends[1], late);
      late.length = 0;
    }
    is_late = uv_hrtime() / 1000000 - begun > WORLD_TIMEOUT_MS;
  }
  link_close(ends[1]);
  for (int turn = 0; turn < 4; turn++) loop_run_once(&worker->loop, 0);
  world->spec = NULL;
  if (buffer_length(&world->complaint) > 0) {
    lua_pushnil(L);
    push_buffer(L, &world->complaint);
    return 2;
  }
  if (is_late) {
    lua_pushnil(L);
    lua_pushfstring(L, "no answer within %d ms; the client got %d bytes", WORLD_TIMEOUT_MS, (int)buffer_length(&world->client));
    return 2;
  }
  push_results(L, world);
  return 1;
}

/* world:metrics() -> the policies' counters, as /metrics shows them */
static int world_metrics(lua_State *L) {
  struct buffer out = {0};
  series_write(check_world(L)->series, &out);
  push_buffer(L, &out);
  buffer_free(&out);
  return 1;
}

void core_testing_register(lua_State *L, int core) {
  static const luaL_Reg methods[] = {{"exchange", world_exchange}, {"metrics", world_metrics}, {"close", world_close}, {NULL, NULL}};
  if (luaL_newmetatable(L, "moongate.world")) {
    lua_newtable(L);
    for (const luaL_Reg *f = methods; f->name; f++) {
      lua_pushcfunction(L, f->func);
      lua_setfield(L, -2, f->name);
    }
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, world_close);
    lua_setfield(L, -2, "__gc");
  }
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushcfunction(L, testing_open);
  lua_setfield(L, -2, "open");
  lua_setfield(L, core, "testing");
}
