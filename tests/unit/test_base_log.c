/* Log: the ring alone and under two threads, the form of lines, and that no value leaves its quotes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/log.h"

struct seen {
  char text[65536];
  size_t length, lines, own;
};
static void collect(void *context, enum log_target target, struct span line) {
  struct seen *seen = context;
  memcpy(seen->text + seen->length, line.data, line.length);
  seen->length += line.length;
  seen->text[seen->length] = 0;
  seen->lines++;
  seen->own += target == LOG_OWN;
}

static void count_wake(void *context) { ++*(int *)context; }

static void carries_lines(void **state) {
  (void)state;
  static struct seen seen;
  memset(&seen, 0, sizeof seen);
  struct log_ring *ring = log_ring_new(1024);
  int wakes = 0;
  log_ring_set_wake(ring, count_wake, &wakes);
  assert_int_equal(log_ring_drain(ring, collect, &seen), 0);
  assert_true(log_ring_put(ring, LOG_OWN, SPAN("one")));
  assert_true(log_ring_put(ring, LOG_ACCESS, SPAN("")));
  assert_int_equal(wakes, 1); /* the second found the ring not empty */
  assert_int_equal(log_ring_drain(ring, collect, &seen), 2);
  assert_string_equal(seen.text, "one\n\n");
  assert_int_equal(seen.own, 1);
  assert_true(log_ring_put(ring, LOG_OWN, SPAN("two")));
  assert_int_equal(wakes, 2);
  log_ring_free(ring);
  log_ring_free(NULL);
}

static void drops_when_full(void **state) {
  (void)state;
  static struct seen seen;
  memset(&seen, 0, sizeof seen);
  struct log_ring *ring = log_ring_new(1024);
  char text[2000];
  memset(text, 'x', sizeof text);
  assert_false(log_ring_put(ring, LOG_OWN, (struct span){text, sizeof text}));
  assert_false(log_ring_put(ring, LOG_OWN, (struct span){text, 1024}));
  assert_int_equal(log_ring_dropped(ring), 2);
  assert_true(log_ring_put(ring, LOG_OWN, (struct span){text, 1015})); /* head, newline: all of it */
  assert_false(log_ring_put(ring, LOG_OWN, SPAN("")));
  assert_int_equal(log_ring_drain(ring, collect, &seen), 1);
  for (size_t i = 0; i < 1000; i++) { /* every length at every offset */
    size_t length = i * 7 % 500;
    seen.length = 0;
    assert_true(log_ring_put(ring, LOG_OWN, (struct span){text, length}));
    assert_int_equal(log_ring_drain(ring, collect, &seen), 1);
    assert_int_equal(seen.length, length + 1);
  }
  assert_int_equal(log_ring_dropped(ring), 3);
  log_ring_free(ring);
}

struct pair {
  struct log_ring *ring;
  sem_t awake;
  uint64_t put, dropped, got, next;
  atomic_bool done;
  bool waits;
};
static void wake_pair(void *context) { sem_post(&((struct pair *)context)->awake); }

static void *produce(void *arg) {
  struct pair *pair = arg;
  struct random random = {17};
  for (unsigned i = 0; i < 30000; i++) {
    char text[300];
    int length = snprintf(text, sizeof text, "%u:%.*s", i, (int)random_below(&random, 200),
                          "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                          "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb");
    if (log_ring_put(pair->ring, i % 2 ? LOG_OWN : LOG_ACCESS, (struct span){text, (size_t)length})) {
      pair->put++;
    } else {
      pair->dropped++;
    }
  }
  atomic_store(&pair->done, true);
  sem_post(&pair->awake);
  return NULL;
}

static void check_line(void *context, enum log_target target, struct span line) {
  struct pair *pair = context;
  unsigned number;
  assert_int_equal(line.data[line.length - 1], '\n');
  assert_int_equal(sscanf(line.data, "%u:", &number), 1);
  assert_true(number >= pair->next); /* in order, none twice */
  assert_int_equal(target, number % 2 ? LOG_OWN : LOG_ACCESS);
  assert_null(memchr(line.data, '\n', line.length - 1));
  pair->next = number + 1;
  pair->got++;
}

static void passes_between_threads(void **state) {
  (void)state;
  static struct pair pair;
  pair.ring = log_ring_new(4096);
  sem_init(&pair.awake, 0, 0);
  log_ring_set_wake(pair.ring, wake_pair, &pair);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, produce, &pair), 0);
  /* The consumer sleeps without a timeout after each drain: a lost wake-up hangs here (alarm in main). */
  do {
    sem_wait(&pair.awake);
    log_ring_drain(pair.ring, check_line, &pair);
  } while (!atomic_load(&pair.done));
  pthread_join(thread, NULL);
  log_ring_drain(pair.ring, check_line, &pair);
  assert_int_equal(pair.got, pair.put);
  assert_int_equal(log_ring_dropped(pair.ring), pair.dropped);
  assert_int_equal(pair.put + pair.dropped, 30000);
  assert_true(pair.got > 0);
  log_ring_free(pair.ring);
  sem_destroy(&pair.awake);
}

struct turns {
  struct log_ring *ring;
  sem_t awake, answered;
};
static void wake_turns(void *context) { sem_post(&((struct turns *)context)->awake); }
static void answer(void *context, enum log_target target, struct span line) {
  (void)target, (void)line;
  sem_post(&((struct turns *)context)->answered);
}
static void *answer_all(void *arg) {
  struct turns *turns = arg;
  for (size_t lines = 0; lines < 20000;) {
    sem_wait(&turns->awake);
    lines += log_ring_drain(turns->ring, answer, turns);
  }
  return NULL;
}
/* One line in flight: each put meets a consumer that is just about to sleep. A lost wake-up hangs. */
static void never_loses_a_wake(void **state) {
  (void)state;
  static struct turns turns;
  turns.ring = log_ring_new(4096);
  sem_init(&turns.awake, 0, 0);
  sem_init(&turns.answered, 0, 0);
  log_ring_set_wake(turns.ring, wake_turns, &turns);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, answer_all, &turns), 0);
  for (int i = 0; i < 20000; i++) {
    assert_true(log_ring_put(turns.ring, LOG_OWN, SPAN("x")));
    sem_wait(&turns.answered);
  }
  pthread_join(thread, NULL);
  log_ring_free(turns.ring);
  sem_destroy(&turns.awake);
  sem_destroy(&turns.answered);
}

struct last {
  char text[9000];
  size_t length;
  int count;
};
static void capture(void *context, enum log_level level, struct span line) {
  (void)level;
  struct last *last = context;
  memcpy(last->text, line.data, line.length);
  last->text[line.length] = 0;
  last->length = line.length;
  last->count++;
}

/* The line after its time. */
static const char *after_time(struct last *last, bool json) {
  int year, month, day, hour, minute, second, milli, at = 0;
  int n = sscanf(last->text, json ? "{\"time\":\"%4d-%2d-%2dT%2d:%2d:%2d.%3dZ\",%n" : "time=%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &year, &month, &day, &hour,
                 &minute, &second, &milli, &at);
  assert_int_equal(n, 7);
  assert_true(at > 0 && year >= 2024);
  assert_null(strchr(last->text, '\n'));
  return last->text + at;
}

static void writes_logfmt(void **state) {
  (void)state;
  static struct last last;
  struct log log = {.thread = "worker-0", .capture = capture, .capture_context = &last};
  log_write(&log, LOG_WARN, "endpoint failed", "upstream=%s tries=%d", "a/b:80", 3);
  assert_string_equal(after_time(&last, false), "level=warn thread=worker-0 message=\"endpoint failed\" upstream=a/b:80 tries=3");
  log_write(&log, LOG_INFO, "plain", NULL);
  assert_string_equal(after_time(&last, false), "level=info thread=worker-0 message=\"plain\"");
  log_write(&log, LOG_INFO, "m", "error=%s file=%s", "connection closed by peer", "x");
  assert_string_equal(after_time(&last, false), "level=info thread=worker-0 message=\"m\" error=\"connection closed by peer\" file=x");
  log_write(&log, LOG_INFO, "m", "%s", "no pairs\nhere");
  assert_string_equal(after_time(&last, false), "level=info thread=worker-0 message=\"m\" detail=\"no pairs\\nhere\"");
  char quoted[64];
  log_write(&log, LOG_INFO, "m", "path=%s empty=%s z=1", log_quote(SPAN("/a b\" evil=\"1\\\n\x01\xff"), quoted, sizeof quoted), "");
  assert_string_equal(after_time(&last, false), "level=info thread=worker-0 message=\"m\" path=\"/a b\\\" evil=\\\"1\\\\\\n\\x01\\xff\" empty=\"\" z=1");
}

static void writes_json(void **state) {
  (void)state;
  static struct last last;
  struct log log = {.thread = "sync", .json = true, .capture = capture, .capture_context = &last};
  char quoted[64];
  log_write(&log, LOG_ERROR, "it \"failed\"", "a=%s b=two words c=%s", log_quote(SPAN("x\" y=\"\\\n\x01\xff\xc3\xa9"), quoted, sizeof quoted), "\t");
  assert_string_equal(after_time(&last, true),
                      "\"level\":\"error\",\"thread\":\"sync\",\"message\":\"it \\\"failed\\\"\",\"a\":\"x\\\" y=\\\"\\\\\\n\\u0001\\ufffd\xc3\xa9\","
                      "\"b\":\"two words\",\"c\":\"\\t\"}");
  log_write(&log, LOG_ERROR, "m", NULL);
  assert_string_equal(after_time(&last, true), "\"level\":\"error\",\"thread\":\"sync\",\"message\":\"m\"}");
}

static void keeps_lines_whole_whatever_comes(void **state) {
  (void)state;
  static struct last last;
  static char long_text[6000];
  struct log log = {.json = true, .capture = capture, .capture_context = &last};
  for (size_t length = 0; length < sizeof long_text; length += 61) {
    for (int kind = 0; kind < 3; kind++) {
      memset(long_text, kind == 0 ? 'a' : kind == 1 ? 1 : '"', length);
      long_text[length] = 0;
      log.json = length % 2 == 0;
      log_write(&log, LOG_ERROR, "m", "v=%s w=1", long_text);
      size_t quotes = 0;
      for (size_t i = 0; i < last.length; i++) {
        assert_true((unsigned char)last.text[i] >= 0x20);
        if (last.text[i] == '\\') {
          i++;
        } else {
          quotes += last.text[i] == '"';
        }
      }
      assert_int_equal(quotes % 2, 0);
      if (log.json) assert_int_equal(last.text[last.length - 1], '}');
      if (length >= 4096) assert_true(kind == 1 || strstr(last.text, "cut") != NULL);
    }
  }
  char small[8];
  assert_string_equal(log_quote(SPAN("abcdefghij"), small, sizeof small), "\"abcde\"");
  assert_string_equal(log_quote(SPAN("abcd\x01"), small, sizeof small), "\"abcd\"");
  assert_string_equal(log_quote(SPAN("a"), small, 3), "\"\"");
  assert_string_equal(log_quote(span_of(NULL), small, sizeof small), "\"\"");
}

static void obeys_the_level(void **state) {
  (void)state;
  static struct last last;
  _Atomic int level = LOG_WARN;
  struct log log = {.capture = capture, .capture_context = &last};
  log_write(&log, LOG_DEBUG, "m", NULL);
  assert_int_equal(last.count, 0);
  log_write(&log, LOG_INFO, "m", NULL);
  assert_int_equal(last.count, 1);
  log.level = &level;
  log_write(&log, LOG_NOTICE, "m", NULL);
  assert_int_equal(last.count, 1);
  assert_true(log_is_on(&log, LOG_WARN));
  assert_string_equal(log_level_name(LOG_NOTICE), "notice");
  log.capture = NULL;
  log.ring = log_ring_new(0);
  log_write(&log, LOG_ERROR, "m", NULL);
  static struct seen seen;
  assert_int_equal(log_ring_drain(log.ring, collect, &seen), 1);
  assert_int_equal(seen.own, 1);
  log_ring_free(log.ring);
}

int main(void) {
  alarm(120); /* a lost wake-up ends here */
  const struct CMUnitTest tests[] = {cmocka_unit_test(carries_lines),
                                     cmocka_unit_test(drops_when_full),
                                     cmocka_unit_test(passes_between_threads),
                                     cmocka_unit_test(never_loses_a_wake),
                                     cmocka_unit_test(writes_logfmt),
                                     cmocka_unit_test(writes_json),
                                     cmocka_unit_test(keeps_lines_whole_whatever_comes),
                                     cmocka_unit_test(obeys_the_level)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
