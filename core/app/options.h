/* Command line options of `moongate run`. Immutable after options_parse. */
#ifndef APP_OPTIONS_H
#define APP_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "app/flags.h"
#include "base/buffer.h"

#define OPTIONS_LIST_MAX 16
#define OPTIONS_PATHS_MAX 256

struct option_list {
  const char *items[OPTIONS_LIST_MAX];
  unsigned count;
};

struct option_paths {
  const char *items[OPTIONS_PATHS_MAX];
  unsigned count;
};

#define OPTION_FIELD_TEXT(field) const char *field;
#define OPTION_FIELD_NUMBER(field) int64_t field;
#define OPTION_FIELD_FLAG(field) bool field;
#define OPTION_FIELD_LIST(field) struct option_list field;

struct options {
#define X(name, field, type, fallback, group, state, help) OPTION_FIELD_##type(field)
  FLAGS(X)
#undef X
#define X(name, field, type, fallback, group, state, help) bool field##_is_set;
  FLAGS(X)
#undef X
};

/* Parses `--flag=value`, `--flag value`, `--flag` (booleans), one dash too. Keeps pointers into argv. 0, or -1 with one clear line in `error`. */
int options_parse(struct options *options, int argc, char **argv, char *error, size_t error_size);
/* The same for commands that also take paths, before, between or behind the flags. */
int options_parse_with_paths(struct options *options, int argc, char **argv, struct option_paths *paths, char *error, size_t error_size);
/* The grouped help. */
void options_help(struct buffer *out);
/* One line for each flag given that has no effect (yet). */
void options_without_effect(const struct options *options, void (*say)(void *context, const char *flag, const char *why), void *context);
/* All flags as a packed map of name to text (lists comma-joined), and "own-ports": what the sync side gets. */
void options_pack(const struct options *options, const char *own_ports, struct buffer *out);
/* CPUs that the cgroup allows, at least 1. */
unsigned options_cpu_count(void);

#endif
