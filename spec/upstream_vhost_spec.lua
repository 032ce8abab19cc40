local testing = require "moongate.testing"

local function sent(value)
  local route = testing.route { policy = "upstream_vhost.lua", annotations = { ["upstream-vhost"] = value } }
  return route:request({ host = "shop.test" }).sent
end

describe("upstream-vhost", function()
  it("sets the Host that the application sees, and keeps the visitor's beside it", function()
    local request = sent "inner.test"
    assert.equal("inner.test", request.host)
    assert.equal("shop.test", request.headers["x-forwarded-host"])
  end)

  it("may hold variables", function()
    assert.equal("shop.test.inner", sent("$host.inner").host)
  end)

  it("reports what is no name", function()
    assert.has_error(function() sent "a b" end, "upstream-vhost: a b has a form that is not allowed here")
    assert.has_error(function() sent "$nothing" end)
  end)
end)
