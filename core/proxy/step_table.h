/* Step table: name and function of each step, made of the list in exchange_steps.h. */
#ifndef PROXY_STEP_TABLE_H
#define PROXY_STEP_TABLE_H

#include "proxy/exchange.h"

struct step_entry {
  const char *name;
  enum step_result (*run)(struct exchange *exchange);
};
extern const struct step_entry step_table[STEP_COUNT];

#endif
