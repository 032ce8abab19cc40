-- moongate.counter: what a policy may count, and where.
local testing = require "moongate.testing"

local SOURCE = [[
local moongate = require "moongate"
%s
local policy = { name = "counting", summary = "Counts.", applies = "always" }
function policy.attach() return {} end
function policy.access(exchange) %s end
return policy
]]

local function route(made, deed, trusted)
  return testing.route { source = SOURCE:format(made, deed), trusted = trusted }
end

local HITS = 'local hits = moongate.counter("hits", { "side", "status" }, "Visitors by side.")'

describe("moongate.counter", function()
  it("counts by label values", function()
    local shop = route(HITS, 'hits:add(1, "new", 200) hits:add(2, exchange.request.headers:get("X-Side"), "404")')
    for _, side in ipairs { "new", "old", "new" } do assert.equal(200, shop:request({ headers = { ["X-Side"] = side } }).status) end
    local lines = {}
    for line in shop:metrics():gmatch("[^\n]+") do lines[line] = true end
    assert.same({
      ["# HELP moongate_policy_hits_total Visitors by side."] = true, ["# TYPE moongate_policy_hits_total counter"] = true,
      ['moongate_policy_hits_total{owner="test",side="new",status="200"} 3'] = true,
      ['moongate_policy_hits_total{owner="test",side="new",status="404"} 4'] = true,
      ['moongate_policy_hits_total{owner="test",side="old",status="404"} 2'] = true,
    }, lines)
  end)

  it("shows Moongate's own without an owner", function()
    local shop = route('local hits = moongate.counter("hits", {}, "Hits.")', "hits:add(7)", true)
    shop:request {}
    assert.truthy(shop:metrics():find("\nmoongate_policy_hits_total 7\n", 1, true))
  end)

  it("counts in hooks only, and is made outside of them", function()
    for _, trusted in ipairs { false, true } do
      assert.error_matches(function() route(HITS .. ' hits:add(1, "new", 200)', "", trusted) end, "counter:add: counts in hooks only")
      local shop = route("", 'moongate.counter("hits", {}, "Hits.")', trusted)
      local result = shop:request {}
      assert.equal(500, result.status)
      assert.truthy(result.log[1]:find("moongate.counter: is made when the file is loaded, not in a hook", 1, true))
    end
  end)

  it("refuses what is not a count", function()
    for deed, complaint in pairs {
      ['hits:add(-1, "a", "b")'] = "no whole number from 0",
      ['hits:add(0.5, "a", "b")'] = "no whole number from 0",
      ['hits:add(0/0, "a", "b")'] = "no whole number from 0",
      ['hits:add(1, "a")'] = "has 1 label values and needs 2",
      ['hits:add(1, "a", "b", "c")'] = "has 3 label values and needs 2",
      ['hits:add(1, "a", nil)'] = "counter:add: expects text, not nil",
      ['hits.add({}, 1, "a", "b")'] = "moongate.counter expected",
    } do
      local shop = route(HITS, deed)
      local result = shop:request {}
      assert.equal(500, result.status)
      assert.truthy(result.log[1]:find(complaint, 1, true), result.log[1])
      assert.is_nil(shop:metrics():find("{", 1, true))
    end
  end)

  it("refuses a declaration that cannot be shown", function()
    for made, complaint in pairs {
      ['moongate.counter("a b", {}, "Help.")'] = "moongate.counter: a b: the name is not made of",
      ['moongate.counter("a", { "b c" }, "Help.")'] = "a label is not made of",
      ['moongate.counter("a", { "owner" }, "Help.")'] = 'the label "owner" is Moongate\'s own',
      ['moongate.counter("a", { "b", "b" }, "Help.")'] = "a label is there twice",
      ['moongate.counter("a", { 1 }, "Help.")'] = "a label is no text",
      ['moongate.counter("a", { "a", "b", "c", "d", "e", "f", "g", "h", "i" }, "Help.")'] = "there are more than 8 labels",
      ['moongate.counter("a", {}, ("x"):rep(257))'] = "the help is longer than 256 bytes",
      ['moongate.counter("a", {})'] = "moongate.counter: expects text",
      ['moongate.counter("a", "b", "Help.")'] = "expects a list of labels",
    } do
      assert.error_matches(function() route(made, "") end, complaint, 1, true)
    end
  end)
end)
