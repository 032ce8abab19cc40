-- Hooks that wait, over the real request path.
-- luacheck: no max line length
local testing = require "moongate.testing"

local OWN = { on_error = true, attach = true, more = true, phase = true }

--- A route with one policy; `code` is the body of its access hook, `more` whole functions.
local function route(code, spec)
  spec = spec or {}
  local lines = { "local moongate = require 'moongate'\nlocal policy = { name = 'probe', summary = 'x', applies = 'always', on_error = ", spec.on_error or "nil", " }\n" }
  table.insert(lines, "function policy.attach(route) " .. (spec.attach or "") .. " return {} end\n" .. (spec.more or "") .. "\n")
  table.insert(lines, "function policy." .. (spec.phase or "access") .. "(exchange, config) " .. code .. " end\nreturn policy")
  local given = { source = table.concat(lines) }
  for name, value in pairs(spec) do
    if not OWN[name] then given[name] = value end
  end
  return testing.route(given)
end

local function answered(code, request, spec)
  local result = route(code, spec):request(request or {})
  return result.status, result.response.body, table.concat(result.log, "\n")
end

for _, trusted in ipairs { true, false } do
  describe(trusted and "in a trusted state" or "in a guest state", function()
    local function spec(more)
      more = more or {}
      more.trusted = trusted
      return more
    end

    it("a hook goes on after its wait, with its locals", function()
      for phase in ("rewrite access"):gmatch("%a+") do
        local status, body = answered("local x = exchange.request.path moongate.sleep(0) moongate.sleep(0) return exchange:respond { body = x .. exchange.request.method }",
          { uri = "/a" }, spec { phase = phase })
        assert.equal(200, status)
        assert.equal("/aGET", body)
      end
    end)
    it("server_rewrite waits too", function()
      local status, body = answered("moongate.sleep(0) return exchange:respond { body = 'x' }", {}, spec { phase = "server_rewrite", more = "function policy.attach_host() return {} end" })
      assert.equal(200, status)
      assert.equal("x", body)
    end)
    it("what follows is what would have followed", function()
      local result = route("moongate.sleep(0) exchange.request.headers:set('X-Waited', 'yes')", spec()):request { method = "POST", body = "abc" }
      assert.equal(200, result.status)
      assert.equal("yes", result.sent.headers["x-waited"])
      assert.equal("abc", result.sent.body)
    end)
    it("every phase sees its own hooks wait", function()
      local more = "function policy.rewrite(exchange) moongate.sleep(0) exchange.ctx.trail = 'r' end\n"
        .. "function policy.header_filter(exchange) exchange.response.headers:set('X-Trail', exchange.ctx.trail) end"
      local result = route("exchange.ctx.trail = exchange.ctx.trail .. 'a' moongate.sleep(0) exchange.ctx.trail = exchange.ctx.trail .. 'b'", spec { more = more }):request {}
      assert.equal("rab", result.response.headers["x-trail"])
    end)
    it("an error after a wait names its line", function()
      local status, _, log = answered("moongate.sleep(0)\nlocal nothing\nreturn nothing.field", {}, spec())
      assert.equal(500, status)
      assert.matches('policy=probe phase=access .*policy.lua:7: attempt to index local \'nothing\'', log)
    end)
    it("an error that is no text names its line too", function()
      for _, wait in ipairs { "", "moongate.sleep(0) " } do
        assert.matches("policy.lua:5: error value is a table", select(3, answered(wait .. "error({})", {}, spec())))
        assert.matches("policy.lua:5: error value is a nil", select(3, answered(wait .. "error()", {}, spec())))
        assert.matches("policy.lua:5: mine", select(3, answered(wait .. "error(setmetatable({}, { __tostring = function() return 'mine' end }))", {}, spec())))
        assert.matches("policy.lua:5: error value is a table", select(3, answered(wait .. "error(setmetatable({}, { __tostring = function() return {} end }))", {}, spec())))
        assert.matches("policy.lua:5: error value is a table", select(3, answered(wait .. "error(setmetatable({}, { __tostring = function() error({}) end }))", {}, spec())))
      end
    end)
    it("an error after a wait is passed over where the policy says so", function()
      assert.equal(200, (answered("moongate.sleep(0) error('no')", {}, spec { on_error = "'skip'" })))
    end)
    it("pcall goes around a wait", function()
      local _, body = answered("local ok, why = pcall(function() moongate.sleep(0) error('deep', 0) end) return exchange:respond { body = tostring(ok) .. why }", {}, spec())
      assert.equal("falsedeep", body)
    end)
    it("exchange.route is there in every coroutine", function()
      local _, body = answered("local a = exchange.route.path local b = coroutine.wrap(function() return exchange.route.path end)() return exchange:respond { body = a .. b }", {}, spec())
      assert.equal("//", body)
    end)

    describe("there is no waiting", function()
      local function refused(code, more)
        local status, _, log = answered(code, {}, spec(more))
        assert.equal(500, status)
        return log
      end
      it("in a coroutine of the policy's own", function()
        assert.matches("policy.lua:5: moongate.sleep: waits, and so not in a coroutine of the policy's own", refused("coroutine.wrap(function() moongate.sleep(0) end)()"))
        assert.matches("policy's own", refused("local ok, why = coroutine.resume(coroutine.create(function() moongate.sleep(0) end)) error(why, 0)"))
        assert.matches("exchange.request:body: waits, and so not", refused("coroutine.wrap(function() exchange.request:body() end)()"))
      end)
      it("across a C function", function()
        assert.matches("attempt to yield across C%-call boundary", refused("table.sort({ 1, 2, 3 }, function() moongate.sleep(0) end)"))
        local _, body = answered("pcall(table.sort, { 1, 2, 3 }, function() moongate.sleep(1) end) moongate.sleep(0) return exchange:respond { body = 'on' }", {}, spec())
        assert.equal("on", body)
      end)
      it("by a yield of the policy's own", function()
        assert.matches("policy.lua:5: the hook yields; only moongate's own functions wait", refused("coroutine.yield(1)"))
        assert.matches("policy.lua:5: the hook yields", refused("moongate.sleep(0) coroutine.yield(1)"))
      end)
      it("in hooks that may not", function()
        assert.matches("moongate.sleep: not in header_filter; only in server_rewrite, rewrite, access", refused("moongate.sleep(0)", { phase = "header_filter" }))
        assert.matches("moongate.sleep: not in balancer", refused("moongate.sleep(0)", { phase = "balancer" }))
        local _, _, log = answered("moongate.sleep(0)", {}, spec { phase = "log" })
        assert.matches("moongate.sleep: not in log", log)
        assert.matches("exchange.request:body: not in balancer; only in server_rewrite, rewrite, access", refused("exchange.request:body()", { phase = "balancer" }))
      end)
      it("while a file is loaded, or attached", function()
        local ok, why = pcall(testing.route, { trusted = trusted, source = "require('moongate').sleep(1)" })
        assert.is_false(ok)
        assert.equal("policy.lua:1: moongate.sleep: waits, and so only in hooks: server_rewrite, rewrite, access", why)
      end)
      it("for what is no time", function()
        for _, value in ipairs { "-1", "0/0", "3601", "'1'", "nil", "{}" } do
          assert.matches("moongate.sleep: ", refused("moongate.sleep(" .. value .. ")"))
        end
      end)
    end)

    describe("the hook's own coroutine", function()
      it("is nobody's to resume", function()
        local _, body = answered("local mine = coroutine.running() local inner = coroutine.wrap(function() return coroutine.running() end)() "
          .. "return exchange:respond { body = type(mine) .. type(inner) }", {}, spec())
        assert.equal("nilthread", body)
      end)
      it("is not resumed by another hook while it waits", function()
        local more = "local kept\nfunction policy.log() if kept then coroutine.resume(kept) end end"
        local held = route("kept = coroutine.running() moongate.sleep(1) return exchange:respond { body = 'once' }", spec { more = more })
        for _ = 1, 3 do assert.equal("once", held:request({}).response.body) end
      end)
    end)
    it("an exchange is not kept past its end by a hook that waited", function()
      local code = "local last = kept kept = exchange moongate.sleep(0) "
        .. "if last then local ok, why = pcall(function() return last.request.path end) return exchange:respond { body = tostring(why) } end"
      local held = route(code, spec())
      assert.equal(200, held:request({}).status)
      assert.matches("exchange.request: used too late, what it belongs to is over", held:request({}).response.body)
    end)
    it("thousands of coroutines are the policy's own matter", function()
      local code = "local list = {} for i = 1, 2000 do list[i] = coroutine.wrap(function() coroutine.yield(i) end) list[i]() end moongate.sleep(0) return exchange:respond { body = #list .. '' }"
      assert.equal("2000", select(2, answered(code, {}, spec())))
    end)

    it("all waits together end with 504", function()
      local result = route("while true do pcall(moongate.sleep, 0.01) end", spec { attach = "route:set('hook_timeout', 0.05)" }):request {}
      assert.equal(504, result.status)
      assert.matches("the policy probe waited longer than hook_timeout", table.concat(result.log, "\n"))
      assert.equal(504, route("moongate.sleep(3600)", spec { attach = "route:set('hook_timeout', 0.05)" }):request {}.status)
    end)

    describe("a guard that waits", function()
      local function guard(name, code)
        return { trusted = trusted, source = "local moongate = require 'moongate'\nlocal policy = { name = '" .. name .. "', summary = 'x', guard = true, applies = 'always' }\n"
          .. "function policy.attach(route) route:set('satisfy', SATISFY) route:set('hook_timeout', 0.3) return {} end\nfunction policy.access(exchange) " .. code .. " end return policy" }
      end
      local function decided(satisfy, ...)
        local list = {}
        for i, code in ipairs { ... } do
          list[i] = guard("g" .. i, code)
          list[i].source = list[i].source:gsub("SATISFY", "'" .. satisfy .. "'")
        end
        local result = testing.route { policies = list }:request {}
        return result.status, result
      end
      local allows, denies, waits = "return exchange:allow()", "return exchange:deny(403)", "moongate.sleep(0) "
      it("is heard like any other", function()
        assert.equal(403, (decided("all", waits .. allows, waits .. denies)))
        assert.equal(200, (decided("all", waits .. allows, waits)))
        assert.equal(200, (decided("any", denies, waits .. allows, denies)))
        assert.equal(200, (decided("any", waits .. denies, waits .. allows)))
        assert.equal(401, (decided("any", waits .. denies, waits .. "return exchange:deny(401)")))
        assert.equal(200, (decided("any", waits .. allows, waits .. denies)))
      end)
      it("denies by an error after its wait", function()
        assert.equal(500, (decided("all", waits .. "error('no')")))
        assert.equal(500, (decided("any", waits .. denies, waits .. "error('no')")))
        assert.equal(200, (decided("any", waits .. "error('no')", waits .. allows)))
      end)
      it("ends the request when its time is up", function()
        for _, satisfy in ipairs { "any", "all" } do assert.equal(504, (decided(satisfy, "moongate.sleep(60)", allows))) end
      end)
    end)

    describe("a request's body", function()
      local function body_of(request, options, more)
        local result = route("local text, why = exchange.request:body(" .. (options or "") .. ") exchange.request.headers:set('X-Seen', text and #text .. ':' .. text:sub(1, 20) or why) "
          .. "local again, still = exchange.request:body(" .. (options or "") .. ") if again ~= text or still ~= why then error('another') end", spec(more)):request(request)
        return result.sent and result.sent.headers["x-seen"], result
      end
      it("is read, and still sent on", function()
        local seen, result = body_of { method = "POST", body = "hello" }
        assert.equal("5:hello", seen)
        assert.equal("hello", result.sent.body)
        assert.equal("5", result.sent.headers["content-length"])
      end)
      it("is read in every phase that waits", function()
        assert.equal("5:hello", (body_of({ method = "POST", body = "hello" }, "", { phase = "rewrite" })))
        assert.equal("5:hello", (body_of({ method = "POST", body = "hello" }, "", { phase = "server_rewrite", more = "function policy.attach_host() return {} end" })))
      end)
      it("may be missing", function() assert.equal("0:", (body_of { method = "GET" })) end)
      it("may be chunked", function()
        local seen, result = body_of { method = "POST", body = { "one", "two", "three" } }
        assert.equal("11:onetwothree", seen)
        assert.equal("onetwothree", result.sent.body)
      end)
      it("may be larger than what is held without a policy", function()
        local text = ("x"):rep(300000)
        local seen, result = body_of({ method = "POST", body = text }, "{ max = 400000 }")
        assert.equal("300000:xxxxxxxxxxxxxxxxxxxx", seen)
        assert.equal(text, result.sent.body)
      end)
      it("may be too large for the policy, and still be sent on", function()
        local text = ("x"):rep(1000)
        for _, body in ipairs { text, { text:sub(1, 500), text:sub(501) } } do
          local seen, result = body_of({ method = "POST", body = body }, "{ max = 999 }")
          assert.equal("too large", seen)
          assert.equal(text, result.sent.body)
        end
        assert.equal("1000:xxxxxxxxxxxxxxxxxxxx", (body_of({ method = "POST", body = text }, "{ max = 1000 }")))
      end)
      it("is not read beyond the route's own limit", function()
        local _, result = body_of({ method = "POST", body = { ("x"):rep(600), ("y"):rep(600) } }, "{ max = 10000 }", { attach = "route:set('body_limit', 1000)" })
        assert.equal(413, result.status)
      end)
      it("is asked for where the client waits to be asked", function()
        local seen, result = body_of { method = "POST", body = "hello", headers = { Expect = "100-continue" } }
        assert.equal("5:hello", seen)
        assert.matches("^HTTP/1.1 100 ", result.bytes)
      end)
      it("does not come in time", function()
        local seen, result = body_of({ method = "POST", headers = { ["Content-Length"] = "5" }, late_body = "hello" }, "{ timeout = 0.05 }")
        assert.equal("timeout", seen)
        assert.equal("hello", result.sent.body)
      end)
      it("has a size that is a number", function()
        for _, value in ipairs { "{ max = -1 }", "{ max = 1e9 }", "{ max = 'x' }", "5", "{ timeout = -1 }" } do
          local status, _, log = answered("exchange.request:body(" .. value .. ")", { method = "POST", body = "x" }, spec())
          assert.equal(500, status)
          assert.matches("exchange.request:body: ", log)
        end
      end)
    end)
  end)
end

describe("in a spec", function()
  it("sleeping takes no time, and the clock moves", function()
    local begun = os.time()
    local code = "local n, m = moongate.time.now(), moongate.time.monotonic() moongate.sleep(50) local late = exchange.started + exchange.duration "
      .. "return exchange:respond { body = ('%.1f %.1f %.1f %.1f'):format(moongate.time.now() - n, moongate.time.monotonic() - m, exchange.duration, late - n) }"
    local first, second, third, fourth = select(2, answered(code)):match("(%S+) (%S+) (%S+) (%S+)")
    for _, seconds in ipairs { first, second, third, fourth } do assert.is_true(tonumber(seconds) >= 50 and tonumber(seconds) < 52, seconds) end
    assert.is_true(os.time() - begun < 20)
  end)
  it("what a policy asks for is answered by the spec", function()
    local asked
    local function http(request)
      asked = request
      return { status = 201, headers = { ["X-Two"] = { "a", "b" }, ["X-One"] = "c" }, body = "text" }
    end
    local code = "local r = assert(moongate.http.request { url = 'http://auth.test/check?x=1', method = 'POST', headers = { ['X-A'] = 'b', Host = 'c' }, body = 'q', timeout = 2 }) "
      .. "local names = 0 for _ in r.headers:each() do names = names + 1 end "
      .. "return exchange:respond { body = table.concat({ r.status, r.body, r.headers:get('x-TWO'), table.concat(r.headers:all('x-two'), '+'), r.headers:get('X-ONE'), tostring(r.headers:get('no')), names }, ' ') }"
    for _, trusted in ipairs { true, false } do
      local _, body = answered(code, {}, { http = http, trusted = trusted })
      assert.equal("201 text a a+b c nil 3", body)
      assert.same({ method = "POST", url = "http://auth.test/check?x=1", headers = { ["x-a"] = "b", host = "c" }, body = "q", timeout = 2 }, asked)
    end
  end)
  it("so is what it asks an upstream for", function()
    local asked
    local function http(request)
      asked = request
      return nil, "gone"
    end
    local spec = { http = http, services = { ["auth:80"] = { "10.0.0.9:80" } },
      source = "local policy = { name = 'probe', summary = 'x', applies = 'always' } function policy.attach(route) return { to = route:upstream('auth:80') } end "
        .. "function policy.access(exchange, config) local r, why = require('moongate').http.request { upstream = config.to, path = '/x' } return exchange:respond { body = why } end return policy" }
    local result = testing.route(spec):request {}
    assert.equal("gone", result.response.body)
    assert.same({ method = "GET", upstream = "auth:80", path = "/x", headers = {}, timeout = 5 }, asked)
  end)
  it("an answer that is too large is none", function()
    local _, body = answered("local r, why = moongate.http.request { url = 'http://a.test/', max_body = 3 } return exchange:respond { body = why }", {}, { http = function() return { body = "1234" } end })
    assert.equal("the answer's body is too large", body)
  end)
  it("an answer's body may be of no use", function()
    local code = "local r, why = moongate.http.request { url = 'http://a.test/', max_body = 3, keep_body = false } return exchange:respond { body = r and r.status .. r.body or why }"
    assert.equal("201", select(2, answered(code, {}, { http = function() return { status = 201, body = "123" } end })))
    assert.equal("the answer's body is too large", select(2, answered(code, {}, { http = function() return { body = "1234" } end })))
  end)
  it("a request that the spec does not expect fails it", function()
    assert.has_error(function() answered("moongate.http.request { url = 'http://a.test/' }") end,
      "route:request: the policy asks for http://a.test/, and the spec has no http = function(request) that answers")
    assert.has_error(function() answered("moongate.http.request { url = 'http://a.test/' }", {}, { http = function() error("not so", 0) end }) end, "route:request: not so")
  end)
end)

describe("moongate.http.request refuses", function()
  local function refused(request, phase)
    local status, _, log = answered("moongate.http.request(" .. request .. ")", {}, { phase = phase, http = function() return {} end })
    assert.equal(phase == "log" and 200 or 500, status)
    return log
  end
  for request, why in pairs {
    ["nil"] = "wants a table",
    ["{}"] = "wants either a url or an upstream",
    ["{ url = 'http://a', upstream = 1 }"] = "wants either a url or an upstream",
    ["{ upstream = 1 }"] = "upstream wants what route:upstream() gave",
    ["{ url = 'ftp://a/' }"] = "scheme is neither http nor https",
    ["{ url = 'file:///etc/passwd' }"] = "neither http nor https",
    ["{ url = '/path' }"] = "not a URL",
    ["{ url = 'http://' }"] = "not a URL",
    ["{ url = 'http://u:p@a/' }"] = "not a URL",
    ["{ url = 'http://a b/' }"] = "must be escaped",
    ["{ url = 'http://a/\\r\\nX: y' }"] = "must be escaped",
    ["{ url = 'http://a/\\0' }"] = "NUL",
    ["{ url = 'http://a:0/' }"] = "port",
    ["{ url = 'http://a:99999/' }"] = "not a URL",
    ["{ url = 'http://a%00b/' }"] = "not a URL",
    ["{ url = 1 }"] = "url is a number",
    ["{ url = 'http://a', method = 'G T' }"] = "the method has a character",
    ["{ url = 'http://a', method = 'CONNECT' }"] = "CONNECT and TRACE",
    ["{ url = 'http://a', method = '' }"] = "from 1 to 32",
    ["{ url = 'http://a', headers = { A = 'x\\r\\ny' } }"] = "the header A has CR, LF or NUL",
    ["{ url = 'http://a', headers = { A = 'x\\0' } }"] = "CR, LF or NUL",
    ["{ url = 'http://a', headers = { ['A\\r\\nB'] = 'x' } }"] = "not a header name",
    ["{ url = 'http://a', headers = { ['Transfer-Encoding'] = 'chunked' } }"] = "connection's own field",
    ["{ url = 'http://a', headers = { 'x' } }"] = "names to values",
    ["{ url = 'http://a', headers = { A = true } }"] = "the header A is a boolean",
    ["{ url = 'http://a', headers = 1 }"] = "headers is a number",
    ["{ url = 'http://a', body = {} }"] = "body is a table",
    ["{ url = 'http://a', method = 'HEAD', body = '' }"] = "a HEAD request has no body",
    ["{ url = 'http://a', timeout = -1 }"] = "timeout is not a number of seconds",
    ["{ url = 'http://a', keep_body = 0 }"] = "keep_body is a number",
    ["{ url = 'http://a', max_body = 1e8 }"] = "max_body is not a number of bytes",
    ["{ url = 'http://a', body = ('x'):rep(1048577) }"] = "the body is longer",
    ["{ url = 'http://a/' .. ('x'):rep(9000) }"] = "the URL is too long",
  } do
    it(request, function()
      local log = refused(request)
      assert.matches("moongate.http.request: ", log, 1, true)
      assert.matches("policy.lua:5: ", log, 1, true)
      assert.matches(why, log, 1, true)
    end)
  end
  it("where it may not wait", function()
    assert.matches("moongate.http.request: not in header_filter; only in server_rewrite, rewrite, access", refused("{ url = 'http://a' }", "header_filter"))
    assert.matches("moongate.http.request: not in log", refused("{ url = 'http://a' }", "log"))
  end)
  it("nothing that a plain yield could begin", function()
    local _, _, log = answered("pcall(moongate.http.request, { url = 'http://a', headers = 1 }) coroutine.yield()", {}, { http = function() return {} end })
    assert.matches("the hook yields; only moongate's own functions wait", log)
  end)
end)

it("a guest's budget is for all that it does between its waits", function()
  local busy = "for i = 1, 15000 do local x = i end "
  local _, body = answered(busy .. "moongate.sleep(0) " .. busy .. " return exchange:respond { body = 'done' }")
  assert.equal("done", body)
  local status, _, log = answered("while true do " .. busy .. " pcall(moongate.sleep, 0) end")
  assert.equal(500, status)
  assert.matches("policy.lua:5: instruction budget spent", log)
  status, _, log = answered("error(setmetatable({}, { __tostring = function() while true do end end }))")
  assert.equal(500, status)
  assert.matches("policy.lua:5: error value is a table", log)
  status, _, log = answered("local s = 'x' moongate.sleep(0) while true do s = s .. s end")
  assert.equal(500, status)
  assert.matches("not enough memory %(the ceiling of this owner's policies%)", log)
  status, _, log = answered("moongate.sleep(0) while true do end")
  assert.equal(500, status)
  assert.matches("instruction budget spent", log)
end)
