/* State: making, bounding and calling Lua states. The record lives as long as its Lua state; for states of our own the allocator's context is the record
 * itself. Whoever made the state frees it; between, one thread at a time uses it. */
#include "script/state.h"

#include <lualib.h>
#include <luajit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "script/core_module.h"
#include "script/pattern.h"

static const char record_key; /* its address is the registry key of the record */

static const char *const phase_names[HOOK_PHASES] = {"server_rewrite", "rewrite", "access", "balancer", "header_filter", "body_filter", "log"};

const char *state_phase_name(enum hook_phase phase) { return phase_names[phase]; }

void state_plain_text(const char *text, char *out, size_t size) {
  size_t i = 0;
  for (; text[i] && i + 1 < size; i++) {
    unsigned char c = (unsigned char)text[i];
    out[i] = c == '"' ? '\'' : c == '\\' ? '/' : c < 0x20 ? ' ' : text[i];
  }
  out[i] = '\0';
}

/* Where a function was called in a hook's `return`, its frame is gone, and with it the line: then the place is the whole hook. */
void state_place_error(struct script_state *state, unsigned policy, enum hook_phase phase, char *error, size_t size) {
  lua_State *L = state->L;
  lua_Debug place;
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->policies[policy].hooks[phase]);
  if (!lua_isfunction(L, -1)) {
    lua_pop(L, 1);
    return;
  }
  if (!lua_getinfo(L, ">S", &place)) return;
  size_t length = strlen(place.short_src);
  if (strncmp(error, place.short_src, length) == 0 && error[length] == ':') return;
  char before[LUA_IDSIZE + 32], last[16] = "";
  if (place.lastlinedefined > place.linedefined) snprintf(last, sizeof last, "-%d", place.lastlinedefined);
  size_t added = (size_t)snprintf(before, sizeof before, "%s:%d%s: ", place.short_src, place.linedefined, last), kept = strlen(error);
  if (added >= size) return;
  if (kept > size - added - 1) kept = size - added - 1;
  memmove(error + added, error, kept);
  memcpy(error, before, added);
  error[added + kept] = '\0';
}

static void *guest_alloc(void *context, void *block, size_t old_size, size_t new_size) {
  struct script_state *state = context;
  if (block == NULL) old_size = 0;
  if (new_size == 0) {
    state->memory_used -= old_size;
    free(block);
    return NULL;
  }
  if (state->is_bounded && new_size > old_size && (new_size > STATE_BLOCK_MAX || state->memory_used + (new_size - old_size) > state->memory_limit)) return NULL;
  /* Big blocks are filled by C that no hook looks into: they cost the budget. */
  if (state->is_bounded && new_size >= 4096) state->budget -= (int64_t)(new_size / STATE_BYTES_PER_INSTRUCTION);
  void *moved = realloc(block, new_size);
  if (moved == NULL) return NULL;
  state->memory_used += new_size - old_size;
  return moved;
}

static int message_handler(lua_State *L);

static void record_put(lua_State *L, struct script_state *state) {
  lua_pushcfunction(L, message_handler);
  state->handler = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_pushlightuserdata(L, (void *)&record_key);
  lua_pushlightuserdata(L, state);
  lua_rawset(L, LUA_REGISTRYINDEX);
}

static struct script_state *record_get(lua_State *L) {
  lua_pushlightuserdata(L, (void *)&record_key);
  lua_rawget(L, LUA_REGISTRYINDEX);
  struct script_state *state = lua_touserdata(L, -1);
  lua_pop(L, 1);
  if (state) must(state->magic == STATE_MAGIC);
  return state;
}

static void raise_spent(lua_State *L, struct script_state *state) {
  state->budget = 0;
  state->is_budget_spent = true;
  luaL_where(L, 0);
  lua_pushliteral(L, "instruction budget spent");
  lua_concat(L, 2);
  lua_error(L);
}

static int64_t clock_ns(clockid_t clock) {
  struct timespec now;
  clock_gettime(clock, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* The CPU time is a system call: it is asked for now and then, and when the monotonic clock says that the last instructions took long. */
static bool is_time_over(struct script_state *state) {
  int64_t now = clock_ns(CLOCK_MONOTONIC);
  bool is_late = state->looked_ns && now - state->looked_ns > STATE_LATE_NS;
  state->looked_ns = now;
  if (!is_late && state->looked_at_budget - state->budget < STATE_BUDGET_STEP) return false;
  state->looked_at_budget = state->budget;
  int64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);
  if (state->cpu_started_ns == 0) state->cpu_started_ns = cpu;
  return cpu - state->cpu_started_ns >= state->cpu_limit_ns;
}

/* LuaJIT's count hook is global to a state, coroutines included. Once the budget is spent every later look raises again, so that no pcall outlives it. */
static void count_hook(lua_State *L, lua_Debug *record) {
  (void)record;
  struct script_state *state = record_get(L);
  if (!state->is_bounded) return;
  state->budget -= STATE_BUDGET_LOOK;
  if (state->budget <= 0 || is_time_over(state)) raise_spent(L, state);
}

static int message_handler(lua_State *L) {
  if (lua_type(L, 1) == LUA_TSTRING) return 1;
  if (lua_isnil(L, 1) || lua_isboolean(L, 1)) {
    lua_pushfstring(L, "error value is a %s", luaL_typename(L, 1));
  } else if (!luaL_callmeta(L, 1, "__tostring") || lua_type(L, -1) != LUA_TSTRING) {
    lua_pushfstring(L, "error value is a %s", luaL_typename(L, 1));
  }
  luaL_where(L, 1);
  lua_insert(L, -2);
  lua_concat(L, 2);
  return 1;
}

static void free_record(struct script_state *state) {
  free(state->slots);
  free(state->free_slots);
  free(state->endpoints);
  free(state->members);
  free(state->owner);
  free(state);
}

static int release_record(lua_State *L) {
  struct script_state **box = lua_touserdata(L, 1);
  struct script_state *state = *box;
  if (state == NULL) return 0;
  *box = NULL;
  free_record(state);
  return 0;
}

static struct script_state *record_new(const char *owner, struct log *log) {
  struct script_state *state = calloc(1, sizeof *state);
  must(state != NULL);
  list_init(&state->password_jobs);
  state->magic = STATE_MAGIC;
  state->owner = strdup(owner);
  state->log = log;
  state->contexts = LUA_NOREF;
  return state;
}

struct script_state *state_adopt(lua_State *L, struct log *log) {
  struct script_state *state = record_get(L);
  if (state) {
    if (log) state->log = log;
    return state;
  }
  state = record_new("main", log);
  state->L = L;
  struct script_state **box = lua_newuserdata(L, sizeof *box);
  *box = state;
  lua_newtable(L);
  lua_pushcfunction(L, release_record);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  luaL_ref(L, LUA_REGISTRYINDEX);
  record_put(L, state);
  return state;
}

struct script_state *state_of(lua_State *L) {
  struct script_state *state = record_get(L);
  return state ? state : state_adopt(L, NULL);
}

void state_reset_budget(struct script_state *state, int64_t budget) {
  state->budget = budget;
  state->cpu_limit_ns = budget * STATE_NS_PER_INSTRUCTION;
  state->cpu_started_ns = 0;
  state->looked_ns = 0;
  state->looked_at_budget = budget;
  state->c_stack = __builtin_frame_address(0);
  state->is_budget_spent = false;
}

void state_charge(struct script_state *state, uint64_t instructions) {
  if (state->is_bounded) state->budget -= (int64_t)instructions;
}

void state_charge_bytes(lua_State *L, uint64_t bytes) {
  struct script_state *state = state_of(L);
  if (!state->is_bounded) return;
  state->budget -= (int64_t)(bytes / STATE_BYTES_PER_INSTRUCTION);
  if (state->budget <= 0) raise_spent(L, state);
}

void state_check_memory(lua_State *L) {
  const struct script_state *state = state_of(L);
  if (!state->is_bounded || state->memory_used <= state->memory_limit) return;
  lua_gc(L, LUA_GCCOLLECT, 0);
  if (state->memory_used > state->memory_limit) luaL_error(L, "not enough memory (the ceiling of this owner's policies)");
}

void state_check_stack(lua_State *L) {
  const struct script_state *state = state_of(L);
  const char *here = __builtin_frame_address(0);
  if (state->is_bounded && state->c_stack - here > (ptrdiff_t)STATE_C_STACK_MAX) luaL_error(L, "functions that call each other through C are nested too deep");
}

static void bound(struct script_state *state, int64_t budget) {
  state_reset_budget(state, budget);
  /* LuaJIT does not collect when an allocation is refused, so garbage must not fill the room below the ceiling. */
  if (state->memory_used > state->memory_limit / 4 * 3) lua_gc(state->L, LUA_GCCOLLECT, 0);
  state->is_bounded = state->is_guest;
}

/* The error on top of L is the allocator's: makes room, and says whose memory it was. */
static void tell_memory(struct script_state *state, lua_State *L) {
  lua_gc(state->L, LUA_GCCOLLECT, 0);
  lua_pop(L, 1);
  lua_pushliteral(L, "not enough memory (the ceiling of this owner's policies)");
}

bool state_has_room(const struct script_state *state, size_t length) {
  return !state->is_guest || (length <= STATE_BLOCK_MAX && state->memory_used + length <= state->memory_limit);
}

static int call_bounded(struct script_state *state, int arguments, int results, int handler, int64_t budget) {
  lua_State *L = state->L;
  bool was_bounded = state->is_bounded;
  if (!was_bounded) bound(state, budget);
  int status = lua_pcall(L, arguments, results, handler);
  state->is_bounded = was_bounded;
  if (status == LUA_ERRMEM && !was_bounded) tell_memory(state, L);
  return status;
}

int state_call(struct script_state *state, int arguments, int results, int64_t budget) {
  lua_State *L = state->L;
  int function = lua_gettop(L) - arguments;
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->handler);
  lua_insert(L, function);
  int status = call_bounded(state, arguments, results, function, budget);
  lua_remove(L, function);
  return status;
}

int state_call_hook(struct script_state *state, int arguments, int results, int64_t budget) {
  return call_bounded(state, arguments, results, STATE_HANDLER, budget);
}

struct state_thread state_take_thread(struct script_state *state) {
  if (state->free_thread_count > 0) return state->free_threads[--state->free_thread_count];
  struct state_thread thread;
  thread.L = lua_newthread(state->L);
  thread.reference = luaL_ref(state->L, LUA_REGISTRYINDEX);
  return thread;
}

void state_give_thread(struct script_state *state, struct state_thread thread, bool is_reusable) {
  if (!is_reusable || state->free_thread_count == STATE_THREADS_KEPT) {
    luaL_unref(state->L, LUA_REGISTRYINDEX, thread.reference);
    return;
  }
  lua_settop(thread.L, 0);
  state->free_threads[state->free_thread_count++] = thread;
}

/* The error on top of a coroutine is no text: makes it one, with the place where it was raised. */
static void explain(struct script_state *state, lua_State *thread) {
  lua_State *L = state->L;
  const char *type = luaL_typename(thread, -1);
  luaL_where(thread, 1);
  lua_insert(thread, -2);
  lua_pushcfunction(L, message_handler);
  lua_xmove(thread, L, 1);
  if (call_bounded(state, 1, 1, 0, STATE_BUDGET_EXPLAIN) || lua_type(L, -1) != LUA_TSTRING) {
    lua_pop(L, 1);
    lua_pushfstring(L, "error value is a %s", type);
  }
  lua_xmove(L, thread, 1);
  lua_concat(thread, 2);
}

int state_resume(struct script_state *state, lua_State *thread, int arguments, int64_t budget) {
  must(!state->is_bounded);
  bound(state, budget);
  int status = lua_resume(thread, arguments);
  state->is_bounded = false;
  if (status == LUA_ERRMEM) tell_memory(state, thread);
  else if (status != 0 && status != LUA_YIELD && lua_type(thread, -1) != LUA_TSTRING) explain(state, thread);
  return status;
}

/* coroutine.running: nil in a hook, on whichever stack it runs. Who had the coroutine of one that waits could continue it. */
static int running(lua_State *L) {
  const struct script_state *state = record_get(L);
  if (state->running_thread == L || lua_pushthread(L)) lua_pushnil(L);
  return 1;
}

static int load_library(lua_State *L) {
  /* moongate.guest returns the environment that a guest's files get; trusted files get the globals. */
  lua_getglobal(L, "require");
  lua_pushstring(L, "moongate.guest");
  lua_call(L, 1, 1);
  lua_setfield(L, LUA_REGISTRYINDEX, "moongate.environment");
  return 0;
}

void state_set_path(lua_State *L, const char *lua_directory) {
  lua_getglobal(L, "package");
  lua_pushfstring(L, "%s/?.lua;%s/?/init.lua", lua_directory, lua_directory);
  lua_setfield(L, -2, "path");
  lua_pop(L, 1);
}

struct script_state *state_new(const struct state_options *options, char *error, size_t error_size) {
  struct script_state *state = record_new(options->owner, options->log);
  state->serial = options->serial;
  state->series = options->series;
  state->dicts = options->dicts;
  state->is_guest = options->is_guest;
  state->memory_limit = options->memory_limit ? options->memory_limit : SIZE_MAX;
  state->L = options->is_guest ? lua_newstate(guest_alloc, state) : NULL;
  /* Where LuaJIT takes no allocator of ours (no GC64) the ceiling does not hold; the budget still does. */
  if (state->L == NULL) state->L = luaL_newstate();
  must(state->L != NULL);
  lua_State *L = state->L;
  record_put(L, state);
  luaL_openlibs(L);
  lua_getglobal(L, "coroutine");
  lua_pushcfunction(L, running);
  lua_setfield(L, -2, "running");
  lua_pop(L, 1);
  if (options->is_guest || options->no_jit) luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  state_set_path(L, options->lua_directory);
  core_module_preload(L);
  lua_rawgeti(L, LUA_REGISTRYINDEX, state->handler);
  must(lua_gettop(L) == STATE_HANDLER);
  if (options->is_guest) {
    pattern_install(L);
    lua_gc(L, LUA_GCSETPAUSE, 120);
    lua_sethook(L, count_hook, LUA_MASKCOUNT, STATE_BUDGET_LOOK);
    lua_pushcfunction(L, load_library);
    if (lua_pcall(L, 0, 0, 0)) {
      snprintf(error, error_size, "%s", lua_tostring(L, -1));
      state_free(state);
      return NULL;
    }
  }
  return state;
}

static void policy_clear(struct script_state *state, struct state_policy *policy) {
  luaL_unref(state->L, LUA_REGISTRYINDEX, policy->table);
  for (int i = 0; i < HOOK_PHASES; i++) luaL_unref(state->L, LUA_REGISTRYINDEX, policy->hooks[i]);
  free(policy->name);
}

void state_free(struct script_state *state) {
  if (state == NULL) return;
  must(state->magic == STATE_MAGIC);
  state->log = NULL; /* of the thread that used it last, and its ring has one producer: what a finalizer says goes to stderr */
  for (unsigned i = 0; i < state->policy_count; i++) policy_clear(state, &state->policies[i]);
  lua_close(state->L);
  if (state->passwords) dict_release(state->passwords);
  free(state->policies);
  state->magic = 0;
  free_record(state);
}

int state_find_policy(const struct script_state *state, struct span name) {
  for (unsigned i = 0; i < state->policy_count; i++)
    if (span_equal(span_of(state->policies[i].name), name)) return (int)i;
  return -1;
}

static int append_bytecode(lua_State *L, const void *bytes, size_t length, void *out) {
  (void)L;
  buffer_append(out, span_make(bytes, length));
  return 0;
}

int state_compile(const char *file, struct span source, struct buffer *bytecode, char *error, size_t error_size) {
  lua_State *L = luaL_newstate();
  must(L != NULL);
  char chunk[512];
  snprintf(chunk, sizeof chunk, "@%s", file);
  int status = luaL_loadbufferx(L, source.data, source.length, chunk, "t");
  if (status == 0) status = lua_dump(L, append_bytecode, bytecode);
  else snprintf(error, error_size, "%s", lua_tostring(L, -1));
  lua_close(L);
  return status ? -1 : 0;
}

/* Stack: the file's environment, then nothing; leaves a new table whose reads fall through to what the state allows. */
static void push_environment(struct script_state *state) {
  lua_State *L = state->L;
  lua_newtable(L);
  lua_newtable(L);
  if (state->is_guest) lua_getfield(L, LUA_REGISTRYINDEX, "moongate.environment");
  else lua_pushvalue(L, LUA_GLOBALSINDEX);
  lua_setfield(L, -2, "__index");
  lua_pushboolean(L, 0);
  lua_setfield(L, -2, "__metatable");
  lua_setmetatable(L, -2);
}

static int fail_load(lua_State *L, int top, char *error, size_t error_size, const char *file, const char *message) {
  if (strstr(message, file)) snprintf(error, error_size, "%s", message);
  else snprintf(error, error_size, "%s: %s", file, message);
  lua_settop(L, top);
  return -1;
}

int state_run_file(struct script_state *state, const char *file, struct span code, char *error, size_t error_size) {
  lua_State *L = state->L;
  int top = lua_gettop(L);
  char chunk[512];
  snprintf(chunk, sizeof chunk, "@%s", file);
  if (luaL_loadbufferx(L, code.data, code.length, chunk, state->is_guest ? "t" : "bt")) return fail_load(L, top, error, error_size, file, lua_tostring(L, -1));
  push_environment(state);
  lua_setfenv(L, -2);
  if (state_call(state, 0, 1, STATE_BUDGET_CONFIGURE)) return fail_load(L, top, error, error_size, file, lua_tostring(L, -1));
  if (lua_istable(L, -1)) return 0;
  snprintf(chunk, sizeof chunk, "%.400s: returns a %s, not a policy", file, luaL_typename(L, -1));
  return fail_load(L, top, error, error_size, file, chunk);
}

int state_load_policy(struct script_state *state, struct span name, const char *file, struct span code, char *error, size_t error_size) {
  lua_State *L = state->L;
  int top = lua_gettop(L);
  char message[512];
  if (state_run_file(state, file, code, error, error_size) != 0) return -1;
  struct state_policy policy = {0};
  for (int phase = 0; phase < HOOK_PHASES; phase++) {
    lua_pushstring(L, phase_names[phase]);
    lua_rawget(L, -2);
    int type = lua_type(L, -1);
    lua_pop(L, 1);
    if (type == LUA_TNIL || type == LUA_TFUNCTION) continue;
    snprintf(message, sizeof message, "%.400s: %s is a %s, not a function", file, phase_names[phase], lua_typename(L, type));
    return fail_load(L, top, error, error_size, file, message);
  }
  for (int phase = 0; phase < HOOK_PHASES; phase++) {
    lua_pushstring(L, phase_names[phase]);
    lua_rawget(L, -2);
    if (lua_isfunction(L, -1)) {
      policy.hooks[phase] = luaL_ref(L, LUA_REGISTRYINDEX);
    } else {
      policy.hooks[phase] = LUA_NOREF;
      lua_pop(L, 1);
    }
  }
  lua_pushliteral(L, "on_error");
  lua_rawget(L, -2);
  policy.is_skipping_errors = lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "skip") == 0;
  lua_pop(L, 1);
  lua_pushliteral(L, "guard");
  lua_rawget(L, -2);
  policy.is_guard = lua_toboolean(L, -1);
  lua_pop(L, 1);
  if (policy.is_guard) policy.is_skipping_errors = false;
  policy.table = luaL_ref(L, LUA_REGISTRYINDEX);
  policy.name = strndup(name.data, name.length);
  int index = state_find_policy(state, name);
  if (index >= 0) {
    policy_clear(state, &state->policies[index]);
  } else {
    if (state->policy_count == state->policy_capacity) {
      state->policy_capacity = state->policy_capacity ? state->policy_capacity * 2 : 16;
      state->policies = realloc(state->policies, state->policy_capacity * sizeof *state->policies);
      must(state->policies != NULL);
    }
    index = (int)state->policy_count++;
  }
  state->policies[index] = policy;
  lua_settop(L, top);
  return index;
}
