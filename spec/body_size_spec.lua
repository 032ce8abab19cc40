local testing = require "moongate.testing"

local function set(annotations, settings)
  return testing.route({ policy = "body_size.lua", annotations = annotations, settings = settings }).set
end

local function complaint(annotations)
  local route = testing.route { policy = "body_size.lua", annotations = annotations, allow_findings = true }
  return route.findings[1].text, route
end

describe("body-size", function()
  it("refuses larger bodies with 413", function()
    local route = testing.route { policy = "body_size.lua", annotations = { ["proxy-body-size"] = "10" } }
    assert.equal(200, route:request({ method = "POST", body = ("x"):rep(10) }).status)
    local result = route:request { method = "POST", body = ("x"):rep(11) }
    assert.equal(413, result.status)
    assert.is_nil(result.sent)
  end)

  it("reads nginx's sizes", function()
    assert.equal(8 * 1024 ^ 2, set({ ["proxy-body-size"] = "8m" }).body_limit)
    assert.equal(0, set({ ["proxy-body-size"] = "0" }).body_limit)
    assert.equal(2 * 1024 ^ 3, set({}, { ["proxy-body-size"] = "2G" }).body_limit)
    assert.equal(16384, set({ ["client-body-buffer-size"] = "16k" }).request_body_buffer)
    local text, route = complaint({ ["client-body-buffer-size"] = "1b" })
    assert.equal("client-body-buffer-size: 1b is not a size such as 512, 8k or 1m", text)
    assert.is_nil(route.set.request_body_buffer)
  end)
end)
