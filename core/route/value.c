/* Values: C values that configs hold. Immutable after value_new, counted, freed by whoever lets go last, on any thread. */
#include "route/value.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/check.h"
#include "base/hashmap.h"
#include "route/body.h"
#include "route/regex.h"
#include "route/template.h"

#define VALUE_MAGIC MAGIC('v', 'a', 'l', 'u')
#define HOST_NAME_MAX_BYTES 253

struct host_set {
  struct hashmap names; /* lower case; the values are the set itself: only presence counts */
};

struct value_map {
  struct arena arena;
  struct hashmap entries; /* to struct span in the arena */
};

/* False if it does not fit a host name. */
static bool lower_host(struct span host, char out[HOST_NAME_MAX_BYTES + 1]) {
  if (host.length == 0 || host.length > HOST_NAME_MAX_BYTES) return false;
  for (size_t i = 0; i < host.length; i++) {
    char c = host.data[i];
    out[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
  }
  out[host.length] = '\0';
  return true;
}

static void host_set_free(struct host_set *set) {
  hashmap_free(&set->names);
  free(set);
}

static struct host_set *host_set_new(struct span list, char *error, size_t error_size) {
  struct host_set *set = calloc(1, sizeof *set);
  must(set);
  hashmap_init(&set->names);
  struct span item;
  while (span_next_item(&list, ',', &item)) {
    char name[HOST_NAME_MAX_BYTES + 1];
    bool is_wildcard = item.length > 2 && item.data[0] == '*' && item.data[1] == '.';
    bool is_valid = lower_host(item, name);
    for (size_t i = is_wildcard ? 2 : 0; is_valid && i < item.length; i++) {
      char c = name[i];
      is_valid = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.' || c == '_';
    }
    if (!is_valid) {
      snprintf(error, error_size, "has the item \"%.*s\", which is not a host name", item.length > 64 ? 64 : (int)item.length, item.data);
      host_set_free(set);
      return NULL;
    }
    hashmap_put(&set->names, span_make(name, item.length), set);
  }
  return set;
}

bool host_set_contains(const struct host_set *set, struct span host) {
  char name[HOST_NAME_MAX_BYTES + 1];
  if (!lower_host(host, name)) return false;
  if (hashmap_get(&set->names, span_make(name, host.length))) return true;
  size_t dot = span_find(host, '.');
  if (dot == 0 || dot >= host.length) return false;
  name[dot - 1] = '*';
  return hashmap_get(&set->names, span_make(name + dot - 1, host.length - dot + 1)) != NULL;
}

static void value_map_free(struct value_map *map) {
  hashmap_free(&map->entries);
  arena_free(&map->arena);
  free(map);
}

static struct value_map *value_map_new(struct span source, char *error, size_t error_size) {
  struct pack_reader reader;
  struct pack_item item, key, text;
  if (!body_is_map(source, (struct body_error){error, error_size})) return NULL;
  struct value_map *map = calloc(1, sizeof *map);
  must(map);
  arena_init(&map->arena, NULL, 0);
  hashmap_init(&map->entries);
  pack_reader_init(&reader, source);
  pack_next(&reader, &item);
  for (uint32_t i = 0; i < item.count; i++) {
    if (!pack_next(&reader, &key) || key.type != PACK_STRING || !pack_next(&reader, &text) || text.type != PACK_STRING) {
      snprintf(error, error_size, "has a key or value that is not a string");
      value_map_free(map);
      return NULL;
    }
    struct span *entry = arena_alloc(&map->arena, sizeof *entry);
    *entry = text.bytes.length ? arena_span(&map->arena, text.bytes) : SPAN("");
    hashmap_put(&map->entries, key.bytes, entry);
  }
  return map;
}

struct span value_map_get(const struct value_map *map, struct span key) {
  const struct span *entry = hashmap_get(&map->entries, key);
  return entry ? *entry : (struct span){NULL, 0};
}

static bool make(struct value *value, char *error, size_t error_size) {
  struct span source = value->source;
  switch (value->kind) {
    case PACK_REGEX: {
      size_t nul = span_find(source, '\0');
      struct span flags = span_make(source.data, nul);
      if (nul == source.length || !(flags.length == 0 || span_equal(flags, SPAN("i")))) {
        snprintf(error, error_size, "is not a packed regular expression");
        return false;
      }
      value->regex = regex_new(span_skip(source, nul + 1), flags.length == 1, error, error_size);
      return value->regex != NULL;
    }
    case PACK_TEMPLATE:
      return (value->template = template_new(source, TEMPLATE_UNKNOWN_IS_ERROR, error, error_size)) != NULL;
    case PACK_IP_SET:
      return (value->ip_set = ip_set_new(source, error, error_size)) != NULL;
    case PACK_HOST_SET:
      return (value->host_set = host_set_new(source, error, error_size)) != NULL;
    case PACK_MAP_VALUE:
      return (value->map = value_map_new(source, error, error_size)) != NULL;
    case PACK_UPSTREAM:
      value->upstream = source;
      if (source.length > 0) return true;
      snprintf(error, error_size, "is an upstream without a name");
      return false;
  }
  snprintf(error, error_size, "is a value of the unknown kind %d", (int)value->kind);
  return false;
}

struct value *value_new(enum pack_value_kind kind, struct span source, char *error, size_t error_size) {
  struct value *value = calloc(1, sizeof *value + source.length + 1);
  must(value);
  char *copy = (char *)(value + 1);
  if (source.length) memcpy(copy, source.data, source.length);
  value->magic = VALUE_MAGIC;
  atomic_init(&value->references, 1);
  value->kind = kind;
  value->source = span_make(copy, source.length);
  if (make(value, error, error_size)) return value;
  free(value);
  return NULL;
}

struct value *value_hold(struct value *value) {
  must(value->magic == VALUE_MAGIC);
  atomic_fetch_add_explicit(&value->references, 1, memory_order_relaxed);
  return value;
}

void value_release(struct value *value) {
  if (!value) return;
  must(value->magic == VALUE_MAGIC);
  /* Acquire and release: the last one must see what the others did before they let go. */
  if (atomic_fetch_sub_explicit(&value->references, 1, memory_order_acq_rel) != 1) return;
  switch (value->kind) {
    case PACK_REGEX:
      regex_free(value->regex);
      break;
    case PACK_TEMPLATE:
      template_free(value->template);
      break;
    case PACK_IP_SET:
      ip_set_free(value->ip_set);
      break;
    case PACK_HOST_SET:
      host_set_free(value->host_set);
      break;
    case PACK_MAP_VALUE:
      value_map_free(value->map);
      break;
    case PACK_UPSTREAM:
      break;
  }
  value->magic = 0;
  free(value);
}
