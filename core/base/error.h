/* Error codes: 0, libuv's (negative errno), or ours. One list. */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

/* X(NAME, text) */
#define ERRORS(X) \
  X(CLOSED, "connection closed by peer") \
  X(TIMEOUT, "timed out") \
  X(LIMIT, "limit reached") \
  X(PROTOCOL, "protocol error") \
  X(TLS, "TLS error") \
  X(VERIFY, "certificate verification failed") \
  X(RESOLVE, "name resolution failed") \
  X(REFUSED_ADDRESS, "address not allowed") \
  X(NO_ENDPOINT, "no endpoint") \
  X(FORMAT, "malformed data") \
  X(CANCELLED, "cancelled") \
  X(INVALID, "invalid value")

enum error {
  ERROR_FIRST_ = -20000,
#define X(name, text) ERROR_##name,
  ERRORS(X)
#undef X
      ERROR_LAST_
};

/* Text of a code of ours, or of an errno (libuv's codes are -errno). Never NULL. */
const char *error_text(int code);

#endif
