local testing = require "moongate.testing"

local ADDRESSES = { "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80", "10.0.0.4:80", "10.0.0.5:80", "10.0.0.6:80" }

local function shop(annotations, more)
  local spec = { policy = "load_balance.lua", services = { default = ADDRESSES }, annotations = annotations }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function endpoints(route, uri, times)
  local seen, count = {}, 0
  for _ = 1, times or 12 do
    local endpoint = route:request({ uri = uri }).endpoint
    if not seen[endpoint] then seen[endpoint], count = true, count + 1 end
  end
  return count
end

describe("load-balance", function()
  it("sets the balancer, from the annotation or for all", function()
    assert.equal("ewma", shop({ ["load-balance"] = "ewma" }).set.balancer)
    assert.equal("least_connections", shop({}, { settings = { ["load-balance"] = "least_connections" } }).set.balancer)
    assert.equal("round_robin", shop({ ["load-balance"] = "round_robin" }, { settings = { ["load-balance"] = "ewma" } }).set.balancer)
    assert.equal("round_robin", shop({ ["load-balance"] = "chash" }).set.balancer)
    assert.equal(6, endpoints(shop { ["load-balance"] = "round_robin" }, "/", 6))
  end)

  it("reports one that it does not know", function()
    local route = shop({ ["load-balance"] = "ip_hash" }, { allow_findings = true })
    assert.matches("^load%-balance: ip_hash is none of round_robin, ", route.findings[1].text)
    assert.equal("round_robin", route.set.balancer)
  end)

  it("takes no text that asks for the same thousands of times, for each request", function()
    local route = shop({ ["upstream-hash-by"] = ("$request_uri"):rep(1000) }, { allow_findings = true })
    assert.matches("^upstream%-hash%-by: %$request_uri.* has more than 32 variables$", route.findings[1].text)
    assert.equal("round_robin", route.set.balancer)
    assert.equal("hash", shop({ ["upstream-hash-by"] = ("$request_uri"):rep(32) }).set.balancer)
  end)

  it("hashes, which wins", function()
    local route = shop { ["upstream-hash-by"] = "$request_uri", ["load-balance"] = "ewma" }
    assert.equal("hash", route.set.balancer)
    assert.equal("$request_uri", route.set.hash_by)
    assert.equal(1, endpoints(route, "/a"))
    local seen, count = {}, 0
    for i = 1, 30 do
      local endpoint = route:request({ uri = "/" .. i }).endpoint
      if not seen[endpoint] then seen[endpoint], count = true, count + 1 end
    end
    assert.is_true(count > 2)
  end)

  it("hashes to a group", function()
    local route = shop { ["upstream-hash-by"] = "$request_uri", ["upstream-hash-by-subset"] = "true" }
    assert.equal(3, route.set.hash_subset_size)
    local count = endpoints(route, "/a", 40)
    assert.is_true(count > 1 and count <= 3)
    assert.equal(2, shop({ ["upstream-hash-by"] = "$host", ["upstream-hash-by-subset"] = "true", ["upstream-hash-by-subset-size"] = "2" }).set.hash_subset_size)
  end)

  it("reports a variable that there is none of", function()
    local route = shop({ ["upstream-hash-by"] = "$nothing" }, { allow_findings = true })
    assert.matches("^upstream%-hash%-by: %$nothing has ", route.findings[1].text)
    assert.equal("round_robin", route.set.balancer)
  end)
end)
