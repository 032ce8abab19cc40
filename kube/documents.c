/* The documents of a file, and which of them a new version of the file changed. A file's bytes are kept: a new version is compared from both ends, and only
 * what lies between is split again, so that one changed document among ten thousand costs a comparison of memory. A document keeps its id while it is edited in
 * place; what is remembered about it (its objects, a broken edit's last good version) hangs on the id. Owned and used by the sync thread. */
#include "kube/documents.h"

#include <stdlib.h>

#include "base/check.h"
#include "base/hash.h"
#include "base/hashmap.h"

struct document {
  uint32_t id;
  uint32_t line;
  size_t start; /* its end is the next one's start */
};
struct file {
  char *path;
  char *bytes;
  size_t length;
  struct document *documents;
  uint32_t count;
};
struct place {
  struct file *file; /* NULL: free */
  uint32_t index;
};
struct documents {
  struct hashmap files;
  struct place *places; /* by id */
  uint32_t place_count, place_capacity;
  uint32_t *free_ids;
  uint32_t free_count, free_capacity;
  struct document_change *changes;
  size_t change_count, change_capacity;
};

static void *grow(void *memory, size_t count, size_t size) {
  void *grown = realloc(memory, (count ? count : 1) * size);
  must(grown);
  return grown;
}

struct documents *documents_new(void) {
  struct documents *documents = calloc(1, sizeof *documents);
  must(documents);
  hashmap_init(&documents->files);
  return documents;
}

static void file_free(struct file *file) {
  free(file->path);
  free(file->bytes);
  free(file->documents);
  free(file);
}

void documents_free(struct documents *documents) {
  if (!documents) return;
  size_t cursor = 0;
  struct hashmap_entry *entry;
  while ((entry = hashmap_next(&documents->files, &cursor))) file_free(entry->value);
  hashmap_free(&documents->files);
  free(documents->places);
  free(documents->free_ids);
  free(documents->changes);
  free(documents);
}

static uint32_t take_id(struct documents *documents) {
  if (documents->free_count) return documents->free_ids[--documents->free_count];
  if (documents->place_count == documents->place_capacity) {
    documents->place_capacity = documents->place_capacity ? documents->place_capacity * 2 : 64;
    documents->places = grow(documents->places, documents->place_capacity, sizeof *documents->places);
  }
  documents->places[documents->place_count] = (struct place){NULL, 0};
  return documents->place_count++;
}

static void give_id(struct documents *documents, uint32_t id) {
  documents->places[id].file = NULL;
  if (documents->free_count == documents->free_capacity) {
    documents->free_capacity = documents->free_capacity ? documents->free_capacity * 2 : 64;
    documents->free_ids = grow(documents->free_ids, documents->free_capacity, sizeof *documents->free_ids);
  }
  documents->free_ids[documents->free_count++] = id;
}

static void add_change(struct documents *documents, enum document_change_kind kind, uint32_t id, struct span text) {
  if (documents->change_count == documents->change_capacity) {
    documents->change_capacity = documents->change_capacity ? documents->change_capacity * 2 : 64;
    documents->changes = grow(documents->changes, documents->change_capacity, sizeof *documents->changes);
  }
  documents->changes[documents->change_count++] = (struct document_change){kind, id, text};
}

static struct span document_text(const struct file *file, uint32_t index) {
  size_t start = file->documents[index].start;
  size_t end = index + 1 < file->count ? file->documents[index + 1].start : file->length;
  return span_make(file->bytes + start, end - start);
}

static uint32_t count_lines(const char *bytes, size_t length) {
  uint32_t lines = 0;
  for (size_t i = 0; i < length; i++) lines += bytes[i] == '\n';
  return lines;
}

/* Offset of the next marker line at or after `from` (which is a line's start, or lies inside a line), `end` if there is none. */
static size_t next_marker(const char *bytes, size_t from, size_t end) {
  while (from < end) {
    const char *found = memmem(bytes + from, end - from, "\n---", 4);
    if (!found) return end;
    size_t after = (size_t)(found - bytes) + 4;
    if (after >= end || strchr(" \t\r\n", bytes[after])) return (size_t)(found - bytes) + 1;
    from = after;
  }
  return end;
}

/* Splits bytes [start, end) of the new version, where `start` begins a document, into `*list`. JSON too: no line of it can begin with the marker. */
static uint32_t split(const char *bytes, size_t start, size_t end, uint32_t line, struct document **list) {
  uint32_t count = 0, capacity = 0;
  *list = NULL;
  while (start < end) {
    if (count == capacity) {
      capacity = capacity ? capacity * 2 : 4;
      *list = grow(*list, capacity, sizeof **list);
    }
    size_t next = next_marker(bytes, start, end);
    (*list)[count++] = (struct document){UINT32_MAX, line, start};
    line += count_lines(bytes + start, next - start);
    start = next;
  }
  return count;
}

/* Gives each new document the id of the old one that it replaces. Equal texts are the same document; between those, they are paired in their order. */
static void pair(struct documents *documents, const struct file *old, uint32_t first, uint32_t old_end, struct file *fresh, uint32_t fresh_end) {
  uint32_t old_count = old_end - first, fresh_count = fresh_end - first;
  uint32_t o = 0, f = 0;
  uint64_t *hashes = NULL;
  if (old_count != fresh_count && old_count) {
    hashes = grow(NULL, old_count, sizeof *hashes);
    for (uint32_t i = 0; i < old_count; i++) hashes[i] = hash_bytes(document_text(old, first + i), 0);
  }
  while (f < fresh_count) {
    uint32_t match = UINT32_MAX;
    struct span text = document_text(fresh, first + f);
    if (hashes) { /* inserted or removed: look for the place where both go on alike */
      uint64_t hash = hash_bytes(text, 0);
      for (uint32_t i = o; i < old_count && i < o + 256; i++)
        if (hashes[i] == hash) {
          match = i;
          break;
        }
    }
    if (match != UINT32_MAX) {
      for (; o < match; o++) {
        add_change(documents, DOCUMENT_GONE, old->documents[first + o].id, SPAN(""));
      }
    } else {
      /* With fewer old documents left than new ones, this one is an insertion; an edit in place otherwise. */
      bool is_insertion = old_count - o < fresh_count - f && hashes;
      if (o >= old_count || is_insertion) {
        uint32_t id = take_id(documents);
        fresh->documents[first + f].id = id;
        add_change(documents, DOCUMENT_PUT, id, text);
        f++;
        continue;
      }
    }
    uint32_t id = old->documents[first + o].id;
    if (!span_equal(document_text(old, first + o), text)) add_change(documents, DOCUMENT_PUT, id, text);
    fresh->documents[first + f].id = id;
    o++, f++;
  }
  for (; o < old_count; o++) add_change(documents, DOCUMENT_GONE, old->documents[first + o].id, SPAN(""));
  free(hashes);
}

static void release_gone(struct documents *documents) {
  for (size_t i = 0; i < documents->change_count; i++)
    if (documents->changes[i].kind == DOCUMENT_GONE) give_id(documents, documents->changes[i].id);
}

static size_t common_prefix(const char *a, const char *b, size_t limit) {
  size_t at = 0;
  while (limit - at >= 4096 && memcmp(a + at, b + at, 4096) == 0) at += 4096;
  while (at < limit && a[at] == b[at]) at++;
  return at;
}

static size_t common_suffix(const char *a_end, const char *b_end, size_t limit) {
  size_t at = 0;
  while (limit - at >= 4096 && memcmp(a_end - at - 4096, b_end - at - 4096, 4096) == 0) at += 4096;
  while (at < limit && a_end[-1 - (ptrdiff_t)at] == b_end[-1 - (ptrdiff_t)at]) at++;
  return at;
}

const struct document_change *documents_update(struct documents *documents, const char *path, char *bytes, size_t length, size_t *count) {
  documents->change_count = 0;
  struct file *old = hashmap_get(&documents->files, span_of(path));
  struct file empty = {.bytes = NULL};
  struct file *file = old ? old : &empty;
  struct span name = span_of(path);
  size_t limit = file->length < length ? file->length : length;
  size_t prefix = limit ? common_prefix(file->bytes, bytes, limit) : 0;
  if (old && prefix == length && length == file->length) {
    free(bytes);
    *count = 0;
    return NULL;
  }
  size_t suffix = limit > prefix ? common_suffix(file->bytes + file->length, bytes + length, limit - prefix) : 0;
  /* Documents before `first` end, with their whole marker, inside the prefix; those from `last` on begin, with the newline before, inside the suffix. */
  uint32_t first = 0, last = file->count;
  while (first + 1 < file->count && file->documents[first + 1].start + 4 <= prefix) first++;
  while (last > first + 1 && file->documents[last - 1].start >= file->length - suffix + 1) last--;
  size_t begin = file->count ? file->documents[first].start : 0;
  size_t old_end = last < file->count ? file->documents[last].start : file->length;
  size_t fresh_end = length - (file->length - old_end);

  struct document *middle;
  uint32_t begin_line = file->count ? file->documents[first].line : 1;
  uint32_t middle_count = split(bytes, begin, fresh_end, begin_line, &middle);
  struct file *fresh = calloc(1, sizeof *fresh);
  must(fresh);
  *fresh = (struct file){.bytes = bytes, .length = length, .count = first + middle_count + (file->count - last)};
  fresh->documents = grow(NULL, fresh->count, sizeof *fresh->documents);
  if (first) memcpy(fresh->documents, file->documents, first * sizeof *middle);
  if (middle_count) memcpy(fresh->documents + first, middle, middle_count * sizeof *middle);
  uint32_t line_shift = 0;
  if (last < file->count)
    line_shift = begin_line + count_lines(bytes + begin, fresh_end - begin) - file->documents[last].line; /* may wrap: it is added back below */
  for (uint32_t i = last; i < file->count; i++) {
    struct document *document = &fresh->documents[first + middle_count + (i - last)];
    *document = file->documents[i];
    document->start = document->start - old_end + fresh_end;
    document->line += line_shift;
  }
  free(middle);
  pair(documents, file, first, last, fresh, first + middle_count);
  release_gone(documents);

  if (old) {
    fresh->path = old->path;
    old->path = NULL;
    file_free(old);
  } else {
    fresh->path = strdup(path);
    must(fresh->path);
  }
  hashmap_put(&documents->files, name, fresh);
  for (uint32_t i = 0; i < fresh->count; i++) documents->places[fresh->documents[i].id] = (struct place){fresh, i};
  *count = documents->change_count;
  return documents->changes;
}

const struct document_change *documents_forget(struct documents *documents, const char *path, size_t *count) {
  documents->change_count = 0;
  struct file *file = hashmap_remove(&documents->files, span_of(path));
  if (file) {
    for (uint32_t i = 0; i < file->count; i++) add_change(documents, DOCUMENT_GONE, file->documents[i].id, SPAN(""));
    release_gone(documents);
    file_free(file);
  }
  *count = documents->change_count;
  return documents->changes;
}

bool documents_position(const struct documents *documents, uint32_t id, struct document_position *position) {
  if (id >= documents->place_count || !documents->places[id].file) return false;
  const struct place *place = &documents->places[id];
  *position = (struct document_position){place->file->path, place->index, place->file->documents[place->index].line};
  return true;
}

const char *documents_next_path(const struct documents *documents, size_t *cursor) {
  struct hashmap_entry *entry = hashmap_next(&documents->files, cursor);
  return entry ? ((struct file *)entry->value)->path : NULL;
}
