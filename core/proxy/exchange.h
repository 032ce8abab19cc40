/* Exchange: one request and its response. Lives in its own arena on one worker's thread. Script reads and changes it through these fields and the functions
 * below. */
#ifndef PROXY_EXCHANGE_H
#define PROXY_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/address.h"
#include "base/arena.h"
#include "base/list.h"
#include "base/wheel.h"
#include "http/codec.h"
#include "http/message.h"
#include "http/uri.h"
#include "proxy/exchange_steps.h"
#include "route/router.h"
#include "route/snapshot.h"

struct worker;
struct client;
struct pooled;
struct upstream;
struct hook_wait;
struct replacement;

#define EXCHANGE_MAGIC 0x68637865u
#define EXCHANGE_TRACE 16
#define EXCHANGE_TRIES 8 /* kept for $upstream_addr and friends; later tries overwrite the last */

enum answer_source { ANSWER_UPSTREAM = 0, ANSWER_POLICY = 1, ANSWER_PROXY = 2, ANSWER_REPLACEMENT = 3 };

/* One try at an endpoint, for logs and the retry rule. Times in microseconds, -1 unknown. */
struct try_record {
  struct span address; /* arena copy */
  int status;          /* 0: none */
  int error;           /* ERROR_* or 0 */
  int64_t connect_us, header_us, response_us;
  uint64_t response_bytes;
};

struct variable_value {
  struct span name, value;
  char *room; /* where a body_filter writes it, again and again; NULL: none has */
};

/* What the log needs of host and route: spans into the leased units, copied into the arena when the exchange detaches. */
struct route_facts {
  struct span namespace, ingress, service, port, path, server_name;
};

struct exchange {
  uint32_t magic;
  enum exchange_step step;
  struct worker *worker;
  struct client *client;       /* NULL after the connection is gone */
  struct codec_stream *stream; /* client side; NULL once finished or aborted */
  struct arena arena;
  struct list node; /* in worker->exchanges */

  /* the request, as policies see it */
  struct request_head *request;  /* headers here are what goes upstream, before forwarded headers are written */
  struct span host_name;         /* request.host: lower case, no port */
  struct uri uri;                /* path: decoded, normalised; query */
  struct span target;            /* request.uri: origin form, bytes as received */
  bool path_changed;             /* set_path / set_query was called: upstream gets the escaped path, else the bytes as received */
  struct span scheme;            /* what the client used, after trusted X-Forwarded-Proto: "http" or "https" */
  struct span best_host;         /* X-Forwarded-Host to send: Host as received, or the trusted one */
  uint16_t forwarded_port;       /* X-Forwarded-Port to send */
  struct address client_address; /* after real-address handling */
  char client_ip[ADDRESS_TEXT];  /* its text */
  bool peer_is_trusted;
  struct span request_id;

  /* where it goes; host and policies are leased */
  struct host *host;         /* the entry that matched; NULL if none */
  struct host *owner;        /* host, or its owner for aliases; leased */
  const struct route *route; /* NULL: default backend */
  struct regex_match captures;
  struct unit *policies; /* leased */
  bool has_leases, is_detached;
  struct upstream_ref upstream;                  /* chosen by the route, or by use_upstream */
  const struct weighted_upstream *upstream_info; /* of the route; for handles: NULL and upstream_name set */
  struct span upstream_name;
  bool upstream_is_set_by_policy;
  struct endpoint_record *endpoint; /* of the current or last try; pinned */
  struct endpoint_record *wanted;   /* upstream:choose() in this balancer run; pinned by the worker's current root only */
  struct pooled *connection;        /* current upstream connection */
  struct codec_stream *upstream_stream;

  /* the response, as policies see it */
  struct response_head *response; /* NULL until there is one */
  enum answer_source source;
  struct span reply_body;          /* of our own answers */
  struct span reply_reason;        /* why, for the log; never sent */
  struct replacement *replacement; /* another upstream's answer, which takes the place of the first one; NULL: none was asked for */

  /* proxy's own */
  struct request_head request_head; /* `request` points here: the codec's own head stays as received */
  struct route_facts facts;
  const struct route_settings *settings; /* of the route, or the worker's defaults; a copy in the arena once detached. NULL before MATCH */
  struct span received_host;             /* Host as received */
  struct span alternative_name;          /* canary's upstream, if it was chosen */
  struct span main_name;                 /* the route's own upstream then */
  unsigned failed_phases;                /* a header_filter failed: none runs again */
  int failure;                           /* of the current try: ERROR_* or a libuv code; 0: none */
  bool failed_to_connect, head_arrived, upstream_ended, sent_continue, request_stopped, reply_closes, is_reused_connection, avoid_pool, was_edited, is_logged;
  bool filters_body; /* its parts go through body_filter hooks */
  bool is_final;     /* the answer of exchange:respond or redirect: nothing takes its place */
  bool is_running, has_load, is_default, is_fallback, host_is_missing, client_half_closed, upstream_half_closed;
  unsigned stale_tries, balancer_tries; /* repeats on a stale pooled connection; those do not count as tries */
  uint64_t upstream_active_ms, relay_started_ms;
  uint64_t budgeted;        /* bytes of `body` counted in the process-wide budget */
  int log_status;           /* status for the log when none was sent: 499 */
  struct traffic *traffic;  /* where it counts; NULL: nowhere. Pinned once detached */
  struct span traffic_host; /* the host that it counts under, where that is not the record's own */
  bool is_traffic_pinned;

  /* per direction */
  bool request_ended, request_sent, response_started, response_ended, is_tunnel, client_left;
  struct buffer body; /* held request body */
  bool body_is_whole;
  bool awaits_body; /* a hook does, if it has at most body_wanted bytes */
  uint64_t body_wanted;
  bool body_was_written; /* any byte of the request reached the kernel in this try */

  /* tries */
  unsigned try_count;
  unsigned tried_count;

  /* script's own; opaque here */
  void *script;                /* per-exchange state of the hook runner (ctx tables); NULL until a hook ran */
  enum hook_phase phase;       /* of the hook that runs, for phase checks */
  unsigned char guards;        /* bits of script/guards.h: what guards have said */
  unsigned hook_index;         /* of the hook of the phase that ran last: the one that waits, if one does */
  struct hook_wait *wait;      /* NULL: none waits */
  uint64_t hook_wait_began_ms; /* the first of all its waits; 0: none yet */
  struct dict_holds *holds;    /* of shared dictionaries, given back with the arena; NULL: none yet */
  unsigned variable_count;

  /* times: loop microseconds */
  uint64_t started_us, try_started_us, ended_us;
  struct buffer paced; /* of the answer: held back by pace.c */
  struct timer pace;   /* of it; once is_paced */
  bool is_paced;
  struct deferred slice; /* of slice.c; once is_sliced */
  bool is_sliced;
  unsigned slice_parts; /* of bodies, in that turn of the loop */
  uint64_t slice_turn, slice_began_us;
  struct timer timer; /* connect, read and send timeouts, detach: one, moved lazily */
  uint64_t request_bytes, body_bytes_received, body_bytes_sent, bytes_sent;
  struct span remote_user;

  unsigned char trace[EXCHANGE_TRACE]; /* last steps, for the crash dump */
  unsigned trace_count;

  /* Not cleared when the struct is used again: their counts say what is valid. */
  struct try_record tries[EXCHANGE_TRIES];
  const struct endpoint_record *tried[BALANCE_TRIED];
  struct variable_value variables[LIMIT_VARIABLES];
};

/* For what a hook needs for a moment: the exchange's arena, but a body_filter, which may run any number of times, gets one that the next call empties. */
struct arena *exchange_scratch(struct exchange *exchange);

/* What policies may do; each is what the Lua call of the same name does. All are for the exchange's worker thread. */
void exchange_set_path(struct exchange *exchange, struct span decoded); /* copied */
void exchange_set_query(struct exchange *exchange, struct span query);  /* data NULL removes */
void exchange_set_method(struct exchange *exchange, struct span method);
/* 0, or ERROR_INVALID when it was already chosen. */
int exchange_use_upstream(struct exchange *exchange, struct upstream_ref upstream, struct span name);
/* The upstream to balance over, from the worker's current root; NULL if gone. Never keep it. */
const struct upstream *exchange_upstream(const struct exchange *exchange);
/* Makes the answer of a hook; the runner returns HOOK_ANSWERED after it. Headers may be NULL. Everything is copied. */
void exchange_respond(struct exchange *exchange, int status, const struct headers *headers, struct span body);
void exchange_deny(struct exchange *exchange, int status, struct span reason);
void exchange_redirect(struct exchange *exchange, int status, struct span location);
/* 0, or ERROR_LIMIT. */
int exchange_set_variable(struct exchange *exchange, struct span name, struct span value);
struct span exchange_variable(const struct exchange *exchange, struct span name);
struct span exchange_cookie(const struct exchange *exchange, struct span name);
/* Value of a template variable: the template_lookup function; context is the exchange. */
struct span exchange_lookup(void *exchange, enum variable variable, struct span argument, struct arena *arena);
uint64_t exchange_duration_us(const struct exchange *exchange);
/* Microseconds since 1970. */
int64_t exchange_started_unix_us(const struct exchange *exchange);
const struct link_tls_info *exchange_tls(const struct exchange *exchange);
/* Listener where the connection came in. */
struct span exchange_listener_scheme(const struct exchange *exchange);
uint16_t exchange_listener_port(const struct exchange *exchange);
uint16_t exchange_client_port(const struct exchange *exchange);

/* What a hook waited for is there, or its time is up. */
void exchange_hook_resume(struct exchange *exchange);

/* ---- for the files of this room ---- */

struct exchange *exchange_new(struct worker *worker, struct client *client);
/* Runs steps until one waits. The exchange may be gone afterwards. */
void exchange_run(struct exchange *exchange);
/* A hook that waits is not continued: something else has decided. */
void exchange_stop_hook(struct exchange *exchange);
/* The client is gone: cancels everything. The exchange is gone afterwards. */
void exchange_cancel(struct exchange *exchange);
/* Ends upstream work of the current try, whatever its state. `error` as in try_record. */
void exchange_drop_upstream(struct exchange *exchange, int error);
/* The last step: finishes the streams, gives everything back. */
void exchange_release(struct exchange *exchange);
struct exchange *exchange_of(void *pointer);

const char *exchange_step_name(enum exchange_step step);
/* One line for the crash dump and the admin page: id, host, route, step, last steps. Async-signal-safe enough: writes into `out`. */
size_t exchange_describe(const struct exchange *exchange, char *out, size_t size);

#endif
