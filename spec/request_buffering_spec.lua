local testing = require "moongate.testing"

local function set(annotations, settings)
  return testing.route({ policy = "request_buffering.lua", annotations = annotations, settings = settings }).set
end

local function complaint(annotations)
  local route = testing.route { policy = "request_buffering.lua", annotations = annotations, allow_findings = true }
  return route.findings[1].text, route
end

describe("request-buffering", function()
  it("is on or off", function()
    assert.is_false(set({ ["proxy-request-buffering"] = "off" }).request_buffering)
    assert.is_false(set({}, { ["proxy-request-buffering"] = "off" }).request_buffering)
    assert.is_true(set({ ["proxy-request-buffering"] = "on" }, { ["proxy-request-buffering"] = "off" }).request_buffering)
    assert.equal("proxy-request-buffering: false is neither on nor off", (complaint({ ["proxy-request-buffering"] = "false" })))
  end)
end)
