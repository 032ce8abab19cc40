/* State: one Lua state with what the runtime knows about it. Trusted states have the whole language and the JIT; guest states are interpreted, under a memory
 * ceiling and an instruction budget, and their code sees only lua/moongate/guest.lua's allow-list. A state is made by one thread and may then be given to
 * another (publisher to worker): one thread at a time. */
#ifndef SCRIPT_STATE_H
#define SCRIPT_STATE_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/counters.h"
#include "base/dict.h"
#include "base/list.h"
#include "base/log.h"
#include "base/series.h"
#include "base/span.h"
#include "route/host.h"

#define STATE_MAGIC 0x74617473u

/* Budgets in interpreted instructions. */
#define STATE_BUDGET_HOOK 200000        /* one hook at request time, or what it does between two waits: about a millisecond */
#define STATE_BUDGET_WAITING 800000     /* one hook with all that it does between its waits; each wait costs a STEP */
#define STATE_BUDGET_CONFIGURE 10000000 /* loading a file, or one policy's attach */
#define STATE_BUDGET_LOOK 100           /* how often the count hook looks */
#define STATE_BUDGET_EXPLAIN 20000      /* making text of an error that is none */
#define STATE_BUDGET_STEP 1000          /* how often it asks for the CPU time, unless a look came late */
/* What instructions do not show: C that works long on long strings. CPU time per budgeted instruction, and the largest block (string, table part) of a guest.
 */
#define STATE_NS_PER_INSTRUCTION 250
#define STATE_BYTES_PER_INSTRUCTION 64
#define STATE_BLOCK_MAX (4u << 20)
#define STATE_LATE_NS 1000000          /* so long between two looks is not the work of instructions */
#define STATE_C_STACK_MAX (256u << 10) /* of calls from C into a policy and back, within one call of ours */

/* The bottom of a state's stack, for good: the message handler; in workers' states the table of contexts (exchange_objects.c). */
#define STATE_HANDLER 1
#define STATE_CONTEXTS 2

/* A loaded policy: registry references of its hooks, LUA_NOREF where it has none. */
struct state_policy {
  char *name;
  int table;
  int hooks[HOOK_PHASES];
  bool is_skipping_errors; /* on_error = "skip" */
  bool is_guard;           /* its access hook decides about admission; an error of it is never skipped */
};

/* A coroutine of the runtime's: hooks that may wait run on one. Kept alive by the registry. */
struct state_thread {
  lua_State *L;
  int reference;
};
#define STATE_THREADS_KEPT 64

/* Where an exchange is, as its handles name it. */
struct object_slot {
  struct exchange_part *part; /* NULL: nobody has it */
  uint32_t serial;            /* of who has it, or had it last */
};

struct exchange;
struct object_endpoint;
struct object_member;
struct script_state {
  uint32_t magic;
  lua_State *L;
  uint64_t serial; /* unique among the states of a process; 0 outside policy sets */
  char *owner;
  bool is_guest;
  struct log *log;                /* of the thread that uses it now; NULL: stderr */
  struct series_registry *series; /* NULL where no requests come */
  struct dict_store *dicts;       /* the same */
  struct dict *passwords;         /* what operation_password.c remembers; NULL until it does */
  struct list password_jobs;      /* that somebody waits for */
  bool has_told_dropped;          /* a counter beyond the owner's share was logged */
  /* bounds of guests; enforced only while their code runs, so that the runtime's own calls cannot fail */
  size_t memory_used, memory_limit;
  bool is_bounded;
  int64_t budget;
  int64_t cpu_limit_ns, cpu_started_ns; /* 0: the count hook did not look yet */
  int64_t looked_ns;                    /* monotonic */
  int64_t looked_at_budget;             /* the budget when the CPU time was looked at */
  const char *c_stack;                  /* where the C stack was when the call began */
  bool is_budget_spent;
  /* policies, in load order */
  struct state_policy *policies;
  unsigned policy_count, policy_capacity;
  /* what runs now */
  const char *running_policy;        /* NULL: no hook runs */
  struct exchange *running_exchange; /* of that hook */
  struct counters *counters;         /* of the worker whose hook runs */
  uint64_t skipped_ms;               /* by its loop's clock */
  unsigned running_index;
  enum hook_phase running_phase;
  lua_State *running_thread; /* the coroutine that it runs on; NULL where it may not wait */
  struct operation *wanted;  /* what it is about to wait for (operation.c); NULL: nothing */
  struct state_thread free_threads[STATE_THREADS_KEPT];
  unsigned free_thread_count;
  uint64_t run; /* changes with every hook: what must not outlive one remembers it */
  /* exchange objects (exchange_objects.c) */
  int contexts; /* registry: ctx of exchanges, by slot; LUA_NOREF until it is open */
  struct object_slot *slots;
  uint32_t *free_slots;
  uint32_t slot_count, slot_capacity, free_count;
  uint64_t slot_serial;
  struct object_member *members;     /* what handles have, by the addresses of names */
  struct object_endpoint *endpoints; /* that the hook of endpoints_run got */
  uint32_t endpoint_count, endpoint_capacity;
  uint64_t endpoints_run;
  int handler; /* registry: the message handler */
};

struct state_options {
  const char *lua_directory;
  const char *owner;
  bool is_guest;
  bool no_jit;
  size_t memory_limit; /* guests; 0: none */
  uint64_t serial;
  struct log *log;
  struct series_registry *series; /* outlives the state; may be NULL */
  struct dict_store *dicts;       /* the same */
};

/* NULL with a message. The library is loaded; no policy yet. */
struct script_state *state_new(const struct state_options *options, char *error, size_t error_size);
void state_free(struct script_state *state);
/* The runtime's record of a Lua state; made on the spot for states that are not ours (specs). */
struct script_state *state_of(lua_State *L);
/* Gives a state that the caller owns (main state, specs) its record; freed with the state. */
struct script_state *state_adopt(lua_State *L, struct log *log);

/* Runs a policy file and leaves its table on the stack; or -1 with "file:line: why" and nothing. `code`: source text, or bytecode of our own making for trusted
 * states. */
int state_run_file(struct script_state *state, const char *file, struct span code, char *error, size_t error_size);
/* Runs a policy file and keeps its hooks; replaces one of the same name. `code`: source text, or bytecode of our own making for trusted states. Returns its
 * index, or -1 with "file:line: why"; the one that was there stays then. */
int state_load_policy(struct script_state *state, struct span name, const char *file, struct span code, char *error, size_t error_size);
int state_find_policy(const struct script_state *state, struct span name);
/* Compiles a file's source once for many trusted states. 0, or -1 with a message. */
int state_compile(const char *file, struct span source, struct buffer *bytecode, char *error, size_t error_size);

/* lua_pcall under the state's bounds, with a handler that makes any error value a string and appends nothing. 0, or the error is the string on top. */
int state_call(struct script_state *state, int arguments, int results, int64_t budget);
/* The same at the bottom of a state's own stack, with the handler that lies there: for hooks. */
int state_call_hook(struct script_state *state, int arguments, int results, int64_t budget);
/* A coroutine that nothing runs on, and back: one that ended is used again, one that failed or waits is left to the collector. */
struct state_thread state_take_thread(struct script_state *state);
void state_give_thread(struct script_state *state, struct state_thread thread, bool is_reusable);
/* Runs a coroutine, a function and its arguments on its stack at first, under the state's bounds until it yields (LUA_YIELD), ends (0), or fails: then its
 * message is on top as text, and it cannot be used again. */
int state_resume(struct script_state *state, lua_State *thread, int arguments, int64_t budget);
/* Whether text of that length still fits below a guest's ceiling: for what the runtime itself puts into the state. */
bool state_has_room(const struct script_state *state, size_t length);
/* A fresh budget (between policies of one driver call). */
void state_reset_budget(struct script_state *state, int64_t budget);
/* Takes steps off the budget of the running code: for C functions that loop (patterns). */
void state_charge(struct script_state *state, uint64_t instructions);
/* The same for C functions that work through so many bytes without allocating them; raises when nothing is left. */
void state_charge_bytes(lua_State *L, uint64_t bytes);
/* Raises where a guest is above its ceiling: after what it holds in C has grown. */
void state_check_memory(lua_State *L);
/* Raises where C and a policy's functions have called each other too deep: for C functions that call what a policy gave them. */
void state_check_stack(lua_State *L);

/* package.path of a state: the library only. */
void state_set_path(lua_State *L, const char *lua_directory);
const char *state_phase_name(enum hook_phase phase);
/* Puts file and line of a policy's hook before an error of its that names none. */
void state_place_error(struct script_state *state, unsigned policy, enum hook_phase phase, char *error, size_t size);
/* A copy for a quoted field of a log line: what a script says can neither leave its quotes nor its line. */
void state_plain_text(const char *text, char *out, size_t size);

#endif
