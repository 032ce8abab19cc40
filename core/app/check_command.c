/* Check command: see check_command.h. Findings go to stdout, one a line; the sum to stderr. */
#include "app/check_command.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/paths.h"
#include "app/sync_thread.h"

static void print_line(void *context, const char *level, struct span text) {
  unsigned *counts = context;
  static const char *const levels[] = {"deny", "error", "warn", "info"};
  for (unsigned i = 0; i < 4; i++)
    if (strcmp(level, levels[i]) == 0) counts[i]++;
  printf("%s: %.*s\n", level, (int)text.length, text.data);
}

int check_command_main(int argc, char **argv) {
  static const char usage[] =
      "usage: moongate check PATH... [--policies DIR] [--configmap NAMESPACE/NAME] [flags of run that say which objects count]\n"
      "  PATH is a manifest or a directory of them. Status: 0 nothing is refused, 1 something is, 2 the check did not run.\n";
  struct option_paths paths = {0};
  struct options options;
  char error[512];
  if (options_parse_with_paths(&options, argc, argv, &paths, error, sizeof error)) {
    fprintf(stderr, "moongate check: %s\n", error);
    return 2;
  }
  if (options.help) {
    fputs(usage, stdout);
    return 0;
  }
  if (paths.count == 0) {
    fputs(usage, stderr);
    return 2;
  }
  const char *home = paths_home();
  if (!home) {
    fprintf(stderr, "moongate check: the Lua files are not there (MOONGATE_HOME overrides)\n");
    return 2;
  }
  if (!options.watch_ingress_without_class_is_set) options.watch_ingress_without_class = true;
  char script_path[4096];
  snprintf(script_path, sizeof script_path, "%s/lua", home);
  struct log log = {.thread = "check"};
  struct sync_thread_options joined = {
      .options = &options, .home = home, .script_path = script_path, .guest_memory = 32u << 20, .log = &log, .own_ports = {80, 443, 10254}};
  unsigned counts[4] = {0};
  int refused = sync_thread_check(&joined, paths.items, paths.count, print_line, counts, error, sizeof error);
  if (refused < 0) {
    fprintf(stderr, "moongate check: %s\n", error);
    return 2;
  }
  fflush(stdout);
  static const char *const names[] = {"denied", "error", "warning", "note"};
  for (unsigned i = 0; i < 4; i++) fprintf(stderr, "%u %s%s%s", counts[i], names[i], i == 0 || counts[i] == 1 ? "" : "s", i == 3 ? "\n" : ", ");
  return refused ? 1 : 0;
}
