-- What the testing kit says to the author of a spec.
local testing = require "moongate.testing"

local SOURCE = [[local policy = { name = "probe", summary = "x", annotations = { probe = { type = "integer", alias = "trial" } } }
function policy.attach(_, annotations) return annotations.probe and {} end
function policy.access(exchange) return exchange.request.nothing end
return policy]]

local function problem(use)
  local ok, text = pcall(use)
  assert.is_false(ok)
  return text
end

describe("a mistake in a spec", function()
  it("is named with the spec's own line", function()
    local text = problem(function() testing.route { source = SOURCE, annotations = { probe = "x" } } end)
    assert.matches("^%S*spec/testing_spec.lua:17: probe: x is not a whole number$", text)
    assert.matches("testing_spec.lua:20: testing.route: there is no policy file nobody.lua",
      problem(function() testing.route { policy = "nobody.lua" } end))
  end)

  it("in the policy is named with the policy's", function()
    assert.equal("policy.lua:1: '=' expected near 'no'", problem(function() testing.route { source = "this no" } end):gsub("near 'no'.*", "near 'no'"))
  end)

  it("may be a misspelled option, or an annotation that nobody reads", function()
    assert.matches("testing.route: there is no option 'anotations'", problem(function() testing.route { source = SOURCE, anotations = {} } end))
    local route = testing.route { source = SOURCE, annotations = { trial = "1" } }
    assert.matches("route:request: there is no option 'header'", problem(function() route:request { header = {} } end))
    assert.matches("prob: is not read by a policy of this route", problem(function() testing.route { source = SOURCE, annotations = { prob = "1" } } end))
  end)

  it("is not that a folder of one's own is called policies: what is in it is a guest", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir -p " .. folder .. "/policies"))
    local file = assert(io.open(folder .. "/policies/probe.lua", "w"))
    file:write((SOURCE:gsub("exchange.request.nothing", "os and error('trusted')")))
    file:close()
    local result = testing.route({ policy = folder .. "/policies/probe.lua", annotations = { probe = "1" } }):request {}
    os.execute("rm -r " .. folder)
    assert.equal(200, result.status)
    assert.is_true(testing.route({ policy = "satisfy.lua" }).policies[1].trusted)
  end)

  it("and what hooks raise, is kept for the report", function()
    testing.raised = {}
    testing.route({ source = SOURCE, annotations = { probe = "1" } }):request {}
    assert.same({ "policy.lua:3: exchange.request has no member 'nothing' (probe, access)" }, testing.raised)
  end)
end)
