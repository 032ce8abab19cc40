--- The controller's settings: keys of the ConfigMap that --configmap names, to the fields of core/route/settings.h. Pure.
local core = require "moongate.core"

local settings = {}

-- Values are texts; each reader gives the value or nil and what is wrong.
local read = {}

function read.flag(text)
  local value = ({ ["1"] = true, t = true, T = true, TRUE = true, ["true"] = true, True = true })[text]
  if value then return true end
  if ({ ["0"] = true, f = true, F = true, FALSE = true, ["false"] = true, False = true })[text] then return false end
  return nil, "is not true or false"
end

local EXACT = 2 ^ 52 -- what is whole on its way through a Lua number

local UNITS = { ms = 1, s = 1000, m = 60000, h = 3600000, d = 86400000, w = 604800000 }

--- A number of seconds, or nginx's and Go's spellings ("10m", "1h30m", "500ms"); in milliseconds.
function read.time(text)
  local total, rest = 0, text:find("^%d+$") and text .. "s" or text
  while rest ~= "" do
    local number, unit, after = rest:match("^(%d+)([a-z]+)(.*)$")
    if not number or not UNITS[unit] then return nil, "is not a time, such as 60, 10m or 500ms" end
    total, rest = total + tonumber(number) * UNITS[unit], after
  end
  if text == "" then return nil, "is empty" end
  if total > EXACT then return nil, "is too long" end
  return total
end

function read.number(text)
  if not text:find("^%d+$") or #text > 15 then return nil, "is not a whole number" end
  return tonumber(text)
end

local SIZES = { [""] = 1, b = 1, k = 1024, m = 1048576, g = 1073741824 }

function read.size(text)
  local number, unit = text:match("^(%d+)([bkmgBKMG]?)$")
  if not number then return nil, "is not a size, such as 8k or 1m" end
  local bytes = tonumber(number) * SIZES[unit:lower()]
  if bytes > EXACT then return nil, "is too large" end
  return bytes
end

function read.text(text) return text end

local function one_of(...)
  local values = { ... }
  return function(text)
    for _, value in ipairs(values) do
      if value == text then return text end
    end
    return nil, "is not one of " .. table.concat(values, ", ")
  end
end

local function words_of(allowed)
  return function(text)
    local count = 0
    for word in text:gmatch("%S+") do
      if not allowed[word] then return nil, ("holds %q"):format(word) end
      count = count + 1
    end
    if count == 0 then return nil, "is empty" end
    return text
  end
end

local function header_name(text)
  if not text:find("^[A-Za-z0-9_-]+$") then return nil, "is not a header's name" end
  return text
end

-- Key -> { field, reader }. The fields and their defaults are in core/route/settings.h; a key that is absent or bad is left out, so that the
-- default stands there once.
local KEYS = {
  ["client-header-buffer-size"] = { "client_header_buffer_bytes", read.size },
  ["client-header-timeout"] = { "client_header_timeout_ms", read.time },
  ["client-body-timeout"] = { "client_body_timeout_ms", read.time },
  ["keep-alive"] = { "keep_alive_ms", read.time },
  ["keep-alive-requests"] = { "keep_alive_requests", read.number },
  ["enable-underscores-in-headers"] = { "allow_underscores", read.flag },
  ["ignore-invalid-headers"] = { "ignore_invalid_headers", read.flag },
  ["max-worker-connections"] = { "max_worker_connections", read.number },
  ["upstream-keepalive-connections"] = { "upstream_keepalive_connections", read.number },
  ["upstream-keepalive-time"] = { "upstream_keepalive_time_ms", read.time },
  ["upstream-keepalive-timeout"] = { "upstream_keepalive_timeout_ms", read.time },
  ["upstream-keepalive-requests"] = { "upstream_keepalive_requests", read.number },
  ["use-forwarded-headers"] = { "use_forwarded_headers", read.flag },
  ["enable-real-ip"] = { "enable_real_ip", read.flag },
  ["use-proxy-protocol"] = { "use_proxy_protocol", read.flag },
  ["proxy-protocol-header-timeout"] = { "proxy_protocol_header_timeout_ms", read.time },
  ["proxy-real-ip-cidr"] = { "proxy_real_ip_cidr", read.text, value = "ip_set" },
  ["forwarded-for-header"] = { "forwarded_for_header", header_name },
  ["compute-full-forwarded-for"] = { "compute_full_forwarded_for", read.flag },
  ["proxy-add-original-uri-header"] = { "proxy_add_original_uri_header", read.flag },
  ["generate-request-id"] = { "generate_request_id", read.flag },
  ["allow-backend-server-header"] = { "allow_backend_server_header", read.flag },
  ["server-tokens"] = { "server_tokens", read.flag },
  ["hide-headers"] = { "hide_headers", read.text },
  ["disable-access-log"] = { "disable_access_log", read.flag },
  ["enable-access-log-for-default-backend"] = { "default_backend_access_log", read.flag },
  ["log-format-upstream"] = { "log_format_upstream", read.text },
  ["log-format-escape-json"] = { "log_format_escape_json", read.flag },
  ["log-format-escape-none"] = { "log_format_escape_none", read.flag },
  ["skip-access-log-urls"] = { "skip_access_log_urls", read.text },
  ["ssl-protocols"] = { "ssl_protocols", words_of { ["TLSv1.2"] = true, ["TLSv1.3"] = true } },
  ["ssl-ciphers"] = { "ssl_ciphers", read.text, value = "tls_ciphers" },
  ["ssl-ecdh-curve"] = { "ssl_ecdh_curve", read.text, value = "tls_curves" },
  ["ssl-session-tickets"] = { "ssl_session_tickets", read.flag },
  ["ssl-session-timeout"] = { "ssl_session_timeout_ms", read.time },
  ["ssl-reject-handshake"] = { "ssl_reject_handshake", read.flag },
  ["error-log-level"] = { "error_log_level", one_of("debug", "info", "notice", "warn", "error", "crit", "alert", "emerg") },
  ["worker-shutdown-timeout"] = { "worker_shutdown_timeout_ms", read.time },
}

local function risk_level(text)
  if ({ low = true, medium = true, high = true, critical = true })[text:lower()] then return text end
  return nil, "is not one of Low, Medium, High, Critical"
end

local function words(text)
  local list = {}
  for word in text:gmatch("[^,]+") do
    word = word:match("^%s*(.-)%s*$")
    if word ~= "" then list[#list + 1] = word end
  end
  return list
end

-- Keys that this side reads itself; the last four are read where annotations are.
local OWN = {
  ["access-log-format"] = one_of("json", "text", "nginx"),
  ["large-client-header-buffers"] = function(text)
    local count, size = text:match("^(%d+)%s+(%S+)$")
    local bytes = size and read.size(size)
    if not bytes or tonumber(count) * bytes > EXACT then return nil, "is not a count and a size, such as 4 8k" end
    return { tonumber(count) * bytes, bytes }
  end,
  ["proxy-set-headers"] = read.text, ["add-headers"] = read.text,
  ["service-upstream"] = read.flag, ["strict-validate-path-type"] = read.flag,
  ["allow-cross-namespace-resources"] = read.flag, ["annotations-risk-level"] = risk_level,
  ["annotation-value-word-blocklist"] = words, ["allow-snippet-annotations"] = read.flag,
}

-- Decided when the process starts, before there is a ConfigMap.
local AT_START = {
  ["worker-processes"] = "has no effect: the number of workers is decided at start, by --workers",
  ["bind-address"] = "has no effect: listeners are opened at start, on --bind-address",
}

local KNOWN = {}
for key in ([[
  access-log-params access-log-path http-access-log-path stream-access-log-path enable-auth-access-log error-log-path
  client-body-buffer-size disable-http-access-log disable-stream-access-log disable-ipv6
  disable-ipv6-dns enable-ocsp retry-non-idempotent http2-max-concurrent-streams use-http2 hsts hsts-include-subdomains hsts-max-age hsts-preload
  log-format-stream nginx-status-ipv4-whitelist nginx-status-ipv6-whitelist ssl-dh-param
  ssl-early-data ssl-session-cache ssl-session-cache-size ssl-session-ticket-key ssl-buffer-size use-gzip gzip-level gzip-min-length
  gzip-types gzip-disable enable-brotli brotli-level brotli-min-length brotli-types use-geoip2 geoip2-autoreload-in-minutes
  load-balance limit-conn-zone-variable limit-req-status-code limit-conn-status-code limit-rate
  limit-rate-after proxy-stream-timeout proxy-stream-next-upstream proxy-stream-next-upstream-timeout proxy-stream-next-upstream-tries
  proxy-stream-responses forwarded-host-header forwarded-for-proxy-protocol-header enable-opentelemetry opentelemetry-trust-incoming-span
  opentelemetry-operation-name opentelemetry-config otlp-collector-host otlp-collector-port otel-service-name otel-sampler otel-sampler-parent-based
  otel-sampler-ratio otel-max-queuesize otel-schedule-delay-millis otel-max-export-batch-size
  proxy-body-size proxy-connect-timeout proxy-read-timeout proxy-send-timeout proxy-buffer-size
  proxy-buffering proxy-request-buffering
  proxy-http-version proxy-cookie-path proxy-cookie-domain proxy-next-upstream proxy-next-upstream-timeout proxy-next-upstream-tries
  proxy-redirect-from proxy-redirect-to ssl-redirect force-ssl-redirect preserve-trailing-slash use-port-in-redirects relative-redirects
  http-redirect-code no-tls-redirect-locations no-auth-locations denylist-source-range whitelist-source-range block-cidrs
  enable-syslog syslog-host syslog-port global-allowed-response-headers proxy-ssl-location-only default-type debug-connections
]]):gmatch("%S+") do KNOWN[key] = "later" end
for key in ([[
  block-user-agents block-referers enable-modsecurity enable-owasp-modsecurity-crs
]]):gmatch("%S+") do KNOWN[key] = "open" end
for key in ([[
  http2-max-field-size http2-max-header-size http2-max-requests map-hash-bucket-size server-name-hash-max-size server-name-hash-bucket-size
  proxy-headers-hash-max-size proxy-headers-hash-bucket-size variables-hash-bucket-size variables-hash-max-size lua-shared-dicts
  enable-serial-reloads enable-multi-accept max-worker-open-files worker-cpu-affinity reuse-port enable-aio-write
  proxy-buffers-number proxy-busy-buffers-size proxy-max-temp-file-size grpc-buffer-size-kb
  use-geoip jaeger-collector-host jaeger-collector-port jaeger-service-name jaeger-sampler-type jaeger-sampler-param zipkin-collector-host
  datadog-collector-host
]]):gmatch("%S+") do KNOWN[key] = "nothing" end
for key in ([[
  main-snippet http-snippet server-snippet location-snippet stream-snippet modsecurity-snippet
]]):gmatch("%S+") do KNOWN[key] = "nginx" end

--- What C says of a value of that kind: it will be the one to use it.
local function check_value(kind, text)
  if kind ~= "tls_ciphers" and kind ~= "tls_curves" then return core.value(kind, text) end
  local ok, why = core.tls_check(kind == "tls_ciphers" and text or nil, kind == "tls_curves" and text or nil)
  if not ok then why = "is not taken by OpenSSL (" .. why .. ")" end
  return ok, why
end

--- The keys that work, but for those of policies.
---@return table<string, true>
function settings.keys()
  local keys = {}
  for key in pairs(KEYS) do keys[key] = true end
  for key in pairs(OWN) do keys[key] = true end
  return keys
end

--- Reads the ConfigMap.
---@param data table<string, string> its data
---@param declared table<string, any> keys that policies declare: theirs to read
---@return table fields for the seam
---@return table own values of the keys that this side reads
---@return Finding[] findings
function settings.read(data, declared)
  local fields, own, findings = {}, {}, {}
  local function note(level, key, text, ...)
    findings[#findings + 1] = { level = level, setting = key, text = text:format(...), is_quiet = level == "info" }
  end
  for key, raw in pairs(data) do
    local text = raw:match("^%s*(.-)%s*$")
    local rule, own_reader = KEYS[key], OWN[key]
    local problem, value
    if text == "" then -- as if it were not there
      problem = nil
    elseif rule then
      value, problem = rule[2](text)
      if rule.value and value then
        local checked, complaint = check_value(rule.value, text)
        if not checked then value, problem = nil, complaint end
      end
      fields[rule[1]] = value
    elseif own_reader then
      own[key], problem = own_reader(text)
    elseif declared[key] then
      problem = nil
    elseif AT_START[key] then
      if text ~= "auto" then note("warn", key, "%s: %s", key, AT_START[key]) end
    elseif KNOWN[key] == "nginx" then
      note("info", key, "is about nginx configuration text, and there is no nginx here; write a policy instead")
    elseif KNOWN[key] == "open" then -- nobody may believe that it is kept
      note("warn", key, "%s: is not supported yet: what it would refuse is served", key)
    elseif KNOWN[key] == "later" then
      note("info", key, "is not supported yet")
    elseif KNOWN[key] == "nothing" then
      note("info", key, "has no meaning here")
    else
      note("warn", key, "is not a known setting")
    end
    if problem then note("warn", key, "%s: %q %s; the default is used", key, text, problem) end
  end
  local buffers = own["large-client-header-buffers"]
  if buffers then fields.client_head_bytes, fields.client_request_line_bytes = buffers[1], buffers[2] end
  if own["access-log-format"] then fields.access_log_json = own["access-log-format"] == "json" end
  return fields, own, findings
end

return settings
