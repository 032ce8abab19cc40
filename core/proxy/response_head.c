/* Response head: see response_head.h. Fixed edits are the settings' (add-headers), then the route's; Server goes, or is ours, unless the operator wants it. */
#include "proxy/response_head.h"

#include "proxy/conditions.h"
#include "proxy/edits.h"
#include "proxy/worker.h"

static bool is_success(int status) {
  switch (status) {
    case 200:
    case 201:
    case 204:
    case 206:
    case 301:
    case 302:
    case 303:
    case 304:
    case 307:
    case 308:
      return true;
    default:
      return false;
  }
}

/* As in nginx, an empty value is not sent. What comes of a route is lent by its host until the exchange ends or detaches; settings may be gone any time. */
static void write_field(struct exchange *exchange, const struct fixed_edit *edit, bool is_leased) {
  struct headers *headers = &exchange->response->headers;
  struct span name = edit->name, value = edit->plain;
  if (value.data == NULL) {
    value = template_expand(edit->value, exchange_lookup, exchange, &exchange->arena);
    if (value.length == 0 || !header_value_is_valid(value)) return;
  }
  if (!is_leased) {
    name = arena_span(&exchange->arena, name);
    value = arena_span(&exchange->arena, value);
  }
  enum header_id id = edits_header_id(edit);
  bool is_set = edit->kind == EDIT_SET_RESPONSE;
  struct header *header = is_set ? headers_set_checked(headers, id, name, value) : headers_add_checked(headers, id, name, value);
  header->is_lent = is_leased;
}

static void apply(struct exchange *exchange, const struct fixed_edit *edits, unsigned count, bool are_leased) {
  const struct condition *asked = NULL; /* neighbours often share one */
  bool holds = true;
  for (unsigned i = 0; i < count; i++) {
    const struct fixed_edit *edit = &edits[i];
    if (edit->kind < EDIT_SET_RESPONSE) continue;
    if (edit->when == EDIT_SUCCESS && !is_success(exchange->response->status)) continue;
    if (edit->when == EDIT_HTTPS && !span_equal(exchange->scheme, SPAN("https"))) continue;
    if (edit->condition != asked) holds = edit->condition == NULL || conditions_check(exchange, edit->condition) == CONDITION_HOLDS;
    asked = edit->condition;
    if (!holds) continue;
    if (edit->kind == EDIT_REMOVE_RESPONSE) headers_remove(&exchange->response->headers, edits_header_id(edit), edit->name);
    else write_field(exchange, edit, are_leased);
  }
}

static void hide(struct headers *headers, struct span list) {
  struct span name;
  while (span_next_item(&list, ',', &name)) headers_remove(headers, header_id_of(name), name);
}

/* An application's notes to its proxy tell clients of inner paths; nginx hides them too. Nothing here obeys them. */
static void hide_notes(struct headers *headers) {
  const struct span prefix = SPAN("x-accel-");
  for (unsigned i = 0; i < headers->count; i++) {
    const struct header *header = &headers->items[i];
    if (header->removed || header->id != HEADER_OTHER || header->name.length <= prefix.length) continue;
    if (span_equal_nocase(span_make(header->name.data, prefix.length), prefix)) headers_remove(headers, HEADER_OTHER, header->name);
  }
}

void response_head_finish(struct exchange *exchange) {
  const struct settings *settings = exchange->worker->root ? exchange->worker->root->settings : NULL;
  struct headers *headers = &exchange->response->headers;
  if (exchange->was_edited) return;
  exchange->was_edited = true;
  if (exchange->source == ANSWER_UPSTREAM || exchange->source == ANSWER_REPLACEMENT) {
    if (!settings || !settings->allow_backend_server_header) headers_remove(headers, HEADER_SERVER, SPAN("server"));
    hide_notes(headers);
    if (settings && settings->hide_headers.length) hide(headers, settings->hide_headers);
  }
  if (settings && settings->edit_count) apply(exchange, settings->edits, settings->edit_count, false);
  if (exchange->route && exchange->route->edit_count) apply(exchange, exchange->route->edits, exchange->route->edit_count, true);
  if (settings && settings->server_tokens && !headers_find(headers, HEADER_SERVER)) headers_add(headers, HEADER_SERVER, SPAN("Server"), SPAN("moongate"));
  if (!headers_find(headers, HEADER_DATE)) headers_add(headers, HEADER_DATE, SPAN("Date"), arena_span(&exchange->arena, span_of(exchange->worker->date)));
}
