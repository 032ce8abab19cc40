/* The documents of a file, and which of them a new version of the file changed. */
#ifndef KUBE_DOCUMENTS_H
#define KUBE_DOCUMENTS_H

#include <stdint.h>

#include "base/span.h"

struct documents; /* all files of one directory tree */

struct documents *documents_new(void);
void documents_free(struct documents *documents);

enum document_change_kind { DOCUMENT_PUT = 0 /* new, or its bytes changed */, DOCUMENT_GONE = 1 };
struct document_change {
  enum document_change_kind kind;
  uint32_t id;      /* stays with a document while it is edited in place; reused after DOCUMENT_GONE */
  struct span text; /* valid until the file's next version */
};

/* Takes over the new bytes of `path` (malloc'ed; freed by documents) and says what changed since the version before. The changes are valid until the next call.
 * A file without documents is not forgotten: documents_forget is for files that are gone. */
const struct document_change *documents_update(struct documents *documents, const char *path, char *bytes, size_t length, size_t *count);
const struct document_change *documents_forget(struct documents *documents, const char *path, size_t *count);

struct document_position {
  const char *path;
  uint32_t index; /* among the file's documents, from 0 */
  uint32_t line;  /* of its first byte, from 1 */
};
/* False if there is no such document now. */
bool documents_position(const struct documents *documents, uint32_t id, struct document_position *position);
/* Iterates the known paths. */
const char *documents_next_path(const struct documents *documents, size_t *cursor);

#endif
