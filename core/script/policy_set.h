/* Policy set: a unit. Policies by slot; for each owner one ready-made state per worker, shared with the set before when none of the owner's files changed. Made
 * and freed by the publisher; workers use their own states. */
#ifndef SCRIPT_POLICY_SET_H
#define SCRIPT_POLICY_SET_H

#include "script/script.h"
#include "script/state.h"

/* An owner's states. Counted by the sets that name it; publisher only. */
struct owner_group {
  unsigned references;
  char *owner;
  struct buffer identity;       /* all of its files, packed: equal bytes, equal states */
  struct script_state **states; /* by worker */
  unsigned worker_count;
  unsigned policy_count;
};

/* A policy name's own: made with its slot, lives as long as the slots; the list grows at its front, by release stores. */
struct policy_tally {
  struct policy_tally *next;
  _Atomic uint64_t errors; /* all workers: rare */
  char name[];
};

struct policy_entry {
  const char *name; /* NULL: no such policy in this set */
  struct policy_tally *tally;
  struct owner_group *group;
  unsigned index; /* in the group's states */
};

struct policy_set {
  struct unit unit;
  uint64_t serial; /* later sets have higher ones */
  struct policy_entry *by_slot;
  uint32_t slot_count;
  struct owner_group **groups;
  unsigned group_count;
};

static inline struct policy_set *policy_set_of(struct unit *unit) { return (struct policy_set *)unit; }
/* Whether a state of that serial is among worker `number`'s states of this set. */
bool policy_set_has_state(const struct policy_set *set, unsigned worker, const struct script_state *state, uint64_t serial);

#endif
