/* Series: counters that policies make, one registry a process. A counter stays when its policy is reloaded or goes; it makes room only when its owner's share
 * is used up and nobody holds it. Any thread. Adding to a series that is there takes no lock; making one takes a lock that nobody holds for long. */
#ifndef BASE_SERIES_H
#define BASE_SERIES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/counters.h"
#include "base/span.h"

/* A declaration beyond these is a mistake of who wrote it. What grows has its bounds in limits.h. */
enum { SERIES_LABELS = 8, SERIES_NAME_BYTES = 64, SERIES_HELP_BYTES = 256 };

struct series_declaration {
  struct span owner; /* shown as the label "owner", which no declaration can have itself; empty: Moongate's own, without that label */
  struct span name;  /* shown as moongate_policy_<name>_total */
  struct span labels[SERIES_LABELS];
  unsigned label_count;
  struct span help;
};

struct series_registry;
struct series_counter;

struct series_registry *series_registry_new(void);
void series_registry_free(struct series_registry *registry);

/* What is wrong with it, or NULL. Pure. */
const char *series_complaint(const struct series_declaration *declaration);
/* The owner's counter of that name, made if new; to be released. With other labels than before it is a new one, which takes the place of the old. NULL when the
 * owner's share is used up. */
struct series_counter *series_hold(struct series_registry *registry, const struct series_declaration *declaration);
void series_release(struct series_counter *counter);
/* One value a label, in their order; `counter` NULL: the count is dropped. In values, control characters and bytes that are not UTF-8 count as "?". */
void series_add(struct series_registry *registry, struct series_counter *counter, uint64_t amount, const struct span *values);
/* How often a limit of this registry was reached. */
uint64_t series_reached(const struct series_registry *registry, enum counter which);
/* The text exposition of all of them. */
void series_write(struct series_registry *registry, struct buffer *out);

#endif
