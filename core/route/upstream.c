/* Upstream units. The unit owns its list and names; records belong to the publisher's registry and outlive it. Publisher's thread. */
#include "route/upstream.h"

#include <stdlib.h>

#include "base/check.h"
#include "route/body.h"

struct listed {
  struct address address;
  bool is_ready;
};

static void release(struct unit *unit) {
  must(unit->magic == UNIT_MAGIC && unit->kind == UNIT_UPSTREAM);
  unit->magic = 0;
  arena_free(&unit->arena);
  free(unit);
}

static int compare_addresses(const struct address *a, const struct address *b) {
  if (a->any.sa_family != b->any.sa_family) return a->any.sa_family == AF_INET ? -1 : 1;
  int order = a->any.sa_family == AF_INET ? memcmp(&a->v4.sin_addr, &b->v4.sin_addr, sizeof a->v4.sin_addr)
                                          : memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, sizeof a->v6.sin6_addr);
  if (order != 0) return order;
  return (int)address_port(a) - (int)address_port(b);
}

/* By address; of equal ones the ready one first, so that it is the one that stays. */
static int compare_listed(const void *a, const void *b) {
  const struct listed *left = a, *right = b;
  int order = compare_addresses(&left->address, &right->address);
  return order ? order : (int)right->is_ready - (int)left->is_ready;
}

static void add_endpoints(struct upstream *upstream, struct listed *listed, unsigned count, upstream_record record, void *context) {
  qsort(listed, count, sizeof *listed, compare_listed);
  unsigned kept = 0;
  for (unsigned i = 0; i < count; i++)
    if (i == 0 || compare_addresses(&listed[i].address, &listed[i - 1].address) != 0) listed[kept++] = listed[i];
  upstream->endpoints = arena_zalloc(&upstream->unit.arena, (kept + 1) * sizeof *upstream->endpoints);
  for (int ready = 1; ready >= 0; ready--) {
    for (unsigned i = 0; i < kept; i++) {
      if (listed[i].is_ready != (ready == 1)) continue;
      struct endpoint_record *found = record(context, &listed[i].address, upstream->key);
      if (!found) continue;
      must(found->magic == ENDPOINT_MAGIC);
      atomic_store_explicit(&found->is_draining, ready != 1, memory_order_relaxed);
      upstream->endpoints[upstream->count++] = (struct endpoint){found, ready == 1, ready != 1};
      upstream->ready += ready == 1;
    }
  }
}

static bool read_endpoint(struct span item, struct listed *listed, bool *is_used, struct body_error error) {
  struct span ip = {0};
  int64_t port = 0;
  bool ready = false, draining = false;
  if (!body_text(item, "ip", &ip, error) || !body_integer(item, "port", 1, 65535, &port, error) || !body_flag(item, "ready", &ready, error) ||
      !body_flag(item, "draining", &draining, error))
    return false;
  if (port == 0) return body_fail(error, "port: is missing");
  if (address_parse_ip(ip, (uint16_t)port, &listed->address) != 0) return body_fail(error, "ip: is not an IP address");
  listed->is_ready = ready;
  *is_used = ready || draining;
  return true;
}

static bool read_body(struct upstream *upstream, struct span body, struct listed **listed, unsigned *count, bool *is_missing, struct body_error error) {
  struct pack_reader reader;
  uint32_t number;
  int64_t port = 0;
  if (!body_is_map(body, error) || !body_text(body, "namespace", &upstream->namespace, error) || !body_text(body, "service", &upstream->service, error) ||
      !body_text(body, "port", &upstream->port, error) || !body_flag(body, "missing", is_missing, error) ||
      !body_flag(body, "outside", &upstream->is_outside, error) || !body_text(body, "external_name", &upstream->external_name, error) ||
      !body_integer(body, "external_port", 1, 65535, &port, error) || !body_array(body, "endpoints", &reader, &number, error))
    return false;
  if (upstream->external_name.length && port == 0) return body_fail(error, "external_port: is missing");
  upstream->external_port = (uint16_t)port;
  *count = 0;
  *listed = calloc(number + 1, sizeof **listed);
  must(*listed);
  for (uint32_t i = 0; i < number; i++) {
    struct span item;
    bool is_used = false;
    if (!body_item(&reader, "endpoints", i, &item, error)) return false;
    if (!read_endpoint(item, &(*listed)[*count], &is_used, error)) return body_within(error, "endpoints[%u].", (unsigned)i);
    *count += is_used;
  }
  return true;
}

/* Loopback, unspecified, link-local: a name outside must not lead into this machine, nor to what a cloud tells its machines. */
struct span upstream_shown(struct span key, struct arena *arena) {
  if (key.length && key.data[key.length - 1] == '/') key.length--; /* a Service's first port has no name */
  char *out = arena_copy(arena, key.data, key.length);
  for (size_t i = 0; i < key.length; i++)
    if (out[i] == '/') out[i] = '-';
  return span_make(out, key.length);
}

static bool is_refused_ipv4(const unsigned char bytes[4]) { return bytes[0] == 127 || bytes[0] == 0 || (bytes[0] == 169 && bytes[1] == 254); }

static bool is_refused(const struct address *address) {
  if (address->any.sa_family == AF_INET) return is_refused_ipv4((const unsigned char *)&address->v4.sin_addr);
  const struct in6_addr *v6 = &address->v6.sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(v6) || IN6_IS_ADDR_V4COMPAT(v6)) return is_refused_ipv4(v6->s6_addr + 12);
  return IN6_IS_ADDR_UNSPECIFIED(v6) || IN6_IS_ADDR_LOOPBACK(v6) || IN6_IS_ADDR_LINKLOCAL(v6);
}

static void set_port(struct address *address, uint16_t port) {
  if (address->any.sa_family == AF_INET) address->v4.sin_port = htons(port);
  else address->v6.sin6_port = htons(port);
}

/* A text of the body: as a rule it is a part of the key too, which is kept already. */
static struct span keep_text(struct upstream *upstream, struct span text) {
  if (text.length == 0) return (struct span){NULL, 0};
  const char *at = memmem(upstream->key.data, upstream->key.length, text.data, text.length);
  return at ? span_make(at, text.length) : arena_span(&upstream->unit.arena, text);
}

static void keep_texts(struct upstream *upstream) {
  struct span *texts[] = {&upstream->namespace, &upstream->service, &upstream->port, &upstream->external_name};
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) *texts[i] = keep_text(upstream, *texts[i]);
}

static struct upstream *build(struct span key, struct span body, const struct address *addresses, size_t address_count, upstream_record record, void *context,
                              unsigned *refused, struct body_error error) {
  struct upstream *upstream = calloc(1, sizeof *upstream);
  struct listed *listed = NULL;
  unsigned count = 0;
  bool is_missing = false;
  must(upstream);
  upstream->unit.magic = UNIT_MAGIC;
  upstream->unit.kind = UNIT_UPSTREAM;
  upstream->unit.release = release;
  list_init(&upstream->unit.retired);
  /* Most have an endpoint or two, and there are thousands of them. */
  arena_init(&upstream->unit.arena, NULL, 256);
  upstream->key = arena_span(&upstream->unit.arena, key);
  upstream->name = upstream_shown(key, &upstream->unit.arena);
  if (!read_body(upstream, body, &listed, &count, &is_missing, error)) goto fail;
  keep_texts(upstream);
  if (addresses) {
    free(listed);
    listed = calloc(address_count + 1, sizeof *listed);
    must(listed);
    count = 0;
    for (size_t i = 0; i < address_count; i++) {
      if (is_refused(&addresses[i])) {
        if (refused) ++*refused;
        continue;
      }
      listed[count] = (struct listed){addresses[i], true};
      set_port(&listed[count++].address, upstream->external_port);
    }
  }
  add_endpoints(upstream, listed, count, record, context);
  upstream->is_missing = is_missing || upstream->count == 0;
  balance_build(upstream);
  free(listed);
  return upstream;
fail:
  free(listed);
  release(&upstream->unit);
  return NULL;
}

struct upstream *upstream_new(struct span key, struct span body, upstream_record record, void *context, char *error, size_t error_size) {
  return build(key, body, NULL, 0, record, context, NULL, (struct body_error){error, error_size});
}

struct upstream *upstream_new_resolved(struct span key, struct span body, const struct address *addresses, size_t count, upstream_record record, void *context,
                                       unsigned *refused, char *error, size_t error_size) {
  struct address none;
  memset(&none, 0, sizeof none);
  if (refused) *refused = 0;
  return build(key, body, addresses ? addresses : &none, addresses ? count : 0, record, context, refused, (struct body_error){error, error_size});
}

bool upstream_is_same(const struct upstream *a, const struct upstream *b) {
  if (a->count != b->count || a->ready != b->ready || a->is_missing != b->is_missing || a->external_port != b->external_port ||
      !span_equal(a->external_name, b->external_name) || !span_equal(a->namespace, b->namespace) || !span_equal(a->service, b->service) ||
      !span_equal(a->port, b->port))
    return false;
  for (unsigned i = 0; i < a->count; i++)
    if (a->endpoints[i].record != b->endpoints[i].record || a->endpoints[i].is_ready != b->endpoints[i].is_ready) return false;
  return true;
}
