/* Host units: built of their packed body by the publisher. The unit owns a copy of the body (names, paths and configs point into it), its regexes and
 * templates, and references to its values. Nothing of it changes after host_new. What a body can make grow is bounded by the body's own size: every count has
 * been skipped over once. */
#include "route/host.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/hashmap.h"
#include "route/body.h"
#include "route/condition.h"
#include "route/edit.h"
#include "route/router.h"
#include "route/upstream.h"

static const char *const phases[HOOK_PHASES] = {"server_rewrite", "rewrite", "access", "balancer", "header_filter", "body_filter", "log"};

/* What building needs and the unit does not keep. */
struct making {
  struct host *host;
  const struct host_resolver *resolver;
  struct hashmap configs; /* packed bytes to index + 1 */
  struct hashmap values;  /* kind and source to struct value */
  struct hashmap conditions;
  unsigned config_room, named_room;
  struct body_error error;
};

static void release_value(void *value) { value_release(value); }
static void free_regex(void *regex) { regex_free(regex); }
static void free_template(void *template) { template_free(template); }
static void release_traffic(void *traffic) { traffic_table_release(traffic); }

static void release(struct unit *unit) {
  must(unit->magic == UNIT_MAGIC && unit->kind == UNIT_HOST);
  struct host *host = (struct host *)unit;
  unit->magic = 0;
  arena_free(&unit->arena);
  free(host);
}

/* Doubles an array in the arena; the old half stays there until the unit goes. */
static void *grow(struct arena *arena, void *old, unsigned count, unsigned *room, size_t size) {
  if (count < *room) return old;
  *room = *room ? *room * 2 : 4;
  void *bigger = arena_alloc(arena, *room * size);
  if (count) memcpy(bigger, old, count * size);
  return bigger;
}

static struct upstream_ref name_upstream(struct making *making, struct span name) {
  struct host *host = making->host;
  struct upstream_ref ref = making->resolver->upstream(making->resolver->context, name);
  for (unsigned i = 0; i < host->named_count; i++)
    if (host->named[i].slot == ref.slot && host->named[i].generation == ref.generation) return ref;
  host->named = grow(&host->unit.arena, host->named, host->named_count, &making->named_room, sizeof *host->named);
  host->named[host->named_count++] = ref;
  return ref;
}

/* One value per kind and source in a host, however many configs hold it. */
static struct value *get_value(struct making *making, int kind, struct span source) {
  struct arena *arena = &making->host->unit.arena;
  char message[200];
  char *key = arena_alloc(arena, source.length + 1);
  key[0] = (char)kind;
  if (source.length) memcpy(key + 1, source.data, source.length);
  struct value *value = hashmap_get(&making->values, span_make(key, source.length + 1));
  if (value) return value;
  value = value_new((enum pack_value_kind)kind, source, message, sizeof message);
  if (!value) {
    body_fail(making->error, "value: %s", message);
    return NULL;
  }
  arena_defer(arena, release_value, value);
  if (kind == PACK_UPSTREAM) {
    struct upstream_ref ref = name_upstream(making, value->upstream);
    value->upstream_slot = ref.slot;
    value->upstream_generation = ref.generation;
  }
  hashmap_put(&making->values, span_make(key, source.length + 1), value);
  return value;
}

/* The values inside a packed config, in the order in which a decoder meets them. */
static bool read_values(struct making *making, struct hook_config *config) {
  struct arena *arena = &making->host->unit.arena;
  for (int pass = 0; pass < 2; pass++) {
    struct pack_reader reader;
    struct pack_item item;
    unsigned count = 0;
    pack_reader_init(&reader, config->packed);
    while (reader.cursor < reader.end) {
      if (!pack_next(&reader, &item)) return body_fail(making->error, "config: %s", reader.error ? reader.error : "is cut short");
      if (item.type != PACK_VALUE) continue;
      if (pass == 1 && !(config->values[count] = get_value(making, item.value_kind, item.bytes))) return false;
      count++;
    }
    config->value_count = count;
    if (count == 0) return true;
    if (pass == 0) config->values = arena_zalloc(arena, count * sizeof(struct value *));
  }
  /* Each holds its own reference, so that whoever takes one over need not know who else shares it. */
  for (unsigned i = 0; i < config->value_count; i++) arena_defer(arena, release_value, value_hold(config->values[i]));
  return true;
}

static bool add_config(struct making *making, struct span packed, uint32_t *index) {
  struct host *host = making->host;
  uintptr_t known = (uintptr_t)hashmap_get(&making->configs, packed);
  if (known) {
    *index = (uint32_t)(known - 1);
    return true;
  }
  struct hook_config config = {.packed = packed};
  if (!read_values(making, &config)) return false;
  host->configs = grow(&host->unit.arena, host->configs, host->config_count, &making->config_room, sizeof *host->configs);
  *index = host->config_count;
  host->configs[host->config_count++] = config;
  hashmap_put(&making->configs, packed, (void *)(uintptr_t)(*index + 1u));
  return true;
}

static struct value *get_condition_value(void *making, int kind, struct span source) { return get_value(making, kind, source); }

/* One condition per packed form in a host. */
static const struct condition *read_condition(void *context, struct span packed) {
  struct making *making = context;
  const struct condition *known = hashmap_get(&making->conditions, packed);
  if (known) return known;
  const struct condition_options options = {get_condition_value, making, making->resolver->header_id};
  const struct condition *condition = condition_read(&making->host->unit.arena, packed, &options, making->error);
  if (condition) hashmap_put(&making->conditions, packed, (void *)condition);
  return condition;
}

static const char nil_byte[] = "\xc0"; /* an absent config is nil */

static bool read_hooks(struct making *making, struct span map, const char *key, struct hook **hooks, unsigned *count) {
  struct pack_reader reader;
  uint32_t number;
  if (!body_array(map, key, &reader, &number, making->error)) return false;
  if (number == 0) return true;
  struct hook *list = arena_zalloc(&making->host->unit.arena, number * sizeof *list);
  for (uint32_t i = 0; i < number; i++) {
    struct span item, policy = {0}, config = {nil_byte, 1}, when;
    if (!body_item(&reader, key, i, &item, making->error)) return false;
    if (!body_text(item, "policy", &policy, making->error) || !body_map(item, "when", &when, making->error) ||
        (when.length && !(list[i].when = read_condition(making, when))))
      return body_within(making->error, "%s[%u].", key, (unsigned)i);
    pack_find(item, "config", &config);
    list[i].policy = policy.length ? making->resolver->policy(making->resolver->context, policy) : UINT32_MAX;
    if (list[i].policy == UINT32_MAX) {
      body_fail(making->error, "policy: there is no policy \"%.*s\"", policy.length > 64 ? 64 : (int)policy.length, policy.data ? policy.data : "");
      return body_within(making->error, "%s[%u].", key, (unsigned)i);
    }
    if (!add_config(making, config, &list[i].config)) return body_within(making->error, "%s[%u].", key, (unsigned)i);
  }
  *hooks = list;
  *count = number;
  return true;
}

static bool read_upstreams(struct making *making, struct span map, struct route *route) {
  struct pack_reader reader;
  uint32_t number;
  if (!body_array(map, "upstreams", &reader, &number, making->error)) return false;
  if (number == 0) return true;
  route->upstreams = arena_zalloc(&making->host->unit.arena, number * sizeof *route->upstreams);
  for (uint32_t i = 0; i < number; i++) {
    struct span item;
    struct weighted_upstream *upstream = &route->upstreams[i];
    int64_t weight = 1;
    if (!body_item(&reader, "upstreams", i, &item, making->error)) return false;
    if (!body_text(item, "name", &upstream->name, making->error) || !body_text(item, "service", &upstream->service, making->error) ||
        !body_text(item, "port", &upstream->port, making->error) || !body_integer(item, "weight", 0, 1000000, &weight, making->error))
      return body_within(making->error, "upstreams[%u].", (unsigned)i);
    if (upstream->name.length == 0) {
      body_fail(making->error, "name: is missing");
      return body_within(making->error, "upstreams[%u].", (unsigned)i);
    }
    upstream->weight = (uint32_t)weight;
    upstream->upstream = name_upstream(making, upstream->name);
    upstream->name = upstream_shown(upstream->name, &making->host->unit.arena);
  }
  route->upstream_count = number;
  return true;
}

static bool compile_template(struct making *making, struct span text, const char *key, struct text_template **out) {
  char message[200];
  if (text.length == 0) return true;
  *out = template_new(text, TEMPLATE_UNKNOWN_IS_ERROR, message, sizeof message);
  if (!*out) return body_fail(making->error, "settings.%s: %s", key, message);
  arena_defer(&making->host->unit.arena, free_template, *out);
  return true;
}

static bool read_settings(struct making *making, struct span map, struct route *route) {
  struct span settings;
  route_settings_defaults(&route->settings);
  route->fallback.slot = UPSTREAM_NONE;
  if (!body_map(map, "settings", &settings, making->error)) return false;
  if (settings.length && route_settings_apply(&route->settings, settings, making->error.text, making->error.size) != 0)
    return body_within(making->error, "settings.");
  if (route->settings.fallback_upstream.length) route->fallback = name_upstream(making, route->settings.fallback_upstream);
  return compile_template(making, route->settings.upstream_host, "upstream_host", &route->upstream_host) &&
         compile_template(making, route->settings.hash_by, "hash_by", &route->hash_by);
}

/* "^<path>", case-insensitive: "^/foo" also covers the "^/foo/" that the reference writes beside it for prefixes, at the same place in the order. */
static bool compile_path(struct making *making, struct span pattern, struct route *route) {
  struct arena *arena = &making->host->unit.arena;
  char message[200];
  char *anchored = arena_alloc(arena, pattern.length + 1);
  anchored[0] = '^';
  memcpy(anchored + 1, pattern.data, pattern.length);
  route->path_type = PATH_REGEX;
  route->regex = regex_new(span_make(anchored, pattern.length + 1), true, message, sizeof message);
  if (!route->regex) return body_fail(making->error, "regex_path: %s", message);
  arena_defer(arena, free_regex, route->regex);
  return true;
}

static bool read_path(struct making *making, struct span map, struct route *route) {
  struct span type = SPAN("prefix"), pattern = {0};
  if (!body_text(map, "path", &route->path, making->error) || !body_text(map, "type", &type, making->error) ||
      !body_text(map, "regex_path", &pattern, making->error))
    return false;
  if (route->path.length == 0) return body_fail(making->error, "path: is missing");
  if (route->path.length > UINT16_MAX) return body_fail(making->error, "path: is longer than %d bytes", UINT16_MAX);
  if (route->path.data[0] != '/') return body_fail(making->error, "path: does not begin with \"/\"");
  if (span_equal(type, SPAN("exact"))) route->path_type = PATH_EXACT;
  else if (!span_equal(type, SPAN("prefix"))) return body_fail(making->error, "type: is not exact or prefix");
  if (!making->host->regex_mode) return true;
  return compile_path(making, pattern.length ? pattern : route->path, route);
}

static bool read_source(struct making *making, struct span map, struct route *route) {
  struct span source;
  if (!body_map(map, "source", &source, making->error)) return false;
  if (source.length == 0) return true;
  return (body_text(source, "kind", &route->source.kind, making->error) && body_text(source, "namespace", &route->source.namespace, making->error) &&
          body_text(source, "name", &route->source.name, making->error)) ||
         body_within(making->error, "source.");
}

static struct traffic *hold_traffic(struct making *making, const struct route *route, struct span service, struct span canary) {
  struct traffic_labels labels = {making->host->name, route->path, route->source.namespace, route->source.name, service, canary};
  struct traffic *traffic = traffic_table_hold(making->resolver->traffic, &labels);
  arena_defer(&making->host->unit.arena, release_traffic, traffic);
  return traffic;
}

/* "service" is the main one's, also where an alternative serves: as in the reference. */
static void count_traffic(struct making *making, struct route *route) {
  struct span service = route->upstream_count ? route->upstreams[0].service : (struct span){NULL, 0};
  if (!making->resolver->traffic) return;
  route->traffic = hold_traffic(making, route, service, (struct span){NULL, 0});
  for (unsigned i = 1; i < route->upstream_count; i++) route->upstreams[i].traffic = hold_traffic(making, route, service, route->upstreams[i].name);
}

static bool read_route(struct making *making, struct span map, struct route *route) {
  struct span hooks;
  const struct edit_options options = {read_condition, making, making->resolver->header_id};
  if (!read_path(making, map, route) || !read_source(making, map, route) || !read_upstreams(making, map, route) ||
      !body_flag(map, "default_backend", &route->is_default_backend, making->error) || !body_text(map, "denied", &route->denied, making->error) ||
      !read_settings(making, map, route) || !edit_read_list(&making->host->unit.arena, map, &options, &route->edits, &route->edit_count, making->error) ||
      !body_map(map, "facts", &route->facts, making->error) || !body_map(map, "hooks", &hooks, making->error))
    return false;
  count_traffic(making, route);
  if (hooks.length == 0) return true;
  for (int phase = 0; phase < HOOK_PHASES; phase++)
    if (!read_hooks(making, hooks, phases[phase], &route->hooks[phase], &route->hook_count[phase])) return body_within(making->error, "hooks.");
  return true;
}

static bool read_routes(struct making *making, struct span body) {
  struct host *host = making->host;
  struct pack_reader reader;
  uint32_t number;
  if (!body_array(body, "routes", &reader, &number, making->error)) return false;
  if (number == 0) return true;
  host->routes = arena_zalloc(&host->unit.arena, number * sizeof *host->routes);
  for (uint32_t i = 0; i < number; i++) {
    struct span item;
    struct route *route = &host->routes[i];
    if (!body_item(&reader, "routes", i, &item, making->error)) return false;
    route->host = host;
    route->index = i;
    if (!read_route(making, item, route)) return body_within(making->error, "routes[%u].", (unsigned)i);
  }
  host->route_count = number;
  return true;
}

static bool read_host(struct making *making, struct span body) {
  struct host *host = making->host;
  struct body_error error = making->error;
  return body_is_map(body, error) && body_text(body, "owner", &host->owner, error) && body_flag(body, "redirect", &host->is_redirect, error) &&
         body_flag(body, "tls", &host->has_tls, error) && body_flag(body, "regex", &host->regex_mode, error) &&
         body_text(body, "certificate", &host->certificate, error) && body_text(body, "denied", &host->denied, error) &&
         read_hooks(making, body, "hooks", &host->hooks, &host->hook_count) && read_routes(making, body);
}

struct host *host_new(struct span name, struct span body, const struct host_resolver *resolver, char *error, size_t error_size) {
  struct host *host = calloc(1, sizeof *host);
  must(host);
  host->unit.magic = UNIT_MAGIC;
  host->unit.kind = UNIT_HOST;
  host->unit.release = release;
  list_init(&host->unit.retired);
  /* Most hosts are small, and there are thousands of them. */
  arena_init(&host->unit.arena, NULL, 1024);
  host->name = arena_span(&host->unit.arena, name);
  body = span_make(arena_copy(&host->unit.arena, body.data, body.length), body.length);
  struct making making = {.host = host, .resolver = resolver, .error = {error, error_size}};
  hashmap_init(&making.configs);
  hashmap_init(&making.values);
  hashmap_init(&making.conditions);
  bool is_good = read_host(&making, body);
  hashmap_free(&making.configs);
  hashmap_free(&making.values);
  hashmap_free(&making.conditions);
  if (is_good) {
    router_build(host);
    return host;
  }
  release(&host->unit);
  return NULL;
}
