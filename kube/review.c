/* Reviews: see review.h. How many there are at once is bounded by who asks; the lock is held for a few instructions. */
#include "kube/review.h"

#include "base/check.h"

void review_queue_init(struct review_queue *queue) {
  must(pthread_mutex_init(&queue->lock, NULL) == 0);
  list_init(&queue->waiting);
  queue->is_closed = false;
}

bool review_queue_put(struct review_queue *queue, struct review *review) {
  must(pthread_mutex_lock(&queue->lock) == 0);
  bool is_open = !queue->is_closed;
  if (is_open) list_insert_last(&queue->waiting, &review->node);
  must(pthread_mutex_unlock(&queue->lock) == 0);
  return is_open;
}

static struct review *take(struct review_queue *queue) {
  struct review *review = NULL;
  must(pthread_mutex_lock(&queue->lock) == 0);
  if (!list_is_empty(&queue->waiting)) {
    review = container_of(queue->waiting.next, struct review, node);
    list_remove(&review->node);
  }
  must(pthread_mutex_unlock(&queue->lock) == 0);
  return review;
}

struct review *review_queue_take(struct review_queue *queue) {
  for (;;) {
    struct review *review = take(queue);
    if (!review || !atomic_load(&review->is_abandoned)) return review;
    review->done(review);
  }
}

bool review_queue_is_empty(struct review_queue *queue) {
  must(pthread_mutex_lock(&queue->lock) == 0);
  bool is_empty = list_is_empty(&queue->waiting);
  must(pthread_mutex_unlock(&queue->lock) == 0);
  return is_empty;
}

void review_queue_close(struct review_queue *queue) {
  must(pthread_mutex_lock(&queue->lock) == 0);
  queue->is_closed = true;
  must(pthread_mutex_unlock(&queue->lock) == 0);
  struct review *review;
  while ((review = take(queue))) review->done(review);
}

void review_queue_free(struct review_queue *queue) {
  must(list_is_empty(&queue->waiting));
  pthread_mutex_destroy(&queue->lock);
}
