/* The registry of endpoint records: one per upstream and address, keys, indexes, and when a record may go. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "app/records.h"

static struct address at(const char *text) {
  struct address address;
  memset(&address, 0, sizeof address);
  assert_int_equal(address_parse(span_of(text), &address), 0);
  return address;
}

static struct endpoint_record *get(struct records *records, const char *upstream, const char *text) {
  struct address address = at(text);
  struct endpoint_record *record = records_get(records, span_of(upstream), &address);
  assert_non_null(record);
  assert_int_equal(record->magic, ENDPOINT_MAGIC);
  assert_true(atomic_load(&record->is_listed));
  return record;
}

/* An upstream that lists these records. */
struct listing {
  struct upstream upstream;
  struct endpoint endpoints[4];
};

static const struct upstream *list(struct listing *listing, struct endpoint_record *a, struct endpoint_record *b) {
  memset(listing, 0, sizeof *listing);
  listing->upstream.endpoints = listing->endpoints;
  if (a) listing->endpoints[listing->upstream.count++].record = a;
  if (b) listing->endpoints[listing->upstream.count++].record = b;
  return &listing->upstream;
}

static void one_for_each_upstream_and_address(void **state) {
  (void)state;
  struct records *records = records_new();
  struct endpoint_record *a = get(records, "ns-web-80", "10.0.0.1:80"), *b = get(records, "ns-web-80", "10.0.0.2:80");
  struct endpoint_record *c = get(records, "ns-api-80", "10.0.0.1:80"), *d = get(records, "ns-web-80", "10.0.0.1:81");
  assert_ptr_equal(get(records, "ns-web-80", "10.0.0.1:80"), a);
  assert_true(a != b && a != c && a != d && b != d);
  assert_int_equal(records_count(records), 4);
  assert_int_equal(a->index, 0);
  assert_int_equal(b->index, 1);
  assert_int_equal(c->index, 0); /* indexes count within an upstream */
  assert_int_equal(d->index, 2);
  struct address address = at("10.0.0.1:80");
  assert_true(address_equal(&a->address, &address));
  assert_true(span_equal(a->name, SPAN("10.0.0.1:80")));
  records_free(records);
}

static void keys_are_hashes_of_upstream_and_address(void **state) {
  (void)state;
  struct records *records = records_new();
  struct endpoint_record *record = get(records, "default-web-80", "10.0.0.1:8080");
  /* printf 'default-web-8010.0.0.1:8080' | md5sum, sha1sum */
  assert_string_equal(record->key_md5, "0aa3b49d3795ad62718deaa56ec75fae");
  assert_string_equal(record->key_sha1, "1232aac0cce6617e255177fc4debd4a3d1a39c96");
  assert_true(span_equal(get(records, "default-web-80", "[::1]:80")->name, SPAN("[::1]:80")));
  records_free(records);
}

static void an_unlisted_record_waits_for_roots_pins_and_load(void **state) {
  (void)state;
  struct records *records = records_new();
  struct listing old, new;
  struct endpoint_record *a = get(records, "u", "10.0.0.1:80"), *b = get(records, "u", "10.0.0.2:80");
  list(&old, a, b);
  list(&new, b, NULL);
  records_replaced(records, &old.upstream, &new.upstream, 5);
  assert_false(atomic_load(&a->is_listed));
  assert_true(atomic_load(&b->is_listed));
  records_sweep(records, 4); /* root 4 may name it */
  assert_int_equal(records_count(records), 2);
  endpoint_pin(a);
  records_sweep(records, 5);
  assert_int_equal(records_count(records), 2);
  endpoint_unpin(a);
  atomic_store(&a->load, 1);
  records_sweep(records, 5);
  assert_int_equal(records_count(records), 2);
  atomic_store(&a->load, 0);
  records_sweep(records, 5);
  assert_int_equal(records_count(records), 1);
  assert_ptr_equal(get(records, "u", "10.0.0.2:80"), b);
  /* Now its index is free. */
  assert_int_equal(get(records, "u", "10.0.0.3:80")->index, 0);
  records_free(records);
}

static void a_record_that_comes_back_is_the_same(void **state) {
  (void)state;
  struct records *records = records_new();
  struct listing old;
  struct endpoint_record *a = get(records, "u", "10.0.0.1:80"), *b = get(records, "u", "10.0.0.2:80");
  atomic_store(&a->failures, 2);
  list(&old, a, b);
  records_replaced(records, &old.upstream, NULL, 3);
  records_replaced(records, &old.upstream, NULL, 4); /* twice is once: still since root 3 */
  /* A stranger comes while both are unlisted: no index may be shared. */
  struct endpoint_record *c = get(records, "u", "10.0.0.3:80");
  assert_ptr_equal(get(records, "u", "10.0.0.1:80"), a);
  assert_int_equal(a->index, 0);
  assert_int_equal(b->index, 1);
  assert_int_equal(c->index, 2);
  assert_int_equal(atomic_load(&a->failures), 2);
  records_sweep(records, 3);
  assert_int_equal(records_count(records), 2); /* b went, a came back in time */
  assert_ptr_equal(get(records, "u", "10.0.0.1:80"), a);
  records_free(records);
}

static void an_upstream_without_records_starts_anew(void **state) {
  (void)state;
  struct records *records = records_new();
  struct listing old;
  list(&old, get(records, "u", "10.0.0.1:80"), get(records, "u", "10.0.0.2:80"));
  struct endpoint_record *other = get(records, "v", "10.0.0.1:80");
  records_replaced(records, &old.upstream, NULL, 2);
  records_sweep(records, UINT64_MAX);
  assert_int_equal(records_count(records), 1);
  assert_ptr_equal(get(records, "v", "10.0.0.1:80"), other);
  assert_int_equal(get(records, "u", "10.0.0.9:80")->index, 0);
  records_free(records);
}

static void thousands_of_endpoints_get_dense_indexes(void **state) {
  (void)state;
  enum { COUNT = 5000 };
  struct records *records = records_new();
  static struct endpoint_record *all[COUNT];
  static struct endpoint endpoints[COUNT];
  struct upstream upstream = {.endpoints = endpoints};
  char text[32];
  for (int i = 0; i < COUNT; i++) {
    snprintf(text, sizeof text, "10.0.%d.%d:80", i / 200, i % 200 + 1);
    all[i] = get(records, "u", text);
    assert_int_equal(all[i]->index, i);
    if (i >= 100 && i < 164) endpoints[upstream.count++].record = all[i];
  }
  records_replaced(records, &upstream, NULL, 1);
  records_sweep(records, 1);
  assert_int_equal(records_count(records), COUNT - 64);
  for (int i = 0; i < 64; i++) {
    snprintf(text, sizeof text, "10.1.0.%d:80", i + 1);
    assert_int_equal(get(records, "u", text)->index, 100 + i);
  }
  assert_int_equal(get(records, "u", "10.2.0.1:80")->index, COUNT);
  records_free(records);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_for_each_upstream_and_address),
      cmocka_unit_test(keys_are_hashes_of_upstream_and_address),
      cmocka_unit_test(an_unlisted_record_waits_for_roots_pins_and_load),
      cmocka_unit_test(a_record_that_comes_back_is_the_same),
      cmocka_unit_test(an_upstream_without_records_starts_anew),
      cmocka_unit_test(thousands_of_endpoints_get_dense_indexes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
