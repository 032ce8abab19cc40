/* Options: one table, made of FLAGS, drives parsing, help, and what crosses to the sync side. Main thread, at start. */
#include "app/options.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pack.h"

enum flag_type { FLAG_TEXT = 0, FLAG_NUMBER = 1, FLAG_FLAG = 2, FLAG_LIST = 3 };
enum flag_group { GROUP_STANDALONE = 0, GROUP_TRAFFIC = 1, GROUP_OBJECTS = 2, GROUP_CLUSTER = 3, GROUP_OPERATION = 4, GROUP_LOGGING = 5, GROUP_COUNT = 6 };
enum flag_state { STATE_WORKS = 0, STATE_LATER = 1, STATE_NOTHING = 2 };

struct flag {
  const char *name;
  enum flag_type type;
  const char *fallback;
  enum flag_group group;
  enum flag_state state;
  const char *help;
  size_t value_offset, set_offset;
};

static const struct flag flags[] = {
#define X(name, field, type, fallback, group, state, help) \
  {name, FLAG_##type, fallback, GROUP_##group, STATE_##state, help, offsetof(struct options, field), offsetof(struct options, field##_is_set)},
    FLAGS(X)
#undef X
};

static const char *const group_titles[GROUP_COUNT] = {
    "Manifests and policies", "Traffic", "Which objects", "Cluster", "Operation", "Logging and help",
};

static const size_t flag_count = sizeof flags / sizeof flags[0];

static const struct flag *find_flag(const char *name, size_t length) {
  for (size_t i = 0; i < flag_count; i++)
    if (strlen(flags[i].name) == length && memcmp(flags[i].name, name, length) == 0) return &flags[i];
  return NULL;
}

static int parse_boolean(const char *text) {
  static const char *const yes[] = {"true", "1", "t", "T", "TRUE", "True"}, *const no[] = {"false", "0", "f", "F", "FALSE", "False"};
  for (size_t i = 0; i < 6; i++) {
    if (strcmp(text, yes[i]) == 0) return 1;
    if (strcmp(text, no[i]) == 0) return 0;
  }
  return -1;
}

static int store(struct options *options, const struct flag *flag, const char *value, char *error, size_t error_size) {
  void *field = (char *)options + flag->value_offset;
  if (flag->type == FLAG_TEXT) {
    *(const char **)field = value;
  } else if (flag->type == FLAG_NUMBER) {
    char *end;
    errno = 0;
    long long number = strtoll(value, &end, 10);
    bool is_number = *value == '-' || (*value >= '0' && *value <= '9'); /* strtoll would also take spaces and a plus */
    if (!is_number || *end != '\0' || errno) {
      snprintf(error, error_size, "--%s: \"%s\" is not a whole number", flag->name, value);
      return -1;
    }
    size_t length = strlen(flag->name);
    if (length > 5 && strcmp(flag->name + length - 5, "-port") == 0 && (number < 0 || number > 65535)) {
      snprintf(error, error_size, "--%s: %lld is not a port (0 to 65535)", flag->name, number);
      return -1;
    }
    if (number < 0) {
      snprintf(error, error_size, "--%s: %lld is less than 0", flag->name, number);
      return -1;
    }
    *(int64_t *)field = number;
  } else if (flag->type == FLAG_FLAG) {
    int truth = parse_boolean(value);
    if (truth < 0) {
      snprintf(error, error_size, "--%s: \"%s\" is not true or false", flag->name, value);
      return -1;
    }
    *(bool *)field = truth;
  } else if (*value) {
    struct option_list *list = field;
    if (list->count == OPTIONS_LIST_MAX) {
      snprintf(error, error_size, "--%s: given more than %d times", flag->name, OPTIONS_LIST_MAX);
      return -1;
    }
    list->items[list->count++] = value;
  }
  return 0;
}

/* Listeners of one process: the kernel would let two of them share a port and deal its connections out to both. */
static int check_ports(const struct options *options, char *error, size_t error_size) {
  const struct {
    const char *name;
    int64_t port;
  } ports[] = {{"http-port", options->http_port}, {"https-port", options->https_port}, {"healthz-port", options->healthz_port}};
  for (size_t i = 0; i < 3; i++)
    for (size_t k = i + 1; k < 3; k++)
      if (ports[i].port && ports[i].port == ports[k].port) {
        snprintf(error, error_size, "--%s and --%s are both %lld", ports[i].name, ports[k].name, (long long)ports[i].port);
        return -1;
      }
  return 0;
}

static int check_reference(const char *name, const char *value, char *error, size_t error_size) {
  const char *slash = strchr(value, '/');
  if (!*value || (slash && slash != value && slash[1] && !strchr(slash + 1, '/'))) return 0;
  snprintf(error, error_size, "--%s: \"%s\" is not NAMESPACE/NAME", name, value);
  return -1;
}

int options_parse(struct options *options, int argc, char **argv, char *error, size_t error_size) {
  return options_parse_with_paths(options, argc, argv, NULL, error, error_size);
}

int options_parse_with_paths(struct options *options, int argc, char **argv, struct option_paths *paths, char *error, size_t error_size) {
  memset(options, 0, sizeof *options);
  for (size_t i = 0; i < flag_count; i++)
    if (store(options, &flags[i], flags[i].fallback, error, error_size)) return -1;
  for (int i = 0; i < argc; i++) {
    const char *argument = argv[i];
    if (strcmp(argument, "-h") == 0) argument = "--help";
    if (paths && argument[0] != '-') {
      if (paths->count == OPTIONS_PATHS_MAX) {
        snprintf(error, error_size, "more than %d paths", OPTIONS_PATHS_MAX);
        return -1;
      }
      paths->items[paths->count++] = argument;
      continue;
    }
    if (argument[0] != '-' || argument[1] == '\0') {
      snprintf(error, error_size, "unexpected argument \"%s\" (flags begin with --; see moongate --help)", argument);
      return -1;
    }
    const char *name = argument + (argument[1] == '-' ? 2 : 1);
    size_t length = strcspn(name, "=");
    const struct flag *flag = find_flag(name, length);
    if (!flag) {
      snprintf(error, error_size, "unknown flag --%.*s (see moongate --help)", (int)length, name);
      return -1;
    }
    const char *value = name[length] == '=' ? name + length + 1 : NULL;
    if (!value && flag->type == FLAG_FLAG) value = i + 1 < argc && parse_boolean(argv[i + 1]) >= 0 ? argv[++i] : "true";
    if (!value) {
      if (i + 1 == argc) {
        snprintf(error, error_size, "--%s: a value is missing", flag->name);
        return -1;
      }
      value = argv[++i];
    }
    if (store(options, flag, value, error, error_size)) return -1;
    *((bool *)((char *)options + flag->set_offset)) = true;
  }
  if (options->publish_service_is_set && options->publish_status_address_is_set) {
    snprintf(error, error_size, "--publish-service and --publish-status-address exclude each other");
    return -1;
  }
  if (options->watch_namespace_is_set && options->watch_namespace_selector_is_set) {
    snprintf(error, error_size, "--watch-namespace and --watch-namespace-selector exclude each other");
    return -1;
  }
  if (options->metrics_per_undefined_host && !options->metrics_per_host) {
    snprintf(error, error_size, "--metrics-per-undefined-host needs --metrics-per-host=true");
    return -1;
  }
  if (strcmp(options->log_format, "text") != 0 && strcmp(options->log_format, "json") != 0) {
    snprintf(error, error_size, "--log-format: \"%s\" is not text or json", options->log_format);
    return -1;
  }
  if (check_ports(options, error, error_size)) return -1;
  if (check_reference("configmap", options->configmap, error, error_size)) return -1;
  if (check_reference("publish-service", options->publish_service, error, error_size)) return -1;
  if (check_reference("default-backend-service", options->default_backend_service, error, error_size)) return -1;
  if (check_reference("default-ssl-certificate", options->default_ssl_certificate, error, error_size)) return -1;
  if (*options->manifests) {
    if (!options->watch_ingress_without_class_is_set) options->watch_ingress_without_class = true;
    if (!options->post_shutdown_grace_period_is_set) options->post_shutdown_grace_period = 0;
  }
  return 0;
}

void options_help(struct buffer *out) {
  buffer_printf(out,
                "Moongate %s: a proxy runtime scripted in Lua, and an ingress controller.\n\n"
                "  moongate [run] [flags]                      follow the cluster that this pod runs in, or that --kubeconfig names\n"
                "  moongate [run] --manifests DIR [flags]      serve the manifests of a directory\n"
                "  moongate check PATH...                      report what is wrong with manifests; status 1 if anything is refused\n"
                "  moongate test DIR                           run the policy specs of a directory with busted\n"
                "  moongate echo --listen ADDR:PORT [--name N] the sample application\n"
                "  moongate wait-shutdown                      end the controller of this container and wait for it (preStop)\n\n"
                "Flags of run (--flag=value or --flag value):\n",
                MOONGATE_VERSION);
  static const char *const note[] = {"", " [no effect yet]", " [no meaning here, accepted]"};
  for (int group = 0; group < GROUP_COUNT; group++) {
    buffer_printf(out, "\n%s\n", group_titles[group]);
    for (size_t i = 0; i < flag_count; i++) {
      const struct flag *flag = &flags[i];
      if ((int)flag->group != group) continue;
      char left[80];
      snprintf(left, sizeof left, "--%s%s", flag->name, flag->type == FLAG_FLAG ? "" : flag->type == FLAG_NUMBER ? " N" : " TEXT");
      buffer_printf(out, "  %-38s %s%s%s%s%s\n", left, flag->help, *flag->fallback ? " (" : "", flag->fallback, *flag->fallback ? ")" : "", note[flag->state]);
    }
  }
}

void options_without_effect(const struct options *options, void (*say)(void *context, const char *flag, const char *why), void *context) {
  for (size_t i = 0; i < flag_count; i++) {
    if (!*((const bool *)((const char *)options + flags[i].set_offset)) || flags[i].state == STATE_WORKS) continue;
    say(context, flags[i].name, flags[i].state == STATE_LATER ? "has no effect yet" : "has no meaning here");
  }
}

void options_pack(const struct options *options, const char *own_ports, struct buffer *out) {
  pack_put_map(out, (uint32_t)flag_count + 1);
  pack_put_string(out, SPAN("own-ports"));
  pack_put_string(out, span_of(own_ports));
  for (size_t i = 0; i < flag_count; i++) {
    const void *field = (const char *)options + flags[i].value_offset;
    struct buffer text = {0};
    if (flags[i].type == FLAG_TEXT) buffer_append(&text, span_of(*(const char *const *)field));
    else if (flags[i].type == FLAG_NUMBER) buffer_printf(&text, "%lld", (long long)*(const int64_t *)field);
    else if (flags[i].type == FLAG_FLAG) buffer_append(&text, *(const bool *)field ? SPAN("true") : SPAN("false"));
    else {
      const struct option_list *list = field;
      for (unsigned n = 0; n < list->count; n++) buffer_printf(&text, "%s%s", n ? "," : "", list->items[n]);
    }
    pack_put_string(out, span_of(flags[i].name));
    pack_put_string(out, buffer_span(&text));
    buffer_free(&text);
  }
}

/* cgroup v2 quota ("max" or "quota period"); the controller's own group is mounted at the root inside a container. */
static unsigned cgroup_cpus(void) {
  FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
  if (!file) return 0;
  long long quota, period;
  int got = fscanf(file, "%lld %lld", &quota, &period);
  fclose(file);
  if (got != 2 || quota <= 0 || period <= 0) return 0;
  return (unsigned)((quota + period - 1) / period);
}

unsigned options_cpu_count(void) {
  cpu_set_t set;
  unsigned count = sched_getaffinity(0, sizeof set, &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
  unsigned quota = cgroup_cpus();
  if (quota && quota < count) count = quota;
  return count ? count : 1;
}
