-- Error pages, and what they are made of: an answer that another upstream's takes the place of, an upstream that stands in for another.
local testing = require "moongate.testing"

local ERRORS = "10.0.0.9:80"

local function route(annotations, more)
  local spec = { policies = { "custom_http_errors.lua" }, annotations = annotations, services = { errors = { ERRORS } }, namespace = "shop", name = "web" }
  for key, value in pairs(more or {}) do spec[key] = value end
  return testing.route(spec)
end

--- An application that answers `status`, and error pages that answer as they like.
local function answers(status, page)
  return { ["10.0.0.1:80"] = { status = status, body = "of the application", headers = { ["X-App"] = "yes" } },
    [ERRORS] = page or { status = 418, body = "a page", headers = { ["X-Page"] = "yes" } } }
end

describe("custom-http-errors", function()
  it("replaces what the application answered, with the page's own status", function()
    local shop = route({ ["custom-http-errors"] = "404,503", ["default-backend"] = "errors" })
    local result = shop:request { uri = "/a%20b?c=d", headers = { Accept = "text/html", ["X-Code"] = "forged", Range = "bytes=0-1" }, answers = answers(404) }
    assert.equal(418, result.status)
    assert.equal("a page", result.response.body)
    assert.equal("yes", result.response.headers["x-page"])
    assert.is_nil(result.response.headers["x-app"])
    assert.equal("errors", result.upstream)
    assert.equal("GET", result.sent.method)
    assert.equal("/", result.sent.uri)
    local sent = result.sent.headers
    assert.same({ "404", "text/html", "/a%20b?c=d", "shop", "web", "default", "80", nil },
      { sent["x-code"], sent["x-format"], sent["x-original-uri"], sent["x-namespace"], sent["x-ingress-name"], sent["x-service-name"],
        sent["x-service-port"], sent.range })
    assert.equal(32, #sent["x-request-id"])
  end)

  it("leaves other answers, and the pages' own errors", function()
    local shop = route({ ["custom-http-errors"] = "404", ["default-backend"] = "errors" })
    assert.equal("of the application", shop:request({ answers = answers(200) }).response.body)
    assert.equal("of the application", shop:request({ answers = answers(500) }).response.body)
    local result = shop:request { answers = answers(404, { status = 404, body = "no page either" }) }
    assert.equal("no page either", result.response.body)
    assert.equal(2, result.attempts)
  end)

  it("gives the old status and a plain page where there is nothing else", function()
    local shop = route({ ["custom-http-errors"] = "404", ["default-backend"] = "errors" }, { services = { errors = {} } })
    local result = shop:request { answers = answers(404) }
    assert.equal(404, result.status)
    assert.matches("<h1>404 Not Found</h1>", result.response.body, 1, true)
    shop = route({ ["custom-http-errors"] = "404" }) -- and no default backend
    assert.matches("<h1>404 Not Found</h1>", shop:request({ answers = answers(404) }).response.body, 1, true)
  end)

  it("stays a HEAD where it was one, and is a GET without a body else", function()
    local shop = route({ ["custom-http-errors"] = "404", ["default-backend"] = "errors" })
    local result = shop:request { method = "HEAD", answers = { ["10.0.0.1:80"] = "HTTP/1.1 404 Gone\r\nContent-Length: 5\r\n\r\n",
      [ERRORS] = "HTTP/1.1 404 Gone\r\nContent-Length: 6\r\n\r\n" } }
    assert.equal("HEAD", result.sent.method)
    assert.equal("6", result.response.headers["content-length"])
    result = shop:request { method = "POST", body = "text", headers = { ["Content-Type"] = "text/plain" }, answers = answers(404) }
    assert.same({ "GET", "", nil, nil },
      { result.sent.method, result.sent.body, result.sent.headers["content-length"], result.sent.headers["content-type"] })
  end)

  it("replaces errors of Moongate's own, denials too, and keeps the question for a password", function()
    local shop = route({ ["custom-http-errors"] = "401,503", ["default-backend"] = "errors" }, { services = { errors = { ERRORS }, default = {} } })
    local guard = { source = [[local policy = { name = "guard", summary = "x", applies = "always" }
      function policy.attach() return {} end
      function policy.access(exchange)
        if exchange.request.path == "/final" then return exchange:respond { status = 401, body = "mine" } end
        return exchange:deny(401, "not you")
      end
      function policy.header_filter(exchange) exchange.response.headers:set("WWW-Authenticate", "Basic realm=x") end
      return policy]] }
    assert.equal("a page", shop:request({ answers = answers(200, { status = 503, body = "a page" }) }).response.body)
    shop = route({ ["custom-http-errors"] = "401", ["default-backend"] = "errors" }, { policies = { guard, "custom_http_errors.lua" } })
    local result = shop:request { answers = answers(200, { status = 401, body = "who?" }) }
    assert.same({ "who?", "Basic realm=x" }, { result.response.body, result.response.headers["www-authenticate"] })
    assert.equal("mine", shop:request({ uri = "/final", answers = answers(200) }).response.body)
  end)

  it("with disable-proxy-intercept-errors leaves the application's answers only", function()
    local off = { ["custom-http-errors"] = "404,503", ["default-backend"] = "errors", ["disable-proxy-intercept-errors"] = "true" }
    assert.equal("of the application", route(off):request({ answers = answers(404) }).response.body)
    off["custom-http-errors"] = "503"
    off["default-backend"] = nil
    local shop = route(off, { services = { default = {} } })
    assert.matches("<h1>503", shop:request({}).response.body, 1, true)
    off["disable-proxy-intercept-errors"] = nil
    off["custom-http-errors"] = "404"
    local settings = { ["disable-proxy-intercept-errors"] = "true" }
    assert.equal("of the application", route(off, { settings = settings }):request({ answers = answers(404) }).response.body)
  end)

  it("reads the ConfigMap, whose list an annotation replaces", function()
    local settings = { ["custom-http-errors"] = "404, 500,99,abc" }
    local shop = route({}, { settings = settings, allow_findings = true })
    assert.matches("<h1>500", shop:request({ answers = answers(500) }).response.body, 1, true)
    assert.equal(2, #shop.findings)
    shop = route({ ["default-backend"] = "errors", ["custom-http-errors"] = "403" }, { settings = settings, allow_findings = true })
    assert.equal("of the application", shop:request({ answers = answers(500) }).response.body)
    assert.equal("a page", shop:request({ answers = answers(403) }).response.body)
    assert.has_error(function() route({ ["custom-http-errors"] = "302" }) end, "custom-http-errors: 302 has the item 302, which is less than 400")
  end)

  it("sends what the ConfigMap lists to the default backend of all, never to the Ingress's own", function()
    local shop = route({ ["default-backend"] = "errors" }, { settings = { ["custom-http-errors"] = "500" } })
    local result = shop:request { answers = answers(500) }
    assert.matches("<h1>500", result.response.body, 1, true) -- there is none here
    assert.is_nil(result.sent.headers["x-code"])
  end)

  it("leaves an own default backend that has no endpoint out, as if it were not named", function()
    local shop = route({ ["custom-http-errors"] = "404", ["default-backend"] = "errors" }, { services = { errors = {} } })
    assert.matches("there is no default backend", table.concat(shop:request({ answers = answers(404) }).log), 1, true)
  end)
end)

describe("default-backend", function()
  it("stands in for a Service without endpoints, with the request as it came", function()
    local shop = route({ ["default-backend"] = "errors" }, { services = { errors = { ERRORS }, default = {} } })
    local result = shop:request { method = "POST", uri = "/buy?x=1", body = "text", answers = answers(200, { status = 200, body = "stands in" }) }
    assert.equal("stands in", result.response.body)
    assert.same({ "POST", "/buy?x=1", "text", "503", "shop", "web", "default", "80" },
      { result.sent.method, result.sent.uri, result.sent.body, result.sent.headers["x-code"], result.sent.headers["x-namespace"],
        result.sent.headers["x-ingress-name"], result.sent.headers["x-service-name"], result.sent.headers["x-service-port"] })
    shop = route({ ["default-backend"] = "errors" })
    result = shop:request { answers = answers(200) }
    assert.same({ "default", nil }, { result.upstream, result.sent.headers["x-code"] })
  end)

  it("without endpoints of its own is nobody's", function()
    local shop = route({ ["default-backend"] = "errors" }, { services = { errors = {}, default = {} } })
    assert.equal(503, shop:request({}).status)
  end)

  it("gets no session", function()
    local shop = route({ ["default-backend"] = "errors", affinity = "cookie" },
      { services = { errors = { ERRORS }, default = {} }, policies = { "custom_http_errors.lua", "affinity.lua" } })
    assert.is_nil(shop:request({}).response.headers["set-cookie"])
  end)

  it("is the name of a Service", function()
    assert.has_error(function() route({ ["default-backend"] = "a/b" }) end)
  end)
end)

describe("exchange:replace_response", function()
  local function policy(code)
    return testing.route { source = [[local policy = { name = "probe", summary = "x", applies = "always" }
      function policy.attach(route) return { upstream = route:upstream("errors:80") } end
      function policy.header_filter(exchange, config) ]] .. code .. [[ end
      function policy.log(exchange) exchange.response.headers:each() end
      return policy]], services = { ["errors:80"] = { ERRORS } } }
  end

  it("takes method, path and headers", function()
    local result = policy [[if exchange.response.source == "replacement" then return exchange.response.headers:set("X-Seen", exchange.response.status) end
      return exchange:replace_response(config.upstream, { method = "OPTIONS", path = "/p?q", headers = { ["X-A"] = "b" } })]]:request { answers = answers(200) }
    assert.same({ "OPTIONS", "/p?q", "b", "418" },
      { result.sent.method, result.sent.uri, result.sent.headers["x-a"], result.response.headers["x-seen"] })
  end)

  it("asked for by HEAD has no body", function()
    local result = policy [[if exchange.response.source ~= "replacement" then return exchange:replace_response(config.upstream, { method = "HEAD" }) end]]
      :request { answers = answers(200, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n") }
    assert.same({ "HEAD", 200, "0", "" }, { result.sent.method, result.status, result.response.headers["content-length"], result.response.body })
  end)

  it("counts only when it is returned", function()
    local result = policy [[exchange:replace_response(config.upstream)]]:request { answers = answers(200) }
    assert.equal("of the application", result.response.body)
  end)

  it("leaves an application's answers to a route that does not intercept errors", function()
    local function with(intercepts, status)
      local shop = testing.route { source = [[local policy = { name = "probe", summary = "x", applies = "always" }
        function policy.attach(route)
          route:set("intercept_errors", ]] .. tostring(intercepts) .. [[)
          return { upstream = route:upstream("errors:80") }
        end
        function policy.access(exchange)
          if exchange.request.path == "/denied" then return exchange:deny(404) end
        end
        function policy.header_filter(exchange, config)
          if exchange.response.status == 404 and exchange.response.source ~= "replacement" then return exchange:replace_response(config.upstream) end
        end
        return policy]], services = { ["errors:80"] = { ERRORS } } }
      return shop:request({ uri = status, answers = answers(404) }).response.body
    end
    assert.same({ "a page", "a page" }, { with(true, "/"), with(true, "/denied") })
    assert.same({ "of the application", "a page" }, { with(false, "/"), with(false, "/denied") })
  end)

  for _, case in ipairs {
    { "exchange:replace_response('x')", "wants what route:upstream%(%) gave, or nil" },
    { "exchange:replace_response(nil, { path = 'x' })", "the path does not begin with /" },
    { "exchange:replace_response(nil, { path = '/ x' })", "a byte that must be escaped" },
    { "exchange:replace_response(nil, { method = 'A B' })", "not a method" },
    { "exchange:replace_response(nil, { method = 'TRACE' })", "CONNECT and TRACE are not sent" },
    { "exchange:replace_response(nil, { headers = 1 })", "headers wants a table" },
    { "exchange:replace_response(nil, { headers = { a = 'b\\n' } })", "the value has CR, LF or NUL" },
    { "return exchange:replace_response(config.upstream)", "the answer is replaced already" },
  } do
    it("says what is wrong with " .. case[1], function()
      local result = policy(case[1]):request { answers = answers(200) }
      assert.equal(500, result.status)
      assert.matches(case[2], table.concat(result.log, "\n"))
    end)
  end
end)
