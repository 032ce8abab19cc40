-- luacheck: no max line length
local testing = require "moongate.testing"

local function shop(...)
  local alternatives, services = {}, { ["canary:80"] = { "10.0.0.9:80" }, ["second:80"] = { "10.0.0.8:80" } }
  for i, rules in ipairs { ... } do
    alternatives[i] = { service = ({ "canary:80", "second:80" })[i], annotations = rules }
  end
  return testing.route { policy = "canary.lua", alternatives = alternatives, services = services }
end

--- Which Service a request goes to, with these header fields.
local function side(route, headers) return route:request({ headers = headers }).upstream end

--- How many of so many requests go to each.
local function spread(route, count, headers)
  local seen = { default = 0, ["canary:80"] = 0, ["second:80"] = 0 }
  for _ = 1, count do
    local to = side(route, headers)
    seen[to] = seen[to] + 1
  end
  return seen
end

describe("canary", function()
  it("is nowhere without an alternative", function()
    assert.is_nil(shop().policies[1].route)
    assert.equal("default", side(shop {}))
  end)

  it("goes by a header", function()
    local route = shop { ["canary-by-header"] = "X-Canary" }
    assert.equal("canary:80", side(route, { ["x-canary"] = "always" }))
    assert.equal("default", side(route, { ["X-Canary"] = "never" }))
    assert.equal("default", side(route, { ["X-Canary"] = "other" }))
    assert.equal("default", side(route))
    route = shop { ["canary-by-header"] = "X-Canary", ["canary-weight"] = "100" }
    assert.equal("canary:80", side(route))
    assert.equal("canary:80", side(route, { ["X-Canary"] = "other" }))
    assert.equal("default", side(route, { ["X-Canary"] = "never" }))
  end)

  it("goes by a header's value, which always and never are not", function()
    local route = shop { ["canary-by-header"] = "X-Canary", ["canary-by-header-value"] = "DoCanary", ["canary-by-cookie"] = "c" }
    assert.equal("canary:80", side(route, { ["X-Canary"] = "DoCanary" }))
    for _, value in ipairs { "docanary", "always", "never", "" } do
      assert.equal("default", side(route, { ["X-Canary"] = value }))
      assert.equal("canary:80", side(route, { ["X-Canary"] = value, Cookie = "c=always" }))
    end
  end)

  it("goes by a header's pattern", function()
    local route = shop { ["canary-by-header"] = "X-Canary", ["canary-by-header-pattern"] = "^[a-z]+-canary$", ["canary-weight"] = "0" }
    assert.equal("canary:80", side(route, { ["X-Canary"] = "do-canary" }))
    assert.equal("default", side(route, { ["X-Canary"] = "Do-canary" }))
    assert.equal("default", side(route, { ["X-Canary"] = "always" }))
    route = shop { ["canary-by-header"] = "X-Canary", ["canary-by-header-pattern"] = "can", ["canary-by-cookie"] = "c" }
    assert.equal("canary:80", side(route, { ["X-Canary"] = "a canary" })) -- not anchored
    assert.equal("canary:80", side(route, { ["X-Canary"] = "x", Cookie = "c=always" }))
    route = shop { ["canary-by-header"] = "X-Canary", ["canary-by-header-value"] = "a", ["canary-by-header-pattern"] = "b" }
    assert.equal("default", side(route, { ["X-Canary"] = "b" })) -- the value wins
  end)

  it("stays where the pattern is none, or takes too long", function()
    local rules = { ["canary-by-header"] = "X-Canary", ["canary-by-header-pattern"] = "[a-", ["canary-by-cookie"] = "c", ["canary-weight"] = "100" }
    assert.has_error(function() shop(rules) end, "canary-by-header-pattern: [a- is not a regular expression; requests with that header stay")
    local route = testing.route { policy = "canary.lua", allow_findings = true, alternatives = { { service = "canary:80", annotations = rules } },
      services = { ["canary:80"] = { "10.0.0.9:80" } } }
    assert.equal("default", side(route, { ["X-Canary"] = "a", Cookie = "c=always" }))
    assert.equal("canary:80", side(route))
    route = shop { ["canary-by-header"] = "X-Canary", ["canary-by-header-pattern"] = "^(a+)+$", ["canary-by-cookie"] = "c", ["canary-weight"] = "100" }
    assert.equal("default", side(route, { ["X-Canary"] = ("a"):rep(40) .. "b", Cookie = "c=always" }))
  end)

  it("goes by a cookie, after the header", function()
    local route = shop { ["canary-by-header"] = "X-Canary", ["canary-by-cookie"] = "c" }
    assert.equal("canary:80", side(route, { Cookie = "a=b; c=always" }))
    assert.equal("default", side(route, { Cookie = "c=never" }))
    assert.equal("default", side(route, { Cookie = "c=Always" }))
    assert.equal("default", side(route, { ["X-Canary"] = "never", Cookie = "c=always" }))
    assert.equal("canary:80", side(route, { ["X-Canary"] = "always", Cookie = "c=never" }))
    assert.equal("default", side(shop { ["canary-by-cookie"] = "c", ["canary-weight"] = "100" }, { Cookie = "c=never" }))
  end)

  it("goes by a share of all requests", function()
    assert.equal(20, spread(shop { ["canary-weight"] = "0" }, 20).default)
    assert.equal(20, spread(shop { ["canary-weight"] = "100" }, 20)["canary:80"])
    local seen = spread(shop { ["canary-weight"] = "50" }, 100)["canary:80"]
    assert.is_true(seen > 15 and seen < 85, seen)
    seen = spread(shop { ["canary-weight"] = "50", ["canary-weight-total"] = "1000" }, 100)["canary:80"]
    assert.is_true(seen < 30, seen)
    assert.equal(20, spread(shop { ["canary-weight"] = "1000", ["canary-weight-total"] = "1000" }, 20)["canary:80"])
    seen = spread(shop { ["canary-weight"] = "5", ["canary-weight-total"] = "5" }, 100)["canary:80"] -- a total of less than 100 is 100
    assert.is_true(seen < 30, seen)
  end)

  it("takes a wrong weight for none", function()
    assert.has_error(function() shop { ["canary-weight"] = "-5" } end, "canary-weight: -5 is less than 0")
    assert.has_error(function() shop { ["canary-by-header-value"] = "x" } end, "canary-by-header-value: x has no effect without canary-by-header")
  end)

  it("asks several canaries, and their shares add up", function()
    local route = shop({ ["canary-by-header"] = "X-One", ["canary-weight"] = "50" }, { ["canary-by-header"] = "X-Two", ["canary-weight"] = "50" })
    assert.equal("canary:80", side(route, { ["X-One"] = "always" }))
    assert.equal("second:80", side(route, { ["X-Two"] = "always" }))
    assert.equal("canary:80", side(route, { ["X-One"] = "always", ["X-Two"] = "always" })) -- the older one
    assert.equal("second:80", side(route, { ["X-One"] = "never", ["X-Two"] = "always" }))
    assert.equal(20, spread(route, 20, { ["X-One"] = "never", ["X-Two"] = "never" }).default)
    local seen = spread(route, 100)
    assert.equal(0, seen.default)
    assert.is_true(seen["canary:80"] > 15 and seen["second:80"] > 15, seen["canary:80"])
  end)

  it("leaves requests where they are as long as the canary does not serve", function()
    local rules = { ["canary-by-header"] = "X-Canary", ["canary-weight"] = "100" }
    local route = testing.route { policy = "canary.lua", alternatives = { { service = "canary:80", annotations = rules } },
      services = { ["canary:80"] = { { address = "10.0.0.9:80", ready = false, draining = true } } } }
    assert.equal("default", side(route, { ["X-Canary"] = "always" }))
    assert.equal("default", side(testing.route { policy = "canary.lua", alternatives = { { service = "canary:80", annotations = rules } } }))
  end)

  it("gets its requests while the main Service has no endpoint", function()
    local rules = { ["canary-by-header"] = "X-Canary" }
    local route = testing.route { policy = "canary.lua", alternatives = { { service = "canary:80", annotations = rules } },
      services = { default = {}, ["canary:80"] = { "10.0.0.9:80" } } }
    assert.equal("canary:80", side(route, { ["X-Canary"] = "always" }))
    assert.equal(503, route:request({}).status)
  end)

  it("has no rules on an Ingress that is none", function()
    assert.has_error(function() testing.route { policy = "canary.lua", annotations = { ["canary-weight"] = "50" } } end,
      "canary-weight: 50 has no effect: it is for Ingresses with canary")
    assert.is_nil(testing.route({ policy = "canary.lua", annotations = { canary = "false" } }).policies[1].route.config)
  end)

  it("may sit in another namespace", function()
    local route = testing.route { policy = "canary.lua", alternatives = { { service = "canary:80", namespace = "lab", annotations = { ["canary-weight"] = "100" } } } }
    assert.equal("default", side(route)) -- it has no endpoint here, and is found by its own name
    assert.equal("lab-canary-80", route.alternatives[1].upstream.name)
  end)

  describe("with affinity", function()
    local function sticky(rules, more)
      rules["canary-by-header"] = "X-Canary"
      return testing.route { policies = { "affinity.lua", "canary.lua" }, annotations = { affinity = "cookie", ["session-cookie-name"] = "s" },
        alternatives = { { service = "canary:80", annotations = rules } },
        services = more or { default = { "10.0.0.1:80", "10.0.0.2:80" }, ["canary:80"] = { "10.0.0.8:80", "10.0.0.9:80" } } }
    end

    local function ask(route, headers)
      local result = route:request { headers = headers }
      return result.upstream, (result.response.headers["set-cookie"] or ""):match("^([^;]+)"), result.endpoint
    end

    it("keeps a visitor where he is, whatever header, cookie and weight say", function()
      local route = sticky { ["canary-weight"] = "0" }
      local to, cookie, endpoint = ask(route, { ["X-Canary"] = "always" })
      assert.equal("canary:80", to)
      assert.is_truthy(cookie)
      for _ = 1, 6 do
        local again, new, same = ask(route, { Cookie = cookie, ["X-Canary"] = "never" })
        assert.same({ "canary:80", endpoint }, { again, same })
        assert.is_nil(new)
      end
      to, cookie, endpoint = ask(route, { ["X-Canary"] = "never" })
      assert.equal("default", to)
      for _ = 1, 6 do
        local again, new, same = ask(route, { Cookie = cookie, ["X-Canary"] = "always" })
        assert.same({ "default", endpoint }, { again, same })
        assert.is_nil(new)
      end
    end)

    it("of the old kind gives the canary no sessions", function()
      local route = sticky { ["affinity-canary-behavior"] = "legacy" }
      local to, cookie = ask(route, { ["X-Canary"] = "always" })
      assert.equal("canary:80", to)
      assert.is_nil(cookie)
      to, cookie = ask(route)
      assert.equal("default", to)
      assert.equal("default", (ask(route, { Cookie = cookie, ["X-Canary"] = "always" }))) -- whom the main Service serves stays
      local _, of_canary = ask(sticky {}, { ["X-Canary"] = "always" })
      assert.equal("default", (ask(route, { Cookie = of_canary })))
    end)

    it("gives a new session where the old one leads nowhere", function()
      local _, cookie = ask(sticky {}, { ["X-Canary"] = "always" })
      local to, new = ask(sticky({}, { default = { "10.0.0.1:80" } }), { Cookie = cookie })
      assert.equal("default", to)
      assert.is_truthy(new)
    end)
  end)
end)
