/* Reviews: what the admission webhook asks the sync thread, bytes in and bytes out. A review is its asker's until it is put into the queue, then the sync
 * thread's, and its asker's again from `done` on. The queue's calls may come from any thread. */
#ifndef KUBE_REVIEW_H
#define KUBE_REVIEW_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "base/buffer.h"
#include "base/list.h"

struct review {
  struct list node;
  struct buffer text;                  /* the request's body; then the answer's */
  int status;                          /* of HTTP: 200, or 400 with a sentence; 0: there is no answer */
  bool is_allowed;                     /* with 200 */
  _Atomic bool is_abandoned;           /* nobody waits for it any more: it need not be judged */
  void (*done)(struct review *review); /* on whatever thread answers it */
};

struct review_queue {
  pthread_mutex_t lock;
  struct list waiting;
  bool is_closed;
};

void review_queue_init(struct review_queue *queue);
/* False: the queue is closed, and the review is still its asker's. */
bool review_queue_put(struct review_queue *queue, struct review *review);
/* The oldest that somebody still waits for; NULL: none. Those that nobody waits for are given back on the way. */
struct review *review_queue_take(struct review_queue *queue);
bool review_queue_is_empty(struct review_queue *queue);
/* Gives back all that wait, unanswered, and takes no more. */
void review_queue_close(struct review_queue *queue);
/* After the last call of any other thread. */
void review_queue_free(struct review_queue *queue);

#endif
