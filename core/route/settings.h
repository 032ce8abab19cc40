/* The controller's settings that C needs (ConfigMap keys, already validated on the sync side). A unit; read through the worker's current root each time. */
#ifndef ROUTE_SETTINGS_H
#define ROUTE_SETTINGS_H

#include "base/address.h"
#include "base/limits.h"
#include "route/template.h"
#include "route/unit.h"

/* All with forward secrecy; the server's order counts. */
#define SSL_CIPHERS_DEFAULT \
  "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:" \
  "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256"

/* X(field, type, default, ConfigMap key). Types: NUMBER (int64), FLAG, TEXT. Sizes in bytes, times in milliseconds (field says _ms). */
#define CONTROLLER_SETTINGS(X) \
  X(client_header_timeout_ms, NUMBER, 60000, "client-header-timeout") \
  X(client_body_timeout_ms, NUMBER, 60000, "client-body-timeout") \
  X(client_header_buffer_bytes, NUMBER, 1024, "client-header-buffer-size") /* a head that fits needs no larger buffer */ \
  X(client_head_bytes, NUMBER, LIMIT_HEAD_BYTES, "large-client-header-buffers") \
  X(client_request_line_bytes, NUMBER, LIMIT_REQUEST_LINE_BYTES, "large-client-header-buffers") \
  X(keep_alive_ms, NUMBER, 75000, "keep-alive") \
  X(keep_alive_requests, NUMBER, 1000, "keep-alive-requests") \
  X(allow_underscores, FLAG, 0, "enable-underscores-in-headers") \
  X(ignore_invalid_headers, FLAG, 1, "ignore-invalid-headers") \
  X(max_worker_connections, NUMBER, LIMIT_CONNECTIONS, "max-worker-connections") \
  X(upstream_keepalive_connections, NUMBER, 320, "upstream-keepalive-connections") \
  X(upstream_keepalive_time_ms, NUMBER, 3600000, "upstream-keepalive-time") \
  X(upstream_keepalive_timeout_ms, NUMBER, 60000, "upstream-keepalive-timeout") \
  X(upstream_keepalive_requests, NUMBER, 10000, "upstream-keepalive-requests") \
  X(use_forwarded_headers, FLAG, 0, "use-forwarded-headers") \
  X(enable_real_ip, FLAG, 0, "enable-real-ip") \
  X(use_proxy_protocol, FLAG, 0, "use-proxy-protocol") \
  X(proxy_protocol_header_timeout_ms, NUMBER, 5000, "proxy-protocol-header-timeout") \
  X(proxy_real_ip_cidr, TEXT, "0.0.0.0/0,::/0", "proxy-real-ip-cidr") \
  X(forwarded_for_header, TEXT, "X-Forwarded-For", "forwarded-for-header") \
  X(compute_full_forwarded_for, FLAG, 0, "compute-full-forwarded-for") \
  X(proxy_add_original_uri_header, FLAG, 0, "proxy-add-original-uri-header") \
  X(generate_request_id, FLAG, 1, "generate-request-id") \
  X(allow_backend_server_header, FLAG, 0, "allow-backend-server-header") \
  X(server_tokens, FLAG, 0, "server-tokens") \
  X(hide_headers, TEXT, "", "hide-headers") \
  X(disable_access_log, FLAG, 0, "disable-access-log") \
  X(default_backend_access_log, FLAG, 0, "enable-access-log-for-default-backend") \
  X(access_log_json, FLAG, 0, "access-log-format") \
  X(log_format_upstream, TEXT, "", "log-format-upstream") \
  X(log_format_escape_json, FLAG, 0, "log-format-escape-json") \
  X(log_format_escape_none, FLAG, 0, "log-format-escape-none") \
  X(skip_access_log_urls, TEXT, "", "skip-access-log-urls") \
  X(ssl_protocols, TEXT, "TLSv1.2 TLSv1.3", "ssl-protocols") \
  X(ssl_ciphers, TEXT, SSL_CIPHERS_DEFAULT, "ssl-ciphers") \
  X(ssl_ecdh_curve, TEXT, "auto", "ssl-ecdh-curve") \
  X(ssl_session_tickets, FLAG, 1, "ssl-session-tickets") \
  X(ssl_session_timeout_ms, NUMBER, 600000, "ssl-session-timeout") \
  X(ssl_reject_handshake, FLAG, 0, "ssl-reject-handshake") \
  X(error_log_level, TEXT, "notice", "error-log-level") \
  X(worker_shutdown_timeout_ms, NUMBER, 240000, "worker-shutdown-timeout") \
  X(default_certificate, TEXT, "", "") /* certificate unit key of --default-ssl-certificate */ \
  X(default_upstream, TEXT, "", "")    /* upstream name of --default-backend-service */ \
  X(api_server, TEXT, "", "")          /* where its Service leads to, "IP:PORT,...": closed to mounted policies */

#define SETTINGS_FIELD_NUMBER(name) int64_t name;
#define SETTINGS_FIELD_FLAG(name) bool name;
#define SETTINGS_FIELD_TEXT(name) struct span name;

struct settings {
  struct unit unit;
#define X(name, type, fallback, key) SETTINGS_FIELD_##type(name)
  CONTROLLER_SETTINGS(X)
#undef X
  /* built once from the above */
  struct ip_set *trusted;           /* proxy_real_ip_cidr */
  struct text_template *log_format; /* NULL when access_log_json */
  struct fixed_edit *edits;         /* proxy-set-headers and add-headers, for every route: see host.h */
  unsigned edit_count;
};

/* From a packed map field -> value plus "edits"; unknown fields are ignored. NULL with a message. */
struct settings *settings_new(struct span body, char *error, size_t error_size);
/* The defaults (before the first sync). */
struct settings *settings_new_default(void);

#endif
