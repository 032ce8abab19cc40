/* Main: the subcommands. */
#include <stdio.h>
#include <string.h>

#include "app/check_command.h"
#include "app/echo.h"
#include "app/run.h"
#include "app/test_command.h"
#include "app/wait_shutdown.h"

int main(int argc, char **argv) {
  const char *slash = argc ? strrchr(argv[0], '/') : NULL;
  if (slash && strcmp(slash, "/wait-shutdown") == 0) return wait_shutdown_main();
  const char *command = argc > 1 ? argv[1] : "";
  if (strcmp(command, "echo") == 0) return echo_main(argc - 2, argv + 2);
  if (strcmp(command, "check") == 0) return check_command_main(argc - 2, argv + 2);
  if (strcmp(command, "test") == 0) return test_command_main(argc - 2, argv + 2);
  if (strcmp(command, "run") == 0) return run_main(argc - 2, argv + 2);
  if (strcmp(command, "wait-shutdown") == 0) return wait_shutdown_main();
  if (argc <= 1) return run_main(0, argv);
  if (strcmp(command, "help") == 0) return run_main(1, (char *[]){(char *)"--help", NULL});
  if (strcmp(command, "version") == 0) {
    printf("moongate %s\n", MOONGATE_VERSION);
    return 0;
  }
  if (*command != '-') {
    fprintf(stderr, "moongate: unknown command \"%s\" (run, check, test, echo, wait-shutdown, version; see moongate --help)\n", command);
    return 2;
  }
  return run_main(argc - 1, argv + 1);
}
