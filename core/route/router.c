/* Router: which host, which route. An index per host is built once, in the host's arena; matching reads it and writes nothing.
 *
 * Plain hosts: exact paths and prefixes, each longest first and side by side in memory. Up to ROUTER_LINEAR of them are walked; above that a table over the
 * path's segments is asked from the longest to the shortest. Hosts in regex mode: the reference's order, first match. */
#include "route/router.h"

#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/limits.h"

#define ROUTER_LINEAR 16
#define ROUTER_SEED 0x726f757465u
#define REGEXES_A_LOOK 64 /* between two looks at the time */

struct entry {
  const char *path;
  uint32_t length;
  bool is_exact;
  const struct route *route;
};

struct router {
  struct entry *entries; /* exact ones first, then prefixes, each longest first; in regex mode in matching order */
  unsigned exact_count, count;
  struct entry **table; /* over all entries by kind and path; NULL: walk */
  size_t mask, longest; /* the longest entry's length: no longer path is looked for */
};

static uint64_t path_hash(struct span path, bool is_exact) { return hash_bytes(path, ROUTER_SEED + is_exact); }

static const struct entry *table_find(const struct router *router, struct span path, bool is_exact) {
  if (path.length > router->longest) return NULL;
  for (size_t at = path_hash(path, is_exact) & router->mask; router->table[at]; at = (at + 1) & router->mask) {
    const struct entry *entry = router->table[at];
    if (entry->is_exact == is_exact && span_equal(span_make(entry->path, entry->length), path)) return entry;
  }
  return NULL;
}

static void build_table(struct router *router, struct arena *arena) {
  size_t capacity = 64;
  while (capacity < (size_t)router->count * 2) capacity *= 2;
  router->mask = capacity - 1;
  router->table = arena_zalloc(arena, capacity * sizeof *router->table);
  for (unsigned i = 0; i < router->count; i++) {
    struct entry *entry = &router->entries[i];
    size_t at = path_hash(span_make(entry->path, entry->length), entry->is_exact) & router->mask;
    bool is_known = table_find(router, span_make(entry->path, entry->length), entry->is_exact) != NULL;
    if (is_known) continue; /* the first of two equal ones wins */
    while (router->table[at]) at = (at + 1) & router->mask;
    router->table[at] = entry;
  }
}

static int by_index(const struct entry *a, const struct entry *b) { return a->route->index < b->route->index ? -1 : 1; }

/* Exact before prefix, longer before shorter, older before younger. */
static int compare_plain(const void *a, const void *b) {
  const struct entry *left = a, *right = b;
  if (left->is_exact != right->is_exact) return left->is_exact ? -1 : 1;
  if (left->length != right->length) return left->length > right->length ? -1 : 1;
  return by_index(left, right);
}

/* Length of the path as written, descending; ties in reverse alphabetical order. */
static int compare_regex(const void *a, const void *b) {
  const struct entry *left = a, *right = b;
  if (left->length != right->length) return left->length > right->length ? -1 : 1;
  int order = memcmp(left->path, right->path, left->length);
  if (order != 0) return order > 0 ? -1 : 1;
  return by_index(left, right);
}

void router_build(struct host *host) {
  struct arena *arena = &host->unit.arena;
  struct router *router = arena_zalloc(arena, sizeof *router);
  router->count = host->route_count;
  router->entries = arena_zalloc(arena, (host->route_count + 1) * sizeof *router->entries);
  for (unsigned i = 0; i < host->route_count; i++) {
    const struct route *route = &host->routes[i];
    bool is_exact = !host->regex_mode && route->path_type == PATH_EXACT;
    router->entries[i] = (struct entry){route->path.data, (uint32_t)route->path.length, is_exact, route};
    if (route->path.length > router->longest) router->longest = route->path.length;
    router->exact_count += is_exact;
  }
  qsort(router->entries, router->count, sizeof *router->entries, host->regex_mode ? compare_regex : compare_plain);
  if (!host->regex_mode && router->count > ROUTER_LINEAR) build_table(router, arena);
  host->router = router;
}

/* "/p" and all below "/p/"; "/p/" all below itself. */
static bool is_below(const struct entry *entry, struct span path) {
  if (path.length < entry->length || memcmp(path.data, entry->path, entry->length) != 0) return false;
  return path.length == entry->length || entry->path[entry->length - 1] == '/' || path.data[entry->length] == '/';
}

static bool is_path_and_slash(const struct entry *entry, struct span path) {
  return entry->length == path.length + 1 && entry->path[path.length] == '/' && memcmp(entry->path, path.data, path.length) == 0;
}

/* nginx's order: "/p" itself, exact or prefix; then the slash redirect for a prefix "/p/"; then what is shorter. */
static void walk(const struct router *router, struct span path, struct route_match *match) {
  for (unsigned i = 0; i < router->exact_count; i++) {
    const struct entry *entry = &router->entries[i];
    if (entry->length != path.length || memcmp(entry->path, path.data, path.length) != 0) continue;
    match->route = entry->route;
    return;
  }
  const struct entry *with_slash = NULL;
  for (unsigned i = router->exact_count; i < router->count; i++) {
    const struct entry *entry = &router->entries[i];
    if (entry->length > path.length) {
      if (!with_slash && is_path_and_slash(entry, path)) with_slash = entry;
      continue;
    }
    if (with_slash && entry->length < path.length) break;
    if (!is_below(entry, path)) continue;
    match->route = entry->route;
    return;
  }
  if (!with_slash) return;
  match->route = with_slash->route;
  match->add_slash = true;
}

static void look_up(const struct router *router, struct span path, struct route_match *match) {
  const struct entry *entry = table_find(router, path, true);
  if (!entry) entry = table_find(router, path, false);
  if (!entry && path.length <= LIMIT_REWRITE_BYTES && (path.length == 0 || path.data[path.length - 1] != '/')) {
    char slashed[LIMIT_REWRITE_BYTES + 1];
    memcpy(slashed, path.data, path.length);
    slashed[path.length] = '/';
    entry = table_find(router, span_make(slashed, path.length + 1), false);
    match->add_slash = entry != NULL;
  }
  for (size_t i = path.length; !entry && i > 0; i--) {
    if (path.data[i - 1] != '/') continue;
    entry = table_find(router, span_make(path.data, i), false);                          /* "/p/" */
    if (!entry && i > 1) entry = table_find(router, span_make(path.data, i - 1), false); /* "/p" */
  }
  if (entry) match->route = entry->route;
}

/* Of this thread alone: that others run is not the regexes' fault. */
static uint64_t spent_ms(void) {
  struct timespec spent;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &spent);
  return (uint64_t)spent.tv_sec * 1000 + (uint64_t)spent.tv_nsec / 1000000;
}

/* Each regex has its own bound; thousands that stay below it must not hold up the worker's other requests either. */
static void walk_regexes(const struct router *router, struct span path, struct route_match *match) {
  uint64_t begun = 0;
  for (unsigned i = 0; i < router->count; i++) {
    const struct route *route = router->entries[i].route;
    if (regex_match(route->regex, path, &match->captures, &match->limit)) {
      match->route = route;
      return;
    }
    if (i % REGEXES_A_LOOK == REGEXES_A_LOOK - 1) {
      uint64_t now = spent_ms();
      if (begun && now > begun + LIMIT_REGEX_ROUTES_MS) match->limit = REACHED_REGEX_ROUTES_MS;
      if (!begun) begun = now;
    }
    /* Going on could choose a route that guards less: no route is the closed answer. */
    if (match->limit) return;
  }
}

struct route_match router_match(const struct host *host, struct span path) {
  const struct router *router = host->router;
  struct route_match match;
  match.route = NULL;
  match.add_slash = false;
  match.limit = REACHED_NONE;
  match.captures.count = 0;
  if (!router || path.length == 0) return match;
  if (!host->regex_mode) {
    if (router->table) look_up(router, path, &match);
    else walk(router, path, &match);
    return match;
  }
  walk_regexes(router, path, &match);
  return match;
}

static const struct host *find(const struct snapshot *snapshot, struct span name) {
  uint64_t hash = hash_bytes(name, snapshot->hash_seed);
  if (hash == 0) hash = 1;
  size_t mask = snapshot->host_capacity - 1;
  for (size_t at = hash & mask; snapshot->hosts[at].hash != 0; at = (at + 1) & mask) {
    const struct host_entry *entry = &snapshot->hosts[at];
    if (entry->hash == hash && span_equal(entry->host->name, name)) return entry->host;
  }
  return NULL;
}

/* The reference's label: [A-Za-z0-9_-]+ */
static bool is_label(struct span label) {
  for (size_t i = 0; i < label.length; i++) {
    char c = label.data[i];
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_')) return false;
  }
  return label.length > 0;
}

const struct host *router_find_host(const struct snapshot *snapshot, struct span host) {
  if (host.length > 1 && host.data[host.length - 1] == '.') host.length--;
  const struct host *found = NULL;
  if (snapshot->host_count > 0 && host.length > 0 && host.length <= 255) {
    found = find(snapshot, host);
    size_t dot = span_find(host, '.');
    if (!found && snapshot->has_wildcards && dot + 1 < host.length && is_label(span_make(host.data, dot))) {
      char name[256];
      name[0] = '*';
      memcpy(name + 1, host.data + dot, host.length - dot);
      found = find(snapshot, span_make(name, host.length - dot + 1));
    }
  }
  return found ? found : snapshot->catch_all;
}
