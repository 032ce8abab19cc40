/* Directory trees under inotify. */
#ifndef KUBE_WATCH_H
#define KUBE_WATCH_H

#include <stdbool.h>
#include <stddef.h>

struct watch;

struct watch *watch_new(char *error, size_t error_size);
void watch_free(struct watch *watch);
/* Watches the tree under `root`; the root itself may be a symbolic link that is swapped. 0 or a negative errno. */
int watch_add(struct watch *watch, const char *root);
/* Readable when something happened. */
int watch_fd(const struct watch *watch);
/* Takes in what happened, without waiting; false if nothing did. */
bool watch_read(struct watch *watch);
/* Takes one changed path (to be freed by the caller), NULL when there are no more. It may be a file, a directory (all below it may have changed), or gone. */
char *watch_take(struct watch *watch);

/* The rule for names, for watching and for listing: hidden files and kubelet's `..data` directories are not looked into. */
bool watch_is_hidden(const char *name);

#endif
