--- A host with very many paths is built a slice at a time, while other changes go on being taken in and published. What it is built from may change
--- meanwhile: it is published all the same, or it would never be where changes are frequent, and built again.
local native = require "moongate.kube"
local world = require "kube.world"

local large_host = {}

local MANY = 200       -- paths: about what one turn can attach several times over
local MANY_BYTES = 4096 -- less than what so many paths take in an Ingress as it is kept

--- Has it enough bytes for so many paths? That is told without opening anything.
local function may_be(self, ids)
  local bytes = 0
  for id in world.each(ids) do
    bytes = bytes + #(self.placed:get(id) or "")
    if bytes >= MANY_BYTES then return true end
  end
  return false
end

--- Has a host so many paths?
---@param self table the sync
---@param host string
function large_host.is(self, host)
  local ids, count = self.world.ingresses:get(host), 0
  if not may_be(self, ids) then return false end
  for id in world.each(ids) do
    for _, rule in ipairs(self.placed:open(id).rules) do
      if rule.host == host then count = count + #rule.paths end
    end
    if count > MANY then return true end
  end
  return false
end

---@class LargeHost a host that is being built
---@field host string
---@field set table the policy set
---@field thread thread
---@field deadline number
---@field users table<string, true>|nil Secrets and ConfigMaps that it has looked at so far, between two slices
---@field is_stale boolean|nil something that it was built from has changed

--- Begins to build one.
---@return LargeHost
function large_host.begin(self, host, set)
  local one = { host = host, set = set }
  local function rest()
    if native.clock() < one.deadline then return false end
    one.users, self.users = self.users, nil
    coroutine.yield()
    local is_interrupted = self.builder ~= rest
    self.builder, self.users = rest, one.users
    return is_interrupted
  end
  one.thread = coroutine.create(function() return self:build(host, set, rest) end)
  return one
end

--- Goes on with it.
---@param one LargeHost
---@param deadline number monotonic seconds
---@return boolean is_done
---@return table|nil made as sync:build
function large_host.step(self, one, deadline)
  one.deadline = deadline
  local is_fine, made = coroutine.resume(one.thread)
  if not is_fine then
    self.users = nil
    error(debug.traceback(one.thread, made), 0)
  end
  return coroutine.status(one.thread) == "dead", made
end

--- Encodes each route by itself.
function large_host.encode(routes, rest)
  for i, route in ipairs(routes) do
    routes[i] = native.raw(native.encode(route))
    rest()
  end
end

local function each(self, visit)
  if self.large then visit(self.large) end
  if self.pass and self.pass.large then visit(self.pass.large) end
end

--- Something changed that a host is built from, if `concerns(one)`; nil: whatever it is built from.
---@param self table the sync
---@param concerns (fun(one: LargeHost): boolean)|nil
function large_host.touch(self, concerns)
  each(self, function(one)
    if not concerns or concerns(one) then one.is_stale = true end
  end)
end

--- The host was built in another way.
function large_host.forget(self, host)
  if self.large and self.large.host == host then self.large = nil end
  if self.pass and self.pass.large and self.pass.large.host == host then self.pass.large = nil end
end

--- One slice of the queue's host, if there is one that is large.
---@param self table the sync
---@param deadline number
---@return boolean is_done there is none, or it is built
function large_host.work(self, deadline)
  local one = self.large
  if one and one.set ~= self.policies.set then
    self.large = nil
    self:enqueue(one.host)
    return true
  end
  if not one then return true end
  self.large = nil
  local is_done, made = large_host.step(self, one, deadline)
  if not is_done then
    self.large = one
    return false
  end
  self:take_over(one.host, made)
  if one.is_stale then self.dirty.hosts[one.host] = true end
  return true
end

return large_host
