--- Specs of policies: no cluster, no socket, but the real request path. A route is attached by the real driver, built by the real C, and
-- its requests are bytes that pass the head check, the parser and every step from reading the head to the log; only the sockets are memory.
--
--   local shop = testing.route { policy = "new_shop.lua", annotations = { ... }, services = { ["new:80"] = { "10.0.0.9:80" } } }
--   local result = shop:request { method = "GET", host = "shop.test", uri = "/", headers = { Cookie = "shop=old" } }
--
-- testing.route { ... }
--   policy, policies   a file (or several): a path, or a name beside the spec or in policies/
--   source             the text of a policy instead of its file; an item of `policies` may be { source =, trusted = } too
--   trusted            run as a built-in; default: the built-in files are, others are guests
--   annotations        short names to texts            settings   ConfigMap keys to texts
--   host, path, path_type, tls, namespace, name        facts of the Ingress ("_", "/", "Prefix", false, "default", "test")
--   services           "name:port" ("name": its first port) to a list of endpoints ("10.0.0.9:80" or { address =, ready =, draining = });
--                      "default": the route's own Service
--   secrets, config_maps   "namespace/name" to tables   sources    the host's objects, where host:sources matter
--   alternatives       what canary Ingresses offer: { service = "name:port", annotations =, name =, namespace = }, oldest first; see services
--   answer             what endpoints answer: { status, headers, body }
--   answers            the same by endpoint address, or "refuse"
--   http               answers the requests of policies, which are not sent: function({ method, url, upstream = "name:port" or nil, path, headers, body,
--                      timeout }) -> { status, headers, body }, or nil and why
--   allow_findings     do not raise on the first complaint; they are in route.findings: { { level, text, annotation or setting } }
-- route:request { ... }
--   method, host, uri, headers, scheme ("http"), client (the address that it comes from)
--   body               text, or a list of texts, which are sent as chunks; late_body: what the client sends after a pause, where headers say that it comes
--   answer, answers, http   as above, for this request
--   -> { status, response = { headers, all, body }, sent = { method, uri, host, headers, all, body } or nil,
--        upstream = "default", a service's "name:port" or nil, endpoint, attempts, log = { lines } }     names in headers and all are lower case
-- route:metrics()      the counters of policies, as /metrics has them
--
-- Sleeping takes no time, but the clock moves by it, for all that looks at time: moongate.time, timeouts, exchange.duration.
local core = require "moongate.core"
local owners = require "moongate.owners"

--- `raised`: what hooks raised, for `moongate test`, which shows it where a test fails (testing_report.lua).
local testing = { raised = {} }

local MAIN, MAIN_KEY = "default-default-80", "default/default/80"

----------------------------------------------------------------------------------------------------------------- files

local here = debug.getinfo(1, "S").source:gsub("^@", "")
local lua_directory = here:gsub("/?moongate/testing%.lua$", "")
if lua_directory == "" then lua_directory = "." end
local home = lua_directory:gsub("/?lua$", "")
if home == "" then home = "." end

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

--- Directory of the spec that called: policies are often beside it.
local function caller_directory()
  for level = 3, 12 do
    local info = debug.getinfo(level, "S")
    if not info then return nil end
    if info.source:sub(1, 1) == "@" and info.source ~= "@" .. here then return info.source:sub(2):match("^(.*)/[^/]*$") or "." end
  end
end

--- Raises at the spec's line, unless the text has a place of its own.
local function complain(text)
  for level = 2, 16 do
    local info = debug.getinfo(level, "Sl")
    if not info or text:find "^[^%s:]+%.lua:[%d-]+:" then break end
    if info.what ~= "C" and info.source ~= "@" .. here then error(("%s:%d: %s"):format(info.short_src, info.currentline, text), 0) end
  end
  error(text, 0)
end

local OPTIONS = {}
for name in ([[policy policies source trusted annotations settings host path path_type tls namespace name services secrets config_maps sources alternatives
  answer answers allow_findings http]]):gmatch "%a[%a_]*" do OPTIONS[name] = "route" end
for name in ("method host uri headers body late_body scheme client answer answers http"):gmatch "%a[%a_]*" do
  OPTIONS[name] = OPTIONS[name] and "both" or "request"
end

--- A misspelled option would be none at all.
local function check_options(given, kind)
  for name in pairs(given) do
    local of = OPTIONS[name]
    local called = kind == "route" and "testing.route" or "route:request"
    if of ~= "both" and of ~= kind then complain(("%s: there is no option '%s'"):format(called, tostring(name))) end
  end
end

local function find_policy(name, beside)
  for _, path in ipairs { name, beside and beside .. "/" .. name, home .. "/" .. name, home .. "/policies/" .. name, home .. "/policies/examples/" .. name } do
    local text = path and read(path)
    if text then return path, text end
  end
  complain("testing.route: there is no policy file " .. name)
end

-- Files of our own policies/ are the built-in ones; a user's folder may have the same name.
local function is_builtin(path)
  local folder = home .. "/policies/"
  return path:sub(1, #folder) == folder and not path:find("/", #folder + 1, true)
end

--------------------------------------------------------------------------------------------------------------- messages

local function parse_fields(head)
  local first, all = {}, {}
  for name, value in head:gmatch("\r\n([^:\r\n]+):[ \t]*([^\r\n]*)") do
    local key = name:lower()
    all[key] = all[key] or {}
    table.insert(all[key], value)
    first[key] = first[key] or value
  end
  return first, all
end

local function unchunk(body)
  local parts, position = {}, 1
  while true do
    local size, stop = body:match("^(%x+)[^\r\n]*\r\n()", position)
    if not size then break end
    local length = tonumber(size, 16)
    if length == 0 then break end
    parts[#parts + 1] = body:sub(stop, stop + length - 1)
    position = stop + length + 2
  end
  return table.concat(parts)
end

local function split_message(bytes)
  local stop = bytes:find("\r\n\r\n", 1, true)
  if not stop then return nil end
  local head, body = bytes:sub(1, stop - 1), bytes:sub(stop + 4)
  local headers, all = parse_fields(head)
  if (headers["transfer-encoding"] or ""):lower():find("chunked", 1, true) then body = unchunk(body) end
  return head, headers, all, body
end

local function parse_response(bytes)
  while bytes:find("^HTTP/1%.1 1%d%d") and not bytes:find("^HTTP/1%.1 101") do
    local _, stop = bytes:find("\r\n\r\n", 1, true)
    if not stop then break end
    bytes = bytes:sub(stop + 1)
  end
  local head, headers, all, body = split_message(bytes)
  if not head then return nil end
  return tonumber(head:match("^HTTP/%d%.%d (%d%d%d)")), { headers = headers, all = all, body = body }
end

local function parse_request(bytes)
  local head, headers, all, body = split_message(bytes)
  local method, uri = head:match("^(%S+) (%S+) HTTP/")
  return { method = method, uri = uri, host = headers.host, headers = headers, all = all, body = body }
end

local function add_fields(out, headers)
  for name, value in pairs(headers or {}) do
    for _, item in ipairs(type(value) == "table" and value or { value }) do out[#out + 1] = name .. ": " .. item .. "\r\n" end
  end
end

local function answer_bytes(answer)
  if type(answer) == "string" then return answer end
  local body = answer.body or ""
  local out = { "HTTP/1.1 ", tostring(answer.status or 200), " Answer\r\nContent-Length: ", tostring(#body), "\r\n" }
  add_fields(out, answer.headers)
  out[#out + 1] = "\r\n"
  out[#out + 1] = body
  return table.concat(out)
end

local function request_bytes(request, host)
  local out = { request.method or "GET", " ", request.uri or "/", " HTTP/1.1\r\nHost: ", request.host or host, "\r\n" }
  add_fields(out, request.headers)
  local body = request.body or ""
  if type(body) == "table" then
    out[#out + 1] = "Transfer-Encoding: chunked\r\n\r\n"
    for _, chunk in ipairs(body) do out[#out + 1] = ("%x\r\n%s\r\n"):format(#chunk, chunk) end
    body = "0\r\n\r\n"
  else
    if request.body then out[#out + 1] = "Content-Length: " .. #body .. "\r\n" end
    out[#out + 1] = "\r\n"
  end
  out[#out + 1] = body
  return table.concat(out)
end

-------------------------------------------------------------------------------------------------------------- attaching

local function load_policies(spec, beside)
  local list = {}
  local items = {}
  if spec.source then items[1] = { source = spec.source } end
  for _, item in ipairs(spec.policies or { spec.policy }) do items[#items + 1] = item end
  for i, item in ipairs(items) do
    local path, source = "policy.lua", item.source
    if type(item) == "string" then
      path, source = find_policy(item, beside)
    elseif i > 1 then
      path = "policy" .. i .. ".lua"
    end
    local trusted = spec.trusted
    if type(item) == "table" and item.trusted ~= nil then trusted = item.trusted end
    if trusted == nil then trusted = is_builtin(path) end
    list[#list + 1] = { path = path, source = source, trusted = trusted, owner = trusted and "builtin" or "test" }
  end
  return list
end

local function fetcher(spec)
  return function(kind, namespace, name)
    local data = (kind == "secret" and spec.secrets or spec.config_maps or {})[namespace .. "/" .. name]
    if data then return data end
    return nil, "does not exist"
  end
end

local function collect(findings, result)
  for _, finding in ipairs(result.findings) do findings[#findings + 1] = finding end
  if result.rejected then findings[#findings + 1] = { level = "reject", text = result.rejected } end
end

local function attach(route, spec, beside)
  local input = {
    host = { name = route.host, tls = spec.tls or false, listener = { name = "default", https_port = 443 }, sources = spec.sources },
    annotations = spec.annotations or {}, settings = spec.settings or {},
  }
  local source = { kind = "Ingress", namespace = spec.namespace or "default", name = spec.name or "test" }
  input.host.sources = core.array(input.host.sources
    or { { namespace = source.namespace, name = source.name, paths = { spec.path or "/" }, annotations = spec.annotations or {} } })
  local alternatives = core.array {}
  for i, alternative in ipairs(spec.alternatives or {}) do
    local service, port = alternative.service:match("^([^:]+):(.+)$")
    local namespace = alternative.namespace or source.namespace
    alternatives[i] = {
      upstream = { service = service, port = port, name = namespace .. "-" .. service .. "-" .. port, key = namespace .. "/" .. service .. "/" .. port },
      source = { kind = "Ingress", namespace = namespace, name = alternative.name or "canary-" .. i }, annotations = alternative.annotations or {},
    }
  end
  route.alternatives = alternatives
  local route_input = {
    host = input.host, annotations = input.annotations, settings = input.settings,
    route = {
      path = spec.path or "/", path_type = spec.path_type or "Prefix", source = source,
      upstreams = { { service = "default", port = "80", weight = 1, name = MAIN } }, alternatives = alternatives,
    },
  }
  route.source = source
  local opened = {}
  for _, policy in ipairs(load_policies(spec, beside)) do
    local owner = opened[policy.owner]
    if not owner then
      owner = { handle = owners.open { name = policy.owner, trusted = policy.trusted, lua_directory = lua_directory, fetch = fetcher(spec) } }
      opened[policy.owner] = owner
      opened[#opened + 1] = owner
    end
    local description, problem = owner.handle:load(policy.path, policy.source)
    if not description then complain(problem) end
    policy.description = description
    policy.handle = owner
    route.policies[#route.policies + 1] = policy
  end
  for _, owner in ipairs(opened) do
    local problem
    owner.hosts, problem = owner.handle:attach_host(input)
    if not owner.hosts then complain(problem) end
    owner.routes, problem = owner.handle:attach_route(route_input)
    if not owner.routes then complain(problem) end
  end
  for _, policy in ipairs(route.policies) do
    policy.host = policy.handle.hosts[policy.description.name]
    policy.route = policy.handle.routes[policy.description.name]
    if policy.host then collect(route.findings, policy.host) end
    if policy.route then collect(route.findings, policy.route) end
  end
  for _, owner in ipairs(opened) do owner.handle:close() end
end

--- As `moongate check` says of an annotation that no policy reads.
local function find_unread(route, annotations)
  local known = {}
  for _, policy in ipairs(route.policies) do
    for name, spec in pairs(policy.description.annotations) do
      known[name] = true
      for _, alias in ipairs(type(spec.alias) == "table" and spec.alias or { spec.alias }) do known[alias] = true end
    end
  end
  for name in pairs(annotations or {}) do
    if not known[name] then table.insert(route.findings, { level = "warn", text = name .. ": is not read by a policy of this route", annotation = name }) end
  end
end

-------------------------------------------------------------------------------------------------------------- building

local PATH_TYPES = { Exact = "exact", Prefix = "prefix", ImplementationSpecific = "prefix" }

local function upstream_body(namespace, service, port, endpoints)
  local list = {}
  for i, endpoint in ipairs(endpoints) do
    if type(endpoint) == "string" then endpoint = { address = endpoint } end
    local ip, number = endpoint.address:match("^(.*):(%d+)$")
    if not ip then complain("testing.route: an endpoint is IP:PORT, not " .. tostring(endpoint.address)) end
    list[i] = { ip = ip:gsub("[%[%]]", ""), port = tonumber(number), ready = endpoint.ready ~= false, draining = endpoint.draining or false }
  end
  return { namespace = namespace, service = service, port = port, missing = false, endpoints = core.array(list) }
end

--- Adds the policy's hook, if attach did not leave it out, with the condition that it gave.
local function add_hook(list, policy, result, hook)
  local choice = true
  if result.hooks then choice = result.hooks[hook] end
  if not (list and result.config and choice) then return end
  local condition = choice ~= true and core.pack.decode(choice) or nil
  list[#list + 1] = { policy = policy.description.name, config = core.pack.decode(result.config), when = condition }
end

local function edit_of(edit)
  return {
    kind = edit.kind, name = edit.name, value = edit.value, when = edit.when, condition = edit.condition and core.pack.decode(edit.condition),
  }
end

local function denied_by(results)
  for _, result in ipairs(results) do
    for _, finding in ipairs(result.findings) do
      if finding.level == "deny" then return finding.text end
    end
  end
end

local function build(route, spec)
  local host = { tls = spec.tls or false, hooks = core.array {}, routes = core.array {} }
  local hooks = {}
  for _, phase in ipairs { "rewrite", "access", "balancer", "header_filter", "body_filter", "log" } do hooks[phase] = core.array {} end
  local body = {
    path = spec.path or "/", type = PATH_TYPES[spec.path_type or "Prefix"], source = route.source, hooks = hooks, settings = {}, edits = core.array {},
    upstreams = { { name = MAIN_KEY, service = "default", port = "80", weight = 1 } },
    facts = { path = spec.path or "/", path_type = spec.path_type or "Prefix", source = route.source, host = { name = route.host, tls = spec.tls or false },
      upstreams = { { service = "default", port = "80", weight = 1, name = MAIN } }, alternatives = core.array {} },
  }
  for _, alternative in ipairs(route.alternatives) do
    local upstream = alternative.upstream
    table.insert(body.upstreams, { name = upstream.key, service = upstream.service, port = upstream.port, weight = 0 })
    local shown = { service = upstream.service, port = upstream.port, name = upstream.name }
    table.insert(body.facts.alternatives, { upstream = shown, source = alternative.source })
  end
  host.routes[1] = body
  local changes, policies, results, host_results = {}, core.array {}, {}, {}
  for _, policy in ipairs(route.policies) do
    local described = policy.description
    policies[#policies + 1] = { name = described.name, owner = policy.owner, trusted = policy.trusted, file = policy.path, source = policy.source }
    if policy.host then
      host_results[#host_results + 1] = policy.host
      for name, value in pairs(policy.host.set) do route.host_set[name] = value end
      for _, hook in ipairs(described.hooks) do
        if hook == "server_rewrite" then add_hook(host.hooks, policy, policy.host, hook) end
      end
      for kind, is_redirect in pairs { aliases = false, redirect_hosts = true } do
        for _, name in ipairs(policy.host[kind]) do
          changes[#changes + 1] = { op = "upsert", kind = "host", key = name, body = { owner = route.host, redirect = is_redirect } }
        end
      end
    end
    if policy.route then
      results[#results + 1] = policy.route
      for name, value in pairs(policy.route.set) do body.settings[name] = value end
      for _, edit in ipairs(policy.route.edits) do table.insert(body.edits, edit_of(edit)) end
      for _, hook in ipairs(described.hooks) do add_hook(hooks[hook], policy, policy.route, hook) end
    end
  end
  host.regex = route.host_set.regex or false
  if host.regex then
    body.regex_path = body.path
    body.type = "prefix"
  end
  body.denied, host.denied = denied_by(results), denied_by(host_results)
  route.set, route.edits = body.settings, body.edits
  table.insert(changes, 1, { op = "upsert", kind = "policies", key = "policies", body = { policies = policies } })
  local namespace = route.source.namespace
  for service, endpoints in pairs(route.services) do
    local name, port = service:match("^([^:]+):?(.*)$")
    if service == "default" then name, port = "default", "80" end
    local key = service == "default" and MAIN_KEY or namespace .. "/" .. name .. "/" .. port
    route.upstream_names[key:gsub("/$", ""):gsub("/", "-")] = service
    changes[#changes + 1] = { op = "upsert", kind = "upstream", key = key, body = upstream_body(namespace, name, port, endpoints) }
  end
  changes[#changes + 1] = { op = "upsert", kind = "host", key = route.host, body = host }
  local world, problem = core.testing.open(assert(core.pack.encode(core.array(changes))), lua_directory)
  if not world then complain("testing.route: " .. problem) end
  return world
end

----------------------------------------------------------------------------------------------------------------- route

---@class moongate.testing.route
local Route = {}
Route.__index = Route

--- Attaches policies to one route and builds it. Raises the first complaint, as its text.
---@param spec table see the top of this file
---@return moongate.testing.route
function testing.route(spec)
  check_options(spec, "route")
  local route = setmetatable({
    host = spec.host or "_", findings = {}, policies = {}, host_set = {}, upstream_names = {}, services = {},
    answer = spec.answer, answers = spec.answers or {}, http = spec.http,
  }, Route)
  attach(route, spec, caller_directory())
  find_unread(route, spec.annotations)
  if not spec.allow_findings then
    for _, finding in ipairs(route.findings) do
      if finding.level ~= "info" then complain(finding.text) end
    end
  end
  route.services.default = { "10.0.0.1:80" }
  for service, endpoints in pairs(spec.services or {}) do route.services[service] = endpoints end
  route.world = build(route, spec)
  return route
end

--- Headers as names and values in turn, since C cannot know the order of a table.
local function flat_fields(headers)
  local fields = {}
  for name, value in pairs(headers or {}) do
    for _, item in ipairs(type(value) == "table" and value or { value }) do
      fields[#fields + 1] = tostring(name)
      fields[#fields + 1] = tostring(item)
    end
  end
  return fields
end

--- `http` as C calls it.
function Route:answerer(http)
  if not http then return nil end
  return function(request)
    if request.upstream then
      request.upstream = self.upstream_names[request.upstream] or request.upstream
      request.path, request.url = request.url:match("^http://[^/]+(.*)$"), nil
    end
    local answer, problem = http(request)
    if not answer then return nil, problem end
    return { status = answer.status, body = answer.body, fields = flat_fields(answer.headers) }
  end
end

--- Sends one request on a new connection.
---@param request table
---@return table result see the top of this file
function Route:request(request)
  check_options(request, "request")
  local answers = { default = answer_bytes(request.answer or self.answer or { status = 200, headers = { ["Content-Type"] = "text/plain" }, body = "hello" }) }
  for address, answer in pairs(request.answers or self.answers) do answers[address] = answer == "refuse" and answer or answer_bytes(answer) end
  local is_https = request.scheme == "https"
  local host = self.host == "_" and "example.test" or self.host
  local traffic, problem = self.world:exchange(request_bytes(request, host), is_https, is_https and 443 or 80, answers,
    request.client or "127.0.0.1", request.late_body, self:answerer(request.http or self.http))
  if not traffic then complain("route:request: " .. problem) end
  local status, response = parse_response(traffic.client)
  local result = { status = status, response = response, bytes = traffic.client, attempts = #traffic.received, log = {} }
  for line in traffic.log:gmatch("[^\n]+") do
    table.insert(result.log, line)
    local policy, phase, detail = line:match 'message="policy failed" policy=(%S+) phase=(%S+) .*detail="(.*)"$'
    if policy then table.insert(testing.raised, ("%s (%s, %s)"):format(detail, policy, phase)) end
  end
  local last = traffic.received[#traffic.received]
  if last then
    result.sent = parse_request(last.bytes)
    result.endpoint = last.endpoint
    result.upstream = self.upstream_names[last.upstream] or last.upstream
  end
  return result
end

--- The counters of the policies, as /metrics shows them: a mounted policy's have the label owner="test".
---@return string
function Route:metrics()
  return self.world:metrics()
end

--- Frees the worker behind the route now (else the collector does).
function Route:close()
  self.world:close()
end

return testing
