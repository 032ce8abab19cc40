--- Who depends on whom: the indices that make one change cost what it touches. No decisions here.
local shelf = require "kube.shelf"

local world = {}
world.__index = world

world.SETTINGS = "/settings" -- as a holder of upstreams; the others are hosts

function world.new()
  return setmetatable({
    ingresses = shelf.new(),  -- host -> Ingress ids
    canaries = shelf.new(),   -- the same of canary Ingresses
    slices = shelf.new(),     -- Service id -> slice ids
    upstreams = shelf.new(),  -- upstream name -> holders
    by_service = shelf.new(), -- Service id -> upstream names
    own_address = {}, -- upstream name -> { [holder that wants the Service's own address] = true }
    users = {},       -- "secret ns/name" or "config_map ns/name" -> { [host] = true }
    names = {},       -- alias or redirect name -> { [owner host] = "alias" | "redirect" }
  }, world)
end

-- ---- sets of names, nearly all of one name: that name itself stands for such a set ----

---@alias Names nil|string|table<string, true>

--- The set with one name more.
---@param set Names
local function with(set, name)
  if set == nil or set == name then return name end
  if type(set) == "string" then return { [set] = true, [name] = true } end
  set[name] = true
  return set
end

--- The set without a name.
local function without(set, name)
  if set == name then return nil end
  if type(set) ~= "table" then return set end
  set[name] = nil
  local first = next(set)
  return next(set, first) and set or first
end

local function only(set, name)
  if name == nil then return set end
end

--- for name in world.each(set) do
function world.each(set)
  if type(set) == "table" then return next, set, nil end
  return only, set, nil
end

--- Is the name in the set?
---@return boolean
function world.has(set, name)
  return set == name or type(set) == "table" and set[name] == true
end

--- Puts a name into the set that a shelf has for a key.
function world.enlist(sets, key, name)
  sets:put(key, with(sets:get(key), name))
end

--- Takes it out.
function world.strike(sets, key, name)
  sets:put(key, without(sets:get(key), name))
end

-- ---- maps of maps ----

local function add(map, key, item, value)
  local set = map[key]
  if not set then
    set = {}
    map[key] = set
  end
  set[item] = value == nil and true or value
end

local function remove(map, key, item)
  local set = map[key]
  if not set then return end
  set[item] = nil
  if next(set) == nil then map[key] = nil end
end

world.add, world.remove = add, remove

local function service_of(upstream)
  return upstream:match("^(.*)/")
end

local function let_go(self, holder, name, changed)
  world.strike(self.upstreams, name, holder)
  remove(self.own_address, name, holder)
  if not self.upstreams:has(name) then world.strike(self.by_service, service_of(name), name) end
  changed(name)
end

--- Replaces what a holder (a host, or SETTINGS) uses. Calls `changed(name)` for each upstream that got or lost it, or that it wants in another way.
---@param before Names what this returned the last time
---@param after table<string, table> name -> definition
---@return Names
function world:set_upstreams(holder, before, after, changed)
  for name in world.each(before) do
    if not after[name] then let_go(self, holder, name, changed) end
  end
  local names
  for name, definition in pairs(after) do
    local wants, wanted = definition.use_service_address == true, (self.own_address[name] or {})[holder] == true
    local is_new = not world.has(before, name)
    names = with(names, name)
    world.enlist(self.upstreams, name, holder)
    world.enlist(self.by_service, service_of(name), name)
    if wants ~= wanted then
      if wants then add(self.own_address, name, holder) else remove(self.own_address, name, holder) end
    end
    if is_new or wants ~= wanted then changed(name) end
  end
  return names
end

--- Replaces a set of keys that `item` is listed under.
function world.relist(map, before, after, item, changed)
  for key in pairs(before or {}) do
    if after[key] == nil then
      remove(map, key, item)
      if changed then changed(key) end
    end
  end
  for key, value in pairs(after) do
    if not before or before[key] ~= value then
      add(map, key, item, value)
      if changed then changed(key) end
    end
  end
end

--- What an upstream is: one holder that wants the Service's own address is enough. Nil: nobody uses it.
---@param name string see model.upstream_key
---@return table|nil
function world:definition(name)
  if not self.upstreams:has(name) then return nil end
  local namespace, service, port = name:match("^([^/]*)/([^/]*)/(.*)$")
  return { name = name, namespace = namespace, service = service, port = port, use_service_address = self.own_address[name] ~= nil or nil }
end

return world
