/* Test command: see test_command.h. Becomes `luajit busted DIR` with the search paths of this installation. */
#include "app/test_command.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/paths.h"

#define BUSTED "/usr/bin/busted"

static bool has_library(const char *folder) {
  char probe[PATH_MAX + 32];
  snprintf(probe, sizeof probe, "%s/moongate/core.so", folder);
  return access(probe, R_OK) == 0;
}

/* The folder that holds moongate/core.so: build/lib beside build/moongate, PREFIX/lib beside PREFIX/bin, else the PREFIX of the build. */
static bool library_folder(char out[PATH_MAX]) {
  ssize_t length = readlink("/proc/self/exe", out, PATH_MAX - 32);
  if (length > 0) {
    out[length] = '\0';
    for (int up = 0; up < 2; up++) {
      char *slash = strrchr(out, '/');
      if (!slash) break;
      memcpy(slash, "/lib", sizeof "/lib");
      if (has_library(out)) return true;
      *slash = '\0';
    }
  }
  snprintf(out, PATH_MAX, "%s", MOONGATE_PREFIX "/lib");
  return has_library(out);
}

int test_command_main(int argc, char **argv) {
  static const char usage[] = "usage: moongate test DIR   (runs DIR/**/*_spec.lua)\n";
  const char *folder = argc == 1 ? argv[0] : NULL;
  struct stat status;
  if (folder && (strcmp(folder, "--help") == 0 || strcmp(folder, "-h") == 0)) {
    fputs(usage, stdout);
    return 0;
  }
  if (!folder) {
    fputs(usage, stderr);
    return 2;
  }
  if (stat(folder, &status)) {
    fprintf(stderr, "moongate test: %s: %s\n", folder, strerror(errno));
    return 2;
  }
  const char *home = paths_home();
  if (!home) {
    fprintf(stderr, "moongate test: the Lua files are not there (MOONGATE_HOME overrides)\n");
    return 1;
  }
  if (access(BUSTED, R_OK)) {
    fprintf(stderr, "moongate test: busted is missing: apt-get install lua-busted luajit\n");
    return 1;
  }
  char library[PATH_MAX], paths[3 * PATH_MAX], binaries[2 * PATH_MAX], report[PATH_MAX + 64];
  if (!library_folder(library)) {
    fprintf(stderr, "moongate test: moongate/core.so is not beside the program, nor in %s (make builds it)\n", library);
    return 1;
  }
  snprintf(paths, sizeof paths, "%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;;", home, home, home);
  snprintf(binaries, sizeof binaries, "%s/?.so;;", library);
  snprintf(report, sizeof report, "--helper=%s/lua/moongate/testing_report.lua", home);
  setenv("LUA_PATH", paths, 1);
  setenv("LUA_CPATH", binaries, 1);
  setenv("MOONGATE_HOME", home, 1);
  execlp("luajit", "luajit", BUSTED, "--output=utfTerminal", "--pattern=_spec", report, folder, (char *)NULL);
  fprintf(stderr, "moongate test: cannot start luajit: %s (apt-get install luajit)\n", strerror(errno));
  return 1;
}
