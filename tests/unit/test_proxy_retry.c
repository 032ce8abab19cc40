/* The retry decision: pure. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <uv.h>

#include "base/error.h"
#include "proxy/retry.h"

static struct route_settings settings;
static struct retry_facts facts;

static int set_up(void **state) {
  (void)state;
  route_settings_defaults(&settings);
  facts = (struct retry_facts){.error = ERROR_CLOSED, .was_written = true, .method = SPAN("GET"), .tries = 1};
  return 0;
}

static void test_idempotent_requests(void **state) {
  (void)state;
  assert_true(retry_is_allowed(&facts, &settings));
  facts.method = SPAN("POST");
  assert_false(retry_is_allowed(&facts, &settings));
  settings.retry_non_idempotent = true;
  assert_true(retry_is_allowed(&facts, &settings));
  settings.retry_non_idempotent = false;
  settings.retry_on |= RETRY_NON_IDEMPOTENT;
  assert_true(retry_is_allowed(&facts, &settings));
}

static void test_nothing_written(void **state) {
  (void)state;
  facts.method = SPAN("POST");
  facts.was_written = false;
  facts.has_body = true;
  facts.error = UV_ECONNREFUSED;
  assert_true(retry_is_allowed(&facts, &settings));
  settings.retry_on = RETRY_OFF;
  assert_false(retry_is_allowed(&facts, &settings));
}

static void test_answer_begun(void **state) {
  (void)state;
  facts.has_answer_begun = true;
  facts.was_written = false;
  assert_false(retry_is_allowed(&facts, &settings));
}

static void test_bodies(void **state) {
  (void)state;
  facts.method = SPAN("PUT");
  facts.has_body = true;
  assert_false(retry_is_allowed(&facts, &settings));
  facts.body_is_held = true;
  assert_true(retry_is_allowed(&facts, &settings));
}

static void test_bounds(void **state) {
  (void)state;
  facts.tries = 2;
  assert_true(retry_is_allowed(&facts, &settings));
  facts.tries = 3;
  assert_false(retry_is_allowed(&facts, &settings));
  facts.is_stale = true; /* outside the count */
  assert_true(retry_is_allowed(&facts, &settings));
  facts.is_stale = false;
  settings.retry_tries = 0; /* each endpoint once */
  facts.endpoints = 3;
  assert_false(retry_is_allowed(&facts, &settings));
  facts.endpoints = 4;
  assert_true(retry_is_allowed(&facts, &settings));
  settings.retry_timeout_ms = 1000;
  facts.elapsed_ms = 999;
  assert_true(retry_is_allowed(&facts, &settings));
  facts.elapsed_ms = 1000;
  assert_false(retry_is_allowed(&facts, &settings));
}

static void test_words(void **state) {
  (void)state;
  facts.error = ERROR_TIMEOUT;
  settings.retry_on = RETRY_ERROR;
  assert_false(retry_is_allowed(&facts, &settings));
  settings.retry_on = RETRY_TIMEOUT;
  assert_true(retry_is_allowed(&facts, &settings));
  facts.error = ERROR_PROTOCOL;
  assert_false(retry_is_allowed(&facts, &settings));
  settings.retry_on = RETRY_INVALID_HEADER;
  assert_true(retry_is_allowed(&facts, &settings));
  static const struct {
    int status;
    uint32_t word;
  } statuses[] = {{403, RETRY_403}, {404, RETRY_404}, {429, RETRY_429}, {500, RETRY_500}, {502, RETRY_502}, {503, RETRY_503}, {504, RETRY_504}};
  facts.error = 0;
  for (unsigned i = 0; i < sizeof statuses / sizeof statuses[0]; i++) {
    facts.status = statuses[i].status;
    settings.retry_on = RETRY_ERROR | RETRY_TIMEOUT;
    assert_false(retry_is_allowed(&facts, &settings));
    settings.retry_on = statuses[i].word;
    assert_true(retry_is_allowed(&facts, &settings));
  }
  facts.status = 200;
  assert_int_equal(retry_reason(0, 200), 0);
}

static void test_final_status(void **state) {
  (void)state;
  assert_int_equal(retry_final_status(ERROR_TIMEOUT), 504);
  assert_int_equal(retry_final_status(UV_ETIMEDOUT), 504);
  assert_int_equal(retry_final_status(UV_ECONNREFUSED), 502);
  assert_int_equal(retry_final_status(ERROR_PROTOCOL), 502);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_idempotent_requests, set_up),
      cmocka_unit_test_setup(test_nothing_written, set_up),
      cmocka_unit_test_setup(test_answer_begun, set_up),
      cmocka_unit_test_setup(test_bodies, set_up),
      cmocka_unit_test_setup(test_bounds, set_up),
      cmocka_unit_test_setup(test_words, set_up),
      cmocka_unit_test_setup(test_final_status, set_up),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
