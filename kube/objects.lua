--- Reads Kubernetes objects: checks each field that we use and makes the small plain table that the model works with. The one function for
--- files, `check`, and whatever else hands in objects. A table made here is never changed afterwards.
local native = require "moongate.kube"

local objects = {}

local MAX_NAME = 253

---@class Problem
---@field level "error"|"warn"|"info"
---@field field string|nil where in the object
---@field text string

---@class Reader
---@field problems Problem[]
---@field flags table<string, string>

local function is_absent(value)
  return value == nil or type(value) == "userdata"
end

local function problem(reader, level, field, text, ...)
  reader.problems[#reader.problems + 1] = { level = level, field = field, text = select("#", ...) > 0 and text:format(...) or text }
  if level == "error" then reader.is_broken = true end
end

local function type_name(value)
  return type(value) == "table" and (#value > 0 and "a list" or "a map") or "a " .. type(value)
end

--- A field of the wanted Lua type, or nil; anything else is an error.
local function get(reader, map, key, wanted, path, is_required)
  local value = map[key]
  local field = path == "" and key or path .. "." .. key
  if is_absent(value) then
    if is_required then problem(reader, "error", field, "is missing") end
    return nil, field
  end
  if type(value) ~= wanted then
    local hint = wanted == "string" and type(value) ~= "table" and "; write it in quotes" or ""
    problem(reader, "error", field, "is %s, not a %s%s", type_name(value), wanted == "table" and "map or list" or wanted, hint)
    return nil, field
  end
  if is_required and value == "" then
    problem(reader, "error", field, "is empty")
    return nil, field
  end
  return value, field
end

--- Walks a list; each item must be a map.
local function each(reader, map, key, path, visit)
  local list, field = get(reader, map, key, "table", path)
  if not list then return end
  if #list == 0 and next(list) ~= nil then
    problem(reader, "error", field, "is a map, not a list")
    return
  end
  for i = 1, #list do
    local at = field .. "[" .. (i - 1) .. "]"
    if type(list[i]) == "table" then
      visit(list[i], at)
    else
      problem(reader, "error", at, "is not a map")
    end
  end
end

--- A map of strings, such as annotations.
local function string_map(reader, map, key, path)
  local values, field = get(reader, map, key, "table", path)
  local result = {}
  for name, value in pairs(values or {}) do
    if type(name) ~= "string" then
      problem(reader, "error", field, "is a list, not a map")
      break
    elseif type(value) == "string" then
      result[name] = value
    elseif not is_absent(value) then
      problem(reader, "error", field .. "[" .. name .. "]", "is %s, not a string; write it in quotes", type_name(value))
    end
  end
  return result
end

local function is_label(text)
  return #text <= 63 and text:find("^[a-z0-9][a-z0-9-]*$") ~= nil and text:sub(-1) ~= "-"
end

local function is_dns_name(text)
  if #text > MAX_NAME or text == "" then return false end
  for label in (text .. "."):gmatch("([^.]*)%.") do
    if not is_label(label) then return false end
  end
  return true
end
objects.is_dns_name = is_dns_name

local function port_reference(reader, value, field)
  if type(value) == "number" then
    if value ~= math.floor(value) or value < 1 or value > 65535 then
      problem(reader, "error", field, "is %s, not a port from 1 to 65535", tostring(value))
      return nil
    end
    return ("%d"):format(value)
  elseif type(value) == "string" then
    local number = value:match("^%d+$") and tonumber(value)
    if number and number >= 1 and number <= 65535 then return ("%d"):format(number) end
    if number or #value > 63 or not value:find("^[A-Za-z0-9][A-Za-z0-9._-]*$") then
      problem(reader, "error", field, "is %q, neither a port nor a port's name", value)
      return nil
    end
    return value
  end
  problem(reader, "error", field, "is missing")
end

-- ---- Ingress ----

--- Both forms of a backend. Returns { service, port }, or nil and whether it is a resource (which is ignored).
local function backend(reader, raw, path, api)
  if api ~= "networking.k8s.io/v1" then
    if not is_absent(raw.resource) then return nil, true end
    local service = get(reader, raw, "serviceName", "string", path, true)
    local port = port_reference(reader, raw.servicePort, path .. ".servicePort")
    if service and not is_dns_name(service) then problem(reader, "error", path .. ".serviceName", "is %q, not a Service's name", service) end
    return service and port and { service = service, port = port }
  end
  if not is_absent(raw.resource) and is_absent(raw.service) then return nil, true end
  local service, field = get(reader, raw, "service", "table", path, true)
  if not service then
    if not is_absent(raw.serviceName) then problem(reader, "error", path .. ".serviceName",
      "belongs to the old API versions; networking.k8s.io/v1 has service.name") end
    return nil
  end
  local name = get(reader, service, "name", "string", field, true)
  local port, port_field = get(reader, service, "port", "table", field, true)
  if name and not is_dns_name(name) then problem(reader, "error", field .. ".name", "is %q, not a Service's name", name) end
  if not port then return nil end
  local reference
  if not is_absent(port.number) then
    if type(port.number) ~= "number" then
      problem(reader, "error", port_field .. ".number", "is %s, not a number", type_name(port.number))
    else
      reference = port_reference(reader, port.number, port_field .. ".number")
    end
  else
    reference = port_reference(reader, get(reader, port, "name", "string", port_field, true), port_field .. ".name")
  end
  return name and reference and { service = name, port = reference }
end

local PATH_TYPES = { Exact = "exact", Prefix = "prefix", ImplementationSpecific = "implementation" }

-- What no honest host, path or secret name holds, and what was used to break out of a template elsewhere.
local FORBIDDEN = { "alias%s.*;", "root%s.*;", "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/nginx", "/etc/ingress%-controller", "/var/run/secrets",
  "_by_lua" }

local function inspect(reader, text, field)
  if reader.flags["deep-inspect"] == "false" then return end
  for _, pattern in ipairs(FORBIDDEN) do
    if text:find(pattern) then
      problem(reader, "error", field, "is %q, which deep inspection refuses", text)
      return
    end
  end
end

local function ingress_host(reader, raw, path)
  local host, field = get(reader, raw, "host", "string", path)
  if not host or host == "" then return "_" end
  inspect(reader, host, field)
  host = host:lower():gsub("%.$", "")
  local plain = host:gsub("^%*%.", "")
  if not is_dns_name(plain) then
    problem(reader, "error", field, "is %q, not a host name", host)
  elseif native.address(host) then
    problem(reader, "error", field, "is %q, an address, not a host name", host)
  end
  return host
end

local PATH_MAX = 2048 -- as a regex, quoted at its worst, it is still no more than route/regex.c takes

local function ingress_path(reader, raw, path, api)
  local value, field = get(reader, raw, "path", "string", path)
  if not value or value == "" then value = "/" end
  inspect(reader, value, field)
  local kind = get(reader, raw, "pathType", "string", path)
  if kind and not PATH_TYPES[kind] then
    problem(reader, "error", path .. ".pathType", "is %q, not Exact, Prefix or ImplementationSpecific", kind)
  elseif not kind and api == "networking.k8s.io/v1" then
    problem(reader, "warn", path .. ".pathType", "is missing; a cluster refuses that, here it is taken as ImplementationSpecific")
  end
  -- The data side would refuse a host with such a path, and with it everybody else's paths on that host.
  if value:sub(1, 1) ~= "/" then problem(reader, "error", field, "is %q and does not begin with /", value) end
  if #value > PATH_MAX then problem(reader, "error", field, "is longer than %d bytes", PATH_MAX) end
  if value:find("[%z\r\n]") then problem(reader, "error", field, "holds a control character") end
  if kind and kind ~= "ImplementationSpecific" and not value:find("^/[A-Za-z0-9._/-]*$") then
    problem(reader, "strict", field, "is %q: %s paths hold letters, digits, and . _ / - only (a regex wants ImplementationSpecific)", value, kind)
  end
  local service, is_resource = backend(reader, type(raw.backend) == "table" and raw.backend or {}, path .. ".backend", api)
  if is_resource then
    problem(reader, "warn", path .. ".backend.resource", "is not a Service: the path is ignored")
    return nil
  end
  return service and { path = value, type = kind == "Exact" and "exact" or "prefix", path_type = kind, service = service.service, port = service.port }
end

local function read_ingress(reader, raw, result)
  local spec = get(reader, raw, "spec", "table", "") or {}
  local api = result.api
  result.annotations = string_map(reader, raw.metadata, "annotations", "metadata")
  result.class = get(reader, spec, "ingressClassName", "string", "spec")
  result.rules, result.tls = {}, {}
  local default_key = api == "networking.k8s.io/v1" and "defaultBackend" or "backend"
  if type(spec[default_key]) == "table" then
    local service, is_resource = backend(reader, spec[default_key], "spec." .. default_key, api)
    if is_resource then
      problem(reader, "warn", "spec." .. default_key .. ".resource", "is not a Service: it is ignored")
    else
      result.default_backend = service or nil
    end
  end
  each(reader, spec, "rules", "spec", function(rule, at)
    local made = { host = ingress_host(reader, rule, at), paths = {} }
    local http = get(reader, rule, "http", "table", at)
    if http then
      each(reader, http, "paths", at .. ".http", function(path, path_at)
        made.paths[#made.paths + 1] = ingress_path(reader, path, path_at, api)
      end)
    end
    result.rules[#result.rules + 1] = made
  end)
  each(reader, spec, "tls", "spec", function(tls, at)
    local made = { hosts = {}, secret = get(reader, tls, "secretName", "string", at) }
    if made.secret == "" then made.secret = nil end
    if made.secret then inspect(reader, made.secret, at .. ".secretName") end
    for i, host in ipairs(get(reader, tls, "hosts", "table", at) or {}) do
      if type(host) == "string" then
        inspect(reader, host, at .. ".hosts[" .. (i - 1) .. "]")
        made.hosts[#made.hosts + 1] = host:lower()
      else
        problem(reader, "error", at .. ".hosts[" .. (i - 1) .. "]", "is %s, not a string", type_name(host))
      end
    end
    result.tls[#result.tls + 1] = made
  end)
  if #result.rules == 0 and not result.default_backend then problem(reader, "error", "spec", "has neither rules nor a default backend") end
end

-- ---- the others ----

local function read_class(reader, raw, result)
  local spec = get(reader, raw, "spec", "table", "") or {}
  result.controller = get(reader, spec, "controller", "string", "spec") or ""
end

local function read_service(reader, raw, result)
  local spec = get(reader, raw, "spec", "table", "") or {}
  result.type = get(reader, spec, "type", "string", "spec") or "ClusterIP"
  result.cluster_ip = get(reader, spec, "clusterIP", "string", "spec")
  result.external_name = get(reader, spec, "externalName", "string", "spec")
  local selector = get(reader, spec, "selector", "table", "spec")
  result.has_selector = selector ~= nil and next(selector) ~= nil
  result.ports = {}
  each(reader, spec, "ports", "spec", function(port, at)
    local number = get(reader, port, "port", "number", at, true)
    local target = port.targetPort
    if is_absent(target) or target == "" then target = number end
    result.ports[#result.ports + 1] = {
      name = get(reader, port, "name", "string", at) or "",
      port = number and port_reference(reader, number, at .. ".port"),
      target = (type(target) == "number" or type(target) == "string") and port_reference(reader, target, at .. ".targetPort") or nil,
    }
  end)
  if result.type == "ExternalName" then
    local name = (result.external_name or ""):lower():gsub("%.$", "")
    if name == "" then
      problem(reader, "error", "spec.externalName", "is missing")
    elseif not native.address(name) and not name:find("^[a-z0-9_][a-z0-9_.-]*$") then
      problem(reader, "error", "spec.externalName", "is %q, not a host name", name)
    end
    result.external_name = name
  end
end

local function port_list(reader, raw, path)
  local ports = {}
  each(reader, raw, "ports", path, function(port, at)
    local number = get(reader, port, "port", "number", at)
    ports[#ports + 1] = { name = get(reader, port, "name", "string", at) or "", port = number and tonumber(port_reference(reader, number, at .. ".port")) }
  end)
  return ports
end

local function read_address(reader, text, field, list, values)
  local address, family, is_loopback = native.address(text)
  if not address then
    problem(reader, "error", field, "is %q, not an address", text)
    return
  end
  list[#list + 1] = { ip = address, family = family, is_loopback = is_loopback, ready = values.ready, draining = values.draining, zones = values.zones }
end

--- The zones that an endpoint is meant for; nil: it does not say. Hints are no more than that: a broken one is none.
local function hinted_zones(endpoint)
  local zones = {}
  local hints = type(endpoint.hints) == "table" and endpoint.hints.forZones
  for _, zone in ipairs(type(hints) == "table" and hints or {}) do
    if type(zone) == "table" and type(zone.name) == "string" then zones[#zones + 1] = zone.name end
  end
  return #zones > 0 and zones or nil
end

local function read_slice(reader, raw, result)
  local labels = string_map(reader, raw.metadata, "labels", "metadata")
  result.service = labels["kubernetes.io/service-name"]
  if not result.service then problem(reader, "warn", "metadata.labels[kubernetes.io/service-name]", "is missing: the slice belongs to no Service") end
  local family = get(reader, raw, "addressType", "string", "") or "IPv4"
  result.ports, result.endpoints = port_list(reader, raw, ""), {}
  if family == "FQDN" then
    problem(reader, "warn", "addressType", "is FQDN: only IPv4 and IPv6 are used")
    return
  end
  each(reader, raw, "endpoints", "", function(endpoint, at)
    local conditions = get(reader, endpoint, "conditions", "table", at) or {}
    local is_draining = conditions.terminating == true and conditions.serving ~= false
    local is_ready = conditions.ready ~= false and conditions.terminating ~= true
    if not is_ready and not is_draining then return end
    local zones = reader.flags["enable-topology-aware-routing"] == "true" and hinted_zones(endpoint) or nil
    for i, text in ipairs(get(reader, endpoint, "addresses", "table", at) or {}) do
      local field = at .. ".addresses[" .. (i - 1) .. "]"
      if type(text) ~= "string" then
        problem(reader, "error", field, "is not a string")
      else
        read_address(reader, text, field, result.endpoints, { ready = is_ready, draining = is_draining, zones = zones })
      end
    end
  end)
end

local function read_endpoints(reader, raw, result)
  result.service, result.subsets = result.name, {}
  each(reader, raw, "subsets", "", function(subset, at)
    local made = { ports = port_list(reader, subset, at), endpoints = {} }
    each(reader, subset, "addresses", at, function(address, address_at)
      local ip, field = get(reader, address, "ip", "string", address_at, true)
      if ip then read_address(reader, ip, field, made.endpoints, { ready = true, draining = false }) end
    end)
    result.subsets[#result.subsets + 1] = made
  end)
end

local BASE64 = {}
for i, letters in ipairs { "AZ", "az", "09" } do
  local offset = ({ 0, 26, 52 })[i]
  for byte = letters:byte(1), letters:byte(2) do BASE64[byte] = offset + byte - letters:byte(1) end
end
BASE64[("+"):byte()], BASE64[("/"):byte()] = 62, 63

--- Strict base64 with line breaks allowed; nil when it is not.
local function base64_decode(text)
  text = text:gsub("[ \t\r\n]", "")
  local body, padding = text:match("^([A-Za-z0-9+/]*)(=*)$")
  if not body or #text % 4 ~= 0 or #padding > 2 then return nil end
  local out = {}
  for i = 1, #body, 4 do
    local a, b, c, d = body:byte(i, i + 3)
    if not b then return nil end
    local number = BASE64[a] * 262144 + BASE64[b] * 4096 + (c and BASE64[c] or 0) * 64 + (d and BASE64[d] or 0)
    local bytes = string.char(math.floor(number / 65536), math.floor(number / 256) % 256, number % 256)
    out[#out + 1] = d and bytes or bytes:sub(1, c and 2 or 1)
  end
  return table.concat(out)
end
objects.base64_decode = base64_decode

local function read_secret(reader, raw, result)
  result.type = get(reader, raw, "type", "string", "") or "Opaque"
  result.data = {}
  for key, value in pairs(string_map(reader, raw, "data", "")) do
    local decoded = base64_decode(value)
    if decoded then
      result.data[key] = decoded
    else
      problem(reader, "error", "data[" .. key .. "]", "is not base64 (plain text goes into stringData)")
    end
  end
  for key, value in pairs(string_map(reader, raw, "stringData", "")) do result.data[key] = value end
end

local function read_config_map(reader, raw, result)
  result.data = string_map(reader, raw, "data", "")
end

local KINDS = {
  Ingress = { read = read_ingress, versions = { ["networking.k8s.io/v1"] = true, ["networking.k8s.io/v1beta1"] = true, ["extensions/v1beta1"] = true } },
  IngressClass = { read = read_class, is_global = true, versions = { ["networking.k8s.io/v1"] = true, ["networking.k8s.io/v1beta1"] = true } },
  Service = { read = read_service, versions = { v1 = true } },
  EndpointSlice = { read = read_slice, versions = { ["discovery.k8s.io/v1"] = true, ["discovery.k8s.io/v1beta1"] = true } },
  Endpoints = { read = read_endpoints, versions = { v1 = true } },
  Secret = { read = read_secret, versions = { v1 = true } },
  ConfigMap = { read = read_config_map, versions = { v1 = true } },
}

--- The items of a List (of any kind of list), else the object itself.
---@return table[]
function objects.items(raw)
  if type(raw) == "table" and type(raw.kind) == "string" and raw.kind:find("List$") and type(raw.items) == "table" then return raw.items, true end
  return { raw }, false
end

---@class Object
---@field kind string
---@field namespace string "" for kinds without
---@field name string
---@field key string "Kind namespace/name"

--- Reads one object.
---@param raw any what YAML or JSON gave
---@param flags table<string, string>
---@return Object|nil object nil when it is refused or not ours
---@return Problem[] problems
---@return string|nil key "Kind namespace/name" where it could be told, also of a refused object
---@return boolean|nil is_skipped it is of a kind that we do not use
function objects.read(raw, flags)
  local reader = { problems = {}, flags = flags }
  if type(raw) ~= "table" then
    problem(reader, "error", nil, "is %s, not an object", type_name(raw))
    return nil, reader.problems
  end
  local kind = get(reader, raw, "kind", "string", "", true)
  local api = get(reader, raw, "apiVersion", "string", "", true)
  if not kind or not api then return nil, reader.problems end
  local rule = KINDS[kind]
  local group = api:match("^(.*)/") or ""
  if not rule or not (rule.versions[api] or group == "extensions" or group == "networking.k8s.io" or group == "discovery.k8s.io" or group == "") then
    return nil, reader.problems, nil, true
  end
  if not rule.versions[api] then problem(reader, "error", "apiVersion", "is %q, which this kind does not have", api) end
  local metadata = get(reader, raw, "metadata", "table", "", true) or {}
  local name = get(reader, metadata, "name", "string", "metadata", true)
  local namespace = get(reader, metadata, "namespace", "string", "metadata") or "default"
  if rule.is_global then namespace = "" end
  if not name then return nil, reader.problems end
  if not is_dns_name(name) then problem(reader, "error", "metadata.name", "is %q, not a name that Kubernetes allows", name) end
  if namespace == "" and not rule.is_global then namespace = "default" end
  if not rule.is_global and not is_label(namespace) then problem(reader, "error", "metadata.namespace", "is %q, not a name that Kubernetes allows",
    namespace) end
  local created = metadata.creationTimestamp
  local result = { kind = kind, api = api, namespace = namespace, name = name, created = type(created) == "string" and created or "",
    key = kind .. " " .. (namespace ~= "" and namespace .. "/" or "") .. name }
  if type(raw.metadata) == "table" then rule.read(reader, raw, result) end
  result.id = namespace .. "/" .. name
  if reader.is_broken then return nil, reader.problems, result.key end
  return result, reader.problems, result.key
end

return objects
