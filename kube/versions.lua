--- Versions of Ingresses by id: which one counts, say, or which one every policy accepted. As a rule that is the store's own, and then it is not kept twice.
local shelf = require "kube.shelf"

local versions = {}
versions.__index = versions

local CURRENT = "=" -- in the place of a version: the store's

---@param store table
function versions.new(store)
  return setmetatable({ store = store, kept = shelf.new() }, versions)
end

---@return Version|nil
function versions:get(id)
  local version = self.kept:get(id)
  if version == CURRENT then return self.store:version("Ingress", id) end
  return version
end

---@param version Version|nil
function versions:put(id, version)
  self.kept:put(id, version and version == self.store:version("Ingress", id) and CURRENT or version)
end

--- The Ingress itself.
---@return table|nil
function versions:open(id)
  local version = self:get(id)
  return version and self.store.open(version)
end

--- The store's version is about to be another one: what stood for it is that version itself.
---@param old Version
function versions:pin(id, old)
  if self.kept:get(id) == CURRENT then self.kept:put(id, old) end
end

---@return boolean
function versions:has(id) return self.kept:has(id) end

--- for id in versions:each() do
function versions:each() return self.kept:each() end

return versions
