/* Wait-shutdown: see wait_shutdown.h. The controller is found in /proc: whatever else runs our own program file. */
#include "app/wait_shutdown.h"

#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_MS 100

/* Does the process run the file that we run, and is it no zombie (whose exe cannot be followed)? */
static bool is_controller(long pid, const struct stat *own) {
  char path[64];
  struct stat other;
  if (pid == (long)getpid()) return false;
  snprintf(path, sizeof path, "/proc/%ld/exe", pid);
  return stat(path, &other) == 0 && other.st_dev == own->st_dev && other.st_ino == own->st_ino;
}

/* Signals every controller; returns how many there are. */
static unsigned signal_all(const struct stat *own, int number) {
  unsigned found = 0;
  DIR *proc = opendir("/proc");
  if (!proc) return 0;
  for (struct dirent *entry; (entry = readdir(proc));) {
    char *end;
    long pid = strtol(entry->d_name, &end, 10);
    if (pid <= 0 || *end != '\0' || !is_controller(pid, own)) continue;
    if (kill((pid_t)pid, number) == 0) found++;
  }
  closedir(proc);
  return found;
}

int wait_shutdown_main(void) {
  struct stat own;
  if (stat("/proc/self/exe", &own)) {
    fprintf(stderr, "wait-shutdown: /proc is not there\n");
    return 1;
  }
  if (signal_all(&own, SIGTERM) == 0) return 0;
  while (signal_all(&own, 0) > 0) poll(NULL, 0, LOOK_MS);
  return 0;
}
