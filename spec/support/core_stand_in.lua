-- Stands in for moongate.core until the C module is there; specs of schema and attach need no more of it.
if pcall(require, "moongate.core") then return end
local cjson = require "cjson"
local sources = setmetatable({}, { __mode = "k" })
local core = { null = cjson.null, pack = {} }
local function kind_error(kind, source)
  if kind == "ip_set" then for item in source:gmatch "[^,]+" do if not item:find "^[%x.:]+/?%d*$" then return "is not valid" end end end
  if kind == "host_set" and source:find "[^%w.,*-]" then return "is not valid" end
  if kind == "regex" and source:find "[(]$" then return "has an unclosed group" end
  if kind == "template" then
    local name = source:match "%$([%a_][%w_]*)"
    if name and not (name == "host" or name == "remote_addr" or name:find "^http_") then return "has the unknown variable $" .. name end
  end
end
function core.value(kind, source)
  local problem = kind_error(kind, source)
  if problem then return nil, problem end
  local value = newproxy() -- luacheck: ignore
  sources[value] = { kind = kind, source = source }
  return value
end
core.upstream_handle = function(name) return core.value("upstream", name) end
function core.array(t) return t end
function core.pack.encode(value)
  local KIND = { regex = 1, template = 2, ip_set = 3, host_set = 4, map = 5, upstream = 6 }
  if type(value) == "userdata" then
    local s = sources[value]
    return "\xc7" .. string.char(#s.source, KIND[s.kind]) .. s.source
  end
  local function plain(v)
    if type(v) == "function" then error("functions cannot be packed", 0) end
    if type(v) == "userdata" then return { value = sources[v].kind, source = sources[v].source } end
    if type(v) ~= "table" then return v end
    local copy = {}
    for k, item in pairs(v) do copy[k] = plain(item) end
    return copy
  end
  local ok, result = pcall(plain, value)
  if not ok then return nil, result end
  return cjson.encode(result)
end
core.pack.decode = cjson.decode
function core.route_settings()
  local settings = {}
  for line in io.lines "core/route/route_settings.h" do
    local name, kind, unit = line:match '^  X%(([%w_]+), (%u+), %d+, "(.*)"%)'
    if name then settings[name] = { type = kind:lower(), unit = unit } end
  end
  return settings
end
package.preload["moongate.core"] = function() return core end
