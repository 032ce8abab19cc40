--- Settings of guards that cannot be followed. A guard that stood goes on with those that it had, all of them, so that one typing error neither opens a route
-- nor closes them all; one that did not stand yet closes its routes, which the policies see to when they are attached.
local native = require "moongate.kube"

local guard_settings = {}

-- A route that says nothing of its own: what settings alone make of it.
local HOST = { name = "settings", tls = false, listener = { name = "default" }, sources = native.array {} }
local ROUTE = {
  path = "/", path_type = "Prefix", source = { kind = "Ingress", namespace = "", name = "" }, upstreams = native.array {}, alternatives = native.array {},
}

local function keys_of(description)
  local keys = {}
  for key in pairs(description.settings or {}) do keys[key] = true end
  for _, spec in pairs(description.annotations or {}) do
    if type(spec) == "table" and spec.setting then keys[spec.setting] = true end
  end
  return keys
end

local function owner_of(set, name)
  for _, entry in ipairs(set.owners) do
    for _, active in ipairs(entry.active) do
      if active == name then return entry.owner end
    end
  end
end

--- Why the guard closes that route under these settings, or nil; and whether it guards it.
local function judge(owner, name, raw)
  local only = native.array { name }
  owner:attach_host { host = HOST, annotations = {}, settings = raw, only = only }
  local results, problem = owner:attach_route { host_name = HOST.name, annotations = {}, route = ROUTE, only = only }
  if not results then return problem or "the policies could not be attached", false end
  local result = results[name]
  for _, finding in ipairs(result and result.findings or {}) do
    if finding.level == "deny" then return finding.text, false end
  end
  return nil, result ~= nil and result.config ~= nil
end

--- The settings to go by.
---@param set table the policy set
---@param before table<string, string> those that were gone by
---@param raw table<string, string> what the ConfigMap says now
---@return table<string, string>
---@return Finding[] about what is not followed
function guard_settings.choose(set, before, raw)
  local chosen, findings = raw, {}
  for _, policy in ipairs(set.order) do
    local keys, differs = policy.description.guard and keys_of(policy.description) or {}, false
    for key in pairs(keys) do differs = differs or chosen[key] ~= before[key] end
    local owner = differs and owner_of(set, policy.name)
    local why = owner and judge(owner, policy.name, chosen)
    if why then
      local was_closed, stood = judge(owner, policy.name, before)
      if stood and not was_closed then
        local copy = {}
        for key, value in pairs(chosen) do copy[key] = value end
        for key in pairs(keys) do copy[key] = before[key] end
        chosen = copy
        findings[#findings + 1] = { level = "error", text = ("%s (%s goes on with the settings that it had)"):format(why, policy.name) }
      end
    end
  end
  return chosen, findings
end

return guard_settings
