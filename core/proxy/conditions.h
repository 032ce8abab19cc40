/* Conditions: whether what a policy asked for at configuration time holds of an exchange. Worker's thread. */
#ifndef PROXY_CONDITIONS_H
#define PROXY_CONDITIONS_H

#include "proxy/exchange.h"
#include "route/condition.h"

enum condition_result {
  CONDITION_FAILS = 0,
  CONDITION_HOLDS = 1,
  CONDITION_UNKNOWN = 2 /* a limit of the regex was reached (counted): a hook runs, an edit is not made */
};

enum condition_result conditions_check(struct exchange *exchange, const struct condition *condition);

#endif
