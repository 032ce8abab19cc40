/* Directory trees under inotify. Files count when they are closed after writing or moved into place, never half written. A mounted ConfigMap or Secret changes
 * by a swap of its `..data` link, which is reported as a change of the directory that holds it. After an overflow all roots are reported. Owned by the sync
 * thread. */
#include "kube/watch.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"

enum { WATCH_MASK = IN_CLOSE_WRITE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CREATE | IN_DELETE_SELF | IN_MOVE_SELF, WATCH_MAX_DEPTH = 16 };

struct entry {
  int descriptor;
  char *path;
  char *only; /* not NULL: `path` is a root's parent, and only this name in it matters */
};
struct watch {
  int fd;
  struct entry *entries;
  size_t count, capacity;
  char **roots;
  size_t root_count;
  char **changed;
  size_t changed_count, changed_capacity;
};

static char *copy(const char *text) {
  char *made = strdup(text);
  must(made);
  return made;
}

static char *join(const char *directory, const char *name) {
  char *made;
  must(asprintf(&made, "%s%s%s", directory, directory[strlen(directory) - 1] == '/' ? "" : "/", name) >= 0);
  return made;
}

bool watch_is_hidden(const char *name) { return name[0] == '.'; }

struct watch *watch_new(char *error, size_t error_size) {
  int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
  if (fd < 0) {
    snprintf(error, error_size, "inotify: %s", strerror(errno));
    return NULL;
  }
  struct watch *watch = calloc(1, sizeof *watch);
  must(watch);
  watch->fd = fd;
  return watch;
}

static void entry_free(struct entry *entry) {
  free(entry->path);
  free(entry->only);
}

void watch_free(struct watch *watch) {
  if (!watch) return;
  close(watch->fd);
  for (size_t i = 0; i < watch->count; i++) entry_free(&watch->entries[i]);
  for (size_t i = 0; i < watch->root_count; i++) free(watch->roots[i]);
  for (size_t i = 0; i < watch->changed_count; i++) free(watch->changed[i]);
  free(watch->entries);
  free(watch->roots);
  free(watch->changed);
  free(watch);
}

int watch_fd(const struct watch *watch) { return watch->fd; }

static void add_changed(struct watch *watch, const char *path) {
  for (size_t i = watch->changed_count; i > 0 && watch->changed_count - i < 64; i--) /* the same file twice in a row: one change */
    if (strcmp(watch->changed[i - 1], path) == 0) return;
  if (watch->changed_count == watch->changed_capacity) {
    watch->changed_capacity = watch->changed_capacity ? watch->changed_capacity * 2 : 16;
    watch->changed = realloc(watch->changed, watch->changed_capacity * sizeof *watch->changed);
    must(watch->changed);
  }
  watch->changed[watch->changed_count++] = copy(path);
}

static int add_entry(struct watch *watch, const char *path, const char *only) {
  int descriptor = inotify_add_watch(watch->fd, path, WATCH_MASK | IN_MASK_ADD | IN_ONLYDIR);
  if (descriptor < 0) return -errno;
  if (watch->count == watch->capacity) {
    watch->capacity = watch->capacity ? watch->capacity * 2 : 16;
    watch->entries = realloc(watch->entries, watch->capacity * sizeof *watch->entries);
    must(watch->entries);
  }
  watch->entries[watch->count++] = (struct entry){descriptor, copy(path), only ? copy(only) : NULL};
  return 0;
}

static int add_tree(struct watch *watch, const char *path, unsigned depth) {
  int result = add_entry(watch, path, NULL);
  if (result < 0 || depth >= WATCH_MAX_DEPTH) return result;
  DIR *directory = opendir(path);
  if (!directory) return -errno;
  struct dirent *item;
  while ((item = readdir(directory))) {
    if (watch_is_hidden(item->d_name) || item->d_type == DT_REG) continue;
    char *below = join(path, item->d_name);
    struct stat info;
    if (stat(below, &info) == 0 && S_ISDIR(info.st_mode)) (void)add_tree(watch, below, depth + 1);
    free(below);
  }
  closedir(directory);
  return 0;
}

static void remove_entry(struct watch *watch, size_t index, bool is_ignored) {
  int descriptor = watch->entries[index].descriptor;
  entry_free(&watch->entries[index]);
  watch->entries[index] = watch->entries[--watch->count];
  for (size_t i = 0; i < watch->count; i++)
    if (watch->entries[i].descriptor == descriptor) return;
  if (!is_ignored) (void)inotify_rm_watch(watch->fd, descriptor);
}

static void remove_tree(struct watch *watch, const char *path) {
  size_t length = strlen(path);
  for (size_t i = watch->count; i > 0; i--) {
    const struct entry *entry = &watch->entries[i - 1];
    if (!entry->only && strncmp(entry->path, path, length) == 0 && (entry->path[length] == 0 || entry->path[length] == '/')) remove_entry(watch, i - 1, false);
  }
}

int watch_add(struct watch *watch, const char *root) {
  char *path = copy(root);
  for (size_t length = strlen(path); length > 1 && path[length - 1] == '/'; length--) path[length - 1] = 0;
  int result = add_tree(watch, path, 0);
  if (result < 0) {
    free(path);
    return result;
  }
  watch->roots = realloc(watch->roots, (watch->root_count + 1) * sizeof *watch->roots);
  must(watch->roots);
  watch->roots[watch->root_count++] = path;
  char *slash = strrchr(path, '/');
  char *parent = slash == path ? copy("/") : slash ? strndup(path, (size_t)(slash - path)) : copy(".");
  must(parent);
  if (strcmp(path, "/") != 0)
    (void)add_entry(watch, parent, slash ? slash + 1 : path); /* not readable: then a swap of the root goes unseen, its files do not */
  free(parent);
  return 0;
}

static bool is_new_directory(const char *path, uint32_t mask) {
  struct stat info;
  return (mask & (IN_CREATE | IN_MOVED_TO)) && stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* A file that was only created is not written yet, unless it is a link. */
static bool is_half_made(const char *path) {
  struct stat info;
  return lstat(path, &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink < 2;
}

static void handle_name(struct watch *watch, const char *directory, const char *name, uint32_t mask) {
  if (watch_is_hidden(name)) {
    if (strcmp(name, "..data") == 0 && (mask & (IN_MOVED_TO | IN_CREATE))) {
      remove_tree(watch, directory);
      (void)add_tree(watch, directory, 0);
      add_changed(watch, directory);
    }
    return;
  }
  char *path = join(directory, name);
  if (is_new_directory(path, mask)) {
    remove_tree(watch, path);
    (void)add_tree(watch, path, 0);
    add_changed(watch, path);
  } else if (mask & (IN_DELETE | IN_MOVED_FROM)) {
    remove_tree(watch, path);
    add_changed(watch, path);
  } else if (!(mask & IN_CREATE) || !is_half_made(path)) {
    add_changed(watch, path);
  }
  free(path);
}

static void handle_event(struct watch *watch, const struct inotify_event *event) {
  if (event->mask & IN_Q_OVERFLOW) {
    for (size_t i = 0; i < watch->root_count; i++) {
      remove_tree(watch, watch->roots[i]);
      (void)add_tree(watch, watch->roots[i], 0);
      add_changed(watch, watch->roots[i]);
    }
    return;
  }
  /* Handling may add and remove entries: collect whom it concerns first. More than a few are links to the same directory. */
  char *paths[8], *only[8];
  size_t count = 0;
  for (size_t i = 0; i < watch->count && count < 8; i++)
    if (watch->entries[i].descriptor == event->wd) {
      paths[count] = copy(watch->entries[i].path);
      only[count++] = watch->entries[i].only ? copy(watch->entries[i].only) : NULL;
    }
  for (size_t i = 0; i < count; i++) {
    if (event->mask & IN_IGNORED) {
      for (size_t j = watch->count; j > 0; j--)
        if (watch->entries[j - 1].descriptor == event->wd) remove_entry(watch, j - 1, true);
    } else if (event->mask & (IN_DELETE_SELF | IN_MOVE_SELF)) {
      if (!only[i]) add_changed(watch, paths[i]);
    } else if (event->len && (!only[i] || strcmp(only[i], event->name) == 0)) {
      handle_name(watch, paths[i], event->name, event->mask);
    }
    free(paths[i]);
    free(only[i]);
  }
}

bool watch_read(struct watch *watch) {
  char bytes[16384] __attribute__((aligned(__alignof__(struct inotify_event))));
  bool is_any = false;
  for (;;) {
    ssize_t got = read(watch->fd, bytes, sizeof bytes);
    if (got <= 0) return is_any;
    is_any = true;
    for (char *at = bytes; at < bytes + got;) {
      const struct inotify_event *event = (const struct inotify_event *)(void *)at;
      handle_event(watch, event);
      at += sizeof *event + event->len;
    }
  }
}

char *watch_take(struct watch *watch) { return watch->changed_count ? watch->changed[--watch->changed_count] : NULL; }
