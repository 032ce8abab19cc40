/* Host: the unit of building. A host name with its routes, each with typed settings, fixed header edits, hooks with packed configs, and weighted upstreams by
 * slot. Immutable; shared by all workers. Its packed form is in docs/seam.md. */
#ifndef ROUTE_HOST_H
#define ROUTE_HOST_H

#include <stdbool.h>
#include <stdint.h>

#include "route/regex.h"
#include "route/route_settings.h"
#include "route/template.h"
#include "route/traffic_table.h"
#include "route/unit.h"
#include "route/value.h"

enum path_type { PATH_PREFIX = 0, PATH_EXACT = 1, PATH_REGEX = 2 /* all routes of a host in regex mode */ };

enum hook_phase {
  HOOK_SERVER_REWRITE = 0,
  HOOK_REWRITE = 1,
  HOOK_ACCESS = 2,
  HOOK_BALANCER = 3,
  HOOK_HEADER_FILTER = 4,
  HOOK_BODY_FILTER = 5,
  HOOK_LOG = 6,
  HOOK_PHASES = 7
};

enum edit_kind { EDIT_SET_REQUEST = 0, EDIT_REMOVE_REQUEST = 1, EDIT_SET_RESPONSE = 2, EDIT_ADD_RESPONSE = 3, EDIT_REMOVE_RESPONSE = 4 };
enum edit_when { EDIT_ALWAYS = 0, EDIT_SUCCESS = 1 /* nginx's add_header list: 200 201 204 206 301 302 303 304 307 308 */, EDIT_HTTPS = 2 };

struct condition; /* route/condition.h */

struct fixed_edit {
  enum edit_kind kind;
  enum edit_when when;
  const struct condition *condition; /* NULL: none; of response edits of routes only */
  struct span name;
  uint16_t header_id;          /* of the name, as the http room numbers them; 0: look it up */
  struct text_template *value; /* NULL for removals; owned by the unit */
  struct span plain;           /* the value, where it has neither variables nor control characters, and is not empty; else data NULL */
};

/* One policy on one route (or host, for server_rewrite). */
struct hook {
  uint32_t policy;              /* slot in the policy set: stable across sets for one name */
  uint32_t config;              /* index in host->configs */
  const struct condition *when; /* NULL: always */
};

/* A packed config: decoded by a worker at first use. */
struct hook_config {
  struct span packed;
  struct value **values; /* the PACK_VALUE items of `packed`, in their order; counted references */
  unsigned value_count;
};

/* How a host names an upstream: by slot, checked by name's generation so that a reused slot is noticed. */
struct upstream_ref {
  uint32_t slot;
  uint32_t generation;
};

struct route_source { /* which object: logs, errors, policies */
  struct span kind, namespace, name;
};

struct weighted_upstream {
  struct upstream_ref upstream;
  struct span name, service, port; /* for logs even when the slot is gone */
  uint32_t weight;
  struct traffic *traffic; /* counted for requests that go to this alternative; NULL for the main one, and where nothing is counted */
};

struct route {
  struct host *host;
  uint32_t index; /* in host->routes */
  enum path_type path_type;
  struct span path;
  struct regex *regex; /* PATH_REGEX: "^<path>", case-insensitive */
  struct route_source source;
  struct weighted_upstream *upstreams; /* the first is the main one; more: alternatives for policies */
  unsigned upstream_count;
  struct upstream_ref fallback; /* of settings.fallback_upstream; slot UINT32_MAX: none */
  bool is_default_backend;      /* the route that leads to the default backend (implicit "/") */
  struct span denied;           /* not empty: every request answers 503, and this is the reason for the log */
  struct route_settings settings;
  struct text_template *upstream_host; /* of settings.upstream_host; or NULL */
  struct text_template *hash_by;
  struct fixed_edit *edits;
  unsigned edit_count;
  struct hook *hooks[HOOK_PHASES]; /* flattened in order; NULL when empty */
  unsigned hook_count[HOOK_PHASES];
  struct traffic *traffic; /* NULL: nothing is counted */
  struct span facts;       /* packed map for exchange.route in Lua */
};

struct host {
  struct unit unit;
  struct span name;  /* lower case; "*.x.y" for wildcards; "_" for the catch-all */
  struct span owner; /* not empty: this name is an alias or redirect host of that host, which holds the routes */
  bool is_redirect;  /* owner's server_rewrite runs, then nothing */
  bool has_tls;
  bool regex_mode;
  struct span certificate; /* certificate unit key; empty: the default one */
  struct span denied;
  struct route *routes; /* matching order is the router's, see router.h */
  unsigned route_count;
  struct hook *hooks; /* server_rewrite */
  unsigned hook_count;
  struct hook_config *configs;
  unsigned config_count;
  void *router;               /* router_build's index over routes */
  struct upstream_ref *named; /* every upstream that this host may lead to (routes, fallbacks, handles in configs): keeps their slots */
  unsigned named_count;
};
#define UPSTREAM_NONE UINT32_MAX /* upstream_ref.slot: leads nowhere */

/* Resolves names while a host is built (publisher). */
struct host_resolver {
  struct upstream_ref (*upstream)(void *context, struct span name); /* makes the slot if it is new */
  uint32_t (*policy)(void *context, struct span name);              /* slot of a policy name; UINT32_MAX if unknown */
  void *context;
  struct traffic_table *traffic;           /* where its routes' records are; NULL: nothing is counted */
  uint16_t (*header_id)(struct span name); /* NULL: edits have none */
};
/* Builds a host of its packed body. The body is copied into the unit. NULL with a message. */
struct host *host_new(struct span name, struct span body, const struct host_resolver *resolver, char *error, size_t error_size);

#endif
