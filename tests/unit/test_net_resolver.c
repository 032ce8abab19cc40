/* Resolver against a name server of our own: addresses and TTL, failure, silence, literals, freeing with lookups pending. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/error.h"
#include "net/resolver.h"

struct world {
  uv_loop_t loop;
  uv_udp_t udp;
  char servers[ADDRESS_TEXT];
  struct resolver *resolver;
  int queries;
  bool is_silent;
};

struct result {
  int calls, error;
  size_t count;
  unsigned ttl;
  struct address addresses[8];
  bool is_inside;
};

static char receive_buffer[2048];
static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buffer) {
  (void)handle, (void)size;
  *buffer = uv_buf_init(receive_buffer, sizeof receive_buffer);
}

static size_t put_answer(unsigned char *out, int type, unsigned ttl, const char *data, size_t length) {
  unsigned char head[12] = {0xc0, 12, 0, (unsigned char)type, 0, 1, 0, 0, (unsigned char)(ttl >> 8), (unsigned char)ttl, 0, (unsigned char)length};
  memcpy(out, head, 12);
  memcpy(out + 12, data, length);
  return 12 + length;
}

/* "two.test" has two A (TTL 300, 60) and one AAAA (TTL 90); all else is NXDOMAIN. */
static void on_query(uv_udp_t *udp, ssize_t length, const uv_buf_t *buffer, const struct sockaddr *from, unsigned flags) {
  (void)flags;
  struct world *world = udp->data;
  if (length < 12 || !from) return;
  world->queries++;
  if (world->is_silent) return;
  unsigned char answer[1024];
  size_t end = 12;
  while (buffer->base[end]) end += 1 + (size_t)buffer->base[end];
  end += 5; /* root, type, class */
  int type = buffer->base[end - 3];
  memcpy(answer, buffer->base, end);
  bool is_known = memcmp(buffer->base + 12, "\x03two\x04test", 10) == 0;
  answer[2] = 0x81;
  answer[3] = is_known ? 0x80 : 0x83;
  memset(answer + 6, 0, 6);
  if (is_known && type == 1) {
    answer[7] = 2;
    end += put_answer(answer + end, 1, 300, "\x0a\0\0\1", 4);
    end += put_answer(answer + end, 1, 60, "\x0a\0\0\2", 4);
  } else if (is_known && type == 28) {
    answer[7] = 1;
    end += put_answer(answer + end, 28, 90, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16);
  }
  uv_buf_t out = uv_buf_init((char *)answer, (unsigned)end);
  uv_udp_try_send(udp, &out, 1, from);
}

static void on_done(void *context, int error, const struct address *addresses, size_t count, unsigned ttl) {
  struct result *result = context;
  assert_false(result->is_inside);
  result->calls++;
  result->error = error;
  result->count = count;
  result->ttl = ttl;
  for (size_t i = 0; i < count && i < 8; i++) result->addresses[i] = addresses[i];
}

static int set_up(void **state) {
  struct world *world = calloc(1, sizeof *world);
  uv_loop_init(&world->loop);
  uv_udp_init(&world->loop, &world->udp);
  world->udp.data = world;
  struct address address;
  address_parse_ip(SPAN("127.0.0.1"), 0, &address);
  uv_udp_bind(&world->udp, &address.any, 0);
  int size = sizeof address;
  uv_udp_getsockname(&world->udp, &address.any, &size);
  address_format(&address, world->servers);
  uv_udp_recv_start(&world->udp, on_alloc, on_query);
  int error;
  world->resolver = resolver_new(&world->loop, world->servers, &error);
  assert_non_null(world->resolver);
  *state = world;
  return 0;
}

static int tear_down(void **state) {
  struct world *world = *state;
  resolver_free(world->resolver);
  uv_close((uv_handle_t *)&world->udp, NULL);
  uv_run(&world->loop, UV_RUN_DEFAULT);
  assert_int_equal(uv_loop_close(&world->loop), 0);
  free(world);
  return 0;
}

static void look_up(struct world *world, const char *name, struct result *result) {
  *result = (struct result){.is_inside = true};
  resolver_lookup(world->resolver, name, on_done, result);
  result->is_inside = false;
  while (result->calls == 0) {
    if (!uv_run(&world->loop, UV_RUN_NOWAIT)) break;
    uv_sleep(1);
  }
  for (int i = 0; i < 3; i++) uv_run(&world->loop, UV_RUN_NOWAIT);
  assert_int_equal(result->calls, 1);
}

static void test_answers(void **state) {
  struct world *world = *state;
  struct result result;
  static const char *const names[] = {"two.test.", "two.test"};
  for (int i = 0; i < 2; i++) {
    look_up(world, names[i], &result);
    assert_int_equal(result.error, 0);
    assert_int_equal(result.count, 3);
    assert_int_equal(result.ttl, 60);
    int v6 = 0;
    for (int j = 0; j < 3; j++) {
      v6 += result.addresses[j].any.sa_family == AF_INET6;
      assert_int_equal(address_port(&result.addresses[j]), 0);
    }
    assert_int_equal(v6, 1);
  }
  look_up(world, "absent.test.", &result);
  assert_int_equal(result.error, ERROR_RESOLVE);
  assert_int_equal(result.count, 0);
}

static void test_at_once(void **state) {
  struct world *world = *state;
  struct result result;
  look_up(world, "192.0.2.7", &result);
  assert_true(result.error == 0 && result.count == 1);
  look_up(world, "::1", &result);
  assert_true(result.error == 0 && result.addresses[0].any.sa_family == AF_INET6);
  look_up(world, "", &result);
  assert_int_equal(result.error, ERROR_RESOLVE);
  look_up(world, ".", &result);
  assert_int_equal(result.error, ERROR_RESOLVE);
  char longer[400];
  memset(longer, 'a', sizeof longer - 1);
  longer[sizeof longer - 1] = 0;
  look_up(world, longer, &result);
  assert_int_equal(result.error, ERROR_RESOLVE);
  assert_int_equal(world->queries, 0);
}

static void test_silence(void **state) {
  struct world *world = *state;
  world->is_silent = true;
  struct result result;
  uint64_t start = uv_hrtime();
  look_up(world, "two.test.", &result);
  assert_int_equal(result.error, ERROR_TIMEOUT);
  assert_true(uv_hrtime() - start < 10000000000u);
}

static void test_freed_while_pending(void **state) {
  struct world *world = *state;
  world->is_silent = true;
  struct result slow = {0}, literal = {0};
  resolver_lookup(world->resolver, "two.test.", on_done, &slow);
  resolver_lookup(world->resolver, "192.0.2.7", on_done, &literal);
  resolver_free(world->resolver);
  world->resolver = NULL;
  assert_true(slow.calls == 1 && slow.error == ERROR_CANCELLED && slow.count == 0);
  assert_true(literal.calls == 1 && literal.error == ERROR_CANCELLED);
}

static void test_bad_servers(void **state) {
  struct world *world = *state;
  int error = 0;
  assert_null(resolver_new(&world->loop, "not an address", &error));
  assert_int_equal(error, ERROR_INVALID);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
  const struct CMUnitTest tests[] = {T(test_answers), T(test_at_once), T(test_silence), T(test_freed_while_pending), T(test_bad_servers)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
