--- A map for what is known of thousands of objects. Values that are strings lie outside of Lua's heap (kube/shelf.c), others, of which there are few, in it.
local native = require "moongate.kube"

local shelf = {}
shelf.__index = shelf

function shelf.new()
  return setmetatable({ texts = native.shelf(), others = {} }, shelf)
end

---@param key string
---@return any
function shelf:get(key)
  local other = self.others[key]
  if other ~= nil then return other end
  return self.texts:get(key)
end

---@param key string
---@return boolean
function shelf:has(key)
  return self.others[key] ~= nil or self.texts:has(key)
end

---@param key string
---@param value any nil takes the key away
function shelf:put(key, value)
  local is_text = type(value) == "string"
  if not is_text or self.others[key] ~= nil then self.others[key] = not is_text and value or nil end
  self.texts:put(key, is_text and value or nil)
end

--- All keys, in no order; the map may change while they are gone through.
---@return string[]
function shelf:keys()
  local keys = self.texts:keys()
  for key in pairs(self.others) do keys[#keys + 1] = key end
  return keys
end

--- for key in shelf:each() do
function shelf:each()
  local keys, i = self:keys(), 0
  return function()
    i = i + 1
    return keys[i]
  end
end

return shelf
