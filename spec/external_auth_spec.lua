-- luacheck: no max line length
local core = require "moongate.core"
local testing = require "moongate.testing"

--- A route with these annotations (without "auth-" before their names), and what its service was asked. `answer`: what it says, or a function of the question.
local function guarded(annotations, answer, more)
  local spec, asked = more or {}, {}
  spec.policies, spec.annotations = spec.policies or { "external_auth.lua" }, {}
  for name, value in pairs(annotations) do spec.annotations[name:gsub("^%-", "auth-")] = value end
  spec.http = function(question)
    table.insert(asked, question)
    if type(answer) == "function" then return answer(question) end
    return answer or { status = 200 }
  end
  return testing.route(spec), asked
end

local URL = "http://auth.test/check"

local function decided(answer, annotations, request)
  annotations = annotations or {}
  annotations["-url"] = URL
  local route, asked = guarded(annotations, answer)
  local result = route:request(request or {})
  return result.status, result, asked
end

describe("external auth", function()
  it("lets in with 2xx and passes 401 and 403 on", function()
    for status, expected in pairs { [200] = 200, [204] = 200, [299] = 200, [401] = 401, [403] = 403, [302] = 500, [304] = 500, [400] = 500, [404] = 500, [500] = 500, [503] = 500, [599] = 500 } do
      local got, result = decided { status = status, headers = { Location = "http://other.test/" } }
      assert.equal(expected, got, status)
      assert.equal(expected == 200, result.sent ~= nil)
      assert.is_nil(result.response.headers.location)
    end
  end)
  it("lets nobody in when no answer comes", function()
    local status, result = decided(function() return nil, "timeout" end)
    assert.equal(500, status)
    assert.matches("the authentication service did not answer: timeout", table.concat(result.log, "\n"))
    assert.is_nil(result.sent)
  end)
  it("passes the challenges on", function()
    local _, result = decided { status = 401, headers = { ["WWW-Authenticate"] = { 'Basic realm="a"', "Negotiate" } } }
    assert.same({ 'Basic realm="a"', "Negotiate" }, result.response.all["www-authenticate"])
    _, result = decided { status = 403, headers = { ["WWW-Authenticate"] = "Negotiate" } }
    assert.is_nil(result.response.headers["www-authenticate"])
    assert.matches("403 Forbidden", result.response.body)
  end)

  it("passes the challenges on with an error page too", function()
    local route = guarded({ ["-url"] = URL, ["custom-http-errors"] = "401", ["default-backend"] = "errors" }, { status = 401, headers = { ["WWW-Authenticate"] = "Basic" } },
      { policies = { "custom_http_errors.lua", "external_auth.lua" }, services = { errors = { "10.0.0.9:80" } }, answers = { ["10.0.0.9:80"] = { status = 401, body = "a page" } } })
    local result = route:request {}
    assert.equal("a page", result.response.body)
    assert.same({ "Basic" }, result.response.all["www-authenticate"])
  end)

  describe("asks", function()
    local function question(annotations, request, more)
      annotations["-url"] = annotations["-url"] or URL
      local route, asked = guarded(annotations, nil, more)
      local result = route:request(request)
      assert.equal(1, #asked, table.concat(result.log, "\n"))
      return asked[1], asked[1].headers
    end
    it("with GET and no body, as ingress-nginx does", function()
      local asked, headers = question({}, { method = "POST", uri = "/a%20b?c=d&e", body = "secret", client = "192.0.2.7", headers = {
        Cookie = "s=1", Accept = "text/html", Authorization = "Bearer x", ["X-Request-ID"] = "r1", ["Content-Type"] = "text/x", TE = "trailers", Connection = "X-Hop", ["X-Hop"] = "1", ["X-Two"] = { "a", "b" } } })
      assert.equal("GET", asked.method)
      assert.equal(URL, asked.url)
      assert.is_true(asked.body == nil or asked.body == "")
      assert.same({
        host = "auth.test", cookie = "s=1", accept = "text/html", authorization = "Bearer x", ["content-type"] = "text/x", ["x-two"] = "b", ["x-request-id"] = "r1",
        ["x-original-url"] = "http://example.test/a%20b?c=d&e", ["x-original-method"] = "POST", ["x-sent-from"] = "nginx-ingress-controller", ["x-real-ip"] = "192.0.2.7",
        ["x-forwarded-for"] = "192.0.2.7", ["x-auth-request-redirect"] = "/a%20b?c=d&e", ["cdn-loop"] = "moongate",
      }, headers)
    end)
    it("nothing that the visitor claims of his own request", function()
      local _, headers = question({}, { headers = { ["X-Original-URL"] = "http://a/", ["X-Original-URI"] = "/a", ["X-Original-Method"] = "HEAD", ["X-Sent-From"] = "me",
        ["X-Real-IP"] = "10.0.0.1", ["X-Forwarded-For"] = "10.0.0.1",
        ["X-Forwarded-Proto"] = "https", ["X-Forwarded-Host"] = "a", ["X-Scheme"] = "https", ["X-Auth-Request-Redirect"] = "/a", Forwarded = "for=a",
        ["X-Forwarded-Uri"] = "/a", ["X-Forwarded-Method"] = "HEAD" }, uri = "/real" })
      assert.equal("http://example.test/real", headers["x-original-url"])
      assert.equal("/real", headers["x-auth-request-redirect"])
      assert.equal("127.0.0.1", headers["x-real-ip"])
      assert.equal("127.0.0.1", headers["x-forwarded-for"])
      for _, name in ipairs { "x-forwarded-proto", "x-forwarded-host", "x-scheme", "forwarded", "x-original-uri", "x-forwarded-uri", "x-forwarded-method" } do assert.is_nil(headers[name], name) end
    end)
    it("with one Cookie field, whatever the visitor's were", function()
      local _, headers = question({}, { headers = { Cookie = { "a=1", "b=2" } } })
      assert.equal("a=1; b=2", headers.cookie)
    end)
    it("nobody for a visitor with two identities", function()
      local route, asked = guarded { ["-url"] = URL, ["-cache-key"] = "$http_authorization" }
      local result = route:request { headers = { Authorization = { "Bearer mine", "Bearer another's" } } }
      assert.equal(400, result.status)
      assert.is_nil(result.sent)
      assert.equal(0, #asked)
    end)
    it("for the whole of the URL, whatever a variable has in it", function()
      local asked = question({ ["-url"] = "http://auth.test/check?user=$http_user&group=admin" }, { headers = { User = "ann#b c" } })
      assert.equal("http://auth.test/check?user=ann%23b%20c&group=admin", asked.url)
    end)
    it("with another method, and then X-Original-URI and X-Scheme too", function()
      local asked, headers = question({ ["-method"] = "HEAD" }, { uri = "/x?y", scheme = "https" })
      assert.equal("HEAD", asked.method)
      assert.equal("/x?y", headers["x-original-uri"])
      assert.equal("https", headers["x-scheme"])
      assert.equal("https://example.test/x?y", headers["x-original-url"])
    end)
    it("at a URL with variables", function()
      assert.equal("http://example.test/in%20valid?u=/a%20b&q=c%3Dd&m=GET", question({ ["-url"] = "http://$host/in valid?u=$uri&q=$arg_q&m=$request_method" }, { uri = "/a%20b?q=c%3Dd" }).url)
      local asked, headers = question({ ["-url"] = "https://Auth.Test:8443?x=1" }, {})
      assert.equal("https://Auth.Test:8443/?x=1", asked.url)
      assert.equal("Auth.Test", headers.host)
      asked, headers = question({ ["-url"] = "http://[::1]:99/" }, {})
      assert.equal("http://[::1]:99/", asked.url)
      assert.equal("[::1]", headers.host)
      assert.equal("http://auth.default.svc.cluster.local:80/", question({ ["-url"] = "http://auth.${namespace}.svc.cluster.local:80/" }, {}).url)
    end)
    it("with another X-Auth-Request-Redirect", function()
      local _, headers = question({ ["-request-redirect"] = "https://other.test/?a" }, {})
      assert.equal("https://other.test/?a", headers["x-auth-request-redirect"])
    end)
    it("with the fields of a ConfigMap", function()
      local _, headers = question({ ["-proxy-set-headers"] = "extra" }, { headers = { ["X-Tenant"] = "theirs" } }, { config_maps = { ["default/extra"] = { ["X-Tenant"] = " ours $host ", ["X-Real-IP"] = "none" } } })
      assert.equal("ours $host", headers["x-tenant"])
      assert.equal("none", headers["x-real-ip"])
    end)
    it("nobody where the URL becomes none", function()
      local status, result = decided({ status = 200 }, {}, { uri = "/" .. ("x"):rep(7000) })
      assert.equal(200, status, result.log[1])
      local route, asked = guarded { ["-url"] = "http://auth.test/$request_uri$request_uri" }
      result = route:request { uri = "/" .. ("x"):rep(5000) }
      assert.equal(500, result.status)
      assert.equal(0, #asked)
      assert.matches("the URL is too long", table.concat(result.log, "\n"))
    end)
  end)

  describe("fields of the answer", function()
    local function sent(annotations, answer, request)
      local status, result = decided(answer, annotations, request)
      assert.equal(200, status)
      return result.sent
    end
    it("replace those of the request, or take them away", function()
      local request = { headers = { ["X-User"] = "admin", ["X-Groups"] = "root", ["X-Other"] = "kept" } }
      local got = sent({ ["-response-headers"] = "X-User, X-Groups,Authorization" }, { status = 200, headers = { ["x-user"] = "ann", Authorization = { "Bearer a", "Bearer b" } } }, request)
      assert.same({ "ann" }, got.all["x-user"])
      assert.is_nil(got.headers["x-groups"])
      assert.equal("kept", got.headers["x-other"])
      assert.equal("Bearer a, Bearer b", got.headers.authorization)
      assert.is_nil(sent({ ["-response-headers"] = "x_user" }, { status = 200 }, { headers = { x_user = "admin" } }).headers["x_user"])
    end)
    it("are what the service is shown before", function()
      local _, _, asked = decided(nil, { ["-response-headers"] = "Authorization" }, { headers = { Authorization = "Bearer mine" } })
      assert.equal("Bearer mine", asked[1].headers.authorization)
    end)
    it("reach the application beside basic authentication, whose names and passwords do not", function()
      local function authorization(satisfy, answer)
        local route = guarded({ ["-url"] = URL, ["-response-headers"] = "Authorization", ["-type"] = "basic", ["-secret"] = "users", satisfy = satisfy }, answer,
          { policies = { "satisfy.lua", "basic_auth.lua", "external_auth.lua" }, secrets = { ["default/users"] = { auth = "ann:{PLAIN}a" } } })
        local seen = {}
        for i, header in ipairs { "Basic YW5uOmE=", "Basic YW5uOmI=", "Bearer x" } do
          local result = route:request { headers = { Authorization = header } }
          seen[i] = result.sent and (result.sent.headers.authorization or "none") or tostring(result.status)
        end
        return seen
      end
      assert.same({ "Bearer service", "401", "401" }, authorization("all", { status = 200, headers = { Authorization = "Bearer service" } }))
      assert.same({ "none", "401", "401" }, authorization("all", { status = 200 }))
      assert.same({ "none", "Bearer service", "Bearer service" }, authorization("any", { status = 200, headers = { Authorization = "Bearer service" } }))
    end)
    it("are nobody's word when another guard let the visitor in", function()
      local key = { source = "local policy = { name = 'key', summary = 'x', guard = true, applies = 'always' } function policy.attach() return {} end "
        .. "function policy.access(exchange) if exchange.request.headers:get('X-Key') then return exchange:allow() end return exchange:deny(401) end return policy" }
      for _, order in ipairs { { key, "external_auth.lua" }, { "external_auth.lua", key } } do
        local list = { "satisfy.lua", order[1], order[2] }
        local route = guarded({ ["-url"] = URL, ["-response-headers"] = "X-User", satisfy = "any" }, { status = 403, headers = { ["X-User"] = "nobody" } }, { policies = list })
        local result = route:request { headers = { ["X-Key"] = "1", ["X-User"] = "admin" } }
        assert.equal(200, result.status)
        assert.is_nil(result.sent.headers["x-user"])
        assert.equal(order[1] == key and 403 or 401, route:request({ headers = { ["X-User"] = "admin" } }).status)
      end
    end)
  end)

  describe("cookies of the answer", function()
    local two = { "a=1; Path=/", "b=2" }
    it("reach the visitor with the statuses of add_header, or always", function()
      for status, has in pairs { [200] = true, [201] = true, [204] = true, [206] = true, [301] = true, [304] = true, [308] = true, [202] = false, [404] = false, [503] = false } do
        for _, always in ipairs { "false", "true" } do
          local _, result = decided({ status = 200, headers = { ["Set-Cookie"] = two } }, { ["-always-set-cookie"] = always }, { answer = { status = status, headers = { ["Set-Cookie"] = "app=1" } } })
          assert.equal(status, result.status)
          assert.same((has or always == "true") and { "app=1", two[1], two[2] } or { "app=1" }, result.response.all["set-cookie"], status)
        end
      end
    end)
    it("come with denials only if always", function()
      local _, result = decided { status = 401, headers = { ["Set-Cookie"] = two } }
      assert.is_nil(result.response.headers["set-cookie"])
      _, result = decided({ status = 403, headers = { ["Set-Cookie"] = two } }, { ["-always-set-cookie"] = "true" })
      assert.same(two, result.response.all["set-cookie"])
      _, result = decided({ status = 401, headers = { ["Set-Cookie"] = two } }, { ["-signin"] = "http://login.test/" })
      assert.same(two, result.response.all["set-cookie"])
    end)
  end)

  describe("signing in", function()
    local function location(signin, request, parameter)
      local status, result = decided({ status = 401, headers = { ["WWW-Authenticate"] = "Negotiate" } }, { ["-signin"] = signin, ["-signin-redirect-param"] = parameter }, request)
      assert.equal(302, status)
      assert.is_nil(result.response.headers["www-authenticate"])
      assert.is_nil(result.sent)
      return result.response.headers.location
    end
    it("gets the visitor's own URL", function()
      local request = { uri = "/?a=b&c=d", host = "auth" }
      assert.equal("http://auth/auth/start?rd=http://auth%2F%3Fa%3Db%26c%3Dd", location("http://$host/auth/start", request))
      assert.equal("https://login.test/?x=1&rd=http://auth%2F%3Fa%3Db%26c%3Dd", location("https://login.test/?x=1", request))
      assert.equal("https://login.test/?to=http://auth%2F%3Fa%3Db%26c%3Dd", location("https://login.test/", request, "to"))
      assert.equal("https://login.test/?rd=%2F%3Fa%3Db%26c%3Dd", location("https://login.test/?rd=$escaped_request_uri", request))
      assert.equal("/start?rd=https://auth%2F%3Fa%3Db%26c%3Dd", location("/start", { uri = "/?a=b&c=d", host = "auth", scheme = "https" }))
      assert.equal("http://login.test/?p=/a%0D%0Ab&rd=http://auth%2Fa%250d%250ab", location("http://login.test/?p=$uri", { uri = "/a%0d%0ab", host = "auth" }))
    end)
    it("is for 401 only", function()
      assert.equal(403, (decided({ status = 403 }, { ["-signin"] = "http://login.test/" })))
      assert.equal(500, (decided({ status = 302 }, { ["-signin"] = "http://login.test/" })))
      local _, result = decided({ status = 200 }, { ["-signin"] = "http://login.test/" }, { answer = { status = 401 } })
      assert.equal(401, result.status)
    end)
    it("is for the 401 of other guards too", function()
      local other = { source = "local policy = { name = 'other', summary = 'x', guard = true, applies = 'always' } function policy.attach() return {} end "
        .. "function policy.access(exchange) return exchange:deny(401) end return policy" }
      local route, asked = guarded({ ["-url"] = URL, ["-signin"] = "http://login.test/" }, nil, { policies = { other, "external_auth.lua" } })
      local result = route:request {}
      assert.equal(302, result.status)
      assert.equal("http://login.test/?rd=http://example.test%2F", result.response.headers.location)
      assert.equal(0, #asked)
    end)
  end)

  describe("what is remembered", function()
    --- How often the service is asked for requests with these headers.
    local function questions(annotations, answer, ...)
      annotations["-url"], annotations["-cache-key"] = URL, annotations["-cache-key"] or "$cookie_s"
      local route, asked = guarded(annotations, answer)
      local statuses = {}
      for _, headers in ipairs { ... } do table.insert(statuses, route:request({ headers = headers }).status) end
      return #asked, statuses, route, asked
    end
    local ann, bob = { Cookie = "s=ann" }, { Cookie = "s=bob" }
    it("is told apart by the key", function()
      assert.equal(2, (questions({}, { status = 200 }, ann, bob, ann, bob)))
      assert.equal(1, (questions({ ["-cache-key"] = "fixed" }, { status = 200 }, ann, bob)))
      local count, statuses = questions({}, function(question) return { status = question.headers.cookie == "s=ann" and 200 or 401 } end, ann, bob, ann, bob)
      assert.equal(2, count)
      assert.same({ 200, 401, 200, 401 }, statuses)
    end)
    it("is not what nothing tells apart", function()
      for _, key in ipairs { "$cookie_s", "v1-$cookie_s", "${host}_$cookie_s", "$remote_addr$http_authorization$arg_token" } do
        assert.equal(2, (questions({ ["-cache-key"] = key }, { status = 200 }, {}, {})), key)
      end
      assert.equal(1, (questions({ ["-cache-key"] = "$host$cookie_t$cookie_s" }, { status = 200 }, ann, ann)))
      assert.equal(1, (questions({ ["-cache-key"] = "$remote_addr" }, { status = 200 }, {}, ann)))
    end)
    it("is not found by another's values that give the same text", function()
      local count = questions({ ["-cache-key"] = "$cookie_a$cookie_b" }, { status = 200 }, { Cookie = "a=ann; b=1" }, { Cookie = "a=an; b=n1" }, { Cookie = "a=ann1" }, { Cookie = "b=ann1" })
      assert.equal(4, count)
      assert.equal(1, (questions({ ["-cache-key"] = "${cookie_a}-${cookie_b}" }, { status = 200 }, { Cookie = "a=ann; b=1" }, { Cookie = "a=ann; b=1" })))
    end)
    it("is what the durations say", function()
      for status, count in pairs { [200] = 1, [202] = 1, [401] = 1, [204] = 2, [403] = 2, [500] = 2 } do assert.equal(count, (questions({}, { status = status }, ann, ann)), status) end
      assert.equal(1, (questions({ ["-cache-duration"] = "403 1m, 200 0s" }, { status = 403 }, ann, ann)))
      assert.equal(2, (questions({ ["-cache-duration"] = "403 1m, 200 0s" }, { status = 200 }, ann, ann)))
      assert.equal(1, (questions({ ["-cache-duration"] = "5m" }, { status = 200 }, ann, ann)))
      assert.equal(2, (questions({ ["-cache-duration"] = "5m" }, { status = 401 }, ann, ann)))
    end)
    it("is what was asked with the same fields of a ConfigMap", function()
      local function about(tenant)
        local annotations = { ["-url"] = URL, ["-cache-key"] = "$cookie_s", ["-proxy-set-headers"] = "extra" }
        local route = guarded(annotations, nil, { config_maps = { ["default/extra"] = { ["X-Tenant"] = tenant, ["X-More"] = "x" } } })
        return core.pack.decode(route.policies[1].route.config).about
      end
      assert.equal(about "one", about "one")
      assert.not_equal(about "one", about "two")
    end)
    it("is never no answer", function() assert.equal(2, (questions({}, function() return nil, "gone" end, ann, ann))) end)
    it("is not what the service wants forgotten", function()
      for _, headers in ipairs { { ["Set-Cookie"] = "a=b" }, { ["Cache-Control"] = "max-age=9, No-Store" }, { ["Cache-Control"] = "private" }, { ["Cache-Control"] = { "public", "no-cache" } },
        { ["Cache-Control"] = "max-age=0" },
        { Expires = "Thu, 01 Jan 1970 00:00:00 GMT" }, { ["X-Accel-Expires"] = "0" }, { Vary = "*" } } do
        assert.equal(2, (questions({}, { status = 200, headers = headers }, ann, ann)))
      end
      assert.equal(1, (questions({}, { status = 200, headers = { ["Cache-Control"] = "public, max-age=60", Expires = "0" } }, ann, ann)))
    end)
    it("depends on what the answer says it depends on", function()
      local answer = { status = 200, headers = { Vary = "Accept-Language, X-Team" } }
      local german, french = { Cookie = "s=ann", ["X-Team"] = "de" }, { Cookie = "s=ann", ["X-Team"] = "fr" }
      assert.equal(2, (questions({}, answer, german, german, french, french)))
    end)
    it("ends", function()
      local sleeper = { source = "local policy = { name = 'sleeper', summary = 'x', applies = 'always' } function policy.attach() return {} end "
        .. "function policy.rewrite(exchange) require('moongate').sleep(tonumber(exchange.request.headers:get('X-Sleep') or '0')) end return policy" }
      local route, asked = guarded({ ["-url"] = URL, ["-cache-key"] = "$cookie_s", ["-cache-duration"] = "200 20s" }, { status = 200, headers = { ["Cache-Control"] = "max-age=3000" } },
        { policies = { sleeper, "external_auth.lua" } })
      local counts = {}
      for _, seconds in ipairs { "0", "15", "15", "1" } do
        route:request { headers = { Cookie = "s=ann", ["X-Sleep"] = seconds } }
        table.insert(counts, #asked)
      end
      assert.same({ 1, 1, 2, 2 }, counts)
    end)
    it("has the answer's fields and challenges", function()
      local annotations = { ["-url"] = URL, ["-cache-key"] = "$cookie_s", ["-response-headers"] = "X-User,X-None" }
      local route, asked = guarded(annotations, function(question)
        return { status = question.headers.cookie == "s=ann" and 200 or 401, headers = { ["X-User"] = "ann\255\t\"", ["WWW-Authenticate"] = { "Basic", "Negotiate" } } }
      end)
      for _ = 1, 2 do
        local sent = route:request({ headers = { Cookie = "s=ann", ["X-User"] = "admin", ["X-None"] = "admin" } }).sent
        assert.equal("ann\255\t\"", sent.headers["x-user"])
        assert.is_nil(sent.headers["x-none"])
        assert.same({ "Basic", "Negotiate" }, route:request({ headers = bob }).response.all["www-authenticate"])
      end
      assert.equal(2, #asked)
    end)
  end)

  describe("of the settings", function()
    local GLOBAL = { ["global-auth-url"] = "http://global.test/", ["global-auth-method"] = "HEAD", ["global-auth-signin"] = "http://login.test/", ["global-auth-signin-redirect-param"] = "to",
      ["global-auth-response-headers"] = "X-User", ["global-auth-request-redirect"] = "http://back.test/", ["global-auth-cache-key"] = "$cookie_s", ["global-auth-cache-duration"] = "401 5m",
      ["global-auth-always-set-cookie"] = "true" }
    local function with(annotations, settings, more)
      more = more or {}
      more.settings = {}
      for name, value in pairs(GLOBAL) do more.settings[name] = value end
      for name, value in pairs(settings or {}) do more.settings[name] = value end
      return annotations, more
    end
    local function global(annotations, settings, answer, more)
      local given, rest = with(annotations, settings, more)
      return guarded(given, answer, rest)
    end
    it("guards every route, by all of its keys", function()
      local route, asked = global({}, {}, { status = 200, headers = { ["Set-Cookie"] = "a=b" } })
      local result = route:request { headers = { ["X-User"] = "admin" }, answer = { status = 404 } }
      assert.equal("HEAD", asked[1].method)
      assert.equal("http://global.test/", asked[1].url)
      assert.equal("http://back.test/", asked[1].headers["x-auth-request-redirect"])
      assert.is_nil(result.sent.headers["x-user"])
      assert.equal("a=b", result.response.headers["set-cookie"])
      route, asked = global({}, {}, { status = 401 })
      for _ = 1, 2 do assert.equal("http://login.test/?to=http://example.test%2F", route:request({ headers = { Cookie = "s=1" } }).response.headers.location) end
      assert.equal(1, #asked)
    end)
    it("does not where the Ingress has its own, wholly", function()
      local route, asked = global({ ["-url"] = URL }, {}, { status = 401 })
      local result = route:request { headers = { Cookie = "s=1" } }
      assert.equal(401, result.status)
      assert.equal("GET", asked[1].method)
      assert.equal(URL, asked[1].url)
    end)
    it("does not where enable-global-auth is false", function()
      local route, asked = global({ ["enable-global-auth"] = "false" }, {}, { status = 401 })
      assert.equal(200, route:request({}).status)
      assert.equal(0, #asked)
    end)
    it("does not on no-auth-locations", function()
      for path, exempt in pairs { ["/.well-known/acme-challenge"] = true, ["/.well-known/acme-challenge/x"] = true, ["/.well-known/acme-challenges"] = false,
        ["/.well-known"] = false, ["/"] = false, ["/open"] = false } do
        local route, asked = global({}, {}, { status = 403 }, { path = path })
        assert.equal(exempt and 200 or 403, route:request({ uri = path }).status, path)
        assert.equal(exempt and 0 or 1, #asked)
      end
      local route = global({}, { ["no-auth-locations"] = "/open , /other" }, { status = 403 }, { path = "/open" })
      assert.equal(200, route:request({ uri = "/open/x" }).status)
      route = global({}, { ["no-auth-locations"] = "/open" }, { status = 403 }) -- the rule's path counts, not the request's
      assert.equal(403, route:request({ uri = "/open/x" }).status)
      route = guarded({ ["-url"] = URL }, { status = 403 }, { path = "/open", settings = { ["no-auth-locations"] = "/open" } })
      assert.equal(200, route:request({ uri = "/open/x" }).status)
    end)
    it("closes where it cannot be read", function()
      for name, value in pairs { ["global-auth-url"] = "auth.test", ["global-auth-method"] = "BREW", ["global-auth-signin"] = "$nonsense", ["global-auth-response-headers"] = "a b",
        ["global-auth-cache-duration"] = "5m 200",
        ["global-auth-always-set-cookie"] = "maybe", ["global-auth-request-redirect"] = "$host", ["global-auth-cache-key"] = "a b", ["global-auth-snippet"] = "deny all;" } do
        local route = global({}, { [name] = value }, nil, { allow_findings = true })
        assert.equal(503, route:request({}).status, name)
        assert.matches(name, route.findings[1].text, 1, true)
      end
    end)
  end)

  describe("closes the route where", function()
    local maps = { ["default/good"] = { A = "b" }, ["default/name"] = { ["a b"] = "c" }, ["default/hop"] = { Connection = "close" }, ["default/value"] = { A = "b\nc" }, ["other/good"] = { A = "b" } }
    for text, annotations in pairs {
      ["auth-url: auth.test/check is not an http or https URL"] = { ["-url"] = "auth.test/check" },
      ["auth-url: ftp://auth.test/ is not an http or https URL"] = { ["-url"] = "ftp://auth.test/" },
      ["auth-url: http:///check is not an http or https URL"] = { ["-url"] = "http:///check" },
      ["auth-url: http://a..b/ has a host that is malformed"] = { ["-url"] = "http://a..b/" },
      ["auth-url: http://me:word@auth.test/ has a host that is malformed"] = { ["-url"] = "http://me:word@auth.test/" },
      ["auth-url: http://auth.test:70000/ has a host that is malformed"] = { ["-url"] = "http://auth.test:70000/" },
      ["auth-url: http://auth.test$request_uri has $request_uri in its host"] = { ["-url"] = "http://auth.test$request_uri" },
      ["auth-url: http://$arg_who/ has $arg_who in its host"] = { ["-url"] = "http://$arg_who/" },
      ["auth-url: http://${http_x_auth}.test/ has $http_x_auth in its host"] = { ["-url"] = "http://${http_x_auth}.test/" },
      ["auth-url: http://$1.test/ has $1 in its host"] = { ["-url"] = "http://$1.test/" },
      ["auth-url: http://auth.test/$nonsense has the unknown variable $nonsense"] = { ["-url"] = "http://auth.test/$nonsense" },
      ["auth-method: BREW is none of GET, HEAD, POST"] = { ["-url"] = URL, ["-method"] = "BREW" },
      ["auth-method: CONNECT is none of GET"] = { ["-url"] = URL, ["-method"] = "CONNECT" },
      ["auth-signin: $nonsense has the unknown variable"] = { ["-url"] = URL, ["-signin"] = "$nonsense" },
      ["auth-signin: javascript:x is neither a URL nor a path"] = { ["-url"] = URL, ["-signin"] = "javascript:x" },
      ["auth-signin-redirect-param: a&b has a form"] = { ["-url"] = URL, ["-signin-redirect-param"] = "a&b" },
      ["auth-response-headers: X A has the item X A, which is not a header name"] = { ["-url"] = URL, ["-response-headers"] = "X A" },
      ["auth-response-headers: has the item Transfer-Encoding, which is the connection's own field"] = { ["-url"] = URL, ["-response-headers"] = "X-A, Transfer-Encoding" },
      ["auth-request-redirect: http://$host/ has a form"] = { ["-url"] = URL, ["-request-redirect"] = "http://$host/" },
      ["auth-cache-key: a;b has a form"] = { ["-url"] = URL, ["-cache-key"] = "a;b" },
      ["auth-cache-duration: 5m 200 has the item 5m 200"] = { ["-url"] = URL, ["-cache-duration"] = "5m 200" },
      ["auth-always-set-cookie: yes is neither true nor false"] = { ["-url"] = URL, ["-always-set-cookie"] = "yes" },
      ["auth-keepalive: many is not a whole number"] = { ["-url"] = URL, ["-keepalive"] = "many" },
      ["enable-global-auth: off is neither true nor false"] = { ["enable-global-auth"] = "off" },
      ["auth-signin: has no effect without auth-url"] = { ["-signin"] = "http://login.test/" },
      ["auth-response-headers: has no effect without auth-url"] = { ["-response-headers"] = "X-User", ["-url"] = "" },
      ["auth-proxy-set-headers: none does not exist"] = { ["-url"] = URL, ["-proxy-set-headers"] = "none" },
      ["auth-proxy-set-headers: name has the key a b"] = { ["-url"] = URL, ["-proxy-set-headers"] = "name" },
      ["auth-proxy-set-headers: hop has the key Connection"] = { ["-url"] = URL, ["-proxy-set-headers"] = "hop" },
      ["auth-proxy-set-headers: value has a control character in the value of A"] = { ["-url"] = URL, ["-proxy-set-headers"] = "value" },
      ["auth-proxy-set-headers: other/good is in another namespace"] = { ["-url"] = URL, ["-proxy-set-headers"] = "other/good" },
    } do
      it(text, function()
        local route, asked = guarded(annotations, nil, { allow_findings = true, config_maps = maps })
        local texts = {}
        for _, finding in ipairs(route.findings) do table.insert(texts, finding.text) end
        assert.matches(text, table.concat(texts, "\n"), 1, true)
        assert.equal(503, route:request({}).status)
        assert.equal(0, #asked)
      end)
    end
    it("nothing is wrong with keep-alive's numbers, which have no effect", function()
      local route = guarded { ["-url"] = URL, ["-keepalive"] = "-1", ["-keepalive-requests"] = "0", ["-keepalive-timeout"] = "60", ["-keepalive-share-vars"] = "true" }
      assert.equal(200, route:request({}).status)
    end)
  end)
end)
