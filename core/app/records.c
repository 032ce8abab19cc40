/* Records: see records.h. An upstream's entry lives while any record of it does, so that indexes stay. A record's index never changes: workers
 * read it without a lock, and an unlisted record keeps it until it is freed, so that an endpoint that comes back is found by its old cookies. */
#include "app/records.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hashmap.h"
#include "base/list.h"
#include "net/digest.h"

struct record {
  struct endpoint_record endpoint; /* first */
  char text[ADDRESS_TEXT];
  struct record_group *group;
  uint64_t unlisted_at; /* root generation from which no root names it; 0 while listed */
  struct list unlisted;
};

struct record_group {
  char *name;
  size_t name_length;
  struct hashmap by_address;
  uint64_t *indexes; /* a bit for each index in use */
  uint32_t index_words;
};

struct records {
  struct hashmap groups;
  struct list unlisted;
  unsigned count;
};

struct records *records_new(void) {
  struct records *records = calloc(1, sizeof *records);
  must(records);
  hashmap_init(&records->groups);
  list_init(&records->unlisted);
  return records;
}

static void group_free(struct record_group *group) {
  hashmap_free(&group->by_address);
  free(group->indexes);
  free(group->name);
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
    group = calloc(1, sizeof *group);
    must(group);
    group->name = malloc(upstream.length + 1);
    must(group->name);
    if (upstream.length) memcpy(group->name, upstream.data, upstream.length);
    group->name_length = upstream.length;
    hashmap_init(&group->by_address);
    hashmap_put(&records->groups, upstream, group);
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
  record = calloc(1, sizeof *record);
  must(record);
  record->endpoint.magic = ENDPOINT_MAGIC;
  record->endpoint.address = *address;
  memcpy(record->text, text, sizeof text);
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
  hashmap_put(&group->by_address, name, record);
  records->count++;
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

void records_sweep(struct records *records, uint64_t oldest_live) {
  for (struct list *node = records->unlisted.next, *next; node != &records->unlisted; node = next) {
    next = node->next;
    struct record *record = container_of(node, struct record, unlisted);
    if (record->unlisted_at > oldest_live || atomic_load(&record->endpoint.pins) || atomic_load(&record->endpoint.load)) continue;
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

unsigned records_count(const struct records *records) { return records->count; }
