--- A new policy set: which hosts it touches, and its publication as one change when all of them are attached. Until then the old set goes on serving.
local canaries = require "kube.canaries"
local large_host = require "kube.large_host"
local scopes = require "kube.scopes"
local world = require "kube.world"

local policy_change = {}

--- Which hosts does a change of these policies touch?
local function affects(self, old, new, changed)
  local names, is_all = {}, next(changed) == nil
  for _, set in ipairs { old, new } do
    for _, policy in ipairs(set.order) do
      if changed[policy.name] then
        local description = policy.description
        if description.applies == "always" then is_all = true end
        for key in pairs(description.settings or {}) do
          if self.raw_settings[key] then is_all = true end
        end
        for name, spec in pairs(description.annotations or {}) do
          names[name] = true
          if type(spec) == "table" then
            if spec.setting and self.raw_settings[spec.setting] then is_all = true end
            for _, alias in ipairs(type(spec.alias) == "table" and spec.alias or { spec.alias }) do names[alias] = true end
          end
        end
      end
    end
    if next(set.denied) then is_all = true end
  end
  return is_all, function(made)
    for _, ingress in ipairs(made and made.ingresses or {}) do
      for name in pairs(self:short(ingress)) do
        if names[name] then return true end
      end
    end
    return false
  end
end

--- Attaches a set to the hosts that the changed policies touch.
local function start(self, set, changed)
  local is_all, is_touched = affects(self, self.policies.set, set, changed)
  local todo = {}
  for host in self.hosts:each() do
    if is_all or is_touched { ingresses = canaries.join(self:ingresses_of(host), canaries.of(self, host)) } then todo[host] = true end
  end
  self.pass = { set = set, todo = todo, built = {}, users = {}, all = is_all, affects = is_touched }
end

--- Takes in changed policy files; if that makes a new set, its hosts are attached in slices (sync:work) before it is published.
---@param self table the sync
---@param paths string[]
function policy_change.begin(self, paths)
  local set, changed = self.policies:change(paths)
  if set then start(self, set, changed) end
end

--- What policies raised on hosts where the versions before did not: an Ingress on which those do as well keeps nobody's policy from changing.
---@return table<string, string> policy -> text
local function newly_raised(self, pass)
  local raised = {}
  for host, made in pairs(pass.built) do
    local before = made.raised and (self:host(host) or {}).raised or {}
    for name, text in pairs(made.raised or {}) do
      if not before[name] then raised[name] = ("%s (host %s)"):format(text, host) end
    end
  end
  return raised
end

local function note(pass, host, made)
  pass.built[host] = made
  for key in pairs(made and made.users or {}) do world.add(pass.users, key, host) end
end

--- Attaches one host, if one is left, or a part of one. Until all are, what it names is noted here and not in the world.
---@param self table the sync, in a pass
---@param deadline number monotonic seconds, for a large host
---@return boolean is_done
function policy_change.step(self, deadline)
  local pass = self.pass
  local one, host = pass.large, next(pass.todo)
  if not one and not host then return true end
  if not one then
    pass.todo[host] = nil
    if not large_host.is(self, host) then
      note(pass, host, self:build(host, pass.set))
      return false
    end
    one = large_host.begin(self, host, pass.set)
  end
  pass.large = nil -- an error ends it
  local is_built, made = large_host.step(self, one, deadline)
  if not is_built then
    pass.large = one
  elseif one.is_stale then
    pass.todo[one.host] = true
  else
    note(pass, one.host, made)
  end
  return false
end

--- A Secret or ConfigMap changed: hosts that were attached to the one before are attached again.
---@param self table the sync
---@param key string "secret namespace/name" or "config_map namespace/name"
function policy_change.touch(self, key)
  local pass = self.pass
  for host in pairs(pass and pass.users[key] or {}) do
    if pass.built[host] then pass.built[host], pass.todo[host] = nil, true end
  end
end

--- Takes in policy files before anything was attached: their set is in force from the first message on.
---@param self table the sync, not ready yet
---@param paths string[]
function policy_change.adopt(self, paths)
  local set = #paths > 0 and self.policies:change(paths)
  if not set then return end
  self.policies:publish(set)
  self.scopes.names = scopes.declared(set.order)
end

--- All hosts are attached: the new set is published as one change, without the files whose new version does not attach.
---@param self table the sync
function policy_change.finish(self)
  local pass = self.pass
  self.pass = nil
  local is_back, set, changed = self.policies:take_back(newly_raised(self, pass))
  if set then start(self, set, changed) end
  if is_back then return end
  self.policies:publish(pass.set)
  local function each_ingress(visit)
    for id in self.placed:each() do visit(id, canaries.main(self, self.placed:open(id))) end
  end
  self.scopes:declare(scopes.declared(pass.set.order), each_ingress, function(name) self:touch_sharers(name) end)
  self:send("policies", "policies", pass.set.key)
  for host, made in pairs(pass.built) do
    if self.world.ingresses:has(host) then self:commit(host, made) end
    if next(made.rejected) then self.dirty.hosts[host] = true end -- to be built again without the refused ones
  end
  if pass.all then
    self.setting_findings = {}
    for _, made in pairs(pass.built) do self:note_settings(made.setting_findings) end
    self.dirty.setting_findings = true
  end
  self:judge_again()
  self.dirty.settings = true -- policies may declare other settings
  self:build_settings()
  self:finish_message()
end

return policy_change
