-- moongate.shared.dict: what hooks do with it; the arithmetic is core/base/dict.c's (tests/unit/test_base_dict.c).
-- luacheck: no max line length
local testing = require "moongate.testing"

--- A route whose access hook answers with what the code returns.
local function route(code, more)
  local spec = { source = ([[
    local moongate = require "moongate"
    local dict = moongate.shared.dict "things"
    local policy = { name = "probe", summary = "x", applies = "always", attach = function() return {} end }
    function policy.access(exchange)
      local function probe() %s end
      local values = { probe() }
      for i = 1, #values do values[i] = tostring(values[i]) end
      return exchange:respond { body = table.concat(values, " ") }
    end
    return policy]]):format(code) }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function seen(code, more) return route(code, more):request({}).response.body end
local function failure(code)
  local result = route(code):request {}
  assert.equal(500, result.status)
  return table.concat(result.log, "\n")
end

for _, trusted in ipairs { true, false } do
  describe(trusted and "a dictionary in a trusted state" or "a dictionary in a guest state", function()
    it("keeps text, numbers and booleans", function()
      assert.equal("true text 2.5 false nil", seen([[
        local done = dict:set("a", "text") dict:set("b", 2.5) dict:set("c", false)
        return done, dict:get("a"), dict:get("b"), dict:get("c"), tostring(dict:get("d"))]], { trusted = trusted }))
      assert.equal("true false x", seen([[return dict:add("a", "x"), dict:add("a", "y"), dict:get("a")]], { trusted = trusted }))
      assert.equal("3 2 11", seen([[return dict:incr("n", 3), dict:incr("n", -1), dict:incr("m", 1, 10)]], { trusted = trusted }))
      assert.equal("true false nil", seen([[dict:set("a", 1) return dict:remove("a"), dict:remove("a"), tostring(dict:get("a"))]], { trusted = trusted }))
      assert.equal("true false", seen([[dict:set("a", 1) return dict:expire("a", 100), dict:expire("b", 100)]], { trusted = trusted }))
      assert.equal("70000", seen([[dict:set("a", ("x"):rep(35000)) dict:set("b", ("y"):rep(35000)) return #dict:get("a") + #dict:get("b")]], { trusted = trusted }))
      assert.equal("the value is not a number", seen([[dict:set("a", "x") return select(2, dict:incr("a", 1))]], { trusted = trusted }))
    end)
  end)
end

describe("a dictionary", function()
  it("lasts from one request to the next, and is the same by its name", function()
    local counting = route [[return dict:incr("n", 1), moongate.shared.dict("things"):get("n"), tostring(moongate.shared.dict("other"):get("n"))]]
    assert.equal("1 1 nil", counting:request({}).response.body)
    assert.equal("2 2 nil", counting:request({}).response.body)
  end)

  it("has buckets that leak", function()
    assert.equal("true 0 true 1 true 2 false 3 false 3", seen([[
      local out = {}
      for _ = 1, 4 do
        local allowed, excess = dict:take("k", 0, 2)
        out[#out + 1] = tostring(allowed) out[#out + 1] = excess
      end
      local allowed, excess = dict:may_take("k", 0, 2)
      out[#out + 1] = tostring(allowed) out[#out + 1] = excess
      return table.concat(out, " ")]]))
  end)

  it("holds until the exchange ends", function()
    local holding = route [[return dict:acquire("k", 1), dict:acquire("k", 1), dict:acquire("k", 2)]]
    assert.equal("true false true", holding:request({}).response.body)
    assert.equal("true false true", holding:request({}).response.body)
  end)

  it("is a guest's own", function()
    local function policy(name, trusted)
      return { trusted = trusted, source = ([[
        local dict = require("moongate").shared.dict "things"
        local policy = { name = "%s", summary = "x", applies = "always", attach = function() return {} end }
        function policy.rewrite(exchange) exchange.request.headers:set("X-%s", tostring(dict:incr("n", 1))) end
        return policy]]):format(name, name) }
    end
    local sent = testing.route({ policies = { policy("own", true), policy("second", true), policy("guest", false) } }):request({}).sent.headers
    assert.same({ "1", "2", "1" }, { sent["x-own"], sent["x-second"], sent["x-guest"] })
  end)

  it("says what is wrong", function()
    assert.matches("dict:get: the key is a number, not text", failure "return dict:get(1)")
    assert.matches("dict:get: the key is longer than 512 bytes", failure "return dict:get(('x'):rep(513))")
    assert.matches("dict:set: the value is longer than 65536 bytes", failure "return dict:set('x', ('x'):rep(65537))")
    assert.matches("dict:set: the value is a table; text, numbers and booleans can be stored", failure "return dict:set('x', {})")
    assert.matches("dict:set: the lifetime is no number of seconds above 0", failure "return dict:set('x', 1, 0)")
    assert.matches("dict:incr: the amount is no number", failure "return dict:incr('x', 0 / 0)")
    assert.matches("dict:take: the rate is no number from 0", failure "return dict:take('x', -1, 1)")
    assert.matches("dict:take: the burst is no number from 0", failure "return dict:take('x', 1)")
    assert.matches("dict:acquire: the number is no number from 0", failure "return dict:acquire('x', 'y')")
    assert.matches("dict:acquire: the exchange holds 64 already", failure "for _ = 1, 65 do dict:acquire('x', 100) end")
    assert.matches("d17: there are 16 dictionaries in use already", failure "for i = 1, 17 do moongate.shared.dict('d' .. i):get('x') end")
    assert.matches("moongate.shared.dict: the name is not made of", failure "return moongate.shared.dict('a b')")
    assert.matches("bad argument", failure "return dict.get('x', 'y')")
    assert.has_error(function()
      testing.route { source = "local dict = require('moongate').shared.dict('x') dict:set('a', 1) return { name = 'x', summary = 'x' }" }
    end, "dict:set: in hooks only")
  end)
end)
