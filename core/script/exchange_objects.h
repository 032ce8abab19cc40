/* Exchange objects: an exchange and its parts (request, headers, upstream, ...) as userdata. Each is made at most once per exchange and state; each remembers
 * the exchange's generation, and every access checks it and the phase. What members there are is one table: exchange_members.c. */
#ifndef SCRIPT_EXCHANGE_OBJECTS_H
#define SCRIPT_EXCHANGE_OBJECTS_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/exchange.h"
#include "script/state.h"

/* X(KIND, name in messages, has fields) */
#define OBJECTS(X) \
  X(EXCHANGE, "exchange", 1) \
  X(CLIENT, "exchange.client", 1) \
  X(TLS, "exchange.client.tls", 1) \
  X(LISTENER, "exchange.listener", 1) \
  X(REQUEST, "exchange.request", 1) \
  X(REQUEST_HEADERS, "exchange.request.headers", 0) \
  X(COOKIES, "exchange.request.cookies", 0) \
  X(UPSTREAM, "exchange.upstream", 1) \
  X(RESPONSE, "exchange.response", 1) \
  X(RESPONSE_HEADERS, "exchange.response.headers", 0) \
  X(VARIABLES, "exchange.variables", 0) \
  X(ENDPOINT, "endpoint", 1)

enum object_kind {
#define X(kind, name, has_fields) OBJECT_##kind,
  OBJECTS(X)
#undef X
      OBJECT_KINDS
};

#define OBJECT_SLOT 16 /* entries of state->objects per exchange: kinds, then ctx */
#define OBJECT_CTX 15

#define OBJECT_MAGIC 0x6a626f65u

enum answer_kind { ANSWER_NONE = 0, ANSWER_RESPOND = 1, ANSWER_DENY = 2, ANSWER_REDIRECT = 3, ANSWER_ALLOW = 4, ANSWER_REPLACE = 5 };

/* What one state knows of one exchange; in the exchange's arena. exchange->script is the first of a list. */
struct exchange_part {
  struct exchange_part *next;
  struct script_state *state;
  struct exchange *exchange;
  int slot;      /* in state->objects */
  uint32_t made; /* bits of object_kind, and of OBJECT_CTX */
  /* an answer that a hook made and has still to return */
  enum answer_kind answer;
  int status;
  struct span text; /* body, reason, location or path */
  struct span method, upstream_name;
  struct upstream_ref upstream;
  struct headers headers;
  bool has_headers;
};

struct object_box {
  uint32_t magic;
  enum object_kind kind;
  uint32_t generation;
  struct exchange_part *part; /* NULL when the exchange is over */
};

/* Endpoints are many and live as long as the hook that got them: `run` is looked at before `part`. */
struct endpoint_box {
  struct object_box box; /* first */
  struct script_state *state;
  struct endpoint_record *record;
  uint64_t run;
  enum endpoint_key key;
  bool is_ready, is_draining;
};

typedef int (*member_function)(lua_State *L, struct exchange *exchange, struct object_box *box);

/* One row of the table: a field's getter gets (object, name), a method (object, arguments...). */
struct member {
  enum object_kind object;
  const char *name;
  bool is_method;
  unsigned phases; /* bits of hook_phase */
  member_function function;
};
extern const struct member exchange_members[];
extern const unsigned exchange_member_count;

/* Prepares a state: metatables, and the objects table, which stays at STATE_OBJECTS of its stack. */
void exchange_objects_open(struct script_state *state);
/* The exchange's part in this state; made at first use. */
struct exchange_part *exchange_objects_part(struct script_state *state, struct exchange *exchange);
/* Pushes one of its objects; `table` is where the objects table is. */
void exchange_objects_push(lua_State *L, int table, struct exchange_part *part, enum object_kind kind);
/* In a field's getter: the objects table. */
#define OBJECT_TABLE lua_upvalueindex(3)
/* Pushes a new endpoint object, good until the running hook returns. */
void exchange_objects_push_endpoint(lua_State *L, struct exchange_part *part, struct endpoint_record *record, enum endpoint_key key, bool is_ready,
                                    bool is_draining);
/* The endpoint at `index`, or an error that begins with `function`. */
struct endpoint_box *exchange_objects_endpoint(lua_State *L, int index, const char *function);
/* The exchange behind the userdata at `index`; raises when it is none, or over. */
struct exchange *exchange_objects_check(lua_State *L, int index, const char *function);
/* Pushes this policy's ctx table. */
void exchange_objects_push_ctx(lua_State *L, struct exchange_part *part);
/* Pushes a method of the running __index call's object: for a name that is a field in one phase and a method in another. */
void exchange_objects_push_method(lua_State *L, const char *hidden_name);
/* The exchange is over: all its objects raise from now on. */
void exchange_objects_end(struct exchange *exchange);
/* What `return exchange:deny(...)` returns. */
void exchange_objects_push_answer(lua_State *L);
bool exchange_objects_is_answer(lua_State *L, int index);

#endif
