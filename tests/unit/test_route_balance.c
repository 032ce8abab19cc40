/* Upstream units, balancers and failure marking, with a clock of our own. Four threads over the same records at the end: run under TSan too. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/pack.h"
#include "route/upstream.h"

#define RECORDS 64
struct registry {
  struct endpoint_record records[RECORDS];
  char names[RECORDS][ADDRESS_TEXT];
  unsigned count;
};

static struct endpoint_record *get_record(void *context, const struct address *address, struct span upstream) {
  struct registry *registry = context;
  for (unsigned i = 0; i < registry->count; i++)
    if (address_equal(&registry->records[i].address, address)) return &registry->records[i];
  if (address_port(address) == 666) return NULL;
  unsigned i = registry->count++;
  struct endpoint_record *record = &registry->records[i];
  memset(record, 0, sizeof *record);
  record->magic = ENDPOINT_MAGIC;
  record->address = *address;
  record->name = span_make(registry->names[i], address_format(address, registry->names[i]));
  record->index = i;
  snprintf(record->key_md5, sizeof record->key_md5, "%032x", (unsigned)(hash_bytes(record->name, upstream.length)));
  snprintf(record->key_sha1, sizeof record->key_sha1, "%040x", (unsigned)(hash_bytes(record->name, upstream.length)));
  return record;
}

static void text(struct buffer *out, const char *value) { pack_put_string(out, span_of(value)); }

static void put_endpoint(struct buffer *out, const char *ip, int port, bool ready, bool draining) {
  pack_put_map(out, 4);
  text(out, "ip");
  text(out, ip);
  text(out, "port");
  pack_put_integer(out, port);
  text(out, "ready");
  pack_put_boolean(out, ready);
  text(out, "draining");
  pack_put_boolean(out, draining);
}

static void put_head(struct buffer *out, uint32_t endpoints) {
  pack_put_map(out, 4);
  text(out, "namespace");
  text(out, "default");
  text(out, "service");
  text(out, "web");
  text(out, "port");
  text(out, "80");
  text(out, "endpoints");
  pack_put_array(out, endpoints);
}

static struct upstream *make_upstream(struct registry *registry, unsigned count) {
  struct buffer body = {0};
  char ip[24], error[200] = "";
  put_head(&body, count);
  for (unsigned i = 0; i < count; i++) {
    snprintf(ip, sizeof ip, "10.0.0.%u", i + 1);
    put_endpoint(&body, ip, 80, true, false);
  }
  struct upstream *upstream = upstream_new(SPAN("default-web-80"), buffer_span(&body), get_record, registry, error, sizeof error);
  if (!upstream) fail_msg("%s", error);
  buffer_free(&body);
  return upstream;
}

static void drop(struct upstream *upstream) { upstream->unit.release(&upstream->unit); }

static void a_set_gives_one_list(void **state) {
  (void)state;
  struct registry registry = {.count = 0};
  char error[200];
  struct buffer a = {0}, b = {0};
  put_head(&a, 6);
  put_endpoint(&a, "10.0.0.2", 80, true, false);
  put_endpoint(&a, "10.0.0.1", 80, true, false);
  put_endpoint(&a, "10.0.0.1", 80, false, true);
  put_endpoint(&a, "10.0.0.3", 80, false, true);
  put_endpoint(&a, "10.0.0.4", 80, false, false);
  put_endpoint(&a, "10.0.0.5", 666, true, false);
  put_head(&b, 4);
  put_endpoint(&b, "10.0.0.3", 80, false, true);
  put_endpoint(&b, "10.0.0.1", 80, true, false);
  put_endpoint(&b, "10.0.0.2", 80, true, false);
  put_endpoint(&b, "10.0.0.2", 80, true, false);
  struct upstream *first = upstream_new(SPAN("u"), buffer_span(&a), get_record, &registry, error, sizeof error);
  struct upstream *second = upstream_new(SPAN("u"), buffer_span(&b), get_record, &registry, error, sizeof error);
  assert_non_null(first);
  assert_non_null(second);
  assert_int_equal(first->count, 3);
  assert_int_equal(first->ready, 2);
  assert_true(span_equal(first->endpoints[0].record->name, SPAN("10.0.0.1:80")));
  assert_true(span_equal(first->endpoints[2].record->name, SPAN("10.0.0.3:80")));
  assert_true(first->endpoints[2].is_draining);
  assert_false(first->is_missing);
  assert_true(span_equal(first->service, SPAN("web")));
  assert_true(upstream_is_same(first, second));
  /* Sticky sessions find the draining one, new ones never get it. */
  assert_ptr_equal(upstream_find(first, span_of(first->endpoints[2].record->key_md5), ENDPOINT_KEY_MD5), &first->endpoints[2]);
  assert_ptr_equal(upstream_find(first, span_of(first->endpoints[1].record->key_sha1), ENDPOINT_KEY_SHA1), &first->endpoints[1]);
  char index[16];
  snprintf(index, sizeof index, "%u", first->endpoints[1].record->index);
  assert_ptr_equal(upstream_find(first, span_of(index), ENDPOINT_KEY_INDEX), &first->endpoints[1]);
  assert_null(upstream_find(first, SPAN("99"), ENDPOINT_KEY_INDEX));
  assert_null(upstream_find(first, SPAN("00000000000000000000000000000000"), ENDPOINT_KEY_MD5));
  assert_null(upstream_find(first, SPAN("x"), ENDPOINT_KEY_MD5));
  for (size_t i = 0; i < buffer_length(&a); i++) assert_null(upstream_new(SPAN("u"), span_make(a.data, i), get_record, &registry, error, sizeof error));
  drop(first);
  drop(second);
  buffer_free(&a);
  buffer_free(&b);
  put_head(&a, 1);
  put_endpoint(&a, "10.0.0.x", 80, true, false);
  assert_null(upstream_new(SPAN("u"), buffer_span(&a), get_record, &registry, error, sizeof error));
  assert_string_equal(error, "endpoints[0].ip: is not an IP address");
  buffer_free(&a);
}

static void external_names_never_lead_to_ourselves(void **state) {
  (void)state;
  struct registry registry = {.count = 0};
  char error[200] = "";
  struct buffer body = {0};
  struct address addresses[8];
  const char *ips[] = {"127.0.0.1", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1", "127.9.9.9", "192.0.2.7", "2001:db8::1"};
  for (int i = 0; i < 8; i++) assert_int_equal(address_parse_ip(span_of(ips[i]), 0, &addresses[i]), 0);
  pack_put_map(&body, 2);
  text(&body, "external_name");
  text(&body, "out.example.com");
  text(&body, "external_port");
  pack_put_integer(&body, 443);
  struct upstream *upstream = upstream_new(SPAN("u"), buffer_span(&body), get_record, &registry, error, sizeof error);
  assert_non_null(upstream);
  assert_true(span_equal(upstream->external_name, SPAN("out.example.com")));
  assert_int_equal(upstream->external_port, 443);
  assert_true(upstream->is_missing);
  drop(upstream);
  unsigned refused;
  upstream = upstream_new_resolved(SPAN("u"), buffer_span(&body), addresses, 8, get_record, &registry, &refused, error, sizeof error);
  assert_non_null(upstream);
  assert_int_equal(refused, 6);
  assert_int_equal(upstream->ready, 2);
  assert_true(span_equal(upstream->endpoints[0].record->name, SPAN("192.0.2.7:443")));
  drop(upstream);
  buffer_free(&body);
}

static struct balance_request make_request(const struct upstream *upstream, enum balancer_kind kind, struct balance_cursor *cursor, struct random *random) {
  return (struct balance_request){.upstream = upstream, .kind = kind, .cursor = cursor, .random = random, .now_ms = 1000, .hash_key = SPAN("key")};
}

static void round_robin_is_even_and_skips(void **state) {
  (void)state;
  struct registry registry = {.count = 0};
  struct upstream *upstream = make_upstream(&registry, 3);
  struct balance_cursor cursor = {0};
  struct random random = {42};
  unsigned hits[3] = {0};
  struct balance_request request = make_request(upstream, BALANCER_ROUND_ROBIN, &cursor, &random);
  for (int i = 0; i < 300; i++) hits[balance_choose(&request)->record->index]++;
  for (int i = 0; i < 3; i++) assert_int_equal(hits[i], 100);
  request.tried[0] = &registry.records[1];
  request.tried_count = 1;
  for (int i = 0; i < 30; i++) assert_int_not_equal(balance_choose(&request)->record->index, 1);
  request.tried[1] = &registry.records[0];
  request.tried[2] = &registry.records[2];
  request.tried_count = 3;
  assert_non_null(balance_choose(&request)); /* all tried: again */
  drop(upstream);
  upstream = make_upstream(&registry, 0);
  request.upstream = upstream;
  for (int kind = 0; kind < 4; kind++) {
    request.kind = (enum balancer_kind)kind;
    assert_null(balance_choose(&request));
  }
  assert_true(upstream->is_missing);
  assert_null(upstream_hash(upstream, SPAN("x")));
  assert_null(upstream_find(upstream, SPAN("00000000000000000000000000000000"), ENDPOINT_KEY_MD5));
  drop(upstream);
  /* Workers do not all begin with the same endpoint. */
  unsigned first[3] = {0};
  upstream = make_upstream(&registry, 3);
  for (int worker = 0; worker < 300; worker++) {
    struct balance_cursor fresh = {0};
    struct balance_request one = make_request(upstream, BALANCER_ROUND_ROBIN, &fresh, &random);
    first[balance_choose(&one)->record->index]++;
  }
  for (int i = 0; i < 3; i++) assert_in_range(first[i], 50, 150);
  drop(upstream);
}

static void least_connections_and_ewma_prefer_the_idle(void **state) {
  (void)state;
  struct registry registry = {.count = 0};
  struct upstream *upstream = make_upstream(&registry, 4);
  struct balance_cursor cursor = {0};
  struct random random = {7};
  struct balance_request request = make_request(upstream, BALANCER_LEAST_CONNECTIONS, &cursor, &random);
  for (unsigned i = 0; i < 4; i++) atomic_store(&registry.records[i].load, i == 2 ? 1 : 5);
  for (int i = 0; i < 20; i++) assert_int_equal(balance_choose(&request)->record->index, 2);
  unsigned hits[4] = {0};
  for (unsigned i = 0; i < 4; i++) atomic_store(&registry.records[i].load, 0);
  for (int i = 0; i < 400; i++) hits[balance_choose(&request)->record->index]++;
  for (int i = 0; i < 4; i++) assert_int_equal(hits[i], 100);

  request.kind = BALANCER_EWMA;
  for (unsigned i = 0; i < 4; i++) endpoint_observe(&registry.records[i], 1000, i == 3 ? 100000 : 1000);
  memset(hits, 0, sizeof hits);
  for (int i = 0; i < 1000; i++) hits[balance_choose(&request)->record->index]++;
  assert_int_equal(hits[3], 0); /* it loses each comparison */
  for (int i = 0; i < 3; i++) assert_in_range(hits[i], 200, 470);
  /* A peak counts at once, goes down slowly, and is forgotten. */
  assert_int_equal(endpoint_ewma(&registry.records[3], 1000), 100000);
  endpoint_observe(&registry.records[3], 1100, 1000);
  assert_in_range(endpoint_ewma(&registry.records[3], 1100), 90000, 99999);
  assert_in_range(endpoint_ewma(&registry.records[3], 11100), 30000, 45000);
  endpoint_observe(&registry.records[3], 31100, 1000);
  assert_in_range(endpoint_ewma(&registry.records[3], 31100), 1000, 15000);
  drop(upstream);
}

static void hashing_is_even_and_moves_few(void **state) {
  (void)state;
  for (unsigned n = 2; n <= 40; n += 19) {
    struct registry registry = {.count = 0};
    struct upstream *before = make_upstream(&registry, n), *after = make_upstream(&registry, n + 1);
    unsigned moved = 0, hits[64] = {0}, keys = 20000;
    for (unsigned i = 0; i < keys; i++) {
      char key[24];
      snprintf(key, sizeof key, "user-%u", i);
      const struct endpoint_record *a = upstream_hash(before, span_of(key))->record, *b = upstream_hash(after, span_of(key))->record;
      hits[a->index]++;
      if (a == b) continue;
      moved++;
      assert_int_equal(b->index, n); /* only to the new one */
    }
    if (moved * (n + 1) > 2 * keys || moved == 0) fail_msg("%u endpoints and one: %u of %u keys moved", n, moved, keys);
    for (unsigned i = 0; i < n; i++) assert_in_range(hits[i], keys / n / 2, keys / n * 2);
    drop(before);
    drop(after);
  }
}

static void subsets_are_groups(void **state) {
  (void)state;
  struct registry registry = {.count = 0};
  struct upstream *upstream = make_upstream(&registry, 7);
  struct balance_cursor cursor = {0};
  struct random random = {7};
  struct balance_request request = make_request(upstream, BALANCER_HASH, &cursor, &random);
  request.hash_subset_size = 3; /* 0 1 2, 3 4 5, 6 0 1 */
  unsigned seen_groups = 0;
  for (int k = 0; k < 40; k++) {
    char key[16];
    snprintf(key, sizeof key, "k%d", k);
    request.hash_key = span_of(key);
    unsigned seen = 0;
    for (int i = 0; i < 100; i++) seen |= 1u << balance_choose(&request)->record->index;
    assert_true(seen == 0x07 || seen == 0x38 || seen == 0x43);
    seen_groups |= seen == 0x07 ? 1 : seen == 0x38 ? 2 : 4;
  }
  assert_int_equal(seen_groups, 7);
  drop(upstream);
}

static void three_failures_in_a_row_put_it_out(void **state) {
  (void)state;
  struct registry registry = {.count = 0};
  struct upstream *upstream = make_upstream(&registry, 1);
  struct endpoint_record *record = &registry.records[0];
  endpoint_failed(record, 1000);
  endpoint_failed(record, 1001);
  endpoint_succeeded(record);
  endpoint_failed(record, 1002);
  endpoint_failed(record, 1003);
  assert_true(endpoint_is_healthy(record, 1003)); /* a success between them */
  endpoint_failed(record, 11500);
  assert_true(endpoint_is_healthy(record, 11500)); /* not within 10 s */
  endpoint_failed(record, 11600);
  assert_true(endpoint_is_healthy(record, 11600)); /* 1003, 11500, 11600: not yet */
  endpoint_failed(record, 11700);
  assert_false(endpoint_is_healthy(record, 11700));
  assert_false(endpoint_try(record, 21699));
  assert_true(endpoint_try(record, 21700));
  assert_false(endpoint_try(record, 21700)); /* one trial */
  endpoint_failed(record, 21800);
  assert_false(endpoint_try(record, 31799));
  assert_true(endpoint_try(record, 31800));
  endpoint_succeeded(record);
  assert_true(endpoint_is_healthy(record, 31801));
  endpoint_failed(record, 31802);
  assert_true(endpoint_is_healthy(record, 31802));
  /* A trial that nobody reports on does not last for ever. */
  endpoint_failed(record, 31803);
  endpoint_failed(record, 31804);
  assert_true(endpoint_try(record, 41804));
  assert_false(endpoint_try(record, 51803));
  assert_true(endpoint_try(record, 51804));
  drop(upstream);
}

static void balancers_avoid_what_is_out(void **state) {
  (void)state;
  for (int kind = 0; kind < 5; kind++) { /* 4: hash in subsets */
    struct registry registry = {.count = 0};
    struct upstream *upstream = make_upstream(&registry, 5);
    struct balance_cursor cursor = {0};
    struct random random = {9};
    struct balance_request request = make_request(upstream, kind == 4 ? BALANCER_HASH : (enum balancer_kind)kind, &cursor, &random);
    if (kind == 4) request.hash_subset_size = 2;
    for (int i = 0; i < 3; i++) endpoint_failed(&registry.records[2], 1000);
    char key[16];
    for (int i = 0; i < 500; i++) {
      snprintf(key, sizeof key, "k%d", i);
      request.hash_key = span_of(key);
      assert_int_not_equal(balance_choose(&request)->record->index, 2);
    }
    request.now_ms = 11000; /* exactly one trial comes by itself */
    unsigned trials = 0;
    for (int i = 0; i < 500; i++) {
      snprintf(key, sizeof key, "k%d", i);
      request.hash_key = span_of(key);
      trials += balance_choose(&request)->record->index == 2;
    }
    assert_int_equal(trials, 1);
    for (unsigned i = 0; i < 5; i++)
      for (int j = 0; j < 3; j++) endpoint_failed(&registry.records[i], 11000);
    unsigned seen = 0; /* all are out: all are used */
    for (int i = 0; i < 500; i++) {
      snprintf(key, sizeof key, "k%d", i);
      request.hash_key = span_of(key);
      seen |= 1u << balance_choose(&request)->record->index;
    }
    assert_int_equal(seen, 0x1f);
    drop(upstream);
  }
}

struct hammer {
  struct registry *registry;
  struct upstream *upstream;
  unsigned seed;
  _Atomic unsigned *trials;
};

static void *run_hammer(void *argument) {
  struct hammer *hammer = argument;
  struct balance_cursor cursor = {0};
  struct random random = {hammer->seed};
  for (unsigned i = 0; i < 20000; i++) {
    struct balance_request request = make_request(hammer->upstream, (enum balancer_kind)(i % 4), &cursor, &random);
    request.now_ms = 1000 + i;
    struct endpoint_record *record = balance_choose(&request)->record;
    endpoint_pin(record);
    atomic_fetch_add_explicit(&record->load, 1, memory_order_relaxed);
    if (i % 3 == 0) endpoint_failed(record, request.now_ms);
    else endpoint_succeeded(record);
    endpoint_observe(record, request.now_ms, i % 1000);
    atomic_fetch_sub_explicit(&record->load, 1, memory_order_relaxed);
    endpoint_unpin(record);
  }
  return NULL;
}

static void *run_trial(void *argument) {
  struct hammer *hammer = argument;
  for (unsigned i = 0; i < RECORDS; i++)
    if (endpoint_try(&hammer->registry->records[i], 50000)) atomic_fetch_add(hammer->trials, 1);
  return NULL;
}

static void four_threads_share_records(void **state) {
  (void)state;
  struct registry registry = {.count = 0};
  struct upstream *upstream = make_upstream(&registry, 5);
  pthread_t threads[4];
  struct hammer hammers[4];
  _Atomic unsigned trials = 0;
  for (unsigned i = 0; i < 4; i++) {
    hammers[i] = (struct hammer){&registry, upstream, i + 1, &trials};
    pthread_create(&threads[i], NULL, run_hammer, &hammers[i]);
  }
  for (unsigned i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  for (unsigned i = 0; i < 5; i++) {
    assert_int_equal(atomic_load(&registry.records[i].pins), 0);
    assert_int_equal(atomic_load(&registry.records[i].load), 0);
  }
  /* However many come at once, each endpoint that is due is tried by one. */
  for (unsigned i = 0; i < RECORDS; i++) {
    registry.records[i].magic = ENDPOINT_MAGIC;
    atomic_store(&registry.records[i].out_until_ms, 40000);
  }
  for (unsigned i = 0; i < 4; i++) pthread_create(&threads[i], NULL, run_trial, &hammers[i]);
  for (unsigned i = 0; i < 4; i++) pthread_join(threads[i], NULL);
  assert_int_equal(atomic_load(&trials), RECORDS);
  drop(upstream);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_set_gives_one_list),
      cmocka_unit_test(external_names_never_lead_to_ourselves),
      cmocka_unit_test(round_robin_is_even_and_skips),
      cmocka_unit_test(least_connections_and_ewma_prefer_the_idle),
      cmocka_unit_test(hashing_is_even_and_moves_few),
      cmocka_unit_test(subsets_are_groups),
      cmocka_unit_test(three_failures_in_a_row_put_it_out),
      cmocka_unit_test(balancers_avoid_what_is_out),
      cmocka_unit_test(four_threads_share_records),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
