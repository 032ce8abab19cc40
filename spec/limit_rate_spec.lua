-- How answers keep to it is core/proxy/pace.c's: tests/unit/test_proxy_pace.c.
local testing = require "moongate.testing"

local function set(annotations, settings, findings)
  return testing.route({ policy = "limit_rate.lua", annotations = annotations, settings = settings, allow_findings = findings }).set
end

describe("limit-rate", function()
  it("sets the pace of answers, in KiB", function()
    assert.same({ limit_rate = 10240, limit_rate_after = 0 }, set { ["limit-rate"] = "10" })
    assert.same({ limit_rate = 10240, limit_rate_after = 1048576 }, set { ["limit-rate"] = "10", ["limit-rate-after"] = "1024" })
    assert.same({}, set { ["limit-rate"] = "0", ["limit-rate-after"] = "5" })
  end)

  it("takes the settings where the annotations are not there", function()
    local settings = { ["limit-rate"] = "3", ["limit-rate-after"] = "4" }
    assert.same({ limit_rate = 3072, limit_rate_after = 4096 }, set({}, settings))
    assert.same({ limit_rate = 1024, limit_rate_after = 4096 }, set({ ["limit-rate"] = "1" }, settings))
    assert.same({}, set({ ["limit-rate"] = "0" }, settings))
  end)

  it("takes a wrong number for none", function()
    assert.has_error(function() set { ["limit-rate"] = "-1" } end, "limit-rate: -1 is less than 0")
    assert.same({}, set({ ["limit-rate"] = "fast" }, nil, true))
  end)
end)
