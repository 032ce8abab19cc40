/* Settings: a unit of the controller's settings. Owns its texts, the trusted set, the compiled log format and the edits. Built by the publisher. */
#include "route/settings.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "route/body.h"
#include "route/edit.h"

/* ingress-nginx's upstreaminfo line. */
#define LOG_FORMAT_DEFAULT \
  "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \"$http_referer\" \"$http_user_agent\" " \
  "$request_length $request_time [$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr $upstream_response_length " \
  "$upstream_response_time $upstream_status $req_id"

static void release(struct unit *unit) {
  struct settings *settings = (struct settings *)unit;
  must(unit->magic == UNIT_MAGIC && unit->kind == UNIT_SETTINGS);
  ip_set_free(settings->trusted);
  template_free(settings->log_format);
  unit->magic = 0;
  arena_free(&unit->arena);
  free(settings);
}

static struct settings *new_with_defaults(void) {
  struct settings *settings = calloc(1, sizeof *settings);
  must(settings);
  settings->unit.magic = UNIT_MAGIC;
  settings->unit.kind = UNIT_SETTINGS;
  settings->unit.release = release;
  arena_init(&settings->unit.arena, NULL, 1024);
  list_init(&settings->unit.retired);
#define SETTINGS_DEFAULT_NUMBER(name, value) settings->name = (value);
#define SETTINGS_DEFAULT_FLAG(name, value) settings->name = (value);
#define SETTINGS_DEFAULT_TEXT(name, value) settings->name = SPAN(value);
#define X(name, type, fallback, key) SETTINGS_DEFAULT_##type(name, fallback)
  CONTROLLER_SETTINGS(X)
#undef X
  return settings;
}

static bool read_fields(struct settings *settings, struct span body, struct body_error error) {
#define SETTINGS_READ_NUMBER(name) body_integer(body, #name, 0, INT64_MAX, &settings->name, error)
#define SETTINGS_READ_FLAG(name) body_flag(body, #name, &settings->name, error)
#define SETTINGS_READ_TEXT(name) body_text(body, #name, &settings->name, error)
  bool is_good = true;
#define X(name, type, fallback, key) is_good = is_good && SETTINGS_READ_##type(name);
  CONTROLLER_SETTINGS(X)
#undef X
  return is_good;
}

/* What is made once of the fields. */
static bool compile(struct settings *settings, struct body_error error) {
  char message[200];
  settings->trusted = ip_set_new(settings->proxy_real_ip_cidr, message, sizeof message);
  if (!settings->trusted) return body_fail(error, "proxy_real_ip_cidr: %s", message);
  int64_t first = settings->client_header_buffer_bytes;
  if (settings->client_head_bytes < first) settings->client_head_bytes = first;
  if (settings->client_request_line_bytes < first) settings->client_request_line_bytes = first;
  if (settings->access_log_json) return true;
  struct span format = settings->log_format_upstream.length ? settings->log_format_upstream : SPAN(LOG_FORMAT_DEFAULT);
  settings->log_format = template_new(format, TEMPLATE_UNKNOWN_IS_EMPTY, message, sizeof message);
  if (!settings->log_format) return body_fail(error, "log_format_upstream: %s", message);
  return true;
}

struct settings *settings_new(struct span body, char *error, size_t error_size) {
  struct body_error where = {error, error_size};
  struct settings *settings = new_with_defaults();
  body = span_make(arena_copy(&settings->unit.arena, body.data, body.length), body.length);
  if (!body_is_map(body, where) || !read_fields(settings, body, where) || !compile(settings, where) ||
      !edit_read_list(&settings->unit.arena, body, NULL, &settings->edits, &settings->edit_count, where)) {
    release(&settings->unit);
    return NULL;
  }
  return settings;
}

struct settings *settings_new_default(void) {
  char message[200];
  struct settings *settings = new_with_defaults();
  must(compile(settings, (struct body_error){message, sizeof message}));
  return settings;
}
