/* Splits JSON that arrives in pieces, so that an answer of any length is never held whole. A strict scanner: what it lets pass is JSON (but for UTF-8, which it
 * does not look at), and what it hands out are whole objects, one at a time. Bounds: nesting, and the bytes of one part. Pure; its owner's thread. */
#include "kube/json_split.h"

#include "base/check.h"

enum state {
  STATE_VALUE = 0,   /* a value must come */
  STATE_FIRST_VALUE, /* a value, or the end of an array */
  STATE_FIRST_KEY,   /* a key, or the end of an object */
  STATE_KEY,         /* a key must come */
  STATE_COLON,
  STATE_AFTER, /* after a value: a comma, or the container's end */
  STATE_STRING,
  STATE_ESCAPE,
  STATE_HEX,
  STATE_LITERAL,
  STATE_MINUS,
  STATE_ZERO,
  STATE_DIGITS,
  STATE_POINT,
  STATE_FRACTION,
  STATE_EXPONENT,
  STATE_EXPONENT_SIGN,
  STATE_EXPONENT_DIGITS,
  STATE_OVER, /* after the outermost value */
  STATE_BROKEN,
};

void json_split_init(struct json_split *split, enum json_split_kind kind, void (*emit)(void *context, enum json_part part, struct span text), void *context) {
  *split = (struct json_split){.kind = kind, .emit = emit, .context = context};
}

void json_split_free(struct json_split *split) {
  buffer_free(&split->held);
  buffer_free(&split->metadata);
}

static bool refuse(struct json_split *split, const char *why) {
  split->state = STATE_BROKEN;
  split->error = why;
  return false;
}

static bool refuse_limit(struct json_split *split, const char *why, enum counter limit) {
  split->limit = limit;
  return refuse(split, why);
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }
static bool in_object(const struct json_split *split) { return split->is_object[(split->depth - 1) / 64] >> (split->depth - 1) % 64 & 1; }
static bool is_member(const struct json_split *split, struct span name) { return span_equal(span_make(split->key, split->key_length), name); }

/* What the object that begins here is, if somebody wants it. */
static enum json_part wanted(const struct json_split *split) {
  if (split->part) return JSON_PART_NONE;
  if (split->kind == JSON_SPLIT_WATCH) return JSON_PART_EVENT;
  if (split->depth == 2 && split->is_in_items) return JSON_PART_ITEM;
  if (split->depth == 1 && is_member(split, SPAN("metadata"))) return JSON_PART_METADATA;
  return JSON_PART_NONE;
}

/* The values that must be of one type. */
static bool check_type(struct json_split *split, char c) {
  if (split->part) return true;
  if (split->depth == 0) return c == '{' || refuse(split, "it is no JSON object");
  if (split->kind != JSON_SPLIT_LIST) return true;
  if (split->depth == 2 && split->is_in_items) return c == '{' || refuse(split, "an item is no object");
  if (split->depth != 1) return true;
  if (is_member(split, SPAN("items"))) {
    if (split->has_items) return refuse(split, "\"items\" is there twice");
    split->has_items = true;
    if (c != '[' && c != 'n') return refuse(split, "\"items\" is no array");
    split->is_in_items = c == '[';
  } else if (is_member(split, SPAN("metadata"))) {
    if (buffer_length(&split->metadata)) return refuse(split, "\"metadata\" is there twice");
    if (c != '{') return refuse(split, "\"metadata\" is no object");
  }
  return true;
}

/* `at` is where the container's first byte lies, `*from` where the open part's bytes of this piece begin. */
static bool open_container(struct json_split *split, bool is_object, const char *at, const char **from) {
  if (split->depth == LIMIT_JSON_DEPTH) return refuse_limit(split, "it is nested too deeply", COUNTER_LIMIT_JSON_DEPTH);
  enum json_part part = is_object ? wanted(split) : JSON_PART_NONE;
  if (part) {
    split->part = part;
    split->part_depth = split->depth;
    *from = at;
  }
  uint64_t bit = 1ULL << split->depth % 64, *word = &split->is_object[split->depth / 64];
  *word = is_object ? *word | bit : *word & ~bit;
  split->depth++;
  split->state = is_object ? STATE_FIRST_KEY : STATE_FIRST_VALUE;
  return true;
}

static bool hold(struct json_split *split, struct span bytes) {
  if (buffer_length(&split->held) + bytes.length > LIMIT_API_ITEM_BYTES)
    return refuse_limit(split, "one object of it is too long", COUNTER_LIMIT_API_ITEM_BYTES);
  buffer_append(&split->held, bytes);
  return true;
}

static bool end_part(struct json_split *split, struct span last) {
  enum json_part part = split->part;
  split->part = JSON_PART_NONE;
  if (part == JSON_PART_METADATA || buffer_length(&split->held)) {
    if (!hold(split, last)) return false;
    last = buffer_span(&split->held);
  } else if (last.length > LIMIT_API_ITEM_BYTES) {
    return refuse_limit(split, "one object of it is too long", COUNTER_LIMIT_API_ITEM_BYTES);
  }
  if (part == JSON_PART_METADATA) {
    split->metadata = split->held;
    split->held = (struct buffer){.data = NULL};
    return true;
  }
  split->emit(split->context, part, last);
  buffer_consume(&split->held, buffer_length(&split->held));
  return true;
}

static bool end_list(struct json_split *split) {
  if (!split->has_items) return refuse(split, "it is no list: it has no \"items\"");
  if (buffer_length(&split->metadata) == 0) return refuse(split, "it is no list: it has no \"metadata\"");
  split->emit(split->context, JSON_PART_METADATA, buffer_span(&split->metadata));
  return true;
}

static bool close_container(struct json_split *split, bool is_object, const char *after, const char *from) {
  if (split->depth == 0 || in_object(split) != is_object) return refuse(split, "brackets do not match");
  split->depth--;
  split->state = STATE_AFTER;
  if (split->part && split->depth == split->part_depth && !end_part(split, span_make(from, (size_t)(after - from)))) return false;
  if (split->depth == 1) split->is_in_items = false;
  if (split->depth > 0) return true;
  if (split->kind == JSON_SPLIT_WATCH) {
    split->state = STATE_VALUE;
    return true;
  }
  split->state = STATE_OVER;
  return end_list(split);
}

static bool begin_string(struct json_split *split, bool is_key) {
  split->state = STATE_STRING;
  split->is_key = is_key;
  if (is_key && split->depth == 1) split->key_length = 0;
  return true;
}

/* The name of the outermost object's member, as far as it matters; an escape in it makes it another name. */
static void note_key(struct json_split *split, const char *bytes, size_t length) {
  if (!split->is_key || split->depth != 1) return;
  for (size_t i = 0; i < length && split->key_length < sizeof split->key; i++) split->key[split->key_length++] = bytes[i];
}

static bool begin_value(struct json_split *split, const char *at, const char **from) {
  static const char *const literals[] = {"true", "false", "null"};
  char c = *at;
  if (!check_type(split, c)) return false;
  if (c == '{' || c == '[') return open_container(split, c == '{', at, from);
  if (c == '"') return begin_string(split, false);
  if (c == '-') split->state = STATE_MINUS;
  else if (c == '0') split->state = STATE_ZERO;
  else if (is_digit(c)) split->state = STATE_DIGITS;
  else {
    for (int i = 0; i < 3; i++)
      if (c == literals[i][0]) split->literal = literals[i] + 1;
    if (c != 't' && c != 'f' && c != 'n') return refuse(split, "it is not JSON");
    split->state = STATE_LITERAL;
  }
  return true;
}

/* The bytes of a string up to one that ends or escapes. */
static const char *in_string(struct json_split *split, const char *at, const char *end) {
  const char *start = at;
  while (at < end && *at != '"' && *at != '\\' && (unsigned char)*at >= 0x20) at++;
  note_key(split, start, (size_t)(at - start));
  if (at == end) return at;
  if (*at == '"') split->state = split->is_key ? STATE_COLON : STATE_AFTER;
  else if (*at == '\\') split->state = STATE_ESCAPE;
  else {
    refuse(split, "a control character is in a string");
    return at;
  }
  if (*at == '\\') note_key(split, at, 1);
  return at + 1;
}

static bool in_escape(struct json_split *split, char c) {
  if (c == 'u') {
    split->state = STATE_HEX;
    split->left = 4;
    return true;
  }
  split->state = STATE_STRING;
  return (c != '\0' && strchr("\"\\/bfnrt", c)) || refuse(split, "an escape is wrong");
}

static bool in_hex(struct json_split *split, char c) {
  if (!is_hex(c)) return refuse(split, "an escape is wrong");
  if (--split->left == 0) split->state = STATE_STRING;
  return true;
}

static bool in_literal(struct json_split *split, char c) {
  if (c != *split->literal) return refuse(split, "it is not JSON");
  if (*++split->literal == '\0') split->state = STATE_AFTER;
  return true;
}

/* A number's state after `c`, or STATE_AFTER if the number ended before it. */
static enum state after_digit(enum state state, char c) {
  bool is_exponent = c == 'e' || c == 'E';
  switch (state) {
    case STATE_MINUS:
      return c == '0' ? STATE_ZERO : is_digit(c) ? STATE_DIGITS : STATE_BROKEN;
    case STATE_ZERO:
      return c == '.' ? STATE_POINT : is_exponent ? STATE_EXPONENT : STATE_AFTER;
    case STATE_DIGITS:
      return is_digit(c) ? STATE_DIGITS : c == '.' ? STATE_POINT : is_exponent ? STATE_EXPONENT : STATE_AFTER;
    case STATE_POINT:
      return is_digit(c) ? STATE_FRACTION : STATE_BROKEN;
    case STATE_FRACTION:
      return is_digit(c) ? STATE_FRACTION : is_exponent ? STATE_EXPONENT : STATE_AFTER;
    case STATE_EXPONENT:
      return c == '+' || c == '-' ? STATE_EXPONENT_SIGN : is_digit(c) ? STATE_EXPONENT_DIGITS : STATE_BROKEN;
    case STATE_EXPONENT_SIGN:
      return is_digit(c) ? STATE_EXPONENT_DIGITS : STATE_BROKEN;
    default:
      return is_digit(c) ? STATE_EXPONENT_DIGITS : STATE_AFTER;
  }
}

static bool after_value(struct json_split *split, const char *at, const char *from) {
  if (*at == ',') {
    split->state = in_object(split) ? STATE_KEY : STATE_VALUE;
    return true;
  }
  if (*at == '}' || *at == ']') return close_container(split, *at == '}', at + 1, from);
  return refuse(split, "it is not JSON");
}

/* Between tokens: one byte that is no space. */
static bool token(struct json_split *split, const char *at, const char **from) {
  switch (split->state) {
    case STATE_FIRST_VALUE:
      if (*at == ']') return close_container(split, false, at + 1, *from);
      return begin_value(split, at, from);
    case STATE_VALUE:
      return begin_value(split, at, from);
    case STATE_FIRST_KEY:
      if (*at == '}') return close_container(split, true, at + 1, *from);
      return *at == '"' ? begin_string(split, true) : refuse(split, "it is not JSON");
    case STATE_KEY:
      return *at == '"' ? begin_string(split, true) : refuse(split, "it is not JSON");
    case STATE_COLON:
      split->state = STATE_VALUE;
      return *at == ':' || refuse(split, "it is not JSON");
    case STATE_AFTER:
      return after_value(split, at, *from);
    default:
      return refuse(split, "something follows its end");
  }
}

/* Takes one byte, or the run of a string; returns where to go on. The same place if the byte is to be looked at again. */
static const char *step(struct json_split *split, const char *at, const char *end, const char **from) {
  switch (split->state) {
    case STATE_STRING:
      return in_string(split, at, end);
    case STATE_ESCAPE:
      in_escape(split, *at);
      return at + 1;
    case STATE_HEX:
      in_hex(split, *at);
      return at + 1;
    case STATE_LITERAL:
      in_literal(split, *at);
      return at + 1;
    case STATE_MINUS:
    case STATE_ZERO:
    case STATE_DIGITS:
    case STATE_POINT:
    case STATE_FRACTION:
    case STATE_EXPONENT:
    case STATE_EXPONENT_SIGN:
    case STATE_EXPONENT_DIGITS:
      split->state = (int)after_digit((enum state)split->state, *at);
      if (split->state == STATE_BROKEN) refuse(split, "a number is wrong");
      return split->state == STATE_AFTER ? at : at + 1;
    default:
      if (!is_space(*at)) token(split, at, from);
      return at + 1;
  }
}

bool json_split_add(struct json_split *split, struct span piece) {
  const char *at = piece.data, *end = piece.data + piece.length, *from = piece.data;
  if (split->state == STATE_BROKEN) return false;
  while (at < end) {
    const char *next = step(split, at, end, &from);
    if (split->state == STATE_BROKEN) {
      split->offset += (uint64_t)(at - piece.data);
      return false;
    }
    at = next;
  }
  split->offset += piece.length;
  return !split->part || hold(split, span_make(from, (size_t)(end - from)));
}

bool json_split_is_open(const struct json_split *split) {
  return split->state != STATE_OVER && !(split->kind == JSON_SPLIT_WATCH && split->depth == 0 && split->state == STATE_VALUE);
}

bool json_split_end(struct json_split *split) {
  if (split->state == STATE_BROKEN) return false;
  return !json_split_is_open(split) || refuse(split, "it ends in its midst");
}
