/* Templates: text with variables in nginx's spelling, compiled once, never code. `$name`, `${name}`, `$1`..`$9`; `$$` is not special ("$" not before a name is
 * itself). Values come from a lookup function given at expansion, so this room knows no exchange. */
#ifndef ROUTE_TEMPLATE_H
#define ROUTE_TEMPLATE_H

#include <stdbool.h>

#include "base/arena.h"
#include "base/buffer.h"
#include "base/span.h"

/* X(ID, "name", what) — the variables of templates and of log formats. Prefixed ones (http_, arg_, cookie_, sent_http_, upstream_http_, var_) follow below. */
#define VARIABLES(X) \
  X(HOST, "host", "request host, lower case, without port; the matched host if absent") \
  X(BEST_HTTP_HOST, "best_http_host", "Host as received, with port, or trusted X-Forwarded-Host") \
  X(HTTP_HOST_, "http_host", "Host as received") \
  X(HOSTNAME, "hostname", "this machine's name") \
  X(SERVER_NAME, "server_name", "the matched host's name, _ for the catch-all") \
  X(SERVER_ADDR, "server_addr", "our address") \
  X(SERVER_PORT, "server_port", "the listener's port") \
  X(SERVER_PROTOCOL, "server_protocol", "HTTP/1.1") \
  X(SCHEME, "scheme", "http or https, as the client used it") \
  X(PASS_ACCESS_SCHEME, "pass_access_scheme", "scheme told to upstreams") \
  X(PASS_SERVER_PORT, "pass_server_port", "X-Forwarded-Port") \
  X(HTTPS, "https", "on or empty") \
  X(REQUEST, "request", "request line as received") \
  X(REQUEST_METHOD, "request_method", "method") \
  X(REQUEST_URI, "request_uri", "path and query as received") \
  X(ESCAPED_REQUEST_URI, "escaped_request_uri", "the same, escaped as one component") \
  X(URI, "uri", "decoded and normalised path, after rewrites") \
  X(DOCUMENT_URI, "document_uri", "the same") \
  X(ARGS, "args", "query string") \
  X(QUERY_STRING, "query_string", "query string") \
  X(IS_ARGS, "is_args", "? if there is a query") \
  X(REMOTE_ADDR, "remote_addr", "client address after real-address handling") \
  X(BINARY_REMOTE_ADDR, "binary_remote_addr", "the same (as text here)") \
  X(THE_REAL_IP, "the_real_ip", "the same") \
  X(FULL_X_FORWARDED_FOR, "full_x_forwarded_for", "X-Forwarded-For as upstreams are told") \
  X(REMOTE_PORT, "remote_port", "client port") \
  X(REALIP_REMOTE_ADDR, "realip_remote_addr", "address of the connection's peer") \
  X(REMOTE_USER, "remote_user", "user of basic authentication") \
  X(PROXY_PROTOCOL_ADDR, "proxy_protocol_addr", "source address of the PROXY header") \
  X(PROXY_PROTOCOL_PORT, "proxy_protocol_port", "source port of the PROXY header") \
  X(TIME_LOCAL, "time_local", "10/Oct/2000:13:55:36 +0000") \
  X(TIME_ISO8601, "time_iso8601", "2000-10-10T13:55:36+00:00") \
  X(MSEC, "msec", "unix time with milliseconds") \
  X(STATUS, "status", "status sent to the client") \
  X(BODY_BYTES_SENT, "body_bytes_sent", "bytes of the response's body") \
  X(BYTES_SENT, "bytes_sent", "bytes sent to the client") \
  X(REQUEST_LENGTH, "request_length", "bytes of request line, head and body") \
  X(REQUEST_TIME, "request_time", "seconds with milliseconds") \
  X(REQUEST_ID, "request_id", "as req_id") \
  X(REQ_ID, "req_id", "X-Request-ID") \
  X(CONNECTION, "connection", "serial number of the connection") \
  X(CONNECTION_REQUESTS, "connection_requests", "requests on it so far") \
  X(CONTENT_LENGTH, "content_length", "Content-Length of the request") \
  X(CONTENT_TYPE, "content_type", "Content-Type of the request") \
  X(PROXY_UPSTREAM_NAME, "proxy_upstream_name", "namespace-service-port, or empty") \
  X(PROXY_ALTERNATIVE_UPSTREAM_NAME, "proxy_alternative_upstream_name", "canary's upstream, or empty") \
  X(PROXY_HOST, "proxy_host", "as proxy_upstream_name") \
  X(UPSTREAM_ADDR, "upstream_addr", "endpoints tried, comma separated") \
  X(UPSTREAM_STATUS, "upstream_status", "their statuses") \
  X(UPSTREAM_RESPONSE_TIME, "upstream_response_time", "their times, seconds") \
  X(UPSTREAM_CONNECT_TIME, "upstream_connect_time", "connect times") \
  X(UPSTREAM_HEADER_TIME, "upstream_header_time", "times to the head") \
  X(UPSTREAM_RESPONSE_LENGTH, "upstream_response_length", "body bytes from each") \
  X(NAMESPACE, "namespace", "namespace of the matched Ingress") \
  X(INGRESS_NAME, "ingress_name", "its name") \
  X(SERVICE_NAME, "service_name", "Service of the matched route") \
  X(SERVICE_PORT, "service_port", "its port") \
  X(LOCATION_PATH, "location_path", "path of the matched route") \
  X(SSL_PROTOCOL, "ssl_protocol", "TLSv1.3") \
  X(SSL_CIPHER, "ssl_cipher", "cipher suite") \
  X(SSL_SERVER_NAME, "ssl_server_name", "SNI") \
  X(SSL_SESSION_REUSED, "ssl_session_reused", "r or .") \
  X(PID, "pid", "process id") \
  X(PIPE, "pipe", "p if pipelined, else .")

enum variable {
  VARIABLE_TEXT = 0, /* a literal part */
#define X(id, name, what) VARIABLE_##id,
  VARIABLES(X)
#undef X
      VARIABLE_CAPTURE,   /* $1..$9: argument is the digit */
  VARIABLE_HTTP,          /* $http_NAME: argument is the field name, with "-" for "_" */
  VARIABLE_SENT_HTTP,     /* $sent_http_NAME */
  VARIABLE_UPSTREAM_HTTP, /* $upstream_http_NAME */
  VARIABLE_ARG,           /* $arg_NAME */
  VARIABLE_COOKIE,        /* $cookie_NAME */
  VARIABLE_VAR,           /* $var_NAME, set by policies */
  VARIABLE_COUNT
};

struct template_part {
  enum variable variable;
  struct span text; /* literal, or argument */
};

struct text_template {
  struct arena arena;
  struct template_part *parts;
  unsigned count;
  bool is_constant; /* no variable: text() is the whole */
};

enum template_unknown { TEMPLATE_UNKNOWN_IS_ERROR = 0, TEMPLATE_UNKNOWN_IS_EMPTY = 1 /* log formats: expands to "" */ };

enum { TEMPLATE_BYTES = 16384, TEMPLATE_VARIABLES = 32, TEMPLATE_LOG_VARIABLES = 256 };
/* NULL with a message in `error` ("has the unknown variable $foo"). */
struct text_template *template_new(struct span text, enum template_unknown unknown, char *error, size_t error_size);
void template_free(struct text_template *template);

/* Value of one variable; empty if it has none. May allocate in `arena`. */
typedef struct span (*template_lookup)(void *context, enum variable variable, struct span argument, struct arena *arena);
struct span template_expand(const struct text_template *template, template_lookup lookup, void *context, struct arena *arena);
/* Appends instead; `escape`: how each variable's value is written (log formats). */
enum template_escape { TEMPLATE_ESCAPE_NONE = 0, TEMPLATE_ESCAPE_LOG = 1 /* nginx default: \xHH for " \ and control bytes */, TEMPLATE_ESCAPE_JSON = 2 };
void template_append(const struct text_template *template, template_lookup lookup, void *context, struct arena *arena, enum template_escape escape,
                     bool dash_for_empty, struct buffer *out);

#endif
