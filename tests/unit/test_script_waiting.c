/* Hooks that wait, over a real worker with memory links: clients that leave, policy sets that change meanwhile, bounds, bodies that come in pieces. */
#include "base/limits.h"
#define MAX_PEERS (LIMIT_WAITING + 8)

#include "proxy_world.h"
#include "script/policy_set.h"
#include "script/script.h"

static struct script_worker *script;
static struct policy_slots *slots;
static struct unit *current; /* the published set */

static void put_policy(const char *owner, const char *code) {
  struct buffer body = {0};
  char error[512] = "";
  const char *home = getenv("MOONGATE_LUA");
  struct script_options options = {.lua_directory = home ? home : "lua", .workers = 1, .log = &world.log, .guest_memory = 32u << 20};
  char source[2048];
  snprintf(source, sizeof source,
           "local moongate = require 'moongate' local policy = { name = 'probe', summary = 'x' }\n"
           "function policy.access(exchange) %s end\n"
           "function policy.log(exchange) moongate.log.warn('the end: ' .. tostring(exchange.ctx.mark)) end return policy",
           code);
  pack_put_map(&body, 1);
  pack_put_string(&body, SPAN("policies"));
  pack_put_array(&body, 1);
  pack_put_map(&body, 5);
  put_pair(&body, "name", "probe");
  put_pair(&body, "owner", owner);
  put_pair(&body, "file", "probe.lua");
  put_pair(&body, "source", source);
  pack_put_string(&body, SPAN("trusted"));
  pack_put_boolean(&body, strcmp(owner, "builtin") == 0);
  struct unit *set = policy_set_new(buffer_span(&body), slots, &options, current, error, sizeof error);
  buffer_free(&body);
  if (!set) fail_msg("%s", error);
  born(set);
  replaced(snapshot_put_policies(world.builder, set));
  current = set;
}

static const char *const phases[] = {"access", "log"};

static int up(void **state) {
  world_up(state);
  slots = policy_slots_new();
  policy_slot(slots, SPAN("probe")); /* the first: find_policy says 0 */
  current = NULL;
  script = script_worker_new(&world.worker, &world.log);
  world.worker.options.hooks = script_hook_runner(script);
  put_hooked_host(phases, 2);
  return 0;
}

static int down(void **state) {
  struct unit *set = current;
  world_down(state);
  script_worker_free(script);
  set->release(set);
  policy_slots_free(slots);
  return 0;
}

static void with_policy(const char *owner, const char *code) {
  put_policy(owner, code);
  publish();
}

static uint64_t waiting(void) { return counter_get(&world.counters, COUNTER_HOOK_WAITS) - counter_get(&world.counters, COUNTER_HOOK_WAITS_ENDED); }

static void await_waiting(uint64_t count) {
  for (int i = 0; i < 3000 && waiting() != count; i++) turn();
  assert_int_equal(waiting(), count);
}

static const char GET[] = "GET / HTTP/1.1\r\nHost: foo.test\r\n\r\n";
static const char OK[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

static void a_client_that_leaves_cancels(void **state) {
  (void)state;
  with_policy("builtin", "exchange.ctx.mark = 'before' moongate.sleep(3600) exchange.ctx.mark = 'after'");
  struct peer *client = client_connect();
  peer_send(client, GET);
  await_waiting(1);
  peer_close(client);
  await_waiting(0);
  assert_at_rest();
  assert_true(log_has("the end: before")); /* log hooks run once, as for everyone who leaves */
  assert_int_equal(counter_get(&world.counters, COUNTER_CLIENT_ABORTS), 1);
}

static void closing_the_connections_of_a_worker_cancels(void **state) {
  (void)state;
  with_policy("guest", "moongate.sleep(3600)");
  for (int i = 0; i < 3; i++) peer_send(client_connect(), GET);
  await_waiting(3);
  while (!list_is_empty(&world.worker.clients)) {
    client_close(container_of(world.worker.clients.next, struct client, node));
    turns(3);
  }
  await_waiting(0);
  assert_at_rest();
}

static void a_change_of_policies_leaves_waiting_hooks_in_their_state(void **state) {
  (void)state;
  const char *owners[] = {"builtin", "guest"};
  for (int i = 0; i < 2; i++) {
    with_policy(owners[i], "exchange.ctx.mark = 'old' moongate.sleep(0.2) return exchange:respond { body = 'from the ' .. exchange.ctx.mark }");
    struct peer *early = client_connect(), *late = client_connect();
    peer_send(early, GET);
    await_waiting(1);
    put_hooked_host(phases, 2); /* its configs too */
    with_policy(owners[i], "return exchange:respond { body = 'from the new' }");
    assert_true(world.retired_count >= 2);
    peer_send(late, GET);
    peer_await(late, "from the new");
    assert_false(peer_has(early, "200"));
    peer_await(early, "from the old");
    turns(2);
    assert_int_equal(world.retired_count, 0); /* the old state is gone as soon as nobody waits in it */
  }
}

/* The coroutine that waits must be in nobody's hands, or the runner would continue what has ended. */
static void a_hook_that_waits_is_not_continued_by_another(void **state) {
  (void)state;
  static const char *const owners[] = {"builtin", "guest"};
  for (int i = 0; i < 2; i++) {
    with_policy(owners[i],
                "if exchange.request.path == '/wait' then kept = coroutine.running() moongate.sleep(0.1) return exchange:respond { body = 'waited' } end "
                "if kept then coroutine.resume(kept, 1, 2, 3) end return exchange:respond { body = 'at once' }");
    struct peer *slow = client_connect(), *fast = client_connect();
    peer_send(slow, "GET /wait HTTP/1.1\r\nHost: foo.test\r\n\r\n");
    await_waiting(1);
    peer_send(fast, GET);
    peer_await(fast, "at once");
    peer_await(slow, "waited");
  }
}

static void a_hook_reads_the_body_of_its_own_request(void **state) {
  (void)state;
  with_policy("guest",
              "if exchange.request.path == '/wait' then kept = exchange moongate.sleep(0.1) return exchange:respond { body = 'waited' } end "
              "local ok, why = pcall(function() return kept.request:body() end) return exchange:respond { body = why }");
  struct peer *slow = client_connect(), *fast = client_connect();
  peer_send(slow, "POST /wait HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 3\r\n\r\n");
  await_waiting(1);
  peer_send(fast, GET);
  peer_await(fast, "exchange.request:body: called on another request's exchange");
  peer_send(slow, "abc");
  peer_await(slow, "waited");
}

/* A trusted policy that gets hold of such a coroutine by the debug library costs the exchange a 500. */
static void a_hook_that_was_continued_by_another_fails(void **state) {
  (void)state;
  with_policy("builtin",
              "if exchange.request.path == '/wait' then moongate.sleep(0.1) return exchange:respond { body = 'waited' } end "
              "for _, value in pairs(debug.getregistry()) do if type(value) == 'thread' and coroutine.status(value) == 'suspended' then "
              "coroutine.resume(value) end end");
  struct peer *slow = client_connect(), *fast = client_connect();
  peer_send(slow, "GET /wait HTTP/1.1\r\nHost: foo.test\r\n\r\n");
  await_waiting(1);
  peer_send(fast, GET);
  peer_await(slow, "HTTP/1.1 500 ");
  assert_true(log_has("the hook's coroutine was resumed while it waited"));
  peer_send(server_await(0), OK);
  peer_await(fast, "HTTP/1.1 200 ");
}

static void the_number_of_waiting_exchanges_is_bounded(void **state) {
  (void)state;
  with_policy("builtin", "local a, b = exchange.request.path, exchange.request.headers:get('Host') moongate.sleep(2) exchange.ctx.mark = a .. b");
  lua_State *L = policy_set_of(current)->groups[0]->states[0]->L;
  lua_gc(L, LUA_GCCOLLECT, 0);
  int before = lua_gc(L, LUA_GCCOUNT, 0);
  for (unsigned i = 0; i < LIMIT_WAITING; i++) link_write_span(client_connect()->link, span_of(GET));
  await_waiting(LIMIT_WAITING);
  lua_gc(L, LUA_GCCOLLECT, 0);
  int each = (lua_gc(L, LUA_GCCOUNT, 0) - before) * 1024 / LIMIT_WAITING;
  print_message("a waiting exchange holds %d bytes of Lua\n", each);
  assert_true(each > 100 && each <= 4096);
  struct peer *client = client_connect();
  peer_send(client, GET);
  peer_await(client, "HTTP/1.1 503 ");
  assert_int_equal(counter_get(&world.counters, COUNTER_LIMIT_WAITING), 1);
  for (unsigned i = 0; i < world.client_count; i++) peer_close(world.clients[i]);
  await_waiting(0);
  assert_at_rest();
  client = client_connect(); /* there is room again */
  peer_send(client, GET);
  await_waiting(1);
}

static void guests_leave_room_to_others(void **state) {
  (void)state;
  with_policy("guest", "moongate.sleep(3600)");
  for (unsigned i = 0; i < LIMIT_WAITING / 2; i++) link_write_span(client_connect()->link, span_of(GET));
  await_waiting(LIMIT_WAITING / 2);
  struct peer *client = client_connect();
  peer_send(client, GET);
  peer_await(client, "HTTP/1.1 503 ");
  with_policy("builtin", "moongate.sleep(0) return exchange:respond { body = 'served' }");
  client = client_connect();
  peer_send(client, GET);
  peer_await(client, "served");
}

static void bodies_come_in_pieces(void **state) {
  (void)state;
  with_policy("guest", "local text = exchange.request:body() exchange.ctx.mark = text exchange.request.headers:set('X-Length', #text)");
  struct peer *client = client_connect();
  peer_send(client, "POST / HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
  peer_await(client, "HTTP/1.1 100 ");
  await_waiting(1);
  peer_send(client, "3\r\nabc\r\n2\r");
  peer_send(client, "\nde\r\n0\r\n\r");
  assert_int_equal(waiting(), 1);
  peer_send(client, "\n");
  struct peer *server = server_await(0);
  peer_await(server, "X-Length: 5");
  peer_await(server, "abcde");
  peer_send(server, OK);
  peer_await(client, "HTTP/1.1 200 ");
  assert_true(log_has("the end: abcde"));
}

/* Each exchange sees its own body, and the second waits for its turn. */
static void pipelined_bodies_stay_apart(void **state) {
  (void)state;
  with_policy("builtin", "return exchange:respond { body = 'got ' .. exchange.request:body() .. '.' }");
  struct peer *client = client_connect();
  peer_send(client, "POST / HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 3\r\n\r\nonePOST / HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 3\r\n\r\n");
  peer_await(client, "got one.");
  await_waiting(1);
  peer_send(client, "twoPOST / HTTP/1.1\r\nHost: foo.test\r\n\r\n");
  peer_await(client, "got two.");
  peer_await(client, "got .");
}

static void a_body_that_breaks_off_cancels(void **state) {
  (void)state;
  with_policy("guest", "exchange.ctx.mark = 'waited' exchange.request:body() exchange.ctx.mark = 'went on'");
  struct peer *client = client_connect();
  peer_send(client, "POST / HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 30\r\n\r\nabc");
  await_waiting(1);
  peer_close(client);
  await_waiting(0);
  assert_at_rest();
  client = client_connect();
  peer_send(client, "POST / HTTP/1.1\r\nHost: foo.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n");
  peer_await(client, "HTTP/1.1 400 ");
  peer_await_end(client);
  await_waiting(0);
  assert_false(log_has("went on"));
}

static void bodies_respect_the_budget_of_the_process(void **state) {
  (void)state;
  with_policy("guest", "local text, why = exchange.request:body() exchange.request.headers:set('X-Seen', text or why)");
  struct peer *client = client_connect();
  peer_send(client, "POST / HTTP/1.1\r\nHost: foo.test\r\nContent-Length: 6\r\n\r\nabc");
  await_waiting(1);
  atomic_fetch_add(&world.budget, LIMIT_BODY_BUDGET_BYTES);
  peer_send(client, "de");
  struct peer *server = server_await(0);
  peer_await(server, "X-Seen: no room");
  peer_send(client, "f");
  peer_await(server, "abcdef");
  atomic_fetch_sub(&world.budget, LIMIT_BODY_BUDGET_BYTES);
  peer_send(server, OK);
  peer_await(client, "HTTP/1.1 200 ");
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(a_client_that_leaves_cancels, up, down),
      cmocka_unit_test_setup_teardown(closing_the_connections_of_a_worker_cancels, up, down),
      cmocka_unit_test_setup_teardown(a_change_of_policies_leaves_waiting_hooks_in_their_state, up, down),
      cmocka_unit_test_setup_teardown(a_hook_that_waits_is_not_continued_by_another, up, down),
      cmocka_unit_test_setup_teardown(a_hook_reads_the_body_of_its_own_request, up, down),
      cmocka_unit_test_setup_teardown(a_hook_that_was_continued_by_another_fails, up, down),
      cmocka_unit_test_setup_teardown(the_number_of_waiting_exchanges_is_bounded, up, down),
      cmocka_unit_test_setup_teardown(guests_leave_room_to_others, up, down),
      cmocka_unit_test_setup_teardown(bodies_come_in_pieces, up, down),
      cmocka_unit_test_setup_teardown(pipelined_bodies_stay_apart, up, down),
      cmocka_unit_test_setup_teardown(a_body_that_breaks_off_cancels, up, down),
      cmocka_unit_test_setup_teardown(bodies_respect_the_budget_of_the_process, up, down),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
