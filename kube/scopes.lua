--- Values of scope "upstream": Ingresses that lead to one upstream share it, and the oldest of them that sets such an annotation decides for all.
local model = require "kube.model"

local scopes = {}
scopes.__index = scopes

---@param short fun(ingress: table): table<string, string> annotations without prefix
function scopes.new(short)
  return setmetatable({
    short = short,
    names = {},     -- annotations of that scope, as the live policies declare them
    setters = {},   -- upstream name -> { [Ingress id] = Ingress that sets one of them }
    merged = {},    -- upstream name -> annotation -> value
    touched = {},   -- upstream name -> true: to be merged again
  }, scopes)
end

--- The annotations of scope "upstream" that a policy set declares.
---@return table<string, true>
function scopes.declared(order)
  local names = {}
  for _, policy in ipairs(order) do
    for name, spec in pairs(policy.description.annotations or {}) do
      if type(spec) == "table" and spec.scope == "upstream" then names[name] = true end
    end
  end
  return names
end

local function upstreams_of(ingress)
  local names = {}
  local function put(backend)
    if backend and backend.service then names[model.upstream_name(ingress.namespace, backend.service, backend.port)] = true end
  end
  for _, rule in ipairs(ingress.rules) do
    for _, path in ipairs(rule.paths) do put(path) end
  end
  put(ingress.default_backend)
  return names
end

local function sets_one(self, ingress)
  for name, value in pairs(self.short(ingress)) do
    if self.names[name] and value:find("%S") then return true end
  end
  return false
end

--- Without sorting: one upstream may be the target of all Ingresses there are.
local function merge(self, upstream)
  local values, from = {}, {}
  for _, ingress in pairs(self.setters[upstream] or {}) do
    for name, value in pairs(self.short(ingress)) do
      if self.names[name] and value:find("%S") and (not from[name] or model.is_older(ingress, from[name])) then
        values[name], from[name] = value, ingress
      end
    end
  end
  return next(values) and values or nil
end

local function same(a, b)
  a, b = a or {}, b or {}
  for name, value in pairs(a) do
    if b[name] ~= value then return false end
  end
  for name in pairs(b) do
    if a[name] == nil then return false end
  end
  return true
end

--- Do two versions of an Ingress say the same, as far as upstreams are concerned?
local function says_same(self, before, after)
  if before.created ~= after.created then return false end
  local old, new = self.short(before), self.short(after)
  for name in pairs(self.names) do
    if old[name] ~= new[name] then return false end
  end
  return true
end

--- An Ingress takes the place of its version before (either may be nil). What that means is worked out by `settle`.
function scopes:place(id, before, after)
  local old = before and sets_one(self, before) and upstreams_of(before) or {}
  local new = after and sets_one(self, after) and upstreams_of(after) or {}
  local is_same = before and after and says_same(self, before, after)
  for name in pairs(old) do
    if not (is_same and new[name]) then self.touched[name] = true end
    local setters = self.setters[name]
    if setters and not new[name] then
      setters[id] = nil
      if next(setters) == nil then self.setters[name] = nil end
    end
  end
  for name in pairs(new) do
    if not (is_same and old[name]) then self.touched[name] = true end
    self.setters[name] = self.setters[name] or {}
    self.setters[name][id] = after
  end
end

--- Once for all Ingresses that were placed: calls `changed(upstream)` where the shared values are others now.
function scopes:settle(changed)
  for name in pairs(self.touched) do
    self.touched[name] = nil
    local values = merge(self, name)
    if not same(values, self.merged[name]) then
      self.merged[name] = values
      changed(name)
    end
  end
end

--- Other policies may declare other names: looks at all Ingresses again if so.
---@param placed table<string, table> Ingress id -> Ingress
function scopes:declare(names, placed, changed)
  if same(names, self.names) then return end
  self.names, self.setters = names, {}
  local before = self.merged
  self.merged = {}
  for id, ingress in pairs(placed) do self:place(id, nil, ingress) end
  self:settle(function() end)
  for name in pairs(before) do
    if not same(before[name], self.merged[name]) then changed(name) end
  end
  for name in pairs(self.merged) do
    if not before[name] then changed(name) end
  end
end

--- The annotations of a route that leads to `upstream`: the shared values in the place of its own.
---@param upstream string
---@param short table<string, string>
---@return table<string, string>
function scopes:apply(upstream, short)
  local values, is_other = self.merged[upstream], false
  for name in pairs(self.names) do
    if short[name] ~= (values and values[name]) then is_other = true end
  end
  if not is_other then return short end
  local copy = {}
  for name, value in pairs(short) do
    if not self.names[name] then copy[name] = value end
  end
  for name, value in pairs(values or {}) do copy[name] = value end
  return copy
end

return scopes
