/* HTTP names: addresses of the hosts that policies ask for, kept for their TTL; many who wait for one name share one question. One per HTTP client. */
#ifndef SCRIPT_HTTP_NAMES_H
#define SCRIPT_HTTP_NAMES_H

#include "base/address.h"
#include "base/list.h"
#include "net/loop.h"

struct http_names;
/* Called from the loop with those who wait; count 0: it is not resolved. */
typedef void (*http_names_done)(void *context, struct list *waiting, const struct address *addresses, size_t count);

enum http_name_state { HTTP_NAME_KNOWN = 0, HTTP_NAME_UNKNOWN = 1 };

/* `servers` as of resolver_new. */
struct http_names *http_names_new(struct loop *loop, const char *servers, http_names_done done, void *context);
/* Nobody may wait. */
void http_names_free(struct http_names *names);
/* Port 0; valid until the next call. A name that was not resolved a moment ago is known, with count 0. */
enum http_name_state http_names_get(struct http_names *names, const char *host, const struct address **addresses, size_t *count);
/* Asks for it; `node` is in the list that `done` gets, unless it was taken out before. False: nobody can be asked. */
bool http_names_wait(struct http_names *names, const char *host, struct list *node);

#endif
