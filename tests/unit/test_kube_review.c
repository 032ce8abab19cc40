/* The queue of reviews: order, abandoned ones, the end, and many threads that ask one that answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>

#include "base/check.h"
#include "kube/review.h"

enum { ASKERS = 4, EACH = 2000 };

static int given_back;

static void on_done(struct review *review) {
  assert_int_equal(review->status, 0);
  given_back++;
}

static void keeps_their_order(void **state) {
  (void)state;
  struct review_queue queue;
  struct review reviews[3] = {{.done = on_done}, {.done = on_done}, {.done = on_done}};
  review_queue_init(&queue);
  assert_true(review_queue_is_empty(&queue));
  assert_null(review_queue_take(&queue));
  for (int i = 0; i < 3; i++) assert_true(review_queue_put(&queue, &reviews[i]));
  assert_false(review_queue_is_empty(&queue));
  for (int i = 0; i < 3; i++) assert_ptr_equal(review_queue_take(&queue), &reviews[i]);
  assert_null(review_queue_take(&queue));
  review_queue_close(&queue);
  review_queue_free(&queue);
}

static void gives_back_what_nobody_waits_for(void **state) {
  (void)state;
  struct review_queue queue;
  struct review reviews[4] = {{.done = on_done}, {.done = on_done}, {.done = on_done}, {.done = on_done}};
  given_back = 0;
  review_queue_init(&queue);
  for (int i = 0; i < 4; i++) assert_true(review_queue_put(&queue, &reviews[i]));
  atomic_store(&reviews[0].is_abandoned, true);
  atomic_store(&reviews[1].is_abandoned, true);
  assert_ptr_equal(review_queue_take(&queue), &reviews[2]);
  assert_int_equal(given_back, 2);
  review_queue_close(&queue);
  assert_int_equal(given_back, 3);
  assert_false(review_queue_put(&queue, &reviews[0]));
  assert_int_equal(given_back, 3);
  review_queue_free(&queue);
}

static _Atomic int answered;

static void count(struct review *review) {
  assert_int_equal(review->status, 200);
  atomic_fetch_add(&answered, 1);
}

static struct review all[ASKERS][EACH];

struct asker {
  struct review_queue *queue;
  struct review *reviews;
};

static void *ask(void *context) {
  struct asker *asker = context;
  for (int i = 0; i < EACH; i++) {
    asker->reviews[i].done = count;
    must(review_queue_put(asker->queue, &asker->reviews[i]));
  }
  return NULL;
}

static void takes_from_many_threads(void **state) {
  (void)state;
  struct review_queue queue;
  pthread_t threads[ASKERS];
  struct asker askers[ASKERS];
  review_queue_init(&queue);
  for (int i = 0; i < ASKERS; i++) {
    askers[i] = (struct asker){&queue, all[i]};
    assert_int_equal(pthread_create(&threads[i], NULL, ask, &askers[i]), 0);
  }
  for (int taken = 0; taken < ASKERS * EACH;) {
    struct review *review = review_queue_take(&queue);
    if (!review) continue;
    review->status = 200;
    review->done(review);
    taken++;
  }
  for (int i = 0; i < ASKERS; i++) pthread_join(threads[i], NULL);
  assert_int_equal(atomic_load(&answered), ASKERS * EACH);
  review_queue_close(&queue);
  review_queue_free(&queue);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(keeps_their_order), cmocka_unit_test(gives_back_what_nobody_waits_for),
                                     cmocka_unit_test(takes_from_many_threads)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
