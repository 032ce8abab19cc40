/* Texts of error codes. Pure; any thread. */
#include "base/error.h"

#include <string.h>

/* libuv's codes that are no errno; base does not include libuv. */
enum { UV_EOF_CODE = -4095, UV_RESOLVE_LAST = -3015, UV_RESOLVE_FIRST = -3000 };

const char *error_text(int code) {
  switch (code) {
    case 0:
      return "success";
    case UV_EOF_CODE:
      return "end of file";
#define X(name, text) \
  case ERROR_##name: \
    return text;
      ERRORS(X)
#undef X
    default:
      break;
  }
  if (code >= UV_RESOLVE_LAST && code <= UV_RESOLVE_FIRST) return "name resolution failed";
  if (code < 0 && code > -4096) {
    const char *text = strerror(-code);
    if (text) return text;
  }
  return "unknown error";
}
