-- luacheck: no max line length
local testing = require "moongate.testing"
local moongate = require "moongate"

local BCRYPT = "$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e" -- correct horse
local APR1 = "$apr1$saltsalt$EGVZDNN6gOqijy.tv9axG/" -- the same
local FILE = "# users\nann:" .. BCRYPT .. "\nbob:{PLAIN}b:secret:comment\n\ncid:" .. APR1 .. "\nann:{PLAIN}second\nbad:nohash\n  dan:{PLAIN}d \r\n"

local function gate(annotations, more)
  local all = { ["auth-type"] = "basic", ["auth-secret"] = "users" }
  for name, value in pairs(annotations or {}) do all[name] = value or nil end
  local spec = { policy = "basic_auth.lua", annotations = all, allow_findings = true, secrets = { ["default/users"] = { auth = FILE }, ["other/users"] = { auth = FILE },
    ["default/map"] = { ann = BCRYPT .. "\n", bob = "{PLAIN}b" }, ["default/empty"] = { auth = "\n# nobody\n" }, ["default/odd"] = { users = FILE } } }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function authorization(name, password)
  return "Basic " .. moongate.base64.encode(name .. ":" .. password)
end

local function status(route, name, password)
  local result = route:request { headers = { Authorization = name and authorization(name, password) } }
  return result.status, result
end

describe("basic-auth", function()
  it("lets in who knows a name and its password", function()
    local route = gate()
    assert.equal(200, (status(route, "ann", "correct horse")))
    assert.equal(200, (status(route, "ann", "correct horse"))) -- and again, by what is remembered
    assert.equal(200, (status(route, "cid", "correct horse")))
    assert.equal(200, (status(route, "bob", "b")))
    assert.equal(200, (status(route, "dan", "d")))
    for _, pair in ipairs { { "ann", "wrong" }, { "ann", "" }, { "ann", "second" }, { "ANN", "correct horse" }, { "bob", "b:secret" }, { "bad", "nohash" }, { "nobody", "x" }, { "", "" },
      { "# users\nann", "correct horse" }, { "cid", "Correct horse" } } do
      assert.equal(401, (status(route, pair[1], pair[2])), pair[1])
    end
  end)

  it("asks who does not say, or not so that it can be read", function()
    local route = gate { ["auth-realm"] = "The shop: staff" }
    local code, result = status(route)
    assert.equal(401, code)
    assert.equal('Basic realm="The shop: staff"', result.response.headers["www-authenticate"])
    assert.is_nil(result.sent)
    for _, header in ipairs { "Basic", "Basic ", "Basic !!!", "Bearer abc", "Basic " .. moongate.base64.encode("ann"), "Digest username=ann", "basicann:x" } do
      assert.equal(401, route:request({ headers = { Authorization = header } }).status, header)
    end
    assert.equal(200, route:request({ headers = { Authorization = authorization("ann", "correct horse"):gsub("Basic", "bAsIc ") } }).status)
    assert.equal(400, route:request({ headers = { Authorization = { authorization("bob", "b"), authorization("ann", "wrong") } } }).status)
    assert.equal('Basic realm=""', select(2, status(gate())).response.headers["www-authenticate"])
  end)

  it("reads what hand and program write", function()
    local file = "first:{PLAIN}f\r\n#out:{PLAIN}o\r\n\r\nann:{PLAIN}a b\r\ntail :{PLAIN}t\r\nempty:\r\n:{PLAIN}x\r\nlatin\233:{PLAIN}\255\254\r\nsha: {SHA}L55TUjtiq8FBorTWAZ0jy6g129A= \r\nlast:{PLAIN}l"
    local route = gate(nil, { secrets = { ["default/users"] = { auth = file } } })
    for _, pair in ipairs { { "first", "f" }, { "ann", "a b" }, { "tail ", "t" }, { "latin\233", "\255\254" }, { "sha", "correct horse" }, { "last", "l" } } do
      assert.equal(200, (status(route, pair[1], pair[2])), pair[1])
    end
    for _, pair in ipairs { { "#out", "o" }, { "out", "o" }, { "ann", "a" }, { "tail", "t" }, { "empty", "" }, { "", "x" }, { "last", "l\0" } } do
      assert.equal(401, (status(route, pair[1], pair[2])), pair[1])
    end
  end)

  it("takes as long for a name that is not there as for a wrong password", function()
    local slow = BCRYPT:gsub("%$04%$", "$10$")
    local route = gate(nil, { secrets = { ["default/users"] = { auth = "quick:{PLAIN}q\nbad:nohash\nslow:" .. slow } } })
    local function cost(name) -- of the whole process, its pool's threads too
      local least = math.huge
      for i = 1, 3 do
        local began = os.clock()
        assert.equal(401, (status(route, name, "wrong" .. i)))
        least = math.min(least, os.clock() - began)
      end
      return least
    end
    local known = cost("slow")
    for _, name in ipairs { "nobody", "bad" } do assert.is_true(cost(name) > known / 2, name) end
    assert.equal(401, (status(gate(nil, { secrets = { ["default/users"] = { auth = "ann:" .. BCRYPT } } }), "nobody", "correct horse")))
  end)

  it("keeps names and passwords from the application", function()
    local code, result = status(gate(), "bob", "b")
    assert.equal(200, code)
    assert.is_nil(result.sent.headers.authorization)
    assert.is_nil(result.response.headers["www-authenticate"])
    assert.matches("%- bob %[", result.log[#result.log])
  end)

  it("leaves the application's own 401 as it is", function()
    local route = gate(nil, { answer = { status = 401, headers = { ["WWW-Authenticate"] = "Own" } } })
    assert.equal("Own", select(2, status(route, "bob", "b")).response.headers["www-authenticate"])
  end)

  it("reads a user from each key of a Secret", function()
    local route = gate { ["auth-secret"] = "map", ["auth-secret-type"] = "auth-map" }
    assert.equal(200, (status(route, "ann", "correct horse")))
    assert.equal(200, (status(route, "bob", "b")))
    assert.equal(401, (status(route, "auth", "x")))
  end)

  it("closes the route when it cannot be set up", function()
    for _, case in ipairs {
      { { ["auth-type"] = "digest" }, "auth-type: digest is none of basic" },
      { { ["auth-type"] = "Basic" }, "auth-type: Basic is none of basic" },
      { { ["auth-type"] = false }, "auth-secret: users has no effect without auth-type" },
      { { ["auth-type"] = "" }, "auth-secret: users has no effect without auth-type" },
      { { ["auth-type"] = false, ["auth-secret"] = false, ["auth-realm"] = "x" }, "auth-realm: x has no effect without auth-type" },
      { { ["auth-secret"] = false }, "auth-secret: is missing, and auth-type needs it" },
      { { ["auth-secret"] = "gone" }, "auth-secret: gone does not exist" },
      { { ["auth-secret"] = "other/users" }, "auth-secret: other/users is in another namespace (see allow-cross-namespace-resources)" },
      { { ["auth-secret"] = "odd" }, "auth-secret: odd has no key auth" },
      { { ["auth-secret"] = "a b" }, "auth-secret: a b is not the name of an object" },
      { { ["auth-secret-type"] = "file" }, "auth-secret-type: file is none of auth-file, auth-map" },
      { { ["auth-realm"] = 'a"b' }, 'auth-realm: a"b has a form that is not allowed here' },
    } do
      local route = gate(case[1])
      assert.equal(503, (status(route, "ann", "correct horse")), case[2])
      assert.equal(case[2], route.findings[1].text)
      assert.equal("deny", route.findings[1].level)
    end
    assert.equal(200, (status(gate({ ["auth-secret"] = "other/users" }, { settings = { ["allow-cross-namespace-resources"] = "true" } }), "bob", "b")))
  end)

  it("says whose hash is none, and lets nobody in by it", function()
    local route = gate()
    assert.same({ "auth-secret: users has a hash of an unknown form: the user bad does not get in" }, { route.findings[1].text, route.findings[2] })
    local lines = {}
    for i = 1, 1000 do lines[i] = ("user%04d:$y$hash"):format(i) end
    route = gate(nil, { secrets = { ["default/users"] = { auth = table.concat(lines, "\n") .. "\nodd\1:{SHA}x\nann:" .. BCRYPT } } })
    assert.equal("auth-secret: users has a SHA hash that is malformed: the user odd? does not get in", route.findings[1].text)
    assert.equal("auth-secret: users has a hash of an unknown form: the users user0001, user0002, user0003 and 997 others do not get in", route.findings[2].text)
    assert.is_nil(route.findings[3])
    route = gate { ["auth-secret"] = "empty" }
    assert.equal("auth-secret: empty has no user: nobody gets in", route.findings[1].text)
    assert.equal(401, (status(route, "ann", "correct horse")))
  end)

  it("asks nobody on the paths of a setting", function()
    local at = function(path, settings) return (status(gate(nil, { path = path, path_type = "ImplementationSpecific", settings = settings }))) end
    assert.equal(401, at("/"))
    assert.is_nil(gate(nil, { path = "/.well-known/acme-challenge" }).policies[1].route.config)
    assert.is_nil(gate(nil, { path = "/.well-known/acme-challenge/x" }).policies[1].route.config)
    assert.is_truthy(gate(nil, { path = "/.well-known/acme-challenges" }).policies[1].route.config)
    assert.is_truthy(gate(nil, { path = "/.well-known/acme-challenge/|/admin" }).policies[1].route.config)
    assert.is_nil(gate(nil, { path = "/open/x", settings = { ["no-auth-locations"] = "/open, /free/" } }).policies[1].route.config)
    assert.is_nil(gate(nil, { path = "/free/x", settings = { ["no-auth-locations"] = "/open, /free/" } }).policies[1].route.config)
  end)

  it("is one of several guards", function()
    local function ask(satisfy, client, name)
      local route = testing.route { policies = { "satisfy.lua", "access_lists.lua", "basic_auth.lua" }, secrets = { ["default/users"] = { auth = FILE } }, allow_findings = true,
        annotations = { ["auth-type"] = "basic", ["auth-secret"] = "users", satisfy = satisfy, ["whitelist-source-range"] = "10.0.0.0/8" } }
      local result = route:request { client = client, headers = { Authorization = name and authorization(name, "correct horse") } }
      return result.status .. (result.response.headers["www-authenticate"] and " asks" or "")
    end
    assert.equal("200", ask("any", "10.0.0.1"))
    assert.equal("200", ask("any", "192.0.2.1", "ann"))
    assert.equal("401 asks", ask("any", "192.0.2.1"))
    assert.equal("401 asks", ask("any", "192.0.2.1", "nobody"))
    assert.equal("403", ask("all", "192.0.2.1", "ann"))
    assert.equal("401 asks", ask("all", "10.0.0.1"))
    assert.equal("200", ask("all", "10.0.0.1", "ann"))
  end)
end)

describe("password.verify", function()
  local function probe(code, phase)
    return testing.route { source = ([[
      local moongate = require "moongate"
      local policy = { name = "probe", summary = "x", applies = "always", attach = function() return {} end }
      function policy.%s(exchange)
        local function probe() %s end
        local values = { probe() }
        for i = 1, 2 do values[i] = tostring(values[i]) end
        return exchange:respond { body = table.concat(values, " ") }
      end
      return policy]]):format(phase or "access", code) }
  end
  local function seen(code) return probe(code):request({}).response.body end

  it("says whether it is the password", function()
    assert.equal("true nil", seen(("return moongate.password.verify(%q, 'correct horse')"):format(BCRYPT)))
    assert.equal("false nil", seen(("return moongate.password.verify(%q, 'other')"):format(BCRYPT)))
    assert.equal("false nil", seen(("return moongate.password.verify(%q, ('x'):rep(1000))"):format(BCRYPT)))
    assert.equal("true nil", seen("return moongate.password.verify('{PLAIN}x', 'x')"))
    assert.equal("nil has a hash of an unknown form", seen("return moongate.password.verify('x', 'x')"))
    assert.equal("nil nil", seen(("return moongate.password.complaint(%q)"):format(APR1)))
  end)

  it("remembers what was right, and nothing else", function()
    assert.equal("true false", seen(([[
      local verify = moongate.password.verify
      verify(%q, "correct horse")
      local again = verify(%q, "correct horse")
      return again, (verify(%q, "correct hors"))]]):format(BCRYPT, BCRYPT, BCRYPT)))
  end)

  it("only where one may wait", function()
    local result = probe("return moongate.password.verify('{PLAIN}x', 'x')", "header_filter"):request {}
    assert.equal(500, result.status)
    assert.matches("password.verify: not in header_filter", table.concat(result.log))
  end)
end)
