/* What a route can be told by route:set(name, value). One list: name, type, default, unit. The Lua side reads the same list (route_setting_find). */
#ifndef ROUTE_ROUTE_SETTINGS_H
#define ROUTE_ROUTE_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/limits.h"
#include "base/pack.h"
#include "base/span.h"

/* X(name, type, default, unit). Types: SECONDS (number, kept as milliseconds), BYTES, INTEGER, FLAG,
 * TEXT (span; template text where said), ENUM by its table, RETRY (list of words -> bits). */
#define ROUTE_SETTINGS(X) \
  X(connect_timeout, SECONDS, 5000, "until an endpoint is connected") \
  X(read_timeout, SECONDS, 60000, "between two reads of the answer") \
  X(send_timeout, SECONDS, 60000, "between two writes of the request") \
  X(body_limit, BYTES, LIMIT_BODY_BYTES, "largest body of a request, 0 = no limit") \
  X(request_body_buffer, BYTES, LIMIT_BODY_BUFFER_BYTES, "what is held of a body") \
  X(head_limit, BYTES, LIMIT_HEAD_BYTES, "bytes of an answer's head") \
  X(request_buffering, FLAG, 1, "bodies up to request_body_buffer are read before the upstream is chosen") \
  X(response_buffering, FLAG, 0, "no effect yet") \
  X(http_version, TEXT, 0, "1.0 or 1.1") \
  X(protocol, TEXT, 0, "http https grpc grpcs auto fastcgi") \
  X(upstream_host, TEXT, 0, "template: Host sent upstream") \
  X(balancer, BALANCER, 0, "round_robin least_connections ewma hash") \
  X(hash_by, TEXT, 0, "template: what the balancer hash looks at") \
  X(hash_subset_size, INTEGER, 0, "endpoints, 0 = no subsets") \
  X(retry_on, RETRY, 3, "error timeout invalid_header http_500 ... non_idempotent off, with blanks between") \
  X(retry_tries, INTEGER, 3, "tries, 0 = each endpoint once") \
  X(retry_timeout, SECONDS, 0, "for all tries together, 0 = no limit") \
  X(retry_non_idempotent, FLAG, 0, "POST and PATCH too are tried again") \
  X(limit_rate, BYTES, 0, "bytes of the answer in a second, 0 = no limit") \
  X(limit_rate_after, BYTES, 0, "bytes before limit_rate holds") \
  X(use_service_address, FLAG, 0, "the Service's own address is asked, not its endpoints") \
  X(fallback_upstream, TEXT, 0, "name:port, or name for its first port: stands in while the own Service has no endpoint") \
  X(satisfy, TEXT, 0, "all or any") \
  X(intercept_errors, FLAG, 1, "exchange:replace_response may replace an application's answer too") \
  X(compression, FLAG, 0, "no effect yet") \
  X(relative_redirects, FLAG, 0, "redirects that add a slash say a path") \
  X(port_in_redirects, FLAG, 0, "... or our port") \
  X(hook_timeout, SECONDS, LIMIT_HOOK_MS, "all waits of a request's hooks together") \
  X(access_log, FLAG, 1, "write the line") \
  X(tracing, FLAG, 0, "no effect yet") \
  X(tracing_name, TEXT, 0, "no effect yet") \
  X(tracing_trust, FLAG, 1, "no effect yet")

enum route_setting_type {
  ROUTE_SETTING_SECONDS = 1,
  ROUTE_SETTING_BYTES,
  ROUTE_SETTING_INTEGER,
  ROUTE_SETTING_FLAG,
  ROUTE_SETTING_TEXT,
  ROUTE_SETTING_BALANCER,
  ROUTE_SETTING_RETRY
};

enum retry_on {
  RETRY_ERROR = 1,
  RETRY_TIMEOUT = 2,
  RETRY_INVALID_HEADER = 4,
  RETRY_500 = 8,
  RETRY_502 = 16,
  RETRY_503 = 32,
  RETRY_504 = 64,
  RETRY_403 = 128,
  RETRY_404 = 256,
  RETRY_429 = 512,
  RETRY_NON_IDEMPOTENT = 1024,
  RETRY_OFF = 2048
};

enum balancer_kind { BALANCER_ROUND_ROBIN = 0, BALANCER_LEAST_CONNECTIONS = 1, BALANCER_EWMA = 2, BALANCER_HASH = 3 };

#define ROUTE_SETTING_FIELD_SECONDS(name) uint32_t name##_ms;
#define ROUTE_SETTING_FIELD_BYTES(name) uint64_t name;
#define ROUTE_SETTING_FIELD_INTEGER(name) int32_t name;
#define ROUTE_SETTING_FIELD_FLAG(name) bool name;
#define ROUTE_SETTING_FIELD_TEXT(name) struct span name;
#define ROUTE_SETTING_FIELD_BALANCER(name) enum balancer_kind name;
#define ROUTE_SETTING_FIELD_RETRY(name) uint32_t name;

struct route_settings {
#define X(name, type, fallback, unit) ROUTE_SETTING_FIELD_##type(name)
  ROUTE_SETTINGS(X)
#undef X
};

struct route_setting_info {
  const char *name;
  enum route_setting_type type;
  const char *unit;
};
/* NULL if there is no such setting. */
const struct route_setting_info *route_setting_find(struct span name);
const struct route_setting_info *route_setting_list(unsigned *count);
void route_settings_defaults(struct route_settings *settings);
/* Empties the texts, which point into what the settings were read from: for a copy that outlives it. */
void route_settings_drop_texts(struct route_settings *settings);
/* Applies the packed map name -> value on top; spans point into `map`. 0, or ERROR_INVALID with a message naming the setting. */
int route_settings_apply(struct route_settings *settings, struct span map, char *error, size_t error_size);

#endif
