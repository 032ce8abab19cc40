/* Records: the registry of endpoint records, one per upstream and address for the whole process, and of their indexes. Publisher's thread only;
 * the records' atomics are everybody's, and one
 * function is the admin thread's. */
#ifndef APP_RECORDS_H
#define APP_RECORDS_H

#include "base/buffer.h"
#include "route/endpoint.h"

struct records;

struct records *records_new(void);
void records_free(struct records *records);
/* The record of `address` in `upstream`: kept from before (with its index), or new with the smallest index that no record there has. Marks it listed. */
struct endpoint_record *records_get(struct records *records, struct span upstream, const struct address *address);
/* Marks those of `old` that `new` (may be NULL) does not list as unlisted since root `generation`. */
void records_replaced(struct records *records, const struct upstream *old, const struct upstream *new, uint64_t generation);
/* Frees unlisted records that no root from before `oldest_live` can name and nobody pins or loads. */
void records_sweep(struct records *records, uint64_t oldest_live);
unsigned records_count(const struct records *records);
/* Admin: how many endpoints there are in each state, as the gauge moongate_endpoints. */
void records_write_states(struct records *records, struct buffer *out);

#endif
