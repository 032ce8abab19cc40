--- The world of a guest: an environment built from nothing, listing what is allowed. Loaded once in each guest state, before any policy.
--
-- The library's own code in this state keeps the full language; a policy reaches it only through functions that keep what they were
-- given. What C leaves open to a script (patterns that backtrack, bytecode) is replaced in the state itself, see core/script/pattern.c.
local core = require "moongate.core"
local debug = require "debug"

local raw_pcall, raw_xpcall, raw_error = pcall, xpcall, error
local create, resume, running, status, yield = coroutine.create, coroutine.resume, coroutine.running, coroutine.status, coroutine.yield
local pairs, setmetatable, type = pairs, setmetatable, type

--- A view: reads go through, writes raise, nothing can be listed or taken out of it.
local function view(source, name)
  return setmetatable({}, {
    __index = source,
    __newindex = function() raw_error(name .. " is read-only", 2) end,
    __metatable = false,
  })
end

local function pick(source, names)
  local chosen = {}
  for name in names:gmatch("%S+") do chosen[name] = source[name] end
  return chosen
end

-- A spent budget goes through every handler: nothing that a policy wraps around its own code may swallow it.
local function passed(ok, ...)
  if not ok and core.budget_is_spent() then raw_error("instruction budget spent", 0) end
  return ok, ...
end

local function guest_pcall(f, ...)
  return passed(raw_pcall(f, ...))
end

-- LuaJIT runs the handler of an error that a hook raised inside that hook, where no other hook runs: a handler that loops would never be
-- stopped. So a spent budget is not shown to handlers.
local function guest_xpcall(f, handler, ...)
  return passed(raw_xpcall(f, function(problem)
    if core.budget_is_spent() then return problem end
    return handler(problem)
  end, ...))
end

local function guest_resume(thread, ...)
  core.check_stack()
  return passed(resume(thread, ...))
end

local function unwrap(ok, ...)
  if not ok then
    local problem = ...
    raw_error(problem, 0)
  end
  return ...
end

local function guest_wrap(f)
  local thread = create(f)
  return function(...)
    core.check_stack()
    return unwrap(passed(resume(thread, ...)))
  end
end

local strings = pick(string, "byte char find format gmatch gsub len lower match rep reverse sub upper")
local environment = pick(_G, "assert error getmetatable ipairs next pairs rawequal rawget select setmetatable tonumber tostring type unpack _VERSION")
environment.pcall = guest_pcall
environment.xpcall = guest_xpcall
environment.string = view(strings, "string")
environment.table = view(pick(table, "concat insert maxn remove sort"), "table")
environment.math = view(pick(math, "abs acos asin atan atan2 ceil cos cosh deg exp floor fmod frexp huge ldexp log log10 max min modf pi "
  .. "pow rad random sin sinh sqrt tan tanh"), "math")
environment.coroutine = view({ create = create, resume = guest_resume, running = running, status = status, wrap = guest_wrap, yield = yield }, "coroutine")

-- Methods of strings: the same list, and nobody can take hold of the metatable.
local metatable = debug.getmetatable("")
metatable.__index = strings
metatable.__metatable = false

--- The library as guests see it: every table of it a view. What marks an array is its metatable, which a view cannot have.
local function library_view(source, name)
  local shown = {}
  for key, value in pairs(source) do
    shown[key] = type(value) == "table" and key ~= "empty_array" and library_view(value, name .. "." .. tostring(key)) or value
  end
  return view(shown, name)
end

local library = library_view(require "moongate", "moongate")

function environment.require(name)
  if name == "moongate" then return library end
  raw_error("require: there is only 'moongate'", 2)
end

-- The driver's own pcall, between two policies: each gets a fresh budget. Policies never see this one.
local function renewed(...)
  core.renew_budget()
  return ...
end
_G.pcall = function(f, ...)
  core.renew_budget()
  return renewed(raw_pcall(f, ...))
end

return view(environment, "the environment")
