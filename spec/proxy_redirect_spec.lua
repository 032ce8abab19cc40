local testing = require "moongate.testing"

local function headers(from, to, given)
  local route = testing.route {
    policy = "proxy_redirect.lua", host = "shop.test", annotations = { ["proxy-redirect-from"] = from, ["proxy-redirect-to"] = to },
    answer = { status = 302, headers = given },
  }
  return route:request({}).response.headers
end

describe("proxy-redirect", function()
  it("changes the beginning of Location and Refresh", function()
    local given = { Location = "http://inner/x", Refresh = "5; url=http://inner/y" }
    local found = headers("http://inner/", "https://shop.test/", given)
    assert.equal("https://shop.test/x", found.location)
    assert.equal("5; url=https://shop.test/y", found.refresh)
    assert.equal("http://other/", headers("http://inner/", "https://shop.test/", { Location = "http://other/" }).location)
  end)

  it("may write variables", function()
    assert.equal("https://shop.test/x", headers("http://inner/", "https://$host/", { Location = "http://inner/x" }).location)
  end)

  it("is off where it says so, or where one half is missing", function()
    local given = { Location = "http://inner/x" }
    assert.equal("http://inner/x", headers("off", "https://shop.test/", given).location)
    assert.equal("http://inner/x", headers("default", "https://shop.test/", given).location)
    assert.equal("http://inner/x", headers("http://inner/", nil, given).location)
  end)
end)
