/* TLS source: see tls_source.h. The SSL_CTX is rebuilt when a setting of the profile changed, never for a certificate or a host. */
#include "app/tls_source.h"

#include <stdlib.h>

#include "app/publisher.h"
#include "base/check.h"
#include "route/router.h"

struct tls_source {
  struct worker *worker;
  struct tls_tickets *tickets;
  struct certificate *fallback;
  struct log *log;
  struct tls_server *server;
  uint32_t settings_id;   /* of the settings unit that was looked at last ... */
  uint64_t settings_born; /* ... ids are reused */
  struct arena arena;     /* holds the profile */
  struct span profile;    /* what the server was made of */
};

struct tls_source *tls_source_new(struct worker *worker, struct tls_tickets *tickets, struct certificate *fallback, struct log *log) {
  struct tls_source *source = calloc(1, sizeof *source);
  must(source);
  source->worker = worker;
  source->tickets = tickets;
  source->fallback = fallback;
  source->log = log;
  arena_init(&source->arena, NULL, 1024);
  return source;
}

void tls_source_free(struct tls_source *source) {
  if (!source) return;
  if (source->server) tls_server_free(source->server);
  arena_free(&source->arena);
  free(source);
}

static struct certificate *find(void *context, struct span server_name) {
  struct tls_source *source = context;
  const struct snapshot *root = source->worker->root;
  const struct host *host = root ? router_find_host(root, server_name) : NULL;
  if (host && host->owner.length) {
    const struct host *owner = router_find_host(root, host->owner);
    if (owner && !host->certificate.length) host = owner;
  }
  struct unit *unit = host && host->certificate.length ? snapshot_certificate(root, host->certificate) : NULL;
  if (unit) return publisher_certificate(unit);
  if (root && root->settings->ssl_reject_handshake && !(host && host->has_tls)) return NULL;
  if (root && root->settings->default_certificate.length) unit = snapshot_certificate(root, root->settings->default_certificate);
  return unit ? publisher_certificate(unit) : source->fallback;
}

struct tls_server *tls_source_server(void *context, struct worker *worker) {
  struct tls_source *source = context;
  const struct settings *settings = worker->root ? worker->root->settings : NULL;
  if (!settings) return NULL;
  if (source->server && source->settings_id == settings->unit.id && source->settings_born == settings->unit.born_at) return source->server;
  source->settings_id = settings->unit.id;
  source->settings_born = settings->unit.born_at;
  struct arena arena;
  arena_init(&arena, NULL, 1024);
  const char *protocols = arena_span(&arena, settings->ssl_protocols).data;
  const char *ciphers = arena_span(&arena, settings->ssl_ciphers).data;
  const char *curves = arena_span(&arena, settings->ssl_ecdh_curve).data;
  struct span profile =
      arena_printf(&arena, "%s|%s|%s|%d|%lld", protocols, ciphers, curves, settings->ssl_session_tickets, (long long)settings->ssl_session_timeout_ms);
  if (source->server && span_equal(profile, source->profile)) {
    arena_free(&arena);
    return source->server;
  }
  struct tls_profile wanted = {.protocols = protocols,
                               .ciphers = ciphers,
                               .curves = curves,
                               .tickets = settings->ssl_session_tickets,
                               .session_timeout = (unsigned)(settings->ssl_session_timeout_ms / 1000),
                               .prefer_server_ciphers = true};
  char error[256];
  struct tls_server *server = tls_server_new(&wanted, source->tickets, find, source, error, sizeof error);
  if (!server) {
    log_write(source->log, LOG_ERROR, "TLS settings refused, the previous ones stay", "error=\"%s\"", error);
    arena_free(&arena);
    return source->server;
  }
  if (source->server) tls_server_free(source->server);
  source->server = server;
  arena_free(&source->arena);
  source->arena = arena;
  source->profile = profile;
  return server;
}
