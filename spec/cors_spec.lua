-- luacheck: no max line length
local testing = require "moongate.testing"

local function shop(annotations, more)
  annotations["enable-cors"] = annotations["enable-cors"] or "true"
  local spec = { policy = "cors.lua", annotations = annotations }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function ask(route, origin, method)
  local result = route:request { method = method or "GET", headers = { Origin = origin } }
  return result.response.headers, result
end

--- What an answer says to an origin: the echoed origin, or nil.
local function allowed(route, origin)
  return (ask(route, origin)["access-control-allow-origin"])
end

describe("cors", function()
  it("lets everybody in unless it is told otherwise", function()
    for _, value in ipairs { "", "*", "https://a.test, *" } do
      local headers, result = ask(shop { ["cors-allow-origin"] = value }, nil)
      assert.equal("hello", result.response.body)
      assert.equal("*", headers["access-control-allow-origin"])
      assert.equal("true", headers["access-control-allow-credentials"])
      assert.equal("GET, PUT, POST, DELETE, PATCH, OPTIONS", headers["access-control-allow-methods"])
      assert.equal("DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
        headers["access-control-allow-headers"])
      assert.equal("1728000", headers["access-control-max-age"])
      assert.is_nil(headers["access-control-expose-headers"])
    end
    assert.equal("*", allowed(shop {}, "https://any.test"))
  end)

  it("is off unless it is on", function()
    assert.is_nil(allowed(shop { ["enable-cors"] = "false" }, "https://any.test"))
    assert.equal("OPTIONS", shop({ ["enable-cors"] = "false" }):request({ method = "OPTIONS" }).sent.method)
  end)

  it("answers preflights itself", function()
    for _, origins in ipairs { "*", "https://a.test" } do
      local headers, result = ask(shop { ["cors-allow-origin"] = origins }, "https://a.test", "OPTIONS")
      assert.is_nil(result.sent)
      assert.equal(204, result.status)
      assert.equal("text/plain charset=UTF-8", headers["content-type"])
      assert.equal(origins, headers["access-control-allow-origin"])
      assert.equal("1728000", headers["access-control-max-age"])
      assert.equal("true", headers["access-control-allow-credentials"])
    end
  end)

  it("passes an OPTIONS of another origin on", function()
    local headers, result = ask(shop { ["cors-allow-origin"] = "https://a.test" }, "https://b.test", "OPTIONS")
    assert.equal("OPTIONS", result.sent.method)
    assert.is_nil(headers["access-control-allow-origin"])
    assert.is_nil(headers["access-control-allow-methods"])
  end)

  it("compares whole origins, whatever their case, and echoes them", function()
    local route = shop { ["cors-allow-origin"] = "https://A.test:8443, http://b.test ,null, tauri://localhost" }
    assert.equal("https://a.TEST:8443", allowed(route, "https://a.TEST:8443"))
    assert.equal("http://b.test", allowed(route, "http://b.test"))
    assert.equal("null", allowed(route, "null"))
    assert.equal("tauri://localhost", allowed(route, "tauri://localhost"))
    for _, origin in ipairs { "https://a.test", "https://a.test:844", "https://a.test:84431", "http://a.test:8443", "https://b.test", "http://b.test.evil",
      "http://xb.test", "http://bxtest", "b.test", "", "nul" } do
      assert.is_nil(allowed(route, origin), origin)
    end
    assert.is_nil(allowed(route, nil))
  end)

  it("takes a wildcard for one label", function()
    local route = shop { ["cors-allow-origin"] = "https://*.a.test, http://*.b.test:8080" }
    assert.equal("https://x.a.test", allowed(route, "https://x.a.test"))
    assert.equal("https://X-1.A.test", allowed(route, "https://X-1.A.test"))
    assert.equal("http://x.b.test:8080", allowed(route, "http://x.b.test:8080"))
    for _, origin in ipairs { "https://a.test", "https://.a.test", "https://x.y.a.test", "http://x.a.test", "https://x.a.test:443", "https://xa.test", "http://x.b.test",
      "https://x@evil.test/.a.test", "https://evil.test/.a.test", "https://evil.test#.a.test" } do
      assert.is_nil(allowed(route, origin), origin)
    end
  end)

  it("leaves wrong origins out, and says so", function()
    for _, wrong in ipairs { "a.test", "https://", "https://a.test/path", "HTTPS://a.test", "https://a.*.test", "https://*a.test", "https://a.test:", "https://*", "**" } do
      assert.has_error(function() shop { ["cors-allow-origin"] = wrong } end, "cors-allow-origin: " .. wrong .. " is not an origin; it is left out")
      local route = shop({ ["cors-allow-origin"] = wrong .. ", https://b.test" }, { allow_findings = true })
      assert.equal("https://b.test", allowed(route, "https://b.test"))
      assert.is_nil(allowed(route, "https://a.test"))
      assert.is_nil(allowed(route, wrong))
    end
  end)

  it("says what it is told to", function()
    local headers = ask(shop { ["cors-allow-methods"] = "GET, POST", ["cors-allow-headers"] = "X-A, X_B", ["cors-expose-headers"] = "*, X-C", ["cors-max-age"] = "-1",
      ["cors-allow-credentials"] = "false", ["cors-allow-origin"] = "https://a.test" }, "https://a.test")
    assert.equal("GET, POST", headers["access-control-allow-methods"])
    assert.equal("X-A, X_B", headers["access-control-allow-headers"])
    assert.equal("*, X-C", headers["access-control-expose-headers"])
    assert.equal("-1", headers["access-control-max-age"])
    assert.is_nil(headers["access-control-allow-credentials"])
  end)

  it("says the default where it cannot read", function()
    local wrong = shop({ ["cors-allow-methods"] = "GET;", ["cors-allow-headers"] = "a b$c", ["cors-max-age"] = "soon" }, { allow_findings = true })
    assert.equal(3, #wrong.findings)
    local headers = ask(wrong)
    assert.equal("GET, PUT, POST, DELETE, PATCH, OPTIONS", headers["access-control-allow-methods"])
    assert.equal("1728000", headers["access-control-max-age"])
    assert.matches("^DNT,", headers["access-control-allow-headers"])
  end)

  it("puts its fields in the place of the application's, and on errors of our own", function()
    for _, origins in ipairs { "*", "https://a.test" } do
      local route = shop({ ["cors-allow-origin"] = origins }, { answer = { status = 500, headers = { ["Access-Control-Allow-Origin"] = "https://other.test" } } })
      local _, result = ask(route, "https://a.test")
      assert.same({ 500, { origins } }, { result.status, result.response.all["access-control-allow-origin"] })
      _, result = ask(shop({ ["cors-allow-origin"] = origins }, { answers = { ["10.0.0.1:80"] = "refuse" } }), "https://a.test")
      assert.same({ 502, { origins } }, { result.status, result.response.all["access-control-allow-origin"] })
    end
  end)

  it("comes before redirects and guards", function()
    local route = testing.route { policies = { "cors.lua", "redirect.lua", "access_lists.lua" }, annotations = { ["enable-cors"] = "true",
      ["permanent-redirect"] = "https://other.test/", ["denylist-source-range"] = "0.0.0.0/0" } }
    assert.equal(204, route:request({ method = "OPTIONS" }).status)
    local answer = route:request {}
    assert.equal(301, answer.status)
    assert.equal("*", answer.response.headers["access-control-allow-origin"])
    route = testing.route { policies = { "cors.lua", "access_lists.lua" }, annotations = { ["enable-cors"] = "true", ["denylist-source-range"] = "0.0.0.0/0" } }
    assert.equal("*", route:request({}).response.headers["access-control-allow-origin"])
  end)
end)
