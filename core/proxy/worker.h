/* Worker: one thread's data plane: loop, listeners, clients, pools, leases, its current root. All fields are for its own thread but the atomic ones. */
#ifndef PROXY_WORKER_H
#define PROXY_WORKER_H

#include <stdatomic.h>

#include "net/listener.h"
#include "net/loop.h"
#include "net/tls.h"
#include "proxy/exchange.h"
#include "proxy/hook_runner.h"
#include "proxy/pool.h"
#include "route/snapshot.h"

#define WORKER_MAGIC 0x6b726f77u

/* How a worker gives things back to the publisher (app implements; thread-safe, never blocks for long). */
struct root_return {
  void *context;
  /* `root` is given back, with the units of it that still have leases here and are not in the newer root. */
  void (*give_back)(void *context, struct snapshot *root, struct unit *const *leased, unsigned count);
  /* The last lease of such a unit is gone here. */
  void (*unit_done)(void *context, struct unit *unit);
};

/* Leases of one unit on this worker, by unit id. */
struct unit_leases {
  struct unit *unit;
  uint32_t count;
  bool is_listed;   /* reported with a root that was given back: unit_done is due */
  bool is_known;    /* hooks may have decoded something for it: forget is due */
  struct list node; /* in worker->leased while count > 0, else in worker->known while is_known */
};

struct worker_options {
  unsigned number;
  struct address *http, *https; /* arrays, NULL-terminated by count */
  unsigned http_count, https_count;
  struct tls_tickets *tickets;
  struct tls_server *(*tls_server)(void *context, struct worker *worker); /* app: the current profile's server; rebuilt when settings change */
  void *context;
  struct hook_runner hooks;
  struct root_return returns;
  struct log *log;                 /* keeps */
  struct counters *counters;       /* keeps */
  struct traffic *nobodys_traffic; /* of requests that no route matched; NULL: nothing is counted */
  _Atomic uint64_t *body_budget;   /* process-wide held body bytes */
};

struct worker {
  uint32_t magic;
  unsigned number;
  struct loop loop;
  struct worker_options options;
  struct snapshot *root;            /* current; NULL before the first */
  _Atomic(struct snapshot *) inbox; /* publisher puts, worker takes */
  uv_async_t wake;
  uv_check_t polled;
  struct unit_leases **leases; /* by unit id */
  unsigned lease_capacity;
  struct list leased, known;
  struct list clients, exchanges;
  unsigned client_count, exchange_count, tunnel_count;
  struct pool *pool;
  struct arena_cache blocks;
  struct arena scratch; /* exchange_scratch */
  struct exchange *free_exchanges;
  struct random random;
  struct balance_cursor *cursors; /* by upstream slot */
  unsigned cursor_count;
  struct listener *listeners[8];
  unsigned listener_count;
  struct timer drain_timer;
  unsigned detach_after_ms; /* DETACH_AFTER_MS; tests shorten it */
  bool is_draining, says_close, is_accepting;
  _Atomic int command; /* enum worker_command, highest given */
  uint64_t connection_serial;
  struct route_settings default_settings; /* for requests without a route */
  struct tls_client *upstream_tls;
  struct buffer line; /* scratch of the access log */
  char hostname[256];
  struct link *(*dial)(void *context, struct worker *worker, struct endpoint_record *record);
  void *dial_context;
  unsigned lease_count; /* all leases: 0 when nothing runs */
  int64_t date_seconds;
  char date[32];
  char time_local[40], time_iso8601[40];
  _Atomic(struct exchange *) running;   /* the exchange whose step runs now: crash dump, on whatever thread that happens */
  _Atomic(const char *) running_policy; /* set by script while a hook runs: the same */
  _Atomic uint64_t turn_started_ms;     /* watchdog: 0 while polling */
};

/* Any thread: publisher puts a root and wakes the worker; returns an untaken one that it replaced, or NULL. */
struct snapshot *worker_give_root(struct worker *worker, struct snapshot *root);

/* Worker's thread (or before it runs). 0 or a libuv code with a message naming the address. */
int worker_init(struct worker *worker, const struct worker_options *options, char *error, size_t error_size);
void worker_run(struct worker *worker); /* until stopped */
/* Any thread, through the wake handle: say Connection: close from now on / close listeners and idle connections, then stop when all is done / at once. */
enum worker_command { WORKER_COMMAND_NONE = 0, WORKER_SAY_CLOSE = 1, WORKER_DRAIN = 2, WORKER_STOP = 3 };
void worker_command(struct worker *worker, enum worker_command command);
void worker_free(struct worker *worker);

/* Takes a new root from the inbox, if there is one (the loop does it at the top of each turn). */
void worker_take_root(struct worker *worker);
/* Refreshes the clock strings when the second changed. */
void worker_update_clock(struct worker *worker);
/* Ends the loop when draining is complete. */
void worker_check_drained(struct worker *worker);
/* Accepts no more at max-worker-connections, and again below it: call it when the count or the number may have changed. */
void worker_bound_clients(struct worker *worker);

/* For specs: a worker without listeners whose clients are memory links; endpoints are dialled by `dial` (returns a memory link, or NULL: refused). */
void worker_set_dial(struct worker *worker, struct link *(*dial)(void *context, struct worker *worker, struct endpoint_record *record), void *context);
/* Serves one client link (already accepted, plain); scheme "http" or "https" as its listener. */
struct client *worker_serve(struct worker *worker, struct link *link, bool is_https, uint16_t listener_port);

#endif
