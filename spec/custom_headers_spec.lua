local testing = require "moongate.testing"

local function shop(data, more)
  local spec = {
    policy = "custom_headers.lua", annotations = { ["custom-headers"] = "extra" }, config_maps = { ["default/extra"] = data },
    settings = { ["global-allowed-response-headers"] = "X-One,X-Two" },
  }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function denial(data, more)
  more = more or {}
  more.allow_findings = true
  local route = shop(data, more)
  assert.equal("deny", route.findings[1].level)
  assert.equal(503, route:request({}).status)
  return route.findings[1].text
end

describe("custom-headers", function()
  it("sets the headers of the ConfigMap, in the place of the application's", function()
    local result = shop({ ["X-One"] = "1", ["x-two"] = "a b" }):request { answer = { headers = { ["X-One"] = { "x", "y" } } } }
    assert.same({ "1" }, result.response.all["x-one"])
    assert.equal("a b", result.response.headers["x-two"])
  end)

  it("leaves a dollar a dollar", function()
    local result = shop({ ["X-One"] = "$host costs $5" }):request {}
    assert.same({ "$host costs $5" }, result.response.all["x-one"])
  end)

  it("denies what it cannot do as asked", function()
    assert.equal("custom-headers: extra does not exist", denial(nil))
    assert.equal("custom-headers: extra has the header X-Three, which global-allowed-response-headers does not list", denial { ["X-Three"] = "3" })
    assert.equal("custom-headers: extra has the key X One, which is not a header name", denial { ["X One"] = "1" })
    assert.equal("custom-headers: extra has a control character in the value of X-One", denial { ["X-One"] = "a\nb" })
    assert.equal("custom-headers: a/b/c is not the name of an object", denial({}, { annotations = { ["custom-headers"] = "a/b/c" } }))
    assert.equal("custom-headers: other/extra is in another namespace (see allow-cross-namespace-resources)",
      denial({}, { annotations = { ["custom-headers"] = "other/extra" }, config_maps = { ["other/extra"] = { ["X-One"] = "1" } } }))
  end)

  it("allows nothing unless the settings do", function()
    assert.matches("which global%-allowed%-response%-headers does not list", denial({ ["X-One"] = "1" }, { settings = {} }))
  end)
end)
