/* Dict: dictionaries that all workers share. Each is split into shards with a lock of their own, bounded, with expiry; a full shard evicts what was used least
 * recently, never what is held. Values, buckets of `take` and holds of `acquire` under one key do not know of each other. Any thread; `dict_hold` and
 * `dict_release` take a lock that all share, the others that of one shard. Keys have at most LIMIT_DICTIONARY_KEY_BYTES, texts LIMIT_DICTIONARY_VALUE_BYTES:
 * the caller's to check. */
#ifndef BASE_DICT_H
#define BASE_DICT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/buffer.h"
#include "base/counters.h"
#include "base/span.h"

struct dict_store; /* of the process: what is in it outlives any change of policies */
struct dict;
struct dict_entry;

struct dict_store *dict_store_new(void);
/* Nothing of it is held. */
void dict_store_free(struct dict_store *store);
/* Finds or makes an owner's dictionary. NULL: it has LIMIT_DICTIONARIES others in use; one that is in no use makes room. */
struct dict *dict_hold(struct dict_store *store, struct span owner, struct span name);
void dict_release(struct dict *dict);

/* Who asks: the time (of one monotonic clock, not 0), and where limits are counted; NULL: nowhere. */
struct dict_asker {
  uint64_t now_ms;
  struct counters *counters;
};

enum dict_kind { DICT_NOTHING = 0, DICT_NUMBER = 1, DICT_BOOLEAN = 2, DICT_TEXT = 3 };
struct dict_value {
  enum dict_kind kind;
  double number;
  bool boolean;
  struct span text;
};
enum dict_result { DICT_DONE = 0, DICT_IS_THERE = 1, DICT_IS_NO_NUMBER = 2, DICT_IS_FULL = 3 };

/* A text is appended to `text`, which may be NULL, and is the caller's. */
void dict_get(struct dict *dict, struct dict_asker asker, struct span key, struct dict_value *value, struct buffer *text);
/* `lifetime_ms` 0: for ever. `only_new`: DICT_IS_THERE if there is one. DICT_IS_FULL: nothing is there now. */
enum dict_result dict_set(struct dict *dict, struct dict_asker asker, struct span key, const struct dict_value *value, uint64_t lifetime_ms, bool only_new);
/* Adds to a number; where there is none, to `initial`, which then lives that long. */
enum dict_result dict_increase(struct dict *dict, struct dict_asker asker, struct span key, double amount, double initial, uint64_t lifetime_ms,
                               double *result);
/* A new lifetime; false: there is no such value. */
bool dict_expire(struct dict *dict, struct dict_asker asker, struct span key, uint64_t lifetime_ms);
/* Value and bucket. */
bool dict_remove(struct dict *dict, struct dict_asker asker, struct span key);

/* A leaky bucket, as nginx's limit_req: it leaks `rate` a second, each take puts one in, the first of an empty bucket none. False, and nothing put in, if more
 * than `burst` would be in it, or if there is no room. `excess`: what is in it then. `only_looks`: nothing is put in anyway. */
bool dict_take(struct dict *dict, struct dict_asker asker, struct span key, double rate, double burst, bool only_looks, double *excess);
/* One of at most `most` holds, until dict_give_back. NULL: all are taken, or there is no room. */
struct dict_entry *dict_acquire(struct dict *dict, struct dict_asker asker, struct span key, double most);
void dict_give_back(struct dict *dict, struct dict_entry *entry);
/* How many there are under all keys. */
uint32_t dict_holds(const struct dict *dict);

#endif
