local testing = require "moongate.testing"

local function set(annotations, settings)
  return testing.route({ policy = "proxy_timeouts.lua", annotations = annotations, settings = settings }).set
end

local function complaint(annotations)
  local route = testing.route { policy = "proxy_timeouts.lua", annotations = annotations, allow_findings = true }
  return route.findings[1].text, route
end

describe("proxy-timeouts", function()
  it("sets seconds, for one Ingress or for all", function()
    assert.same({ connect_timeout = 10, read_timeout = 60, send_timeout = 60 }, set({ ["proxy-connect-timeout"] = "10" }))
    assert.same({ connect_timeout = 5, read_timeout = 3600, send_timeout = 30 },
      set({ ["proxy-send-timeout"] = "30" }, { ["proxy-read-timeout"] = "3600", ["proxy-send-timeout"] = "90" }))
    assert.same({}, set({}))
  end)

  it("reports what is no number, and keeps the default", function()
    local text, route = complaint({ ["proxy-read-timeout"] = "50k" })
    assert.equal("proxy-read-timeout: 50k is not a whole number", text)
    assert.equal(60, route.set.read_timeout)
  end)
end)
