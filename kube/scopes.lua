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

local function merge(self, upstream)
  local list, values = {}, {}
  for _, ingress in pairs(self.setters[upstream] or {}) do list[#list + 1] = ingress end
  table.sort(list, model.is_older)
  for _, ingress in ipairs(list) do
    for name, value in pairs(self.short(ingress)) do
      if self.names[name] and values[name] == nil and value:find("%S") then values[name] = value end
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

--- An Ingress takes the place of its version before (either may be nil). Calls `changed(upstream)` where the shared values are others now.
function scopes:place(id, before, after, changed)
  local touched = {}
  if before and sets_one(self, before) then
    for name in pairs(upstreams_of(before)) do
      touched[name] = true
      if self.setters[name] then self.setters[name][id] = nil end
    end
  end
  if after and sets_one(self, after) then
    for name in pairs(upstreams_of(after)) do
      touched[name] = true
      self.setters[name] = self.setters[name] or {}
      self.setters[name][id] = after
    end
  end
  for name in pairs(touched) do
    if self.setters[name] and next(self.setters[name]) == nil then self.setters[name] = nil end
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
  for id, ingress in pairs(placed) do self:place(id, nil, ingress, function() end) end
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
