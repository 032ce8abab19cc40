/* HTTP names: see http_names.h. A name is freed when it is neither asked for nor fresh and room is wanted. Worker's thread. */
#include "script/http_names.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hashmap.h"
#include "net/resolver.h"

enum { NAMES_KEPT = 256, ADDRESSES_KEPT = 8, TTL_LEAST_MS = 1000, TTL_MOST_MS = 300000, FAILURE_MS = 1000 };

struct http_name {
  struct http_names *names;
  struct list waiting;
  bool is_asked;
  uint64_t fresh_until_ms;
  struct address addresses[ADDRESSES_KEPT];
  size_t count;
};

struct http_names {
  struct loop *loop;
  const char *servers;
  http_names_done done;
  void *context;
  struct resolver *resolver; /* made for the first name; NULL also when it cannot be made */
  struct hashmap by_host;
};

struct http_names *http_names_new(struct loop *loop, const char *servers, http_names_done done, void *context) {
  struct http_names *names = calloc(1, sizeof *names);
  must(names != NULL);
  names->loop = loop;
  names->servers = servers;
  names->done = done;
  names->context = context;
  hashmap_init(&names->by_host);
  return names;
}

void http_names_free(struct http_names *names) {
  if (names == NULL) return;
  if (names->resolver) resolver_free(names->resolver);
  size_t cursor = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&names->by_host, &cursor));) {
    must(list_is_empty(&((struct http_name *)entry->value)->waiting));
    free(entry->value);
  }
  hashmap_free(&names->by_host);
  free(names);
}

static uint64_t now_of(const struct http_names *names) { return loop_now_ms(names->loop); }

enum http_name_state http_names_get(struct http_names *names, const char *host, const struct address **addresses, size_t *count) {
  const struct http_name *name = hashmap_get(&names->by_host, span_of(host));
  if (name == NULL || name->is_asked || now_of(names) >= name->fresh_until_ms) return HTTP_NAME_UNKNOWN;
  *addresses = name->addresses;
  *count = name->count;
  return HTTP_NAME_KNOWN;
}

/* What the done function does may free the name, or ask for it again. */
static void tell(struct http_name *name) {
  struct http_names *names = name->names;
  struct address addresses[ADDRESSES_KEPT];
  size_t count = name->count;
  struct list waiting;
  memcpy(addresses, name->addresses, sizeof addresses);
  list_init(&waiting);
  while (!list_is_empty(&name->waiting)) {
    struct list *node = name->waiting.next;
    list_remove(node);
    list_insert_last(&waiting, node);
  }
  names->done(names->context, &waiting, addresses, count);
}

static void on_addresses(void *context, int error, const struct address *addresses, size_t count, unsigned ttl) {
  struct http_name *name = context;
  uint64_t fresh_ms = (uint64_t)ttl * 1000;
  if (fresh_ms < TTL_LEAST_MS) fresh_ms = TTL_LEAST_MS;
  if (fresh_ms > TTL_MOST_MS) fresh_ms = TTL_MOST_MS;
  if (error || count == 0) fresh_ms = FAILURE_MS;
  name->is_asked = false;
  name->fresh_until_ms = now_of(name->names) + fresh_ms;
  name->count = count < ADDRESSES_KEPT ? count : ADDRESSES_KEPT;
  if (name->count > 0) memcpy(name->addresses, addresses, name->count * sizeof *addresses);
  if (!list_is_empty(&name->waiting)) tell(name);
}

static void make_room(struct http_names *names) {
  if (names->by_host.count < NAMES_KEPT) return;
  size_t cursor = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&names->by_host, &cursor));) {
    struct http_name *name = entry->value;
    if (name->is_asked) continue;
    hashmap_remove(&names->by_host, span_make(entry->key, entry->key_length));
    free(name);
  }
}

bool http_names_wait(struct http_names *names, const char *host, struct list *node) {
  struct http_name *name = hashmap_get(&names->by_host, span_of(host));
  int error = 0;
  if (names->resolver == NULL) names->resolver = resolver_new(&names->loop->uv, names->servers, &error);
  if (names->resolver == NULL) return false;
  if (name == NULL) {
    make_room(names);
    name = calloc(1, sizeof *name);
    must(name != NULL);
    name->names = names;
    list_init(&name->waiting);
    hashmap_put(&names->by_host, span_of(host), name);
  }
  list_insert_last(&name->waiting, node);
  if (name->is_asked) return true;
  name->is_asked = true;
  resolver_lookup(names->resolver, host, on_addresses, name);
  return true;
}
