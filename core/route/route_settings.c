/* Route settings: one table made of the list in the header; strict, so that a mistake is named instead of ignored. Pure. */
#include "route/route_settings.h"

#include <stddef.h>

#include "base/error.h"
#include "route/body.h"

#define SECONDS_MAX 4294967.0 /* what fits 32 bits of milliseconds */

static const struct route_setting_info infos[] = {
#define X(name, type, fallback, unit) {#name, ROUTE_SETTING_##type, unit},
    ROUTE_SETTINGS(X)
#undef X
};
static const size_t offsets[] = {
#define X(name, type, fallback, unit) ROUTE_SETTING_OFFSET_##type(name)
#define ROUTE_SETTING_OFFSET_SECONDS(name) offsetof(struct route_settings, name##_ms),
#define ROUTE_SETTING_OFFSET_BYTES(name) offsetof(struct route_settings, name),
#define ROUTE_SETTING_OFFSET_INTEGER(name) offsetof(struct route_settings, name),
#define ROUTE_SETTING_OFFSET_FLAG(name) offsetof(struct route_settings, name),
#define ROUTE_SETTING_OFFSET_TEXT(name) offsetof(struct route_settings, name),
#define ROUTE_SETTING_OFFSET_BALANCER(name) offsetof(struct route_settings, name),
#define ROUTE_SETTING_OFFSET_RETRY(name) offsetof(struct route_settings, name),
    ROUTE_SETTINGS(X)
#undef X
};
#define COUNT (sizeof infos / sizeof *infos)

struct word {
  const char *text;
  unsigned value;
};
static const struct word balancers[] = {
    {"round_robin", BALANCER_ROUND_ROBIN}, {"least_connections", BALANCER_LEAST_CONNECTIONS}, {"ewma", BALANCER_EWMA}, {"hash", BALANCER_HASH}, {NULL, 0}};
static const struct word retries[] = {{"error", RETRY_ERROR},
                                      {"timeout", RETRY_TIMEOUT},
                                      {"invalid_header", RETRY_INVALID_HEADER},
                                      {"http_500", RETRY_500},
                                      {"http_502", RETRY_502},
                                      {"http_503", RETRY_503},
                                      {"http_504", RETRY_504},
                                      {"http_403", RETRY_403},
                                      {"http_404", RETRY_404},
                                      {"http_429", RETRY_429},
                                      {"non_idempotent", RETRY_NON_IDEMPOTENT},
                                      {"off", RETRY_OFF},
                                      {NULL, 0}};
/* Texts that are really words. */
struct text_words {
  const char *name;
  const char *words[8];
};
static const struct text_words text_words[] = {
    {"http_version", {"1.0", "1.1", NULL}},
    {"protocol", {"http", "https", "grpc", "grpcs", "auto", "fastcgi", NULL}},
    {"satisfy", {"all", "any", NULL}},
};

const struct route_setting_info *route_setting_find(struct span name) {
  for (size_t i = 0; i < COUNT; i++)
    if (span_equal(name, span_of(infos[i].name))) return &infos[i];
  return NULL;
}

const struct route_setting_info *route_setting_list(unsigned *count) {
  *count = COUNT;
  return infos;
}

void route_settings_defaults(struct route_settings *settings) {
  memset(settings, 0, sizeof *settings);
#define ROUTE_SETTING_DEFAULT_SECONDS(name, value) settings->name##_ms = (value);
#define ROUTE_SETTING_DEFAULT_BYTES(name, value) settings->name = (value);
#define ROUTE_SETTING_DEFAULT_INTEGER(name, value) settings->name = (value);
#define ROUTE_SETTING_DEFAULT_FLAG(name, value) settings->name = (value);
#define ROUTE_SETTING_DEFAULT_TEXT(name, value) settings->name = SPAN("");
#define ROUTE_SETTING_DEFAULT_BALANCER(name, value) settings->name = (enum balancer_kind)(value);
#define ROUTE_SETTING_DEFAULT_RETRY(name, value) settings->name = (value);
#define X(name, type, fallback, unit) ROUTE_SETTING_DEFAULT_##type(name, fallback)
  ROUTE_SETTINGS(X)
#undef X
}

void route_settings_drop_texts(struct route_settings *settings) {
  for (size_t i = 0; i < COUNT; i++)
    if (infos[i].type == ROUTE_SETTING_TEXT) *(struct span *)((char *)settings + offsets[i]) = (struct span){NULL, 0};
}

static const struct word *find_word(const struct word *words, struct span text) {
  for (; words->text; words++)
    if (span_equal(text, span_of(words->text))) return words;
  return NULL;
}

static int clip(struct span text) { return text.length > 64 ? 64 : (int)text.length; }

static bool read_retry_word(uint32_t *bits, struct span text, const char *name, struct body_error error) {
  const struct word *word = find_word(retries, text);
  if (!word) return body_fail(error, "%s: \"%.*s\" is not a reason to retry", name, clip(text), text.data ? text.data : "");
  *bits |= word->value;
  return true;
}

/* An array of words, or one string of them with spaces or commas between. */
static bool read_retry(uint32_t *out, const struct pack_item *item, struct pack_reader *reader, const char *name, struct body_error error) {
  uint32_t bits = 0;
  if (item->type == PACK_STRING) {
    struct span comma = item->bytes, part, text;
    while (span_next_item(&comma, ',', &part))
      while (span_next_item(&part, ' ', &text))
        if (!read_retry_word(&bits, text, name, error)) return false;
  } else if (item->type == PACK_ARRAY) {
    for (uint32_t i = 0; i < item->count; i++) {
      struct pack_item text;
      if (!pack_next(reader, &text) || text.type != PACK_STRING) return body_fail(error, "%s: has an item that is not a string", name);
      if (!read_retry_word(&bits, text.bytes, name, error)) return false;
    }
  } else {
    return body_fail(error, "%s: is not a list of words", name);
  }
  *out = bits;
  return true;
}

static bool read_text(struct span *out, const struct pack_item *item, const char *name, struct body_error error) {
  if (item->type != PACK_STRING) return body_fail(error, "%s: is not a string", name);
  for (size_t i = 0; i < sizeof text_words / sizeof *text_words; i++) {
    if (strcmp(text_words[i].name, name) != 0) continue;
    bool is_known = false;
    for (const char *const *word = text_words[i].words; *word; word++) is_known = is_known || span_equal(item->bytes, span_of(*word));
    if (!is_known) return body_fail(error, "%s: has the unknown value \"%.*s\"", name, clip(item->bytes), item->bytes.data);
  }
  *out = item->bytes;
  return true;
}

static bool apply_one(void *field, const struct route_setting_info *info, const struct pack_item *item, struct pack_reader *reader, struct body_error error) {
  int64_t whole;
  switch (info->type) {
    case ROUTE_SETTING_SECONDS: {
      if (item->type != PACK_INTEGER && item->type != PACK_NUMBER) return body_fail(error, "%s: is not a number", info->name);
      double seconds = item->type == PACK_INTEGER ? (double)item->integer : item->number;
      if (!(seconds >= 0 && seconds <= SECONDS_MAX)) return body_fail(error, "%s: is not between 0 and %.0f seconds", info->name, SECONDS_MAX);
      *(uint32_t *)field = (uint32_t)(seconds * 1000 + 0.5);
      return true;
    }
    case ROUTE_SETTING_BYTES:
      if (!body_whole(item, &whole)) return body_fail(error, "%s: is not a whole number", info->name);
      if (whole < 0) return body_fail(error, "%s: %lld is less than 0", info->name, (long long)whole);
      *(uint64_t *)field = (uint64_t)whole;
      return true;
    case ROUTE_SETTING_INTEGER:
      if (!body_whole(item, &whole)) return body_fail(error, "%s: is not a whole number", info->name);
      if (whole < 0 || whole > INT32_MAX) return body_fail(error, "%s: %lld is not between 0 and %d", info->name, (long long)whole, INT32_MAX);
      *(int32_t *)field = (int32_t)whole;
      return true;
    case ROUTE_SETTING_FLAG:
      if (item->type != PACK_BOOLEAN) return body_fail(error, "%s: is not a boolean", info->name);
      *(bool *)field = item->boolean;
      return true;
    case ROUTE_SETTING_TEXT:
      return read_text(field, item, info->name, error);
    case ROUTE_SETTING_BALANCER: {
      const struct word *word = item->type == PACK_STRING ? find_word(balancers, item->bytes) : NULL;
      if (!word) return body_fail(error, "%s: is not round_robin, least_connections, ewma or hash", info->name);
      *(enum balancer_kind *)field = (enum balancer_kind)word->value;
      return true;
    }
    case ROUTE_SETTING_RETRY:
      return read_retry(field, item, reader, info->name, error);
  }
  return body_fail(error, "%s: has no type", info->name);
}

int route_settings_apply(struct route_settings *settings, struct span map, char *error, size_t error_size) {
  struct body_error where = {error, error_size};
  struct pack_reader reader;
  struct pack_item head, key, item;
  if (!body_is_map(map, where)) return ERROR_INVALID;
  pack_reader_init(&reader, map);
  pack_next(&reader, &head);
  for (uint32_t i = 0; i < head.count; i++) {
    struct span bytes;
    struct pack_reader inner;
    if (!pack_next(&reader, &key) || key.type != PACK_STRING) {
      body_fail(where, "has a name that is not a string");
      return ERROR_INVALID;
    }
    const struct route_setting_info *info = route_setting_find(key.bytes);
    if (!info) {
      body_fail(where, "%.*s: there is no such setting", clip(key.bytes), key.bytes.data ? key.bytes.data : "");
      return ERROR_INVALID;
    }
    if (!pack_skip(&reader, &bytes)) {
      body_fail(where, "%s: has no value", info->name);
      return ERROR_INVALID;
    }
    pack_reader_init(&inner, bytes);
    if (!pack_next(&inner, &item) || !apply_one((char *)settings + offsets[info - infos], info, &item, &inner, where)) return ERROR_INVALID;
  }
  return 0;
}
