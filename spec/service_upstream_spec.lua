local testing = require "moongate.testing"

local function set(annotations, settings)
  return testing.route({ policy = "service_upstream.lua", annotations = annotations, settings = settings }).set
end

describe("service-upstream", function()
  it("asks for the Service's address", function()
    assert.is_true(set({ ["service-upstream"] = "true" }).use_service_address)
    assert.is_true(set({}, { ["service-upstream"] = "true" }).use_service_address)
    assert.same({}, set({ ["service-upstream"] = "false" }, { ["service-upstream"] = "true" }))
  end)
end)
