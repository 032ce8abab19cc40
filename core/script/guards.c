/* Guards: see guards.h. What there is to remember between two guards is bits of the exchange, so that either may wait. Worker's thread. */
#include "script/guards.h"

#include "base/check.h"

bool guards_are_done(const struct exchange *exchange) { return exchange->guards & GUARDS_ENDED; }

static bool is_any(const struct exchange *exchange) { return span_equal(exchange->route->settings.satisfy, SPAN("any")); }

enum hook_result guards_decide(struct exchange *exchange, enum hook_result result, bool is_last) {
  bool allows = exchange->guards & GUARD_ALLOWS;
  if (result == HOOK_WAIT) return result;
  exchange->guards &= (unsigned char)~GUARD_ALLOWS;
  if (result == HOOK_FAILED) {
    exchange_deny(exchange, 500, SPAN("a guard failed"));
    result = HOOK_ANSWERED;
  }
  if (!is_any(exchange)) return result;
  if (allows) {
    exchange->guards |= GUARDS_ENDED;
    exchange->response = NULL; /* of those that denied before */
    return HOOK_NEXT;
  }
  if (result == HOOK_ANSWERED) exchange->guards |= GUARDS_DENIED;
  if (!is_last || !(exchange->guards & GUARDS_DENIED)) return HOOK_NEXT;
  must(exchange->response != NULL);
  return HOOK_ANSWERED;
}
