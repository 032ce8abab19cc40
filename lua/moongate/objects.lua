--- What attach_host and attach get as their first argument: `host` and `route`. They collect into a result, see attach.lua.
-- The state behind an object is in a weak table of this file: a policy sees facts and methods, nothing else.
local core = require "moongate.core"
local conditions = require "moongate.conditions"
local schema = require "moongate.schema"

local find, format, lower, match = string.find, string.format, string.lower, string.match
local floor = math.floor

local objects = {}

local states = setmetatable({}, { __mode = "k" })

-- Position 3: the policy's line that called the method; one more for each function between.
local function misuse(method, text, further)
  error(method .. ": " .. text, 3 + (further or 0))
end

local function report(state, level, text, source)
  local findings = state.result.findings
  findings[#findings + 1] = { level = level, text = text, source = source, cause = state.result.has_looked and "other" or nil }
end

---------------------------------------------------------------------------------------------------------------- values

--- A template given as text or as a value: its text, or nil and what is wrong.
local function template_text(value)
  if type(value) == "userdata" then
    if getmetatable(value) == "template" then return tostring(value) end
    return nil, "a value that is not a template"
  end
  if type(value) ~= "string" then return nil, "a " .. type(value) .. " where text is expected" end
  if find(value, "[\r\n%z]") then return nil, "text with a line break" end
  local compiled, complaint = core.value("template", value)
  if not compiled then return nil, format("'%s', which %s", schema.show(value), complaint) end
  return value
end

local function is_whole(value)
  return type(value) == "number" and value == floor(value) and value < 2 ^ 53 and value > -2 ^ 53
end

local BALANCERS = { round_robin = true, least_connections = true, ewma = true, hash = true }

-- For each type of core.route_settings(): the value as it crosses, or nil and what is expected.
local READ = {
  seconds = function(value)
    if type(value) == "number" and value >= 0 and value < 2 ^ 31 then return value end
    return nil, "seconds (a number, 0 or more)"
  end,
  bytes = function(value)
    if is_whole(value) and value >= 0 then return value end
    return nil, "bytes (a whole number, 0 or more)"
  end,
  integer = function(value)
    if is_whole(value) and value >= -2 ^ 31 and value < 2 ^ 31 then return value end
    return nil, "a whole number"
  end,
  flag = function(value)
    if type(value) == "boolean" then return value end
    return nil, "true or false"
  end,
  text = function(value, info)
    if find(info.unit or "", "^template") then
      local text, complaint = template_text(value)
      return text, nil, complaint
    end
    if type(value) == "string" and not find(value, "[\r\n%z]") then return value end
    return nil, "text"
  end,
  balancer = function(value)
    if BALANCERS[value] then return value end
    return nil, "round_robin, least_connections, ewma or hash"
  end,
  retry = function(value)
    if type(value) ~= "table" then return nil, "a list of words" end
    local words = {}
    for i = 1, #value do
      if type(value[i]) ~= "string" then return nil, "a list of words" end
      words[i] = value[i]
    end
    return core.array(words)
  end,
}

local HOST_SETTINGS = {
  regex = "flag", passthrough = "flag", client_ca = "text", client_verify = "text", client_verify_depth = "integer",
  tls_protocols = "text", tls_ciphers = "text",
}

local function header_name(method, name)
  if type(name) ~= "string" or not find(name, "^[%w!#$%%&'*+%.^_`|~-]+$") then
    misuse(method, "'" .. schema.show(name) .. "' is not a header name", 2)
  end
  return name
end

local function own_text(method, text)
  if type(text) ~= "string" then misuse(method, "expects text, not a " .. type(text), 1) end
  return text
end

--- The class of an object: facts by name, then methods; anything else is a mistake in the policy.
local function class(what, facts, methods)
  return {
    __index = function(object, key)
      if methods[key] then return methods[key] end
      local state = states[object]
      if facts[key] then return facts[key](state, key) end
      error(what .. "." .. tostring(key) .. ": there is no such member", 2)
    end,
    __newindex = function(_, key) error(what .. "." .. tostring(key) .. ": cannot be assigned", 2) end,
    __metatable = false,
  }
end

local function state_of(object, what, method)
  local state = states[object]
  if not state or state.what ~= what then error(method .. ": call it with a colon, " .. what .. ":" .. match(method, "[^:]+$"), 3) end
  if not state.is_open then error(method .. ": only while the policy is being attached", 3) end
  return state
end

------------------------------------------------------------------------------------------------------------------ host

local host_facts, host_methods = {}, {}

local function input_fact(state, key) return state.input[key] end
host_facts.name, host_facts.tls, host_facts.listener = input_fact, input_fact, input_fact

--- The sources, with the annotations that the policy declares read as values. Made at first use.
function host_facts.sources(state)
  if not state.sources then
    local sources = {}
    for i, source in ipairs(state.input.sources or {}) do
      sources[i] = {
        namespace = source.namespace, name = source.name, paths = source.paths,
        annotations = state.read(source.annotations or {}),
      }
    end
    state.sources = sources
  end
  return state.sources
end

local function writable(host, method)
  local state = state_of(host, "host", method)
  if not state.is_writable then error(method .. ": only in attach_host", 3) end
  return state
end

local function check_host_name(method, name)
  if type(name) ~= "string" or #name > 253 or not find(name, "^[%w*_][%w._-]*$") or find(name, "..", 1, true) then
    misuse(method, "'" .. schema.show(name) .. "' is not a host name", 1)
  end
  return lower(name)
end

function host_methods.add_alias(host, name)
  local aliases = writable(host, "host:add_alias").result.aliases
  aliases[#aliases + 1] = check_host_name("host:add_alias", name)
end

function host_methods.add_redirect_host(host, name)
  local names = writable(host, "host:add_redirect_host").result.redirect_hosts
  names[#names + 1] = check_host_name("host:add_redirect_host", name)
end

function host_methods.set(host, name, value)
  local state = writable(host, "host:set")
  local kind = HOST_SETTINGS[name]
  if not kind then misuse("host:set", "'" .. schema.show(name) .. "' is not a setting of hosts") end
  local read, expected = READ[kind](value, {})
  if read == nil then misuse("host:set", name .. " expects " .. expected) end
  state.result.set[name] = read
end

function host_methods.warn(host, text)
  report(writable(host, "host:warn"), "warn", own_text("host:warn", text))
end

function host_methods.deny(host, text)
  report(writable(host, "host:deny"), "deny", own_text("host:deny", text))
end

local Host = class("host", host_facts, host_methods)

--- `read` turns a source's raw annotations into the policy's values.
function objects.host(input, result, read, is_writable)
  local host = setmetatable({}, Host)
  states[host] = { what = "host", input = input, result = result, read = read, is_writable = is_writable, is_open = true }
  return host
end

----------------------------------------------------------------------------------------------------------------- route

local route_facts, route_methods = {}, {}

local function route_fact(state, key) return state.input.route[key] end
route_facts.path, route_facts.path_type, route_facts.source = route_fact, route_fact, route_fact

function route_facts.upstreams(state) return state.input.route.upstreams or {} end

--- Those that canary Ingresses offer, with the policy's annotations that sit on them read as values. Made at first use.
function route_facts.alternatives(state)
  if not state.alternatives then
    local list = {}
    for i, alternative in ipairs(state.input.route.alternatives or {}) do
      local upstream = { service = alternative.upstream.service, port = alternative.upstream.port, name = alternative.upstream.name }
      state.known_upstreams[upstream] = alternative.upstream.key
      list[i] = { upstream = upstream, source = alternative.source, annotations = state.values and state.values[i] or {} }
      state.known_sources[list[i]] = alternative.source
    end
    state.alternatives = list
  end
  return state.alternatives
end
function route_facts.host(state) return state.host end

--- The key of the upstream that is a Service's port; without one, its first port.
local function name_upstream(state, method, service)
  local name, port
  if type(service) == "string" then name, port = match(service, "^([a-z][a-z0-9-]*):([a-z0-9-]+)$") end
  if not name and type(service) == "string" then name, port = match(service, "^[a-z][a-z0-9-]*$"), "" end
  if not name then misuse(method, "expects name:port, not " .. schema.show(service), 1) end
  local namespace = state.input.route.source.namespace
  local upstream = namespace .. "/" .. name .. "/" .. port
  local result = state.result
  if not state.upstreams[upstream] then
    state.upstreams[upstream] = true
    result.upstreams[#result.upstreams + 1] = upstream
    result.services[#result.services + 1] = { name = upstream, namespace = namespace, service = name, port = port }
  end
  return upstream
end

function route_methods.set(route, name, value)
  local state = state_of(route, "route", "route:set")
  local info = type(name) == "string" and state.owner.route_settings[name]
  if not info then misuse("route:set", "'" .. schema.show(name) .. "' is not a setting of routes") end
  if name == "fallback_upstream" then value = name_upstream(state, "route:set", value) end
  local read, expected, complaint = READ[info.type](value, info)
  if complaint then misuse("route:set", name .. " is given " .. complaint) end
  if read == nil then misuse("route:set", name .. " expects " .. expected .. ", not " .. schema.show(value)) end
  local problem = core.route_setting_problem(name, read)
  if problem then misuse("route:set", problem) end
  state.result.set[name] = read
end

local WHEN = { always = true, success = true, https = true }

local function edit(route, method, kind, name, value, when)
  local state = state_of(route, "route", method)
  header_name(method, name)
  local text
  if value ~= nil then
    local complaint
    text, complaint = template_text(value)
    if not text then error(method .. ": " .. name .. " is given " .. complaint, 3) end
  end
  local condition
  if type(when) == "table" then
    local complaint
    condition, complaint = conditions.pack(when, "edit")
    if not condition then error(method .. ": the condition of " .. name .. " " .. complaint, 3) end
    when = "always"
  elseif when ~= nil and not WHEN[when] then
    error(method .. ": '" .. schema.show(when) .. "' is none of always, success, https, or a condition", 3)
  end
  local edits = state.result.edits
  edits[#edits + 1] = { kind = kind, name = name, value = text, when = when, condition = condition }
end

local function need_value(method, value)
  if value == nil then error(method .. ": expects a value", 3) end
  return value
end

function route_methods.set_request_header(route, name, value)
  edit(route, "route:set_request_header", "set_request", name, need_value("route:set_request_header", value))
end
function route_methods.remove_request_header(route, name)
  edit(route, "route:remove_request_header", "remove_request", name)
end
function route_methods.set_response_header(route, name, value, when)
  edit(route, "route:set_response_header", "set_response", name, need_value("route:set_response_header", value), when or "always")
end
function route_methods.add_response_header(route, name, value, when)
  edit(route, "route:add_response_header", "add_response", name, need_value("route:add_response_header", value), when or "always")
end
function route_methods.remove_response_header(route, name)
  edit(route, "route:remove_response_header", "remove_response", name, nil, "always")
end

function route_methods.upstream(route, service)
  local state = state_of(route, "route", "route:upstream")
  return core.upstream_handle(state.known_upstreams[service] or name_upstream(state, "route:upstream", service))
end

--- The data of an object; nil and a reason when it is not there or not ours to read. Remembered either way: attached again when it changes.
local function fetch(route, method, kind, list, ref)
  local state = state_of(route, "route", method)
  local namespace, name
  if type(ref) == "string" then
    namespace, name = match(ref, "^([^/]+)/([^/]+)$")
    if not namespace then name = match(ref, "^[^/]+$") end
  end
  if not name then error(method .. ": expects a name or namespace/name, not " .. schema.show(ref), 2) end
  local own = state.input.route.source.namespace
  if namespace and namespace ~= own and not state.owner.may_cross_namespaces(state.input.settings) then
    return nil, "is in another namespace (see allow-cross-namespace-resources)"
  end
  namespace = namespace or own
  local refs = state.result[list]
  refs[#refs + 1] = namespace .. "/" .. name
  if not state.owner.fetch then return nil, "does not exist" end
  state.result.has_looked = true -- what the policy says from here on may come of what it found there
  return state.owner.fetch(kind, namespace, name)
end

function route_methods.secret(route, ref)
  return fetch(route, "route:secret", "secret", "secrets", ref)
end
function route_methods.config_map(route, ref)
  return fetch(route, "route:config_map", "config_map", "config_maps", ref)
end

--- With one of route.alternatives it is about that one's Ingress.
function route_methods.warn(route, text, alternative)
  local state = state_of(route, "route", "route:warn")
  report(state, "warn", own_text("route:warn", text), alternative and state.known_sources[alternative])
end
function route_methods.deny(route, text)
  report(state_of(route, "route", "route:deny"), "deny", own_text("route:deny", text))
end

local Route = class("route", route_facts, route_methods)

--- `owner`: fetch, route_settings, may_cross_namespaces of the driver.
function objects.route(input, result, read, owner)
  local route = setmetatable({}, Route)
  states[route] = {
    what = "route", input = input, result = result, owner = owner, upstreams = {}, known_upstreams = {}, known_sources = {}, is_open = true,
    host = objects.host(input.host, result, read, false),
  }
  return route
end

--- What the policy's annotations on the alternatives say, in their order.
function objects.tell_alternatives(object, values)
  states[object].values = values
end

--- The policy returned: a kept object says so from here on instead of changing a result that is gone. What its state referred to is let go at once: a weak
--- table keeps a key for as long as its own value leads back to it, which would be for ever.
function objects.close(object)
  states[object] = { what = states[object].what, is_open = false }
end

return objects
