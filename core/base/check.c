/* What happens when an invariant of ours does not hold. Any thread, any state: nothing here allocates.
 * The one exception to "file-scope state only in app": must() is called from everywhere and can be given no context. */
#include "base/check.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic(void (*)(const char *what)) dump_hook;
static atomic_flag dump_started = ATOMIC_FLAG_INIT;

void check_set_dump(void (*dump)(const char *what)) { atomic_store(&dump_hook, dump); }

void check_failed(const char *condition, const char *file, int line) {
  char text[512];
  int length = snprintf(text, sizeof text, "moongate: must(%s) failed at %s:%d\n", condition, file, line);
  if (length < 0) length = 0;
  if ((size_t)length >= sizeof text) length = (int)sizeof text - 1;
  ssize_t written = write(STDERR_FILENO, text, (size_t)length);
  (void)written; /* nothing is left to be done about it */
  /* A must() that fails inside the hook, or on a second thread at the same time, does not run it again. */
  void (*hook)(const char *what) = atomic_load(&dump_hook);
  if (hook && !atomic_flag_test_and_set(&dump_started)) hook(text);
  abort();
}

void *check_memory(void *pointer) {
  if (pointer) return pointer;
  static const char text[] = "moongate: out of memory\n";
  ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
  (void)written;
  abort();
}
