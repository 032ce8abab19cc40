local testing = require "moongate.testing"

local function set(annotations, settings)
  return testing.route({ policy = "next_upstream.lua", annotations = annotations, settings = settings }).set
end

local function complaint(annotations)
  local route = testing.route { policy = "next_upstream.lua", annotations = annotations, allow_findings = true }
  return route.findings[1].text, route
end

describe("next-upstream", function()
  local function tries(annotations, settings, method)
    local route = testing.route {
      policy = "next_upstream.lua", annotations = annotations, settings = settings, services = { default = { "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80" } },
      answer = { status = 502, body = "" },
    }
    return route:request({ method = method }).attempts
  end

  it("tries another endpoint after the failures that it names", function()
    assert.equal(1, tries { ["proxy-next-upstream"] = "error timeout" })
    assert.equal(3, tries { ["proxy-next-upstream"] = "error http_502" })
    assert.equal(1, tries { ["proxy-next-upstream"] = "off" })
  end)

  it("stops after so many tries", function()
    assert.equal(2, tries { ["proxy-next-upstream"] = "http_502", ["proxy-next-upstream-tries"] = "2" })
  end)

  it("leaves POST alone unless told otherwise", function()
    assert.equal(1, tries({ ["proxy-next-upstream"] = "http_502" }, {}, "POST"))
    assert.equal(3, tries({ ["proxy-next-upstream"] = "http_502 non_idempotent" }, {}, "POST"))
    assert.equal(3, tries({ ["proxy-next-upstream"] = "http_502" }, { ["retry-non-idempotent"] = "true" }, "POST"))
  end)

  it("sets the time for all tries, and reports unknown words", function()
    assert.equal(7, set({ ["proxy-next-upstream-timeout"] = "7" }).retry_timeout)
    assert.matches("^proxy%-next%-upstream: often has the item often, which is none of error, ", (complaint({ ["proxy-next-upstream"] = "often" })))
  end)
end)
