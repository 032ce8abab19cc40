/* Script: LuaJIT under the proxy. Three users: the publisher makes policy sets (one ready-made state per owner and worker), workers run hooks in them, the sync
 * thread loads and attaches policies in states of its own. Specs open the same C as the module moongate.core. */
#ifndef SCRIPT_SCRIPT_H
#define SCRIPT_SCRIPT_H

#include <lua.h>
#include <stdbool.h>

#include "base/dict.h"
#include "base/series.h"
#include "proxy/hook_runner.h"
#include "proxy/worker.h"
#include "route/unit.h"

struct script_options {
  const char *lua_directory; /* holds the folder moongate */
  unsigned workers;
  struct log *log;
  uint64_t guest_memory;          /* bytes per guest state */
  struct series_registry *series; /* of the policies' counters; outlives their states. NULL where no requests come */
  struct dict_store *dicts;       /* shared dictionaries: the same */
};

/* ---- publisher ---- */

/* Slots of policy names: stable for the life of the process. Publisher's thread only. */
struct policy_slots;
struct policy_slots *policy_slots_new(void);
void policy_slots_free(struct policy_slots *slots);
uint32_t policy_slot(struct policy_slots *slots, struct span name); /* made if new */
/* Any thread: uncaught errors in hooks of every policy that has had a slot, since the process began. */
void policy_slots_tell(const struct policy_slots *slots, void (*tell)(void *context, const char *policy, uint64_t errors), void *context);

/* Builds a set (a unit) of the packed body of docs/seam.md. States of owners whose files did not change are shared with `previous` (may be NULL). A file that
 * does not load is an error of the whole set: sync has loaded the same bytes before. NULL with a message. */
struct unit *policy_set_new(struct span body, struct policy_slots *slots, const struct script_options *options, struct unit *previous, char *error,
                            size_t error_size);

/* ---- worker ---- */

struct script_worker;
struct script_worker *script_worker_new(struct worker *worker, struct log *log);
/* After worker_free. */
void script_worker_free(struct script_worker *script);
struct http_client_options;
/* Before the worker runs: what bounds the HTTP requests of policies. The texts are kept. */
void script_worker_set_http(struct script_worker *script, const struct http_client_options *options);
struct operation_stage;
/* Specs: what hooks wait for is played there. Kept. */
void script_worker_set_stage(struct script_worker *script, const struct operation_stage *stage);
struct hook_runner script_hook_runner(struct script_worker *script);

/* ---- sync, check, specs ---- */

/* Registers the preloaded modules moongate.core and moongate.owners in a state with the standard libraries, and sets package.path to `lua_directory`. */
void script_open(lua_State *L, const struct script_options *options);
/* moongate.core as a plain Lua C module (build/moongate/core.so): for busted. */
int luaopen_moongate_core(lua_State *L);

#endif
