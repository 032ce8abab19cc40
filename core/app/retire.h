/* Retire: who is alive. Numbers the roots, gives units their ids, and frees units and roots when nobody can see them. Publisher's thread only; no clock, no
 * queue: unit-tested. */
#ifndef APP_RETIRE_H
#define APP_RETIRE_H

#include "route/snapshot.h"

struct retire;

struct retire *retire_new(void);
/* Gives the unit an id and notes its birth. */
void retire_born(struct retire *retire, struct unit *unit);
/* The next root will not name it any more. */
void retire_unit(struct retire *retire, struct unit *unit, uint64_t now_ms);
uint64_t retire_next_generation(const struct retire *retire);
/* `root` was made; it is live until `holders` returns came. The root before stops being the current one. */
void retire_published(struct retire *retire, struct snapshot *root, unsigned holders);
/* One holder gave `root` back. Frees it with the last one, unless it is the current one. */
void retire_returned(struct retire *retire, struct snapshot *root);
/* Frees retired units that no live root names and no worker lists. */
void retire_sweep(struct retire *retire);
uint64_t retire_oldest_live(const struct retire *retire);
unsigned retire_live_roots(const struct retire *retire);
unsigned retire_pending(const struct retire *retire);
uint64_t retire_oldest_ms(const struct retire *retire, uint64_t now_ms); /* age of the oldest retired unit */
/* At the end: workers are gone. Frees all roots and all units, named or retired. */
void retire_free_all(struct retire *retire);

#endif
