/* Reads fixed header edits. The list and its templates belong to the given arena. Publisher's thread. */
#include "route/edit.h"

#include "base/limits.h"

static const char *const kinds[] = {
    [EDIT_SET_REQUEST] = "set_request",   [EDIT_REMOVE_REQUEST] = "remove_request",   [EDIT_SET_RESPONSE] = "set_response",
    [EDIT_ADD_RESPONSE] = "add_response", [EDIT_REMOVE_RESPONSE] = "remove_response",
};
static const char *const whens[] = {[EDIT_ALWAYS] = "always", [EDIT_SUCCESS] = "success", [EDIT_HTTPS] = "https"};

static void free_template(void *template) { template_free(template); }

static int word_index(struct span word, const char *const *words, int count) {
  for (int i = 0; i < count; i++)
    if (span_equal(word, span_of(words[i]))) return i;
  return -1;
}

/* RFC 9110, 5.6.2: a token. */
static bool is_header_name(struct span name) {
  if (span_is_empty(name) || name.length > LIMIT_HEADER_NAME_BYTES) return false;
  for (size_t i = 0; i < name.length; i++) {
    unsigned char c = (unsigned char)name.data[i];
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (!letter && (c == 0 || !strchr("!#$%&'*+-.^_`|~", c))) return false;
  }
  return true;
}

static bool has_line_break(struct span text) {
  return span_find(text, '\r') < text.length || span_find(text, '\n') < text.length || span_find(text, '\0') < text.length;
}

/* As the http room's header_value_is_valid, which also drops the whole field otherwise. */
static bool is_plain(struct span text) {
  for (size_t i = 0; i < text.length; i++) {
    unsigned char c = (unsigned char)text.data[i];
    if ((c < 0x20 && c != '\t') || c == 0x7f) return false;
  }
  return text.length > 0;
}

static bool read_edit(struct arena *arena, struct span item, const struct edit_options *options, struct fixed_edit *edit, struct body_error error) {
  struct span kind = {0}, name = {0}, value = {0}, when = SPAN("always"), condition;
  char message[200];
  if (!body_text(item, "kind", &kind, error) || !body_text(item, "name", &name, error) || !body_text(item, "value", &value, error) ||
      !body_text(item, "when", &when, error) || !body_map(item, "condition", &condition, error))
    return false;
  int which = word_index(kind, kinds, sizeof kinds / sizeof *kinds);
  if (which < 0) return body_fail(error, "kind: \"%.*s\" is no kind of edit", (int)(kind.length > 40 ? 40 : kind.length), kind.data ? kind.data : "");
  edit->kind = (enum edit_kind)which;
  which = word_index(when, whens, sizeof whens / sizeof *whens);
  if (which < 0) return body_fail(error, "when: is not always, success or https");
  edit->when = (enum edit_when)which;
  if (condition.length && (!options || edit->kind < EDIT_SET_RESPONSE)) return body_fail(error, "condition: only response edits of routes have one");
  if (condition.length && !(edit->condition = options->read_condition(options->context, condition))) return body_within(error, "condition.");
  if (!is_header_name(name)) return body_fail(error, "name: is not a header name");
  edit->name = name;
  if (options && options->header_id) edit->header_id = options->header_id(name);
  if (edit->kind == EDIT_REMOVE_REQUEST || edit->kind == EDIT_REMOVE_RESPONSE) return true;
  if (has_line_break(value)) return body_fail(error, "value: has a line break or NUL");
  edit->value = template_new(value, TEMPLATE_UNKNOWN_IS_ERROR, message, sizeof message);
  if (!edit->value) return body_fail(error, "value: %s", message);
  arena_defer(arena, free_template, edit->value);
  if (edit->value->is_constant && edit->value->count == 1 && is_plain(edit->value->parts[0].text)) edit->plain = edit->value->parts[0].text;
  return true;
}

bool edit_read_list(struct arena *arena, struct span map, const struct edit_options *options, struct fixed_edit **edits, unsigned *count,
                    struct body_error error) {
  struct pack_reader reader;
  uint32_t number;
  *edits = NULL;
  *count = 0;
  if (!body_array(map, "edits", &reader, &number, error)) return false;
  if (number == 0) return true;
  struct fixed_edit *list = arena_zalloc(arena, number * sizeof *list);
  for (uint32_t i = 0; i < number; i++) {
    struct span item;
    if (!body_item(&reader, "edits", i, &item, error)) return false;
    if (!read_edit(arena, item, options, &list[i], error)) return body_within(error, "edits[%u].", (unsigned)i);
  }
  *edits = list;
  *count = number;
  return true;
}
