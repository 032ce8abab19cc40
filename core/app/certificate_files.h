/* Certificate files: a certificate and its key on disk, read again when either changed (a mounted Secret swaps both at once). A pair that does not load leaves
 * the one before in force, and is logged once. One thread. */
#ifndef APP_CERTIFICATE_FILES_H
#define APP_CERTIFICATE_FILES_H

#include "base/log.h"
#include "net/tls.h"

struct certificate_files;

/* Keeps the paths and the log. Reads the files. */
struct certificate_files *certificate_files_new(const char *certificate, const char *key, struct log *log);
void certificate_files_free(struct certificate_files *files);
/* Two stat calls; more only when something changed. Frees the certificate before. */
void certificate_files_look(struct certificate_files *files);
/* NULL: no pair has loaded yet. */
struct certificate *certificate_files_current(const struct certificate_files *files);

#endif
