/* Crash: what a broken invariant or a fatal signal prints: for each worker the exchange, step and policy that ran. */
#ifndef APP_CRASH_H
#define APP_CRASH_H

#include "proxy/worker.h"

/* Installs the handlers for SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT, and must()'s hook. `workers` is kept. */
void crash_install(struct worker *const *workers, unsigned count);

#endif
