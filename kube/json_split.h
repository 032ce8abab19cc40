/* JSON text that arrives in pieces, cut into the whole objects that its reader wants. */
#ifndef KUBE_JSON_SPLIT_H
#define KUBE_JSON_SPLIT_H

#include <stdint.h>

#include "base/buffer.h"
#include "base/counters.h"
#include "base/limits.h"

enum json_split_kind {
  JSON_SPLIT_LIST = 0, /* one object: each element of its "items" is an item, its "metadata" comes at the end */
  JSON_SPLIT_WATCH = 1 /* objects one after the other, each an event */
};
enum json_part { JSON_PART_NONE = 0, JSON_PART_ITEM = 1, JSON_PART_METADATA = 2, JSON_PART_EVENT = 3 };

/* Fields are json_split.c's. */
struct json_split {
  enum json_split_kind kind;
  int state; /* enum state there */
  unsigned depth, part_depth;
  uint64_t is_object[(LIMIT_JSON_DEPTH + 63) / 64]; /* a bit for each open container: object or array */
  enum json_part part;                              /* the one that is open */
  bool is_key, is_in_items, has_items;
  unsigned left;       /* of an escape's digits */
  const char *literal; /* the rest of true, false or null */
  char key[16];        /* of the outermost object's member */
  size_t key_length;
  struct buffer held;     /* the open part's bytes of earlier pieces */
  struct buffer metadata; /* a list's, until its end */
  uint64_t offset;
  const char *error;  /* why it was refused, at `offset` */
  enum counter limit; /* the bound that it was refused for, if it is not 0 */
  void (*emit)(void *context, enum json_part part, struct span text);
  void *context;
};

/* `emit` gets each whole part; the text is valid during the call only. */
void json_split_init(struct json_split *split, enum json_split_kind kind, void (*emit)(void *context, enum json_part part, struct span text), void *context);
void json_split_free(struct json_split *split);
/* Takes the next piece; false, now and from then on, if it is refused (`error`). Parts that were whole before were emitted. */
bool json_split_add(struct json_split *split, struct span piece);
/* The text ended: false if that is in the midst of it, or no list came. */
bool json_split_end(struct json_split *split);
/* A part is open: the text ends badly if it ends here. */
bool json_split_is_open(const struct json_split *split);

#endif
