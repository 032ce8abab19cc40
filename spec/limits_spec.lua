local testing = require "moongate.testing"

local function limited(annotations, settings, more)
  local spec = { policy = "limits.lua", annotations = annotations, settings = settings }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

--- How many of so many requests pass, and the status of the others.
local function passed(route, count, request)
  local good, other = 0, nil
  for _ = 1, count do
    local status = route:request(request or {}).status
    if status == 200 then good = good + 1 else other = status end
  end
  return good, other
end

describe("limits", function()
  it("lets a burst pass, and then refuses", function()
    local good, status = passed(limited { ["limit-rpm"] = "1" }, 10)
    assert.same({ 6, 503 }, { good, status }) -- the first, and five times the limit
    assert.equal(4, (passed(limited { ["limit-rpm"] = "1", ["limit-burst-multiplier"] = "3" }, 10)))
    assert.equal(10, (passed(limited { ["limit-rps"] = "2" }, 10)))
    assert.equal(3, (passed(limited { ["limit-rps"] = "1000", ["limit-rpm"] = "2", ["limit-burst-multiplier"] = "1" }, 10)))
    assert.equal(10, (passed(limited { ["limit-rpm"] = "0", ["limit-rps"] = "0", ["limit-connections"] = "0" }, 10)))
  end)

  it("tells visitors apart by their address, or as a setting says", function()
    local route = limited({ ["limit-rpm"] = "1", ["limit-burst-multiplier"] = "1" })
    assert.equal(2, (passed(route, 4)))
    assert.equal(2, (passed(route, 4, { client = "192.0.2.1" })))
    assert.equal(2, (passed(route, 4, { client = "2001:db8::1" })))
    route = limited({ ["limit-rpm"] = "1", ["limit-burst-multiplier"] = "1" }, { ["limit-conn-zone-variable"] = "$http_x_key" })
    assert.equal(2, (passed(route, 4, { headers = { ["X-Key"] = "a" } })))
    assert.equal(2, (passed(route, 4, { headers = { ["X-Key"] = ("b"):rep(2000) } })))
    assert.equal(2, (passed(route, 4, { headers = { ["X-Key"] = ("b"):rep(2000) .. "c" } })))
    assert.equal(4, (passed(route, 4))) -- who has no key
  end)

  it("does not limit who is on the list", function()
    for _, name in ipairs { "limit-allowlist", "limit-whitelist" } do
      local route = limited { ["limit-rpm"] = "1", ["limit-connections"] = "1", ["limit-burst-multiplier"] = "1", [name] = "192.0.2.0/24" }
      assert.equal(5, (passed(route, 5, { client = "192.0.2.1" })))
      assert.equal(2, (passed(route, 5, { client = "192.0.3.1" })))
    end
  end)

  it("counts both rates only where both allow", function()
    -- Were each refused request put into the bucket of seconds, it would be full and refuse with it.
    local route = limited { ["limit-rpm"] = "1", ["limit-rps"] = "3", ["limit-burst-multiplier"] = "1" }
    assert.equal(2, (passed(route, 20)))
    local log = table.concat(route:request({}).log)
    assert.matches("more requests than limit%-rpm allows", log)
  end)

  it("limits requests in flight", function()
    local hold = { trusted = true, source = [[
      local held = require("moongate").shared.dict "limit-connections"
      local policy = { name = "hold", summary = "x", applies = "always", attach = function() return {} end }
      function policy.rewrite(exchange)
        for _ = 1, tonumber(exchange.request.headers:get("X-Others")) do held:acquire("default/test 127.0.0.1", 100) end
      end
      return policy]] }
    local route = testing.route { policies = { hold, "limits.lua" }, annotations = { ["limit-connections"] = "3" } }
    local function with(others) return route:request({ headers = { ["X-Others"] = tostring(others) } }).status end
    assert.equal(200, with(0))
    assert.equal(200, with(2))
    assert.equal(503, with(3))
    assert.equal(200, with(2)) -- given back
  end)

  it("answers as the settings say", function()
    local _, status = passed(limited({ ["limit-rpm"] = "1" }, { ["limit-req-status-code"] = "429" }), 7)
    assert.equal(429, status)
    assert.has_error(function() limited({ ["limit-rpm"] = "1" }, { ["limit-req-status-code"] = "200" }) end, "limit-req-status-code: 200 is less than 400")
  end)

  it("refuses before a guard is asked", function()
    local guard = { source = [[
      local policy = { name = "guard", summary = "x", applies = "always", guard = true, attach = function() return {} end }
      function policy.access(exchange) return exchange:deny(401) end
      return policy]] }
    local route = testing.route { policies = { "limits.lua", guard }, annotations = { ["limit-rpm"] = "1", ["limit-burst-multiplier"] = "1" } }
    local statuses = {}
    for i = 1, 3 do statuses[i] = route:request({}).status end
    assert.same({ 401, 401, 503 }, statuses)
  end)

  it("takes wrong numbers for what they are", function()
    assert.has_error(function() limited { ["limit-rps"] = "-1" } end, "limit-rps: -1 is less than 0")
    assert.equal(6, (passed(limited({ ["limit-rpm"] = "1", ["limit-burst-multiplier"] = "0" }, nil, { allow_findings = true }), 10)))
  end)
end)
