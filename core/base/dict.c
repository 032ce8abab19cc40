/* Dict: see dict.h. The store owns its dictionaries, a shard its entries. An entry is in its shard's chain by hash, and in the list by use unless it is one of
 * `acquire`, which goes with its last hold. No lock is held while another is taken, nor across a call of anybody else's. */
#include "base/dict.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/list.h"

#define SHARDS 16u
#define BUCKETS 1024u
#define SHARD_BYTES (LIMIT_DICTIONARY_BYTES / SHARDS)
#define UNIT 1000000.0 /* of a bucket: whole numbers, so that 5 takes of a fifth are one */
#define FULL 9e15      /* below 2^53 */

enum space { SPACE_VALUE = 0, SPACE_BUCKET = 1, SPACE_HOLD = 2 };

struct dict_entry {
  struct dict_entry *next;
  struct list node; /* in the shard's `used`; alone if it is a hold */
  uint64_t hash;
  uint64_t expires_ms; /* 0: never */
  enum space space;
  uint32_t key_length, text_length;
  enum dict_kind kind;
  double number;     /* a boolean is 0 or 1 */
  int64_t excess;    /* of a bucket, in UNITs, at ... */
  uint64_t taken_ms; /* ... this time */
  uint32_t holders;
  char bytes[]; /* the key, then the text */
};

struct shard {
  _Alignas(64) pthread_mutex_t lock;
  struct dict_entry **buckets; /* NULL until something is put in */
  struct list used;            /* least recently first */
  size_t bytes;
};

struct dict {
  struct dict_store *store;
  struct dict *next;
  struct span owner, name;
  uint64_t seed, released_at; /* serial */
  unsigned holders;           /* under the store's lock */
  _Atomic uint32_t held;      /* holds of `acquire` */
  struct shard shards[SHARDS];
};

struct dict_store {
  pthread_mutex_t lock;
  struct dict *dicts;
  uint64_t serial;
};

/* ---- the store */

struct dict_store *dict_store_new(void) {
  struct dict_store *store = calloc(1, sizeof *store);
  must(store != NULL);
  must(pthread_mutex_init(&store->lock, NULL) == 0);
  return store;
}

static struct span copy(struct span text) {
  char *bytes = malloc(text.length + 1);
  must(bytes != NULL);
  if (text.length) memcpy(bytes, text.data, text.length);
  return span_make(bytes, text.length);
}

static struct dict *dict_new(struct dict_store *store, struct span owner, struct span name) {
  struct dict *dict = aligned_alloc(64, (sizeof *dict + 63) / 64 * 64);
  must(dict != NULL);
  memset(dict, 0, sizeof *dict);
  dict->store = store;
  dict->owner = copy(owner);
  dict->name = copy(name);
  dict->seed = hash_process_seed();
  for (unsigned i = 0; i < SHARDS; i++) {
    must(pthread_mutex_init(&dict->shards[i].lock, NULL) == 0);
    list_init(&dict->shards[i].used);
  }
  return dict;
}

static void dict_free(struct dict *dict) {
  must(dict->holders == 0 && atomic_load(&dict->held) == 0);
  for (unsigned i = 0; i < SHARDS; i++) {
    struct shard *shard = &dict->shards[i];
    for (struct list *node = shard->used.next, *next; node != &shard->used; node = next) {
      next = node->next;
      free(container_of(node, struct dict_entry, node));
    }
    free(shard->buckets);
    pthread_mutex_destroy(&shard->lock);
  }
  free((void *)dict->owner.data);
  free((void *)dict->name.data);
  free(dict);
}

void dict_store_free(struct dict_store *store) {
  if (store == NULL) return;
  for (struct dict *dict = store->dicts, *next; dict; dict = next) {
    next = dict->next;
    dict_free(dict);
  }
  pthread_mutex_destroy(&store->lock);
  free(store);
}

/* Takes the one that has been in no use for longest out of the list. */
static struct dict *take_unused(struct dict_store *store, struct span owner) {
  struct dict **oldest = NULL;
  for (struct dict **at = &store->dicts; *at; at = &(*at)->next) {
    bool is_unused = span_equal((*at)->owner, owner) && (*at)->holders == 0 && atomic_load(&(*at)->held) == 0;
    if (is_unused && (oldest == NULL || (*at)->released_at < (*oldest)->released_at)) oldest = at;
  }
  struct dict *dict = oldest ? *oldest : NULL;
  if (dict) *oldest = dict->next;
  return dict;
}

struct dict *dict_hold(struct dict_store *store, struct span owner, struct span name) {
  struct dict *found = NULL, *unused = NULL;
  unsigned count = 0;
  pthread_mutex_lock(&store->lock);
  for (struct dict *dict = store->dicts; dict; dict = dict->next) {
    if (!span_equal(dict->owner, owner)) continue;
    count++;
    if (span_equal(dict->name, name)) found = dict;
  }
  if (found == NULL && count >= LIMIT_DICTIONARIES) {
    unused = take_unused(store, owner);
    if (unused) count--;
  }
  if (found == NULL && count < LIMIT_DICTIONARIES) {
    found = dict_new(store, owner, name);
    found->next = store->dicts;
    store->dicts = found;
  }
  if (found) found->holders++;
  pthread_mutex_unlock(&store->lock);
  if (unused) dict_free(unused);
  return found;
}

void dict_release(struct dict *dict) {
  struct dict_store *store = dict->store;
  pthread_mutex_lock(&store->lock);
  must(dict->holders > 0);
  if (--dict->holders == 0) dict->released_at = ++store->serial;
  pthread_mutex_unlock(&store->lock);
}

/* ---- a shard; its lock is held */

static struct shard *lock_shard(struct dict *dict, uint64_t hash) {
  struct shard *shard = &dict->shards[hash >> 60];
  pthread_mutex_lock(&shard->lock);
  return shard;
}

static uint64_t hash_of(const struct dict *dict, struct span key, enum space space) {
  must(key.length <= LIMIT_DICTIONARY_KEY_BYTES);
  return hash_bytes(key, dict->seed + space);
}

static size_t size_of(size_t key_length, size_t text_length) { return sizeof(struct dict_entry) + key_length + text_length; }

static struct dict_entry **place_of(struct shard *shard, uint64_t hash) { return &shard->buckets[hash % BUCKETS]; }

static void drop(struct shard *shard, struct dict_entry *entry) {
  struct dict_entry **at = place_of(shard, entry->hash);
  while (*at != entry) at = &(*at)->next;
  *at = entry->next;
  list_remove(&entry->node);
  shard->bytes -= size_of(entry->key_length, entry->text_length);
  free(entry);
}

static bool is_expired(const struct dict_entry *entry, uint64_t now_ms) { return entry->expires_ms != 0 && entry->expires_ms <= now_ms; }

/* What is there and has not expired; it is now the one used last. */
static struct dict_entry *find(struct shard *shard, uint64_t now_ms, uint64_t hash, struct span key, enum space space) {
  if (shard->buckets == NULL) return NULL;
  for (struct dict_entry *entry = *place_of(shard, hash); entry; entry = entry->next) {
    if (entry->hash != hash || entry->space != space || !span_equal(span_make(entry->bytes, entry->key_length), key)) continue;
    if (is_expired(entry, now_ms)) {
      drop(shard, entry);
      return NULL;
    }
    if (space != SPACE_HOLD) {
      list_remove(&entry->node);
      list_insert_last(&shard->used, &entry->node);
    }
    return entry;
  }
  return NULL;
}

static bool make_room(struct shard *shard, struct dict_asker asker, size_t size) {
  bool is_full = false;
  /* Those that have expired go by the way, two at a time. */
  for (int i = 0; i < 2 && !list_is_empty(&shard->used); i++) {
    struct dict_entry *entry = container_of(shard->used.next, struct dict_entry, node);
    if (!is_expired(entry, asker.now_ms)) break;
    drop(shard, entry);
  }
  while (shard->bytes + size > SHARD_BYTES && !list_is_empty(&shard->used)) {
    struct dict_entry *entry = container_of(shard->used.next, struct dict_entry, node);
    is_full = is_full || !is_expired(entry, asker.now_ms);
    drop(shard, entry);
  }
  bool has_room = shard->bytes + size <= SHARD_BYTES;
  if ((is_full || !has_room) && asker.counters) counter_add(asker.counters, COUNTER_LIMIT_DICTIONARY_BYTES, 1);
  return has_room;
}

/* A new entry, NULL if there is no room. */
static struct dict_entry *put(struct shard *shard, struct dict_asker asker, uint64_t hash, struct span key, enum space space, struct span text) {
  size_t size = size_of(key.length, text.length);
  if (!make_room(shard, asker, size)) return NULL;
  if (shard->buckets == NULL) {
    shard->buckets = calloc(BUCKETS, sizeof *shard->buckets);
    must(shard->buckets != NULL);
  }
  struct dict_entry *entry = calloc(1, size);
  must(entry != NULL);
  entry->hash = hash;
  entry->space = space;
  entry->key_length = (uint32_t)key.length;
  entry->text_length = (uint32_t)text.length;
  if (key.length) memcpy(entry->bytes, key.data, key.length);
  if (text.length) memcpy(entry->bytes + key.length, text.data, text.length);
  entry->next = *place_of(shard, hash);
  *place_of(shard, hash) = entry;
  list_init(&entry->node);
  if (space != SPACE_HOLD) list_insert_last(&shard->used, &entry->node);
  shard->bytes += size;
  return entry;
}

static uint64_t end_of(uint64_t lifetime_ms, uint64_t now_ms) { return lifetime_ms == 0 ? 0 : lifetime_ms > UINT64_MAX - now_ms ? 0 : now_ms + lifetime_ms; }

/* ---- values */

void dict_get(struct dict *dict, struct dict_asker asker, struct span key, struct dict_value *value, struct buffer *text) {
  uint64_t hash = hash_of(dict, key, SPACE_VALUE);
  *value = (struct dict_value){.kind = DICT_NOTHING};
  struct shard *shard = lock_shard(dict, hash);
  const struct dict_entry *entry = find(shard, asker.now_ms, hash, key, SPACE_VALUE);
  if (entry) {
    value->kind = entry->kind;
    value->number = entry->number;
    value->boolean = entry->number != 0;
    if (entry->kind == DICT_TEXT && text) buffer_append(text, span_make(entry->bytes + entry->key_length, entry->text_length));
  }
  pthread_mutex_unlock(&shard->lock);
}

enum dict_result dict_set(struct dict *dict, struct dict_asker asker, struct span key, const struct dict_value *value, uint64_t lifetime_ms, bool only_new) {
  uint64_t hash = hash_of(dict, key, SPACE_VALUE);
  struct span text = value->kind == DICT_TEXT ? value->text : SPAN("");
  enum dict_result result = DICT_DONE;
  must(text.length <= LIMIT_DICTIONARY_VALUE_BYTES);
  struct shard *shard = lock_shard(dict, hash);
  struct dict_entry *entry = find(shard, asker.now_ms, hash, key, SPACE_VALUE);
  if (entry && only_new) {
    result = DICT_IS_THERE;
  } else {
    if (entry && entry->text_length == text.length) {
      if (text.length) memcpy(entry->bytes + entry->key_length, text.data, text.length);
    } else {
      if (entry) drop(shard, entry);
      entry = put(shard, asker, hash, key, SPACE_VALUE, text);
    }
    if (entry) {
      entry->kind = value->kind;
      entry->number = value->kind == DICT_BOOLEAN ? value->boolean : value->number;
      entry->expires_ms = end_of(lifetime_ms, asker.now_ms);
    } else {
      result = DICT_IS_FULL;
    }
  }
  pthread_mutex_unlock(&shard->lock);
  return result;
}

enum dict_result dict_increase(struct dict *dict, struct dict_asker asker, struct span key, double amount, double initial, uint64_t lifetime_ms,
                               double *result) {
  uint64_t hash = hash_of(dict, key, SPACE_VALUE);
  enum dict_result outcome = DICT_DONE;
  struct shard *shard = lock_shard(dict, hash);
  struct dict_entry *entry = find(shard, asker.now_ms, hash, key, SPACE_VALUE);
  if (entry && entry->kind != DICT_NUMBER) {
    outcome = DICT_IS_NO_NUMBER;
  } else if (entry || (entry = put(shard, asker, hash, key, SPACE_VALUE, SPAN("")))) {
    if (entry->kind == DICT_NOTHING) {
      entry->kind = DICT_NUMBER;
      entry->number = initial;
      entry->expires_ms = end_of(lifetime_ms, asker.now_ms);
    }
    *result = entry->number += amount;
  } else {
    outcome = DICT_IS_FULL;
  }
  pthread_mutex_unlock(&shard->lock);
  return outcome;
}

bool dict_expire(struct dict *dict, struct dict_asker asker, struct span key, uint64_t lifetime_ms) {
  uint64_t hash = hash_of(dict, key, SPACE_VALUE);
  struct shard *shard = lock_shard(dict, hash);
  struct dict_entry *entry = find(shard, asker.now_ms, hash, key, SPACE_VALUE);
  if (entry) entry->expires_ms = end_of(lifetime_ms, asker.now_ms);
  pthread_mutex_unlock(&shard->lock);
  return entry != NULL;
}

static bool remove_one(struct dict *dict, uint64_t now_ms, struct span key, enum space space) {
  uint64_t hash = hash_of(dict, key, space);
  struct shard *shard = lock_shard(dict, hash);
  struct dict_entry *entry = find(shard, now_ms, hash, key, space);
  if (entry) drop(shard, entry);
  pthread_mutex_unlock(&shard->lock);
  return entry != NULL;
}

bool dict_remove(struct dict *dict, struct dict_asker asker, struct span key) {
  bool was_value = remove_one(dict, asker.now_ms, key, SPACE_VALUE), was_bucket = remove_one(dict, asker.now_ms, key, SPACE_BUCKET);
  return was_value || was_bucket;
}

/* ---- buckets */

static double leaked(double excess, double rate, uint64_t ms) {
  excess -= round(rate * UNIT * (double)ms / 1000);
  return excess > 0 ? excess : 0;
}

/* The excess with one more in it. */
static double with_one(const struct dict_entry *bucket, double rate, uint64_t now_ms) {
  uint64_t ms = bucket && now_ms > bucket->taken_ms ? now_ms - bucket->taken_ms : 0;
  return bucket ? leaked((double)bucket->excess + UNIT, rate, ms) : 0;
}

/* It is no other than a new one from then on. */
static uint64_t empty_at(double excess, double rate, uint64_t now_ms) {
  double ms = rate > 0 ? ceil((excess + UNIT) / UNIT / rate * 1000) : FULL;
  return ms < FULL ? now_ms + (uint64_t)ms : 0;
}

bool dict_take(struct dict *dict, struct dict_asker asker, struct span key, double rate, double burst, bool only_looks, double *excess) {
  uint64_t hash = hash_of(dict, key, SPACE_BUCKET);
  struct shard *shard = lock_shard(dict, hash);
  struct dict_entry *bucket = find(shard, asker.now_ms, hash, key, SPACE_BUCKET);
  double now = with_one(bucket, rate, asker.now_ms);
  bool is_allowed = now <= floor(burst * UNIT) && now < FULL;
  if (is_allowed && !only_looks) {
    if (bucket == NULL) bucket = put(shard, asker, hash, key, SPACE_BUCKET, SPAN(""));
    is_allowed = bucket != NULL;
    if (bucket) {
      bucket->excess = (int64_t)now;
      if (asker.now_ms > bucket->taken_ms) bucket->taken_ms = asker.now_ms;
      bucket->expires_ms = empty_at(now, rate, bucket->taken_ms);
    }
  }
  pthread_mutex_unlock(&shard->lock);
  *excess = now / UNIT;
  return is_allowed;
}

/* ---- holds */

struct dict_entry *dict_acquire(struct dict *dict, struct dict_asker asker, struct span key, double most) {
  uint64_t hash = hash_of(dict, key, SPACE_HOLD);
  struct shard *shard = lock_shard(dict, hash);
  struct dict_entry *entry = find(shard, asker.now_ms, hash, key, SPACE_HOLD);
  if ((entry ? entry->holders : 0) + 1.0 > most) entry = NULL;
  else if (entry == NULL) entry = put(shard, asker, hash, key, SPACE_HOLD, SPAN(""));
  if (entry) {
    entry->holders++;
    atomic_fetch_add_explicit(&dict->held, 1, memory_order_relaxed);
  }
  pthread_mutex_unlock(&shard->lock);
  return entry;
}

void dict_give_back(struct dict *dict, struct dict_entry *entry) {
  struct shard *shard = lock_shard(dict, entry->hash);
  must(entry->space == SPACE_HOLD && entry->holders > 0);
  if (--entry->holders == 0) drop(shard, entry);
  pthread_mutex_unlock(&shard->lock);
  must(atomic_fetch_sub_explicit(&dict->held, 1, memory_order_release) > 0);
}

uint32_t dict_holds(const struct dict *dict) { return atomic_load_explicit(&dict->held, memory_order_relaxed); }
