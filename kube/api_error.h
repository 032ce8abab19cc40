/* What went wrong between us and the API server, as a sentence for an operator. */
#ifndef KUBE_API_ERROR_H
#define KUBE_API_ERROR_H

#include <curl/curl.h>

#include "base/buffer.h"
#include "kube/api_identity.h"

/* Puts the sentence for libcurl's code into `out`; `detail` is its error buffer. True if the same request may succeed later without a change of anything here.
 */
bool api_error_describe(const struct api_identity *identity, CURL *easy, CURLcode code, const char *detail, struct buffer *out);

#endif
