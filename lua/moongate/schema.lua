--- Specifications of annotations and settings: checked when a policy is loaded, used to read what users wrote.
-- Everything a user reads has one form: `NAME: VALUE is ...` or `NAME: VALUE has ...`. No state; safe in guest states.
local types = require "moongate.types"

local find, gmatch, gsub, sub = string.find, string.gmatch, string.gsub, string.sub
local concat, sort = table.concat, table.sort

local schema = {}

--- Options that every specification may have, and the Lua type of each.
local COMMON = {
  type = "string", default = "any", setting = "string", scope = "string", alias = "any", on_invalid = "string",
  skip_invalid_items = "boolean", requires = "any", risk = "string", doc = "string",
}
local CHOICES = {
  scope = { route = true, host = true, upstream = true, alternative = true },
  on_invalid = { default = true, deny = true, reject = true },
  risk = { low = true, medium = true, high = true, critical = true },
}

--- Ranks of risk, to compare with the setting annotations-risk-level.
schema.RISKS = { low = 1, medium = 2, high = 3, critical = 4 }

local function sorted_keys(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = tostring(key) end
  sort(keys)
  return keys
end

local function is_string_list(value)
  if type(value) == "string" then return true end
  if type(value) ~= "table" then return false end
  for i = 1, #value do
    if type(value[i]) ~= "string" then return false end
  end
  return true
end

--- A string or a list of strings, as a list.
---@param value string|string[]|nil
---@return string[]
function schema.names(value)
  if value == nil then return {} end
  return type(value) == "table" and value or { value }
end

local function option_error(spec, kind)
  for _, option in ipairs(sorted_keys(spec)) do
    local value = spec[option]
    local wanted = COMMON[option] or kind.options[option]
    if not wanted then return "has the unknown option '" .. option .. "'" end
    if wanted ~= "any" and type(value) ~= wanted then return "has the option '" .. option .. "', which is not a " .. wanted end
    local choices = CHOICES[option]
    if choices and not choices[value] then
      return "has the " .. option .. " '" .. value .. "', which is none of " .. concat(sorted_keys(choices), ", ")
    end
  end
end

local function default_error(spec, kind)
  local default = spec.default
  if default == nil then return end
  if type(default) == "number" and kind.lua == "number" then
    local _, complaint = types.within(default, spec)
    return complaint and "has the default " .. default .. ", which " .. complaint
  end
  if kind.lua == "any" or type(default) == kind.lua then return end
  if kind == types.enum then
    for i = 1, #spec.values do
      if spec.values[i] == default then return end
    end
    return "has a default that is none of its values"
  end
  if type(default) ~= "string" then return "has a default of the wrong type" end
  local _, complaint = kind.read(default, spec, {})
  if complaint then return "has the default '" .. default .. "', which " .. complaint end
end

--- Checks a specification.
---@param name string
---@param spec table
---@return string|nil error `NAME: ...`
function schema.check_spec(name, spec)
  if type(name) ~= "string" or not find(name, "^[a-z0-9][a-z0-9.-]*$") then
    return tostring(name) .. ": is not a name (lower case, digits, dashes)"
  end
  if type(spec) ~= "table" then return name .. ": is not a table" end
  local kind = type(spec.type) == "string" and types[spec.type]
  if type(kind) ~= "table" then return name .. ": has the unknown type '" .. tostring(spec.type) .. "'" end
  local problem = option_error(spec, kind)
  if problem then return name .. ": " .. problem end
  if spec.type == "enum" and (type(spec.values) ~= "table" or #spec.values == 0) then return name .. ": has no values" end
  local malformed = spec.pattern and types.pattern_complaint(spec.pattern)
  if malformed then return name .. ": has a pattern that " .. malformed end
  if spec.style and spec.style ~= "on_off" then return name .. ": has the unknown style '" .. spec.style .. "'" end
  if not is_string_list(spec.alias or {}) then return name .. ": has an alias that is not a name or a list of names" end
  if not is_string_list(spec.requires or {}) then return name .. ": has a requires that is not a name or a list of names" end
  if spec.of ~= nil then
    local inner = type(spec.of) == "table" and spec.of or { type = spec.of }
    problem = schema.check_spec(name, inner)
    if problem then return problem end
  end
  problem = default_error(spec, kind)
  if problem then return name .. ": " .. problem end
end

--- The default as a value: text is read like a user's, unless the type's values are text.
---@param spec table a checked specification
function schema.default(spec)
  local default, kind = spec.default, types[spec.type]
  if type(default) ~= "string" or kind.lua == "string" or kind == types.enum then return default end
  return (kind.read(default, spec, {}))
end

--- Blanks around the text and around each of its lines go. Empty text is no value: nil.
---@param raw string|nil
---@return string|nil
function schema.clean(raw)
  if raw == nil then return nil end
  if find(raw, "\n", 1, true) then
    local lines = {}
    for line in gmatch(raw, "[^\n]+") do
      line = gsub(gsub(line, "^%s+", ""), "%s+$", "")
      if line ~= "" then lines[#lines + 1] = line end
    end
    raw = concat(lines, "\n")
  elseif find(raw, "^%s") or find(raw, "%s$") then
    raw = gsub(gsub(raw, "^%s+", ""), "%s+$", "")
  end
  if raw == "" then return nil end
  return raw
end

--- A value as messages show it: one line, not too long.
---@param raw any
---@return string
function schema.show(raw)
  local text = gsub(tostring(raw), "%c", " ")
  if #text > 80 then text = sub(text, 1, 77) .. "..." end
  return text
end

--- Reads a user's text. Empty text gives nil without a complaint.
---@param name string
---@param spec table
---@param raw string
---@param context table|nil `skipped`: an array that gets a message for each item left out by skip_invalid_items
---@return any value
---@return string|nil complaint `NAME: VALUE is ...` or `NAME: VALUE has ...`
function schema.parse(name, spec, raw, context)
  if type(raw) ~= "string" then return nil, name .. ": " .. schema.show(raw) .. " is not text (quote it)" end
  local text = schema.clean(raw)
  if text == nil then return nil end
  if #text > 65536 then return nil, name .. ": " .. schema.show(text) .. " is longer than 65536 characters" end
  local skipped = {}
  local value, complaint = types[spec.type].read(text, spec, skipped)
  if context and context.skipped then
    for i = 1, #skipped do
      local item = skipped[i]
      context.skipped[#context.skipped + 1] = name .. ": " .. schema.show(item.item) .. " " .. item.complaint
    end
  end
  if complaint then return nil, name .. ": " .. schema.show(text) .. " " .. complaint end
  return value
end

return schema
