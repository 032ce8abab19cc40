local testing = require "moongate.testing"

local function header(settings, request, answer)
  local route = testing.route { policy = "hsts.lua", tls = true, settings = settings, answer = answer }
  return route:request(request or { scheme = "https" }).response.all["strict-transport-security"]
end

describe("hsts", function()
  it("is on for a year, names below included", function()
    assert.same({ "max-age=31536000; includeSubDomains" }, header())
  end)

  it("is for HTTPS only", function()
    assert.is_nil(header({}, {}))
  end)

  it("replaces what the application says", function()
    assert.same({ "max-age=31536000; includeSubDomains" }, header({}, nil, { headers = { ["Strict-Transport-Security"] = "max-age=1" } }))
  end)

  it("follows the settings", function()
    assert.is_nil(header { hsts = "false" })
    assert.same({ "max-age=60; preload" }, header { ["hsts-max-age"] = "60", ["hsts-include-subdomains"] = "false", ["hsts-preload"] = "true" })
  end)

  it("is on answers of our own too", function()
    local route = testing.route { policy = "hsts.lua", tls = true, services = { default = {} } }
    local result = route:request { scheme = "https" }
    assert.equal(503, result.status)
    assert.equal("max-age=31536000; includeSubDomains", result.response.headers["strict-transport-security"])
  end)
end)
