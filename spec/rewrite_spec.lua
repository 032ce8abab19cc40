local testing = require "moongate.testing"

local function shop(more)
  local spec = { policy = "rewrite.lua", host = "shop.test" }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function sent(route, uri)
  local result = route:request { uri = uri }
  assert.equal(200, result.status)
  return result.sent.uri, result.sent.headers
end

describe("rewrite", function()
  it("puts the groups of the rule's path into the target, and keeps the query", function()
    local route = shop {
      path = "/something(/|$)(.*)", path_type = "ImplementationSpecific", annotations = { ["rewrite-target"] = "/$2", ["use-regex"] = "true" },
    }
    assert.equal("/new", (sent(route, "/something/new")))
    assert.equal("/new?a=b", (sent(route, "/something/new?a=b")))
    assert.equal("/", (sent(route, "/something")))
    assert.equal("/new", (sent(route, "/SomeThing/new")))
  end)

  it("replaces the whole path where the target has no groups", function()
    local route = shop { path = "/old", annotations = { ["rewrite-target"] = "/new" } }
    assert.equal("/new?x=1", (sent(route, "/old/below?x=1")))
  end)

  it("escapes what the groups hold", function()
    local route = shop { path = "/a/(.*)", annotations = { ["rewrite-target"] = "/b/$1" } }
    assert.equal("/b/x%20y", (sent(route, "/a/x%20y")))
  end)

  it("does nothing where the target is the path", function()
    local route = shop { path = "/app", annotations = { ["rewrite-target"] = "/app" } }
    assert.is_nil(route.host_set.regex)
    assert.equal("/app/x", (sent(route, "/app/x")))
  end)

  it("makes the host's paths regexes", function()
    assert.is_true(shop({ annotations = { ["use-regex"] = "true" } }).host_set.regex)
    assert.is_true(shop({ path = "/a", annotations = { ["rewrite-target"] = "/b" } }).host_set.regex)
    assert.is_nil(shop({ annotations = { ["use-regex"] = "false" } }).host_set.regex)
    local sources = {
      { namespace = "default", name = "one", paths = { "/" }, annotations = {} },
      { namespace = "default", name = "two", paths = { "/a", "/b" }, annotations = { ["rewrite-target"] = "/a" } },
    }
    assert.is_true(shop({ sources = sources }).host_set.regex)
  end)

  it("sends a request for / to the start page, and no other", function()
    local route = shop { path = "/app", annotations = { ["app-root"] = "/app/start" } }
    local result = route:request { uri = "/", host = "shop.test:8080" }
    assert.equal(302, result.status)
    assert.equal("http://shop.test:8080/app/start", result.response.headers.location)
    assert.equal("/app", (sent(route, "/app")))
  end)

  it("adds X-Forwarded-Prefix to rewritten requests only", function()
    local _, headers = sent(shop { path = "/api/(v%d)?(.*)", annotations = { ["rewrite-target"] = "/$2", ["x-forwarded-prefix"] = "/api" } }, "/api/x")
    assert.equal("/api", headers["x-forwarded-prefix"])
    _, headers = sent(shop { path = "/(a|b)/(.*)", annotations = { ["rewrite-target"] = "/$2", ["x-forwarded-prefix"] = "/$1" } }, "/b/x")
    assert.equal("/b", headers["x-forwarded-prefix"])
    _, headers = sent(shop { path = "/(.*)", annotations = { ["rewrite-target"] = "/$1", ["x-forwarded-prefix"] = "/$1" } }, "/a%0DX:%20b%7F")
    assert.equal("/a%0DX: b%7F", headers["x-forwarded-prefix"])
    local route = shop { annotations = { ["x-forwarded-prefix"] = "/api" }, allow_findings = true }
    assert.equal("x-forwarded-prefix: /api has no effect without rewrite-target", route.findings[1].text)
    _, headers = sent(route, "/")
    assert.is_nil(headers["x-forwarded-prefix"])
    _, headers = sent(shop { path = "/a", annotations = { ["rewrite-target"] = "/b", ["x-forwarded-prefix"] = "" } }, "/a")
    assert.is_nil(headers["x-forwarded-prefix"])
  end)

  it("reports a target that is more than a path", function()
    local function complaint(annotations) return shop({ path = "/a", annotations = annotations, allow_findings = true }).findings[1].text end
    assert.equal("rewrite-target: /$host has more than a path with $1 to $9", complaint { ["rewrite-target"] = "/$host" })
    assert.equal("rewrite-target: http://x/ has more than a path with $1 to $9", complaint { ["rewrite-target"] = "http://x/" })
    assert.equal("rewrite-target: /a;b has a form that is not allowed here", complaint { ["rewrite-target"] = "/a;b" })
    assert.equal("app-root: http://x/ is not a path from the root", complaint { ["app-root"] = "http://x/" })
  end)
end)
