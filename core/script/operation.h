/* Operation: what a hook waits for. One list of kinds; each has three functions, and nothing else in the runtime knows what a kind does. A Lua function makes
 * an operation and yields; the runner begins it, and continues the hook with its results when it is done, when its time is up, or never, when the exchange is
 * cancelled. Worker's thread. */
#ifndef SCRIPT_OPERATION_H
#define SCRIPT_OPERATION_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/wheel.h"
#include "proxy/exchange.h"
#include "script/state.h"

/* X(KIND, function) */
#define OPERATIONS(X) \
  X(SLEEP, sleep) \
  X(BODY, body) \
  X(HTTP, http) \
  X(PASSWORD, password)

enum operation_kind {
#define X(kind, function) OPERATION_##kind,
  OPERATIONS(X)
#undef X
      OPERATION_KINDS
};

#define OPERATION_MAGIC 0x6e72706fu
#define OPERATION_TIMEOUT_MS 5000 /* where none is given */
#define OPERATION_TIMEOUT_MAX 3600.0

struct operation {
  uint32_t magic;
  enum operation_kind kind;
  struct exchange *exchange; /* since it began */
  struct timer timer;
  uint64_t timeout_ms; /* its own */
  bool is_timed_out;   /* its own time was up */
  bool is_expired;     /* the time of all waits of the exchange was up: the hook does not go on */
  bool is_limited_by_all;
  uint64_t most;          /* BODY: bytes */
  struct http_call *call; /* HTTP */
  struct upstream_ref upstream;
  bool has_upstream; /* the call goes to an endpoint of it */
  struct password_job *password;
  struct list in_password; /* among those that wait for it */
};

struct http_call;
struct http_client;
/* Specs: sleeping takes no time, though the clock moves, and requests are answered at once by a function, which fills the call's answer in. */
struct operation_stage {
  void (*answer)(void *context, struct http_call *call, const struct operation *operation);
  void *context;
};

/* In a Lua function that waits: the state, or an error that begins with `function` when the running code may not wait. */
struct script_state *operation_check(lua_State *L, const char *function);
/* Seconds at `index`, as milliseconds; nil: the usual timeout. */
uint64_t operation_timeout(lua_State *L, int index, const char *function, const char *what);
/* Makes an operation of that kind, which the state keeps until the runner takes it. */
struct operation *operation_want(struct script_state *state, enum operation_kind kind, uint64_t timeout_ms);
/* The Lua function's last word: `return operation_yield(L, operation);` */
int operation_yield(lua_State *L, struct operation *operation);

/* ---- runner ---- */

/* Of the exchange's worker. */
struct http_client *operation_http_client(struct exchange *exchange);
/* NULL: this is the world. */
const struct operation_stage *operation_stage(const struct exchange *exchange);

/* Endpoints of an upstream that a call may be sent to, in the order in which they would get requests. False with call->error: there is none. */
bool operation_choose_endpoints(struct worker *worker, struct upstream_ref upstream, struct http_call *call);
/* Pushes the URL of a path of an upstream, whose key it is given. */
struct span operation_push_url(lua_State *L, struct span upstream, struct span path, const char *function);

/* Whether the coroutine yielded for the operation that the state keeps, and not by itself. */
bool operation_is_wanted(const struct script_state *state, lua_State *thread);
struct operation *operation_take(struct script_state *state);
/* Whether the coroutine still stands where it yielded for it. */
bool operation_is_of(const struct operation *operation, lua_State *thread);
/* Drops one that was never yielded for. */
void operation_drop_wanted(struct script_state *state);
/* False when it is done already. Else exchange_hook_resume is called when it is done or its time is up. */
bool operation_begin(struct operation *operation, struct exchange *exchange);
/* Pushes what the Lua function returns. */
int operation_push(struct operation *operation, lua_State *L);
/* Stops it, if it runs, and frees it. */
void operation_free(struct operation *operation);

/* ---- kinds ---- */

/* start: false when it is done at once. push: may not raise. end: stops what runs and frees what the kind keeps; called once, begun or not. */
#define X(kind, function) \
  bool operation_start_##function(struct operation *operation); \
  int operation_push_##function(struct operation *operation, lua_State *L); \
  void operation_end_##function(struct operation *operation);
OPERATIONS(X)
#undef X

#endif
