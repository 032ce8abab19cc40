/* The sync thread: waits for changes of the watched directories and for news of the API server, hands them to kube/sync.lua, and does sliced work between them,
 * the webhook's reviews among it.
 * Everything of it lives in one Lua state, with the JIT off. Owned by whoever made it; sync_run is the thread's main; sync_stop and the questions may be called
 * from any thread. */
#include "kube/sync.h"

#include <errno.h>
#include <lauxlib.h>
#include <luajit.h>
#include <lualib.h>
#include <math.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/exposition.h"
#include "base/pack.h"
#include "kube/api_lua.h"
#include "kube/native.h"
#include "kube/watch.h"

enum { GATHER_MS = 2, GATHER_MORE_MS = 5, GATHER_MAX_MS = 20, SLICE_MS = 4, RETRY_MS = 1000 };
#define SYNC_MAGIC MAGIC('s', 'y', 'n', 'c')

struct sync {
  uint32_t magic;
  struct sync_options options;
  lua_State *L;
  int object; /* registry reference of kube/sync.lua's object */
  struct watch *watch;
  struct api *api; /* the state's; NULL: a directory is followed */
  struct review_queue reviews;
  struct review *review; /* that is being judged */
  int wake_fd;
  _Atomic bool is_stopping, is_leaving, has_left, is_ready, has_broken_policies;
};

static struct sync *sync_of(void *context) {
  struct sync *sync = context;
  must(sync->magic == SYNC_MAGIC);
  return sync;
}

static int traceback(lua_State *L) {
  luaL_traceback(L, L, lua_isstring(L, 1) ? lua_tostring(L, 1) : "error that is not a text", 1);
  return 1;
}

static void note_policies(struct sync *sync) {
  lua_State *L = sync->L;
  lua_rawgeti(L, LUA_REGISTRYINDEX, sync->object);
  lua_getfield(L, -1, "policies");
  lua_getfield(L, -1, "is_broken");
  atomic_store(&sync->has_broken_policies, lua_toboolean(L, -1));
  lua_pop(L, 3);
}

/* With the first message the first sync is over: whoever gets it may ask what sync.h lets him ask. */
static int emit(lua_State *L) {
  struct sync *sync = sync_of(lua_touserdata(L, lua_upvalueindex(1)));
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  bool is_part = lua_toboolean(L, 3);
  if (!is_part && !atomic_load(&sync->is_ready)) {
    note_policies(sync);
    atomic_store(&sync->is_ready, true);
  }
  lua_Number taken = luaL_optnumber(L, 2, 0);
  if (sync->options.emit) sync->options.emit(sync->options.context, bytes, length, (uint64_t)(taken * 1e6), is_part);
  return 0;
}

/* gauge(family, key, { name, value, ... } | nil, number) */
static int gauge(lua_State *L) {
  struct sync *sync = sync_of(lua_touserdata(L, lua_upvalueindex(1)));
  struct span family, key;
  family.data = luaL_checklstring(L, 1, &family.length);
  key.data = luaL_checklstring(L, 2, &key.length);
  if (!sync->options.emit_gauge) return 0;
  if (lua_isnoneornil(L, 3)) {
    sync->options.emit_gauge(sync->options.context, family, key, NULL, 0);
    return 0;
  }
  lua_Number value = luaL_checknumber(L, 4);
  struct buffer labels = {0};
  size_t count = lua_objlen(L, 3);
  for (size_t i = 1; i + 1 <= count; i += 2) {
    struct span text;
    lua_rawgeti(L, 3, (int)i);
    lua_rawgeti(L, 3, (int)i + 1);
    must(lua_type(L, -2) == LUA_TSTRING && lua_type(L, -1) == LUA_TSTRING);
    text.data = lua_tolstring(L, -1, &text.length);
    exposition_label(&labels, lua_tostring(L, -2), text);
    lua_pop(L, 2);
  }
  struct span bytes = buffer_span(&labels);
  sync->options.emit_gauge(sync->options.context, family, key, &bytes, value);
  buffer_free(&labels);
  return 0;
}

/* show_gauges(family, boolean) */
static int show_gauges(lua_State *L) {
  struct sync *sync = sync_of(lua_touserdata(L, lua_upvalueindex(1)));
  struct span family;
  family.data = luaL_checklstring(L, 1, &family.length);
  if (sync->options.show_gauges) sync->options.show_gauges(sync->options.context, family, lua_toboolean(L, 2));
  return 0;
}

static void push_bound(lua_State *L, struct sync *sync, const char *name, lua_CFunction function) {
  lua_pushlightuserdata(L, sync);
  lua_pushcclosure(L, function, 1);
  lua_setfield(L, -2, name);
}

static void push_flags(lua_State *L, struct span flags) {
  lua_newtable(L);
  struct pack_reader reader;
  struct pack_item head, key, value;
  pack_reader_init(&reader, flags);
  if (flags.length == 0 || !pack_next(&reader, &head) || head.type != PACK_MAP) return;
  for (uint32_t i = 0; i < head.count; i++) {
    if (!pack_next(&reader, &key) || !pack_next(&reader, &value)) return;
    if (key.type != PACK_STRING || value.type != PACK_STRING) continue;
    lua_pushlstring(L, key.bytes.data, key.bytes.length);
    lua_pushlstring(L, value.bytes.data ? value.bytes.data : "", value.bytes.length);
    lua_rawset(L, -3);
  }
}

/* Pushes require("kube.sync").new { ... }. Runs under a protected call. */
static int make_object(lua_State *L) {
  struct sync *sync = sync_of(lua_touserdata(L, 1));
  bool is_check = lua_toboolean(L, 2);
  const struct sync_options *options = &sync->options;
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_pushfstring(L, "%s/?.lua;%s", options->home, lua_tostring(L, -1));
  lua_setfield(L, -3, "path");
  lua_settop(L, 2);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "kube.sync");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "new");
  lua_newtable(L);
  lua_pushstring(L, options->home);
  lua_setfield(L, -2, "home");
  lua_newtable(L);
  for (unsigned i = 0; i < options->policies_count; i++) {
    lua_pushstring(L, options->policies[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  lua_setfield(L, -2, "policies");
  push_flags(L, options->flags);
  lua_setfield(L, -2, "flags");
  lua_pushnumber(L, (lua_Number)options->guest_memory);
  lua_setfield(L, -2, "memory");
  lua_pushboolean(L, is_check);
  lua_setfield(L, -2, "is_check");
  push_bound(L, sync, "emit", emit);
  push_bound(L, sync, "gauge", gauge);
  push_bound(L, sync, "show_gauges", show_gauges);
  lua_call(L, 1, 1);
  return 1;
}

static int open_lua(struct sync *sync, bool is_check, char *error, size_t error_size) {
  lua_State *L = luaL_newstate();
  must(L);
  sync->L = L;
  luaL_openlibs(L);
  luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
  native_open(L, sync->options.log, sync->options.counters);
  if (sync->options.open_state && sync->options.open_state(sync->options.context, L, error, error_size)) return -1;
  lua_pushcfunction(L, traceback);
  lua_pushcfunction(L, make_object);
  lua_pushlightuserdata(L, sync);
  lua_pushboolean(L, is_check);
  if (lua_pcall(L, 2, 1, -4)) {
    snprintf(error, error_size, "%s", lua_tostring(L, -1));
    return -1;
  }
  sync->object = luaL_ref(L, LUA_REGISTRYINDEX);
  lua_settop(L, 0);
  return 0;
}

static struct sync *make(const struct sync_options *options, bool is_check, char *error, size_t error_size) {
  struct sync *sync = calloc(1, sizeof *sync);
  must(sync);
  *sync = (struct sync){.magic = SYNC_MAGIC, .options = *options, .object = LUA_NOREF, .wake_fd = -1};
  review_queue_init(&sync->reviews);
  if (open_lua(sync, is_check, error, error_size)) {
    sync_free(sync);
    return NULL;
  }
  return sync;
}

/* Pushes the client of the cluster. Runs under a protected call. */
static int make_client(lua_State *L) {
  lua_getglobal(L, "require");
  lua_pushliteral(L, "kube.following");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "connect");
  lua_pushvalue(L, 1);
  lua_call(L, 1, 2);
  if (lua_isnil(L, -2)) return lua_error(L);
  lua_pop(L, 1);
  return 1;
}

static int connect_cluster(struct sync *sync, char *error, size_t error_size) {
  lua_State *L = sync->L;
  lua_settop(L, 0);
  lua_pushcfunction(L, make_client);
  lua_rawgeti(L, LUA_REGISTRYINDEX, sync->object);
  if (lua_pcall(L, 1, 1, 0)) {
    snprintf(error, error_size, "%s", lua_tostring(L, -1));
    return -1;
  }
  sync->api = api_lua_get(L, -1); /* kept alive by the sync's object */
  must(sync->api);
  lua_settop(L, 0);
  return 0;
}

static int add_watch(struct sync *sync, const char *path, char *error, size_t error_size) {
  int result = watch_add(sync->watch, path);
  if (result < 0) snprintf(error, error_size, "%s: %s", path, strerror(-result));
  return result;
}

struct sync *sync_new(const struct sync_options *options, char *error, size_t error_size) {
  struct sync *sync = make(options, false, error, error_size);
  if (!sync) return NULL;
  char builtin[4096];
  snprintf(builtin, sizeof builtin, "%s/policies", options->home);
  sync->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  must(sync->wake_fd >= 0);
  sync->watch = watch_new(error, error_size);
  if (!sync->watch) goto fail;
  if (options->manifests ? add_watch(sync, options->manifests, error, error_size) : connect_cluster(sync, error, error_size)) goto fail;
  if (add_watch(sync, builtin, error, error_size)) goto fail;
  for (unsigned i = 0; i < options->policies_count; i++)
    if (add_watch(sync, options->policies[i], error, error_size)) goto fail;
  return sync;
fail:
  sync_free(sync);
  return NULL;
}

void sync_free(struct sync *sync) {
  if (!sync) return;
  must(sync->magic == SYNC_MAGIC);
  review_queue_close(&sync->reviews);
  review_queue_free(&sync->reviews);
  if (sync->L) lua_close(sync->L);
  watch_free(sync->watch);
  if (sync->wake_fd >= 0) close(sync->wake_fd);
  sync->magic = 0;
  free(sync);
}

static void wake(struct sync *sync) { (void)!write(sync->wake_fd, &(uint64_t){1}, sizeof(uint64_t)); }

/* What woke us is looked at after this. */
static void forget_wakes(struct sync *sync) { (void)!read(sync->wake_fd, &(uint64_t){0}, sizeof(uint64_t)); }

void sync_stop(struct sync *sync) {
  atomic_store(&sync->is_stopping, true);
  wake(sync);
}

void sync_leave(struct sync *sync) {
  atomic_store(&sync->is_leaving, true);
  wake(sync);
}

bool sync_review(struct sync *sync, struct review *review) {
  if (!sync_is_ready(sync) || !review_queue_put(&sync->reviews, review)) return false;
  wake(sync);
  return true;
}

bool sync_has_left(const struct sync *sync) { return !sync->api || !sync_is_ready(sync) || atomic_load(&sync->has_left); }
bool sync_is_ready(const struct sync *sync) { return atomic_load(&sync->is_ready); }
bool sync_has_broken_policies(const struct sync *sync) { return atomic_load(&sync->has_broken_policies); }

/* Puts traceback, the method and the object on the stack; arguments may follow. */
static int begin(struct sync *sync, const char *method) {
  lua_State *L = sync->L;
  lua_settop(L, 0);
  lua_pushcfunction(L, traceback);
  lua_rawgeti(L, LUA_REGISTRYINDEX, sync->object);
  lua_getfield(L, -1, method);
  lua_insert(L, -2);
  return 1;
}

/* Calls what `begin` prepared; an error is a bug of ours, logged; the state of the last message stays in force. */
static bool call(struct sync *sync, int arguments, int results) {
  if (lua_pcall(sync->L, arguments + 1, results, 1) == 0) return true;
  log_write(sync->options.log, LOG_ERROR, "sync failed", "detail=%s", lua_tostring(sync->L, -1));
  lua_settop(sync->L, 0);
  return false;
}

static uint64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* After a first change: 2 ms for what comes with it, 5 ms while more arrives, 20 ms at most. */
static void gather(struct sync *sync) {
  struct pollfd fd = {.fd = watch_fd(sync->watch), .events = POLLIN};
  uint64_t end = now_ms() + GATHER_MAX_MS;
  int wait = GATHER_MS;
  watch_read(sync->watch);
  while (now_ms() < end && poll(&fd, 1, wait) > 0) {
    watch_read(sync->watch);
    wait = GATHER_MORE_MS;
  }
}

static double now_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* `since`: when the first of them was seen. */
static void take_changes(struct sync *sync, double since) {
  lua_State *L = sync->L;
  begin(sync, "change");
  lua_newtable(L);
  char *path;
  for (int i = 1; (path = watch_take(sync->watch)); i++) {
    lua_pushstring(L, path);
    lua_rawseti(L, -2, i);
    free(path);
  }
  lua_pushnumber(L, since);
  call(sync, 2, 0);
  note_policies(sync);
}

static void give_back(struct sync *sync) {
  struct review *review = sync->review;
  sync->review = NULL;
  review->done(review);
}

/* Goes on with the review at hand, or begins one. */
static void judge(struct sync *sync, bool begins) {
  lua_State *L = sync->L;
  struct review *review = sync->review;
  begin(sync, "review");
  lua_pushnumber(L, SLICE_MS / 1000.0);
  struct span text = buffer_span(&review->text);
  if (begins) lua_pushlstring(L, text.data ? text.data : "", text.length);
  bool is_done = call(sync, begins ? 2 : 1, 3);
  if (is_done && lua_isnil(L, 2)) return; /* there is more of it to do */
  buffer_free(&review->text);
  review->text = (struct buffer){0};
  if (is_done) {
    text.data = lua_tolstring(L, 3, &text.length);
    buffer_append(&review->text, text);
    review->status = (int)lua_tointeger(L, 2);
    review->is_allowed = lua_toboolean(L, 4);
  }
  give_back(sync);
}

/* Judges what the webhook asks, for about one slice. True if there is more. */
static bool review(struct sync *sync) {
  uint64_t end = now_ms() + SLICE_MS;
  if (sync->review && atomic_load(&sync->review->is_abandoned)) give_back(sync);
  do {
    bool begins = !sync->review;
    if (begins) sync->review = review_queue_take(&sync->reviews);
    if (!sync->review) return false;
    judge(sync, begins);
  } while (now_ms() < end);
  return sync->review || !review_queue_is_empty(&sync->reviews);
}

static bool work(struct sync *sync, bool *has_unread) {
  begin(sync, "work");
  lua_pushnumber(sync->L, SLICE_MS / 1000.0);
  if (!call(sync, 1, 2)) return false;
  bool is_more = lua_toboolean(sync->L, -2);
  *has_unread = lua_toboolean(sync->L, -1);
  if (!is_more) note_policies(sync);
  return is_more;
}

/* start(paths). 0, or not with a message. */
static int start(struct sync *sync, const char *const *paths, unsigned count, char *error, size_t error_size) {
  lua_State *L = sync->L;
  begin(sync, "start");
  lua_newtable(L);
  for (unsigned i = 0; i < count; i++) {
    lua_pushstring(L, paths[i]);
    lua_rawseti(L, -2, (int)i + 1);
  }
  if (lua_pcall(L, 2, 2, 1)) snprintf(error, error_size, "%s", lua_tostring(L, -1));
  else if (lua_isnil(L, -2)) snprintf(error, error_size, "%s", lua_tostring(L, -1));
  else return 0;
  return -1;
}

/* Without a first sync there is nothing true to serve: it is never ready, and waits for its end. */
static void wait_for_stop(struct sync *sync) {
  struct pollfd fd = {.fd = sync->wake_fd, .events = POLLIN};
  while (!atomic_load(&sync->is_stopping)) {
    poll(&fd, 1, -1);
    forget_wakes(sync);
  }
}

static void run_directory(struct sync *sync) {
  bool is_more = true, is_asked = false, has_unread = false; /* more: what came while the first sync ran */
  while (!atomic_load(&sync->is_stopping)) {
    struct pollfd fds[2] = {{.fd = sync->wake_fd, .events = POLLIN}, {.fd = watch_fd(sync->watch), .events = POLLIN}};
    int wait = is_more || is_asked ? 0 : has_unread ? RETRY_MS : -1, count = poll(fds, 2, wait);
    if (count < 0 && errno != EINTR) must(!"poll");
    if (fds[0].revents) forget_wakes(sync);
    is_asked = review(sync);
    if (fds[1].revents) {
      double since = now_seconds();
      gather(sync);
      take_changes(sync, since);
      is_more = work(sync, &has_unread); /* now, or changes that come without a pause would keep it waiting */
    } else if (is_more) {
      is_more = work(sync, &has_unread);
    } else if (wait == RETRY_MS && count == 0) {
      begin(sync, "retry");
      call(sync, 0, 0);
      is_more = true;
    }
  }
}

/* One turn of kube/following.lua: milliseconds until the next one. */
static int turn(struct sync *sync) {
  lua_State *L = sync->L;
  begin(sync, "turn");
  lua_pushnumber(L, SLICE_MS / 1000.0);
  if (!call(sync, 1, 1)) return GATHER_MAX_MS;
  double wait = lua_tonumber(L, -1);
  return wait > 60 ? 60000 : (int)ceil(wait * 1000);
}

static void leave(struct sync *sync) {
  begin(sync, "leave");
  if (!call(sync, 0, 1) || lua_toboolean(sync->L, -1)) atomic_store(&sync->has_left, true);
}

/* Directories of policies are looked at once the first sync is over: the kernel keeps what happened until then. */
static void run_cluster(struct sync *sync) {
  while (!atomic_load(&sync->is_stopping)) {
    int wait = turn(sync);
    if (atomic_load(&sync->is_leaving) && !atomic_load(&sync->has_left)) {
      leave(sync);
      wait = wait > GATHER_MAX_MS ? GATHER_MAX_MS : wait;
    }
    if (review(sync)) wait = 0;
    struct api_wait_fd fds[2] = {{.fd = sync->wake_fd}, {.fd = watch_fd(sync->watch)}};
    api_wait(sync->api, fds, atomic_load(&sync->is_ready) ? 2 : 1, wait);
    if (fds[0].is_ready) forget_wakes(sync);
    if (fds[1].is_ready) {
      double since = now_seconds();
      gather(sync);
      take_changes(sync, since);
    }
  }
}

void sync_run(struct sync *sync) {
  must(sync->magic == SYNC_MAGIC);
  char error[1024];
  if (start(sync, &sync->options.manifests, sync->api ? 0 : 1, error, sizeof error)) {
    log_write(sync->options.log, LOG_ERROR, "sync cannot start", "detail=%s", error);
    wait_for_stop(sync);
    return;
  }
  note_policies(sync);
  if (sync->api) run_cluster(sync);
  else run_directory(sync);
  if (sync->review) give_back(sync);
  review_queue_close(&sync->reviews);
}

int sync_check(const struct sync_options *options, const char *const *paths, unsigned count, void (*line)(void *context, const char *level, struct span text),
               void *context, char *error, size_t error_size) {
  struct sync *sync = make(options, true, error, error_size);
  if (!sync) return -1;
  int problems = -1;
  lua_State *L = sync->L;
  if (start(sync, paths, count, error, error_size)) goto done;
  begin(sync, "check");
  if (lua_pcall(L, 1, 2, 1)) {
    snprintf(error, error_size, "%s", lua_tostring(L, -1));
    goto done;
  }
  problems = 0;
  int lines = 2;
  for (size_t i = 1; i <= lua_objlen(L, lines); i++) {
    lua_rawgeti(L, lines, (int)i);
    lua_getfield(L, -1, "level");
    lua_getfield(L, -2, "text");
    size_t length;
    const char *level = lua_tostring(L, -2), *text = lua_tolstring(L, -1, &length);
    if (strcmp(level, "deny") == 0 || strcmp(level, "error") == 0) problems++;
    if (line) line(context, level, span_make(text, length));
    lua_pop(L, 3);
  }
done:
  sync_free(sync);
  return problems;
}
