--- Canary Ingresses: they make no host and no route, and share nothing with others; they offer alternatives for rules that others have. The sync lists them
-- apart.
local annotations = require "kube.annotations"
local model = require "kube.model"
local world = require "kube.world"

local canaries = {}

---@param self table the sync
function canaries.is(self, ingress)
  return annotations.is_canary(self:short(ingress))
end

--- The Ingress, if it is no canary.
function canaries.main(self, ingress)
  return ingress and not canaries.is(self, ingress) and ingress or nil
end

--- Where an Ingress is listed under its hosts.
function canaries.index(self, ingress)
  return canaries.is(self, ingress) and self.world.canaries or self.world.ingresses
end

--- Those that touch a host, oldest first.
---@return table[]
function canaries.of(self, host)
  local list = {}
  for id in world.each(self.world.canaries:get(host)) do list[#list + 1] = self.placed:open(id) end
  table.sort(list, model.is_older)
  return list
end

--- All Ingresses of a host, the canaries last.
---@param list table[] the others; the canaries are appended to it
---@param more table[]
---@return table[]
function canaries.join(list, more)
  for _, canary in ipairs(more) do list[#list + 1] = canary end
  return list
end

--- Those of a host that nobody else has are for nothing.
---@param list table[]|nil nil: there is none of that kind
function canaries.note_lonely(self, host, list)
  local found
  for i, ingress in ipairs(list or {}) do
    found = found or {}
    found[i] = { level = "warn", annotation = "canary", key = ingress.key, text = ("canary: has no effect: no other Ingress has host %s"):format(host) }
  end
  self:report("canaries " .. host, found)
end

--- The Ingresses whose routes lead to an upstream may have another lack now.
---@param holder string a host
function canaries.touch_orphans(self, holder)
  for _, index in ipairs { self.world.ingresses, self.world.canaries } do
    for id in world.each(index:get(holder)) do self.dirty.orphans[id] = true end
  end
end

return canaries
