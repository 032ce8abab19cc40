/* Templates: compiled to a list of literals and variables. A template owns its parts and is immutable; expansion takes memory from the caller's arena only. Any
 * thread. */
#include "route/template.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

struct name {
  const char *text;
  enum variable variable;
};

static const struct name names[] = {
#define X(id, name, what) {name, VARIABLE_##id},
    VARIABLES(X)
#undef X
};
/* Looked at after the whole names, so that $http_host stays itself. */
static const struct name prefixes[] = {
    {"upstream_http_", VARIABLE_UPSTREAM_HTTP},
    {"sent_http_", VARIABLE_SENT_HTTP},
    {"http_", VARIABLE_HTTP},
    {"arg_", VARIABLE_ARG},
    {"cookie_", VARIABLE_COOKIE},
    {"var_", VARIABLE_VAR},
};

static bool is_name_byte(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; }
static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static void add_part(struct text_template *template, enum variable variable, struct span text) {
  if (variable == VARIABLE_TEXT) {
    if (span_is_empty(text)) return;
  } else {
    template->is_constant = false;
  }
  template->parts[template->count++] = (struct template_part){variable, text};
}

/* A field's name as headers spell it: "user_agent" is "user-agent". */
static struct span field_name(struct arena *arena, struct span text) {
  char *copy = arena_copy(arena, text.data, text.length);
  for (size_t i = 0; i < text.length; i++) copy[i] = copy[i] == '_' ? '-' : lower(copy[i]);
  return span_make(copy, text.length);
}

/* False if there is no such variable. */
static bool add_variable(struct text_template *template, struct span name) {
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    if (!span_equal_nocase(name, span_of(names[i].text))) continue;
    add_part(template, names[i].variable, span_of(names[i].text));
    return true;
  }
  for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
    struct span prefix = span_of(prefixes[i].text);
    if (name.length <= prefix.length || !span_equal_nocase(span_make(name.data, prefix.length), prefix)) continue;
    struct span argument = span_skip(name, prefix.length);
    bool is_field = prefixes[i].variable == VARIABLE_HTTP || prefixes[i].variable == VARIABLE_SENT_HTTP || prefixes[i].variable == VARIABLE_UPSTREAM_HTTP;
    add_part(template, prefixes[i].variable, is_field ? field_name(&template->arena, argument) : argument);
    return true;
  }
  return false;
}

/* Takes what follows a "$" at `at`: sets the name and where the text goes on. False when the "$" stands for itself. *is_open: "${" without its end. */
static bool scan_name(struct span text, size_t at, struct span *name, size_t *next, bool *is_open) {
  size_t start = at + 1;
  bool braced = start < text.length && text.data[start] == '{';
  if (braced) start++;
  size_t end = start;
  if (start < text.length && text.data[start] >= '0' && text.data[start] <= '9') {
    if (text.data[start] == '0') return false;
    end = start + 1; /* $12 is $1 and "2", as in nginx */
  } else {
    while (end < text.length && is_name_byte(text.data[end])) end++;
  }
  if (end == start) return false;
  *name = span_make(text.data + start, end - start);
  if (braced && (end == text.length || text.data[end] != '}')) {
    *is_open = true;
    return false;
  }
  *next = end + (braced ? 1 : 0);
  return true;
}

/* An expansion is as long as its variables together, and each may be a whole head: an author's template must not be able to ask for the same one thousands of
 * times, for each request. Log formats are the operator's. */
static bool is_small(const struct text_template *template, size_t length, enum template_unknown unknown, char *error, size_t error_size) {
  unsigned variables = 0, most = unknown == TEMPLATE_UNKNOWN_IS_ERROR ? TEMPLATE_VARIABLES : TEMPLATE_LOG_VARIABLES;
  for (unsigned i = 0; i < template->count; i++) variables += template->parts[i].variable != VARIABLE_TEXT;
  if (variables > most) snprintf(error, error_size, "has more than %u variables", most);
  else if (length > TEMPLATE_BYTES) snprintf(error, error_size, "is longer than %u bytes", TEMPLATE_BYTES);
  else return true;
  return false;
}

static int clip(size_t length) { return length > 64 ? 64 : (int)length; }

struct text_template *template_new(struct span source, enum template_unknown unknown, char *error, size_t error_size) {
  struct text_template *template = calloc(1, sizeof *template);
  must(template);
  arena_init(&template->arena, NULL, 256);
  struct span text = arena_span(&template->arena, source);
  size_t dollars = 0;
  for (size_t i = 0; i < text.length; i++) dollars += text.data[i] == '$';
  template->parts = arena_alloc(&template->arena, (2 * dollars + 1) * sizeof *template->parts);
  template->is_constant = true;
  size_t literal = 0;
  for (size_t i = 0; i < text.length;) {
    struct span name;
    size_t next;
    bool is_open = false;
    if (text.data[i] != '$' || !scan_name(text, i, &name, &next, &is_open)) {
      if (is_open && unknown == TEMPLATE_UNKNOWN_IS_ERROR) {
        snprintf(error, error_size, "has no closing brace after ${%.*s", clip(name.length), name.data);
        goto fail;
      }
      i++;
      continue;
    }
    add_part(template, VARIABLE_TEXT, span_make(text.data + literal, i - literal));
    if (name.data[0] >= '1' && name.data[0] <= '9') {
      add_part(template, VARIABLE_CAPTURE, name);
    } else if (!add_variable(template, name) && unknown == TEMPLATE_UNKNOWN_IS_ERROR) {
      snprintf(error, error_size, "has the unknown variable $%.*s", clip(name.length), name.data);
      goto fail;
    }
    i = literal = next;
  }
  add_part(template, VARIABLE_TEXT, span_make(text.data + literal, text.length - literal));
  if (!is_small(template, text.length, unknown, error, error_size)) goto fail;
  return template;
fail:
  template_free(template);
  return NULL;
}

void template_free(struct text_template *template) {
  if (!template) return;
  arena_free(&template->arena);
  free(template);
}

struct span template_expand(const struct text_template *template, template_lookup lookup, void *context, struct arena *arena) {
  if (template->count == 0) return SPAN("");
  if (template->count == 1) {
    const struct template_part *part = &template->parts[0];
    return part->variable == VARIABLE_TEXT ? part->text : lookup(context, part->variable, part->text, arena);
  }
  struct span few[16];
  struct span *values = template->count <= 16 ? few : arena_alloc(arena, template->count * sizeof *values);
  size_t total = 0;
  for (unsigned i = 0; i < template->count; i++) {
    const struct template_part *part = &template->parts[i];
    values[i] = part->variable == VARIABLE_TEXT ? part->text : lookup(context, part->variable, part->text, arena);
    total += values[i].length;
  }
  char *out = arena_alloc(arena, total + 1), *cursor = out;
  for (unsigned i = 0; i < template->count; i++) {
    if (values[i].length) memcpy(cursor, values[i].data, values[i].length);
    cursor += values[i].length;
  }
  *cursor = '\0';
  return span_make(out, total);
}

static bool is_plain_in_log(unsigned char c) { return c >= 0x20 && c < 0x7f && c != '"' && c != '\\'; }

static void append_log(struct buffer *out, struct span value) {
  size_t start = 0;
  for (size_t i = 0; i < value.length; i++) {
    unsigned char c = (unsigned char)value.data[i];
    if (is_plain_in_log(c)) continue;
    buffer_append(out, span_make(value.data + start, i - start));
    buffer_printf(out, "\\x%02X", c);
    start = i + 1;
  }
  buffer_append(out, span_skip(value, start));
}

void template_append(const struct text_template *template, template_lookup lookup, void *context, struct arena *arena, enum template_escape escape,
                     bool dash_for_empty, struct buffer *out) {
  for (unsigned i = 0; i < template->count; i++) {
    const struct template_part *part = &template->parts[i];
    if (part->variable == VARIABLE_TEXT) {
      buffer_append(out, part->text);
      continue;
    }
    struct span value = lookup(context, part->variable, part->text, arena);
    if (value.length == 0) {
      /* ingress-nginx sets this one to "" itself, so it is empty in its lines and not absent. */
      bool is_set = part->variable == VARIABLE_PROXY_ALTERNATIVE_UPSTREAM_NAME;
      if (dash_for_empty && !is_set) buffer_append(out, SPAN("-"));
    } else if (escape == TEMPLATE_ESCAPE_LOG) {
      append_log(out, value);
    } else if (escape == TEMPLATE_ESCAPE_JSON) {
      buffer_append_json(out, value);
    } else {
      buffer_append(out, value);
    }
  }
}
