/* Every bound that a peer can push against: value, answer, counter. Adding one here adds its counter (see counters.h); tests/e2e/test_limits.py wants a case
 * for it. Where a setting has the last word, the value is its default. */
#ifndef BASE_LIMITS_H
#define BASE_LIMITS_H

/* X(NAME, value, unit, answer, what) */
#define LIMITS(X) \
  X(HEAD_BYTES, 32768, "bytes", "431 (request), 502 (response)", "a head: request or status line and fields, where no setting says another number") \
  X(REQUEST_LINE_BYTES, 8192, "bytes", "414", "a request line") \
  X(HEADER_FIELDS, 128, "fields", "431 (request), 502 (response)", "fields of one head") \
  X(HEADER_NAME_BYTES, 256, "bytes", "400 (request), 502 (response)", "a field name") \
  X(CONNECTION_OPTIONS, 32, "options", "400 (request), 502 (response)", "what the Connection fields of one head name") \
  X(TRAILER_BYTES, 8192, "bytes", "400 (request), reset (response)", "a trailer section") \
  X(CHUNK_LINE_BYTES, 256, "bytes", "400 (request), reset (response)", "a chunk-size line with its extensions") \
  X(LINK_PENDING_BYTES, 65536, "bytes", "reading pauses", "unsent bytes of one connection before its source pauses") \
  X(LINK_HELD_BYTES, 131072, "bytes", "reset", "received bytes held while a parser pauses") \
  X(TLS_PENDING_BYTES, 1048576, "bytes", "close", "unsent bytes of a TLS connection whose peer makes us owe more (alerts, key updates)") \
  X(BODY_BYTES, 1048576, "bytes", "413", "a request body") \
  X(BODY_BUFFER_BYTES, 65536, "bytes", "buffering stops", "a request body held before the upstream is chosen") \
  X(BODY_BUDGET_BYTES, 268435456, "bytes", "buffering stops", "all held request bodies of the process") \
  X(DRAIN_BYTES, 262144, "bytes", "close after the response", \
    "a request body behind an early answer, or an answer that another one replaces, read and dropped") \
  X(CONNECTIONS, 16384, "connections per worker", "accept pauses", "client connections") \
  X(HANDSHAKE_MS, 10000, "milliseconds", "close", "a TLS handshake, or the wait for a PROXY protocol header") \
  X(PROXY_HEADER_BYTES, 4096, "bytes", "close", "addresses and TLVs of a PROXY protocol header") \
  X(INFORMATIONAL, 8, "responses", "502", "1xx responses before the final one") \
  X(VARIABLES, 16, "variables", "Lua error", "variables that policies set on one exchange") \
  X(VARIABLE_BYTES, 1024, "bytes", "Lua error", "one such variable") \
  X(REGEX_MATCH, 100000, "steps", "no match, counted", "PCRE2 match limit of one match") \
  X(REGEX_DEPTH, 1000, "frames", "no match, counted", "PCRE2 depth limit of one match") \
  X(REGEX_HEAP_KIB, 1024, "KiB", "no match, counted", "PCRE2 heap limit of one match") \
  X(REGEX_ROUTES_MS, 20, "milliseconds", "404", "the worker's time over the regexes of a host's paths, for one request") \
  X(COOKIES, 128, "cookies", "the rest is ignored", "cookies looked at in one request") \
  X(REWRITE_BYTES, 8192, "bytes", "500", "a URI made by a rewrite") \
  X(POLICY_COUNTERS, 32, "counters", "the count is dropped", "counters that one owner's policies make") \
  X(POLICY_SERIES, 256, "series", "the count is dropped", "different label values of one such counter") \
  X(POLICY_SERIES_BYTES, 512, "bytes", "the count is dropped", "the label values of one count") \
  X(PASSWORDS, 64, "passwords", "nil, to the policy", "passwords that are being checked, of the process") \
  X(DICTIONARIES, 16, "dictionaries", "Lua error", "shared dictionaries that one owner's policies use") \
  X(DICTIONARY_BYTES, 8388608, "bytes", "the least recently used goes; what finds no room is refused", "one shared dictionary, in 16 parts") \
  X(DICTIONARY_KEY_BYTES, 512, "bytes", "Lua error", "a key of a shared dictionary") \
  X(DICTIONARY_VALUE_BYTES, 65536, "bytes", "Lua error", "a text in a shared dictionary") \
  X(DICTIONARY_HOLDS, 64, "holds", "Lua error", "what one exchange holds of shared dictionaries") \
  X(WAITING, 4096, "exchanges per worker", "503", "exchanges that wait in a policy's hook") \
  X(HOOK_MS, 60000, "milliseconds", "504", "all waits of one exchange's hooks together (hook_timeout)") \
  X(HOOK_BODY_BYTES, 1048576, "bytes", "too large, to the policy", "a request body that a policy reads; 64 KiB where it names no size") \
  X(HTTP_CALLS, 2048, "requests per worker", "nil and a message, to the policy", "HTTP requests of policies that run at once") \
  X(HTTP_SERVICE_CALLS, 1024, "requests per worker", "nil and a message, to the policy", \
    "such requests to one service (host and port) that run at once, and no more than there is room left: less while other services have many") \
  X(HTTP_ANSWER_BYTES, 1048576, "bytes", "nil and a message, to the policy", \
    "the body of an answer to a policy's HTTP request; 64 KiB where it names no size") \
  X(FILTERED_BYTES, 1048576, "bytes", "reset", "what a body_filter hook makes of a part of an answer") \
  X(MIRRORS, 128, "copies per worker", "the copy is not sent", "copies of requests that are on their way (exchange:mirror)") \
  X(SERVICE_MIRRORS, 64, "copies per worker", "the copy is not sent", "such copies to one service (host and port)") \
  X(PASSES, 8, "passes", "508", "times that one request comes by here, as its CDN-Loop field says") \
  X(METRIC_SERIES, 131072, "series", "not counted", "series of request metrics, of all workers") \
  X(METRIC_HOST_SERIES, 16384, "series", "not counted", "series of request metrics under names of aliases, or of hosts that no Ingress has") \
  X(METRIC_ROUTE_SERIES, 128, "series", "not counted", "statuses and methods of one route that a worker counts") \
  X(JSON_DEPTH, 128, "levels", "the answer is refused", "containers within each other in an answer of the API server") \
  X(API_ITEM_BYTES, 8388608, "bytes", "the answer is refused", "one object of a list or watch of the API server") \
  X(API_NEWS_BYTES, 4194304, "bytes", "reading pauses", "objects of the API server that were read and not yet taken") \
  X(API_ERROR_BYTES, 65536, "bytes", "the rest is dropped", "what the API server says with a status that is not 200") \
  X(REVIEW_BYTES, 3145728, "bytes", "413", "the body of an admission review") \
  X(REVIEWS, 64, "reviews", "the next ones wait", "admission reviews that are read or judged at once") \
  X(REVIEW_MS, 5000, "milliseconds", "408 or 500", "an admission review, from its head to its answer") \
  X(REVIEW_CONNECTIONS, 512, "connections", "accept pauses", "connections of the admission webhook")

enum {
#define X(name, value, unit, answer, what) LIMIT_##name = (value),
  LIMITS(X)
#undef X
};

/* Which of them was reached: for what decides and leaves the counting to its caller. */
enum limit_reached {
  REACHED_NONE = 0,
#define X(name, value, unit, answer, what) REACHED_##name,
  LIMITS(X)
#undef X
};

#endif
