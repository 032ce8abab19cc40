local testing = require "moongate.testing"

local function gate(annotations, settings, more)
  local spec = { policy = "access_lists.lua", annotations = annotations, settings = settings }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function statuses(route, ...)
  local list = {}
  for i, ip in ipairs { ... } do list[i] = route:request({ client = ip }).status end
  return table.concat(list, " ")
end

local INSIDE, OUTSIDE, SIX = "10.1.2.3", "192.0.2.1", "2001:db8::5"

describe("access-lists", function()
  it("lets in only whom the allow list holds", function()
    local route = gate { ["allowlist-source-range"] = "10.0.0.0/8, 2001:db8::/32" }
    assert.equal("200 403 200 403", statuses(route, INSIDE, OUTSIDE, SIX, "2001:db9::1"))
    assert.equal("200 403", statuses(gate { ["allowlist-source-range"] = "10.1.2.3" }, INSIDE, "10.1.2.4"))
    assert.equal("200 200", statuses(gate { ["allowlist-source-range"] = "0.0.0.0/0" }, INSIDE, OUTSIDE))
  end)

  it("takes an IPv4 address that comes as IPv6 for what it is", function()
    assert.equal("200 403", statuses(gate { ["allowlist-source-range"] = "10.0.0.0/8" }, "::ffff:10.1.2.3", "::ffff:192.0.2.1"))
    assert.equal("403", statuses(gate { ["denylist-source-range"] = "10.0.0.0/8" }, "::ffff:10.1.2.3"))
  end)

  it("reads the old name where the new one is empty", function()
    assert.equal("200 403", statuses(gate { ["whitelist-source-range"] = "10.0.0.0/8" }, INSIDE, OUTSIDE))
    assert.equal("200 403", statuses(gate { ["whitelist-source-range"] = "10.0.0.0/8", ["allowlist-source-range"] = "" }, INSIDE, OUTSIDE))
    assert.equal("403 200", statuses(gate { ["whitelist-source-range"] = "10.0.0.0/8", ["allowlist-source-range"] = "192.0.2.0/24" }, INSIDE, OUTSIDE))
  end)

  it("keeps out whom the deny list holds, before the allow list", function()
    assert.equal("403 200", statuses(gate { ["denylist-source-range"] = "10.0.0.0/8" }, INSIDE, OUTSIDE))
    local both = gate { ["denylist-source-range"] = "10.1.2.3", ["allowlist-source-range"] = "10.0.0.0/8" }
    assert.equal("403 200 403", statuses(both, INSIDE, "10.1.2.4", OUTSIDE))
  end)

  it("takes the settings where the annotations are not there", function()
    local settings = { ["whitelist-source-range"] = "10.0.0.0/8", ["denylist-source-range"] = "10.9.0.0/16" }
    assert.equal("200 403 403", statuses(gate({}, settings), INSIDE, OUTSIDE, "10.9.0.1"))
    assert.equal("403 200 403", statuses(gate({ ["whitelist-source-range"] = "192.0.2.0/24" }, settings), INSIDE, OUTSIDE, "10.9.0.1"))
    assert.equal("200 403 200", statuses(gate({ ["denylist-source-range"] = "192.0.2.0/24" }, settings), INSIDE, OUTSIDE, "10.9.0.1"))
    assert.equal("403 200", statuses(gate({}, { ["block-cidrs"] = "10.0.0.0/8" }), INSIDE, OUTSIDE))
  end)

  it("is nowhere unless there is a list", function()
    assert.equal(0, #gate({}, { ["block-cidrs"] = " " }).edits)
    assert.is_nil(gate({}).policies[1].route)
  end)

  it("closes the route when a list cannot be read", function()
    for _, name in ipairs { "allowlist-source-range", "whitelist-source-range", "denylist-source-range" } do
      local route = gate({ [name] = "10.0.0.0/8, 10.0.0.300" }, nil, { allow_findings = true })
      assert.equal(503, route:request({ client = INSIDE }).status)
      assert.equal(name .. ": 10.0.0.0/8, 10.0.0.300 has the item 10.0.0.300, which is not an address or a CIDR", route.findings[1].text) -- as it was written
    end
    for _, key in ipairs { "whitelist-source-range", "denylist-source-range", "block-cidrs" } do
      assert.equal(503, gate({}, { [key] = "everybody" }, { allow_findings = true }):request({ client = INSIDE }).status)
    end
  end)

  describe("under satisfy any", function()
    local other = { trusted = true, source = [[
      local policy = { name = "other", summary = "x", guard = true, applies = "always", attach = function() return {} end }
      function policy.access(exchange)
        if exchange.request.headers:get("X-Key") then return exchange:allow() end
        return exchange:deny(401)
      end
      return policy]] }

    local function ask(annotations, ip, key, settings)
      annotations.satisfy = "any"
      local route = testing.route { policies = { "satisfy.lua", "access_lists.lua", other }, annotations = annotations, settings = settings }
      return route:request({ client = ip, headers = { ["X-Key"] = key } }).status
    end

    it("an address of the allow list is enough, and nobody else's is lost", function()
      assert.equal(200, ask({ ["allowlist-source-range"] = "10.0.0.0/8" }, INSIDE))
      assert.equal(200, ask({ ["allowlist-source-range"] = "10.0.0.0/8" }, OUTSIDE, "1"))
      assert.equal(401, ask({ ["allowlist-source-range"] = "10.0.0.0/8" }, OUTSIDE))
    end)

    it("an address of the deny list is not in the allow list, and one that is not there says nothing", function()
      local lists = function() return { ["denylist-source-range"] = "10.1.0.0/16", ["allowlist-source-range"] = "10.0.0.0/8" } end
      assert.equal(401, ask(lists(), INSIDE))
      assert.equal(200, ask(lists(), "10.2.0.1"))
      assert.equal(401, ask({ ["denylist-source-range"] = "10.1.0.0/16" }, OUTSIDE))
    end)

    it("nobody passes block-cidrs", function()
      assert.equal(403, ask({ ["allowlist-source-range"] = "10.0.0.0/8" }, INSIDE, "1", { ["block-cidrs"] = "10.1.0.0/16" }))
    end)
  end)
end)
