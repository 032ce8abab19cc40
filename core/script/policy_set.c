/* Policy set: from packed sources to ready-made states. Trusted files are compiled once and given to all workers as bytecode; guests' files are compiled from
 * text in each state. Publisher's thread, but for policy_set_has_state. */
#include "script/policy_set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/hashmap.h"
#include "base/pack.h"
#include "script/exchange_objects.h"

struct policy_slots {
  struct hashmap by_name; /* slot + 1, as a pointer */
  _Atomic(struct policy_tally *) tallies;
  uint32_t count;
  uint64_t serial; /* of states and sets */
};

struct policy_slots *policy_slots_new(void) {
  struct policy_slots *slots = calloc(1, sizeof *slots);
  must(slots != NULL);
  hashmap_init(&slots->by_name);
  return slots;
}

void policy_slots_free(struct policy_slots *slots) {
  if (slots == NULL) return;
  hashmap_free(&slots->by_name);
  for (struct policy_tally *tally = atomic_load(&slots->tallies), *next; tally; tally = next) {
    next = tally->next;
    free(tally);
  }
  free(slots);
}

uint32_t policy_slot(struct policy_slots *slots, struct span name) {
  uintptr_t known = (uintptr_t)hashmap_get(&slots->by_name, name);
  if (known) return (uint32_t)(known - 1);
  hashmap_put(&slots->by_name, name, (void *)(uintptr_t)(slots->count + 1));
  struct policy_tally *tally = calloc(1, sizeof *tally + name.length + 1);
  must(tally != NULL);
  if (name.length) memcpy(tally->name, name.data, name.length);
  tally->next = atomic_load_explicit(&slots->tallies, memory_order_relaxed);
  atomic_store_explicit(&slots->tallies, tally, memory_order_release);
  return slots->count++;
}

/* Few, and asked for when a set is made only. */
static struct policy_tally *find_tally(const struct policy_slots *slots, const char *name) {
  struct policy_tally *tally = atomic_load_explicit(&slots->tallies, memory_order_relaxed);
  while (tally && strcmp(tally->name, name) != 0) tally = tally->next;
  must(tally != NULL);
  return tally;
}

void policy_slots_tell(const struct policy_slots *slots, void (*tell)(void *context, const char *policy, uint64_t errors), void *context) {
  for (const struct policy_tally *tally = atomic_load_explicit(&slots->tallies, memory_order_acquire); tally; tally = tally->next)
    tell(context, tally->name, atomic_load_explicit(&tally->errors, memory_order_relaxed));
}

bool policy_set_has_state(const struct policy_set *set, unsigned worker, const struct script_state *state, uint64_t serial) {
  for (unsigned i = 0; i < set->group_count; i++) {
    const struct owner_group *group = set->groups[i];
    if (worker < group->worker_count && group->states[worker] == state) return state->serial == serial;
  }
  return false;
}

static void group_release(struct owner_group *group) {
  must(group != NULL && group->references > 0);
  if (--group->references > 0) return;
  for (unsigned i = 0; i < group->worker_count; i++) state_free(group->states[i]);
  free(group->states);
  free(group->owner);
  buffer_free(&group->identity);
  free(group);
}

static void set_release(struct unit *unit) {
  struct policy_set *set = policy_set_of(unit);
  for (unsigned i = 0; i < set->group_count; i++) group_release(set->groups[i]);
  free(set->groups);
  free(set->by_slot);
  arena_free(&set->unit.arena);
  free(set);
}

/* One policy of the body. */
struct source {
  struct span name, owner, file, text;
  bool is_trusted, is_taken;
};

static bool read_sources(struct span body, struct source **sources, uint32_t *count, char *error, size_t error_size) {
  struct pack_reader reader;
  struct pack_item list;
  struct span value;
  *sources = NULL;
  bool is_list = pack_find(body, "policies", &value);
  if (is_list) pack_reader_init(&reader, value);
  if (!is_list || !pack_next(&reader, &list) || list.type != PACK_ARRAY || list.count > body.length) { /* each takes more than a byte */
    snprintf(error, error_size, "the policies are malformed");
    return false;
  }
  *count = list.count;
  *sources = calloc(*count ? *count : 1, sizeof **sources);
  must(*sources != NULL);
  for (uint32_t i = 0; i < *count; i++) {
    struct span item;
    if (!pack_skip(&reader, &item)) {
      snprintf(error, error_size, "the policies are malformed");
      return false;
    }
    struct source *source = &(*sources)[i];
    source->name = pack_get_string(item, "name", SPAN(""));
    source->owner = pack_get_string(item, "owner", SPAN(""));
    source->file = pack_get_string(item, "file", source->name);
    source->text = pack_get_string(item, "source", SPAN(""));
    source->is_trusted = pack_get_boolean(item, "trusted", false);
    if (span_is_empty(source->name) || span_is_empty(source->owner)) {
      snprintf(error, error_size, "a policy has no name or no owner");
      return false;
    }
  }
  return true;
}

static bool is_of_owner(const struct source *source, const struct source *first) {
  return source->is_trusted == first->is_trusted && span_equal(source->owner, first->owner);
}

static void put_identity(struct buffer *out, const struct source *source) {
  pack_put_boolean(out, source->is_trusted);
  pack_put_string(out, source->owner);
  pack_put_string(out, source->name);
  pack_put_string(out, source->file);
  pack_put_string(out, source->text);
}

static struct owner_group *find_group(struct policy_set *previous, struct span identity, unsigned workers) {
  for (unsigned i = 0; previous && i < previous->group_count; i++) {
    struct owner_group *group = previous->groups[i];
    if (group->worker_count == workers && span_equal(buffer_span(&group->identity), identity)) return group;
  }
  return NULL;
}

static bool load_file(struct owner_group *group, const struct source *source, char *error, size_t error_size) {
  struct buffer bytecode = {0};
  struct span code = source->text;
  char file[512];
  snprintf(file, sizeof file, "%.*s", (int)(source->file.length < 500 ? source->file.length : 500), source->file.data);
  bool is_done = true;
  if (source->is_trusted) {
    is_done = state_compile(file, source->text, &bytecode, error, error_size) == 0;
    code = buffer_span(&bytecode);
  }
  for (unsigned i = 0; i < group->worker_count && is_done; i++) is_done = state_load_policy(group->states[i], source->name, file, code, error, error_size) >= 0;
  buffer_free(&bytecode);
  return is_done;
}

/* Takes the identity. */
static struct owner_group *group_new(struct source *sources, uint32_t count, uint32_t first, struct buffer *identity, struct policy_slots *slots,
                                     const struct script_options *options, char *error, size_t error_size) {
  struct owner_group *group = calloc(1, sizeof *group);
  must(group != NULL);
  group->references = 1;
  group->owner = strndup(sources[first].owner.data, sources[first].owner.length);
  group->states = calloc(options->workers, sizeof *group->states);
  must(group->owner && group->states);
  group->identity = *identity;
  *identity = (struct buffer){.data = NULL};
  struct state_options state_options = {.lua_directory = options->lua_directory,
                                        .owner = group->owner,
                                        .is_guest = !sources[first].is_trusted,
                                        .memory_limit = options->guest_memory,
                                        .log = options->log,
                                        .series = options->series,
                                        .dicts = options->dicts};
  bool is_done = true;
  for (unsigned i = 0; i < options->workers && is_done; i++) {
    state_options.serial = ++slots->serial;
    group->states[i] = state_new(&state_options, error, error_size);
    is_done = group->states[i] != NULL;
    if (is_done) {
      exchange_objects_open(group->states[i]);
      group->worker_count++;
    }
  }
  for (uint32_t i = first; i < count && is_done; i++) {
    if (!is_of_owner(&sources[i], &sources[first])) continue;
    is_done = load_file(group, &sources[i], error, error_size);
    group->policy_count++;
  }
  if (is_done) return group;
  group_release(group);
  return NULL;
}

/* Same numbers as the states': policies of a group count in the order of the body. */
static void put_entries(struct policy_set *set, struct source *sources, uint32_t count, uint32_t first, struct owner_group *group, struct policy_slots *slots) {
  for (uint32_t i = first; i < count; i++) {
    if (!is_of_owner(&sources[i], &sources[first])) continue;
    sources[i].is_taken = true;
    struct policy_entry *entry = &set->by_slot[policy_slot(slots, sources[i].name)];
    entry->name = arena_copy(&set->unit.arena, sources[i].name.data, sources[i].name.length);
    entry->tally = find_tally(slots, entry->name);
    entry->group = group;
    entry->index = (unsigned)state_find_policy(group->states[0], sources[i].name);
  }
}

struct unit *policy_set_new(struct span body, struct policy_slots *slots, const struct script_options *options, struct unit *previous, char *error,
                            size_t error_size) {
  must(options->workers > 0);
  struct source *sources;
  uint32_t count;
  if (!read_sources(body, &sources, &count, error, error_size)) {
    free(sources);
    return NULL;
  }
  struct policy_set *set = calloc(1, sizeof *set);
  must(set != NULL);
  set->unit.magic = UNIT_MAGIC;
  set->unit.kind = UNIT_POLICIES;
  set->unit.release = set_release;
  arena_init(&set->unit.arena, NULL, 0);
  list_init(&set->unit.retired);
  set->serial = ++slots->serial;
  for (uint32_t i = 0; i < count; i++) policy_slot(slots, sources[i].name);
  set->slot_count = slots->count;
  set->by_slot = calloc(set->slot_count ? set->slot_count : 1, sizeof *set->by_slot);
  set->groups = calloc(count ? count : 1, sizeof *set->groups);
  must(set->by_slot && set->groups);
  bool is_done = true;
  for (uint32_t first = 0; first < count && is_done; first++) {
    if (sources[first].is_taken) continue;
    struct buffer identity = {0};
    for (uint32_t i = first; i < count; i++)
      if (is_of_owner(&sources[i], &sources[first])) put_identity(&identity, &sources[i]);
    struct owner_group *group = find_group(previous ? policy_set_of(previous) : NULL, buffer_span(&identity), options->workers);
    if (group) group->references++;
    else group = group_new(sources, count, first, &identity, slots, options, error, error_size);
    buffer_free(&identity);
    is_done = group != NULL;
    if (!is_done) break;
    set->groups[set->group_count++] = group;
    put_entries(set, sources, count, first, group, slots);
  }
  free(sources);
  if (is_done) return &set->unit;
  set_release(&set->unit);
  return NULL;
}
