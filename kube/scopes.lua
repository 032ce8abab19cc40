--- Values of scope "upstream": Ingresses that lead to one upstream share it, and the oldest of them that sets such an annotation decides for all. What
-- is invalid, too risky, or has no effect without another annotation decides for nobody else.
local model = require "kube.model"
local schema = require "moongate.schema"

local scopes = {}
scopes.__index = scopes

---@param short fun(ingress: table): table<string, string> annotations without prefix
function scopes.new(short)
  return setmetatable({
    short = short,
    names = {},     -- annotations of that scope, as the live policies declare them: name -> { spec, requires, is_trusted }
    risk = schema.RISKS.high,
    faults = setmetatable({}, { __mode = "k" }), -- annotations of an Ingress -> name -> what is wrong with it, or false
    setters = {},   -- upstream name -> { [Ingress id] = what an Ingress that sets one of them says }
    merged = {},    -- upstream name -> annotation -> value
    touched = {},   -- upstream name -> true: to be merged again
  }, scopes)
end

--- The annotations of scope "upstream" that a policy set declares.
---@return table<string, table>
function scopes.declared(order)
  local names = {}
  for _, policy in ipairs(order) do
    for name, spec in pairs(policy.description.annotations or {}) do
      if type(spec) == "table" and spec.scope == "upstream" then
        names[name] = { spec = spec, requires = schema.names(spec.requires), is_trusted = policy.is_trusted }
      end
    end
  end
  return names
end

local function is_set(value)
  return value ~= nil and value:find("%S") ~= nil
end

--- "invalid", "alone" (without what it requires), or false. A guest's patterns are not run here: its values count as they are.
local function find_fault(self, short, name)
  local declared = self.names[name]
  local spec = declared.spec
  if (schema.RISKS[spec.risk or "low"] or 0) > self.risk then return "invalid" end
  for _, other in ipairs(declared.requires) do
    if not is_set(short[other]) then return "alone" end
  end
  if not declared.is_trusted then return false end
  local _, complaint = schema.parse(name, spec, short[name])
  return complaint and "invalid" or false
end

local function fault_of(self, short, name)
  local known = self.faults[short]
  if not known then
    known = {}
    self.faults[short] = known
  end
  if known[name] == nil then known[name] = find_fault(self, short, name) end
  return known[name]
end

local function upstreams_of(ingress)
  local names = {}
  local function put(backend)
    if backend and backend.service then names[model.upstream_key(ingress.namespace, backend.service, backend.port)] = true end
  end
  for _, rule in ipairs(ingress.rules) do
    for _, path in ipairs(rule.paths) do put(path) end
  end
  put(ingress.default_backend)
  return names
end

--- What an Ingress says to the upstreams that it leads to: its annotations of that scope, and those that they require. Nil: nothing.
---@return { id: string, created: string, short: table<string, string> }|nil
local function said_by(self, ingress)
  local own, short = self.short(ingress), {}
  for name, declared in pairs(self.names) do
    if is_set(own[name]) then
      short[name] = own[name]
      for _, other in ipairs(declared.requires) do short[other] = own[other] end
    end
  end
  return next(short) and { id = ingress.id, created = ingress.created, short = short }
end

--- Without sorting: one upstream may be the target of all Ingresses there are.
local function merge(self, upstream)
  local values, from = {}, {}
  for _, said in pairs(self.setters[upstream] or {}) do
    for name, value in pairs(said.short) do
      local counts = self.names[name] and is_set(value) and (not from[name] or model.is_older(said, from[name])) and not fault_of(self, said.short, name)
      if counts then values[name], from[name] = value, said end
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
local function says_same(before, after)
  return before.created == after.created and same(before.short, after.short)
end

--- An Ingress takes the place of its version before (either may be nil). What that means is worked out by `settle`.
function scopes:place(id, before, after)
  local said, says = before and said_by(self, before), after and said_by(self, after)
  local old, new = said and upstreams_of(before) or {}, says and upstreams_of(after) or {}
  local is_same = said and says and says_same(said, says)
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
    self.setters[name][id] = says
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

local function same_names(a, b)
  for name, declared in pairs(a) do
    if not b[name] or b[name].spec ~= declared.spec or b[name].is_trusted ~= declared.is_trusted then return false end
  end
  for name in pairs(b) do
    if a[name] == nil then return false end
  end
  return true
end

local function forget_faults(self)
  self.faults = setmetatable({}, { __mode = "k" })
end

--- Other policies may declare other names: looks at all Ingresses again if so.
---@param each_ingress fun(visit: fun(id: string, ingress: table)) those that count
function scopes:declare(names, each_ingress, changed)
  if same_names(names, self.names) then return end
  self.names, self.setters = names, {}
  forget_faults(self)
  local before = self.merged
  self.merged = {}
  each_ingress(function(id, ingress) self:place(id, nil, ingress) end)
  self:settle(function() end)
  for name in pairs(before) do
    if not same(before[name], self.merged[name]) then changed(name) end
  end
  for name in pairs(self.merged) do
    if not before[name] then changed(name) end
  end
end

--- The highest risk that annotations may have is another one. What follows is worked out by `settle`.
---@param level string|nil of the setting annotations-risk-level
function scopes:allow_risk(level)
  local risk = schema.RISKS[(schema.clean(level) or "high"):lower()] or schema.RISKS.high
  if risk == self.risk then return end
  self.risk = risk
  forget_faults(self)
  for name in pairs(self.setters) do self.touched[name] = true end
end

--- The annotations of a route that leads to `upstream`: the shared values in the place of its own.
---@param upstream string
---@param short table<string, string>
---@return table<string, string>
function scopes:apply(upstream, short)
  local values, copy = self.merged[upstream] or {}, nil
  for name, declared in pairs(self.names) do
    local own, value = short[name], values[name]
    if is_set(own) and own ~= value then
      local fault = fault_of(self, short, name)
      local needs_nothing = fault == "alone"
      for _, other in ipairs(declared.requires) do needs_nothing = needs_nothing and not is_set(values[other]) end
      if fault == "invalid" or needs_nothing then value = own end -- it stays, for its owner to be told
    end
    if own ~= value then
      if not copy then
        copy = {}
        for key, text in pairs(short) do copy[key] = text end
      end
      copy[name] = value
    end
  end
  return copy or short
end

return scopes
