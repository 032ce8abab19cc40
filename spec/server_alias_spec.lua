local testing = require "moongate.testing"

local function shop(names, more)
  local spec = { policy = "server_alias.lua", host = "shop.test", annotations = { ["server-alias"] = names } }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

describe("server-alias", function()
  it("serves further names like the host's own", function()
    local route = shop "shop.example, *.stores.example"
    for _, host in ipairs { "shop.test", "shop.example", "SHOP.example", "a.stores.example" } do
      assert.is_table(route:request({ host = host }).sent)
    end
    assert.is_nil(route:request({ host = "other.example" }).sent)
    assert.is_nil(route:request({ host = "a.b.stores.example" }).sent)
  end)

  it("takes them from the oldest Ingress that has some", function()
    local route = shop(nil, { sources = {
      { namespace = "default", name = "one", paths = {}, annotations = {} },
      { namespace = "default", name = "two", paths = {}, annotations = { ["server-alias"] = "first.example" } },
      { namespace = "default", name = "three", paths = {}, annotations = { ["server-alias"] = "second.example" } },
    } })
    assert.is_table(route:request({ host = "first.example" }).sent)
    assert.is_nil(route:request({ host = "second.example" }).sent)
  end)

  it("leaves out what is no name, and says so", function()
    local route = shop("good.example, ~^bad, a.*.b", { allow_findings = true })
    assert.equal("server-alias: ~^bad has a form that is not allowed here", route.findings[1].text)
    assert.equal("server-alias: a.*.b has a * that is not its first label", route.findings[2].text)
    assert.is_table(route:request({ host = "good.example" }).sent)
  end)
end)
