local core = require "moongate.core"
local testing = require "moongate.testing"

local md5, sha1 = core.hash.md5, core.hash.sha1
local UPSTREAM = "default-default-80"
local UPSTREAM_KEY = md5(md5(UPSTREAM) .. UPSTREAM)
local ADDRESSES = { "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80" }

local function shop(annotations, more)
  local spec = { policy = "affinity.lua", services = { default = ADDRESSES }, annotations = { affinity = "cookie" } }
  for name, value in pairs(annotations or {}) do spec.annotations[name] = value end
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function visit(route, cookie, more)
  local request = { uri = "/", headers = { Cookie = cookie } }
  for name, value in pairs(more or {}) do request[name] = value end
  return route:request(request)
end

local function set_cookie(result)
  return result.response.headers["set-cookie"]
end

local function pair_of(result)
  return set_cookie(result):match("^[^;]+")
end

local function cookie(key, name)
  return (name or "INGRESSCOOKIE") .. "=" .. key .. "|" .. UPSTREAM_KEY
end

describe("affinity", function()
  it("does nothing without affinity: cookie", function()
    local route = shop({ affinity = "", ["session-cookie-name"] = "route" }, { allow_findings = true })
    assert.equal("session-cookie-name: route has no effect without affinity", route.findings[1].text)
    assert.is_nil(set_cookie(visit(route)))
    route = shop({ affinity = "ip" }, { allow_findings = true })
    assert.equal("affinity: ip is none of cookie", route.findings[1].text)
    assert.is_nil(set_cookie(visit(route)))
  end)

  it("names the endpoint that answered, as ingress-nginx names it", function()
    local result = visit(shop())
    assert.equal(cookie(md5(UPSTREAM .. result.endpoint)) .. "; Path=/; HttpOnly", set_cookie(result))
  end)

  it("keeps a visitor on the endpoint that the cookie names, and does not set it again", function()
    local route = shop()
    for _, address in ipairs(ADDRESSES) do
      for _ = 1, 3 do
        local result = visit(route, cookie(md5(UPSTREAM .. address)))
        assert.equal(address, result.endpoint)
        assert.is_nil(set_cookie(result))
      end
    end
  end)

  it("follows the cookie of another Ingress of the upstream, and gives none", function()
    local route, seen = shop({}, { sources = { { namespace = "default", name = "test", paths = { "/" }, annotations = {} } } }), {}
    for _, address in ipairs(ADDRESSES) do
      local result = visit(route, cookie(md5(UPSTREAM .. address)))
      assert.equal(address, result.endpoint)
      assert.is_nil(set_cookie(result))
    end
    for _ = 1, 6 do
      local result = visit(route)
      seen[result.endpoint] = true
      assert.is_nil(set_cookie(result))
    end
    assert.is_truthy(next(seen, next(seen)))
    assert.is_nil(set_cookie(visit(route, cookie "0"))) -- a session whose endpoint is gone starts where cookies are given
  end)

  it("balances new visitors", function()
    local route, seen = shop(), {}
    for _ = 1, 3 do seen[visit(route).endpoint] = true end
    for _, address in ipairs(ADDRESSES) do assert.is_true(seen[address]) end
  end)

  it("takes any other value for no cookie", function()
    local route = shop()
    local key = md5(UPSTREAM .. ADDRESSES[1])
    for _, value in ipairs { key, key .. "|other", "|" .. UPSTREAM_KEY, "", "nobody|" .. UPSTREAM_KEY } do
      local result = visit(route, "INGRESSCOOKIE=" .. value)
      assert.equal(200, result.status)
      assert.is_string(set_cookie(result))
    end
  end)

  it("honours session-cookie-hash", function()
    local route = shop { ["session-cookie-hash"] = "sha1", ["session-cookie-name"] = "route" }
    local result = visit(route)
    assert.equal(cookie(sha1(UPSTREAM .. result.endpoint), "route"), pair_of(result))
    assert.equal(ADDRESSES[2], visit(route, cookie(sha1(UPSTREAM .. ADDRESSES[2]), "route")).endpoint)
    route = shop { ["session-cookie-hash"] = "index" }
    result = visit(route)
    assert.matches("^INGRESSCOOKIE=%d+|", pair_of(result))
    for _ = 1, 3 do assert.equal(result.endpoint, visit(route, pair_of(result)).endpoint) end
  end)

  it("keeps sessions on an endpoint that drains, and gives it no new ones", function()
    local route = shop({}, { services = { default = { "10.0.0.1:80", { address = "10.0.0.2:80", ready = false, draining = true } } } })
    assert.equal("10.0.0.2:80", visit(route, cookie(md5(UPSTREAM .. "10.0.0.2:80"))).endpoint)
    for _ = 1, 4 do assert.equal("10.0.0.1:80", visit(route).endpoint) end
  end)

  it("moves a session whose endpoint is gone, with a new cookie", function()
    local route = shop({}, { services = { default = { ADDRESSES[1] } } })
    local result = visit(route, cookie(md5(UPSTREAM .. ADDRESSES[2])))
    assert.equal(ADDRESSES[1], result.endpoint)
    assert.equal(cookie(md5(UPSTREAM .. ADDRESSES[1])), pair_of(result))
  end)

  describe("when the endpoint fails", function()
    local failing = { answers = { [ADDRESSES[2]] = "refuse" } }

    it("tries it again once, then moves the session", function()
      local result = visit(shop(), cookie(md5(UPSTREAM .. ADDRESSES[2])), failing)
      assert.equal(200, result.status)
      assert.are_not.equal(ADDRESSES[2], result.endpoint)
      assert.equal(cookie(md5(UPSTREAM .. result.endpoint)), pair_of(result))
    end)

    it("moves the session at once with change-on-failure", function()
      local result = visit(shop({ ["session-cookie-change-on-failure"] = "true" }), cookie(md5(UPSTREAM .. ADDRESSES[2])), failing)
      assert.equal(200, result.status)
      assert.equal(cookie(md5(UPSTREAM .. result.endpoint)), pair_of(result))
    end)

    it("sets no cookie on an answer of our own", function()
      local result = visit(shop({}, { services = { default = { ADDRESSES[2] } } }), nil, failing)
      assert.equal(502, result.status)
      assert.is_nil(set_cookie(result))
    end)

    it("finds another place on the ring in balanced mode", function()
      local balanced = { ["affinity-mode"] = "balanced" }
      local first = visit(shop(balanced))
      local result = visit(shop(balanced), pair_of(first), { answers = { [first.endpoint] = "refuse" } })
      assert.equal(200, result.status)
      assert.are_not.equal(pair_of(first), pair_of(result))
    end)
  end)

  it("uses the ring in balanced mode: any key of this upstream has its place", function()
    local route = shop { ["affinity-mode"] = "balanced" }
    local first = visit(route)
    assert.matches("^INGRESSCOOKIE=%x+|" .. UPSTREAM_KEY, set_cookie(first))
    for _ = 1, 4 do
      local result = visit(route, pair_of(first))
      assert.equal(first.endpoint, result.endpoint)
      assert.is_nil(set_cookie(result))
    end
    local foreign = visit(route, cookie("1700000000.123.456789"))
    assert.is_nil(set_cookie(foreign))
    assert.equal(foreign.endpoint, visit(route, cookie("1700000000.123.456789")).endpoint)
  end)

  it("stays by default in a mode that it does not know", function()
    local route = shop({ ["affinity-mode"] = "sticky" }, { allow_findings = true })
    assert.equal("affinity-mode: sticky is none of persistent, balanced", route.findings[1].text)
    assert.equal(ADDRESSES[3], visit(route, cookie(md5(UPSTREAM .. ADDRESSES[3]))).endpoint)
  end)

  describe("the cookie", function()
    local function attributes(annotations, request, more)
      return set_cookie(visit(shop(annotations, more), nil, request)):match("^[^;]+(.*)$")
    end

    it("has the path of the rule, unless another is given", function()
      assert.equal("; Path=/foo; HttpOnly", attributes({}, { uri = "/foo/bar" }, { path = "/foo" }))
      assert.equal("; Path=/; HttpOnly", attributes({ ["session-cookie-path"] = "/" }, { uri = "/foo" }, { path = "/foo" }))
    end)

    it("is reported where its path is a pattern", function()
      local route = shop({}, { path = "/foo/.*", allow_findings = true })
      assert.matches("^session%-cookie%-path: is missing", route.findings[1].text)
    end)

    it("has domain, age and expiry where they are given, in ingress-nginx's order", function()
      local text = attributes {
        ["session-cookie-domain"] = "shop.test", ["session-cookie-max-age"] = "60", ["session-cookie-expires"] = "120", ["session-cookie-samesite"] = "lax",
      }
      assert.matches("^; Expires=%a+, %d%d %a+ %d+ [%d:]+ GMT; Max%-Age=60; Domain=shop.test; Path=/; HttpOnly; SameSite=lax$", text)
    end)

    it("is Secure over TLS, and over plain HTTP where that is asked for", function()
      assert.equal("; Path=/; Secure; HttpOnly", attributes({ ["session-cookie-secure"] = "false" }, { scheme = "https" }, { tls = true }))
      assert.equal("; Path=/; Secure; HttpOnly", attributes { ["session-cookie-secure"] = "true" })
      assert.equal("; Path=/; HttpOnly", attributes { ["session-cookie-secure"] = "false" })
    end)

    it("leaves SameSite=None out for browsers that misread it", function()
      local asked = { ["session-cookie-samesite"] = "None", ["session-cookie-conditional-samesite-none"] = "true" }
      local function with(agent) return attributes(asked, { headers = { ["User-Agent"] = agent } }) end
      local left_out, there = "; Path=/; HttpOnly", "; Path=/; HttpOnly; SameSite=None"
      assert.equal(left_out, with "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/58.0.3029.110 Safari/537.36")
      assert.equal(left_out, with "Mozilla/5.0 (iPhone; CPU iPhone OS 12_4 like Mac OS X) AppleWebKit/605.1.15")
      assert.equal(left_out, with "Mozilla/5.0 (iPad; CPU OS 12_4 like Mac OS X) AppleWebKit/605.1.15")
      assert.equal(left_out, with "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_4) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/12.1 Safari/605.1.15")
      assert.equal(there, with "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_4) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/84.0 Safari/537.36")
      assert.equal(there, with "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36")
      assert.equal(there, attributes(asked))
      asked["session-cookie-conditional-samesite-none"] = "false"
      assert.equal(there, with "Mozilla/5.0 (iPad; CPU OS 12_4 like Mac OS X)")
    end)

    it("may have a name that only old rules allow", function()
      local route = shop { ["session-cookie-name"] = "shop/a:b" }
      local result = visit(route)
      assert.matches("^shop/a:b=%x+|", set_cookie(result))
      assert.equal(result.endpoint, visit(route, pair_of(result)).endpoint)
    end)
  end)
end)
