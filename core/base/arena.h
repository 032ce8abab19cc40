/* Arena: memory that belongs to one owner (a unit, an exchange) and is freed at once, with deferred cleanups.
 * Blocks come from a cache when one is given. Under ASan each allocation is a real malloc. One thread at a time. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

#include "base/span.h"

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_IS_CHECKED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_IS_CHECKED 1
#endif
#endif
#ifndef ARENA_IS_CHECKED
#define ARENA_IS_CHECKED 0
#endif

struct arena_block;
struct arena_cleanup;

/* Free blocks of one size, kept by one thread (a worker). */
struct arena_cache {
  struct arena_block *free;
  size_t block_size;
  unsigned count, max;
};

struct arena {
  struct arena_block *blocks;
  char *cursor;
  size_t left;
  struct arena_cleanup *cleanups;
  struct arena_cache *cache; /* or NULL: malloc */
  size_t used;               /* bytes handed out */
  size_t block_size;
};

/* `cache` may be NULL; block_size 0 means 4096 (or the cache's). Allocates nothing yet. */
void arena_init(struct arena *arena, struct arena_cache *cache, size_t block_size);
/* Runs the cleanups, last deferred first, then frees all blocks. The arena can be used again. */
void arena_free(struct arena *arena);
void *arena_alloc_slow(struct arena *arena, size_t size); /* for arena_alloc only */
/* 16-byte aligned, not cleared; never NULL (a small malloc that fails ends the process). */
#if ARENA_IS_CHECKED
static inline void *arena_alloc(struct arena *arena, size_t size) { return arena_alloc_slow(arena, size); }
#else
static inline void *arena_alloc(struct arena *arena, size_t size) {
  /* `left` is a multiple of 16, so rounding up stays within it; a size of 0 wraps and takes the other way. */
  if (size - 1 >= arena->left) return arena_alloc_slow(arena, size);
  size = (size + 15) & ~(size_t)15;
  void *result = arena->cursor;
  arena->cursor += size;
  arena->left -= size;
  arena->used += size;
  return result;
}
#endif
void *arena_zalloc(struct arena *arena, size_t size);
/* A NUL-terminated copy. */
char *arena_copy(struct arena *arena, const void *data, size_t length);
struct span arena_span(struct arena *arena, struct span text);
struct span arena_printf(struct arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Calls fn(arg) when the arena is freed. */
void arena_defer(struct arena *arena, void (*fn)(void *arg), void *arg);

void arena_cache_init(struct arena_cache *cache, size_t block_size, unsigned max);
void arena_cache_free(struct arena_cache *cache);

#endif
