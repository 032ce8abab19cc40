/* Exposition: see exposition.h. Owns nothing. */
#include "base/exposition.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static void put_escaped(struct buffer *out, struct span text, bool is_label) {
  while (text.length > 0) {
    size_t length = span_utf8(text);
    char c = text.data[0];
    if (length == 0) buffer_append(out, SPAN("?"));
    else if (c == '\n') buffer_append(out, SPAN("\\n"));
    else if (c == '\\' || (c == '"' && is_label)) buffer_printf(out, "\\%c", c);
    else buffer_append(out, span_make(text.data, length));
    text = span_skip(text, length ? length : 1);
  }
}

void exposition_family(struct buffer *out, struct span name, const char *type, const char *help) {
  buffer_append(out, SPAN("# HELP "));
  buffer_append(out, name);
  buffer_append(out, SPAN(" "));
  put_escaped(out, span_of(help), false);
  buffer_append(out, SPAN("\n# TYPE "));
  buffer_append(out, name);
  buffer_printf(out, " %s\n", type);
}

void exposition_label(struct buffer *labels, const char *name, struct span value) {
  buffer_printf(labels, "%s%s=\"", buffer_length(labels) ? "," : "", name);
  put_escaped(labels, value, true);
  buffer_append(labels, SPAN("\""));
}

void exposition_number(struct buffer *out, uint64_t value) {
  char text[20];
  size_t at = sizeof text;
  do {
    text[--at] = (char)('0' + value % 10);
    value /= 10;
  } while (value);
  buffer_append(out, span_make(text + at, sizeof text - at));
}

void exposition_scaled(struct buffer *out, uint64_t value, unsigned digits) {
  uint64_t unit = 1;
  char text[20];
  must(digits < sizeof text);
  for (unsigned i = 0; i < digits; i++) unit *= 10;
  exposition_number(out, value / unit);
  uint64_t rest = value % unit;
  if (rest == 0) return;
  for (unsigned i = digits; i > 0; i--, rest /= 10) text[i - 1] = (char)('0' + rest % 10);
  while (digits > 1 && text[digits - 1] == '0') digits--;
  buffer_append(out, SPAN("."));
  buffer_append(out, span_make(text, digits));
}

/* Go's %g: the shortest digits that read back as the same number, with an exponent below 0.0001 and from 1e+06 on. */
struct span exposition_float(double value, char out[EXPOSITION_FLOAT]) {
  int digits = 1, length;
  do length = snprintf(out, EXPOSITION_FLOAT, "%.*e", digits - 1, value);
  while (strtod(out, NULL) != value && ++digits <= 17);
  const char *mark = strchr(out, 'e');
  int exponent = mark ? atoi(mark + 1) : 0;
  if (exponent >= -4 && exponent < 6) length = snprintf(out, EXPOSITION_FLOAT, "%.*f", digits - 1 > exponent ? digits - 1 - exponent : 0, value);
  return span_make(out, (size_t)length);
}

void exposition_begin(struct buffer *out, struct span name, struct span first, struct span second) {
  buffer_append(out, name);
  if (first.length || second.length) {
    buffer_append(out, SPAN("{"));
    buffer_append(out, first);
    if (first.length && second.length) buffer_append(out, SPAN(","));
    buffer_append(out, second);
    buffer_append(out, SPAN("}"));
  }
  buffer_append(out, SPAN(" "));
}

void exposition_sample(struct buffer *out, struct span name, struct span first, struct span second, uint64_t value) {
  exposition_begin(out, name, first, second);
  exposition_number(out, value);
  buffer_append(out, SPAN("\n"));
}
