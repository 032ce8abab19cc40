/* Sentences in place of libcurl's codes: which server, at which address, what. What libcurl and OpenSSL say themselves is passed on without their codes. Pure.
 */
#include "kube/api_error.h"

#include <errno.h>
#include <string.h>

enum { VERIFY_NOT_YET = 9, VERIFY_EXPIRED = 10, VERIFY_SELF_SIGNED = 18, VERIFY_NO_LEAF_ISSUER = 21 }; /* X509_V_ERR_*, of which base sees no header */

/* The address behind the name, where it says more than the name. */
static void put_server(const struct api_identity *identity, CURL *easy, struct buffer *out) {
  char *address = NULL;
  curl_easy_getinfo(easy, CURLINFO_PRIMARY_IP, &address);
  buffer_printf(out, "the API server %s", identity->server);
  if (address && *address && !strstr(identity->host, address)) buffer_printf(out, identity->proxy ? " (by the proxy %s)" : " (%s)", address);
}

/* "SSL_read: error:0A00045C:SSL routines::tlsv13 alert certificate required, errno 0" -> "tlsv13 alert certificate required". */
static struct span without_codes(const char *detail) {
  struct span text = span_of(detail);
  const char *start = strstr(detail, "error:");
  if (start) {
    const char *last = start;
    for (const char *at = start; (at = strstr(at, ":")); at++) last = at;
    text = span_of(last + 1);
  }
  for (size_t i = 0; i + 7 < text.length; i++)
    if (memcmp(text.data + i, ", errno", 7) == 0) text.length = i;
  return span_trim(text);
}

static void put_detail(const char *before, const char *detail, struct buffer *out) {
  struct span text = without_codes(detail);
  if (text.length) buffer_printf(out, "%s%.*s", before, (int)text.length, text.data);
}

static void put_not_trusted(const struct api_identity *identity, CURL *easy, const char *detail, struct buffer *out) {
  long result = 0;
  curl_easy_getinfo(easy, CURLINFO_SSL_VERIFYRESULT, &result);
  if (result == VERIFY_EXPIRED) buffer_append(out, SPAN("its certificate has expired"));
  else if (result == VERIFY_NOT_YET) buffer_append(out, SPAN("its certificate is not valid yet"));
  else if (result >= VERIFY_SELF_SIGNED && result <= VERIFY_NO_LEAF_ISSUER)
    buffer_printf(out, "its certificate is not signed by %s%s",
                  identity->ca_file ? "a certificate in "
                  : identity->ca    ? "the given authority"
                                    : "an authority that this system knows",
                  identity->ca_file ? identity->ca_file : "");
  else if (strstr(detail, "subject name")) buffer_printf(out, "its certificate is not for \"%s\"", identity->name);
  else put_detail("its certificate is not trusted: ", detail, out);
}

/* The proxy answered, and not with a tunnel. */
static bool is_proxy_refusal(const char *detail) { return strstr(detail, "CONNECT tunnel failed") || strstr(detail, "from proxy after CONNECT"); }

static void put_lost(CURL *easy, const char *what, const char *detail, struct buffer *out) {
  long error = 0;
  curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &error);
  buffer_printf(out, "%s", what);
  if (error) buffer_printf(out, ": %s", strerror((int)error));
  else put_detail(": ", detail, out);
}

bool api_error_describe(const struct api_identity *identity, CURL *easy, CURLcode code, const char *detail, struct buffer *out) {
  put_server(identity, easy, out);
  buffer_append(out, SPAN(": "));
  if (identity->proxy && is_proxy_refusal(detail)) {
    put_detail("the proxy refuses: ", detail, out);
    return true;
  }
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
      buffer_printf(out, "the name %s does not resolve", identity->host);
      return true;
    case CURLE_COULDNT_RESOLVE_PROXY:
      buffer_append(out, SPAN("the name of the proxy does not resolve"));
      return true;
    case CURLE_COULDNT_CONNECT:
      put_lost(easy, identity->proxy ? "no connection to the proxy" : "no connection", detail, out);
      return true;
    case CURLE_OPERATION_TIMEDOUT: /* of libcurl's times we use the connection's only */
      buffer_printf(out, "no connection within %d s", API_CONNECT_MS / 1000);
      return true;
    case CURLE_PEER_FAILED_VERIFICATION:
      put_not_trusted(identity, easy, detail, out);
      return false;
    case CURLE_SSL_CACERT_BADFILE:
      buffer_printf(out, "the authority's certificate%s%s cannot be read", identity->ca_file ? " in " : "", identity->ca_file ? identity->ca_file : "");
      return false;
    case CURLE_SSL_CERTPROBLEM:
      put_detail("our certificate or its key cannot be used: ", detail, out);
      return false;
    case CURLE_SSL_CONNECT_ERROR:
      put_lost(easy, "no TLS connection", detail, out);
      return true;
    case CURLE_GOT_NOTHING:
      buffer_append(out, SPAN("it closed the connection without an answer"));
      return true;
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
      put_lost(easy, "the answer broke off", detail, out);
      return true;
    default:
      buffer_printf(out, "%s", curl_easy_strerror(code));
      put_detail(": ", detail, out);
      return true;
  }
}
