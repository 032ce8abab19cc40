local testing = require "moongate.testing"

local function set(annotations, settings)
  return testing.route({ policy = "backend_protocol.lua", annotations = annotations, settings = settings }).set
end

local function complaint(annotations)
  local route = testing.route { policy = "backend_protocol.lua", annotations = annotations, allow_findings = true }
  return route.findings[1].text, route
end

describe("backend-protocol", function()
  it("is HTTP or HTTPS, in any case of letters", function()
    assert.same({}, set({ ["backend-protocol"] = "http" }))
    assert.same({ protocol = "https" }, set({ ["backend-protocol"] = "https" }))
  end)

  it("may follow the visitor", function()
    assert.same({ protocol = "auto" }, set({ ["backend-protocol"] = "auto_http" }))
  end)

  it("denies what is not yet supported", function()
    for _, value in ipairs { "GRPC", "grpcs", "FCGI" } do
      local text, route = complaint({ ["backend-protocol"] = value })
      assert.equal("backend-protocol: " .. value:upper() .. " is not yet supported", text)
      assert.equal(503, route:request({}).status)
    end
  end)

  it("reports what it does not know, and stays with HTTP", function()
    local text, route = complaint({ ["backend-protocol"] = "AJP" })
    assert.equal("backend-protocol: AJP is none of HTTP, HTTPS, AUTO_HTTP, GRPC, GRPCS, FCGI", text)
    assert.equal(200, route:request({}).status)
  end)
end)
