/* Paths: see paths.h. The first of: $MOONGATE_HOME, a parent of the executable's folder that holds lua/moongate (a source tree), PREFIX/share/moongate. */
#include "app/paths.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char home[PATH_MAX];

static bool is_home(const char *path) {
  char probe[PATH_MAX + 32];
  snprintf(probe, sizeof probe, "%s/lua/moongate/init.lua", path);
  return access(probe, R_OK) == 0;
}

const char *paths_home(void) {
  const char *given = getenv("MOONGATE_HOME");
  if (given && strlen(given) < sizeof home) {
    snprintf(home, sizeof home, "%s", given);
    return is_home(home) ? home : NULL;
  }
  ssize_t length = readlink("/proc/self/exe", home, sizeof home - 1);
  if (length > 0) {
    home[length] = '\0';
    for (int up = 0; up < 3; up++) {
      char *slash = strrchr(home, '/');
      if (!slash) break;
      *slash = '\0';
      if (is_home(home)) return home;
      size_t room = sizeof home - strlen(home);
      char shared[PATH_MAX];
      if (up == 1 && room > 32) { /* PREFIX/bin/moongate -> PREFIX/share/moongate */
        int written = snprintf(shared, sizeof shared, "%s/share/moongate", home);
        if (written > 0 && (size_t)written < sizeof shared && is_home(shared)) {
          memcpy(home, shared, (size_t)written + 1);
          return home;
        }
      }
    }
  }
  snprintf(home, sizeof home, "%s", MOONGATE_PREFIX "/share/moongate");
  return is_home(home) ? home : NULL;
}
