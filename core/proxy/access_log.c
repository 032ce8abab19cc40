/* Access log: see access_log.h. Text lines are the settings' compiled template; JSON lines are ours, with fixed names. A line is made in the worker's scratch
 * buffer and copied into its ring, where it never waits. Worker's thread. */
#include "proxy/access_log.h"

#include "base/log.h"
#include "proxy/worker.h"

/* Field of a JSON line, and the variable that it is. */
struct json_field {
  const char *name;
  enum variable variable;
  const char *argument;
  bool is_number;
};

static const struct json_field json_fields[] = {
    {"time", VARIABLE_TIME_ISO8601, NULL, false},
    {"request_id", VARIABLE_REQ_ID, NULL, false},
    {"client", VARIABLE_REMOTE_ADDR, NULL, false},
    {"user", VARIABLE_REMOTE_USER, NULL, false},
    {"method", VARIABLE_REQUEST_METHOD, NULL, false},
    {"scheme", VARIABLE_PASS_ACCESS_SCHEME, NULL, false},
    {"host", VARIABLE_HOST, NULL, false},
    {"uri", VARIABLE_REQUEST_URI, NULL, false},
    {"protocol", VARIABLE_SERVER_PROTOCOL, NULL, false},
    {"status", VARIABLE_STATUS, NULL, true},
    {"request_bytes", VARIABLE_REQUEST_LENGTH, NULL, true},
    {"body_bytes", VARIABLE_BODY_BYTES_SENT, NULL, true},
    {"duration", VARIABLE_REQUEST_TIME, NULL, true},
    {"referer", VARIABLE_HTTP, "referer", false},
    {"user_agent", VARIABLE_HTTP, "user-agent", false},
    {"namespace", VARIABLE_NAMESPACE, NULL, false},
    {"ingress", VARIABLE_INGRESS_NAME, NULL, false},
    {"service", VARIABLE_SERVICE_NAME, NULL, false},
    {"service_port", VARIABLE_SERVICE_PORT, NULL, false},
    {"path", VARIABLE_LOCATION_PATH, NULL, false},
    {"upstream", VARIABLE_PROXY_UPSTREAM_NAME, NULL, false},
    {"alternative", VARIABLE_PROXY_ALTERNATIVE_UPSTREAM_NAME, NULL, false},
    {"endpoint", VARIABLE_UPSTREAM_ADDR, NULL, false},
    {"upstream_status", VARIABLE_UPSTREAM_STATUS, NULL, false},
    {"upstream_duration", VARIABLE_UPSTREAM_RESPONSE_TIME, NULL, false},
    {"upstream_bytes", VARIABLE_UPSTREAM_RESPONSE_LENGTH, NULL, false},
    {"tls", VARIABLE_SSL_PROTOCOL, NULL, false},
};

static void put_json_text(struct buffer *out, struct span text) {
  buffer_append(out, SPAN("\""));
  buffer_append_json(out, text);
  buffer_append(out, SPAN("\""));
}

static void write_json(struct exchange *exchange, struct buffer *out) {
  bool is_first = true;
  for (unsigned i = 0; i < sizeof json_fields / sizeof json_fields[0]; i++) {
    const struct json_field *field = &json_fields[i];
    struct span value = exchange_lookup(exchange, field->variable, span_of(field->argument), &exchange->arena);
    if (value.length == 0) continue;
    buffer_append(out, is_first ? SPAN("{\"") : SPAN(",\""));
    is_first = false;
    buffer_append(out, span_of(field->name));
    buffer_append(out, SPAN("\":"));
    if (field->is_number) buffer_append(out, value);
    else put_json_text(out, value);
  }
  if (exchange->reply_reason.length) {
    buffer_append(out, SPAN(",\"reason\":"));
    put_json_text(out, exchange->reply_reason);
  }
  buffer_append(out, SPAN("}"));
}

static bool is_skipped(const struct exchange *exchange, const struct settings *settings) {
  struct span list = settings->skip_access_log_urls, item;
  while (span_next_item(&list, ',', &item))
    if (span_equal(item, exchange->uri.path) || span_equal(item, exchange->target)) return true;
  return false;
}

static bool is_wanted(const struct exchange *exchange, const struct settings *settings) {
  if (settings->disable_access_log || !exchange->settings->access_log) return false;
  if (exchange->is_default && !settings->default_backend_access_log && exchange->request->method.length) return false;
  return settings->skip_access_log_urls.length == 0 || !is_skipped(exchange, settings);
}

static void put(struct worker *worker, struct span line) {
  struct log *log = worker->options.log;
  if (log->ring) {
    (void)log_ring_put(log->ring, LOG_ACCESS, line); /* the ring counts what it drops */
  } else if (log->capture) {
    log->capture(log->capture_context, LOG_INFO, line);
  }
}

void access_log_write(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  const struct settings *settings = worker->root ? worker->root->settings : NULL;
  if (!settings || !is_wanted(exchange, settings)) return;
  struct buffer *line = &worker->line;
  worker_update_clock(worker);
  if (settings->access_log_json) {
    write_json(exchange, line);
  } else {
    enum template_escape escape = settings->log_format_escape_json   ? TEMPLATE_ESCAPE_JSON
                                  : settings->log_format_escape_none ? TEMPLATE_ESCAPE_NONE
                                                                     : TEMPLATE_ESCAPE_LOG;
    template_append(settings->log_format, exchange_lookup, exchange, &exchange->arena, escape, escape == TEMPLATE_ESCAPE_LOG, line);
  }
  put(worker, buffer_span(line));
  buffer_consume(line, buffer_length(line));
}
