/* Certificate files: see certificate_files.h. Whoever needs the certificate looks first, so there is no watch that could miss something. */
#include "app/certificate_files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/buffer.h"
#include "base/check.h"

#define FILE_MAX_BYTES (1u << 20)

/* What tells one state of a file from another; all zero: it is not there. */
struct stamp {
  dev_t device;
  ino_t inode;
  off_t size;
  struct timespec written, changed;
};

struct certificate_files {
  const char *paths[2];
  struct stamp stamps[2];
  bool has_looked;
  struct certificate *current;
  struct log *log;
};

static struct stamp stamp_of(const char *path) {
  struct stat info;
  if (stat(path, &info)) return (struct stamp){0};
  return (struct stamp){.device = info.st_dev, .inode = info.st_ino, .size = info.st_size, .written = info.st_mtim, .changed = info.st_ctim};
}

static bool is_time(struct timespec a, struct timespec b) { return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec; }

static bool is_same(const struct stamp *a, const struct stamp *b) {
  return a->device == b->device && a->inode == b->inode && a->size == b->size && is_time(a->written, b->written) && is_time(a->changed, b->changed);
}

static bool read_file(const char *path, struct buffer *out, char *error, size_t error_size) {
  FILE *file = fopen(path, "re");
  if (file) {
    char *bytes = buffer_reserve(out, FILE_MAX_BYTES);
    size_t got = fread(bytes, 1, FILE_MAX_BYTES, file);
    bool is_bad = ferror(file);
    fclose(file);
    buffer_added(out, got);
    if (!is_bad) return true;
  }
  snprintf(error, error_size, "%s: %s", path, strerror(errno));
  return false;
}

static void load(struct certificate_files *files) {
  struct buffer texts[2] = {{0}};
  char error[512];
  struct certificate *made = NULL;
  if (read_file(files->paths[0], &texts[0], error, sizeof error) && read_file(files->paths[1], &texts[1], error, sizeof error))
    made = certificate_new(buffer_span(&texts[0]), buffer_span(&texts[1]), error, sizeof error);
  if (texts[1].data) explicit_bzero(texts[1].data, texts[1].capacity);
  for (int i = 0; i < 2; i++) buffer_free(&texts[i]);
  if (made) {
    bool is_first = !files->current;
    certificate_free(files->current);
    files->current = made;
    if (files->has_looked) log_write(files->log, LOG_NOTICE, is_first ? "certificate loaded" : "certificate changed", "file=%s", files->paths[0]);
    return;
  }
  log_write(files->log, LOG_ERROR, files->current ? "certificate refused, the one before stays" : "no certificate, handshakes are refused",
            "file=%s error=\"%s\"", files->paths[0], error);
}

struct certificate_files *certificate_files_new(const char *certificate, const char *key, struct log *log) {
  struct certificate_files *files = calloc(1, sizeof *files);
  must(files);
  *files = (struct certificate_files){.paths = {certificate, key}, .log = log};
  certificate_files_look(files);
  return files;
}

void certificate_files_free(struct certificate_files *files) {
  if (!files) return;
  certificate_free(files->current);
  free(files);
}

void certificate_files_look(struct certificate_files *files) {
  struct stamp stamps[2];
  bool is_changed = !files->has_looked;
  for (int i = 0; i < 2; i++) {
    stamps[i] = stamp_of(files->paths[i]); /* before the reading: what changes meanwhile is seen next time */
    is_changed = is_changed || !is_same(&stamps[i], &files->stamps[i]);
    files->stamps[i] = stamps[i];
  }
  if (is_changed) load(files);
  files->has_looked = true;
}

struct certificate *certificate_files_current(const struct certificate_files *files) { return files->current; }
