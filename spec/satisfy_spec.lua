-- What guards say together is in guards_spec.lua.
local testing = require "moongate.testing"

local function set(value, findings)
  return testing.route { policy = "satisfy.lua", annotations = { satisfy = value }, allow_findings = findings }
end

describe("satisfy", function()
  it("sets how the guards of a route decide together", function()
    assert.equal("any", set("any").set.satisfy)
    assert.equal("all", set("all").set.satisfy)
    assert.is_nil(set(nil).set.satisfy)
  end)

  it("asks all of them when it cannot be read", function()
    assert.has_error(function() set("Any") end, "satisfy: Any is none of all, any")
    assert.equal("all", set("Any", true).set.satisfy)
  end)
end)
