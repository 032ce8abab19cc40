/* Records: see records.h. An upstream's entry lives while any record of it does, so that indexes stay. A record's index never changes: workers
 * read it without a lock, and an unlisted record keeps it until it is freed, so that an endpoint that comes back is found by its old cookies. */
#include "app/records.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/exposition.h"
#include "base/hashmap.h"
#include "base/list.h"
#include "net/digest.h"

#define STATES_AT_ONCE 8192

struct record {
  struct endpoint_record endpoint; /* first */
  struct record_group *group;
  uint64_t unlisted_at; /* root generation from which no root names it; 0 while listed */
  struct list unlisted;
  struct list node; /* in `all` */
  char text[];      /* the address */
};

struct record_group {
  struct hashmap by_address;
  uint64_t *indexes; /* a bit for each index in use */
  uint32_t index_words;
  uint32_t name_length;
  char name[];
};

struct records {
  struct hashmap groups;
  struct list unlisted;
  unsigned count;
  pthread_mutex_t lock; /* of `all`: the admin thread walks it */
  struct list all;
};

struct records *records_new(void) {
  struct records *records = calloc(1, sizeof *records);
  must(records);
  hashmap_init_borrowing(&records->groups);
  list_init(&records->unlisted);
  list_init(&records->all);
  must(pthread_mutex_init(&records->lock, NULL) == 0);
  return records;
}

static void group_free(struct record_group *group) {
  hashmap_free(&group->by_address);
  free(group->indexes);
  free(group);
}

void records_free(struct records *records) {
  size_t cursor = 0;
  for (struct hashmap_entry *entry; (entry = hashmap_next(&records->groups, &cursor));) {
    struct record_group *group = entry->value;
    size_t inner = 0;
    for (struct hashmap_entry *item; (item = hashmap_next(&group->by_address, &inner));) free(item->value);
    group_free(group);
  }
  hashmap_free(&records->groups);
  pthread_mutex_destroy(&records->lock);
  free(records);
}

static uint32_t take_index(struct record_group *group) {
  uint32_t word = 0;
  while (word < group->index_words && group->indexes[word] == UINT64_MAX) word++;
  if (word == group->index_words) {
    uint32_t words = word ? word * 2 : 1;
    group->indexes = realloc(group->indexes, words * sizeof *group->indexes);
    must(group->indexes);
    memset(group->indexes + word, 0, (words - word) * sizeof *group->indexes);
    group->index_words = words;
  }
  unsigned bit = (unsigned)__builtin_ctzll(~group->indexes[word]);
  group->indexes[word] |= 1ull << bit;
  return word * 64 + bit;
}

static void give_index(struct record_group *group, uint32_t index) { group->indexes[index / 64] &= ~(1ull << index % 64); }

struct endpoint_record *records_get(struct records *records, struct span upstream, const struct address *address) {
  struct record_group *group = hashmap_get(&records->groups, upstream);
  if (!group) {
    group = calloc(1, sizeof *group + upstream.length);
    must(group && upstream.length < UINT32_MAX);
    if (upstream.length) memcpy(group->name, upstream.data, upstream.length);
    group->name_length = (uint32_t)upstream.length;
    hashmap_init_borrowing(&group->by_address);
    hashmap_put(&records->groups, span_make(group->name, group->name_length), group);
  }
  char text[ADDRESS_TEXT];
  struct span name = {text, address_format(address, text)};
  struct record *record = hashmap_get(&group->by_address, name);
  if (record) {
    if (record->unlisted_at) {
      record->unlisted_at = 0;
      list_remove(&record->unlisted);
    }
    atomic_store(&record->endpoint.is_listed, true);
    return &record->endpoint;
  }
  record = calloc(1, sizeof *record + name.length + 1);
  must(record);
  record->endpoint.magic = ENDPOINT_MAGIC;
  record->endpoint.address = *address;
  memcpy(record->text, text, name.length + 1);
  record->endpoint.name = span_make(record->text, name.length);
  record->group = group;
  list_init(&record->unlisted);
  char seed[512];
  int length = snprintf(seed, sizeof seed, "%.*s%s", (int)upstream.length, upstream.data, text);
  for (size_t i = 0; i < upstream.length && i < sizeof seed; i++)
    if (seed[i] == '/') seed[i] = '-'; /* cookies know the upstream's name, not its key */
  struct span keyed = span_make(seed, (size_t)length < sizeof seed ? (size_t)length : sizeof seed - 1);
  char hex[2 * DIGEST_MAX + 1];
  digest_hex(DIGEST_MD5, keyed, hex);
  memcpy(record->endpoint.key_md5, hex, sizeof record->endpoint.key_md5);
  digest_hex(DIGEST_SHA1, keyed, hex);
  memcpy(record->endpoint.key_sha1, hex, sizeof record->endpoint.key_sha1);
  record->endpoint.index = take_index(group);
  atomic_store(&record->endpoint.is_listed, true);
  hashmap_put(&group->by_address, record->endpoint.name, record);
  records->count++;
  pthread_mutex_lock(&records->lock);
  list_insert_last(&records->all, &record->node);
  pthread_mutex_unlock(&records->lock);
  return &record->endpoint;
}

static bool lists(const struct upstream *upstream, const struct endpoint_record *record) {
  for (unsigned i = 0; upstream && i < upstream->count; i++)
    if (upstream->endpoints[i].record == record) return true;
  return false;
}

void records_replaced(struct records *records, const struct upstream *old, const struct upstream *new, uint64_t generation) {
  for (unsigned i = 0; old && i < old->count; i++) {
    struct record *record = (struct record *)old->endpoints[i].record;
    if (lists(new, &record->endpoint) || record->unlisted_at) continue;
    record->unlisted_at = generation;
    atomic_store(&record->endpoint.is_listed, false);
    list_insert_last(&records->unlisted, &record->unlisted);
  }
}

/* False if the admin thread has just pinned it. */
static bool take_out(struct records *records, struct record *record) {
  pthread_mutex_lock(&records->lock);
  bool is_free = atomic_load(&record->endpoint.pins) == 0;
  if (is_free) list_remove(&record->node);
  pthread_mutex_unlock(&records->lock);
  return is_free;
}

void records_sweep(struct records *records, uint64_t oldest_live) {
  for (struct list *node = records->unlisted.next, *next; node != &records->unlisted; node = next) {
    next = node->next;
    struct record *record = container_of(node, struct record, unlisted);
    if (record->unlisted_at > oldest_live || atomic_load(&record->endpoint.pins) || atomic_load(&record->endpoint.load)) continue;
    if (!take_out(records, record)) continue;
    list_remove(node);
    struct record_group *group = record->group;
    hashmap_remove(&group->by_address, record->endpoint.name);
    give_index(group, record->endpoint.index);
    records->count--;
    if (group->by_address.count == 0) {
      hashmap_remove(&records->groups, span_make(group->name, group->name_length));
      group_free(group);
    }
    free(record);
  }
}

enum state { STATE_READY = 0, STATE_DRAINING = 1, STATE_FAILED = 2, STATE_LEAVING = 3, STATES = 4 };

static enum state state_of(const struct endpoint_record *record) {
  if (!atomic_load_explicit(&record->is_listed, memory_order_relaxed)) return STATE_LEAVING;
  if (atomic_load_explicit(&record->out_until_ms, memory_order_relaxed)) return STATE_FAILED;
  return atomic_load_explicit(&record->is_draining, memory_order_relaxed) ? STATE_DRAINING : STATE_READY;
}

/* In parts: the publisher never waits for more than one. What it stopped at is pinned, so that it is still there. */
static void count_states(struct records *records, uint64_t counts[STATES]) {
  struct record *mark = NULL;
  do {
    pthread_mutex_lock(&records->lock);
    struct list *node = mark ? &mark->node : records->all.next;
    struct record *before = mark;
    mark = NULL;
    for (unsigned seen = 0; node != &records->all && !mark; node = node->next) {
      struct record *record = container_of(node, struct record, node);
      if (seen++ < STATES_AT_ONCE) counts[state_of(&record->endpoint)]++;
      else endpoint_pin(&(mark = record)->endpoint);
    }
    if (before) endpoint_unpin(&before->endpoint);
    pthread_mutex_unlock(&records->lock);
  } while (mark);
}

void records_write_states(struct records *records, struct buffer *out) {
  static const char *const names[STATES] = {"ready", "draining", "failed", "leaving"};
  const struct span family = SPAN("moongate_endpoints");
  uint64_t counts[STATES] = {0};
  count_states(records, counts);
  exposition_family(out, family, "gauge", "Endpoints: ready, draining (only sticky sessions), failed (out for now), leaving (in no list, still in use).");
  for (unsigned i = 0; i < STATES; i++) {
    struct buffer labels = {0};
    exposition_label(&labels, "state", span_of(names[i]));
    exposition_sample(out, family, (struct span){NULL, 0}, buffer_span(&labels), counts[i]);
    buffer_free(&labels);
  }
}

unsigned records_count(const struct records *records) { return records->count; }
