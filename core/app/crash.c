/* Crash: see crash.h. Runs on the failing thread with write(2) only; reads the workers' state racily, which is fine for a last word. */
#include "app/crash.h"

#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"

static struct worker *const *crash_workers;
static unsigned crash_count;
static volatile sig_atomic_t is_crashing;

static void put(const char *text, size_t length) {
  ssize_t ignored = write(STDERR_FILENO, text, length);
  (void)ignored;
}

static void dump(const char *what) {
  if (is_crashing) return;
  is_crashing = 1;
  char line[1024];
  int length = snprintf(line, sizeof line, "moongate %s crashed: %s\n", MOONGATE_VERSION, what);
  put(line, (size_t)length);
  for (unsigned i = 0; i < crash_count; i++) {
    const struct worker *worker = crash_workers[i];
    const struct exchange *exchange = atomic_load(&worker->running);
    const char *policy = atomic_load(&worker->running_policy);
    length = snprintf(line, sizeof line, "worker-%u: policy=%s ", i, policy ? policy : "-");
    put(line, (size_t)length);
    if (exchange && exchange->magic == EXCHANGE_MAGIC) put(line, exchange_describe(exchange, line, sizeof line));
    else put("no exchange running", 19);
    put("\n", 1);
  }
  void *frames[48];
  backtrace_symbols_fd(frames, backtrace(frames, 48), STDERR_FILENO);
}

static void on_signal(int number) {
  dump(strsignal(number));
  signal(number, SIG_DFL);
  raise(number);
}

void crash_install(struct worker *const *workers, unsigned count) {
  crash_workers = workers;
  crash_count = count;
  check_set_dump(dump);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  void *frames[1];
  backtrace(frames, 1); /* loads libgcc now, not in the handler */
  static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
  for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESETHAND | SA_NODEFER};
    sigaction(numbers[i], &action, NULL);
  }
#else
  (void)on_signal;
#endif
}
