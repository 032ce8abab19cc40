/* Exchange objects: an exchange and its parts (request, headers, upstream, ...) as policies hold them: light userdata, numbers that name a slot of the state
 * and who has it. Nothing is allocated for them; every access looks the slot up and checks the phase. What members there are is one table: exchange_members.c.
 */
#ifndef SCRIPT_EXCHANGE_OBJECTS_H
#define SCRIPT_EXCHANGE_OBJECTS_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

#include "proxy/exchange.h"
#include "script/state.h"

/* X(KIND, name in messages) */
#define OBJECTS(X) \
  X(EXCHANGE, "exchange") \
  X(CLIENT, "exchange.client") \
  X(TLS, "exchange.client.tls") \
  X(LISTENER, "exchange.listener") \
  X(REQUEST, "exchange.request") \
  X(REQUEST_HEADERS, "exchange.request.headers") \
  X(COOKIES, "exchange.request.cookies") \
  X(UPSTREAM, "exchange.upstream") \
  X(RESPONSE, "exchange.response") \
  X(RESPONSE_HEADERS, "exchange.response.headers") \
  X(VARIABLES, "exchange.variables") \
  X(ENDPOINT, "endpoint")

enum object_kind {
#define X(kind, name) OBJECT_##kind,
  OBJECTS(X)
#undef X
      OBJECT_KINDS
};

enum answer_kind { ANSWER_NONE = 0, ANSWER_RESPOND = 1, ANSWER_DENY = 2, ANSWER_REDIRECT = 3, ANSWER_ALLOW = 4, ANSWER_REPLACE = 5 };

/* What one state knows of one exchange; in the exchange's arena. exchange->script is the first of a list. */
struct exchange_part {
  struct exchange_part *next;
  struct script_state *state;
  struct exchange *exchange;
  uint32_t slot; /* in state->slots */
  bool has_ctx;  /* in the state's table of contexts */
  /* an answer that a hook made and has still to return */
  enum answer_kind answer;
  int status;
  struct span text; /* body, reason, location or path */
  struct span method, upstream_name;
  struct upstream_ref upstream;
  struct headers headers;
  bool has_headers;
};

/* An endpoint that a hook got; good until it returns. */
struct object_endpoint {
  struct exchange_part *part;
  struct endpoint_record *record;
  enum endpoint_key key;
  bool is_ready, is_draining;
};

/* What a handle means. */
struct object {
  enum object_kind kind;
  struct exchange_part *part;
  const struct object_endpoint *endpoint; /* of an endpoint's handle */
};

typedef int (*member_function)(lua_State *L, struct exchange *exchange, const struct object *object);

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

/* Prepares a state: the handles' metatable, and the table of contexts, which stays at STATE_CONTEXTS of its stack. */
void exchange_objects_open(struct script_state *state);
/* The exchange's part in this state; made at first use. NULL: 262,144 other exchanges have one. */
struct exchange_part *exchange_objects_part(struct script_state *state, struct exchange *exchange);
/* Pushes one of its objects. */
void exchange_objects_push(lua_State *L, const struct exchange_part *part, enum object_kind kind);
/* Pushes an endpoint, good until the running hook returns. Raises where the hook got too many. */
void exchange_objects_push_endpoint(lua_State *L, struct exchange_part *part, const struct object_endpoint *endpoint);
/* The endpoint at `index`, or an error that begins with `function`. */
const struct object_endpoint *exchange_objects_endpoint(lua_State *L, int index, const char *function);
/* What the handle at `index` means; raises when it is none, or its exchange over. */
void exchange_objects_check(lua_State *L, int index, struct object *object, const char *function);
/* Pushes this policy's ctx table. */
void exchange_objects_push_ctx(lua_State *L, struct exchange_part *part);
/* Pushes a method of the running __index call's object: for a name that is a field in one phase and a method in another. */
void exchange_objects_push_method(lua_State *L, enum object_kind kind, const char *hidden_name);
/* The exchange is over: all its objects raise from now on. */
void exchange_objects_end(struct exchange *exchange);
/* What `return exchange:deny(...)` returns. */
void exchange_objects_push_answer(lua_State *L);
bool exchange_objects_is_answer(lua_State *L, int index);

#endif
