--- Conditions that attach gives with its hooks and response edits: `{ request_header = "Origin", method = "OPTIONS" }`. They cross as data, and C looks at them
-- before a hook is called (core/route/condition.h).
local core = require "moongate.core"

local find, format = string.find, string.format

local conditions = {}

local AFTER = { header_filter = true, log = true, edit = true }
local SOURCES = { upstream = true, policy = true, proxy = true, replacement = true }

local function is_text(value) return type(value) == "string" and value ~= "" end
local function is_name(value) return is_text(value) and find(value, "^[%w!#$%%&'*+%.^_`|~-]+$") ~= nil end
local function is_value(kind)
  return function(value) return type(value) == "userdata" and getmetatable(value) == kind end
end

-- Each part: whether a value is one, what is expected, and where it means something (nil: everywhere).
local PARTS = {
  path = { is_text, "a path" },
  method = { is_text, "a method" },
  request_header = { is_name, "a field's name" },
  matches = { is_value "regex", "what moongate.regex() gave" },
  response_header = { is_name, "a field's name", AFTER },
  source = { function(value) return SOURCES[value] end, "upstream, policy, proxy or replacement", AFTER },
  client_in = { is_value "ip_set", "what moongate.ip_set() gave" },
  client_not_in = { is_value "ip_set", "what moongate.ip_set() gave" },
  variable = { is_text, "a variable's name" },
  otherwise = { function(value) return value == "allow" end, '"allow", for the access hook of a guard', { access = true } },
}

--- What is wrong with a condition of that hook (or "edit"); nil: nothing.
local function complaint_of(condition, hook, is_guard)
  if hook == "body_filter" then return "is for other hooks: body_filter gets the whole body, or nothing of it" end
  local known = 0
  for name in pairs(PARTS) do
    local part, value = PARTS[name], condition[name]
    if value ~= nil then
      known = known + 1
      if not part[1](value) then return format("%s expects %s", name, part[2]) end
      if part[3] and not part[3][hook] then return format("%s means nothing for %s", name, hook == "edit" and "a field" or hook) end
    end
  end
  for name in pairs(condition) do
    if not PARTS[name] then return format("has no part '%s'", tostring(name)) end
  end
  if known == 0 then return "asks for nothing" end
  if condition.matches ~= nil and condition.request_header == nil then return "matches says nothing without request_header" end
  if condition.otherwise ~= nil and not is_guard then return "otherwise is for guards" end
end

--- The condition as it crosses; nil and what is wrong with it.
---@param condition any
---@param hook string or "edit"
---@param is_guard boolean|nil
---@return string|nil packed
---@return string|nil complaint
function conditions.pack(condition, hook, is_guard)
  if type(condition) ~= "table" then return nil, "is a " .. type(condition) end
  local copy = {}
  for name, value in pairs(condition) do copy[name] = value end
  local complaint = complaint_of(copy, hook, is_guard)
  if complaint then return nil, complaint end
  return core.pack.encode(copy)
end

return conditions
