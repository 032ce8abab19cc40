/* Wait-shutdown: see wait_shutdown.h. The controller is found in /proc by its command line: a program with file capabilities shows its exe to root only. */
#include "app/wait_shutdown.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK_MS 100

/* The name of a program or subcommand within a command line of `length` bytes, each argument ended by NUL. */
static bool is_run(const char *line, size_t length) {
  const char *slash = memrchr(line, '/', strnlen(line, length));
  const char *name = slash ? slash + 1 : line;
  size_t first = strnlen(line, length) + 1;
  const char *command = first < length ? line + first : "";
  if (strcmp(name, "moongate") != 0 && strcmp(name, "nginx-ingress-controller") != 0) return false;
  return *command == '\0' || *command == '-' || strcmp(command, "run") == 0;
}

static bool is_controller(long pid) {
  char path[64], line[512];
  snprintf(path, sizeof path, "/proc/%ld/cmdline", pid);
  FILE *file = pid == (long)getpid() ? NULL : fopen(path, "re");
  if (!file) return false;
  size_t length = fread(line, 1, sizeof line - 1, file); /* nothing: a zombie, or of the kernel */
  fclose(file);
  line[length] = '\0';
  return length > 0 && is_run(line, length);
}

/* Signals every controller that we may signal; returns how many there are. */
static unsigned signal_all(int number) {
  unsigned found = 0;
  DIR *proc = opendir("/proc");
  if (!proc) return 0;
  for (struct dirent *entry; (entry = readdir(proc));) {
    char *end;
    long pid = strtol(entry->d_name, &end, 10);
    if (pid <= 0 || *end != '\0' || !is_controller(pid)) continue;
    if (kill((pid_t)pid, number) == 0) found++;
  }
  closedir(proc);
  return found;
}

int wait_shutdown_main(void) {
  if (signal_all(SIGTERM) == 0) return 0;
  while (signal_all(0) > 0) poll(NULL, 0, LOOK_MS);
  return 0;
}
