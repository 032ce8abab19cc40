local testing = require "moongate.testing"

describe("access-log", function()
  it("leaves a route out", function()
    local route = testing.route { policy = "access_log.lua", annotations = { ["enable-access-log"] = "false" } }
    assert.same({}, route:request({}).log)
    route = testing.route { policy = "access_log.lua", annotations = { ["enable-access-log"] = "true" } }
    assert.equal(1, #route:request({}).log)
  end)
end)
