/* Test command: see test_command.h. Becomes `luajit busted DIR` with the search paths of this installation. */
#include "app/test_command.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/paths.h"

#define BUSTED "/usr/bin/busted"

/* The folder that holds moongate/core.so: beside the executable in a build, else under the prefix. */
static void library_folder(char out[PATH_MAX]) {
  ssize_t length = readlink("/proc/self/exe", out, PATH_MAX - 32);
  if (length > 0) {
    out[length] = '\0';
    char *slash = strrchr(out, '/');
    if (slash) {
      strcpy(slash, "/lib");
      char probe[PATH_MAX + 32];
      snprintf(probe, sizeof probe, "%s/moongate/core.so", out);
      if (access(probe, R_OK) == 0) return;
    }
  }
  strcpy(out, MOONGATE_PREFIX "/lib");
}

int test_command_main(int argc, char **argv) {
  const char *folder = argc == 1 ? argv[0] : NULL;
  struct stat status;
  if (!folder) {
    fprintf(stderr, "usage: moongate test DIR   (runs DIR/**/*_spec.lua)\n");
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
  char library[PATH_MAX], paths[3 * PATH_MAX], binaries[2 * PATH_MAX];
  library_folder(library);
  snprintf(paths, sizeof paths, "%s/lua/?.lua;%s/lua/?/init.lua;%s/?.lua;;", home, home, home);
  snprintf(binaries, sizeof binaries, "%s/?.so;;", library);
  setenv("LUA_PATH", paths, 1);
  setenv("LUA_CPATH", binaries, 1);
  setenv("MOONGATE_HOME", home, 1);
  execlp("luajit", "luajit", BUSTED, "--output=utfTerminal", "--pattern=_spec", folder, (char *)NULL);
  fprintf(stderr, "moongate test: cannot start luajit: %s (apt-get install luajit)\n", strerror(errno));
  return 1;
}
