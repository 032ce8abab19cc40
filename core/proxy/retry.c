/* Retry: see retry.h. The rule of DESIGN: as long as no byte of the answer has gone to the client, a try is repeated if no byte of the request was written,
 * whatever the method; or if the failure is one that the route names, the method may be repeated, and the whole body is held. "off" turns both off. Pure; any
 * thread. */
#include "proxy/retry.h"

#include <uv.h>

#include "base/error.h"
#include "http/message.h"

uint32_t retry_reason(int error, int status) {
  if (error == ERROR_TIMEOUT || error == UV_ETIMEDOUT) return RETRY_TIMEOUT;
  if (error == ERROR_PROTOCOL || error == ERROR_LIMIT) return RETRY_INVALID_HEADER;
  if (error) return RETRY_ERROR;
  switch (status) {
    case 403:
      return RETRY_403;
    case 404:
      return RETRY_404;
    case 429:
      return RETRY_429;
    case 500:
      return RETRY_500;
    case 502:
      return RETRY_502;
    case 503:
      return RETRY_503;
    case 504:
      return RETRY_504;
    default:
      return 0;
  }
}

bool retry_is_allowed(const struct retry_facts *facts, const struct route_settings *settings) {
  if (facts->has_answer_begun || (settings->retry_on & RETRY_OFF)) return false;
  unsigned most = settings->retry_tries > 0 ? (unsigned)settings->retry_tries : facts->endpoints;
  if (!facts->is_stale && facts->tries >= most) return false;
  if (settings->retry_timeout_ms && facts->elapsed_ms >= settings->retry_timeout_ms) return false;
  if (facts->error && !facts->was_written) return true;
  uint32_t reason = retry_reason(facts->error, facts->status);
  if (!(settings->retry_on & reason)) return false;
  bool may_repeat = method_is_idempotent(facts->method) || settings->retry_non_idempotent || (settings->retry_on & RETRY_NON_IDEMPOTENT);
  return may_repeat && (!facts->has_body || facts->body_is_held);
}

int retry_final_status(int error) { return error == ERROR_TIMEOUT || error == UV_ETIMEDOUT ? 504 : 502; }
