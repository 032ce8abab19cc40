/* Balancers: which endpoint next. Deciding only: nothing is dialled here, and apart from a cursor, a random state and the claim of a trial nothing is written.
 * On a worker's thread, over an upstream of its current root.
 *
 * What is acceptable goes down in steps: healthy and not yet tried by this exchange, healthy, not yet tried, any. An endpoint whose time out is over is taken
 * for one trial by the first balancer that comes across it.
 *
 * Consistent hashing is by highest score (each endpoint's score is a hash of key and endpoint, the highest wins): exactly 1/n of the keys move when one comes,
 * nothing is built that grows beyond 16 bytes an endpoint, and what to take when the first choice is out needs no second rule. It costs 1 to 2 ns an endpoint.
 */
#include <stdlib.h>

#include "base/check.h"
#include "route/endpoint.h"

struct rendezvous {
  uint64_t *seeds;    /* of ready endpoints: hash of the name */
  uint64_t *prefixes; /* of all endpoints: the first eight bytes of key_md5, so that finding one touches two lines and not n records */
};

enum step { STEP_BEST = 0, STEP_HEALTHY = 1, STEP_UNTRIED = 2, STEP_ANY = 3, STEP_COUNT = 4 };
enum verdict { VERDICT_NO = 0, VERDICT_YES = 1, VERDICT_TRIAL = 2 /* claimed: take it now */ };

void balance_build(struct upstream *upstream) {
  if (upstream->count == 0) return;
  struct arena *arena = &upstream->unit.arena;
  struct rendezvous *rendezvous = arena_zalloc(arena, sizeof *rendezvous);
  rendezvous->seeds = arena_alloc(arena, (upstream->ready + 1) * sizeof *rendezvous->seeds);
  rendezvous->prefixes = arena_alloc(arena, upstream->count * sizeof *rendezvous->prefixes);
  for (unsigned i = 0; i < upstream->count; i++) {
    const struct endpoint_record *record = upstream->endpoints[i].record;
    /* A fixed seed: replicas must agree. */
    if (i < upstream->ready) rendezvous->seeds[i] = hash_u64(hash_bytes(record->name, 0x6d6f6f6e67617465u));
    memcpy(&rendezvous->prefixes[i], record->key_md5, sizeof rendezvous->prefixes[i]);
  }
  upstream->rendezvous = rendezvous;
}

static bool was_tried(const struct balance_request *request, const struct endpoint_record *record) {
  unsigned count = request->tried_count < BALANCE_TRIED ? request->tried_count : BALANCE_TRIED;
  for (unsigned i = 0; i < count; i++)
    if (request->tried[i] == record) return true;
  return false;
}

/* Without claiming: would it do? */
static bool is_acceptable(const struct balance_request *request, const struct endpoint_record *record, enum step step) {
  bool healthy_only = step == STEP_BEST || step == STEP_HEALTHY, untried_only = step == STEP_BEST || step == STEP_UNTRIED;
  if (healthy_only && !endpoint_is_healthy(record, request->now_ms)) return false;
  return !untried_only || request->tried_count == 0 || !was_tried(request, record);
}

static enum verdict look(const struct balance_request *request, struct endpoint_record *record, enum step step) {
  if (is_acceptable(request, record, step)) return VERDICT_YES;
  if (step != STEP_BEST || !endpoint_is_due(record, request->now_ms) || was_tried(request, record)) return VERDICT_NO;
  return endpoint_try(record, request->now_ms) ? VERDICT_TRIAL : VERDICT_NO;
}

/* Where this worker goes on. Workers start at random places, else all of them would send their first requests to the first endpoint. */
static uint32_t advance(const struct balance_request *request) {
  struct balance_cursor *cursor = request->cursor;
  if (cursor->next == 0) cursor->next = 1 + (uint32_t)random_below(request->random, request->upstream->ready);
  uint32_t now = cursor->next - 1;
  cursor->next = cursor->next == UINT32_MAX ? 1 : cursor->next + 1;
  return now;
}

static const struct endpoint *round_robin(const struct balance_request *request, enum step step) {
  const struct upstream *upstream = request->upstream;
  for (unsigned i = 0; i < upstream->ready; i++) {
    const struct endpoint *endpoint = &upstream->endpoints[advance(request) % upstream->ready];
    if (look(request, endpoint->record, step) != VERDICT_NO) return endpoint;
  }
  return NULL;
}

static const struct endpoint *least_connections(const struct balance_request *request, enum step step) {
  const struct upstream *upstream = request->upstream;
  const struct endpoint *best = NULL;
  uint32_t least = UINT32_MAX, start = advance(request); /* ties go round */
  for (unsigned i = 0; i < upstream->ready; i++) {
    const struct endpoint *endpoint = &upstream->endpoints[(start + (uint64_t)i) % upstream->ready];
    enum verdict verdict = look(request, endpoint->record, step);
    if (verdict == VERDICT_TRIAL) return endpoint;
    uint32_t load = atomic_load_explicit(&endpoint->record->load, memory_order_relaxed);
    if (verdict == VERDICT_NO || (best && load >= least)) continue;
    best = endpoint;
    least = load;
  }
  return best;
}

/* A new endpoint starts at the mean of those that are known, so that it is neither flooded nor avoided. */
static double mean_score(const struct balance_request *request) {
  double sum = 0;
  unsigned known = 0;
  for (unsigned i = 0; i < request->upstream->ready; i++) {
    const struct endpoint_record *record = request->upstream->endpoints[i].record;
    if (atomic_load_explicit(&record->ewma_at_ms, memory_order_relaxed) == 0) continue;
    sum += (double)endpoint_ewma(record, request->now_ms);
    known++;
  }
  return known ? sum / known : 0;
}

static double score(const struct balance_request *request, const struct endpoint_record *record) {
  bool is_known = atomic_load_explicit(&record->ewma_at_ms, memory_order_relaxed) != 0;
  double cost = is_known ? (double)endpoint_ewma(record, request->now_ms) : mean_score(request);
  return (cost + 1) * (atomic_load_explicit(&record->load, memory_order_relaxed) + 1.0);
}

/* A random acceptable endpoint other than `other`; *is_trial when it must be taken. */
static const struct endpoint *draw(const struct balance_request *request, enum step step, const struct endpoint *other, bool *is_trial) {
  const struct upstream *upstream = request->upstream;
  unsigned at = 0;
  for (unsigned i = 0; i < upstream->ready + 4; i++) {
    /* Four free draws, then in order from the last: a neighbour of one that is out gets a little more, and it ends. */
    at = i < 4 ? (unsigned)random_below(request->random, upstream->ready) : (at + 1) % upstream->ready;
    const struct endpoint *endpoint = &upstream->endpoints[at];
    if (endpoint == other) continue;
    enum verdict verdict = look(request, endpoint->record, step);
    if (verdict == VERDICT_NO) continue;
    *is_trial = verdict == VERDICT_TRIAL;
    return endpoint;
  }
  return NULL;
}

static const struct endpoint *peak_ewma(const struct balance_request *request, enum step step) {
  bool is_trial = false;
  const struct endpoint *first = draw(request, step, NULL, &is_trial);
  if (!first || is_trial || request->upstream->ready == 1) return first;
  const struct endpoint *second = draw(request, step, first, &is_trial);
  if (!second) return first;
  if (is_trial) return second;
  return score(request, second->record) < score(request, first->record) ? second : first;
}

static uint64_t key_hash(struct span key) { return hash_bytes(key, 0x6d6f6f6e67617465u); }
static uint64_t hash_score(uint64_t key, uint64_t seed) { return hash_u64(key ^ seed); }

static const struct endpoint *hashed(const struct balance_request *request, enum step step) {
  const struct upstream *upstream = request->upstream;
  uint64_t key = key_hash(request->hash_key);
  for (bool may_try = step == STEP_BEST;; may_try = false) {
    const struct endpoint *best = NULL;
    uint64_t highest = 0;
    bool is_due = false;
    for (unsigned i = 0; i < upstream->ready; i++) {
      const struct endpoint *endpoint = &upstream->endpoints[i];
      uint64_t own = hash_score(key, upstream->rendezvous->seeds[i]);
      if (best && own <= highest) continue;
      bool due = may_try && endpoint_is_due(endpoint->record, request->now_ms) && !was_tried(request, endpoint->record);
      if (!due && !is_acceptable(request, endpoint->record, step)) continue;
      best = endpoint;
      highest = own;
      is_due = due;
    }
    /* Only the keys that belong to it give an endpoint its trial. */
    if (!is_due || endpoint_try(best->record, request->now_ms)) return best;
  }
}

/* The key chooses a group of neighbours in the sorted list; inside it anyone serves. The last group is filled up from the front. */
static const struct endpoint *hashed_subset(const struct balance_request *request, enum step step) {
  const struct upstream *upstream = request->upstream;
  unsigned size = request->hash_subset_size, groups = (upstream->ready - 1) / size + 1, chosen = 0;
  uint64_t key = key_hash(request->hash_key), highest = 0;
  for (unsigned i = 0; i < groups; i++) {
    uint64_t own = hash_score(key, hash_u64(i + 1));
    if (i > 0 && own <= highest) continue;
    highest = own;
    chosen = i;
  }
  for (unsigned g = 0; g < groups; g++) { /* the others only when this one has nobody */
    unsigned group = (chosen + g) % groups, start = (unsigned)random_below(request->random, size);
    for (unsigned i = 0; i < size; i++) {
      uint64_t member = (uint64_t)group * size + (start + i) % size;
      const struct endpoint *endpoint = &upstream->endpoints[member % upstream->ready];
      if (look(request, endpoint->record, step) != VERDICT_NO) return endpoint;
    }
  }
  return NULL;
}

const struct endpoint *balance_choose(const struct balance_request *request) {
  const struct upstream *upstream = request->upstream;
  if (upstream->ready == 0) return NULL;
  for (int step = STEP_BEST; step < STEP_COUNT; step++) {
    const struct endpoint *endpoint = NULL;
    switch (request->kind) {
      case BALANCER_ROUND_ROBIN:
        endpoint = round_robin(request, (enum step)step);
        break;
      case BALANCER_LEAST_CONNECTIONS:
        endpoint = least_connections(request, (enum step)step);
        break;
      case BALANCER_EWMA:
        endpoint = peak_ewma(request, (enum step)step);
        break;
      case BALANCER_HASH: {
        bool in_groups = request->hash_subset_size > 0 && request->hash_subset_size < upstream->ready;
        endpoint = in_groups ? hashed_subset(request, (enum step)step) : hashed(request, (enum step)step);
        break;
      }
    }
    if (endpoint) return endpoint;
  }
  return NULL;
}

const struct endpoint *upstream_find(const struct upstream *upstream, struct span key, enum endpoint_key hash) {
  if (hash == ENDPOINT_KEY_INDEX) {
    unsigned long long index;
    if (!span_to_u64(key, UINT32_MAX, &index)) return NULL;
    for (unsigned i = 0; i < upstream->count; i++)
      if (upstream->endpoints[i].record->index == index) return &upstream->endpoints[i];
    return NULL;
  }
  size_t length = hash == ENDPOINT_KEY_MD5 ? 32 : 40;
  if (key.length != length) return NULL;
  uint64_t prefix;
  memcpy(&prefix, key.data, sizeof prefix);
  for (unsigned i = 0; i < upstream->count; i++) {
    const struct endpoint *endpoint = &upstream->endpoints[i];
    if (hash == ENDPOINT_KEY_MD5) {
      if (upstream->rendezvous->prefixes[i] == prefix && memcmp(endpoint->record->key_md5, key.data, length) == 0) return endpoint;
    } else if (memcmp(endpoint->record->key_sha1, key.data, length) == 0) {
      return endpoint;
    }
  }
  return NULL;
}

const struct endpoint *upstream_hash(const struct upstream *upstream, struct span key) {
  struct balance_request request = {.upstream = upstream, .kind = BALANCER_HASH, .hash_key = key};
  return upstream->ready ? hashed(&request, STEP_ANY) : NULL;
}
