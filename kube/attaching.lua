--- Puts the policies on a host and its routes: asks each owner, merges the answers in running order, and makes the host's body for the seam.
local native = require "moongate.kube"
local core = require "moongate.core"
local annotations = require "kube.annotations"
local model = require "kube.model"

local attaching = {}

local array = native.array

-- What is said where an Ingress has nothing but a default backend: it neither rewrites nor redirects.
local FOR_CATCH_ALL = {
  ["rewrite-target"] = "", ["app-root"] = "", ["x-forwarded-prefix"] = "", ["use-regex"] = "", ["from-to-www-redirect"] = "", ["permanent-redirect"] = "",
  ["permanent-redirect-code"] = "", ["temporal-redirect"] = "", ["temporal-redirect-code"] = "", ["ssl-redirect"] = "false",
  ["force-ssl-redirect"] = "false",
}

local REWRITE_HOOKS = { "rewrite", "access", "balancer", "header_filter", "body_filter", "log" }

---@class HostInput
---@field name string
---@field ingresses table[] ours, oldest first
---@field short fun(ingress: table): table<string, string> annotations without prefix
---@field has_tls boolean
---@field certificate string|nil
---@field settings table<string, string> raw
---@field set table the policy set, see policies.lua
---@field canaries table[]|nil accepted canary Ingresses that touch it, oldest first
---@field denied string|nil all routes are denied (a setting asks for a guard that does not exist)
---@field service_upstream boolean|nil the setting of that name
---@field https_port integer|nil of our own listener
---@field scopes table|nil values that belong to upstreams, see scopes.lua
---@field rest (fun(): boolean)|nil called between two routes; true: other hosts may have been attached meanwhile
---@field has_stood fun(ingress: table): boolean this very version was accepted before (under other settings or policies)

local function for_catch_all(short)
  local copy = {}
  for name, value in pairs(short) do copy[name] = value end
  for name, value in pairs(FOR_CATCH_ALL) do copy[name] = value end
  return copy
end

--- What an Ingress says about a host.
local function about_host(input, ingress)
  local short = input.short(ingress)
  return #ingress.rules == 0 and for_catch_all(short) or short
end

local function sources_of(input, paths)
  local sources = array {}
  for i, ingress in ipairs(input.ingresses) do
    sources[i] = { namespace = ingress.namespace, name = ingress.name, paths = array(paths[ingress] or {}), annotations = about_host(input, ingress) }
  end
  return sources
end

--- Host-wide annotations: from the oldest Ingress that sets each.
local function host_annotations(input)
  local merged = {}
  for _, ingress in ipairs(input.ingresses) do
    for name, value in pairs(about_host(input, ingress)) do
      if merged[name] == nil and value ~= "" then merged[name] = value end
    end
  end
  return merged
end

local function did_something(result)
  if result.config or next(result.set or {}) then return true end
  for _, list in ipairs { "edits", "aliases", "redirect_hosts", "findings" } do
    if #(result[list] or {}) > 0 then return true end
  end
  return false
end

--- Asks every owner; policy name -> result, of active policies only.
local function ask(set, method, question, failed)
  local merged = {}
  for index, entry in ipairs(set.owners) do
    if #entry.active > 0 then
      question.only = entry.is_partial and entry.active or nil
      local results, problem = entry.owner[method](entry.owner, question)
      if not results then
        failed[#failed + 1] = problem or "the policies could not be attached"
      else
        for _, name in ipairs(entry.active) do merged[name] = results[name] end
      end
      question.only = nil
    end
    if set.denied_of[index] then -- built-ins whose replacement did not load: only to see where they would be
      question.only = set.denied_of[index]
      for name, result in pairs(entry.owner[method](entry.owner, question) or {}) do
        if did_something(result) then failed[#failed + 1] = set.denied[name] end
      end
      question.only = nil
    end
  end
  return merged
end

local function add_findings(made, policy, result, ingress)
  if result.raised then
    made.raised = made.raised or {}
    made.raised[policy.name] = result.raised
  end
  for _, finding in ipairs(result.findings or {}) do
    local key = ingress and ingress.key
    if finding.source then key = ("Ingress %s/%s"):format(finding.source.namespace, finding.source.name) end
    local list = finding.setting and made.setting_findings or made.findings
    list[#list + 1] = { level = finding.level, annotation = finding.annotation, setting = finding.setting, text = finding.text, cause = finding.cause,
      key = not finding.setting and key or nil }
  end
end

local function first_denial(result)
  for _, finding in ipairs(result.findings or {}) do
    if finding.level == "deny" then return finding.text end
  end
end

--- Notes that a policy refuses the Ingress that wrote an annotation. One that has stood has no earlier version to fall back to: its routes are closed.
local function refuse(input, made, result, ingress)
  local by = result.rejected_by
  for _, list in ipairs { input.ingresses, input.canaries or {} } do
    for _, one in ipairs(by and list or {}) do
      if one.namespace == by.namespace and one.name == by.name then ingress = one end
    end
  end
  made.rejected[ingress] = result.rejected
  if input.has_stood(ingress) then made.closed[ingress] = made.closed[ingress] or result.rejected end
end

--- Puts the policy's hook on the host or route, if attach did not leave it out, with the condition that it gave.
local function add_hook(list, policy, result, hook)
  local choice = true
  if result.hooks then choice = result.hooks[hook] end
  if not (result.config and policy.hooks[hook] and choice) then return list end
  list = list or array {}
  list[#list + 1] = { policy = policy.name, config = native.raw(result.config), when = choice ~= true and native.raw(choice) or nil }
  return list
end

local function attach_host(input, made, question)
  local failed = {}
  local results = ask(input.set, "attach_host", question, failed)
  local body = made.body
  body.denied = failed[1]
  for _, policy in ipairs(input.set.order) do
    local result = results[policy.name]
    if result then
      add_findings(made, policy, result, input.ingresses[1])
      body.denied = body.denied or first_denial(result)
      if result.rejected then refuse(input, made, result, input.ingresses[1]) end
      add_hook(body.hooks, policy, result, "server_rewrite")
      for _, name in ipairs(result.aliases or {}) do made.aliases[#made.aliases + 1] = name:lower() end
      for _, name in ipairs(result.redirect_hosts or {}) do made.redirect_hosts[#made.redirect_hosts + 1] = name:lower() end
      for name, value in pairs(result.set or {}) do made.set[name] = value end
    end
  end
  body.regex = made.set.regex == true
end

local function route_annotations(input, route)
  local short = input.short(route.annotated_by or route.ingress)
  if route.service and input.scopes then short = input.scopes:apply(model.upstream_key(route.namespace, route.service, route.port), short) end
  return route.is_catch_all and for_catch_all(short) or short
end

local function use_upstream(made, namespace, service, port, settings)
  local name = model.upstream_key(namespace, service, port)
  local upstream = made.upstreams[name] or { name = name, namespace = namespace, service = service, port = port }
  if settings and settings.use_service_address then upstream.use_service_address = true end
  made.upstreams[name] = upstream
  return name
end

--- service-upstream, as long as no policy declares it.
local function uses_service_address(input, short)
  if input.set.declared["service-upstream"] then return false end
  local value = short["service-upstream"]
  if value == nil or value == "" then return input.service_upstream == true end
  return value == "true" or value == "True" or value == "TRUE" or value == "t" or value == "T" or value == "1"
end

local function copy_edits(list, into)
  for _, edit in ipairs(list or {}) do
    into[#into + 1] = {
      kind = edit.kind, name = edit.name, value = edit.value, when = edit.when or "always", condition = edit.condition and native.raw(edit.condition),
    }
  end
end

--- Which of the offers for this route's rule are alternatives to its Service.
local function alternatives_of(made, route)
  local list, seen = {}, {}
  for _, offer in ipairs(made.offers[route.type .. " " .. route.path] or {}) do
    local ingress, why = offer.ingress, nil
    local key = offer.service and model.upstream_key(ingress.namespace, offer.service, offer.port)
    if offer.is_catch_all and not route.is_catch_all then
      why = "there is no other default backend"
    elseif not route.service or route.is_default_backend then
      why = "the rule that it names leads to no Service"
    elseif not key or key == model.upstream_key(route.namespace, route.service, route.port) then
      why = key and "the rule that it names leads to the same Service" or "it leads to no Service"
    elseif seen[key] then
      why = seen[key] .. " leads to the same Service"
    else
      seen[key] = ingress.key
      list[#list + 1] = offer
    end
    offer.is_used = true
    if why then
      made.findings[#made.findings + 1] = { level = "warn", annotation = "canary", key = ingress.key,
        text = ("canary: has no effect on host %s, path %s: %s"):format(made.name, route.path, why) }
    end
  end
  return list
end

--- Puts them where the route's body, its facts and the policies have them.
local function add_alternatives(input, made, body, question, offers)
  for i, offer in ipairs(offers) do
    local namespace, service, port = offer.ingress.namespace, offer.service, offer.port
    local source = { kind = "Ingress", namespace = namespace, name = offer.ingress.name }
    local shown = { service = service, port = port, name = model.upstream_name(namespace, service, port) }
    local key = use_upstream(made, namespace, service, port)
    body.upstreams[i + 1] = { service = service, port = port, weight = 0, name = key }
    body.facts.alternatives[i] = { upstream = shown, source = source }
    question.route.alternatives[i] = {
      upstream = { service = service, port = port, name = shown.name, key = key }, source = source, annotations = input.short(offer.ingress),
    }
  end
end

local function attach_route(input, made, route)
  local short = route_annotations(input, route)
  local ingress = route.annotated_by or route.ingress
  local source = { kind = "Ingress", namespace = ingress.namespace, name = ingress.name }
  local keyed, upstreams = array {}, array {}
  if route.service then
    keyed[1] = { service = route.service, port = route.port, weight = 1, name = model.upstream_key(route.namespace, route.service, route.port) }
    upstreams[1] = { service = route.service, port = route.port, weight = 1, name = model.upstream_name(route.namespace, route.service, route.port) }
  end
  local body = {
    path = route.path, type = route.type, source = source, upstreams = keyed, default_backend = route.is_default_backend or false,
    settings = {}, edits = array {}, hooks = {},
    facts = { path = route.path, path_type = route.path_type, source = source, upstreams = upstreams, alternatives = array {}, host = { name = input.name,
      tls = input.has_tls } },
  }
  local failed = {}
  local question = {
    host_name = input.name, annotations = short,
    route = { path = route.path, path_type = route.path_type, source = source, upstreams = upstreams, alternatives = array {} },
  }
  add_alternatives(input, made, body, question, alternatives_of(made, route))
  local results = ask(input.set, "attach_route", question, failed)
  body.denied = input.denied or failed[1]
  for _, policy in ipairs(input.set.order) do
    local result = results[policy.name]
    if result then
      add_findings(made, policy, result, ingress)
      body.denied = body.denied or first_denial(result)
      if result.rejected then refuse(input, made, result, ingress) end
      for name, value in pairs(result.set or {}) do body.settings[name] = value end
      copy_edits(result.edits, body.edits)
      for _, hook in ipairs(REWRITE_HOOKS) do body.hooks[hook] = add_hook(body.hooks[hook], policy, result, hook) end
      for _, other in ipairs(result.services or {}) do use_upstream(made, other.namespace, other.service, other.port) end
    end
  end
  local unguarded = annotations.unguarded(short, input.set.declared)
  if unguarded then
    body.denied = body.denied or ("%s: no policy for it yet"):format(unguarded)
    made.findings[#made.findings + 1] = { level = "deny", annotation = unguarded, key = ingress.key,
      text = ("%s: is not supported yet; its routes answer 503 rather than letting everyone in"):format(unguarded) }
  end
  if route.service then
    if uses_service_address(input, short) then body.settings.use_service_address = true end
    use_upstream(made, route.namespace, route.service, route.port, body.settings)
  end
  return body, ingress
end

--- The route's path as a regex. One that is none stands for itself, closed, and leaves the host's other routes alone.
local function set_regex(made, body, route)
  body.regex_path = route.path
  local regex, problem = core.value("regex", "i\0^" .. route.path)
  if regex then return end
  body.regex_path = "\\Q" .. route.path:gsub("\\E", "\\E\\\\E\\Q") .. "\\E"
  local text = ("path %s of host %s is no regex: %s"):format(route.path, made.name, tostring(problem))
  body.denied = body.denied or text
  made.findings[#made.findings + 1] = { level = "error", key = route.ingress.key, text = text .. " (its requests are answered with 503)" }
end

--- Builds a host.
---@param input HostInput
---@return table made { body, findings, setting_findings, aliases, redirect_hosts, upstreams, rejected, raised }   raised: policy -> what its attach raised
function attaching.host(input)
  local routes, shadowed, paths = model.routes(input.name, input.ingresses)
  local offers, by_rule = model.offers(input.name, input.canaries or {})
  local made = {
    offers = by_rule,
    body = { tls = input.has_tls, certificate = input.certificate, regex = false, hooks = array {}, routes = array {} },
    name = input.name, findings = {}, setting_findings = {}, aliases = {}, redirect_hosts = {}, upstreams = {}, rejected = {}, closed = {}, set = {},
  }
  local facts = { name = input.name, tls = input.has_tls, listener = { name = "default", https_port = input.https_port }, sources = sources_of(input, paths) }
  local question = { host = facts, annotations = host_annotations(input), settings = input.settings }
  attach_host(input, made, question)
  local denied_by = made.closed
  for i, route in ipairs(routes) do
    if input.rest and input.rest() then ask(input.set, "attach_host", question, {}) end -- owners keep what the routes of one host share, the last one's
    local body, ingress = attach_route(input, made, route)
    made.body.routes[i] = body
    body.ingress = ingress
    if body.denied then denied_by[ingress] = denied_by[ingress] or body.denied end
  end
  for i, body in ipairs(made.body.routes) do -- one bad guard closes all routes of its Ingress
    body.denied = body.denied or denied_by[body.ingress]
    body.ingress = nil
    if made.body.regex then
      set_regex(made, body, routes[i])
      if input.rest then input.rest() end
    end
  end
  for _, offer in ipairs(offers) do
    if not offer.is_used then
      made.findings[#made.findings + 1] = { level = "warn", annotation = "canary", key = offer.ingress.key,
        text = ("canary: has no effect: no other Ingress has a rule of host %s, path %s (%s)"):format(input.name, offer.path, offer.type) }
    end
  end
  made.offers = nil
  for _, route in ipairs(shadowed) do
    made.findings[#made.findings + 1] = { level = "warn", key = route.ingress.key,
      text = ("path %s of host %s is ignored: %s has it already"):format(route.path, input.name, route.older == route.ingress and "another rule"
        or route.older.key) }
  end
  return made
end

return attaching
