--- Who depends on whom: the indices that make one change cost what it touches. No decisions here.
local world = {}
world.__index = world

function world.new()
  return setmetatable({
    ingresses = {},   -- host -> { [Ingress id] = Ingress that counts for it }
    slices = {},      -- Service id -> { [slice id] = slice }
    upstreams = {},   -- upstream name -> { [holder] = definition }
    by_service = {},  -- Service id -> { [upstream name] = true }
    users = {},       -- "secret ns/name" or "config_map ns/name" -> { [host] = true }
    names = {},       -- alias or redirect name -> { [owner host] = "alias" | "redirect" }
  }, world)
end

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

--- Replaces what a holder (a host, or the settings) uses. Calls `changed(name)` for each upstream that got or lost it, or whose definition is another.
function world:set_upstreams(holder, before, after, changed)
  for name, definition in pairs(before or {}) do
    if not after[name] then
      remove(self.upstreams, name, holder)
      if not self.upstreams[name] then remove(self.by_service, definition.namespace .. "/" .. definition.service, name) end
      changed(name)
    end
  end
  for name, definition in pairs(after) do
    local old = before and before[name]
    add(self.upstreams, name, holder, definition)
    add(self.by_service, definition.namespace .. "/" .. definition.service, name)
    if not old or old.use_service_address ~= definition.use_service_address then changed(name) end
  end
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

--- The definition of an upstream: the first holder's; one that wants the Service's own address is enough.
function world:definition(name)
  local found
  for _, definition in pairs(self.upstreams[name] or {}) do
    if not found or definition.use_service_address then found = definition end
  end
  return found
end

return world
