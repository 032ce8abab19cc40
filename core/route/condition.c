/* Reads conditions of their packed form. Publisher's thread. */
#include "route/condition.h"

static bool read_value(struct span map, const char *key, enum pack_value_kind kind, const struct condition_options *options, struct value **out,
                       struct body_error error) {
  struct span bytes;
  struct pack_reader reader;
  struct pack_item item;
  if (!pack_find(map, key, &bytes)) return true;
  pack_reader_init(&reader, bytes);
  if (!pack_next(&reader, &item) || item.type != PACK_VALUE || item.value_kind != (int)kind)
    return body_fail(error, "%s: is not the value that it must be", key);
  *out = options->value(options->context, item.value_kind, item.bytes);
  return *out != NULL;
}

const struct condition *condition_read(struct arena *arena, struct span map, const struct condition_options *options, struct body_error error) {
  struct condition *condition = arena_zalloc(arena, sizeof *condition);
  struct span otherwise = {0};
  bool is_good = body_text(map, "path", &condition->path, error) && body_text(map, "method", &condition->method, error) &&
                 body_text(map, "request_header", &condition->request_header, error) && body_text(map, "response_header", &condition->response_header, error) &&
                 body_text(map, "variable", &condition->variable, error) && body_text(map, "source", &condition->source, error) &&
                 body_text(map, "otherwise", &otherwise, error) && read_value(map, "matches", PACK_REGEX, options, &condition->matches, error) &&
                 read_value(map, "client_in", PACK_IP_SET, options, &condition->client_in, error) &&
                 read_value(map, "client_not_in", PACK_IP_SET, options, &condition->client_not_in, error);
  if (!is_good) return NULL;
  if (options->header_id && condition->request_header.data) condition->request_id = options->header_id(condition->request_header);
  if (options->header_id && condition->response_header.data) condition->response_id = options->header_id(condition->response_header);
  condition->otherwise_allows = otherwise.length > 0;
  return condition;
}
