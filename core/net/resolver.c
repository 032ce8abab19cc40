/* Resolver: c-ares driven by uv_poll and one uv timer. Literals and failures found at once are told from the loop too, never from
 * inside resolver_lookup. Owned by the publisher; its thread only. */
#include "net/resolver.h"

#include <ares.h>
#include <netdb.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/error.h"
#include "base/list.h"

#define RESOLVER_MAGIC MAGIC('r', 's', 'l', 'v')
#define TRY_MS 2000
#define TRIES 2
#define POLL_MS 500 /* how often c-ares may look at its own timeouts */
#define ADDRESSES_MAX 64
#define LITERAL_TTL 3600
#define NAME_MAX_BYTES 254

/* One socket of c-ares. Frees itself when libuv has let go. */
struct watch {
  struct list node;
  uv_poll_t poll;
  struct resolver *resolver;
  ares_socket_t socket;
};

struct lookup {
  struct list node; /* resolver->lookups; while due: resolver->due */
  struct resolver *resolver;
  void (*done)(void *context, int error, const struct address *addresses, size_t count, unsigned ttl);
  void *context;
  struct address addresses[ADDRESSES_MAX];
  size_t count;
  unsigned ttl;
  int error;
};

struct resolver {
  uint32_t magic;
  ares_channel channel;
  uv_loop_t *loop;
  uv_timer_t *timer; /* c-ares's timeouts; on the heap, since it outlives us by a turn */
  uv_timer_t *soon;  /* tells what is due */
  struct list watches, lookups, due;
  bool is_closing;
};

static void free_handle(uv_handle_t *handle) { free(handle); }

static void arm(struct resolver *resolver);

static void on_ready(uv_poll_t *poll, int status, int events) {
  struct watch *watch = container_of(poll, struct watch, poll);
  struct resolver *resolver = watch->resolver;
  ares_socket_t in = events & UV_READABLE || status < 0 ? watch->socket : ARES_SOCKET_BAD;
  ares_socket_t out = events & UV_WRITABLE || status < 0 ? watch->socket : ARES_SOCKET_BAD;
  ares_process_fd(resolver->channel, in, out);
}

static void free_watch(uv_handle_t *handle) { free(container_of((uv_poll_t *)handle, struct watch, poll)); }

static void on_socket_state(void *context, ares_socket_t fd, int readable, int writable) {
  struct resolver *resolver = context;
  struct watch *watch = NULL;
  for (struct list *node = resolver->watches.next; node != &resolver->watches; node = node->next) {
    struct watch *candidate = container_of(node, struct watch, node);
    if (candidate->socket == fd) watch = candidate;
  }
  if (!readable && !writable) {
    if (!watch) return;
    list_remove(&watch->node);
    uv_poll_stop(&watch->poll);
    uv_close((uv_handle_t *)&watch->poll, free_watch);
    return;
  }
  if (!watch) {
    watch = calloc(1, sizeof *watch);
    if (!watch) abort();
    watch->resolver = resolver;
    watch->socket = fd;
    if (uv_poll_init_socket(resolver->loop, &watch->poll, fd)) { /* then the timeouts tell */
      free(watch);
      return;
    }
    list_insert_last(&resolver->watches, &watch->node);
  }
  uv_poll_start(&watch->poll, (readable ? UV_READABLE : 0) | (writable ? UV_WRITABLE : 0), on_ready);
  arm(resolver);
}

static void on_timeout(uv_timer_t *timer) {
  struct resolver *resolver = timer->data;
  ares_process_fd(resolver->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
  if (list_is_empty(&resolver->lookups)) uv_timer_stop(timer);
}

static void arm(struct resolver *resolver) {
  if (!resolver->is_closing && !uv_is_active((uv_handle_t *)resolver->timer)) uv_timer_start(resolver->timer, on_timeout, POLL_MS, POLL_MS);
}

/* Calls back what is due now; a callback may look up more, and may free the resolver only by itself afterwards. */
static void tell_due(struct list *due) {
  while (!list_is_empty(due)) {
    struct lookup *lookup = container_of(due->next, struct lookup, node);
    list_remove(&lookup->node);
    lookup->done(lookup->context, lookup->error, lookup->addresses, lookup->error ? 0 : lookup->count, lookup->ttl);
    free(lookup);
  }
}

static void on_soon(uv_timer_t *timer) {
  struct resolver *resolver = timer->data;
  must(resolver->magic == RESOLVER_MAGIC);
  struct list due;
  list_init(&due);
  while (!list_is_empty(&resolver->due)) {
    struct list *node = resolver->due.next;
    list_remove(node);
    list_insert_last(&due, node);
  }
  tell_due(&due);
}

static void finish(struct lookup *lookup, int error) {
  struct resolver *resolver = lookup->resolver;
  lookup->error = error;
  list_remove(&lookup->node);
  list_insert_last(&resolver->due, &lookup->node);
  if (!resolver->is_closing) uv_timer_start(resolver->soon, on_soon, 0, 0);
}

static void add_address(struct lookup *lookup, const struct sockaddr *any) {
  if (lookup->count == ADDRESSES_MAX) return;
  struct address *address = &lookup->addresses[lookup->count];
  *address = (struct address){0};
  if (any->sa_family == AF_INET) {
    address->v4 = *(const struct sockaddr_in *)any;
    address->v4.sin_port = 0;
  } else if (any->sa_family == AF_INET6) {
    address->v6 = *(const struct sockaddr_in6 *)any;
    address->v6.sin6_port = 0;
  } else {
    return;
  }
  lookup->count++;
}

static void on_answer(void *context, int status, int timeouts, struct ares_addrinfo *result) {
  (void)timeouts;
  struct lookup *lookup = context;
  lookup->ttl = LITERAL_TTL;
  if (result) {
    for (struct ares_addrinfo_node *node = result->nodes; node; node = node->ai_next) {
      add_address(lookup, node->ai_addr);
      if (node->ai_ttl >= 0 && (unsigned)node->ai_ttl < lookup->ttl) lookup->ttl = (unsigned)node->ai_ttl;
    }
    for (struct ares_addrinfo_cname *alias = result->cnames; alias; alias = alias->next) {
      if (alias->ttl >= 0 && (unsigned)alias->ttl < lookup->ttl) lookup->ttl = (unsigned)alias->ttl;
    }
    ares_freeaddrinfo(result);
  }
  if (status == ARES_ECANCELLED || status == ARES_EDESTRUCTION) {
    finish(lookup, ERROR_CANCELLED);
  } else if (status == ARES_ETIMEOUT) {
    finish(lookup, ERROR_TIMEOUT);
  } else {
    finish(lookup, status == ARES_SUCCESS && lookup->count > 0 ? 0 : ERROR_RESOLVE);
  }
}

static uv_timer_t *timer_new(struct resolver *resolver) {
  uv_timer_t *timer = calloc(1, sizeof *timer);
  if (!timer) abort();
  uv_timer_init(resolver->loop, timer);
  timer->data = resolver;
  return timer;
}

struct resolver *resolver_new(uv_loop_t *loop, const char *servers, int *error) {
  *error = ERROR_RESOLVE;
  if (ares_library_init(ARES_LIB_INIT_ALL) != ARES_SUCCESS) return NULL;
  struct resolver *resolver = calloc(1, sizeof *resolver);
  if (!resolver) abort();
  resolver->magic = RESOLVER_MAGIC;
  resolver->loop = loop;
  list_init(&resolver->watches);
  list_init(&resolver->lookups);
  list_init(&resolver->due);
  struct ares_options options = {.timeout = TRY_MS, .tries = TRIES, .sock_state_cb = on_socket_state, .sock_state_cb_data = resolver};
  int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB;
  if (servers && *servers) {
    options.lookups = (char *)"b"; /* who names servers wants their answers, not those of /etc/hosts */
    mask |= ARES_OPT_LOOKUPS;
  }
  int status = ares_init_options(&resolver->channel, &options, mask);
  bool has_channel = status == ARES_SUCCESS;
  if (has_channel && servers && *servers) status = ares_set_servers_ports_csv(resolver->channel, servers);
  if (status != ARES_SUCCESS) {
    *error = has_channel ? ERROR_INVALID : ERROR_RESOLVE;
    if (has_channel) ares_destroy(resolver->channel);
    ares_library_cleanup();
    free(resolver);
    return NULL;
  }
  resolver->timer = timer_new(resolver);
  resolver->soon = timer_new(resolver);
  *error = 0;
  return resolver;
}

void resolver_lookup(struct resolver *resolver, const char *name,
                     void (*done)(void *context, int error, const struct address *addresses, size_t count, unsigned ttl), void *context) {
  must(resolver->magic == RESOLVER_MAGIC);
  struct lookup *lookup = calloc(1, sizeof *lookup);
  if (!lookup) abort();
  lookup->resolver = resolver;
  lookup->done = done;
  lookup->context = context;
  list_init(&lookup->node);
  size_t length = strlen(name);
  if (address_parse_ip(span_make(name, length), 0, &lookup->addresses[0]) == 0) {
    lookup->count = 1;
    lookup->ttl = LITERAL_TTL;
    finish(lookup, 0);
    return;
  }
  if (length == 0 || length > NAME_MAX_BYTES || strcmp(name, ".") == 0) {
    finish(lookup, ERROR_RESOLVE);
    return;
  }
  list_insert_last(&resolver->lookups, &lookup->node);
  arm(resolver);
  /* NOSORT: the sort would open sockets to the addresses. A trailing dot keeps the search list out, as in a zone file. */
  struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = ARES_AI_NOSORT};
  ares_getaddrinfo(resolver->channel, name, NULL, &hints, on_answer, lookup);
}

void resolver_free(struct resolver *resolver) {
  if (!resolver) return;
  must(resolver->magic == RESOLVER_MAGIC);
  resolver->is_closing = true;
  uv_close((uv_handle_t *)resolver->timer, free_handle);
  uv_close((uv_handle_t *)resolver->soon, free_handle);
  /* Answers known but not told yet count as pending. */
  for (struct list *node = resolver->due.next; node != &resolver->due; node = node->next) {
    container_of(node, struct lookup, node)->error = ERROR_CANCELLED;
  }
  ares_destroy(resolver->channel);
  while (!list_is_empty(&resolver->watches)) {
    struct watch *watch = container_of(resolver->watches.next, struct watch, node);
    list_remove(&watch->node);
    uv_close((uv_handle_t *)&watch->poll, free_watch);
  }
  tell_due(&resolver->due);
  ares_library_cleanup();
  resolver->magic = 0;
  free(resolver);
}
