-- What a guest's policy may not do: one attack per item of the allow-list, each tried in a real guest state.
local testing = require "moongate.testing"
local owners = require "moongate.owners" -- preloaded by moongate.core

local directory = package.searchpath("moongate.guest", package.path):gsub("/moongate/guest%.lua$", "")

describe("a guest state", function()
  local owner
  before_each(function() owner = owners.open { name = "guest", trusted = false, memory = 16 * 1024 * 1024, lua_directory = directory } end)
  after_each(function() owner:close() end)

  --- Runs code as a policy file whose name tells what came out.
  local function outcome(code)
    local source = "local function attack() " .. code .. " end\nlocal seen = attack()\nerror('outcome: ' .. tostring(seen), 0)"
    local description, problem = owner:load("attack.lua", source)
    assert.is_nil(description)
    return (problem:gsub("^attack%.lua: outcome", "outcome"))
  end

  local absent = "newproxy jit collectgarbage load loadstring loadfile dofile getfenv setfenv rawset io os ffi debug package module print gcinfo"
  for name in absent:gmatch("%S+") do
    it("has no " .. name, function() assert.equal("outcome: nil", outcome("return " .. name)) end)
  end

  it("has no string.dump", function() assert.equal("outcome: nil", outcome("return string.dump")) end)
  it("has no string.dump by the methods of a string", function() assert.equal("outcome: nil", outcome("return ('').dump")) end)
  it("requires only moongate", function()
    assert.matches("there is only 'moongate'", outcome("return require('ffi')"))
    assert.matches("there is only 'moongate'", outcome("return require('moongate.core')"))
    assert.equal("outcome: nil", outcome("return require('moongate').core"))
  end)
  it("takes no bytecode", function()
    local description, problem = owner:load("attack.lua", string.dump(function() return {} end))
    assert.is_nil(description)
    assert.matches("attack.lua", problem, 1, true)
  end)

  it("cannot take hold of the string metatable", function()
    assert.equal("outcome: false", outcome("return getmetatable('')"))
    assert.matches("cannot change a protected metatable", outcome("return pcall(setmetatable, string, {}) or setmetatable(string, {})"))
  end)
  for name in ("string table math coroutine"):gmatch("%S+") do
    it("cannot write into " .. name, function()
      assert.matches(name .. " is read%-only", outcome(name .. ".find = nil"))
      assert.equal("outcome: nil", outcome("return next(" .. name .. ")"))
    end)
  end
  it("cannot write into the library", function()
    assert.matches("moongate is read%-only", outcome("require('moongate').hash = nil"))
    assert.matches("moongate.hash is read%-only", outcome("require('moongate').hash.md5 = nil"))
  end)
  it("keeps globals to its own file", function()
    assert(owner:load("one.lua", "leaked = 1 return { name = 'one', summary = 'x' }"))
    assert.equal("outcome: nil", outcome("return leaked"))
  end)
  it("cannot change the environment through _G", function() assert.equal("outcome: nil", outcome("return _G")) end)

  describe("under its budget", function()
    local spent = "instruction budget spent"
    it("stops a loop", function() assert.matches(spent, outcome("while true do end")) end)
    it("stops a loop in pcall", function() assert.matches(spent, outcome("while true do pcall(function() while true do end end) end")) end)
    it("stops a loop in xpcall, handler included", function()
      assert.matches(spent, outcome("while true do xpcall(function() while true do end end, function() while true do end end) end"))
    end)
    it("stops a loop in a coroutine", function()
      assert.matches(spent, outcome("while true do coroutine.resume(coroutine.create(function() while true do end end)) end"))
      assert.matches(spent, outcome("while true do pcall(coroutine.wrap(function() while true do end end)) end"))
    end)
    it("stops a loop in a metamethod and in a comparison", function()
      assert.matches(spent, outcome("return setmetatable({}, { __index = function() while true do end end }).x"))
      assert.matches(spent, outcome("table.sort({ 1, 2, 3 }, function() while true do end end)"))
    end)
    for name, call in pairs {
      find = "s:find(p)", match = "s:match(p)", gsub = "s:gsub(p, '')", gmatch = "s:gmatch(p)()", ["string.find"] = "string.find(s, p)",
    } do
      it("stops a pattern that backtracks in " .. name, function()
        local code = "local p, s = ('a?'):rep(28) .. ('a'):rep(28) .. 'b', ('a'):rep(28) return " .. call
        assert.matches("too many steps", outcome(code))
      end)
    end
    it("stops patterns that are each within bounds", function()
      assert.matches(spent, outcome("local s = ('a'):rep(100) while true do s:find('a-b') end"))
    end)
    it("stops work on long strings that instructions do not show", function()
      assert.matches(spent, outcome("local a = ('x'):rep(1e6) local kept = a .. a while true do local b = a .. a end"))
      assert.matches(spent, outcome("local kept = ('x'):rep(2e6) while true do local b = ('x'):rep(2e6) end"))
    end)
    it("goes on afterwards", function()
      outcome("while true do end")
      assert(owner:load("fine.lua", "return { name = 'fine', summary = 'x' }"))
    end)
  end)

  describe("under its ceiling", function()
    it("stops a table that grows", function() assert.matches("not enough memory", outcome("local t = {} for i = 1, 1e9 do t[i] = i end")) end)
    it("stops a string that grows", function() assert.matches("not enough memory", outcome("local s = 'x' while true do s = s .. s end")) end)
    it("stops coroutines", function()
      assert.matches("not enough memory", outcome("local t = {} for i = 1, 1e7 do t[i] = coroutine.create(function() end) end"))
    end)
    it("counts what values take in C", function()
      assert.matches("not enough memory", outcome("local regex, t = require('moongate').regex, {} for i = 1, 1e6 do t[i] = regex('a' .. i) end"))
      local maps = "local map, t = require('moongate').map, {} for i = 1, 1e6 do t[i] = map { a = ('x'):rep(1000) } end"
      assert.matches("not enough memory", outcome(maps))
      assert.equal("outcome: nil", outcome("local regex = require('moongate').regex for i = 1, 3000 do regex('a' .. i) end"))
    end)
    it("stops string.rep", function() assert.matches("not enough memory", outcome("return #('x'):rep(1e9)")) end)
    it("goes on afterwards", function()
      outcome("local t = {} for i = 1, 1e9 do t[i] = {} end")
      assert(owner:load("fine.lua", "return { name = 'fine', summary = 'x' }"))
    end)
  end)

  it("has patterns that find what Lua's find", function()
    local patterns = { "a+b", "^(%w+)=(%w*)$", "()x()", "%b()", "%f[%a]%a+", "[^,]+", "a-b", "[%]x-z]", "(a)(b)%1", "%s*$", ".-b", "^$", "[a-]", "%.", "x?y" }
    local subjects = { "", "aaab", "key=value", "xx", "f(a(b)c)", "THE (quick) fox", "a,b,,c", "ab]z-", "aba", "  ", "a.b", "xyxy" }
    local lines = {}
    for _, pattern in ipairs(patterns) do
      for _, subject in ipairs(subjects) do
        local native = { subject:find(pattern) }
        local replaced, count = subject:gsub(pattern, "<%0>")
        local words = {}
        for word in subject:gmatch(pattern) do words[#words + 1] = tostring(word) end
        lines[#lines + 1] = ("check(%q, %q, %q, %q)"):format(subject, pattern, table.concat(native, "|"), replaced .. count .. table.concat(words, "|"))
      end
    end
    local code = [[
      local function check(subject, pattern, found, rest)
        local native = { subject:find(pattern) }
        local replaced, count = subject:gsub(pattern, "<%0>")
        local words = {}
        for word in subject:gmatch(pattern) do words[#words + 1] = tostring(word) end
        local mine, others = table.concat(native, "|"), replaced .. count .. table.concat(words, "|")
        if mine ~= found then error(subject .. " ~ " .. pattern .. ": " .. mine .. " is not " .. found, 0) end
        if others ~= rest then error(subject .. " ~ " .. pattern .. ": " .. others .. " is not " .. rest, 0) end
      end
    ]] .. table.concat(lines, "\n")
    assert.equal("outcome: nil", outcome(code))
  end)
end)

describe("a guest's hook", function()
  local function route(body)
    return testing.route {
      source = "local policy = { name = 'greedy', summary = 'x', applies = 'always' }\nfunction policy.attach() return {} end\n"
        .. "function policy.rewrite(exchange) " .. body .. " end\nreturn policy",
    }
  end

  it("that loops costs its own exchange a 500, and no other", function()
    local greedy = route("if exchange.request.path == '/loop' then while true do end end")
    local result = greedy:request { uri = "/loop" }
    assert.equal(500, result.status)
    assert.matches("policy=greedy phase=rewrite", result.log[1])
    assert.matches("policy.lua:3: instruction budget spent", result.log[1])
    assert.equal(200, greedy:request({ uri = "/" }).status)
  end)

  it("that eats memory costs its own exchange a 500, and no other", function()
    local greedy = route("if exchange.request.path == '/eat' then local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(100) .. i end end")
    assert.equal(500, greedy:request({ uri = "/eat" }).status)
    assert.equal(200, greedy:request({ uri = "/" }).status)
  end)

  local spent, deep, full = "instruction budget spent", "nested too deep", "not enough memory"
  local BIG = "local s = ('a'):rep(3e6) "
  local attacks = {
    -- C's stack: what C calls, and calls it again
    ["recursion in gsub"] = { "local function f() return (('x'):gsub('x', f)) end f()", deep },
    ["recursion in gsub's table"] = {
      "local t = setmetatable({}, {}) getmetatable(t).__index = function() return (('x'):gsub('x', t)) end local _ = t.x", deep,
    },
    ["coroutines in coroutines"] = { "local function f() return coroutine.wrap(f)() end f()", deep },
    ["recursion"] = { "local function f() return 1 + f() end f()", "stack overflow" },
    ["recursion in sort"] = { "local function f() table.sort({ 1, 2 }, f) end f()", "stack overflow" },
    ["recursion in a metamethod"] = { "local m = {} m.__concat = function(a, b) return a .. b end local _ = setmetatable({}, m) .. ''", "stack overflow" },
    ["recursion in __tostring"] = { "local t = setmetatable({}, {}) getmetatable(t).__tostring = function(x) return tostring(x) end tostring(t)", spent },
    ["a chain of __index"] = { "local t = {} setmetatable(t, { __index = t }) return t.x", "loop in gettable" },
    -- time that instructions do not show
    ["a comparison of long strings"] = { BIG .. "local b, c = s .. 'b', s .. 'c' while true do local _ = b < c end", spent },
    ["number syntax of long strings"] = { "local s = (' '):rep(3e6) .. '1' while true do tonumber(s) end", spent },
    ["next over a hole"] = { "local t = {} for i = 1, 6e3 do t['k' .. i] = 1 end for i = 1, 6e3 do t['k' .. i] = nil end while true do next(t) end", spent },
    ["many results"] = { "local t = {} for i = 1, 7000 do t[i] = i end while true do select('#', unpack(t)) end", spent },
    ["upper"] = { BIG .. "while true do s:upper() end", spent },
    ["format"] = { "local s = ('\\0'):rep(1e5) while true do local _ = ('%q'):format(s) end", spent },
    ["concat"] = { "local t = {} for i = 1, 100 do t[i] = ('x'):rep(1000) end while true do table.concat(t) end", spent },
    ["hashes"] = { "local hash = require('moongate').hash " .. BIG .. "while true do hash.sha256(s) hash.crc32(s) end", spent },
    ["a comparison in constant time"] = { "local equal = require('moongate').secure_equal " .. BIG .. "while true do equal(s, s) end", spent },
    ["json.decode"] = { "local json = require('moongate').json local s = '[' .. ('1,'):rep(1e4) .. '1]' while true do json.decode(s) end", spent },
    ["json.encode"] = { "local json, t = require('moongate').json, {} for i = 1, 1e4 do t[i] = i end while true do json.encode(t) end", spent },
    ["a regex"] = { "local r, s = require('moongate').regex('(a|b|ab)*c'), ('ab'):rep(1e4) while true do r:match(s) end", spent },
    ["fields of the request"] = { "local s = ('a'):rep(3e4) while true do exchange.request.headers:set('X-A', s) end", spent },
    -- memory
    ["a table held twice, and so on, as JSON"] = { "local t = {} for _ = 1, 30 do t = { t, t } end require('moongate').json.encode(t)", "more than 4 MiB" },
    ["a table held twice, and so on, as a map"] = { "local t = {} for _ = 1, 30 do t = { a = t, b = t } end require('moongate').map(t)", "more than 4 MiB" },
    ["a table in itself"] = { "local t = {} t.t = t require('moongate').json.encode(t)", "nested too deeply" },
    ["a bomb of format"] = { "local t, s = {}, ('x'):rep(4e5) for i = 1, 200 do t[i] = s end return #('%s'):rep(200):format(unpack(t))", full },
    ["a bomb of concat"] = { "local t, s = {}, ('x'):rep(4e5) for i = 1, 200 do t[i] = s end return #table.concat(t)", full },
    -- errors and yields in odd places
    ["an error that loops when it is shown"] = { "error(setmetatable({}, { __tostring = function() while true do end end }))", "error value is a table" },
    ["an error that fails when it is shown"] = { "error(setmetatable({}, { __tostring = function() error('again') end }))", "error value is a table" },
    ["an error that shows no text"] = { "error(setmetatable({}, { __tostring = function() return {} end }))", "error value is a table" },
    ["a yield in sort"] = { "coroutine.wrap(function() table.sort({ 1, 2, 3 }, coroutine.yield) end)()", "attempt to yield across C%-call boundary" },
    ["a yield in gsub"] = { "coroutine.wrap(function() return (('x'):gsub('x', coroutine.yield)) end)()", "attempt to yield across C%-call boundary" },
    ["a method called on another kind of value"] = {
      "local m = require('moongate') m.regex('a').match(m.template('b'), 'a')", "called on something else" },
  }
  for name, attack in pairs(attacks) do
    it("survives " .. name, function()
      local greedy = route("if exchange.request.path == '/attack' then " .. attack[1] .. " end")
      local result = greedy:request { uri = "/attack" }
      assert.equal(500, result.status)
      assert.matches(attack[2], result.log[1])
      assert.equal(200, greedy:request({ uri = "/" }).status)
    end)
  end

  it("cannot use an exchange that has ended", function()
    local greedy = route("kept = kept or exchange if exchange.request.path == '/late' then return kept.request.path end")
    assert.equal(200, greedy:request({ uri = "/" }).status)
    local result = greedy:request { uri = "/late" }
    assert.equal(500, result.status)
    assert.matches("used too late", result.log[1])
    assert.equal(200, greedy:request({ uri = "/" }).status)
  end)
end)
