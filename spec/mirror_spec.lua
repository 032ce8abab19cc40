-- Copies of requests: what they are made of, and when there is none.
local testing = require "moongate.testing"

--- A route with a mirror, and the copies that it sent.
local function mirror(annotations, more)
  local copies = {}
  local spec = { policies = { "mirror.lua" }, annotations = annotations, http = function(request)
    copies[#copies + 1] = request
    return nil, "nobody looks at it"
  end }
  for key, value in pairs(more or {}) do spec[key] = value end
  return testing.route(spec), copies
end

describe("mirror-target", function()
  it("gets a copy, and the request goes on", function()
    local shop, copies = mirror { ["mirror-target"] = "http://mirror.example:8080/copy$request_uri" }
    local result = shop:request { uri = "/a%20b?c", headers = { Cookie = "a=b", ["X-A"] = "b" } }
    assert.equal(200, result.status)
    assert.equal(1, #copies)
    assert.same({ "GET", "http://mirror.example:8080/copy/a%20b?c", "a=b", "b", nil, nil, "moongate" }, {
      copies[1].method, copies[1].url, copies[1].headers.cookie,
      copies[1].headers["x-a"], copies[1].headers.host, copies[1].body, copies[1].headers["cdn-loop"] })
  end)

  it("has the Host of mirror-host", function()
    local shop, copies = mirror { ["mirror-target"] = "https://mirror.example", ["mirror-host"] = "shop.example" }
    shop:request {}
    assert.equal("shop.example", copies[1].headers.host)
  end)

  it("gets bodies, unless they are large or not wanted", function()
    local shop, copies = mirror { ["mirror-target"] = "http://mirror.example/" }
    assert.equal("text", shop:request({ method = "POST", body = { "te", "xt" } }).sent.body)
    assert.same({ "POST", "text" }, { copies[1].method, copies[1].body })
    local large = ("x"):rep(65537)
    assert.equal(large, shop:request({ method = "POST", body = large }).sent.body)
    assert.equal(1, #copies)
    shop, copies = mirror { ["mirror-target"] = "http://mirror.example/", ["mirror-request-body"] = "off" }
    assert.equal("text", shop:request({ method = "POST", body = "text" }).sent.body)
    assert.is_nil(copies[1].body)
  end)

  it("gets nothing of who is not let in", function()
    local shop, copies = mirror({ ["mirror-target"] = "http://mirror.example/", ["denylist-source-range"] = "127.0.0.1" },
      { policies = { "access_lists.lua", "mirror.lua" } })
    assert.equal(403, shop:request({}).status)
    assert.equal(0, #copies)
  end)

  it("that is no URL once its variables are filled in is nobody's", function()
    local shop, copies = mirror { ["mirror-target"] = "http://mirror.example$http_x_path" }
    assert.equal(200, shop:request({ headers = { ["X-Path"] = ".evil.example:99999/" } }).status)
    assert.equal(200, shop:request({ headers = { ["X-Path"] = "@other.example/" } }).status)
    assert.equal(0, #copies)
  end)

  it("is a URL", function()
    for _, target in ipairs { "mirror.example", "ftp://mirror.example", "http://$host/", "http://a b", "http:///x" } do
      assert.has_error(function() mirror { ["mirror-target"] = target } end)
    end
  end)
end)

describe("exchange:mirror", function()
  local function policy(code)
    local copies = {}
    return testing.route { source = [[local policy = { name = "probe", summary = "x", applies = "always" }
      function policy.attach(route) return { upstream = route:upstream("other:80") } end
      function policy.access(exchange, config) ]] .. code .. [[ end
      return policy]], services = { ["other:80"] = { "10.0.0.9:80" } }, http = function(request)
        copies[#copies + 1] = request
        return { status = 200 }
      end }, copies
  end

  it("takes an upstream and a path", function()
    local route, copies = policy [[assert(exchange:mirror { upstream = config.upstream, path = "/p", body = "b" })]]
    assert.equal(200, route:request({}).status)
    assert.same({ "other:80", "/p", "b" }, { copies[1].upstream, copies[1].path, copies[1].body })
  end)

  for _, case in ipairs {
    { "exchange:mirror()", "wants a table" },
    { "exchange:mirror {}", "wants either a url or an upstream" },
    { "exchange:mirror { url = 'http://a/', upstream = config.upstream }", "wants either a url or an upstream" },
    { "exchange:mirror { url = 'http://a/', body = 1 }", "body is a number, not a string" },
    { "exchange:mirror { url = 1 }", "url is a number, not a string" },
    { "exchange:mirror { upstream = 'x' }", "upstream wants what route:upstream%(%) gave" },
    { "exchange:mirror { upstream = config.upstream, path = 'x' }", "exchange:mirror: the path does not begin with /" },
    { "exchange:mirror { url = 'http://a/', host = 'a\\nb' }", "the host is empty or has CR, LF or NUL" },
    { "exchange:mirror { url = 'http://a/', body = ('x'):rep(65537) }", "the body is longer than 65536 bytes" },
  } do
    it("says what is wrong with " .. case[1], function()
      local route, copies = policy(case[1])
      local result = route:request {}
      assert.same({ 500, 0 }, { result.status, #copies })
      assert.matches(case[2], table.concat(result.log, "\n"))
    end)
  end
end)
