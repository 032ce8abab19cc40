/* Run: see run.h. The main thread starts everything, then waits for signals; it owns what it starts and frees it in reverse.
 *
 * Start: options, ports, log writer, publisher, workers (bound, not running), admin, sync. When the first root is published, the workers run and
 * /healthz turns 200. End: /healthz turns 500, workers say Connection: close, the grace period passes, listeners accept what is queued and close, exchanges
 * end. */
#include "app/run.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "app/admin.h"
#include "app/crash.h"
#include "app/log_writer.h"
#include "app/options.h"
#include "app/paths.h"
#include "app/ports.h"
#include "app/publisher.h"
#include "app/sync_thread.h"
#include "app/tls_source.h"
#include "base/check.h"
#include "base/error.h"
#include "script/http_client.h"
#include "script/script.h"

#define WORKERS_MAX 64
#define FIRST_PUBLISH_LOOK_MS 100
#define FIRST_PUBLISH_SAY_MS 2000
#define GUEST_MEMORY (32u << 20)
#define LEAVE_MS 6000 /* kube/following.lua gives up after 5 s */
#define LEAVE_LOOK_MS 20

struct worker_seat {
  struct worker worker;
  struct counters counters;
  struct tls_source *tls;
  struct script_worker *script;
  pthread_t thread;
  char name[24];
  bool is_running;
};

struct run {
  struct options options;
  struct log_writer *logs;
  struct series_registry *series; /* policies' counters */
  struct dict_store *dicts;       /* and their shared dictionaries */
  struct log *log;
  struct publisher *publisher;
  struct admin *admin;
  struct sync_thread *sync;
  struct gauges *gauges;
  struct traffic_table *traffic; /* NULL: --enable-metrics is off */
  struct tls_tickets *tickets;
  struct certificate *fallback;
  struct port_set http, https;
  struct worker_seat *seats;
  struct worker *workers[WORKERS_MAX];
  struct counters *counters[WORKERS_MAX + 2]; /* the workers', then those of the sync thread and the webhook */
  struct counters sync_counters, webhook_counters;
  unsigned worker_count;
  _Atomic uint64_t body_budget;
  _Atomic bool is_serving;
  bool awaits_policies; /* --require-policies, until none is broken; the admin thread's while we serve */
  uint16_t health_port;
  char api_host[256]; /* of --apiserver-host */
  char script_path[4096];
  int64_t started_unix;
};

static void say_without_effect(void *context, const char *flag, const char *why) {
  log_write(context, LOG_NOTICE, "flag without effect", "flag=--%s reason=\"%s\"", flag, why);
}

static void say_unknown_metric(void *context, struct span name) {
  log_write(context, LOG_WARN, "flag without effect", "flag=--exclude-socket-metrics reason=\"there is no metric %.*s\"", (int)name.length, name.data);
}

/* The flags are read in any case: what is wrong with them is said before somebody turns the metrics on. */
static int start_metrics(struct run *run, char *error, size_t size) {
  struct traffic_shape shape;
  run->gauges = gauges_new();
  if (metrics_shape(&run->options, run->worker_count, &shape, say_unknown_metric, run->log, error, size)) return -1;
  if (run->options.enable_metrics) run->traffic = traffic_table_new(&shape);
  return 0;
}

static int start_ports(struct run *run, char *error, size_t size) {
  const struct options *options = &run->options;
  if (ports_choose(&run->http, "HTTP", &options->bind_address, options->http_port, error, size)) return -1;
  return ports_choose(&run->https, "HTTPS", &options->bind_address, options->https_port, error, size);
}

static int start_publisher(struct run *run, const char *home, char *error, size_t size) {
  snprintf(run->script_path, sizeof run->script_path, "%s/lua", home);
  struct publisher_options options = {
      .workers = run->workers,
      .worker_count = run->worker_count,
      .script = {.lua_directory = run->script_path,
                 .workers = run->worker_count,
                 .log = log_writer_log(run->logs, "publisher"),
                 .guest_memory = GUEST_MEMORY,
                 .series = run->series,
                 .dicts = run->dicts},
      .resolver = *run->options.resolver ? run->options.resolver : NULL,
      .own_ports = {address_port(&run->http.addresses[0]), address_port(&run->https.addresses[0]), (uint16_t)run->options.healthz_port},
      .log_level = log_writer_level(run->logs),
      .traffic = run->traffic,
  };
  options.log = options.script.log;
  run->publisher = publisher_new(&options, error, size);
  return run->publisher ? 0 : -1;
}

static int start_worker(struct run *run, unsigned number, char *error, size_t size) {
  struct worker_seat *seat = &run->seats[number];
  snprintf(seat->name, sizeof seat->name, "worker-%u", number);
  struct log *log = log_writer_log(run->logs, seat->name);
  seat->tls = tls_source_new(&seat->worker, run->tickets, run->fallback, log);
  seat->script = script_worker_new(&seat->worker, log);
  struct worker_options options = {
      .number = number,
      .http = run->http.addresses,
      .https = run->https.addresses,
      .http_count = run->http.count,
      .https_count = run->https.count,
      .tickets = run->tickets,
      .tls_server = tls_source_server,
      .context = seat->tls,
      .hooks = script_hook_runner(seat->script),
      .returns = publisher_returns(run->publisher),
      .log = log,
      .counters = &seat->counters,
      .nobodys_traffic = run->traffic ? traffic_table_nobody(run->traffic) : NULL,
      .body_budget = &run->body_budget,
  };
  return worker_init(&seat->worker, &options, error, size);
}

static bool review(void *context, struct review *review) { return sync_thread_review(((struct run *)context)->sync, review); }

/* A mounted policy that breaks later makes nobody unready: its version before serves, and all replicas have the same file. */
static bool is_ready(void *context) {
  struct run *run = context;
  if (!atomic_load(&run->is_serving)) return false;
  if (!run->awaits_policies) return true;
  run->awaits_policies = sync_thread_has_broken_policies(run->sync);
  return !run->awaits_policies;
}

static int start_admin(struct run *run, char *error, size_t size) {
  struct webhook_options webhook = {
      .listen = run->options.validating_webhook,
      .certificate = run->options.validating_webhook_certificate,
      .key = run->options.validating_webhook_key,
      .review = review,
      .context = run,
      .counters = &run->webhook_counters,
  };
  struct admin_options options = {
      .address = {.v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)run->options.healthz_port)}},
      .health_path = run->options.health_check_path,
      .metrics = {.counters = run->counters,
                  .count = run->worker_count + 2,
                  .publisher = run->publisher,
                  .logs = run->logs,
                  .series = run->series,
                  .gauges = run->gauges,
                  .traffic = run->traffic,
                  .controller_class = run->options.controller_class,
                  .started_unix = run->started_unix},
      .is_ready = is_ready,
      .context = run,
      .log = log_writer_log(run->logs, "admin"),
      .webhook = *webhook.listen ? &webhook : NULL,
  };
  if (*run->options.healthz_host && address_parse_ip(span_of(run->options.healthz_host), (uint16_t)run->options.healthz_port, &options.address)) {
    snprintf(error, size, "--healthz-host: \"%s\" is not an IP address", run->options.healthz_host);
    return -1;
  }
  run->admin = admin_new(&options, &run->health_port, error, size);
  return run->admin ? 0 : -1;
}

static int start_sync(struct run *run, const char *home, char *error, size_t size) {
  struct sync_thread_options options = {
      .options = &run->options,
      .home = home,
      .script_path = run->script_path,
      .publisher = run->publisher,
      .gauges = run->gauges,
      .guest_memory = GUEST_MEMORY,
      .log = log_writer_log(run->logs, "sync"),
      .counters = &run->sync_counters,
      .own_ports = {address_port(&run->http.addresses[0]), address_port(&run->https.addresses[0]), run->health_port, admin_webhook_port(run->admin)},
  };
  run->sync = sync_thread_new(&options, error, size);
  return run->sync ? 0 : -1;
}

/* Where policies' requests may not go is known once everybody listens. */
static void bound_policies(struct run *run) {
  const char *host = strstr(run->options.apiserver_host, "://");
  host = host ? host + 3 : run->options.apiserver_host;
  bool has_brackets = *host == '[';
  snprintf(run->api_host, sizeof run->api_host, "%.*s", (int)strcspn(host + has_brackets, has_brackets ? "]" : ":/"), host + has_brackets);
  struct http_client_options options = {
      .resolver = *run->options.resolver ? run->options.resolver : NULL,
      .own_ports = {address_port(&run->http.addresses[0]), address_port(&run->https.addresses[0]), run->health_port, admin_webhook_port(run->admin)},
      .api_server = {getenv("KUBERNETES_SERVICE_HOST"), *run->api_host ? run->api_host : NULL},
  };
  for (unsigned i = 0; i < run->worker_count; i++) script_worker_set_http(run->seats[i].script, &options);
}

static void *worker_main(void *context) {
  worker_run(&((struct worker_seat *)context)->worker);
  return NULL;
}

static void rotate_tickets(struct run *run) { tls_tickets_rotate(run->tickets, (int64_t)time(NULL)); }

/* Waits for SIGTERM or SIGINT; meanwhile keys rotate. */
static int wait_for_signal(struct run *run, const sigset_t *set) {
  for (;;) {
    int number = sigtimedwait(set, NULL, &(struct timespec){.tv_sec = 60});
    rotate_tickets(run);
    if (number == SIGTERM || number == SIGINT) return number;
  }
}

static void sleep_unless_signal(const sigset_t *set, int64_t seconds) {
  if (seconds > 0) sigtimedwait(set, NULL, &(struct timespec){.tv_sec = seconds});
}

static void command_all(struct run *run, enum worker_command command) {
  for (unsigned i = 0; i < run->worker_count; i++) worker_command(run->workers[i], command);
}

/* Joins the workers; a second signal, or the time limit, ends what is left at once. */
static void join_workers(struct run *run, const sigset_t *set, int64_t limit_seconds) {
  struct timespec started, now;
  clock_gettime(CLOCK_MONOTONIC, &started);
  bool is_forced = false;
  for (unsigned i = 0; i < run->worker_count; i++) {
    if (!run->seats[i].is_running) continue;
    for (;;) {
      struct timespec until;
      clock_gettime(CLOCK_REALTIME, &until);
      until.tv_nsec += 50000000;
      if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
      }
      if (pthread_timedjoin_np(run->seats[i].thread, NULL, &until) == 0) break;
      clock_gettime(CLOCK_MONOTONIC, &now);
      bool is_late = now.tv_sec - started.tv_sec > limit_seconds;
      if (!is_forced && (is_late || sigtimedwait(set, NULL, &(struct timespec){0}) > 0)) {
        log_write(run->log, LOG_WARN, "ending what is left", "reason=%s", is_late ? "worker-shutdown-timeout" : "signal");
        command_all(run, WORKER_STOP);
        is_forced = true;
      }
    }
  }
}

static void shut_down(struct run *run, const sigset_t *set, int number) {
  log_write(run->log, LOG_NOTICE, "shutting down", "signal=%s", strsignal(number));
  atomic_store(&run->is_serving, false);
  command_all(run, WORKER_SAY_CLOSE);
  sleep_unless_signal(set, run->options.shutdown_grace_period);
  sync_thread_leave(run->sync);
  command_all(run, WORKER_DRAIN);
  join_workers(run, set, atomic_load(&publisher_gauges(run->publisher)->shutdown_timeout_ms) / 1000);
  for (int waited = 0; waited < LEAVE_MS && !sync_thread_has_left(run->sync); waited += LEAVE_LOOK_MS) poll(NULL, 0, LEAVE_LOOK_MS);
  sleep_unless_signal(set, run->options.post_shutdown_grace_period);
}

static void free_all(struct run *run) {
  if (run->sync) sync_thread_stop(run->sync);
  if (run->admin) admin_free(run->admin); /* it asks sync until then */
  if (run->sync) sync_thread_free(run->sync);
  publisher_stop(run->publisher); /* it wakes workers, whose loops go now */
  for (unsigned i = 0; i < run->worker_count; i++) {
    worker_free(&run->seats[i].worker);
  }
  publisher_free(run->publisher);
  traffic_table_free(run->traffic);
  gauges_free(run->gauges);
  for (unsigned i = 0; i < run->worker_count; i++) {
    script_worker_free(run->seats[i].script);
    tls_source_free(run->seats[i].tls);
  }
  certificate_free(run->fallback);
  tls_tickets_free(run->tickets);
  log_write(run->log, LOG_NOTICE, "ended", NULL);
  log_writer_free(run->logs);
  series_registry_free(run->series);
  dict_store_free(run->dicts);
  free(run->seats);
}

/* 0 when there is something to serve, or the signal that came before. */
static int wait_first(struct run *run, const sigset_t *set) {
  for (unsigned waited = 0; !publisher_wait_first(run->publisher, FIRST_PUBLISH_LOOK_MS);) {
    int number = sigtimedwait(set, NULL, &(struct timespec){0});
    if (number > 0) return number;
    waited += FIRST_PUBLISH_LOOK_MS;
    if (waited % FIRST_PUBLISH_SAY_MS == 0)
      log_write(run->log, LOG_NOTICE, *run->options.manifests ? "still reading manifests" : "waiting for the first sync with the cluster", NULL);
  }
  return 0;
}

/* Nothing is served yet, so nobody is owed anything: the process ends without waiting for the threads that read. */
static void end_before_serving(struct run *run, int number) {
  log_write(run->log, LOG_NOTICE, "ended before serving", "signal=%s", strsignal(number));
  log_writer_stop(run->logs);
  _exit(0);
}

static int fail(const char *message) {
  fprintf(stderr, "moongate: %s\n", message);
  return 1;
}

int run_main(int argc, char **argv) {
  static struct run run; /* one per process */
  char error[512];
  run.started_unix = (int64_t)time(NULL);
  if (options_parse(&run.options, argc, argv, error, sizeof error)) return fail(error) + 1;
  if (run.options.help) {
    struct buffer out = {0};
    options_help(&out);
    fwrite(out.data + out.start, 1, buffer_length(&out), stdout);
    buffer_free(&out);
    return 0;
  }
  if (run.options.version) {
    printf("moongate %s\n", MOONGATE_VERSION);
    return 0;
  }
  const char *home = paths_home();
  if (!home)
    return fail("the Lua files are not there (lua/moongate beside the program's folder, or " MOONGATE_PREFIX "/share/moongate; MOONGATE_HOME overrides)");

  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  pthread_sigmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);

  int64_t verbosity = run.options.verbosity;
  run.series = series_registry_new();
  run.dicts = dict_store_new();
  run.logs = log_writer_new(strcmp(run.options.log_format, "json") == 0, verbosity >= 5 ? LOG_DEBUG : verbosity >= 2 ? LOG_INFO : LOG_NOTICE);
  run.log = log_writer_log(run.logs, "main");
  run.worker_count = run.options.workers ? (unsigned)run.options.workers : options_cpu_count();
  if (run.worker_count > WORKERS_MAX) run.worker_count = WORKERS_MAX;
  run.seats = aligned_alloc(64, (sizeof *run.seats * run.worker_count + 63) / 64 * 64);
  must(run.seats);
  memset(run.seats, 0, sizeof *run.seats * run.worker_count);
  for (unsigned i = 0; i < run.worker_count; i++) {
    run.workers[i] = &run.seats[i].worker;
    run.counters[i] = &run.seats[i].counters;
  }
  run.counters[run.worker_count] = &run.sync_counters;
  run.counters[run.worker_count + 1] = &run.webhook_counters;
  run.tickets = tls_tickets_new();
  run.fallback = certificate_new_self_signed();
  if (start_metrics(&run, error, sizeof error) || start_ports(&run, error, sizeof error) || start_publisher(&run, home, error, sizeof error))
    return fail(error);
  for (unsigned i = 0; i < run.worker_count; i++)
    if (start_worker(&run, i, error, sizeof error)) return fail(error);
  ports_release(&run.http);
  ports_release(&run.https);
  if (start_admin(&run, error, sizeof error) || start_sync(&run, home, error, sizeof error)) return fail(error);
  bound_policies(&run);
  crash_install(run.workers, run.worker_count);

  options_without_effect(&run.options, say_without_effect, run.log);
  if (admin_webhook_port(run.admin)) log_write(run.log, LOG_NOTICE, "admission webhook listens", "port=%u", admin_webhook_port(run.admin));
  if (log_writer_start(run.logs) || admin_start(run.admin) || publisher_start(run.publisher) || sync_thread_start(run.sync))
    return fail("cannot start a thread");
  int number = wait_first(&run, &set);
  if (number) end_before_serving(&run, number);
  for (unsigned i = 0; i < run.worker_count; i++) {
    if (pthread_create(&run.seats[i].thread, NULL, worker_main, &run.seats[i])) return fail("cannot start a worker thread");
    run.seats[i].is_running = true;
  }
  run.awaits_policies = run.options.require_policies && sync_thread_has_broken_policies(run.sync);
  if (run.awaits_policies) log_write(run.log, LOG_ERROR, "not ready: a mounted policy is broken", "flag=--require-policies");
  atomic_store(&run.is_serving, true);
  log_write(run.log, LOG_NOTICE, "serving", "http_port=%u https_port=%u healthz_port=%u workers=%u version=%s", address_port(&run.http.addresses[0]),
            address_port(&run.https.addresses[0]), run.health_port, run.worker_count, MOONGATE_VERSION);
  shut_down(&run, &set, wait_for_signal(&run, &set));
  free_all(&run);
  return 0;
}
