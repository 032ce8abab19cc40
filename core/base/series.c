/* Series: see series.h. The registry owns its counters, a counter its series. Two locks: `lock` is for who makes, releases and shows counters (publisher,
 * admin), `making` for who makes a series (workers), so that no worker waits for a scrape. A series is published by a release store into its slot and is never
 * moved or taken out while its counter lives; a counter lives at least as long as it is held. */
#include "base/series.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/arena.h"
#include "base/check.h"
#include "base/exposition.h"
#include "base/hash.h"

#define SLOTS (2u * LIMIT_POLICY_SERIES)

struct series {
  uint64_t hash;
  _Atomic uint64_t value;
  uint16_t lengths[SERIES_LABELS];
  char bytes[]; /* the values, one after the other */
};

struct series_counter {
  struct series_registry *registry;
  struct series_counter *next;
  struct arena arena; /* of the names, each ended by NUL */
  struct span owner, name, labels[SERIES_LABELS];
  char help[SERIES_HELP_BYTES + 1];
  unsigned label_count, holders;
  uint64_t released_at;  /* serial */
  bool is_replaced;      /* not shown any more */
  _Atomic unsigned used; /* series; written under `making` */
  _Atomic(struct series *) slots[SLOTS];
};

struct series_registry {
  pthread_mutex_t lock, making;
  struct series_counter *counters; /* by name, then owner: what makes up one metric stands together, Moongate's own first */
  uint64_t serial;
  struct counters reached; /* limits; added to by any thread */
};

struct key {
  uint64_t hash;
  size_t length;
  uint16_t lengths[SERIES_LABELS];
  char bytes[LIMIT_POLICY_SERIES_BYTES];
};

struct series_registry *series_registry_new(void) {
  struct series_registry *registry = calloc(1, sizeof *registry);
  must(registry != NULL);
  must(pthread_mutex_init(&registry->lock, NULL) == 0);
  must(pthread_mutex_init(&registry->making, NULL) == 0);
  return registry;
}

static void counter_free(struct series_counter *counter) {
  for (unsigned slot = 0; slot < SLOTS; slot++) free(atomic_load_explicit(&counter->slots[slot], memory_order_relaxed));
  arena_free(&counter->arena);
  free(counter);
}

void series_registry_free(struct series_registry *registry) {
  if (registry == NULL) return;
  for (struct series_counter *counter = registry->counters, *next; counter; counter = next) {
    must(counter->holders == 0);
    next = counter->next;
    counter_free(counter);
  }
  pthread_mutex_destroy(&registry->lock);
  pthread_mutex_destroy(&registry->making);
  free(registry);
}

static void reached(struct series_registry *registry, enum counter which) {
  atomic_fetch_add_explicit(&registry->reached.value[which], 1, memory_order_relaxed);
}

uint64_t series_reached(const struct series_registry *registry, enum counter which) { return counter_get(&registry->reached, which); }

/* ---- declarations */

static bool is_name(struct span name) {
  if (name.length == 0 || name.length > SERIES_NAME_BYTES) return false;
  for (size_t i = 0; i < name.length; i++) {
    char c = name.data[i];
    bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
    if (!is_letter && (i == 0 || c < '0' || c > '9')) return false;
  }
  return true;
}

const char *series_complaint(const struct series_declaration *declaration) {
  if (!is_name(declaration->name)) return "the name is not made of letters, digits and _ (at most 64, no digit first)";
  if (declaration->label_count > SERIES_LABELS) return "there are more than 8 labels";
  if (declaration->help.length > SERIES_HELP_BYTES) return "the help is longer than 256 bytes";
  for (unsigned i = 0; i < declaration->label_count; i++) {
    struct span label = declaration->labels[i];
    if (!is_name(label) || span_starts_with(label, SPAN("__"))) return "a label is not made of letters, digits and _ (at most 64, no digit first, no __)";
    if (span_equal(label, SPAN("owner"))) return "the label \"owner\" is Moongate's own";
    for (unsigned j = 0; j < i; j++)
      if (span_equal(label, declaration->labels[j])) return "a label is there twice";
  }
  return NULL;
}

/* Copies text for the exposition, whose lines it can neither end nor spoil; as many bytes as before. */
static void copy_plain(char *out, struct span text) {
  for (size_t i = 0; i < text.length;) {
    unsigned char c = (unsigned char)text.data[i];
    size_t length = c < 0x80 ? 1 : span_utf8(span_skip(text, i));
    if (length == 0 || c < 0x20 || c == 0x7f) {
      out[i++] = '?';
      continue;
    }
    for (; length > 0; length--, i++) out[i] = text.data[i];
  }
}

static struct span keep_plain(struct arena *arena, struct span text) {
  char *copy = arena_alloc(arena, text.length + 1);
  copy_plain(copy, text);
  copy[text.length] = '\0';
  return span_make(copy, text.length);
}

static int compare(struct span a, struct span b) {
  size_t common = a.length < b.length ? a.length : b.length;
  int order = common ? memcmp(a.data, b.data, common) : 0;
  return order ? order : a.length < b.length ? -1 : a.length > b.length;
}

static struct series_counter *counter_new(struct series_registry *registry, const struct series_declaration *declaration) {
  struct series_counter *counter = calloc(1, sizeof *counter);
  must(counter != NULL);
  counter->registry = registry;
  arena_init(&counter->arena, NULL, 0);
  counter->owner = keep_plain(&counter->arena, declaration->owner);
  counter->name = keep_plain(&counter->arena, declaration->name);
  for (unsigned i = 0; i < declaration->label_count; i++) counter->labels[i] = keep_plain(&counter->arena, declaration->labels[i]);
  counter->label_count = declaration->label_count;
  return counter;
}

static bool has_same_labels(const struct series_counter *one, const struct series_counter *other) {
  if (one->label_count != other->label_count) return false;
  for (unsigned i = 0; i < one->label_count; i++)
    if (!span_equal(one->labels[i], other->labels[i])) return false;
  return true;
}

static void take_out(struct series_registry *registry, struct series_counter *counter) {
  struct series_counter **at = &registry->counters;
  while (*at != counter) at = &(*at)->next;
  *at = counter->next;
  counter_free(counter);
}

/* Whether the owner may have one more: one that nobody holds makes room. */
static bool has_room(struct series_registry *registry, struct span owner) {
  unsigned count = 0;
  struct series_counter *oldest = NULL;
  for (struct series_counter *other = registry->counters; other; other = other->next) {
    if (other->is_replaced || !span_equal(other->owner, owner)) continue;
    count++;
    if (other->holders == 0 && (oldest == NULL || other->released_at < oldest->released_at)) oldest = other;
  }
  if (count < LIMIT_POLICY_COUNTERS) return true;
  if (oldest == NULL) return false;
  take_out(registry, oldest);
  return true;
}

/* `fresh`, put in its place; or the one that is there, and `fresh` is freed; or NULL, and it is freed too. */
static struct series_counter *place(struct series_registry *registry, struct series_counter *fresh) {
  struct series_counter *known = registry->counters;
  while (known && (known->is_replaced || !span_equal(known->name, fresh->name) || !span_equal(known->owner, fresh->owner))) known = known->next;
  if (known && has_same_labels(known, fresh)) {
    counter_free(fresh);
    return known;
  }
  if (known) {
    known->is_replaced = true;
    if (known->holders == 0) take_out(registry, known);
  } else if (!has_room(registry, fresh->owner)) {
    counter_free(fresh);
    reached(registry, COUNTER_LIMIT_POLICY_COUNTERS);
    return NULL;
  }
  struct series_counter **at = &registry->counters;
  for (; *at; at = &(*at)->next) {
    int order = compare((*at)->name, fresh->name);
    if (order > 0 || (order == 0 && compare((*at)->owner, fresh->owner) > 0)) break;
  }
  fresh->next = *at;
  *at = fresh;
  return fresh;
}

struct series_counter *series_hold(struct series_registry *registry, const struct series_declaration *declaration) {
  must(series_complaint(declaration) == NULL);
  struct series_counter *fresh = counter_new(registry, declaration);
  pthread_mutex_lock(&registry->lock);
  struct series_counter *counter = place(registry, fresh);
  if (counter) {
    counter->holders++;
    copy_plain(counter->help, declaration->help); /* the newest */
    counter->help[declaration->help.length] = '\0';
  }
  pthread_mutex_unlock(&registry->lock);
  return counter;
}

void series_release(struct series_counter *counter) {
  struct series_registry *registry = counter->registry;
  pthread_mutex_lock(&registry->lock);
  must(counter->holders > 0);
  counter->released_at = ++registry->serial;
  if (--counter->holders == 0 && counter->is_replaced) take_out(registry, counter);
  pthread_mutex_unlock(&registry->lock);
}

/* ---- counting */

static bool key_make(struct key *key, const struct span *values, unsigned count) {
  key->length = 0;
  memset(key->lengths, 0, sizeof key->lengths);
  for (unsigned i = 0; i < count; i++) {
    if (values[i].length > sizeof key->bytes - key->length) return false;
    copy_plain(key->bytes + key->length, values[i]);
    key->lengths[i] = (uint16_t)values[i].length;
    key->length += values[i].length;
  }
  key->hash = hash_bytes(span_make(key->bytes, key->length), hash_process_seed());
  return true;
}

/* The series, or NULL and the slot where it belongs: the table is never more than half full. */
static struct series *find(struct series_counter *counter, const struct key *key, unsigned *slot) {
  for (unsigned i = (unsigned)(key->hash % SLOTS);; i = (i + 1) % SLOTS) {
    struct series *series = atomic_load_explicit(&counter->slots[i], memory_order_acquire);
    *slot = i;
    if (series == NULL) return NULL;
    if (series->hash == key->hash && memcmp(series->lengths, key->lengths, sizeof key->lengths) == 0 && memcmp(series->bytes, key->bytes, key->length) == 0)
      return series;
  }
}

static struct series *find_or_make(struct series_counter *counter, const struct key *key) {
  unsigned slot;
  if (atomic_load_explicit(&counter->used, memory_order_relaxed) == LIMIT_POLICY_SERIES) return NULL; /* a flood of new values takes no lock */
  pthread_mutex_lock(&counter->registry->making);
  struct series *series = find(counter, key, &slot);
  unsigned used = atomic_load_explicit(&counter->used, memory_order_relaxed);
  if (series == NULL && used < LIMIT_POLICY_SERIES) {
    series = calloc(1, sizeof *series + key->length);
    must(series != NULL);
    series->hash = key->hash;
    memcpy(series->lengths, key->lengths, sizeof key->lengths);
    memcpy(series->bytes, key->bytes, key->length);
    atomic_store_explicit(&counter->slots[slot], series, memory_order_release);
    atomic_store_explicit(&counter->used, used + 1, memory_order_relaxed);
  }
  pthread_mutex_unlock(&counter->registry->making);
  return series;
}

void series_add(struct series_registry *registry, struct series_counter *counter, uint64_t amount, const struct span *values) {
  struct key key;
  unsigned slot;
  if (counter == NULL) {
    reached(registry, COUNTER_LIMIT_POLICY_COUNTERS);
    return;
  }
  if (!key_make(&key, values, counter->label_count)) {
    reached(registry, COUNTER_LIMIT_POLICY_SERIES_BYTES);
    return;
  }
  struct series *series = find(counter, &key, &slot);
  if (series == NULL) series = find_or_make(counter, &key);
  if (series) atomic_fetch_add_explicit(&series->value, amount, memory_order_relaxed);
  else reached(registry, COUNTER_LIMIT_POLICY_SERIES);
}

/* ---- showing */

static void write_counter(struct buffer *out, const struct series_counter *counter, struct span name) {
  for (unsigned slot = 0; slot < SLOTS; slot++) {
    struct series *series = atomic_load_explicit(&counter->slots[slot], memory_order_acquire);
    if (!series) continue;
    struct buffer labels = {.data = NULL};
    const char *value = series->bytes;
    if (counter->owner.length > 0) exposition_label(&labels, "owner", counter->owner);
    for (unsigned i = 0; i < counter->label_count; value += series->lengths[i++])
      exposition_label(&labels, counter->labels[i].data, span_make(value, series->lengths[i]));
    exposition_sample(out, name, buffer_span(&labels), SPAN(""), atomic_load_explicit(&series->value, memory_order_relaxed));
    buffer_free(&labels);
  }
}

void series_write(struct series_registry *registry, struct buffer *out) {
  pthread_mutex_lock(&registry->lock);
  const struct series_counter *shown = NULL;
  for (struct series_counter *counter = registry->counters; counter; counter = counter->next) {
    if (counter->is_replaced) continue;
    char name[sizeof "moongate_policy_" + SERIES_NAME_BYTES + sizeof "_total"];
    snprintf(name, sizeof name, "moongate_policy_%s_total", counter->name.data);
    if (shown == NULL || !span_equal(shown->name, counter->name)) exposition_family(out, span_of(name), "counter", counter->help);
    shown = counter;
    write_counter(out, counter, span_of(name));
  }
  pthread_mutex_unlock(&registry->lock);
}
