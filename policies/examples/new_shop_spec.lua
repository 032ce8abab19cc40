-- busted, no cluster, the real C request underneath
local testing = require "moongate.testing"

describe("new-shop", function()
  local function shop(percent)
    return testing.route {
      policy = "new_shop.lua", services = { ["new:80"] = { "10.0.0.9:80" } },
      annotations = { ["new-shop-percent"] = percent, ["new-shop-service"] = "new:80" },
    }
  end

  local function visit(route, cookie)
    return route:request { method = "GET", host = "shop.test", uri = "/", headers = { Cookie = cookie } }
  end

  it("keeps a visitor on the side that the cookie names", function()
    local result = visit(shop("100"), "shop=old")
    assert.equal("default", result.upstream)
    assert.is_nil(result.response.headers["set-cookie"])
    result = visit(shop("0"), "shop=new")
    assert.equal("new:80", result.upstream)
    assert.is_nil(result.response.headers["set-cookie"])
  end)

  it("gives a new visitor a side and a cookie", function()
    local result = visit(shop("100"))
    assert.equal("new:80", result.upstream)
    assert.equal("shop=new; Path=/; HttpOnly", result.response.headers["set-cookie"])
    result = visit(shop("0"))
    assert.equal("default", result.upstream)
    assert.equal("shop=old; Path=/; HttpOnly", result.response.headers["set-cookie"])
  end)

  it("refuses a share over 100", function()
    assert.has_error(function() shop("101") end, "new-shop-percent: 101 is more than 100")
  end)
end)
