local testing = require "moongate.testing"

local function shop(more)
  local spec = { policy = "ssl_redirect.lua", host = "shop.test" }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function location(route, uri, request)
  request = request or {}
  request.uri = uri
  local result = route:request(request)
  return result.response.headers.location, result.status
end

describe("ssl-redirect", function()
  it("redirects a host with a certificate, with 308 and without a slash at the end", function()
    local route = shop { tls = true }
    local where, status = location(route, "/a/b?x=1")
    assert.equal("https://shop.test/a/b?x=1", where)
    assert.equal(308, status)
    assert.equal("https://shop.test", (location(route, "/")))
    assert.equal("https://shop.test/a", (location(route, "/a/")))
    assert.equal("https://shop.test/a", (location(route, "/a", { host = "shop.test:8080" })))
  end)

  it("leaves HTTPS alone", function()
    assert.equal(200, shop({ tls = true }):request({ scheme = "https" }).status)
  end)

  it("leaves a host without a certificate alone, unless forced", function()
    assert.equal(200, shop():request({}).status)
    assert.equal("https://shop.test/x", (location(shop { annotations = { ["force-ssl-redirect"] = "true" } }, "/x")))
    assert.equal("https://shop.test/x", (location(shop { settings = { ["force-ssl-redirect"] = "true" } }, "/x")))
  end)

  it("can be turned off, for one Ingress and for all", function()
    assert.equal(200, shop({ tls = true, annotations = { ["ssl-redirect"] = "false" } }):request({}).status)
    assert.equal(200, shop({ tls = true, settings = { ["ssl-redirect"] = "false" } }):request({}).status)
    local _, status = location(shop { tls = true, settings = { ["ssl-redirect"] = "false" }, annotations = { ["ssl-redirect"] = "true" } }, "/")
    assert.equal(308, status)
  end)

  it("takes the code from the settings", function()
    local _, status = location(shop { tls = true, settings = { ["http-redirect-code"] = "301" } }, "/")
    assert.equal(301, status)
    local route = shop { tls = true, settings = { ["http-redirect-code"] = "200" }, allow_findings = true }
    assert.equal("http-redirect-code: 200 is none of 301, 302, 307, 308", route.findings[1].text)
    _, status = location(route, "/")
    assert.equal(308, status)
  end)

  it("keeps the slash and writes the port where asked", function()
    assert.equal("https://shop.test/a/", (location(shop { tls = true, annotations = { ["preserve-trailing-slash"] = "true" } }, "/a/")))
    assert.equal("https://shop.test:443/a", (location(shop { tls = true, annotations = { ["use-port-in-redirects"] = "true" } }, "/a")))
  end)

  it("never redirects the paths that settings name", function()
    local route = shop { tls = true }
    assert.equal(200, route:request({ uri = "/.well-known/acme-challenge/token" }).status)
    route = shop { tls = true, settings = { ["no-tls-redirect-locations"] = "/plain, /other" } }
    assert.equal(200, route:request({ uri = "/plain/x" }).status)
    assert.equal(308, route:request({ uri = "/.well-known/acme-challenge/token" }).status)
    assert.equal(200, shop({ tls = true, path = "/.well-known/acme-challenge" }):request({ uri = "/.well-known/acme-challenge/t" }).status)
  end)
end)
