local testing = require "moongate.testing"

describe("connection-proxy-header", function()
  it("is one fixed edit", function()
    for _, value in ipairs { "close", "keep-alive" } do
      local route = testing.route { policy = "connection_header.lua", annotations = { ["connection-proxy-header"] = value } }
      assert.equal(1, #route.edits)
      assert.equal("Connection", route.edits[1].name)
      assert.equal(value, route.edits[1].value)
    end
  end)

  it("takes nothing else", function()
    local route = testing.route { policy = "connection_header.lua", annotations = { ["connection-proxy-header"] = "upgrade" }, allow_findings = true }
    assert.equal("connection-proxy-header: upgrade is none of close, keep-alive", route.findings[1].text)
    assert.equal(0, #(route.edits or {}))
  end)
end)
