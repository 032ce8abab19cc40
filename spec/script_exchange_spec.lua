-- What hooks see and may do, over the real request path.
-- luacheck: no max line length
local testing = require "moongate.testing"

--- A route with one policy whose hooks are given as code.
local function route(hooks, spec)
  spec = spec or {}
  local lines = { "local moongate = require 'moongate'\nlocal policy = { name = 'probe', summary = 'x', applies = 'always', on_error = ", spec.on_error or "nil", " }\n" }
  table.insert(lines, "function policy.attach(route) return " .. (spec.config or "{}") .. " end\n")
  if hooks.server_rewrite then table.insert(lines, "function policy.attach_host() return {} end\n") end
  for name, code in pairs(hooks) do table.insert(lines, "function policy." .. name .. "(exchange, config) " .. code .. " end\n") end
  table.insert(lines, "return policy")
  spec.source, spec.on_error, spec.config = table.concat(lines), nil, nil
  return testing.route(spec)
end

--- The text that a rewrite hook answers with.
local function seen(code, request, spec)
  local result = route({ rewrite = "local function probe() " .. code .. " end return exchange:respond { body = tostring(probe()) }" }, spec):request(request or {})
  assert.equal(200, result.status, result.log[1])
  return result.response.body
end

--- The line that a failing hook leaves in the log.
local function failure(phase, code, request)
  local result = route({ [phase] = code }):request(request or {})
  return table.concat(result.log, "\n"), result
end

for _, trusted in ipairs { true, false } do
  describe(trusted and "in a trusted state" or "in a guest state", function()
    local spec = function() return { trusted = trusted } end

    it("a hook reads the request", function()
      local request = { method = "PUT", host = "Shop.Test:8080", uri = "/a%20b/../c?x=1&y=%41+b", headers = { Cookie = "a=1; b=2", ["X-Two"] = { "one", "two" } } }
      assert.equal("PUT", seen("return exchange.request.method", request, spec()))
      assert.equal("shop.test", seen("return exchange.request.host", request, spec()))
      assert.equal("/c", seen("return exchange.request.path", request, spec()))
      assert.equal("x=1&y=%41+b", seen("return exchange.request.query", request, spec()))
      assert.equal("/a%20b/../c?x=1&y=%41+b", seen("return exchange.request.uri", request, spec()))
      assert.equal("A b", seen("return exchange.request:argument('y')", request, spec()))
      assert.equal("nil", seen("return exchange.request:argument('z')", request, spec()))
      assert.equal("2", seen("return exchange.request.cookies:get('b')", request, spec()))
      assert.equal("one", seen("return exchange.request.headers:get('x-two')", request, spec()))
      assert.equal("one,two", seen("return table.concat(exchange.request.headers:all('X-TWO'), ',')", request, spec()))
      assert.equal("nil", seen("return exchange.request.headers:get('nothing')", request, spec()))
      assert.equal("2", seen("local n = 0 for name in exchange.request.headers:each() do if name == 'X-Two' then n = n + 1 end end return n", request, spec()))
      assert.equal("http 80 HTTP/1.1", seen("return exchange.listener.scheme .. ' ' .. exchange.listener.port .. ' ' .. exchange.client.protocol", {}, spec()))
      assert.equal("nil", seen("return exchange.client.tls", {}, spec()))
      assert.equal("https", seen("return exchange.client.scheme", { scheme = "https" }, spec()))
      assert.equal("32", seen("return #exchange.request.id", {}, spec()))
      local started, ended = os.time(), tonumber(seen("return exchange.started + exchange.duration", {}, spec()))
      assert.is_true(ended > started - 1 and ended < os.time() + 2, ended)
      assert.equal("Ingress default/test /", seen("local r = exchange.route return r.source.kind .. ' ' .. r.source.namespace .. '/' .. r.source.name .. ' ' .. r.path", {}, spec()))
      local facts = "local r = exchange.route local one, host = r.upstreams[1], r.host return table.concat({ r.path_type, host.name, tostring(host.tls), one.service, one.port, #r.alternatives }, ' ')"
      assert.equal("Prefix _ false default 80 0", seen(facts, {}, spec()))
    end)

    it("a hook changes the request", function()
      local result = route({ rewrite = [[
        local request = exchange.request
        request:set_path("/new path") request:set_query("q=1") request:set_method("POST")
        request.headers:set("X-Set", "1") request.headers:add("X-Many", { "a", "b" }) request.headers:remove("X-Gone") ]] }, spec())
        :request { headers = { ["X-Gone"] = "1", ["X-Set"] = "0" } }
      assert.equal(200, result.status)
      assert.equal("/new%20path?q=1", result.sent.uri)
      assert.equal("POST", result.sent.method)
      assert.same({ "1" }, result.sent.all["x-set"])
      assert.same({ "a", "b" }, result.sent.all["x-many"])
      assert.is_nil(result.sent.headers["x-gone"])
    end)

    it("an answer without a body is one for the client too", function()
      local result = route({ rewrite = "exchange.request:set_method 'HEAD'" }, spec()):request { answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" }
      assert.same({ "HEAD", 200, "0", "" }, { result.sent.method, result.status, result.response.headers["content-length"], result.response.body })
      result = route({ header_filter = "exchange.response:set_status(200)" }, spec()):request { answer = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n" }
      assert.same({ 200, "0", "" }, { result.status, result.response.headers["content-length"], result.response.body })
      result = route({ rewrite = "exchange.request:set_method 'GET'" }, spec()):request { method = "HEAD", answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello" }
      assert.same({ "GET", 200, "5", "" }, { result.sent.method, result.status, result.response.headers["content-length"], result.response.body })
    end)

    it("a hook answers", function()
      local result = route({ access = "return exchange:respond { status = 201, headers = { ['X-A'] = '1', ['Set-Cookie'] = { 'a=1', 'b=2' } }, body = 'made' }" }, spec()):request {}
      assert.equal(201, result.status)
      assert.equal("made", result.response.body)
      assert.equal("1", result.response.headers["x-a"])
      assert.equal(2, #result.response.all["set-cookie"])
      assert.is_nil(result.sent)
      result = route({ rewrite = "return exchange:redirect(302, 'https://a.test/')" }, spec()):request {}
      assert.equal(302, result.status)
      assert.equal("https://a.test/", result.response.headers.location)
      result = route({ access = "return exchange:deny(403, 'not you')" }, spec()):request {}
      assert.equal(403, result.status)
      assert.is_nil(result.response.body:find("not you", 1, true))
      assert.equal(200, route({ access = "return exchange:allow()" }, spec()):request({}).status)
    end)

    it("a hook changes the response", function()
      local result = route({ header_filter = [[
        local response = exchange.response
        response.headers:set("X-Was", response.status .. " " .. response.source) response.headers:remove("X-Secret") response:set_status(202) ]] }, spec())
        :request { answer = { status = 201, headers = { ["X-Secret"] = "1" }, body = "ok" } }
      assert.equal(202, result.status)
      assert.equal("201 upstream", result.response.headers["x-was"])
      assert.is_nil(result.response.headers["x-secret"])
      assert.equal("ok", result.response.body)
    end)

    it("hooks share ctx within an exchange, and only there", function()
      local counted = route({ rewrite = "exchange.ctx.n = (exchange.ctx.n or 0) + 1", header_filter = "exchange.response.headers:set('X-N', tostring(exchange.ctx.n))" }, spec())
      assert.equal("1", counted:request({}).response.headers["x-n"])
      assert.equal("1", counted:request({}).response.headers["x-n"])
    end)

    it("variables reach templates", function()
      local result = route({ rewrite = "exchange.variables:set('side', 'left')", header_filter = "exchange.response.headers:set('X-Side', config.text:expand(exchange))" },
        { trusted = trusted, config = "{ text = moongate.template('$var_side $request_method $host') }" }):request { host = "a.test" }
      assert.equal("left GET a.test", result.response.headers["x-side"])
    end)

    it("config values work at request time", function()
      local config = "{ r = moongate.regex('^/(c)?(a+)(b)?$'), s = moongate.ip_set('10.0.0.0/8'), m = moongate.map { x = 'y' }, h = moongate.host_set('a.test,*.b.test') }"
      local code = [[
        local whole, first, second = config.r:match("/aa")
        return tostring(whole) .. tostring(first) .. tostring(second) .. (config.r:replace("/aab", "<$1$2$3>"))
          .. tostring(config.s:contains("10.1.2.3")) .. tostring(config.s:contains("nonsense")) .. config.m:get("x") .. tostring(config.m:get("z"))
          .. tostring(config.h:contains("c.b.test"))]]
      assert.equal("/aafalseaa<aab>truefalseyniltrue", seen(code, {}, { trusted = trusted, config = config }))
    end)

    it("an object used after its exchange raises", function()
      local late = route({ rewrite = [[
        local function try(f) return tostring(select(2, pcall(f))) end
        if kept then return exchange:respond { body = try(function() local path = kept.request return path end)
          .. "|" .. try(function() local host = headers:get("Host") return host end) } end
        kept, headers = exchange, exchange.request.headers]] }, spec())
      late:request {}
      local body = late:request({}).response.body
      assert.matches("^policy%.lua:%d+: exchange%.request: used too late, what it belongs to is over|", body)
      assert.matches("|policy%.lua:%d+: exchange%.request%.headers:get: used too late, what it belongs to is over$", body)
    end)

    it("a failing hook is a 500 with file and line, or is skipped", function()
      local result = route({ rewrite = "local x = nil + 1" }, spec()):request {}
      assert.equal(500, result.status)
      assert.matches('policy=probe phase=rewrite host=_ path=/ source=Ingress/default/test .*outcome=denied detail="policy.lua:%d+: attempt to perform arithmetic', result.log[1])
      result = route({ rewrite = "error({})" }, { trusted = trusted, on_error = "'skip'" }):request {}
      assert.equal(200, result.status)
      assert.matches("outcome=skipped", result.log[1])
      result = route({ header_filter = "error('no')" }, spec()):request {}
      assert.equal(500, result.status)
    end)

    it("a field of the log ends where it should, whatever a client or a policy put into it", function()
      local request = { headers = { ["X-Request-ID"] = '1 outcome=skipped detail="fine"' } }
      local line = route({ rewrite = "error('no')" }, spec()):request(request).log[1]
      assert.matches([[ request_id="1 outcome=skipped detail=\"fine\"" outcome=denied detail="policy.lua:%d+: no"]], line)
      line = route({ access = [[return exchange:deny(503, 'a" status=200 b="c')]] }, spec()):request({}).log[1]
      assert.matches([[ status=503 .*reason="a\" status=200 b=\"c"]], line)
    end)

    it("server_rewrite runs before the route is known", function()
      local result = route({ server_rewrite = "return exchange:redirect(301, 'https://' .. exchange.host_name .. exchange.request.uri)" }, { trusted = trusted, host = "a.test" })
        :request { uri = "/x?y" }
      assert.equal(301, result.status)
      assert.equal("https://a.test/x?y", result.response.headers.location)
    end)

    it("balancer finds and chooses endpoints", function()
      local services = { default = { "10.0.0.1:80", "10.0.0.2:80", { address = "10.0.0.3:80", ready = false, draining = true } } }
      local balanced = route({ balancer = [[
        local upstream = exchange.upstream
        local ready, all = upstream:count()
        exchange.ctx.seen = ready .. "/" .. all .. "/" .. upstream.attempt
        local wanted = upstream:find(exchange.request:argument("key") or "none", exchange.request:argument("by"))
        if wanted then upstream:choose(wanted) else upstream:choose(upstream:endpoint(2)) end]],
        header_filter = [[
        local endpoint = exchange.upstream.endpoint
        exchange.response.headers:set("X-Seen", exchange.ctx.seen)
        exchange.response.headers:set("X-Endpoint", endpoint.address .. " " .. endpoint.key .. " " .. #endpoint.key_sha1)]] }, { trusted = trusted, services = services })
      local result = balanced:request {}
      assert.equal("10.0.0.2:80", result.endpoint)
      assert.equal("2/3/1", result.response.headers["x-seen"])
      local key = require("moongate").hash.md5("default-default-8010.0.0.3:80")
      result = balanced:request { uri = "/?key=" .. key }
      assert.equal("10.0.0.3:80", result.endpoint)
      assert.equal("10.0.0.3:80 " .. key .. " 40", result.response.headers["x-endpoint"])
      assert.equal("10.0.0.1:80", balanced:request({ uri = "/?by=sha1&key=" .. require("moongate").hash.sha1("default-default-8010.0.0.1:80") }).endpoint)
    end)

    it("log runs once, at the end", function()
      local result = route({ log = "moongate.log.warn('status ' .. exchange.response.status .. ' ' .. tostring(exchange.upstream.endpoint.address))" }, spec()):request {}
      local count = 0
      for _, line in ipairs(result.log) do
        if line:find("status 200 10.0.0.1:80", 1, true) then count = count + 1 end
      end
      assert.equal(1, count)
    end)
  end)
end

describe("misuse raises with the function's name:", function()
  local cases = {
    { "rewrite", "exchange.request.headers:set('X', 'a\\r\\nb')", "exchange.request.headers:set: the value has CR, LF or NUL" },
    { "rewrite", "exchange.request.headers:set('X Y', 'a')", "exchange.request.headers:set: not a header name" },
    { "rewrite", "exchange.request.headers:set('Transfer-Encoding', 'chunked')", "exchange.request.headers:set: Transfer-Encoding is the connection's own field" },
    { "header_filter", "exchange.response.headers:add('Content-Length', '0')", "exchange.response.headers:add: Content-Length is the connection's own field" },
    { "rewrite", "exchange.request:set_path('x')", "exchange.request:set_path: the path does not begin with '/'" },
    { "rewrite", "exchange.request:set_query('a b')", "exchange.request:set_query: the query has a byte that must be escaped" },
    { "rewrite", "exchange.request:set_method('A B')", "exchange.request:set_method: not a method" },
    { "rewrite", "exchange.request:set_method('CONNECT')", "exchange.request:set_method: CONNECT and TRACE are not sent" },
    { "rewrite", "return exchange:redirect(302, 'a\\nb')", "exchange:redirect: the value has CR, LF or NUL" },
    { "rewrite", "return exchange:redirect(200, '/')", "exchange:redirect: the status is not from 300 to 399" },
    { "access", "return exchange:deny(200)", "exchange:deny: the status is not from 400 to 599" },
    { "rewrite", "return exchange.request.nothing", "exchange.request has no member 'nothing'" },
    { "rewrite", "exchange.request.path = '/'", "exchange.request.path: cannot be set by assignment" },
    { "rewrite", "exchange.request.headers.get(exchange, 'x')", "exchange.request.headers:get: called on something else" },
    { "rewrite", "exchange:use_upstream('x')", "exchange:use_upstream: wants what route:upstream() gave" },
    { "rewrite", "exchange.variables:set('a b', 'c')", "exchange.variables:set: a name is made of letters, digits and _" },
    { "rewrite", "for i = 1, 17 do exchange.variables:set('v' .. i, '') end", "exchange.variables:set: at most 16 variables of at most 1024 bytes" },
    { "rewrite", "return true", "the rewrite hook returned a boolean" },
    { "access", "return exchange:respond { staus = 403 }", "exchange:respond: there is no option 'staus'" },
    { "header_filter", "return exchange:replace_response(nil, { pth = '/' })", "exchange:replace_response: there is no option 'pth'" },
    { "access", "exchange:mirror { url = 'http://a.test/', hst = 'b' }", "exchange:mirror: there is no option 'hst'" },
    { "access", "exchange.request:body { maxx = 5 }", "exchange.request:body: there is no option 'maxx'" },
    { "access", "moongate.http.request { url = 'http://a.test/', tiemout = 5 }", "moongate.http.request: there is no option 'tiemout'" },
    { "access", "moongate.http.request { 'http://a.test/' }", "moongate.http.request: has a value without a name" },
  }
  for _, case in ipairs(cases) do
    it(case[3], function()
      local log, result = failure(case[1], case[2])
      assert.equal(500, result.status)
      assert.matches(case[3], log, 1, true)
    end)
  end
end)

describe("an error of a hook names file and line", function()
  local function said(hook, code, trusted)
    local result = testing.route({ trusted = trusted, source = "local policy = { name = 'probe', summary = 'x', applies = 'always' }\n"
      .. "function policy.attach() return {} end\nfunction policy." .. hook .. "(exchange)\n" .. code .. "\nend\nreturn policy" }):request {}
    return table.concat(result.log, "\n"):match 'outcome=(%w+) detail="(.-)"'
  end

  for _, case in ipairs {
    { "access", "error('mine')", "denied", "policy.lua:4: mine" },
    { "access", "return exchange:deny(40)", "denied", "policy.lua:3-5: exchange:deny: the status is not from 400 to 599" }, -- its frame is gone
    { "access", "return 5", "denied", "policy.lua:3-5: the access hook returned a number; return nothing, or what exchange:respond, deny or redirect gave" },
    { "header_filter", "return 5", "denied", "policy.lua:3-5: the header_filter hook returned a number; return nothing, or what exchange:replace_response gave" },
    { "header_filter", "return exchange.response.headers:set('A', '\\n')", "denied", "policy.lua:3-5: exchange.response.headers:set: the value has CR, LF or NUL" },
    { "access", "exchange:deny(403)", "denied", "policy.lua:3-5: the access hook made an answer and did not return it: return exchange:deny(...)" },
    { "rewrite", "exchange:redirect(302, '/')", "denied", "policy.lua:3-5: the rewrite hook made an answer and did not return it: return exchange:redirect(...)" },
    { "balancer", "exchange:respond {}", "denied", "policy.lua:3-5: the balancer hook made an answer and did not return it: return exchange:respond(...)" },
    { "log", "return 5", "skipped", "policy.lua:3-5: the log hook returned a number; return nothing" },
    { "access", "local function deep() return 1 + deep() end deep()", "denied", "policy.lua:%d?-?%d: stack overflow" },
  } do
    it(case[1] .. ": " .. case[2], function()
      for _, trusted in ipairs { true, false } do
        local outcome, detail = said(case[1], case[2], trusted)
        assert.equal(case[3], outcome)
        if case[4]:find("%%d") then assert.matches("^" .. case[4]:gsub("%.", "%%."), detail) else assert.equal(case[4], detail) end
      end
    end)
  end
end)

describe("a call in a wrong phase raises and names the right ones:", function()
  local cases = {
    { "log", "exchange:redirect(302, '/')", "exchange:redirect: not in log; only in server_rewrite, rewrite, access, balancer" },
    { "header_filter", "exchange:deny(403)", "exchange:deny: not in header_filter; only in server_rewrite, rewrite, access, balancer" },
    { "rewrite", "exchange:allow()", "exchange:allow: not in rewrite; only in access" },
    { "rewrite", "return exchange.response", "exchange.response: not in rewrite; only in header_filter, body_filter, log" },
    { "access", "return exchange.upstream", "exchange.upstream: not in access; only in balancer, header_filter, body_filter, log" },
    { "balancer", "exchange.request:set_path('/')", "exchange.request:set_path: not in balancer; only in server_rewrite, rewrite, access" },
    { "balancer", "exchange:use_upstream(1)", "exchange:use_upstream: not in balancer; only in rewrite, access" },
    { "header_filter", "exchange.request.headers:set('A', 'b')", "exchange.request.headers:set: not in header_filter; only in server_rewrite, rewrite, access, balancer" },
    { "header_filter", "exchange.upstream:choose(1)", "exchange.upstream:choose: not in header_filter; only in balancer" },
    { "balancer", "return exchange.upstream.status", "exchange.upstream.status: not in balancer; only in header_filter, body_filter, log" },
    { "log", "exchange.response:set_status(200)", "exchange.response:set_status: not in log; only in header_filter" },
    { "log", "exchange.response.headers:set('A', 'b')", "exchange.response.headers:set: not in log; only in header_filter" },
    { "server_rewrite", "return exchange.route", "exchange.route: not in server_rewrite; only in rewrite, access, balancer, header_filter, body_filter, log" },
  }
  for _, case in ipairs(cases) do
    it(case[3], function() assert.matches(case[3], (failure(case[1], case[2])), 1, true) end)
  end
end)
