/* A must() that fails prints, runs the dump once and aborts; so does a failed small allocation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"

static void dump(const char *what) {
  static const char mark[] = "DUMP:";
  ssize_t n = write(STDERR_FILENO, mark, sizeof mark - 1);
  n += write(STDERR_FILENO, what, strlen(what));
  (void)n;
  must(0 && "inside the dump"); /* must not run the dump again */
}

/* Runs `action` in a child; returns its stderr and status. */
static int run(void (*action)(void), char *out, size_t size) {
  int ends[2];
  assert_int_equal(pipe(ends), 0);
  pid_t child = fork();
  if (child == 0) {
    signal(SIGABRT, SIG_DFL);
    dup2(ends[1], STDERR_FILENO);
    close(ends[0]);
    close(ends[1]);
    action();
    _exit(0);
  }
  close(ends[1]);
  size_t length = 0;
  ssize_t n;
  while (length + 1 < size && (n = read(ends[0], out + length, size - 1 - length)) > 0) length += (size_t)n;
  out[length] = 0;
  close(ends[0]);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  return status;
}

static void fails(void) {
  check_set_dump(dump);
  int one = 1;
  must(one == 2);
}
static void runs_out(void) { check_memory(NULL); }
static void holds(void) {
  int x = 3;
  must(x == 3);
  must(check_memory(&x) == &x);
}

static void dumps_once_and_aborts(void **state) {
  (void)state;
  char text[2048];
  int status = run(fails, text, sizeof text);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  assert_non_null(strstr(text, "must(one == 2) failed at "));
  char *first = strstr(text, "DUMP:");
  assert_non_null(first);
  assert_null(strstr(first + 1, "DUMP:"));
  assert_non_null(strstr(text, "inside the dump"));
}

static void ends_without_memory(void **state) {
  (void)state;
  char text[2048];
  int status = run(runs_out, text, sizeof text);
  assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
  assert_non_null(strstr(text, "out of memory"));
}

static void says_nothing_when_true(void **state) {
  (void)state;
  char text[2048];
  int status = run(holds, text, sizeof text);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  assert_string_equal(text, "");
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(dumps_once_and_aborts), cmocka_unit_test(ends_without_memory), cmocka_unit_test(says_nothing_when_true)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
