/* Operation password: moongate.password over password.c. What takes its time is done by libuv's pool, at a lower priority than the workers, and what was found
 * right is remembered for a while: a dictionary of the process holds its digest. A job is for all who ask the same of one state while it runs; it lives until
 * the pool has done with it, whatever became of their exchanges. Worker's thread, but for `work`. */
#include <lauxlib.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/hash.h"
#include "proxy/worker.h"
#include "script/core_module.h"
#include "script/lua_raise.h"
#include "script/operation.h"
#include "script/password.h"

#define JOB_MAGIC 0x6f626a70u
#define REMEMBERED_MS 300000u
#define DIGEST_BYTES 32u
#define NICE 10
#define WAITING_MAX (LIMIT_WAITING / 16) /* for one job, so that nobody's guesses fill the room of all that wait */

/* The dictionary's owner and name are such that no policy has it; only jobs hold something of it. */
#define OWNER SPAN("\n")
#define NAME SPAN("passwords")

struct password_job {
  uint32_t magic;
  uv_work_t work;
  unsigned holders;     /* operations, and the pool */
  struct list waiting;  /* operations that began */
  struct list in_state; /* while it runs and somebody waits */
  struct list *jobs;    /* of the state that asked first */
  struct loop *loop;
  struct dict *known;       /* held */
  struct dict_entry *place; /* among those of its hash; NULL: there was none left */
  bool is_guests, is_running, is_done, is_right;
  unsigned char digest[DIGEST_BYTES];
  char hash[PASSWORD_HASH_BYTES], text[PASSWORD_TEXT_BYTES];
  size_t hash_length, text_length;
};

static struct dict_asker asker_of(struct loop *loop, struct counters *counters) { return (struct dict_asker){loop_now_ms(loop) + 1, counters}; }

static void job_release(struct password_job *job) {
  must(job->magic == JOB_MAGIC && job->holders > 0);
  if (--job->holders > 0) return;
  if (job->place) dict_give_back(job->known, job->place);
  dict_release(job->known);
  explicit_bzero(job->text, sizeof job->text);
  job->magic = 0;
  free(job);
}

static void work(uv_work_t *work) {
  struct password_job *job = work->data;
  must(job->magic == JOB_MAGIC);
  (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* of this thread alone, which does nothing else */
  job->is_right = password_matches(span_make(job->hash, job->hash_length), span_make(job->text, job->text_length));
}

static void worked(uv_work_t *work, int status) {
  struct password_job *job = work->data;
  struct loop *loop = job->loop;
  must(job->magic == JOB_MAGIC);
  if (status == 0 && job->is_right) {
    struct dict_value yes = {.kind = DICT_BOOLEAN, .boolean = true};
    dict_set(job->known, asker_of(loop, NULL), span_make((const char *)job->digest, DIGEST_BYTES), &yes, REMEMBERED_MS, false);
  }
  job->is_done = status == 0;
  job->is_running = false;
  list_remove(&job->in_state);
  while (!list_is_empty(&job->waiting)) { /* whoever goes on may end others of them */
    struct operation *operation = container_of(job->waiting.next, struct operation, in_password);
    list_remove(&operation->in_password);
    exchange_hook_resume(operation->exchange);
  }
  job_release(job);
  loop_flush(loop);
}

/* As many are checked of one hash as there is room left: whoever guesses at a user's password, or at names that are not there, keeps nobody else out. Guests
 * leave half of the room to others. Two workers at once may go one over it. */
static struct dict_entry *find_place(struct password_job *job) {
  uint32_t held = dict_holds(job->known);
  if (held >= (job->is_guests ? LIMIT_PASSWORDS / 2 : LIMIT_PASSWORDS)) return NULL;
  return dict_acquire(job->known, asker_of(job->loop, NULL), span_make(job->hash, job->hash_length), LIMIT_PASSWORDS - held);
}

static bool begin(struct password_job *job, struct loop *loop) {
  job->loop = loop;
  job->place = find_place(job);
  if (job->place == NULL) return false;
  job->work.data = job;
  must(uv_queue_work(&loop->uv, &job->work, work, worked) == 0);
  job->is_running = true;
  job->holders++;
  list_insert_last(job->jobs, &job->in_state);
  return true;
}

bool operation_start_password(struct operation *operation) {
  struct password_job *job = operation->password;
  struct worker *worker = operation->exchange->worker;
  if (job->is_running ? job->holders > WAITING_MAX : !begin(job, &worker->loop)) {
    counter_add(worker->options.counters, COUNTER_LIMIT_PASSWORDS, 1);
    return false;
  }
  list_insert_last(&job->waiting, &operation->in_password);
  return true;
}

int operation_push_password(struct operation *operation, lua_State *L) {
  const struct password_job *job = operation->password;
  if (job->is_done) {
    lua_pushboolean(L, job->is_right);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, operation->is_timed_out ? "timeout" : "too many passwords are being checked");
  return 2;
}

void operation_end_password(struct operation *operation) {
  struct password_job *job = operation->password;
  operation->password = NULL;
  if (job == NULL) return;
  list_remove(&operation->in_password);
  if (job->is_running && list_is_empty(&job->waiting)) {
    list_remove(&job->in_state);
    (void)uv_cancel((uv_req_t *)&job->work); /* one that has not begun is called back too, with UV_ECANCELED */
  }
  job_release(job);
}

/* ---- Lua */

static struct span check_text(lua_State *L, int index, const char *function, const char *what) {
  struct span text;
  if (lua_type(L, index) != LUA_TSTRING) luaL_error(L, "%s: the %s is a %s, not text", function, what, luaL_typename(L, index));
  text.data = lua_tolstring(L, index, &text.length);
  return text;
}

/* The text itself is kept nowhere. */
static void make_digest(struct span hash, struct span text, unsigned char out[DIGEST_BYTES]) {
  uint64_t seed = hash_process_seed(), length = hash.length;
  EVP_MD_CTX *context = EVP_MD_CTX_new();
  must(context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1);
  must(EVP_DigestUpdate(context, &seed, sizeof seed) == 1 && EVP_DigestUpdate(context, &length, sizeof length) == 1);
  must(EVP_DigestUpdate(context, hash.data, hash.length) == 1 && EVP_DigestUpdate(context, text.data, text.length) == 1);
  must(EVP_DigestFinal_ex(context, out, NULL) == 1);
  EVP_MD_CTX_free(context);
}

static bool is_known(struct dict *known, struct dict_asker asker, const unsigned char digest[DIGEST_BYTES]) {
  struct dict_value value;
  dict_get(known, asker, span_make((const char *)digest, DIGEST_BYTES), &value, NULL);
  return value.kind == DICT_BOOLEAN;
}

static struct password_job *find_job(struct list *jobs, const unsigned char digest[DIGEST_BYTES]) {
  for (struct list *node = jobs->next; node != jobs; node = node->next) {
    struct password_job *job = container_of(node, struct password_job, in_state);
    if (memcmp(job->digest, digest, DIGEST_BYTES) == 0) return job;
  }
  return NULL;
}

static struct password_job *make_job(struct script_state *state, struct span hash, struct span text, const unsigned char digest[DIGEST_BYTES]) {
  struct password_job *job = calloc(1, sizeof *job);
  must(job != NULL);
  job->magic = JOB_MAGIC;
  job->jobs = &state->password_jobs;
  list_init(&job->waiting);
  list_init(&job->in_state);
  job->known = dict_hold(state->dicts, OWNER, NAME);
  memcpy(job->digest, digest, DIGEST_BYTES);
  memcpy(job->hash, hash.data, hash.length);
  if (text.length) memcpy(job->text, text.data, text.length);
  job->is_guests = state->is_guest;
  job->hash_length = hash.length;
  job->text_length = text.length;
  return job;
}

/* password.verify(hash, text) -> boolean | nil, why */
static int core_password_verify(lua_State *L) {
  static const char function[] = "password.verify";
  struct script_state *state = operation_check(L, function);
  struct span hash = check_text(L, 1, function, "hash"), text = check_text(L, 2, function, "password");
  const char *why = password_complaint(hash);
  if (why) {
    lua_pushnil(L);
    lua_pushstring(L, why);
    return 2;
  }
  if (text.length > PASSWORD_TEXT_BYTES || password_is_quick(hash)) {
    lua_pushboolean(L, password_matches(hash, text));
    return 1;
  }
  if (state->passwords == NULL) state->passwords = dict_hold(state->dicts, OWNER, NAME);
  must(state->passwords != NULL);
  unsigned char digest[DIGEST_BYTES];
  make_digest(hash, text, digest);
  if (is_known(state->passwords, asker_of(&state->running_exchange->worker->loop, NULL), digest)) {
    lua_pushboolean(L, true);
    return 1;
  }
  struct operation *operation = operation_want(state, OPERATION_PASSWORD, OPERATION_TIMEOUT_MS);
  list_init(&operation->in_password);
  operation->password = find_job(&state->password_jobs, digest);
  if (operation->password == NULL) operation->password = make_job(state, hash, text, digest);
  operation->password->holders++;
  return operation_yield(L, operation);
}

/* password.complaint(hash) -> nil, or why it is none: "has ..." */
static int core_password_complaint(lua_State *L) {
  const char *why = password_complaint(check_text(L, 1, "password.complaint", "hash"));
  if (why) lua_pushstring(L, why);
  else lua_pushnil(L);
  return 1;
}

void core_password_register(lua_State *L, int core) {
  lua_newtable(L);
  lua_pushcfunction(L, core_password_verify);
  lua_setfield(L, -2, "verify");
  lua_pushcfunction(L, core_password_complaint);
  lua_setfield(L, -2, "complaint");
  lua_setfield(L, core, "password");
}
