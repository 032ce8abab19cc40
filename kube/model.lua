--- From objects to what is served: hosts with their routes, upstreams with their endpoints, certificates. Pure: everything comes in as arguments.
local model = {}

--- Oldest first; of equal age, the names in descending order (as in ingress-nginx, where people rely on it without knowing).
function model.is_older(a, b)
  if a.created ~= b.created then return a.created < b.created end
  return a.id > b.id
end

--- What tells an upstream from all others: no part of it can hold a "/". With dashes it would not: namespace "a-b" and Service "c", namespace "a" and Service
-- "b-c".
---@return string
function model.upstream_key(namespace, service, port)
  return namespace .. "/" .. service .. "/" .. port
end

--- How policies, logs and cookies call it, as ingress-nginx does.
---@return string
function model.upstream_name(namespace, service, port)
  return namespace .. "-" .. service .. "-" .. port
end

--- The hosts that an Ingress touches.
---@return table<string, true>
function model.hosts_of(ingress)
  local hosts = {}
  for _, rule in ipairs(ingress.rules) do hosts[rule.host] = true end
  if #ingress.rules == 0 and ingress.default_backend then hosts["_"] = true end
  return hosts
end

--- The wildcard host that covers a host: "*.b" for "a.b".
---@return string|nil
function model.wildcard_above(host)
  if host:sub(1, 1) == "*" then return nil end
  local rest = host:match("^[^.]+(%..+)$")
  return rest and "*" .. rest
end

local function make_route(ingress, path, backend)
  return {
    ingress = ingress, path = path.path, type = path.type, path_type = path.path_type,
    service = backend and backend.service, port = backend and backend.port, namespace = ingress.namespace,
  }
end

--- The routes of a host, the first of two equal ones only.
---@param host string
---@param ingresses table[] accepted Ingresses that touch it, oldest first
---@return table[] routes { ingress, path, type, path_type, service, port, is_default_backend, is_implicit }
---@return table[] shadowed routes that an older Ingress has already
---@return table<table, string[]> paths by Ingress
function model.routes(host, ingresses)
  local routes, shadowed, seen, paths = {}, {}, {}, {}
  local fallback
  for _, ingress in ipairs(ingresses) do
    paths[ingress] = {}
    if not fallback and ingress.default_backend then fallback = ingress end
    for _, rule in ipairs(ingress.rules) do
      if rule.host == host then
        for _, path in ipairs(rule.paths) do
          local key = path.type .. " " .. path.path
          local route = make_route(ingress, path, path)
          paths[ingress][#paths[ingress] + 1] = path.path
          if seen[key] then
            route.older = seen[key].ingress
            shadowed[#shadowed + 1] = route
          else
            seen[key] = route
            routes[#routes + 1] = route
          end
        end
      end
    end
  end
  if not seen["prefix /"] and #ingresses > 0 then
    local route = make_route(fallback or ingresses[1], { path = "/", type = "prefix" }, fallback and fallback.default_backend)
    route.is_implicit = true
    route.is_default_backend = fallback == nil
    route.annotated_by = ingresses[1] -- the implicit "/" carries the annotations of the oldest Ingress
    route.is_catch_all = fallback ~= nil and host == "_" and #fallback.rules == 0
    if route.is_catch_all then route.annotated_by = fallback end
    routes[#routes + 1] = route
  end
  return routes, shadowed, paths
end

--- What canary Ingresses offer for the rules of a host that others have.
---@param host string
---@param canaries table[] accepted ones that touch it, oldest first
---@return table[] offers { ingress, type, path, service, port, is_catch_all }
---@return table<string, table[]> by_rule the same by type and path
function model.offers(host, canaries)
  local offers, by_rule = {}, {}
  local function put(ingress, type, path, backend, is_catch_all)
    local offer = { ingress = ingress, type = type, path = path, service = backend.service, port = backend.port, is_catch_all = is_catch_all }
    local rule = type .. " " .. path
    by_rule[rule] = by_rule[rule] or {}
    table.insert(by_rule[rule], offer)
    offers[#offers + 1] = offer
  end
  for _, ingress in ipairs(canaries) do
    for _, rule in ipairs(ingress.rules) do
      for _, path in ipairs(rule.host == host and rule.paths or {}) do put(ingress, path.type, path.path, path, false) end
    end
    if #ingress.rules == 0 and ingress.default_backend and host == "_" then put(ingress, "prefix", "/", ingress.default_backend, true) end
  end
  return offers, by_rule
end

--- The Service's port that an Ingress means by `reference`; the first, if it is empty.
---@return table|nil port
function model.find_port(service, reference)
  if reference == "" then return service.ports[1] end
  for _, port in ipairs(service.ports) do
    if port.port == reference or port.target == reference or (port.name ~= "" and port.name == reference) then return port end
  end
end

--- The number at which a slice (or subset) serves a Service's port.
local function slice_port(ports, service_port)
  for _, port in ipairs(ports) do
    if port.port and port.name == service_port.name then return port.port end
  end
  local target = tonumber(service_port.target)
  if not target then return nil end
  for _, port in ipairs(ports) do
    if port.port == target then return target end
  end
  return #ports == 0 and target or nil
end

-- On one line, so that it can be taken from a log as it is.
local function slice_yaml(upstream, service, port)
  local named = port and port.name ~= "" and "name: " .. port.name .. ", " or ""
  return ("{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: %s-1, namespace: %s, labels: {kubernetes.io/service-name: %s}}, "
    .. "addressType: IPv4, ports: [{%sport: %s}], endpoints: [{addresses: [127.0.0.1]}]}"):format(service.name, upstream.namespace, service.name, named,
    port and tonumber(port.target) or "PORT")
end

local function is_local_name(name)
  return name == "localhost" or name:find("%.localhost$") ~= nil or name == "localhost.localdomain" or name == "ip6-localhost" or name == "ip6-loopback"
end

--- Whether a connection there would come back to us.
local function is_our_listener(world, ip, number, is_loopback)
  return world.own_ports[number] and (is_loopback or world.is_own(ip))
end

local function external(world, upstream, service, body, findings)
  local address, _, is_loopback, is_link_local = world.address(service.external_name)
  local port = model.find_port(service, upstream.port)
  body.external_port = tonumber(port and (tonumber(port.target) or port.port)) or tonumber(upstream.port)
  if world.flags["disable-svc-external-name"] == "true" then
    findings[#findings + 1] = { level = "warn", key = service.key, text = "is of type ExternalName, which --disable-svc-external-name turns off: 503" }
    body.missing = true
  elseif is_loopback or is_local_name(service.external_name) then
    findings[#findings + 1] = { level = "error", key = service.key, field = "spec.externalName",
      text = ("is %q, our own host: refused, 503"):format(service.external_name) }
    body.missing = true
  elseif is_link_local then
    findings[#findings + 1] = { level = "error", key = service.key, field = "spec.externalName",
      text = ("is %q, a link-local address: refused, 503"):format(service.external_name) }
    body.missing = true
  elseif not body.external_port then
    findings[#findings + 1] = { level = "error", key = service.key, text = ("has no port %q: 503"):format(upstream.port) }
    body.missing = true
  elseif address and is_our_listener(world, address, body.external_port) then
    findings[#findings + 1] = { level = "error", key = service.key, field = "spec.externalName",
      text = ("is %q, at port %d one of our own listeners: refused, 503"):format(service.external_name, body.external_port) }
    body.missing = true
  elseif address then
    body.endpoints[1] = { ip = address, port = body.external_port, ready = true, draining = false }
  else
    body.external_name = service.external_name
  end
  if body.missing or address then body.external_port = nil end
  return body, findings
end

local function is_meant_for(endpoint, zone)
  for _, name in ipairs(endpoint.zones or {}) do
    if name == zone then return true end
  end
  return false
end

--- Our zone, if hints are to be followed: each ready endpoint has some, and one at least is meant for us. So does kube-proxy.
local function zone_to_follow(world, slices)
  local zone, is_for_us = world.zone(), false
  for _, slice in ipairs(zone and slices or {}) do
    for _, endpoint in ipairs(slice.endpoints) do
      if endpoint.ready and not endpoint.zones then return nil end
      is_for_us = is_for_us or endpoint.ready and is_meant_for(endpoint, zone)
    end
  end
  return is_for_us and zone or nil
end

local function add_endpoint(world, endpoint, number, body, seen, refused)
  local key = endpoint.ip .. " " .. number
  if is_our_listener(world, endpoint.ip, number, endpoint.is_loopback) then
    refused[#refused + 1] = ("%s port %d"):format(endpoint.ip, number)
  elseif not seen[key] then
    seen[key] = { ip = endpoint.ip, port = number, ready = endpoint.ready, draining = endpoint.draining }
    body.endpoints[#body.endpoints + 1] = seen[key]
  elseif endpoint.ready and not seen[key].ready then
    seen[key].ready, seen[key].draining = true, false
  end
end

--- Adds the endpoints of slices (or subsets) that serve the port; of those that are ready, only our zone's where hints are followed.
local function add_endpoints(world, slices, port, body, refused)
  local seen, serving = {}, {}
  for _, slice in ipairs(slices) do
    local number = slice_port(slice.ports, port)
    if number then serving[#serving + 1] = { endpoints = slice.endpoints, number = number } end
  end
  local zone = zone_to_follow(world, serving)
  for _, slice in ipairs(serving) do
    for _, endpoint in ipairs(slice.endpoints) do
      if not zone or not endpoint.ready or is_meant_for(endpoint, zone) then add_endpoint(world, endpoint, slice.number, body, seen, refused) end
    end
  end
end

--- What an upstream is now, as the seam wants it.
---@param world table flags, own_ports, address, is_own, service, slices, endpoints, array, zone (kube/sync.lua: view)
---@param upstream { name: string, namespace: string, service: string, port: string, use_service_address: boolean|nil }
---@return table body
---@return Finding[] findings
function model.upstream(world, upstream)
  local body = { namespace = upstream.namespace, service = upstream.service, port = upstream.port, missing = false, endpoints = world.array {} }
  local findings = {}
  local service = world.service(upstream.namespace .. "/" .. upstream.service)
  if not service then
    findings[1] = { level = "warn", key = "Service " .. upstream.namespace .. "/" .. upstream.service, text = "does not exist: its routes answer 503" }
    body.missing = true
    return body, findings
  end
  if service.type == "ExternalName" then
    body.outside = true
    return external(world, upstream, service, body, findings)
  end
  local port = model.find_port(service, upstream.port)
  if not port then
    findings[1] = { level = "warn", key = service.key, text = ("has no port %q: its routes answer 503"):format(upstream.port) }
    body.missing = true
    return body, findings
  end
  local cluster_ip = service.cluster_ip
  if upstream.use_service_address and cluster_ip and cluster_ip ~= "" and cluster_ip ~= "None" and world.address(cluster_ip) then
    local number = tonumber(port.port)
    if is_our_listener(world, cluster_ip, number) then
      findings[1] = { level = "error", key = service.key,
        text = ("has the address %s port %d, which is one of our own listeners: refused, 503"):format(cluster_ip, number) }
      body.missing = true
    else
      body.outside = true
      body.endpoints[1] = { ip = cluster_ip, port = number, ready = true, draining = false }
    end
    return body, findings
  end
  local refused, slices = {}, world.slices(service.id)
  local endpoints = #slices == 0 and world.endpoints(service.id)
  add_endpoints(world, endpoints and endpoints.subsets or slices, port, body, refused)
  for _, text in ipairs(refused) do
    findings[#findings + 1] = { level = "error", key = service.key, text = ("has the endpoint %s, which is one of our own listeners: refused"):format(text) }
  end
  if #body.endpoints == 0 then
    body.missing = true
    if #slices == 0 and not endpoints then
      findings[#findings + 1] = { level = "warn", key = service.key,
        text = "has no EndpointSlice: its routes answer 503. One to add, with your own address: " .. slice_yaml(upstream, service, port) }
    end
  end
  return body, findings
end

--- Where the API server listens, as its own Service says: "IP:PORT,...".
---@param world table see model.upstream
---@return string
function model.api_server(world)
  local body, list = model.upstream(world, { namespace = "default", service = "kubernetes", port = "443" }), {}
  for i, endpoint in ipairs(body.endpoints) do
    list[i] = (endpoint.ip:find(":", 1, true) and "[%s]:%d" or "%s:%d"):format(endpoint.ip, endpoint.port)
  end
  table.sort(list)
  return table.concat(list, ",")
end

-- ---- TLS ----

local function lists_host(tls, host)
  for _, name in ipairs(tls.hosts) do
    if name == host then return true end
  end
  return false
end

--- Which certificate a host serves. `check(secret id, host)` says whether the Secret's certificate covers the host.
---@param host string
---@param ingresses table[] oldest first
---@param check fun(id: string, host: string): boolean, string|nil
---@return boolean has_tls the oldest Ingress with a tls section decides
---@return string|nil certificate Secret id; nil: the default certificate
---@return { key: string, text: string }|nil problem why it is the default one
---@return string[] looked Secret ids that the answer depends on
function model.certificate(host, ingresses, check)
  local looked = {}
  for _, ingress in ipairs(ingresses) do
    if #ingress.tls > 0 then
      for _, tls in ipairs(ingress.tls) do
        if lists_host(tls, host) then
          if not tls.secret then return true, nil, nil, looked end
          local id = ingress.namespace .. "/" .. tls.secret
          looked[#looked + 1] = id
          local covers, why = check(id, host)
          if covers then return true, id, nil, looked end
          return true, nil, { key = ingress.key, text = ("Secret %s %s: %s gets the default certificate"):format(id, why, host) }, looked
        end
      end
      for _, tls in ipairs(ingress.tls) do
        if tls.secret then
          local id = ingress.namespace .. "/" .. tls.secret
          looked[#looked + 1] = id
          if check(id, host) then return true, id, nil, looked end
        end
      end
      return true, nil, nil, looked -- it has a tls section all the same: the default certificate
    end
  end
  return false, nil, nil, looked
end

return model
