/* Exchange members: the one table of what a policy can reach at request time, and in which phases. The functions are in exchange_request.c, exchange_answer.c
 * and exchange_balance.c. Constant. */
#include "script/exchange_members.h"

#define FIELD false
#define METHOD true

const struct member exchange_members[] = {
#define X(object, name, form, phases, function) {OBJECT_##object, name, form, phases, member_##function},
    EXCHANGE_MEMBERS(X)
#undef X
};
const unsigned exchange_member_count = sizeof exchange_members / sizeof *exchange_members;
