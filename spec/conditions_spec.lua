-- Conditions that attach gives with its hooks and response edits: what they mean, and what is wrong with them.
-- luacheck: no max line length
local testing = require "moongate.testing"

local HOOKS = { "rewrite", "access", "header_filter", "log" }

--- A policy that has the hook `hook` under `condition` (Lua text) and says in the log that it ran.
local function policy(hook, condition, more)
  more = more or {}
  return { trusted = more.trusted, source = ([[
local moongate = require "moongate"
local policy = { name = "trial", summary = "x", applies = "always", guard = %s }
function policy.attach(route) %s return {}, { %s = %s } end
for _, hook in ipairs { %s } do
  policy[hook] = function(exchange) moongate.log.warn("ran " .. hook) %s end
end
return policy]]):format(more.guard or "nil", more.attach or "", hook, condition, '"' .. table.concat(HOOKS, '","') .. '"', more.code or "") }
end

--- Whether the hook ran for a request.
local function ran(hook, condition, request, more)
  local result = testing.route({ policies = { policy(hook, condition, more) } }):request(request or {})
  return table.concat(result.log, "\n"):find("ran " .. hook, 1, true) ~= nil, result
end

--- The finding of a route whose policy gives that condition.
local function complaint(hook, condition, more)
  local ok, text = pcall(testing.route, { policies = { policy(hook, condition, more) } })
  return ok and "" or text:gsub("^.-%.lua:%d+: ", "", 1)
end

describe("a hook with a condition", function()
  it("runs where all parts of it hold", function()
    for _, case in ipairs {
      { 'path = "/a b"', { uri = "/a%20b?x" }, { uri = "/a" } },
      { 'method = "OPTIONS"', { method = "OPTIONS" }, { method = "GET" } },
      { 'request_header = "X-Token"', { headers = { ["x-token"] = "" } }, { headers = { ["x-tokens"] = "1" } } },
      { 'request_header = "origin", matches = moongate.regex("^https://(a|b)[.]test$")', { headers = { Origin = "https://b.test" } }, { headers = { Origin = "https://b.test.evil" } } },
      { 'client_in = moongate.ip_set("10.0.0.0/8, 2001:db8::/32")', { client = "10.1.2.3" }, { client = "11.1.2.3" } },
      { 'client_in = moongate.ip_set("10.0.0.0/8, 2001:db8::/32")', { client = "2001:db8::1" }, { client = "2001:db9::1" } },
      { 'client_not_in = moongate.ip_set("10.0.0.0/8")', { client = "11.1.2.3" }, { client = "10.1.2.3" } },
      { 'method = "PUT", path = "/x"', { method = "PUT", uri = "/x" }, { method = "PUT", uri = "/y" } },
      { 'method = "PUT", path = "/x"', { method = "PUT", uri = "/x" }, { uri = "/x" } },
    } do
      for _, hook in ipairs(HOOKS) do
        assert.is_true(ran(hook, "{" .. case[1] .. "}", case[2]), hook .. " " .. case[1])
        assert.is_false(ran(hook, "{" .. case[1] .. "}", case[3]), hook .. " not " .. case[1])
      end
    end
  end)

  it("sees the answer in the hooks that have one", function()
    for _, hook in ipairs { "header_filter", "log" } do
      assert.is_true(ran(hook, '{ response_header = "set-cookie" }', { answer = { headers = { ["Set-Cookie"] = "a=1" } } }))
      assert.is_false(ran(hook, '{ response_header = "set-cookie" }'))
      assert.is_true(ran(hook, '{ source = "upstream" }'))
      assert.is_false(ran(hook, '{ source = "proxy" }'))
    end
  end)

  it("sees variables, as hooks before it left them", function()
    local setter = { source = [[return { name = "a-setter", summary = "x", applies = "always", attach = function() return {} end,
      rewrite = function(exchange) exchange.variables:set("mark", exchange.request.path == "/set" and "1" or "") end }]] }
    for uri, expected in pairs { ["/set"] = true, ["/other"] = false } do
      local result = testing.route({ policies = { setter, policy("access", '{ variable = "mark" }') } }):request { uri = uri }
      assert.equal(expected, table.concat(result.log, "\n"):find("ran access", 1, true) ~= nil)
    end
    assert.is_false(ran("log", '{ variable = "mark" }'))
  end)

  it("runs where nobody can tell: a regex that reaches its limit", function()
        assert.is_true(ran("access", [[{ request_header = "x-a", matches = moongate.regex("^(a+)+$") }]], { headers = { ["x-a"] = ("a"):rep(40) .. "!" } }))
  end)

  it("is told to run always by true, and never if it is left out", function()
    assert.is_true(ran("rewrite", "true"))
    local _, result = ran("rewrite", "true")
    assert.is_nil(table.concat(result.log, "\n"):find("ran access", 1, true))
  end)

  it("of a guard says nothing, or allows, where the condition does not hold", function()
    local any = { source = "return { name = 'how', summary = 'x', applies = 'always', attach = function(route) route:set('satisfy', 'any') end }" }
    local denies = { source = [[return { name = "denies", summary = "x", applies = "always", guard = true, attach = function() return {} end,
      access = function(exchange) return exchange:deny(401) end }]] }
    local function status(condition)
      local guard = policy("access", condition, { guard = "true", code = "return exchange:deny(403)" })
      return testing.route({ policies = { any, denies, guard } }):request({ client = "10.0.0.1" }).status
    end
    assert.equal(401, status '{ client_not_in = moongate.ip_set("10.0.0.0/8") }')
    assert.equal(200, status '{ client_not_in = moongate.ip_set("10.0.0.0/8"), otherwise = "allow" }')
    assert.equal(403, status '{ client_not_in = moongate.ip_set("11.0.0.0/8"), otherwise = "allow" }')
  end)

  it("of a host belongs to server_rewrite", function()
    local route = testing.route { policies = { { source = [[
      local policy = { name = "start", summary = "x", applies = "always" }
      function policy.attach_host() return {}, { server_rewrite = { path = "/" } } end
      function policy.server_rewrite(exchange) return exchange:redirect(302, "/start") end
      return policy]] } } }
    assert.equal(302, route:request({ uri = "/" }).status)
    assert.equal(200, route:request({ uri = "/other" }).status)
  end)

  it("that is none is told, and the policy has no effect", function()
    for _, case in ipairs {
      { "access", "7", "the condition that attach gave for access is a number" },
      { "access", "{}", "the condition that attach gave for access asks for nothing" },
      { "access", '{ paths = "/" }', "the condition that attach gave for access has no part 'paths'" },
      { "access", '{ "path" }', "the condition that attach gave for access has no part '1'" },
      { "access", "{ path = 7 }", "the condition that attach gave for access path expects a path" },
      { "access", '{ request_header = "a b" }', "the condition that attach gave for access request_header expects a field's name" },
      { "access", '{ matches = moongate.regex("a") }', "matches says nothing without request_header" },
      { "access", '{ request_header = "a", matches = "a" }', "matches expects what moongate.regex() gave" },
      { "access", '{ client_in = "10.0.0.0/8" }', "client_in expects what moongate.ip_set() gave" },
      { "access", '{ client_in = moongate.regex("a") }', "client_in expects what moongate.ip_set() gave" },
      { "access", '{ response_header = "a" }', "response_header means nothing for access" },
      { "header_filter", '{ source = "client" }', "source expects upstream, policy, proxy or replacement" },
      { "access", '{ path = "/", otherwise = "allow" }', "otherwise is for guards" },
      { "balancer", "true", "attach chose a hook that the policy does not have there: balancer" },
    } do
      local text = complaint(case[1], case[2])
      assert.truthy(text:find(case[3], 1, true), case[2] .. ": " .. text)
    end
    assert.matches("otherwise expects", complaint("access", '{ path = "/", otherwise = "deny" }', { guard = "true" }))
    assert.matches("otherwise means nothing for rewrite", complaint("rewrite", '{ path = "/", otherwise = "allow" }', { guard = "true" }))
  end)
end)

describe("a response edit with a condition", function()
  local function field(condition, request)
    local code = ("route:set_response_header('X-Edit', 'on $http_origin', %s)"):format(condition)
    return testing.route({ policies = { policy("log", "true", { attach = code }) } }):request(request or {}).response.headers["x-edit"]
  end

  it("is made where it holds", function()
    local origin = '{ request_header = "Origin", matches = moongate.regex("^a$") }'
    assert.equal("on a", field(origin, { headers = { Origin = "a" } }))
    assert.is_nil(field(origin, { headers = { Origin = "b" } }))
    assert.is_nil(field(origin))
    assert.equal("on ", (field('{ source = "upstream" }') .. " "):sub(1, 3))
    assert.is_nil(field('{ request_header = "x-a", matches = moongate.regex("^(a+)+$") }', { headers = { ["x-a"] = ("a"):rep(40) .. "!" } }))
  end)

  it("is refused with what is wrong", function()
    local function told(condition)
      return complaint("log", "true", { attach = ("route:set_response_header('X-Edit', 'on', %s)"):format(condition) })
    end
    assert.matches("route:set_response_header: the condition of X%-Edit asks for nothing", told "{}")
    assert.matches("otherwise means nothing for a field", told '{ path = "/", otherwise = "allow" }')
    assert.matches("'nope' is none of always, success, https, or a condition", told '"nope"')
  end)
end)
