/* Command line: spellings, bad values, unknown and exclusive flags, defaults, help, and what crosses to the sync side. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "app/options.h"
#include "base/pack.h"

static const struct {
  const char *name, *type, *fallback, *state;
} table[] = {
#define X(name, field, type, fallback, group, state, help) {name, #type, fallback, #state},
    FLAGS(X)
#undef X
};
enum { FLAG_COUNT = sizeof table / sizeof table[0] };

static char error[256];

/* `first` and the arguments after it, up to NULL. */
static int parse(struct options *options, const char *first, ...) {
  char *argv[64];
  int argc = 0;
  va_list list;
  va_start(list, first);
  for (const char *argument = first; argument; argument = va_arg(list, const char *)) argv[argc++] = (char *)argument;
  va_end(list);
  error[0] = 0;
  return options_parse(options, argc, argv, error, sizeof error);
}

#define REFUSED(text, ...) \
  do { \
    struct options refused; \
    assert_int_equal(parse(&refused, __VA_ARGS__, NULL), -1); \
    if (!strstr(error, text)) fail_msg("the error is \"%s\", which does not say \"%s\"", error, text); \
    assert_null(strchr(error, '\n')); \
  } while (0)

static void defaults(void **state) {
  (void)state;
  struct options options;
  assert_int_equal(parse(&options, NULL), 0);
  assert_int_equal(options.http_port, 80);
  assert_int_equal(options.https_port, 443);
  assert_int_equal(options.healthz_port, 10254);
  assert_string_equal(options.ingress_class, "nginx");
  assert_string_equal(options.controller_class, "k8s.io/ingress-nginx");
  assert_string_equal(options.annotations_prefix, "nginx.ingress.kubernetes.io");
  assert_string_equal(options.health_check_path, "/healthz");
  assert_false(options.watch_ingress_without_class);
  assert_int_equal(options.post_shutdown_grace_period, 10);
  assert_int_equal(options.policies.count, 0);
  assert_int_equal(options.bind_address.count, 0);
  assert_false(options.http_port_is_set);
  assert_false(options.help);
}

/* One that names an object: NAMESPACE/NAME. */
static bool is_reference(const char *flag) {
  static const char *const names[] = {"configmap", "default-backend-service", "default-ssl-certificate", "publish-service"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (strcmp(flag, names[i]) == 0) return true;
  return false;
}

static void both_spellings_of_every_flag(void **state) {
  (void)state;
  for (int i = 0; i < FLAG_COUNT; i++) {
    const char *value = strcmp(table[i].type, "NUMBER") == 0 ? "7" : strcmp(table[i].type, "FLAG") == 0 ? "true" : is_reference(table[i].name) ? "a/b" : "json";
    char two[128], joined[160], dash[160];
    snprintf(two, sizeof two, "--%s", table[i].name);
    snprintf(joined, sizeof joined, "--%s=%s", table[i].name, value);
    snprintf(dash, sizeof dash, "-%s=%s", table[i].name, value);
    struct options a, b, c;
    if (parse(&a, two, value, NULL) || parse(&b, joined, NULL) || parse(&c, dash, NULL)) fail_msg("%s: %s", two, error);
    struct buffer pack_a = {0}, pack_b = {0}, pack_c = {0};
    options_pack(&a, "", &pack_a);
    options_pack(&b, "", &pack_b);
    options_pack(&c, "", &pack_c);
    assert_true(span_equal(buffer_span(&pack_a), buffer_span(&pack_b)));
    assert_true(span_equal(buffer_span(&pack_a), buffer_span(&pack_c)));
    assert_true(span_equal(pack_get_string(buffer_span(&pack_a), table[i].name, SPAN("")), span_of(value)));
    buffer_free(&pack_a);
    buffer_free(&pack_b);
    buffer_free(&pack_c);
  }
}

static void booleans(void **state) {
  (void)state;
  struct options options;
  assert_int_equal(parse(&options, "--require-policies", "--http-port", "8080", NULL), 0);
  assert_true(options.require_policies);
  assert_int_equal(options.http_port, 8080);
  assert_int_equal(parse(&options, "--deep-inspect=false", "--legacy-annotations", "false", NULL), 0);
  assert_false(options.deep_inspect);
  assert_false(options.legacy_annotations);
  assert_true(options.deep_inspect_is_set);
  assert_int_equal(parse(&options, "--help", NULL), 0);
  assert_true(options.help);
  assert_int_equal(parse(&options, "-h", NULL), 0);
  assert_true(options.help);
  REFUSED("--deep-inspect: \"maybe\" is not true or false", "--deep-inspect=maybe");
  REFUSED("--deep-inspect: \"\" is not true or false", "--deep-inspect=");
  REFUSED("unexpected argument \"maybe\"", "--deep-inspect", "maybe");
}

static void numbers(void **state) {
  (void)state;
  struct options options;
  assert_int_equal(parse(&options, "-v=5", "--workers", "4", "--http-port=0", "--https-port=65535", NULL), 0);
  assert_int_equal(options.verbosity, 5);
  assert_int_equal(options.workers, 4);
  assert_int_equal(options.http_port, 0);
  assert_true(options.http_port_is_set);
  assert_int_equal(options.https_port, 65535);
  REFUSED("--http-port: 65536 is not a port", "--http-port=65536");
  REFUSED("--http-port: -1 is not a port", "--http-port=-1");
  REFUSED("--workers: -2 is less than 0", "--workers=-2");
  REFUSED("--workers: \"\" is not a whole number", "--workers=");
  REFUSED("--workers: \"two\"", "--workers", "two");
  REFUSED("--workers: \"2x\"", "--workers=2x");
  REFUSED("--workers: \" 2\"", "--workers= 2");
  REFUSED("--workers: \"+2\"", "--workers=+2");
  REFUSED("--workers: \"-\"", "--workers=-");
  REFUSED("--workers: \"1.5\"", "--workers=1.5");
  REFUSED("is not a whole number", "--workers=99999999999999999999");
}

static void lists_and_texts(void **state) {
  (void)state;
  struct options options;
  assert_int_equal(parse(&options, "--policies", "/a", "--policies=/b=c", "--configmap", "ns/name", "--configmap=ns/later", NULL), 0);
  assert_int_equal(options.policies.count, 2);
  assert_string_equal(options.policies.items[0], "/a");
  assert_string_equal(options.policies.items[1], "/b=c");
  assert_string_equal(options.configmap, "ns/later");
  char *many[2 * (OPTIONS_LIST_MAX + 1)];
  for (int i = 0; i <= OPTIONS_LIST_MAX; i++) many[2 * i] = (char *)"--policies", many[2 * i + 1] = (char *)"/x";
  assert_int_equal(options_parse(&options, 2 * OPTIONS_LIST_MAX, many, error, sizeof error), 0);
  assert_int_equal(options_parse(&options, 2 * OPTIONS_LIST_MAX + 2, many, error, sizeof error), -1);
  assert_non_null(strstr(error, "--policies"));
}

static void what_is_refused(void **state) {
  (void)state;
  REFUSED("unknown flag --nonsense", "--nonsense");
  REFUSED("unknown flag --nonsense", "--nonsense=1");
  REFUSED("unknown flag --http-por", "--http-por=1");
  REFUSED("unknown flag --http-ports", "--http-ports=1");
  REFUSED("unknown flag", "--");
  REFUSED("unexpected argument \"stray\"", "--http-port=1", "stray");
  REFUSED("unexpected argument \"-\"", "-");
  REFUSED("unexpected argument \"\"", "");
  REFUSED("--configmap: a value is missing", "--configmap");
  REFUSED("--http-port: a value is missing", "--http-port");
  REFUSED("--log-format: \"xml\" is not text or json", "--log-format=xml");
  REFUSED("exclude each other", "--publish-service=a/b", "--publish-status-address=1.2.3.4");
  REFUSED("exclude each other", "--watch-namespace-selector=a=b", "--watch-namespace", "n");
  REFUSED("--metrics-per-undefined-host needs", "--metrics-per-undefined-host", "--metrics-per-host=false");
  struct options options;
  assert_int_equal(parse(&options, "--metrics-per-undefined-host", NULL), 0);
}

static void standalone_changes_two_defaults(void **state) {
  (void)state;
  struct options options;
  assert_int_equal(parse(&options, "--manifests=/m", NULL), 0);
  assert_true(options.watch_ingress_without_class);
  assert_int_equal(options.post_shutdown_grace_period, 0);
  assert_int_equal(parse(&options, "--watch-ingress-without-class=false", "--post-shutdown-grace-period=3", "--manifests=/m", NULL), 0);
  assert_false(options.watch_ingress_without_class);
  assert_int_equal(options.post_shutdown_grace_period, 3);
}

static void help_mentions_every_flag(void **state) {
  (void)state;
  struct buffer out = {0};
  options_help(&out);
  buffer_append(&out, SPAN("\0"));
  const char *help = buffer_span(&out).data;
  for (int i = 0; i < FLAG_COUNT; i++) {
    char line[128];
    snprintf(line, sizeof line, "\n  --%s ", table[i].name);
    const char *found = strstr(help, line);
    if (!found) fail_msg("--%s is not in the help", table[i].name);
    assert_null(strstr(found + 1, line));
    size_t length = strcspn(found + 1, "\n");
    bool says = memmem(found + 1, length, "[no effect yet]", 15) || memmem(found + 1, length, "[no meaning here", 16);
    assert_int_equal(says, strcmp(table[i].state, "WORKS") != 0);
    if (*table[i].fallback) assert_non_null(memmem(found + 1, length, table[i].fallback, strlen(table[i].fallback)));
  }
  const char *const parts[] = {"moongate check", "moongate echo", "moongate test", "\nTraffic\n", "\nCluster\n", "\nWhich objects\n", "\nOperation\n"};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) assert_non_null(strstr(help, parts[i]));
  buffer_free(&out);
}

struct said {
  char text[512];
};
static void say(void *context, const char *flag, const char *why) {
  struct said *said = context;
  size_t length = strlen(said->text);
  snprintf(said->text + length, sizeof said->text - length, "%s:%s;", flag, why);
}

static void flags_without_effect_are_said_once(void **state) {
  (void)state;
  struct options options;
  struct said said = {""};
  assert_int_equal(parse(&options, "--sync-period=1s", "--sync-period=2s", "--enable-ssl-passthrough", "--http-port=1", NULL), 0);
  options_without_effect(&options, say, &said);
  assert_string_equal(said.text, "enable-ssl-passthrough:has no effect yet;sync-period:has no meaning here;");
}

static void the_pack_holds_every_flag(void **state) {
  (void)state;
  struct options options;
  struct buffer out = {0};
  assert_int_equal(parse(&options, "--policies=/a", "--policies=/b", "--deep-inspect=false", "--workers=3", NULL), 0);
  options_pack(&options, "80,443", &out);
  struct span map = buffer_span(&out), skipped;
  for (int i = 0; i < FLAG_COUNT; i++) {
    struct span value;
    assert_true(pack_find(map, table[i].name, &value));
  }
  assert_true(span_equal(pack_get_string(map, "own-ports", SPAN("")), SPAN("80,443")));
  assert_true(span_equal(pack_get_string(map, "policies", SPAN("")), SPAN("/a,/b")));
  assert_true(span_equal(pack_get_string(map, "deep-inspect", SPAN("")), SPAN("false")));
  assert_true(span_equal(pack_get_string(map, "workers", SPAN("")), SPAN("3")));
  struct pack_reader reader;
  pack_reader_init(&reader, map);
  assert_true(pack_skip(&reader, &skipped));
  assert_int_equal(skipped.length, map.length);
  assert_true(options_cpu_count() >= 1);
  buffer_free(&out);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(defaults),
      cmocka_unit_test(both_spellings_of_every_flag),
      cmocka_unit_test(booleans),
      cmocka_unit_test(numbers),
      cmocka_unit_test(lists_and_texts),
      cmocka_unit_test(what_is_refused),
      cmocka_unit_test(standalone_changes_two_defaults),
      cmocka_unit_test(help_mentions_every_flag),
      cmocka_unit_test(flags_without_effect_are_said_once),
      cmocka_unit_test(the_pack_holds_every_flag),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
