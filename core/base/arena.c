/* Arena: bump allocation out of blocks that one owner (a unit, an exchange) frees all at once. The arena owns its blocks until
 * arena_free; then blocks of the cache's size go to the cache, if one was given. Used by one thread at a time; a cache belongs to
 * one thread. Under ASan each allocation is a block of its own, so that a read past its end or after its life is seen. */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

struct arena_block {
  struct arena_block *next;
  size_t size; /* of the whole block, this head included */
};

struct arena_cleanup {
  struct arena_cleanup *next;
  void (*fn)(void *arg);
  void *arg;
};

enum { DEFAULT_BLOCK = 4096 };
_Static_assert(sizeof(struct arena_block) % 16 == 0, "what follows the head of a block is 16-byte aligned");

void arena_init(struct arena *arena, struct arena_cache *cache, size_t block_size) {
  if (block_size == 0) block_size = cache ? cache->block_size : DEFAULT_BLOCK;
  must(block_size >= 128);
  *arena = (struct arena){.cache = cache, .block_size = block_size & ~(size_t)15};
}

static struct arena_block *block_new(size_t size) {
  struct arena_block *block = check_memory(malloc(size));
  block->size = size;
  return block;
}

static void block_free(struct arena *arena, struct arena_block *block) {
  struct arena_cache *cache = arena->cache;
  if (cache && block->size == cache->block_size && cache->count < cache->max) {
    block->next = cache->free;
    cache->free = block;
    cache->count++;
  } else {
    free(block);
  }
}

void arena_free(struct arena *arena) {
  /* A cleanup may allocate here and may defer another cleanup. */
  while (arena->cleanups) {
    struct arena_cleanup *cleanup = arena->cleanups;
    arena->cleanups = cleanup->next;
    cleanup->fn(cleanup->arg);
  }
  struct arena_block *block = arena->blocks;
  while (block) {
    struct arena_block *next = block->next;
    block_free(arena, block);
    block = next;
  }
  arena->blocks = NULL;
  arena->cursor = NULL;
  arena->left = 0;
  arena->used = 0;
}

static void *alone(struct arena *arena, size_t size) {
  struct arena_block *block = block_new(sizeof *block + size);
  block->next = arena->blocks;
  arena->blocks = block;
  return block + 1;
}

void *arena_alloc_slow(struct arena *arena, size_t size) {
  must(size <= SIZE_MAX / 4);
  if (size == 0) size = 1;
#if ARENA_IS_CHECKED
  arena->used += size;
  return alone(arena, size); /* the exact size: one byte past it is a finding */
#else
  size = (size + 15) & ~(size_t)15;
  arena->used += size;
  if (size > arena->left) {
    size_t room = arena->block_size - sizeof(struct arena_block);
    /* What is large gets its own block, and the rest of the current one stays in use. */
    if (size > room / 4) return alone(arena, size);
    struct arena_cache *cache = arena->cache;
    struct arena_block *block;
    if (cache && cache->free && cache->block_size == arena->block_size) {
      block = cache->free;
      cache->free = block->next;
      cache->count--;
    } else {
      block = block_new(arena->block_size);
    }
    block->next = arena->blocks;
    arena->blocks = block;
    arena->cursor = (char *)(block + 1);
    arena->left = room;
  }
  void *result = arena->cursor;
  arena->cursor += size;
  arena->left -= size;
  return result;
#endif
}

void *arena_zalloc(struct arena *arena, size_t size) { return memset(arena_alloc(arena, size), 0, size); }

char *arena_copy(struct arena *arena, const void *data, size_t length) {
  must(length < SIZE_MAX / 4);
  char *copy = arena_alloc(arena, length + 1);
  if (length > 0) memcpy(copy, data, length);
  copy[length] = 0;
  return copy;
}

struct span arena_span(struct arena *arena, struct span text) { return (struct span){arena_copy(arena, text.data, text.length), text.length}; }

struct span arena_printf(struct arena *arena, const char *format, ...) {
  va_list values, again;
  va_start(values, format);
  va_copy(again, values);
  char text[256];
  int length = vsnprintf(text, sizeof text, format, values);
  va_end(values);
  must(length >= 0);
  char *result;
  if ((size_t)length < sizeof text) {
    result = arena_copy(arena, text, (size_t)length);
  } else {
    result = arena_alloc(arena, (size_t)length + 1);
    vsnprintf(result, (size_t)length + 1, format, again);
  }
  va_end(again);
  return (struct span){result, (size_t)length};
}

void arena_defer(struct arena *arena, void (*fn)(void *arg), void *arg) {
  struct arena_cleanup *cleanup = arena_alloc(arena, sizeof *cleanup);
  *cleanup = (struct arena_cleanup){.next = arena->cleanups, .fn = fn, .arg = arg};
  arena->cleanups = cleanup;
}

void arena_cache_init(struct arena_cache *cache, size_t block_size, unsigned max) {
  if (block_size == 0) block_size = DEFAULT_BLOCK;
  must(block_size >= 128);
  *cache = (struct arena_cache){.block_size = block_size & ~(size_t)15, .max = max};
}

void arena_cache_free(struct arena_cache *cache) {
  while (cache->free) {
    struct arena_block *next = cache->free->next;
    free(cache->free);
    cache->free = next;
  }
  cache->count = 0;
}
