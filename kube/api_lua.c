/* native.api: a client as a userdata. It is closed by client:close() or collected; what it gives are ids, kinds as words, and texts. */
#include "kube/api_lua.h"

#include <lauxlib.h>

#include "base/check.h"

#define CLIENT "moongate.kube.api"
enum { TIMEOUT_S = 30, MAX_BODY = 4 << 20 };

static struct api *check_client(lua_State *L) {
  struct api *api = *(struct api **)luaL_checkudata(L, 1, CLIENT);
  if (!api) luaL_error(L, "the client is closed");
  return api;
}

struct api *api_lua_get(lua_State *L, int index) {
  struct api **box = lua_touserdata(L, index);
  if (!box || !lua_getmetatable(L, index)) return NULL;
  luaL_getmetatable(L, CLIENT);
  bool is_client = lua_rawequal(L, -1, -2);
  lua_pop(L, 2);
  return is_client ? *box : NULL;
}

/* Of the table at index 1. The text stays on the stack. */
static const char *text_field(lua_State *L, const char *name) {
  lua_getfield(L, 1, name);
  if (lua_isnil(L, -1)) return NULL;
  if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "%s is no text", name);
  return lua_tostring(L, -1);
}

static double number_field(lua_State *L, const char *name, double otherwise) {
  lua_getfield(L, 1, name);
  if (lua_isnil(L, -1)) return otherwise;
  double number = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : -1;
  if (!(number >= 0 && number <= 4e9)) luaL_error(L, "%s is no number, or out of range", name);
  return number;
}

static unsigned ms_field(lua_State *L, const char *name, double otherwise) {
  double ms = number_field(L, name, otherwise) * 1000;
  if (ms > 4e9) luaL_error(L, "%s is out of range", name);
  return (unsigned)ms;
}

/* api { url, ca, ca_file, ... } -> client | nil, message */
static int api_lua_new(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_checkstack(L, 20, "api");
  struct api_options options = {.url = text_field(L, "url"),
                                .ca = text_field(L, "ca"),
                                .ca_file = text_field(L, "ca_file"),
                                .certificate = text_field(L, "certificate"),
                                .certificate_file = text_field(L, "certificate_file"),
                                .key = text_field(L, "key"),
                                .key_file = text_field(L, "key_file"),
                                .token = text_field(L, "token"),
                                .token_file = text_field(L, "token_file"),
                                .server_name = text_field(L, "server_name"),
                                .proxy = text_field(L, "proxy"),
                                .log = lua_touserdata(L, lua_upvalueindex(1)),
                                .counters = lua_touserdata(L, lua_upvalueindex(2))};
  lua_getfield(L, 1, "insecure");
  options.is_insecure = lua_toboolean(L, -1);
  struct api **box = lua_newuserdata(L, sizeof(struct api *));
  *box = NULL;
  luaL_getmetatable(L, CLIENT);
  lua_setmetatable(L, -2);
  char error[512];
  *box = api_new(&options, error, sizeof error);
  if (*box) return 1;
  lua_pushnil(L);
  lua_pushstring(L, error);
  return 2;
}

static enum api_split split_field(lua_State *L) {
  static const char *const names[] = {"none", "list", "watch", NULL};
  lua_getfield(L, 1, "split");
  return (enum api_split)luaL_checkoption(L, -1, "none", names);
}

/* client:send { method, path, body, content_type, split, timeout, idle, max_body } -> id | nil, message */
static int client_send(lua_State *L) {
  struct api *api = check_client(L);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  lua_remove(L, 1);
  luaL_checkstack(L, 20, "send");
  struct api_request request = {.method = text_field(L, "method"), .path = text_field(L, "path"), .content_type = text_field(L, "content_type")};
  if (!request.method) request.method = "GET";
  if (!request.path) return luaL_error(L, "send: there is no path");
  request.body = span_make(text_field(L, "body"), 0);
  if (request.body.data) request.body.length = lua_objlen(L, -1);
  request.split = split_field(L);
  request.timeout_ms = ms_field(L, "timeout", request.split == API_SPLIT_WATCH ? 0 : TIMEOUT_S);
  request.idle_ms = ms_field(L, "idle", 0);
  request.max_body = (size_t)number_field(L, "max_body", MAX_BODY);
  char error[256];
  uint64_t id = api_send(api, &request, error, sizeof error);
  if (id) {
    lua_pushnumber(L, (lua_Number)id);
    return 1;
  }
  lua_pushnil(L);
  lua_pushstring(L, error);
  return 2;
}

/* { body, retry_after } or { retry } */
static void push_extra(lua_State *L, const struct api_news *news) {
  lua_createtable(L, 0, 2);
  if (news->kind == API_NEWS_FAILED) {
    lua_pushboolean(L, news->is_retry);
    lua_setfield(L, -2, "retry");
    return;
  }
  lua_pushlstring(L, news->text.data, news->text.length);
  lua_setfield(L, -2, "body");
  if (!news->retry_after) return;
  lua_pushnumber(L, (lua_Number)news->retry_after);
  lua_setfield(L, -2, "retry_after");
}

/* client:next() -> id, kind, value, extra | nil */
static int client_next(lua_State *L) {
  static const char *const kinds[] = {
      [API_NEWS_ITEM] = "item", [API_NEWS_LIST] = "list", [API_NEWS_EVENT] = "event", [API_NEWS_DONE] = "done", [API_NEWS_FAILED] = "failed"};
  struct api_news *news = api_next(check_client(L));
  if (!news) return 0;
  lua_pushnumber(L, (lua_Number)news->id);
  lua_pushstring(L, kinds[news->kind]);
  if (news->kind == API_NEWS_DONE) lua_pushinteger(L, news->status);
  else lua_pushlstring(L, news->text.data, news->text.length);
  bool is_last = news->kind == API_NEWS_DONE || news->kind == API_NEWS_FAILED;
  if (is_last) push_extra(L, news);
  api_news_free(news);
  return is_last ? 4 : 3;
}

/* client:wait(milliseconds) -> whether there are news. For specs and one-shot commands; the sync thread waits for more than this. */
static int client_wait(lua_State *L) {
  struct api *api = check_client(L);
  api_wait(api, NULL, 0, (int)luaL_checkinteger(L, 2));
  lua_pushboolean(L, api_has_news(api));
  return 1;
}

static int client_cancel(lua_State *L) {
  api_cancel(check_client(L), (uint64_t)luaL_checknumber(L, 2));
  return 0;
}

static int client_close(lua_State *L) {
  struct api **box = luaL_checkudata(L, 1, CLIENT);
  api_free(*box);
  *box = NULL;
  return 0;
}

void api_lua_open(lua_State *L, struct log *log, struct counters *counters) {
  static const luaL_Reg methods[] = {{"send", client_send},     {"next", client_next},   {"wait", client_wait},
                                     {"cancel", client_cancel}, {"close", client_close}, {NULL, NULL}};
  luaL_newmetatable(L, CLIENT);
  lua_pushcfunction(L, client_close);
  lua_setfield(L, -2, "__gc");
  lua_newtable(L);
  luaL_register(L, NULL, methods);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  lua_pushlightuserdata(L, log);
  lua_pushlightuserdata(L, counters);
  lua_pushcclosure(L, api_lua_new, 2);
  lua_setfield(L, -2, "api");
}
