/* Host units and settings: what a packed body becomes, and that no body, however broken, does more than be refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/buffer.h"
#include "base/error.h"
#include "base/pack.h"
#include "route/router.h"
#include "route/settings.h"

static struct upstream_ref find_upstream(void *context, struct span name) {
  (void)context;
  return (struct upstream_ref){(uint32_t)name.length, 3};
}
static uint32_t find_policy(void *context, struct span name) {
  (void)context;
  return span_equal(name, SPAN("unknown")) ? UINT32_MAX : (uint32_t)name.length;
}
static const struct host_resolver resolver = {.upstream = find_upstream, .policy = find_policy};

static void text(struct buffer *out, const char *value) { pack_put_string(out, span_of(value)); }
static void pair(struct buffer *out, const char *key, const char *value) {
  text(out, key);
  text(out, value);
}

static void put_hook(struct buffer *out, const char *policy) {
  pack_put_map(out, 2);
  pair(out, "policy", policy);
  text(out, "config");
  pack_put_map(out, 3);
  text(out, "match");
  pack_put_value(out, PACK_REGEX, (struct span){"i\0^x", 4});
  text(out, "to");
  pack_put_value(out, PACK_UPSTREAM, SPAN("default-other-80"));
  text(out, "n");
  pack_put_integer(out, 7);
}

static void put_route(struct buffer *out, const char *path) {
  pack_put_map(out, 9);
  pair(out, "path", path);
  pair(out, "type", "prefix");
  text(out, "source");
  pack_put_map(out, 3);
  pair(out, "kind", "Ingress");
  pair(out, "namespace", "default");
  pair(out, "name", "web");
  text(out, "upstreams");
  pack_put_array(out, 1);
  pack_put_map(out, 4);
  pair(out, "name", "default-web-80");
  pair(out, "service", "web");
  pair(out, "port", "80");
  text(out, "weight");
  pack_put_integer(out, 1);
  text(out, "default_backend");
  pack_put_boolean(out, false);
  text(out, "settings");
  pack_put_map(out, 6);
  text(out, "read_timeout");
  pack_put_number(out, 1.5);
  pair(out, "balancer", "hash");
  pair(out, "hash_by", "$arg_user");
  pair(out, "upstream_host", "inner.test");
  text(out, "retry_on");
  pack_put_array(out, 2);
  text(out, "error");
  text(out, "http_503");
  pair(out, "fallback_upstream", "default-fallback-80");
  text(out, "edits");
  pack_put_array(out, 2);
  pack_put_map(out, 4);
  pair(out, "kind", "set_response");
  pair(out, "name", "X-Host");
  pair(out, "value", "$host");
  pair(out, "when", "https");
  pack_put_map(out, 2);
  pair(out, "kind", "remove_request");
  pair(out, "name", "X-Bad");
  text(out, "hooks");
  pack_put_map(out, 2);
  text(out, "rewrite");
  pack_put_array(out, 2);
  put_hook(out, "one");
  put_hook(out, "three");
  text(out, "access");
  pack_put_array(out, 1);
  put_hook(out, "one");
  text(out, "facts");
  pack_put_map(out, 1);
  pair(out, "path", path);
}

static struct buffer whole_body(bool regex) {
  struct buffer out = {0};
  pack_put_map(&out, 5);
  text(&out, "tls");
  pack_put_boolean(&out, true);
  pair(&out, "certificate", "default/web");
  text(&out, "regex");
  pack_put_boolean(&out, regex);
  text(&out, "hooks");
  pack_put_array(&out, 1);
  put_hook(&out, "host");
  text(&out, "routes");
  pack_put_array(&out, 2);
  put_route(&out, "/");
  put_route(&out, "/shop");
  return out;
}

static void a_whole_body_is_read(void **state) {
  (void)state;
  char error[300] = "";
  struct buffer body = whole_body(false);
  struct host *host = host_new(SPAN("shop.test"), buffer_span(&body), &resolver, error, sizeof error);
  buffer_free(&body); /* the unit has its own copy */
  if (!host) fail_msg("%s", error);
  assert_int_equal(host->unit.kind, UNIT_HOST);
  assert_true(host->has_tls);
  assert_true(span_equal(host->certificate, SPAN("default/web")));
  assert_int_equal(host->route_count, 2);
  assert_int_equal(host->hook_count, 1);
  assert_int_equal(host->config_count, 1); /* the same bytes six times */
  assert_int_equal(host->configs[0].value_count, 2);
  assert_int_equal(host->configs[0].values[0]->kind, PACK_REGEX);
  assert_int_equal(host->configs[0].values[1]->kind, PACK_UPSTREAM);
  assert_int_equal(host->configs[0].values[1]->upstream_slot, strlen("default-other-80"));
  assert_int_equal(host->configs[0].values[1]->upstream_generation, 3);
  assert_int_equal(host->named_count, 3);
  const struct route *route = &host->routes[1];
  assert_ptr_equal(route->host, host);
  assert_true(span_equal(route->path, SPAN("/shop")));
  assert_true(span_equal(route->source.name, SPAN("web")));
  assert_int_equal(route->upstreams[0].upstream.slot, strlen("default-web-80"));
  assert_int_equal(route->fallback.slot, strlen("default-fallback-80"));
  assert_int_equal(route->settings.read_timeout_ms, 1500);
  assert_int_equal(route->settings.connect_timeout_ms, 5000);
  assert_int_equal(route->settings.balancer, BALANCER_HASH);
  assert_int_equal(route->settings.retry_on, RETRY_ERROR | RETRY_503);
  assert_non_null(route->hash_by);
  assert_true(route->upstream_host->is_constant);
  assert_int_equal(route->edit_count, 2);
  assert_int_equal(route->edits[0].when, EDIT_HTTPS);
  assert_null(route->edits[1].value);
  assert_int_equal(route->hook_count[HOOK_REWRITE], 2);
  assert_int_equal(route->hooks[HOOK_REWRITE][1].policy, 5);
  assert_int_equal(route->hook_count[HOOK_LOG], 0);
  assert_null(route->hooks[HOOK_LOG]);
  assert_true(span_equal(pack_get_string(route->facts, "path", SPAN("")), SPAN("/shop")));
  host->unit.release(&host->unit);
}

static void a_cut_or_changed_body_is_refused_or_read(void **state) {
  (void)state;
  for (int regex = 0; regex < 2; regex++) {
    struct buffer body = whole_body(regex == 1);
    struct span whole = buffer_span(&body);
    for (size_t length = 0; length < whole.length; length++) {
      char error[300] = "", *cut = malloc(length + 1); /* ASan sees each byte read beyond */
      memcpy(cut, whole.data, length);
      cut = realloc(cut, length ? length : 1);
      struct host *host = host_new(SPAN("h"), span_make(cut, length), &resolver, error, sizeof error);
      if (host) fail_msg("%zu bytes were taken for a host", length);
      assert_string_not_equal(error, "");
      free(cut);
    }
    static const unsigned char others[] = {0x00, 0x80, 0x90, 0xa0, 0xc0, 0xc1, 0xc3, 0xc7, 0xcb, 0xd9, 0xdd, 0xdf, 0xff};
    for (size_t at = 0; at < whole.length; at++) {
      for (size_t i = 0; i < sizeof others; i++) {
        char error[300] = "", kept = body.data[body.start + at];
        body.data[body.start + at] = (char)others[i];
        struct host *host = host_new(SPAN("h"), whole, &resolver, error, sizeof error);
        if (host) {
          router_match(host, SPAN("/shop/x"));
          host->unit.release(&host->unit);
        } else {
          assert_string_not_equal(error, "");
        }
        body.data[body.start + at] = kept;
      }
    }
    buffer_free(&body);
  }
}

/* A host with one route of which one field is wrong. */
static void check_refused(const char *field, struct buffer *value, const char *expected) {
  char error[300] = "";
  struct buffer out = {0};
  pack_put_map(&out, 1);
  text(&out, "routes");
  pack_put_array(&out, 1);
  pack_put_map(&out, 2);
  pair(&out, "path", "/");
  text(&out, field);
  buffer_append(&out, buffer_span(value));
  struct host *host = host_new(SPAN("h"), buffer_span(&out), &resolver, error, sizeof error);
  if (host || strcmp(error, expected) != 0) fail_msg("\"%s\", expected \"%s\"", error, expected);
  buffer_free(&out);
  buffer_free(value);
}

static void refusals_name_the_field(void **state) {
  (void)state;
  struct buffer value = {0};
  pack_put_integer(&value, 3);
  check_refused("type", &value, "routes[0].type: is not a string");
  text(&value, "regex");
  check_refused("type", &value, "routes[0].type: is not exact or prefix");
  text(&value, "x");
  check_refused("upstreams", &value, "routes[0].upstreams: is not an array");
  pack_put_array(&value, 1);
  pack_put_map(&value, 1);
  pair(&value, "service", "s");
  check_refused("upstreams", &value, "routes[0].upstreams[0].name: is missing");
  pack_put_map(&value, 1);
  pair(&value, "read_timeout", "5");
  check_refused("settings", &value, "routes[0].settings.read_timeout: is not a number");
  pack_put_map(&value, 1);
  pair(&value, "read_timout", "5");
  check_refused("settings", &value, "routes[0].settings.read_timout: there is no such setting");
  pack_put_map(&value, 1);
  pair(&value, "hash_by", "$nope");
  check_refused("settings", &value, "routes[0].settings.hash_by: has the unknown variable $nope");
  pack_put_array(&value, 1);
  pack_put_map(&value, 3);
  pair(&value, "kind", "set_request");
  pair(&value, "name", "X-A");
  pair(&value, "value", "a\r\nb");
  check_refused("edits", &value, "routes[0].edits[0].value: has a line break or NUL");
  pack_put_array(&value, 1);
  pack_put_map(&value, 2);
  pair(&value, "kind", "remove_request");
  pair(&value, "name", "X A");
  check_refused("edits", &value, "routes[0].edits[0].name: is not a header name");
  pack_put_array(&value, 1);
  pack_put_map(&value, 3);
  pair(&value, "kind", "set_request");
  pair(&value, "name", "X-A");
  text(&value, "condition");
  pack_put_map(&value, 1);
  pair(&value, "path", "/");
  check_refused("edits", &value, "routes[0].edits[0].condition: only response edits of routes have one");
  pack_put_array(&value, 1);
  pack_put_map(&value, 3);
  pair(&value, "kind", "set_response");
  pair(&value, "name", "X-A");
  text(&value, "condition");
  pack_put_map(&value, 1);
  pair(&value, "client_in", "10.0.0.0/8");
  check_refused("edits", &value, "routes[0].edits[0].condition.client_in: is not the value that it must be");
  pack_put_map(&value, 1);
  text(&value, "log");
  pack_put_array(&value, 1);
  pack_put_map(&value, 2);
  pair(&value, "policy", "one");
  text(&value, "when");
  pack_put_map(&value, 1);
  text(&value, "matches");
  pack_put_value(&value, PACK_REGEX, span_make("\0(", 2));
  check_refused("hooks", &value, "routes[0].hooks.log[0].value: is not a regular expression: missing closing parenthesis at offset 1");
  pack_put_map(&value, 1);
  text(&value, "access");
  pack_put_array(&value, 1);
  pack_put_map(&value, 1);
  pair(&value, "policy", "unknown");
  check_refused("hooks", &value, "routes[0].hooks.access[0].policy: there is no policy \"unknown\"");
  char error[300] = "";
  struct buffer out = {0};
  pack_put_map(&out, 1);
  text(&out, "hooks");
  pack_put_array(&out, 1);
  pack_put_map(&out, 2);
  pair(&out, "policy", "p");
  text(&out, "config");
  pack_put_value(&out, PACK_IP_SET, SPAN("1.2.3.4/99"));
  assert_null(host_new(SPAN("h"), buffer_span(&out), &resolver, error, sizeof error));
  assert_non_null(strstr(error, "hooks[0].value: "));
  buffer_free(&out);
  buffer_free(&value);
  pack_put_map(&out, 1);
  text(&out, "regex");
  pack_put_boolean(&out, true);
  pack_put_nil(&out);
  assert_null(host_new(SPAN("h"), buffer_span(&out), &resolver, error, sizeof error));
  assert_string_equal(error, "body: has bytes after its end");
  buffer_free(&out);
}

static int apply(struct route_settings *settings, struct buffer *map, char *error, size_t size) {
  int code = route_settings_apply(settings, buffer_span(map), error, size);
  buffer_free(map);
  return code;
}

static void route_settings_are_strict(void **state) {
  (void)state;
  struct route_settings settings;
  char error[200];
  struct buffer map = {0};
  unsigned count;
  route_settings_defaults(&settings);
  assert_int_equal(settings.read_timeout_ms, 60000);
  assert_int_equal(settings.retry_on, RETRY_ERROR | RETRY_TIMEOUT);
  assert_true(settings.request_buffering);
  assert_true(settings.access_log);
  assert_int_equal(settings.body_limit, 1048576);
  const struct route_setting_info *list = route_setting_list(&count);
  for (unsigned i = 0; i < count; i++) assert_ptr_equal(route_setting_find(span_of(list[i].name)), &list[i]);
  assert_null(route_setting_find(SPAN("read_timeou")));
  struct {
    const char *name, *type, *text;
    double number;
    const char *error;
  } rows[] = {
      {"read_timeout", "number", NULL, 0.0015, NULL},
      {"read_timeout", "number", NULL, -1, "read_timeout: is not between 0 and 4294967 seconds"},
      {"read_timeout", "flag", NULL, 1, "read_timeout: is not a number"},
      {"body_limit", "number", NULL, 8e9, NULL},
      {"body_limit", "number", NULL, 1.5, "body_limit: is not a whole number"},
      {"body_limit", "number", NULL, -1, "body_limit: -1 is less than 0"},
      {"retry_tries", "number", NULL, 0, NULL},
      {"retry_tries", "number", NULL, 3e9, "retry_tries: 3000000000 is not between 0 and 2147483647"},
      {"request_buffering", "flag", NULL, 0, NULL},
      {"request_buffering", "text", "off", 0, "request_buffering: is not a boolean"},
      {"protocol", "text", "grpcs", 0, NULL},
      {"protocol", "text", "gopher", 0, "protocol: has the unknown value \"gopher\""},
      {"http_version", "number", NULL, 1, "http_version: is not a string"},
      {"satisfy", "text", "some", 0, "satisfy: has the unknown value \"some\""},
      {"balancer", "text", "least_connections", 0, NULL},
      {"balancer", "text", "random", 0, "balancer: is not round_robin, least_connections, ewma or hash"},
      {"retry_on", "text", "error timeout, http_502", 0, NULL},
      {"retry_on", "text", "error http_505", 0, "retry_on: \"http_505\" is not a reason to retry"},
      {"retry_on", "number", NULL, 1, "retry_on: is not a list of words"},
      {"nonsense", "number", NULL, 1, "nonsense: there is no such setting"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    pack_put_map(&map, 1);
    text(&map, rows[i].name);
    if (rows[i].text) text(&map, rows[i].text);
    else if (strcmp(rows[i].type, "flag") == 0) pack_put_boolean(&map, rows[i].number != 0);
    else pack_put_number(&map, rows[i].number);
    error[0] = '\0';
    int code = apply(&settings, &map, error, sizeof error);
    if (code != (rows[i].error ? ERROR_INVALID : 0)) fail_msg("%s: %d %s", rows[i].name, code, error);
    if (rows[i].error) assert_string_equal(error, rows[i].error);
  }
  assert_int_equal(settings.read_timeout_ms, 2);
  assert_true(settings.body_limit == 8000000000u);
  assert_int_equal(settings.retry_tries, 0);
  assert_false(settings.request_buffering);
  assert_int_equal(settings.balancer, BALANCER_LEAST_CONNECTIONS);
  assert_int_equal(settings.retry_on, RETRY_ERROR | RETRY_TIMEOUT | RETRY_502);
}

static void controller_settings(void **state) {
  (void)state;
  char error[300] = "";
  struct settings *settings = settings_new_default();
  struct address address;
  assert_int_equal(settings->keep_alive_ms, 75000);
  address_parse_ip(SPAN("192.0.2.1"), 0, &address);
  assert_true(ip_set_contains(settings->trusted, &address));
  assert_non_null(settings->log_format);
  settings->unit.release(&settings->unit);

  struct buffer map = {0};
  pack_put_map(&map, 5);
  text(&map, "keep_alive_ms");
  pack_put_integer(&map, 5);
  pair(&map, "proxy_real_ip_cidr", "10.0.0.0/8");
  pair(&map, "log_format_upstream", "$host $unheard_of");
  pair(&map, "not_known_yet", "x");
  text(&map, "edits");
  pack_put_array(&map, 1);
  pack_put_map(&map, 3);
  pair(&map, "kind", "add_response");
  pair(&map, "name", "X-A");
  pair(&map, "value", "$remote_addr");
  settings = settings_new(buffer_span(&map), error, sizeof error);
  if (!settings) fail_msg("%s", error);
  for (size_t i = 0; i < buffer_length(&map); i++) assert_null(settings_new(span_make(map.data, i), error, sizeof error));
  buffer_free(&map);
  assert_int_equal(settings->keep_alive_ms, 5);
  assert_false(ip_set_contains(settings->trusted, &address));
  assert_int_equal(settings->edit_count, 1);
  assert_int_equal(settings->log_format->count, 2);
  settings->unit.release(&settings->unit);

  pack_put_map(&map, 1);
  pair(&map, "keep_alive_ms", "5");
  assert_null(settings_new(buffer_span(&map), error, sizeof error));
  assert_string_equal(error, "keep_alive_ms: is not a whole number");
  buffer_free(&map);
  pack_put_map(&map, 1);
  pair(&map, "proxy_real_ip_cidr", "10.0.0.0/8, nonsense");
  assert_null(settings_new(buffer_span(&map), error, sizeof error));
  assert_non_null(strstr(error, "proxy_real_ip_cidr: "));
  assert_non_null(strstr(error, "nonsense"));
  buffer_free(&map);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(a_whole_body_is_read),    cmocka_unit_test(a_cut_or_changed_body_is_refused_or_read),
      cmocka_unit_test(refusals_name_the_field), cmocka_unit_test(route_settings_are_strict),
      cmocka_unit_test(controller_settings),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
