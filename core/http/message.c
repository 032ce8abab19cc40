/* What statuses and methods mean: phrases, pages, whether there is a body. Pure; any thread. */
#include "http/message.h"

/* X(status, phrase): nginx's words where they differ from the registry's, because operators search logs for them. */
#define PHRASES(X) \
  X(100, "Continue") \
  X(101, "Switching Protocols") \
  X(102, "Processing") \
  X(103, "Early Hints") \
  X(200, "OK") \
  X(201, "Created") \
  X(202, "Accepted") \
  X(203, "Non-Authoritative Information") \
  X(204, "No Content") \
  X(205, "Reset Content") \
  X(206, "Partial Content") \
  X(207, "Multi-Status") \
  X(208, "Already Reported") \
  X(226, "IM Used") \
  X(300, "Multiple Choices") \
  X(301, "Moved Permanently") \
  X(302, "Moved Temporarily") \
  X(303, "See Other") \
  X(304, "Not Modified") \
  X(305, "Use Proxy") \
  X(307, "Temporary Redirect") \
  X(308, "Permanent Redirect") \
  X(400, "Bad Request") \
  X(401, "Unauthorized") \
  X(402, "Payment Required") \
  X(403, "Forbidden") \
  X(404, "Not Found") \
  X(405, "Not Allowed") \
  X(406, "Not Acceptable") \
  X(407, "Proxy Authentication Required") \
  X(408, "Request Time-out") \
  X(409, "Conflict") \
  X(410, "Gone") \
  X(411, "Length Required") \
  X(412, "Precondition Failed") \
  X(413, "Request Entity Too Large") \
  X(414, "Request-URI Too Large") \
  X(415, "Unsupported Media Type") \
  X(416, "Requested Range Not Satisfiable") \
  X(417, "Expectation Failed") \
  X(418, "I'm a teapot") \
  X(421, "Misdirected Request") \
  X(422, "Unprocessable Content") \
  X(423, "Locked") \
  X(424, "Failed Dependency") \
  X(425, "Too Early") \
  X(426, "Upgrade Required") \
  X(428, "Precondition Required") \
  X(429, "Too Many Requests") \
  X(431, "Request Header Fields Too Large") \
  X(451, "Unavailable For Legal Reasons") \
  X(500, "Internal Server Error") \
  X(501, "Not Implemented") \
  X(502, "Bad Gateway") \
  X(503, "Service Temporarily Unavailable") \
  X(504, "Gateway Time-out") \
  X(505, "HTTP Version Not Supported") \
  X(506, "Variant Also Negotiates") \
  X(507, "Insufficient Storage") \
  X(508, "Loop Detected") \
  X(510, "Not Extended") \
  X(511, "Network Authentication Required")

const char *status_phrase(int status) {
  switch (status) {
#define X(code, phrase) \
  case code: \
    return phrase;
    PHRASES(X)
#undef X
    default:
      return "";
  }
}

/* nginx's pages carry other words than its status lines for these two. */
static const char *page_phrase(int status) {
  if (status == 302) return "Found";
  if (status == 401) return "Authorization Required";
  return status_phrase(status);
}

struct span status_page(int status, struct arena *arena) {
  const char *phrase = page_phrase(status);
  const char *space = *phrase ? " " : "";
  return arena_printf(arena, "<html>\r\n<head><title>%d%s%s</title></head>\r\n<body>\r\n<center><h1>%d%s%s</h1></center>\r\n</body>\r\n</html>\r\n", status,
                      space, phrase, status, space, phrase);
}

bool status_has_body(int status, struct span request_method) {
  if (status < 200 || status == 204 || status == 304) return false;
  return !span_equal(request_method, SPAN("HEAD"));
}

bool method_is_safe(struct span method) {
  return span_equal(method, SPAN("GET")) || span_equal(method, SPAN("HEAD")) || span_equal(method, SPAN("OPTIONS")) || span_equal(method, SPAN("TRACE"));
}

bool method_is_idempotent(struct span method) { return method_is_safe(method) || span_equal(method, SPAN("PUT")) || span_equal(method, SPAN("DELETE")); }
