/* Arena: alignment, sizes, cleanups, the cache; each allocation apart under ASan. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/arena.h"
#if ARENA_IS_CHECKED
int __asan_address_is_poisoned(void const volatile *address); /* of the sanitizer's run time; not every compiler package has its header */
#endif

static void aligns_and_keeps_apart(void **state) {
  (void)state;
  struct arena arena;
  arena_init(&arena, NULL, 256);
  char *all[400];
  for (size_t i = 0; i < 400; i++) {
    all[i] = arena_alloc(&arena, i);
    assert_non_null(all[i]);
    assert_int_equal((uintptr_t)all[i] % 16, 0);
    memset(all[i], (int)(i & 0xff), i);
  }
  for (size_t i = 0; i < 400; i++)
    for (size_t k = 0; k < i; k++) assert_int_equal((unsigned char)all[i][k], i & 0xff);
  assert_true(arena.used >= 399 * 400 / 2);
  char *zero = arena_zalloc(&arena, 100);
  for (int i = 0; i < 100; i++) assert_int_equal(zero[i], 0);
  arena_free(&arena);
  assert_int_equal(arena.used, 0);
  assert_non_null(arena_alloc(&arena, 0)); /* can be used again */
  arena_free(&arena);
  arena_free(&arena);
}

static void copies(void **state) {
  (void)state;
  struct arena arena;
  arena_init(&arena, NULL, 0);
  char source[] = "hello";
  char *copy = arena_copy(&arena, source, 5);
  source[0] = 'j';
  assert_string_equal(copy, "hello");
  assert_string_equal(arena_copy(&arena, NULL, 0), "");
  struct span s = arena_span(&arena, SPAN("x\0y"));
  assert_int_equal(s.length, 3);
  assert_memory_equal(s.data, "x\0y", 4);
  s = arena_printf(&arena, "%d-%s", 42, "z");
  assert_string_equal(s.data, "42-z");
  assert_int_equal(s.length, 4);
  for (int width = 250; width < 262; width++) {
    s = arena_printf(&arena, "%*d", width, 1);
    assert_int_equal(s.length, width);
    assert_int_equal(strlen(s.data), width);
    assert_int_equal(s.data[width - 1], '1');
  }
  arena_free(&arena);
}

struct note {
  struct arena *arena;
  char *text;
  char mark;
};
static void note_down(void *arg) {
  struct note *note = arg;
  size_t n = strlen(note->text);
  note->text[n] = note->mark;
  note->text[n + 1] = 0;
  if (note->mark == 'b') { /* a cleanup may defer another */
    struct note *more = arena_alloc(note->arena, sizeof *more);
    *more = (struct note){note->arena, note->text, 'x'};
    arena_defer(note->arena, note_down, more);
  }
}
static void cleans_up_in_reverse(void **state) {
  (void)state;
  struct arena arena;
  char text[16] = "";
  arena_init(&arena, NULL, 0);
  struct note a = {&arena, text, 'a'}, b = {&arena, text, 'b'}, c = {&arena, text, 'c'};
  arena_defer(&arena, note_down, &a);
  arena_defer(&arena, note_down, &b);
  arena_defer(&arena, note_down, &c);
  arena_free(&arena);
  assert_string_equal(text, "cbxa");
  arena_free(&arena);
  assert_string_equal(text, "cbxa");
}

static void gives_blocks_to_the_cache(void **state) {
  (void)state;
  struct arena_cache cache;
  arena_cache_init(&cache, 1024, 2);
  for (int round = 0; round < 3; round++) {
    struct arena arena;
    arena_init(&arena, &cache, 0);
    for (int i = 0; i < 40; i++) memset(arena_alloc(&arena, 200), i, 200);
    memset(arena_alloc(&arena, 5000), 1, 5000); /* not of the cache's size */
    arena_free(&arena);
    assert_int_equal(cache.count, ARENA_IS_CHECKED ? 0 : 2);
  }
  arena_cache_free(&cache);
  assert_int_equal(cache.count, 0);
  assert_null(cache.free);
}

static void is_seen_by_asan(void **state) {
  (void)state;
#if ARENA_IS_CHECKED
  struct arena arena;
  arena_init(&arena, NULL, 0);
  char *a = arena_alloc(&arena, 24);
  char *b = arena_alloc(&arena, 24);
  assert_false(__asan_address_is_poisoned(a + 23));
  assert_true(__asan_address_is_poisoned(a + 24));
  assert_true(__asan_address_is_poisoned(b + 24));
  arena_free(&arena);
  assert_true(__asan_address_is_poisoned(a));
#else
  /* Without ASan small allocations lie side by side. */
  struct arena arena;
  arena_init(&arena, NULL, 0);
  char *a = arena_alloc(&arena, 24);
  char *b = arena_alloc(&arena, 24);
  assert_ptr_equal(b, a + 32);
  /* A large one does not throw away the rest of the block. */
  arena_alloc(&arena, 100000);
  assert_ptr_equal((char *)arena_alloc(&arena, 1), b + 32);
  arena_free(&arena);
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(aligns_and_keeps_apart), cmocka_unit_test(copies), cmocka_unit_test(cleans_up_in_reverse),
                                     cmocka_unit_test(gives_blocks_to_the_cache), cmocka_unit_test(is_seen_by_asan)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
