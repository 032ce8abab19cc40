/* The Lua module "moongate.kube": YAML, MessagePack for the seam, documents, directories, addresses, the log. Each state has its own; only the sync thread uses
 * it. */
#include "kube/native.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <malloc.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/buffer.h"
#include "base/check.h"
#include "base/own_address.h"
#include "base/hash.h"
#include "base/pack.h"
#include "kube/api_lua.h"
#include "kube/documents.h"
#include "kube/shelf.h"
#include "kube/watch.h"
#include "kube/yaml.h"

#define DOCUMENTS "moongate.kube.documents"
#define WATCH "moongate.kube.watch"
#define ARRAY "moongate.kube.array"
#define RAW "moongate.kube.raw"
#define BUFFER "moongate.kube.buffer"

enum { FILE_MAX_BYTES = 256 << 20, ENCODE_MAX_DEPTH = 32, LIST_MAX_DEPTH = 16 };

/* ---- YAML ---- */

/* yaml(text) -> value, line | nil (empty) | nil, message, line */
static int native_yaml(lua_State *L) {
  size_t length;
  const char *text = luaL_checklstring(L, 1, &length);
  unsigned line;
  switch (yaml_read(L, span_make(text, length), &line)) {
    case YAML_OK:
      lua_pushinteger(L, (lua_Integer)line);
      return 2;
    case YAML_EMPTY:
      lua_pushnil(L);
      return 1;
    default:
      lua_pushnil(L);
      lua_insert(L, -2);
      lua_pushinteger(L, (lua_Integer)line);
      return 3;
  }
}

/* ---- MessagePack ---- */

static bool has_metatable(lua_State *L, int index, const char *name) {
  if (!lua_getmetatable(L, index)) return false;
  luaL_getmetatable(L, name);
  bool is_it = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return is_it;
}

static int compare_keys(const void *a, const void *b) {
  const struct span *x = a, *y = b;
  int order = memcmp(x->data, y->data, x->length < y->length ? x->length : y->length);
  return order ? order : (x->length > y->length) - (x->length < y->length);
}

static void encode(lua_State *L, int index, struct buffer *out, unsigned depth);

/* Keys in byte order, so that equal tables give equal bytes: what did not change is recognised by its bytes. */
static void encode_map(lua_State *L, int index, struct buffer *out, unsigned depth) {
  struct span few[64], *keys = few;
  size_t count = 0, total = 0;
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) total++;
  int top = lua_gettop(L);
  if (total > sizeof few / sizeof *few) keys = lua_newuserdata(L, total * sizeof *keys);
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, "encode: a key is a %s", luaL_typename(L, -2));
    keys[count].data = lua_tolstring(L, -2, &keys[count].length);
    count++;
  }
  qsort(keys, count, sizeof *keys, compare_keys);
  pack_put_map(out, (uint32_t)count);
  for (size_t i = 0; i < count; i++) {
    pack_put_string(out, keys[i]);
    lua_pushlstring(L, keys[i].data, keys[i].length);
    lua_rawget(L, index);
    encode(L, lua_gettop(L), out, depth + 1);
    lua_pop(L, 1);
  }
  lua_settop(L, top);
}

static void encode_table(lua_State *L, int index, struct buffer *out, unsigned depth) {
  size_t count = lua_objlen(L, index);
  if (has_metatable(L, index, RAW)) {
    lua_rawgeti(L, index, 1);
    size_t length;
    const char *bytes = luaL_checklstring(L, -1, &length);
    buffer_append(out, span_make(bytes, length));
    lua_pop(L, 1);
  } else if (count > 0 || has_metatable(L, index, ARRAY)) {
    pack_put_array(out, (uint32_t)count);
    for (size_t i = 1; i <= count; i++) {
      lua_rawgeti(L, index, (int)i);
      encode(L, lua_gettop(L), out, depth + 1);
      lua_pop(L, 1);
    }
  } else {
    encode_map(L, index, out, depth);
  }
}

static void encode(lua_State *L, int index, struct buffer *out, unsigned depth) {
  if (depth > ENCODE_MAX_DEPTH) luaL_error(L, "encode: nested too deeply");
  luaL_checkstack(L, 8, "encode");
  double number;
  size_t length;
  const char *text;
  switch (lua_type(L, index)) {
    case LUA_TNIL:
    case LUA_TLIGHTUSERDATA:
      pack_put_nil(out);
      break;
    case LUA_TBOOLEAN:
      pack_put_boolean(out, lua_toboolean(L, index));
      break;
    case LUA_TNUMBER:
      number = lua_tonumber(L, index);
      if (number == floor(number) && fabs(number) < 9e15) pack_put_integer(out, (int64_t)number);
      else pack_put_number(out, number);
      break;
    case LUA_TSTRING:
      text = lua_tolstring(L, index, &length);
      pack_put_string(out, span_make(text, length));
      break;
    case LUA_TTABLE:
      encode_table(L, index, out, depth);
      break;
    default:
      luaL_error(L, "encode: a %s", luaL_typename(L, index));
  }
}

/* The buffer is a userdata, so that an error on the way frees it. */
static struct buffer *push_buffer(lua_State *L) {
  struct buffer *out = lua_newuserdata(L, sizeof *out);
  *out = (struct buffer){.data = NULL};
  luaL_getmetatable(L, BUFFER);
  lua_setmetatable(L, -2);
  return out;
}

static int buffer_collect(lua_State *L) {
  buffer_free(luaL_checkudata(L, 1, BUFFER));
  return 0;
}

/* encode(value) -> bytes */
static int native_encode(lua_State *L) {
  luaL_checkany(L, 1);
  lua_settop(L, 1);
  struct buffer *out = push_buffer(L);
  encode(L, 1, out, 0);
  struct span bytes = buffer_span(out);
  lua_pushlstring(L, bytes.data ? bytes.data : "", bytes.length);
  buffer_free(out);
  *out = (struct buffer){.data = NULL};
  return 1;
}

/* hash(bytes) -> 8 bytes, keyed by this process: to tell versions of one thing apart */
static int native_hash(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  uint64_t hash = hash_bytes(span_make(bytes, length), hash_process_seed());
  lua_pushlstring(L, (const char *)&hash, sizeof hash);
  return 1;
}

/* join(list of encoded values) -> one encoded array */
static int native_join(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  struct buffer *out = push_buffer(L);
  size_t count = lua_objlen(L, 1);
  pack_put_array(out, (uint32_t)count);
  for (size_t i = 1; i <= count; i++) {
    lua_rawgeti(L, 1, (int)i);
    size_t length;
    const char *bytes = luaL_checklstring(L, -1, &length);
    buffer_append(out, span_make(bytes, length));
    lua_pop(L, 1);
  }
  struct span bytes = buffer_span(out);
  lua_pushlstring(L, bytes.data, bytes.length);
  buffer_free(out);
  *out = (struct buffer){.data = NULL};
  return 1;
}

/* array(table) -> the same table, an array even when it is empty */
static int native_array(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_getmetatable(L, ARRAY);
  lua_setmetatable(L, 1);
  return 1;
}

/* raw(encoded bytes) -> a value that encodes as these bytes */
static int native_raw(lua_State *L) {
  luaL_checktype(L, 1, LUA_TSTRING);
  lua_settop(L, 1);
  lua_createtable(L, 1, 0);
  lua_insert(L, 1);
  lua_rawseti(L, 1, 1);
  luaL_getmetatable(L, RAW);
  lua_setmetatable(L, 1);
  return 1;
}

static void push_item(lua_State *L, struct pack_reader *reader, unsigned depth) {
  struct pack_item item = {0}; /* the compiler does not know that luaL_error does not return */
  luaL_checkstack(L, 8, "decode");
  if (depth > ENCODE_MAX_DEPTH || !pack_next(reader, &item)) luaL_error(L, "decode: %s", reader->error ? reader->error : "nested too deeply");
  switch (item.type) {
    case PACK_BOOLEAN:
      lua_pushboolean(L, item.boolean);
      break;
    case PACK_INTEGER:
      lua_pushnumber(L, (lua_Number)item.integer);
      break;
    case PACK_NUMBER:
      lua_pushnumber(L, item.number);
      break;
    case PACK_STRING:
    case PACK_VALUE:
      lua_pushlstring(L, item.bytes.data ? item.bytes.data : "", item.bytes.length);
      break;
    case PACK_ARRAY:
      lua_newtable(L);
      for (uint32_t i = 1; i <= item.count; i++) {
        push_item(L, reader, depth + 1);
        lua_rawseti(L, -2, (int)i);
      }
      break;
    case PACK_MAP:
      lua_newtable(L);
      for (uint32_t i = 0; i < item.count; i++) {
        push_item(L, reader, depth + 1);
        push_item(L, reader, depth + 1);
        if (lua_isnil(L, -2)) luaL_error(L, "decode: a nil key");
        lua_rawset(L, -3);
      }
      break;
    default:
      lua_pushnil(L);
  }
}

/* decode(bytes) -> value; C values become their source text. For flags and specs. */
static int native_decode(lua_State *L) {
  size_t length;
  const char *bytes = luaL_checklstring(L, 1, &length);
  struct pack_reader reader;
  pack_reader_init(&reader, span_make(bytes, length));
  push_item(L, &reader, 0);
  return 1;
}

/* ---- documents ---- */

static struct documents *check_documents(lua_State *L) { return *(struct documents **)luaL_checkudata(L, 1, DOCUMENTS); }

static int native_documents(lua_State *L) {
  struct documents **box = lua_newuserdata(L, sizeof *box);
  *box = documents_new();
  luaL_getmetatable(L, DOCUMENTS);
  lua_setmetatable(L, -2);
  return 1;
}

static int documents_collect(lua_State *L) {
  struct documents **box = luaL_checkudata(L, 1, DOCUMENTS);
  documents_free(*box);
  *box = NULL;
  return 0;
}

static int push_changes(lua_State *L, const struct document_change *changes, size_t count) {
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, (lua_Integer)changes[i].id);
    lua_setfield(L, -2, "id");
    if (changes[i].kind == DOCUMENT_PUT) {
      lua_pushlstring(L, changes[i].text.data, changes[i].text.length);
      lua_setfield(L, -2, "text");
    }
    lua_rawseti(L, -2, (int)i + 1);
  }
  return 1;
}

/* A regular file's bytes, malloc'ed; NULL with errno. */
static char *read_file(const char *path, size_t *length) {
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return NULL;
  struct stat info;
  char *bytes = NULL;
  size_t used = 0;
  if (fstat(fd, &info) < 0) goto done;
  errno = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
  if (!S_ISREG(info.st_mode)) goto done;
  errno = EFBIG;
  if (info.st_size > FILE_MAX_BYTES) goto done;
  size_t capacity = (size_t)info.st_size + 1;
  bytes = malloc(capacity);
  must(bytes);
  for (;;) {
    ssize_t got = read(fd, bytes + used, capacity - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      free(bytes);
      bytes = NULL;
      goto done;
    }
    used += (size_t)got;
    if (got == 0) break;
    if (used == capacity) { /* it grew */
      if (capacity > FILE_MAX_BYTES) break;
      capacity *= 2;
      bytes = realloc(bytes, capacity);
      must(bytes);
    }
  }
  *length = used;
done:;
  int saved = errno;
  close(fd);
  errno = saved;
  return bytes;
}

/* documents:update(path [, bytes]) -> list of { id, text | nil (gone) } | nil, message */
static int documents_lua_update(lua_State *L) {
  struct documents *documents = check_documents(L);
  const char *path = luaL_checkstring(L, 2);
  size_t length;
  char *bytes;
  if (lua_isstring(L, 3)) {
    const char *given = lua_tolstring(L, 3, &length);
    bytes = malloc(length + 1);
    must(bytes);
    memcpy(bytes, given, length);
  } else {
    bytes = read_file(path, &length);
    if (!bytes) {
      lua_pushnil(L);
      lua_pushstring(L, strerror(errno));
      return 2;
    }
  }
  size_t count;
  const struct document_change *changes = documents_update(documents, path, bytes, length, &count);
  return push_changes(L, changes, count);
}

static int documents_lua_forget(lua_State *L) {
  size_t count;
  struct documents *documents = check_documents(L);
  const struct document_change *changes = documents_forget(documents, luaL_checkstring(L, 2), &count);
  return push_changes(L, changes, count);
}

/* documents:position(id) -> path, index (from 1), line | nil */
static int documents_lua_position(lua_State *L) {
  struct document_position position;
  if (!documents_position(check_documents(L), (uint32_t)luaL_checkinteger(L, 2), &position)) return 0;
  lua_pushstring(L, position.path);
  lua_pushinteger(L, (lua_Integer)position.index + 1);
  lua_pushinteger(L, (lua_Integer)position.line);
  return 3;
}

/* documents:paths() -> list */
static int documents_lua_paths(lua_State *L) {
  struct documents *documents = check_documents(L);
  lua_newtable(L);
  size_t cursor = 0;
  const char *path;
  for (int i = 1; (path = documents_next_path(documents, &cursor)); i++) {
    lua_pushstring(L, path);
    lua_rawseti(L, -2, i);
  }
  return 1;
}

/* ---- directories ---- */

static void list_below(lua_State *L, const char *path, unsigned depth) {
  DIR *directory = opendir(path);
  if (!directory) return;
  struct dirent *item;
  while ((item = readdir(directory))) {
    if (watch_is_hidden(item->d_name)) continue;
    char below[4096];
    if ((size_t)snprintf(below, sizeof below, "%s%s%s", path, path[strlen(path) - 1] == '/' ? "" : "/", item->d_name) >= sizeof below) continue;
    struct stat info;
    if (item->d_type != DT_REG && stat(below, &info) < 0) continue;
    bool is_directory = item->d_type != DT_REG && S_ISDIR(info.st_mode);
    if (is_directory && depth < LIST_MAX_DEPTH) list_below(L, below, depth + 1);
    if (is_directory || (item->d_type != DT_REG && !S_ISREG(info.st_mode))) continue;
    lua_pushstring(L, below);
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
  }
  closedir(directory);
}

/* list(path) -> "file" | list of the files below | nil, message */
static int native_list(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  struct stat info;
  int result = stat(path, &info);
  if (result == 0 && S_ISDIR(info.st_mode)) result = access(path, R_OK | X_OK);
  if (result < 0) {
    lua_pushnil(L);
    lua_pushstring(L, strerror(errno));
    return 2;
  }
  if (!S_ISDIR(info.st_mode)) {
    lua_pushliteral(L, "file");
    return 1;
  }
  lua_newtable(L);
  list_below(L, path, 0);
  return 1;
}

/* read(path) -> bytes | nil, message */
static int native_read(lua_State *L) {
  size_t length;
  char *bytes = read_file(luaL_checkstring(L, 1), &length);
  if (!bytes) {
    lua_pushnil(L);
    lua_pushstring(L, strerror(errno));
    return 2;
  }
  lua_pushlstring(L, bytes, length);
  free(bytes);
  return 1;
}

/* watch(path...) -> watch | nil, message. For specs; the sync thread polls its own. */
static int native_watch(lua_State *L) {
  char error[128];
  int paths = lua_gettop(L);
  struct watch **box = lua_newuserdata(L, sizeof *box);
  *box = NULL;
  luaL_getmetatable(L, WATCH);
  lua_setmetatable(L, -2);
  *box = watch_new(error, sizeof error);
  if (!*box) {
    lua_pushnil(L);
    lua_pushstring(L, error);
    return 2;
  }
  for (int i = 1; i <= paths; i++) {
    int result = watch_add(*box, luaL_checkstring(L, i));
    if (result < 0) {
      lua_pushnil(L);
      lua_pushfstring(L, "%s: %s", lua_tostring(L, i), strerror(-result));
      return 2;
    }
  }
  return 1;
}

static int watch_collect(lua_State *L) {
  struct watch **box = luaL_checkudata(L, 1, WATCH);
  watch_free(*box);
  *box = NULL;
  return 0;
}

/* watch:wait(milliseconds) -> list of changed paths, empty after the time */
static int watch_lua_wait(lua_State *L) {
  struct watch *watch = *(struct watch **)luaL_checkudata(L, 1, WATCH);
  struct pollfd fd = {.fd = watch_fd(watch), .events = POLLIN};
  lua_newtable(L);
  if (poll(&fd, 1, (int)luaL_checkinteger(L, 2)) <= 0) return 1;
  while (poll(&fd, 1, 2) > 0) watch_read(watch);
  char *path;
  for (int i = 1; (path = watch_take(watch)); i++) {
    lua_pushstring(L, path);
    free(path);
    lua_rawseti(L, -2, i);
  }
  return 1;
}

/* ---- the rest ---- */

/* address(text) -> the text in its shortest form, 4 | 6, is_loopback (unspecified addresses reach us too), is_link_local (of the machine's own network: a
 * cloud's metadata among it) | nil */
static int native_address(lua_State *L) {
  const char *text = luaL_checkstring(L, 1);
  struct in_addr v4;
  struct in6_addr v6;
  char shortest[INET6_ADDRSTRLEN];
  if (inet_pton(AF_INET, text, &v4) == 1) {
    uint32_t host = ntohl(v4.s_addr);
    lua_pushstring(L, inet_ntop(AF_INET, &v4, shortest, sizeof shortest));
    lua_pushinteger(L, 4);
    lua_pushboolean(L, host >> 24 == 127 || host >> 24 == 0);
    lua_pushboolean(L, host >> 16 == 0xa9fe);
    return 4;
  }
  if (inet_pton(AF_INET6, text, &v6) != 1) return 0;
  bool is_mapped = IN6_IS_ADDR_V4MAPPED(&v6) || IN6_IS_ADDR_V4COMPAT(&v6);
  lua_pushstring(L, inet_ntop(AF_INET6, &v6, shortest, sizeof shortest));
  lua_pushinteger(L, 6);
  lua_pushboolean(L, IN6_IS_ADDR_LOOPBACK(&v6) || IN6_IS_ADDR_UNSPECIFIED(&v6) || (is_mapped && (v6.s6_addr[12] == 127 || v6.s6_addr[12] == 0)));
  lua_pushboolean(L, IN6_IS_ADDR_LINKLOCAL(&v6) || (is_mapped && v6.s6_addr[12] == 0xa9 && v6.s6_addr[13] == 0xfe));
  return 4;
}

/* is_own(text): whether that address is this host's own; false for what is no address */
static int native_is_own(lua_State *L) {
  struct span text;
  struct address address;
  text.data = luaL_checklstring(L, 1, &text.length);
  lua_pushboolean(L, address_parse_ip(text, 0, &address) == 0 && own_address_is(&address));
  return 1;
}

/* clock() -> seconds, monotonic */
static int native_clock(lua_State *L) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  lua_pushnumber(L, (double)now.tv_sec + (double)now.tv_nsec / 1e9);
  return 1;
}

/* trim(): gives free memory back to the system */
static int native_trim(lua_State *L) {
  (void)L;
  malloc_trim(0);
  return 0;
}

/* time() -> seconds since 1970, with a fraction */
static int native_time(lua_State *L) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  lua_pushnumber(L, (double)now.tv_sec + (double)now.tv_nsec / 1e9);
  return 1;
}

/* log(level, message, detail): the level is debug, info, notice, warn or error */
static int native_log(lua_State *L) {
  struct log *log = lua_touserdata(L, lua_upvalueindex(1));
  static const char *const names[] = {"debug", "info", "notice", "warn", "error", NULL};
  int level = luaL_checkoption(L, 1, "info", names);
  const char *message = luaL_checkstring(L, 2);
  struct span detail = {NULL, 0};
  detail.data = luaL_optlstring(L, 3, NULL, &detail.length);
  char quoted[3072]; /* it says what authors wrote */
  if (log && detail.data) log_write(log, (enum log_level)level, message, "detail=%s", log_quote(detail, quoted, sizeof quoted));
  else if (log) log_write(log, (enum log_level)level, message, NULL);
  return 0;
}

static void make_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction collect) {
  luaL_newmetatable(L, name);
  if (collect) {
    lua_pushcfunction(L, collect);
    lua_setfield(L, -2, "__gc");
  }
  if (methods) {
    lua_newtable(L);
    luaL_register(L, NULL, methods);
    lua_setfield(L, -2, "__index");
  }
  lua_pop(L, 1);
}

static int open_module(lua_State *L) {
  static const luaL_Reg functions[] = {{"yaml", native_yaml},
                                       {"encode", native_encode},
                                       {"hash", native_hash},
                                       {"join", native_join},
                                       {"array", native_array},
                                       {"raw", native_raw},
                                       {"decode", native_decode},
                                       {"documents", native_documents},
                                       {"list", native_list},
                                       {"read", native_read},
                                       {"watch", native_watch},
                                       {"address", native_address},
                                       {"is_own", native_is_own},
                                       {"clock", native_clock},
                                       {"time", native_time},
                                       {"trim", native_trim},
                                       {NULL, NULL}};
  static const luaL_Reg documents_methods[] = {
      {"update", documents_lua_update}, {"forget", documents_lua_forget}, {"position", documents_lua_position}, {"paths", documents_lua_paths}, {NULL, NULL}};
  static const luaL_Reg watch_methods[] = {{"wait", watch_lua_wait}, {NULL, NULL}};
  make_type(L, DOCUMENTS, documents_methods, documents_collect);
  make_type(L, WATCH, watch_methods, watch_collect);
  make_type(L, ARRAY, NULL, NULL);
  make_type(L, RAW, NULL, NULL);
  make_type(L, BUFFER, NULL, buffer_collect);
  lua_newtable(L);
  luaL_register(L, NULL, functions);
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_pushcclosure(L, native_log, 1);
  lua_setfield(L, -2, "log");
  shelf_push_maker(L);
  lua_setfield(L, -2, "shelf");
  api_lua_open(L, lua_touserdata(L, lua_upvalueindex(1)), lua_touserdata(L, lua_upvalueindex(2)));
  return 1;
}

void native_open(lua_State *L, struct log *log, struct counters *counters) {
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "preload");
  lua_pushlightuserdata(L, log);
  lua_pushlightuserdata(L, counters);
  lua_pushcclosure(L, open_module, 2);
  lua_setfield(L, -2, "moongate.kube");
  lua_pop(L, 2);
}

int luaopen_moongate_kube(lua_State *L) {
  lua_pushlightuserdata(L, NULL);
  lua_pushlightuserdata(L, NULL);
  lua_pushcclosure(L, open_module, 2);
  lua_call(L, 0, 1);
  return 1;
}
