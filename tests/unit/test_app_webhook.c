/* The webhook over real TLS connections on one loop, with a judge of the test's own: answers from another thread, none at all, askers that leave, lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <pthread.h>

#include "app/webhook.h"
#include "base/check.h"
#include "base/limits.h"
#include "net/link.h"
#include "net/tls.h"

enum { BODY = 10 };

struct world {
  struct loop loop;
  struct counters counters, outcomes;
  struct log log;
  struct webhook *webhook;
  struct tls_client *tls;
  struct review_queue queue; /* what was asked */
  bool is_ready;
  _Atomic bool is_over;
};

struct client {
  struct world *world;
  struct link *link;
  bool is_open, is_ended;
  struct buffer in;
};

static char folder[] = "/tmp/webhook-XXXXXX", certificate[64], key[64];

static int make_certificate(void **state) {
  (void)state;
  assert_non_null(mkdtemp(folder));
  snprintf(certificate, sizeof certificate, "%s/cert", folder);
  snprintf(key, sizeof key, "%s/key", folder);
  char command[512];
  snprintf(command, sizeof command,
           "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=webhook -keyout %s -out %s 2>%s/log", key, certificate,
           folder);
  return system(command);
}

static int remove_certificate(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -r %s", folder);
  return system(command);
}

static bool review(void *context, struct review *review) {
  struct world *world = context;
  return world->is_ready && review_queue_put(&world->queue, review);
}

static void silence(void *context, enum log_level level, struct span line) { (void)context, (void)level, (void)line; }

static int set_up(void **state) {
  struct world *world = calloc(1, sizeof *world);
  must(world);
  world->log = (struct log){.thread = "test", .capture = silence};
  world->is_ready = true;
  review_queue_init(&world->queue);
  assert_int_equal(loop_init(&world->loop, &world->counters, &world->log), 0);
  struct webhook_options options = {.loop = &world->loop,
                                    .listen = "127.0.0.1:0",
                                    .certificate = certificate,
                                    .key = key,
                                    .review = review,
                                    .context = world,
                                    .log = &world->log,
                                    .counters = &world->outcomes};
  char error[256];
  world->webhook = webhook_new(&options, error, sizeof error);
  assert_non_null(world->webhook);
  world->tls = tls_client_new(false, (struct span){0}, error, sizeof error);
  assert_non_null(world->tls);
  *state = world;
  return 0;
}

static int tear_down(void **state) {
  struct world *world = *state;
  review_queue_close(&world->queue);
  webhook_free(world->webhook);
  loop_run_once(&world->loop, 0);
  review_queue_free(&world->queue);
  tls_client_free(world->tls);
  loop_free(&world->loop);
  free(world);
  return 0;
}

/* ---- clients */

static void on_open(void *owner, int status) {
  assert_int_equal(status, 0);
  ((struct client *)owner)->is_open = true;
}
static size_t on_read(void *owner, const char *data, size_t length) {
  buffer_append(&((struct client *)owner)->in, span_make(data, length));
  return length;
}
static void on_end(void *owner, int error) {
  (void)error;
  ((struct client *)owner)->is_ended = true;
}
static void on_drain(void *owner) { (void)owner; }
static const struct link_events events = {.on_open = on_open, .on_read = on_read, .on_end = on_end, .on_drain = on_drain};

static void until(struct world *world, const bool *condition) {
  while (!*condition) loop_run_once(&world->loop, 100);
}

static struct client *connect_client(struct world *world) {
  struct client *client = calloc(1, sizeof *client);
  must(client);
  client->world = world;
  struct address address;
  assert_int_equal(address_parse_ip(SPAN("127.0.0.1"), webhook_port(world->webhook), &address), 0);
  client->link = link_connect(&world->loop, &address, world->tls, "webhook.test", &events, client);
  until(world, &client->is_open);
  return client;
}

static void leave(struct client *client) {
  link_close(client->link);
  buffer_free(&client->in);
  free(client);
}

/* Sends a review of BODY bytes, or of less than it says. */
static void ask(struct client *client, int bytes) {
  char text[256];
  int length =
      snprintf(text, sizeof text, "POST /networking/v1/ingresses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%.*s", BODY,
               bytes, "0123456789");
  link_write_span(client->link, span_make(text, (size_t)length));
}

/* The status of the next answer; its body goes to `body`. */
static int answer(struct client *client, char body[64]) {
  for (;;) {
    struct span in = buffer_span(&client->in);
    const char *end = in.length ? memmem(in.data, in.length, "\r\n\r\n", 4) : NULL;
    const char *field = end ? memmem(in.data, (size_t)(end - in.data), "Content-Length: ", 16) : NULL;
    if (field) {
      size_t length = (size_t)atoi(field + 16), head = (size_t)(end - in.data) + 4;
      if (in.length >= head + length) {
        int status = atoi(in.data + 9);
        assert_true(length < 64);
        snprintf(body, 64, "%.*s", (int)length, end + 4);
        buffer_consume(&client->in, head + length);
        return status;
      }
    }
    assert_false(client->is_ended);
    loop_run_once(&client->world->loop, 100);
  }
}

static uint64_t count(struct world *world, enum counter which) { return counter_get(&world->outcomes, which); }

/* Turns the loop until so many reviews wait for the judge; takes them. */
static void take(struct world *world, struct review **reviews, unsigned number) {
  for (unsigned i = 0; i < number;) {
    reviews[i] = review_queue_take(&world->queue);
    if (reviews[i]) i++;
    else loop_run_once(&world->loop, 100);
  }
}

static void judge(struct review *review, int status, const char *text, bool is_allowed) {
  buffer_free(&review->text);
  review->text = (struct buffer){0};
  buffer_append(&review->text, span_of(text));
  review->status = status;
  review->is_allowed = is_allowed;
  review->done(review);
}

/* ---- tests */

static void *judge_all(void *context) {
  struct world *world = context;
  while (!atomic_load(&world->is_over)) {
    struct review *taken = review_queue_take(&world->queue);
    if (!taken) {
      nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
      continue;
    }
    must(span_equal(buffer_span(&taken->text), SPAN("0123456789")));
    judge(taken, 200, "{}", true);
  }
  return NULL;
}

static void another_thread_answers(void **state) {
  struct world *world = *state;
  pthread_t thread;
  char body[64];
  struct client *clients[8];
  assert_int_equal(pthread_create(&thread, NULL, judge_all, world), 0);
  for (int i = 0; i < 8; i++) clients[i] = connect_client(world);
  for (int turn = 0; turn < 50; turn++) {
    for (int i = 0; i < 8; i++) ask(clients[i], BODY);
    for (int i = 0; i < 8; i++) {
      assert_int_equal(answer(clients[i], body), 200);
      assert_string_equal(body, "{}");
    }
  }
  for (int i = 0; i < 8; i++) leave(clients[i]);
  atomic_store(&world->is_over, true);
  pthread_join(thread, NULL);
  assert_int_equal(count(world, COUNTER_REVIEWS_ALLOWED), 400);
}

static void what_the_judge_says_is_passed_on(void **state) {
  struct world *world = *state;
  struct client *client = connect_client(world);
  struct review *taken;
  char body[64];
  const struct {
    int status, answered;
    bool is_allowed;
    enum counter counter;
  } cases[] = {{200, 200, true, COUNTER_REVIEWS_ALLOWED}, {200, 200, false, COUNTER_REVIEWS_REFUSED}, {400, 400, false, COUNTER_REVIEWS_UNANSWERED}};
  for (int i = 0; i < 3; i++) {
    ask(client, BODY);
    take(world, &taken, 1);
    judge(taken, cases[i].status, "text", cases[i].is_allowed);
    assert_int_equal(answer(client, body), cases[i].answered);
    assert_string_equal(body, "text");
    assert_int_equal(count(world, cases[i].counter), 1);
  }
  ask(client, BODY); /* the sync thread failed, or ends */
  take(world, &taken, 1);
  taken->done(taken);
  assert_int_equal(answer(client, body), 500);
  world->is_ready = false;
  ask(client, BODY);
  assert_int_equal(answer(client, body), 500);
  assert_string_equal(body, "the first sync is not over");
  assert_int_equal(count(world, COUNTER_REVIEWS_UNANSWERED), 3);
  leave(client);
}

static void who_leaves_is_forgotten(void **state) {
  struct world *world = *state;
  struct client *client = connect_client(world), *other = connect_client(world);
  struct review *taken[2];
  char body[64];
  ask(client, BODY);
  take(world, taken, 1);
  assert_false(atomic_load(&taken[0]->is_abandoned));
  leave(client);
  while (!atomic_load(&taken[0]->is_abandoned)) loop_run_once(&world->loop, 100);
  judge(taken[0], 200, "{}", true);
  ask(other, BODY);
  take(world, taken + 1, 1);
  judge(taken[1], 200, "{}", true);
  assert_int_equal(answer(other, body), 200);
  assert_int_equal(count(world, COUNTER_REVIEWS_ALLOWED), 1);
  leave(other);
}

/* All at once, since it takes the five seconds: no answer, and a body that does not come. What has no answer keeps its place until it comes back. */
static void nobody_waits_for_ever(void **state) {
  struct world *world = *state;
  struct client *clients[LIMIT_REVIEWS], *next = connect_client(world);
  struct review *taken[LIMIT_REVIEWS];
  char body[64];
  for (int i = 0; i < LIMIT_REVIEWS; i++) clients[i] = connect_client(world);
  for (int i = 0; i < LIMIT_REVIEWS; i++) ask(clients[i], i == 0 ? 3 : BODY);
  take(world, taken, LIMIT_REVIEWS - 1);
  assert_int_equal(answer(clients[0], body), 408);
  for (int i = 1; i < LIMIT_REVIEWS; i++) {
    assert_int_equal(answer(clients[i], body), 500);
    assert_string_equal(body, "no answer in time");
  }
  assert_int_equal(count(world, COUNTER_LIMIT_REVIEW_MS), LIMIT_REVIEWS);
  ask(next, BODY);
  take(world, &taken[LIMIT_REVIEWS - 1], 1);
  struct client *last = connect_client(world);
  ask(last, BODY);
  while (count(world, COUNTER_LIMIT_REVIEWS) == 0) loop_run_once(&world->loop, 100);
  assert_null(review_queue_take(&world->queue));
  for (int i = 0; i < LIMIT_REVIEWS - 1; i++) {
    assert_true(atomic_load(&taken[i]->is_abandoned));
    judge(taken[i], 200, "{}", true);
  }
  judge(taken[LIMIT_REVIEWS - 1], 200, "{}", true);
  assert_int_equal(answer(next, body), 200);
  take(world, taken, 1);
  judge(taken[0], 200, "{}", false);
  assert_int_equal(answer(last, body), 200);
  assert_int_equal(count(world, COUNTER_REVIEWS_REFUSED), 1);
  for (int i = 0; i < LIMIT_REVIEWS; i++) leave(clients[i]);
  leave(next);
  leave(last);
}

/* The end, with reviews in every state: tear_down gives back those that wait. */
static void it_ends_whatever_is_asked(void **state) {
  struct world *world = *state;
  struct client *clients[4];
  struct review *taken;
  for (int i = 0; i < 4; i++) clients[i] = connect_client(world);
  ask(clients[0], BODY);
  take(world, &taken, 1);
  judge(taken, 200, "{}", true); /* back, and not taken */
  ask(clients[1], 2);
  ask(clients[2], BODY);
  while (review_queue_is_empty(&world->queue)) loop_run_once(&world->loop, 100);
  for (int i = 0; i < 4; i++) leave(clients[i]);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
  const struct CMUnitTest tests[] = {TEST(another_thread_answers), TEST(what_the_judge_says_is_passed_on), TEST(who_leaves_is_forgotten),
                                     TEST(nobody_waits_for_ever), TEST(it_ends_whatever_is_asked)};
  return cmocka_run_group_tests(tests, make_certificate, remove_certificate);
}
