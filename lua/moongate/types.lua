--- The types of annotations and settings: how each reads its text. No state; safe in guest states.
--
-- A type is a table:
--   read(raw, spec) -> value | nil, complaint    complaint begins with "is" or "has"; the caller puts NAME and VALUE before it
--   options: names it takes beside those of every specification
--   lua: the Lua type of a ready-made default ("table" for lists); a default that is a string is read like a user's text otherwise
local core = require "moongate.core"

local find, gmatch, gsub, lower, match, sub = string.find, string.gmatch, string.gsub, string.lower, string.match, string.sub
local concat, sort = table.concat, table.sort
local floor = math.floor

local types = {}

local EXACT = 2 ^ 53 -- above it a Lua number is no exact integer
local TOKEN = "^[%w!#$%%&'*+%.^_`|~-]+$"
local OBJECT_NAME = "^[a-z0-9][a-z0-9.-]*$"

local function trim(text)
  return match(text, "^%s*(.-)%s*$")
end

--- Splits at a separator character, trims the items and leaves empty ones out. A blank separator means any white space.
local function split(raw, separator)
  local items = {}
  local pattern = separator == " " and "%S+" or "[^" .. (separator or ",") .. "]+"
  for item in gmatch(raw, pattern) do
    item = trim(item)
    if item ~= "" then items[#items + 1] = item end
  end
  return items
end
types.split = split

local function within(value, spec, shown)
  local is = shown and shown .. " is " or "is "
  if spec.min and value < spec.min then return nil, is .. "less than " .. spec.min end
  if spec.max and value > spec.max then return nil, is .. "more than " .. spec.max end
  return value
end

types.within = within

--- What is wrong with a Lua pattern, whatever it is used on: string.find says so only where it comes to the wrong part.
---@param pattern string
---@return string|nil complaint
function types.pattern_complaint(pattern)
  local at, open, groups = 1, 0, 0
  if not find(pattern, "[%^%$%*%+%?%.%(%[%%%-]") then return nil end -- plain text
  while at <= #pattern do
    local rest = sub(pattern, at)
    local set = find(rest, "^%[") and match(rest, "^%[%^?%]?()")
    if set then
      while true do
        local c = sub(rest, set, set)
        if c == "" then return "has a [ without its ]" end
        set = set + (c == "%" and 2 or 1)
        if c == "]" then break end
      end
      at = at + set - 1
    elseif sub(rest, 1, 1) == "%" then
      if #rest == 1 then return "ends with %" end
      local digit = match(rest, "^%%(%d)")
      if digit and (digit == "0" or tonumber(digit) > groups) then return "has %" .. digit .. " without its group" end
      if find(rest, "^%%f") and not find(rest, "^%%f%[") then return "has a %f without a [" end
      if find(rest, "^%%b") and #rest < 4 then return "has a %b without two characters" end
      at = at + (find(rest, "^%%b") and 4 or 2)
    else
      local c = sub(rest, 1, 1)
      if c == "(" then open, groups = open + 1, groups + 1 end
      if c == ")" then open = open - 1 end
      if open < 0 then return "has a ) without its (" end
      at = at + 1
    end
  end
  if open > 0 then return "has a ( without its )" end
  if groups > 32 then return "has more than 32 groups" end
end

local TRUE = { ["1"] = true, t = true, T = true, TRUE = true, ["true"] = true, True = true }
local FALSE = { ["0"] = true, f = true, F = true, FALSE = true, ["false"] = true, False = true }

types.boolean = {
  lua = "boolean",
  options = { style = "string" },
  read = function(raw, spec)
    if spec.style == "on_off" then
      if raw == "on" then return true end
      if raw == "off" then return false end
      return nil, "is neither on nor off"
    end
    if TRUE[raw] then return true end
    if FALSE[raw] then return false end
    return nil, "is neither true nor false"
  end,
}

local function read_integer(raw)
  if not find(raw, "^[+-]?%d+$") then return nil, "is not a whole number" end
  local value = tonumber((gsub(raw, "^%+", "")))
  if value > EXACT or value < -EXACT then return nil, "is too large a number" end
  return value
end

types.integer = {
  lua = "number",
  options = { min = "number", max = "number" },
  read = function(raw, spec)
    local value, complaint = read_integer(raw)
    if not value then return nil, complaint end
    return within(value, spec)
  end,
}

types.number = {
  lua = "number",
  options = { min = "number", max = "number" },
  read = function(raw, spec)
    if not (find(raw, "^[+-]?%d+%.?%d*$") or find(raw, "^[+-]?%.%d+$")) then return nil, "is not a number" end
    return within(tonumber((gsub(raw, "^%+", ""))), spec)
  end,
}

local function read_text(raw, spec)
  if spec.max_length and #raw > spec.max_length then return nil, "is longer than " .. spec.max_length .. " characters" end
  if spec.pattern and not find(raw, spec.pattern) then return nil, "has a form that is not allowed here" end
  return raw
end

-- `pattern` is a Lua pattern; write the anchors.
types.string = {
  lua = "string",
  options = { pattern = "string", max_length = "number", values = "table" },
  read = function(raw, spec)
    if find(raw, "%c") then return nil, "has a control character" end
    if spec.values then return types.enum.read(raw, spec) end
    return read_text(raw, spec)
  end,
}

-- `ignore_case = true` gives the spelling of `values`, `"as_written"` the user's own.
types.enum = {
  options = { values = "table", ignore_case = "any" },
  read = function(raw, spec)
    local shown = {}
    for i = 1, #spec.values do
      local value = spec.values[i]
      local text = tostring(value)
      shown[i] = text
      if raw == text then return value end
      if spec.ignore_case and lower(raw) == lower(text) then return spec.ignore_case == "as_written" and raw or value end
    end
    return nil, "is none of " .. concat(shown, ", ")
  end,
}

-- nginx's and Go's units; nginx's M is a month, as in nginx.
local SECONDS = { us = 1e-6, ms = 1e-3, s = 1, m = 60, h = 3600, d = 86400, w = 604800, M = 2592000, y = 31536000 }

local function read_duration(raw)
  if find(raw, "^%d+$") then return tonumber(raw) end
  local position, seconds = 1, 0
  while position <= #raw do
    local _, stop, digits, unit = find(raw, "^%s*(%d+%.?%d*)(%a+)", position)
    if not stop or not SECONDS[unit] then return nil, "is not a duration such as 30s, 5m or 1h30m" end
    seconds = seconds + tonumber(digits) * SECONDS[unit]
    position = stop + 1
  end
  return seconds
end

--- Seconds. A bare number is seconds.
types.duration = {
  lua = "number",
  options = { min = "number", max = "number" },
  read = function(raw, spec)
    local seconds, complaint = read_duration(raw)
    if not seconds then return nil, complaint end
    return within(seconds, spec)
  end,
}

local FACTOR = { [""] = 1, b = 1, k = 1024, m = 1048576, g = 1073741824 }

--- Bytes, in nginx's spelling: 8k, 1m. `units` names the letters that are accepted ("bkmg").
types.size = {
  lua = "number",
  options = { min = "number", max = "number", units = "string" },
  read = function(raw, spec)
    local digits, unit = match(raw, "^(%d+)(%a?)$")
    local known = digits and FACTOR[lower(unit)]
    if not known or (unit ~= "" and not find(spec.units or "bkmg", lower(unit), 1, true)) then
      return nil, "is not a size such as 512, 8k or 1m"
    end
    local bytes = tonumber(digits) * known
    if bytes > EXACT then return nil, "is too large a size" end
    return within(bytes, spec)
  end,
}

--- Reads each item; `spec.skip_invalid_items` leaves bad ones out and collects their complaints in `skipped`.
local function read_items(items, spec, read, skipped)
  local values = {}
  for i = 1, #items do
    local item = items[i]
    local value, complaint = read(item)
    if value ~= nil then
      values[#values + 1] = value
    elseif spec.skip_invalid_items then
      skipped[#skipped + 1] = { item = item, complaint = complaint }
    else
      return nil, "has the item " .. item .. ", which " .. complaint
    end
  end
  return core.array(values)
end

local function item_spec(spec)
  local of = spec.of or "string"
  return type(of) == "table" and of or { type = of }
end

-- `of` is a type's name or a specification; `separator` is "," unless given, " " splits at white space.
types.list = {
  lua = "table",
  options = { of = "any", separator = "string", min = "number", max = "number", pattern = "string", values = "table" },
  read = function(raw, spec, skipped)
    local inner = item_spec(spec)
    if not spec.of and (spec.values or spec.pattern) then
      inner = { type = spec.values and "enum" or "string", values = spec.values, pattern = spec.pattern }
    end
    local kind = types[inner.type]
    return read_items(split(raw, spec.separator), spec, function(item) return kind.read(item, inner) end, skipped)
  end,
}

--- A set made in C of comma-separated items. The items are tried one by one only to name the bad one.
local function read_set(kind, what)
  return function(raw, spec, skipped)
    local items = split(raw, ",")
    if #items == 0 then return nil, "has no item" end
    local value = core.value(kind, concat(items, ","))
    if value then return value end
    local good, complaint = read_items(items, spec, function(item)
      if core.value(kind, item) then return item end
      return nil, "is not " .. what
    end, skipped)
    if not good then return nil, complaint end
    if #good == 0 then return nil, "has no item that is " .. what end
    local text
    value, text = core.value(kind, concat(good, ","))
    if value then return value end
    return nil, text
  end
end

types.cidr_list = { options = {}, read = read_set("ip_set", "an address or a CIDR") }
types.host_list = { options = {}, read = read_set("host_set", "a host name") }

local function read_header_name(raw)
  if #raw > 256 then return nil, "is longer than 256 characters" end
  if not find(raw, TOKEN) then return nil, "is not a header name" end
  return raw
end
types.header_name = { lua = "string", options = {}, read = read_header_name }

types.header_list = {
  lua = "table",
  options = {},
  read = function(raw, spec, skipped) return read_items(split(raw, ","), spec, read_header_name, skipped) end,
}

--- `Name: value`, one a line, or comma-separated on one line. Gives a table from name to value.
types.header_map = {
  lua = "table",
  options = {},
  read = function(raw)
    local map = {}
    for _, item in ipairs(split(raw, find(raw, "\n", 1, true) and "\n" or ",")) do
      local name, value = match(item, "^([^:%s]+)%s*:%s*(.*)$")
      if not name or not read_header_name(name) then return nil, "has the item " .. item .. ", which is not Name: value" end
      if find(value, "%c") then return nil, "has a control character in the value of " .. name end
      map[name] = value
    end
    return map
  end,
}

types.cookie_name = {
  lua = "string",
  options = { pattern = "string", max_length = "number" },
  read = function(raw, spec)
    if not find(raw, TOKEN) then return nil, "is not a cookie name" end
    return read_text(raw, spec)
  end,
}

--- "has ..." or "is ..." as the C side words it, else made so.
local function worded(text)
  text = text or "is not valid"
  if find(text, "^is ") or find(text, "^has ") then return text end
  return "is not valid: " .. text
end

types.regex = {
  options = { ignore_case = "any", max_length = "number" },
  read = function(raw, spec)
    local text, complaint = read_text(raw, spec)
    if not text then return nil, complaint end
    local value, problem = core.value("regex", (spec.ignore_case and "i" or "") .. "\0" .. raw)
    if value then return value end
    return nil, worded(problem)
  end,
}

types.template = {
  options = { pattern = "string", max_length = "number" },
  read = function(raw, spec)
    if find(raw, "%c") then return nil, "has a control character" end
    local text, complaint = read_text(raw, spec)
    if not text then return nil, complaint end
    local value, problem = core.value("template", raw)
    if value then return value end
    return nil, worded(problem)
  end,
}

-- Printable ASCII without the characters that RFC 3986 keeps out.
local function is_url_text(raw)
  return not find(raw, "[^\33-\126]") and not find(raw, "[\"<>\\^`{|}]")
end

--- An absolute URL; with `path = true` a path will do. `schemes` is { "http", "https" } unless given. Variables never.
types.url = {
  lua = "string",
  options = { path = "boolean", schemes = "table", max_length = "number" },
  read = function(raw, spec)
    if find(raw, "%$[%a_{]") then return nil, "has a variable, and none is allowed here" end
    if not is_url_text(raw) then return nil, "has a character that no URL may have" end
    if spec.max_length and #raw > spec.max_length then return nil, "is longer than " .. spec.max_length .. " characters" end
    if spec.path and sub(raw, 1, 1) == "/" then return raw end
    local scheme, host = match(raw, "^(%a[%w+.-]*)://([^/?#]+)")
    if not scheme or find(host, "..", 1, true) then return nil, spec.path and "is neither a URL nor a path" or "is not a URL" end
    local schemes = spec.schemes or { "http", "https" }
    for i = 1, #schemes do
      if lower(scheme) == schemes[i] then return raw end
    end
    return nil, "has another scheme than " .. concat(schemes, ", ")
  end,
}

--- A path from the root. `pattern` narrows it further.
types.path = {
  lua = "string",
  options = { pattern = "string", max_length = "number" },
  read = function(raw, spec)
    if sub(raw, 1, 1) ~= "/" then return nil, "is not a path from the root" end
    if not is_url_text(raw) then return nil, "has a character that no path may have" end
    return read_text(raw, spec)
  end,
}

local function read_status(spec)
  local limits = { min = spec.min or 100, max = spec.max or 599 }
  return function(item)
    if not find(item, "^%d%d%d$") then return nil, "is not a status code" end
    return within(tonumber(item), limits)
  end
end

types.status_list = {
  lua = "table",
  options = { min = "number", max = "number" },
  read = function(raw, spec, skipped) return read_items(split(raw, ","), spec, read_status(spec), skipped) end,
}

--- `200 202 10m, 401 5m`: an array of { statuses = { 200, 202 }, seconds = 600 }. `bare_statuses`: those of a duration alone; it is refused unless given.
types.status_durations = {
  lua = "table",
  options = { min = "number", max = "number", bare_statuses = "table" },
  read = function(raw, spec, skipped)
    local status = read_status(spec)
    return read_items(split(raw, ","), spec, function(item)
      local words = split(item, " ")
      local seconds = read_duration(words[#words])
      if (#words < 2 and not spec.bare_statuses) or not seconds or find(words[#words], "^%d%d%d$") then
        return nil, "is not status codes followed by a duration"
      end
      local statuses = {}
      for i = 1, #words == 1 and #spec.bare_statuses or 0 do statuses[i] = spec.bare_statuses[i] end
      for i = 1, #words - 1 do
        local code, complaint = status(words[i])
        if not code then return nil, "has " .. words[i] .. ", which " .. complaint end
        statuses[i] = code
      end
      return { statuses = core.array(statuses), seconds = seconds }
    end, skipped)
  end,
}

--- `off`: false. `from to`: { from = "...", to = "..." }.
types.pair = {
  lua = "any",
  options = {},
  read = function(raw)
    if raw == "off" then return false end
    local words = split(raw, " ")
    if #words ~= 2 then return nil, "is neither off nor two words" end
    if find(raw, "%c") then return nil, "has a control character" end
    return { from = words[1], to = words[2] }
  end,
}

local PROTOCOLS = { "TLSv1.2", "TLSv1.3" }

--- Sorted, each once.
types.tls_protocols = {
  lua = "table",
  options = {},
  read = function(raw, spec, skipped)
    local seen = {}
    local items, complaint = read_items(split(raw, " "), spec, function(item)
      for i = 1, #PROTOCOLS do
        if item == PROTOCOLS[i] then return item end
      end
      return nil, "is none of " .. concat(PROTOCOLS, ", ")
    end, skipped)
    if not items then return nil, complaint end
    local protocols = {}
    for i = 1, #items do
      if not seen[items[i]] then
        seen[items[i]] = true
        protocols[#protocols + 1] = items[i]
      end
    end
    if #protocols == 0 then return nil, "has no protocol" end
    sort(protocols)
    return core.array(protocols)
  end,
}

types.tls_ciphers = {
  lua = "string",
  options = { max_length = "number" },
  read = function(raw, spec)
    if not find(raw, "^[%w:+!@=_., -]+$") then return nil, "is not an OpenSSL cipher list" end
    return read_text(raw, spec)
  end,
}

local function read_reference(raw, spec)
  local namespace, name = match(raw, "^([^/]+)/([^/]+)$")
  if not namespace then name = raw end
  if #raw > 512 or not find(name, OBJECT_NAME) or (namespace and not find(namespace, OBJECT_NAME)) then
    return nil, "is not the name of an object"
  end
  if spec.namespaced and not namespace then return nil, "has no namespace (namespace/name)" end
  return raw
end

-- `[namespace/]name`; `namespaced = true` wants the first part.
types.secret = { lua = "string", options = { namespaced = "boolean" }, read = read_reference }
types.config_map = { lua = "string", options = { namespaced = "boolean" }, read = read_reference }

--- `name:port`, the port by number or name; with `port = "optional"` a name will do.
types.service = {
  lua = "string",
  options = { port = "string" },
  read = function(raw, spec)
    local name, port = match(raw, "^([^:]+):?(.*)$")
    if not name or not find(name, "^[a-z][a-z0-9-]*$") or #name > 63 then return nil, "is not the name of a Service" end
    if port == "" then
      if spec.port == "optional" and not find(raw, ":", 1, true) then return raw end
      return nil, "has no port (name:port)"
    end
    if find(port, "^%d+$") then
      local number = tonumber(port)
      if number < 1 or number > 65535 or floor(number) ~= number then return nil, "has a port that is not from 1 to 65535" end
    elseif not find(port, "^[a-z0-9-]+$") or #port > 15 then
      return nil, "has a port that is neither a number nor a port's name"
    end
    return raw
  end,
}

return types
