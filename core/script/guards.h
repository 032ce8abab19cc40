/* Guards: what the policies that decide about admission have said, made into what the access phase does. Under satisfy "all" the first denial is the answer;
 * under "any" the first allow ends the guards, and if none allows the last denial is the answer. An error of a guard is a denial. */
#ifndef SCRIPT_GUARDS_H
#define SCRIPT_GUARDS_H

#include "proxy/hook_runner.h"

/* Bits of exchange->guards. */
enum {
  GUARD_ALLOWS = 1 /* the one that ran last */,
  GUARDS_DENIED = 2 /* one of "any"; its answer is exchange->response */,
  GUARDS_ENDED = 4 /* one of "any" allowed */
};

/* No further guard is asked. */
bool guards_are_done(const struct exchange *exchange);
/* `result`: of the guard that just ran; HOOK_FAILED is an error that was logged. `is_last`: no other guard follows. HOOK_NEXT, or HOOK_ANSWERED. */
enum hook_result guards_decide(struct exchange *exchange, enum hook_result result, bool is_last);

#endif
