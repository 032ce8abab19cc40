/* Lifetimes: a retired unit lives while a root from before its retirement is out, or a worker lists it; roots live until all holders gave them back. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "app/retire.h"

struct fake {
  struct unit unit; /* first */
  bool *is_freed;
};

static void fake_release(struct unit *unit) {
  struct fake *fake = (struct fake *)unit;
  assert_false(*fake->is_freed);
  *fake->is_freed = true;
  unit->magic = 0;
  free(fake);
}

static struct unit *fake_new(bool *is_freed) {
  struct fake *fake = calloc(1, sizeof *fake);
  assert_non_null(fake);
  fake->unit.magic = UNIT_MAGIC;
  fake->unit.kind = UNIT_HOST;
  fake->unit.release = fake_release;
  fake->is_freed = is_freed;
  *is_freed = false;
  return &fake->unit;
}

struct world {
  struct retire *retire;
  struct snapshot_builder *builder;
};

static int begin(void **state) {
  struct world *world = calloc(1, sizeof *world);
  assert_non_null(world);
  world->retire = retire_new();
  world->builder = snapshot_builder_new(7);
  *state = world;
  return 0;
}

static int end(void **state) {
  struct world *world = *state;
  retire_free_all(world->retire);
  snapshot_builder_free(world->builder);
  free(world);
  return 0;
}

static struct snapshot *publish(struct world *world, unsigned holders) {
  struct snapshot *root = snapshot_build(world->builder);
  retire_published(world->retire, root, holders);
  return root;
}

static void a_unit_waits_for_the_roots_that_name_it(void **state) {
  struct world *world = *state;
  bool freed;
  struct unit *unit = fake_new(&freed);
  retire_born(world->retire, unit);
  struct snapshot *one = publish(world, 2);
  retire_unit(world->retire, unit, 100);
  assert_int_equal(unit->retired_at, 2);
  retire_sweep(world->retire);
  assert_false(freed); /* the newest root still names it */
  publish(world, 2);
  retire_sweep(world->retire);
  assert_false(freed);
  retire_returned(world->retire, one);
  retire_sweep(world->retire);
  assert_false(freed); /* the other worker still has root 1 */
  assert_int_equal(retire_live_roots(world->retire), 2);
  assert_int_equal(retire_oldest_live(world->retire), 1);
  retire_returned(world->retire, one);
  assert_int_equal(retire_live_roots(world->retire), 1);
  assert_int_equal(retire_oldest_live(world->retire), 2);
  assert_int_equal(retire_pending(world->retire), 1);
  retire_sweep(world->retire);
  assert_true(freed);
  assert_int_equal(retire_pending(world->retire), 0);
}

static void a_listed_unit_waits_for_its_worker_and_blocks_no_other(void **state) {
  struct world *world = *state;
  bool leased_freed, other_freed;
  struct unit *leased = fake_new(&leased_freed), *other = fake_new(&other_freed);
  retire_born(world->retire, leased);
  retire_born(world->retire, other);
  struct snapshot *one = publish(world, 1);
  retire_unit(world->retire, leased, 10);
  retire_unit(world->retire, other, 20);
  publish(world, 1);
  leased->listed = 2; /* what the workers reported with the root that they returned */
  retire_returned(world->retire, one);
  retire_sweep(world->retire);
  assert_false(leased_freed);
  assert_true(other_freed);
  assert_int_equal(retire_oldest_ms(world->retire, 60), 50);
  leased->listed = 1;
  retire_sweep(world->retire);
  assert_false(leased_freed);
  leased->listed = 0;
  retire_sweep(world->retire);
  assert_true(leased_freed);
  assert_int_equal(retire_oldest_ms(world->retire, 60), 0);
}

static void an_older_root_in_the_middle_keeps_what_it_names(void **state) {
  struct world *world = *state;
  bool first_freed, second_freed;
  struct unit *first = fake_new(&first_freed), *second = fake_new(&second_freed);
  retire_born(world->retire, first);
  struct snapshot *one = publish(world, 2);
  retire_unit(world->retire, first, 1);
  retire_born(world->retire, second);
  assert_int_equal(second->born_at, 2);
  struct snapshot *two = publish(world, 2);
  retire_unit(world->retire, second, 2);
  publish(world, 2);
  /* Root 2 comes back first: root 1 is the oldest and holds both back. */
  retire_returned(world->retire, two);
  retire_returned(world->retire, two);
  assert_int_equal(retire_live_roots(world->retire), 2);
  retire_sweep(world->retire);
  assert_false(first_freed);
  assert_false(second_freed);
  retire_returned(world->retire, one);
  retire_returned(world->retire, one);
  retire_sweep(world->retire);
  assert_true(first_freed);
  assert_true(second_freed);
}

static void a_root_that_nobody_took_goes_with_the_next(void **state) {
  struct world *world = *state;
  struct snapshot *one = publish(world, 1);
  retire_returned(world->retire, one); /* given back while current: it stays */
  assert_int_equal(retire_live_roots(world->retire), 1);
  assert_int_equal(retire_oldest_live(world->retire), 1);
  publish(world, 1);
  assert_int_equal(retire_live_roots(world->retire), 1);
  assert_int_equal(retire_oldest_live(world->retire), 2);
}

static void without_a_root_retired_units_go_at_once(void **state) {
  struct world *world = *state;
  bool freed;
  struct unit *unit = fake_new(&freed);
  retire_born(world->retire, unit);
  retire_unit(world->retire, unit, 1);
  assert_int_equal(retire_oldest_live(world->retire), UINT64_MAX);
  retire_sweep(world->retire);
  assert_true(freed);
}

static void born_and_retired_between_two_roots(void **state) {
  struct world *world = *state;
  bool freed;
  struct snapshot *one = publish(world, 1);
  struct unit *unit = fake_new(&freed);
  retire_born(world->retire, unit);
  retire_unit(world->retire, unit, 1);
  publish(world, 1);
  retire_returned(world->retire, one);
  retire_sweep(world->retire);
  assert_true(freed);
}

static void ids_are_unique_among_the_living_and_small(void **state) {
  struct world *world = *state;
  enum { COUNT = 700 }; /* the table grows twice */
  static bool freed[COUNT], again_freed[COUNT], is_used[4 * COUNT];
  static struct unit *units[COUNT];
  for (int i = 0; i < COUNT; i++) {
    units[i] = fake_new(&freed[i]);
    retire_born(world->retire, units[i]);
    assert_true(units[i]->id < 1024);
    assert_false(is_used[units[i]->id]);
    is_used[units[i]->id] = true;
  }
  for (int i = 0; i < COUNT; i += 2) {
    is_used[units[i]->id] = false;
    retire_unit(world->retire, units[i], 1);
  }
  retire_sweep(world->retire);
  for (int i = 0; i < COUNT; i++) assert_int_equal(freed[i], i % 2 == 0);
  for (int i = 0; i < COUNT; i += 2) {
    units[i] = fake_new(&again_freed[i]);
    retire_born(world->retire, units[i]);
    assert_true(units[i]->id < 1024);
    assert_false(is_used[units[i]->id]);
    is_used[units[i]->id] = true;
  }
}

static void the_end_frees_roots_and_units_of_every_kind(void **state) {
  (void)state;
  struct world *world;
  void *inner = NULL;
  begin(&inner);
  world = inner;
  bool named_freed, retired_freed, listed_freed;
  struct unit *named = fake_new(&named_freed), *retired = fake_new(&retired_freed), *listed = fake_new(&listed_freed);
  retire_born(world->retire, named);
  retire_born(world->retire, retired);
  retire_born(world->retire, listed);
  publish(world, 3);
  retire_unit(world->retire, retired, 1);
  retire_unit(world->retire, listed, 1);
  listed->listed = 1;
  publish(world, 3);
  end(&inner);
  assert_true(named_freed);
  assert_true(retired_freed);
  assert_true(listed_freed);
}

/* Random order of publishing, retiring, returning: a unit is freed exactly when no live root from before its retirement is out and nobody lists it. */
static void a_random_walk_keeps_the_rule(void **state) {
  struct world *world = *state;
  enum { STEPS = 4000, HOLDERS = 3 };
  static bool freed[STEPS];
  static struct unit *alive[STEPS];
  static uint64_t retired_at[STEPS];
  static struct snapshot *roots[STEPS + 1];
  static unsigned out[STEPS + 1];
  unsigned made = 0, published = 0;
  srand(11);
  for (int step = 0; step < STEPS; step++) {
    int choice = rand() % 6;
    if (choice == 0) {
      alive[made] = fake_new(&freed[made]);
      retire_born(world->retire, alive[made++]);
    } else if (choice == 1 && made) {
      unsigned which = (unsigned)rand() % made;
      if (retired_at[which]) continue;
      retired_at[which] = retire_next_generation(world->retire);
      retire_unit(world->retire, alive[which], 1);
    } else if (choice == 2) {
      roots[published + 1] = publish(world, HOLDERS);
      out[++published] = HOLDERS;
    } else if (published) {
      unsigned which = 1 + (unsigned)rand() % published;
      if (out[which] == 0) continue;
      out[which]--;
      retire_returned(world->retire, roots[which]);
    }
    retire_sweep(world->retire);
    uint64_t oldest = 1;
    while (oldest < published && out[oldest] == 0) oldest++;
    for (unsigned i = 0; i < made; i++) assert_int_equal(freed[i], retired_at[i] && (retired_at[i] <= oldest || published == 0));
  }
  assert_true(made > 300 && published > 300);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(a_unit_waits_for_the_roots_that_name_it, begin, end),
      cmocka_unit_test_setup_teardown(a_listed_unit_waits_for_its_worker_and_blocks_no_other, begin, end),
      cmocka_unit_test_setup_teardown(an_older_root_in_the_middle_keeps_what_it_names, begin, end),
      cmocka_unit_test_setup_teardown(a_root_that_nobody_took_goes_with_the_next, begin, end),
      cmocka_unit_test_setup_teardown(without_a_root_retired_units_go_at_once, begin, end),
      cmocka_unit_test_setup_teardown(born_and_retired_between_two_roots, begin, end),
      cmocka_unit_test_setup_teardown(ids_are_unique_among_the_living_and_small, begin, end),
      cmocka_unit_test(the_end_frees_roots_and_units_of_every_kind),
      cmocka_unit_test_setup_teardown(a_random_walk_keeps_the_rule, begin, end),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
