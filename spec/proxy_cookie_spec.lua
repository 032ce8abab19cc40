local testing = require "moongate.testing"

local function cookies(annotations, given, settings)
  local route = testing.route {
    policy = "proxy_cookie.lua", annotations = annotations, settings = settings, answer = { headers = { ["Set-Cookie"] = given } },
  }
  return route:request({}).response.all["set-cookie"]
end

describe("proxy-cookie", function()
  it("changes the Domain", function()
    local annotations = { ["proxy-cookie-domain"] = "inner.test shop.test" }
    assert.same({ "a=1; Path=/; Domain=shop.test" }, cookies(annotations, { "a=1; Path=/; Domain=.Inner.test" }))
    assert.same({ "a=inner.test; domain=other.test" }, cookies(annotations, { "a=inner.test; domain=other.test" }))
  end)

  it("changes the beginning of the Path, in each cookie", function()
    local annotations = { ["proxy-cookie-path"] = "/inner/ /" }
    assert.same({ "a=1; path=/x; HttpOnly", "b=2; Path=/other" }, cookies(annotations, { "a=1; path=/inner/x; HttpOnly", "b=2; Path=/other" }))
  end)

  it("is off where it says so", function()
    assert.same({ "a=1; Path=/inner/" }, cookies({ ["proxy-cookie-path"] = "off" }, { "a=1; Path=/inner/" }, { ["proxy-cookie-path"] = "/inner/ /" }))
    assert.same({ "a=1; Path=/" }, cookies({}, { "a=1; Path=/inner/" }, { ["proxy-cookie-path"] = "/inner/ /" }))
  end)

  it("reports what it cannot do", function()
    assert.has_error(function() cookies({ ["proxy-cookie-path"] = "~^/a /" }, {}) end,
      "proxy-cookie-path: ~^/a / has a pattern or a variable, which is not yet supported")
    assert.has_error(function() cookies({ ["proxy-cookie-domain"] = "one" }, {}) end, "proxy-cookie-domain: one is neither off nor two words")
  end)
end)
