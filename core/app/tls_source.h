/* TLS source: a worker's current tls_server, made of the settings of its current root; and the choice of certificates by name. Worker's thread only. */
#ifndef APP_TLS_SOURCE_H
#define APP_TLS_SOURCE_H

#include "proxy/worker.h"

struct tls_source;

/* `fallback` (kept) is served when no other certificate fits. */
struct tls_source *tls_source_new(struct worker *worker, struct tls_tickets *tickets, struct certificate *fallback, struct log *log);
void tls_source_free(struct tls_source *source);
/* worker_options.tls_server: context is the source. NULL when the profile cannot be made (logged). */
struct tls_server *tls_source_server(void *source, struct worker *worker);

#endif
