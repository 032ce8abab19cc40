local testing = require "moongate.testing"

local function shop(annotations, more)
  local spec = { policy = "redirect.lua", host = "shop.test", annotations = annotations }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function answer(route, request)
  local result = route:request(request or { uri = "/a/b?c" })
  assert.is_nil(result.sent)
  return result.status, result.response.headers.location
end

describe("redirect", function()
  it("sends everyone elsewhere, for good", function()
    assert.same({ 301, "https://new.test/x" }, { answer(shop { ["permanent-redirect"] = "https://new.test/x" }) })
    assert.same({ 308, "https://new.test" }, { answer(shop { ["permanent-redirect"] = "https://new.test", ["permanent-redirect-code"] = "308" }) })
  end)

  it("falls back to 301 for a code out of range", function()
    local route = shop({ ["permanent-redirect"] = "https://new.test", ["permanent-redirect-code"] = "200" }, { allow_findings = true })
    assert.equal("permanent-redirect-code: 200 is less than 300", route.findings[1].text)
    assert.equal(301, (answer(route)))
  end)

  it("sends everyone elsewhere for a while, which wins", function()
    assert.same({ 302, "https://soon.test" }, { answer(shop { ["temporal-redirect"] = "https://soon.test", ["permanent-redirect"] = "https://new.test" }) })
    assert.equal(307, (answer(shop { ["temporal-redirect"] = "https://soon.test", ["temporal-redirect-code"] = "307" })))
    local route = shop({ ["temporal-redirect"] = "/soon" }, { allow_findings = true })
    assert.equal("temporal-redirect: /soon is not a URL", route.findings[1].text)
    assert.equal(200, route:request({}).status)
  end)

  it("makes a path absolute, unless asked not to", function()
    assert.same({ 301, "http://shop.test/new" }, { answer(shop { ["permanent-redirect"] = "/new" }) })
    assert.same({ 301, "https://shop.test/new" }, { answer(shop({ ["permanent-redirect"] = "/new" }, { tls = true }), { scheme = "https" }) })
    assert.same({ 301, "/new" }, { answer(shop { ["permanent-redirect"] = "/new", ["relative-redirects"] = "true" }) })
    assert.same({ 301, "/new" }, { answer(shop({ ["permanent-redirect"] = "/new" }, { settings = { ["relative-redirects"] = "true" } })) })
  end)

  it("takes no variables", function()
    local route = shop({ ["permanent-redirect"] = "https://$host/" }, { allow_findings = true })
    assert.equal("permanent-redirect: https://$host/ has a variable, and none is allowed here", route.findings[1].text)
    assert.equal(200, route:request({}).status)
  end)

  describe("from-to-www", function()
    local function www(host, settings)
      return shop({ ["from-to-www-redirect"] = "true" }, { host = host, settings = settings })
    end

    it("leads the name with www here", function()
      assert.same({ 308, "http://shop.test:80/a/b?c" }, { answer(www "shop.test", { uri = "/a/b?c", host = "www.shop.test" }) })
      assert.same({ 308, "http://shop.test:80" }, { answer(www "shop.test", { uri = "/", host = "www.shop.test" }) })
      assert.equal(200, www("shop.test"):request({}).status)
    end)

    it("leads the name without www here", function()
      assert.same({ 308, "http://www.shop.test:80/x" }, { answer(www "www.shop.test", { uri = "/x", host = "shop.test" }) })
    end)

    it("takes the code from the settings", function()
      assert.equal(301, (answer(www("shop.test", { ["http-redirect-code"] = "301" }), { host = "www.shop.test" })))
    end)

    it("writes the port of HTTPS", function()
      assert.same({ 308, "https://shop.test:443/x" }, { answer(www "shop.test", { uri = "/x", host = "www.shop.test", scheme = "https" }) })
    end)

    it("is not for wildcard hosts", function()
      local route = shop({ ["from-to-www-redirect"] = "true" }, { host = "*.shop.test", allow_findings = true })
      assert.equal("from-to-www-redirect: true has no effect on *.shop.test", route.findings[1].text)
    end)
  end)
end)
