-- What policies that guard a route say together: `satisfy`, order, errors, other hooks between them.
-- luacheck: no max line length
local testing = require "moongate.testing"

--- A policy with an access hook.
local function policy(name, code, more)
  return { trusted = more and more.trusted, source = ("local policy = { name = %q, summary = 'x', applies = 'always', %s }\n"
    .. "function policy.attach() return {} end\nfunction policy.access(exchange) %s end\nreturn policy"):format(name, more and more.fields or "guard = true", code) }
end

local function satisfied(how)
  return { source = ("return { name = 'how', summary = 'x', applies = 'always', attach = function(route) route:set('satisfy', %q) end }"):format(how) }
end

local ALLOW, NOTHING, ERROR = "return exchange:allow()", "", "error('broken')"
local function DENY(status) return ("return exchange:deny(%d, 'not you')"):format(status) end

--- The status that guards make together. A text is a guard's code.
local function status(how, ...)
  local list = { satisfied(how) }
  for i, guard in ipairs { ... } do list[#list + 1] = type(guard) == "table" and guard or policy("guard-" .. i, guard) end
  local result = testing.route { policies = list }:request {}
  return result.status, result
end

describe("guards", function()
  it("under satisfy all need no opinion or an allow from each", function()
    assert.equal(200, (status("all", NOTHING)))
    assert.equal(200, (status("all", ALLOW, NOTHING, ALLOW)))
    assert.equal(403, (status("all", ALLOW, DENY(403))))
    assert.equal(401, (status("all", DENY(401), ALLOW, DENY(403)))) -- the first denial
    assert.equal(500, (status("all", ERROR, ALLOW)))
    assert.equal(500, (status("all", ALLOW, ERROR)))
  end)

  it("under satisfy any need one that allows, if one denies", function()
    assert.equal(200, (status("any", NOTHING, NOTHING)))
    assert.equal(200, (status("any", DENY(401), ALLOW)))
    assert.equal(200, (status("any", ALLOW, DENY(401))))
    assert.equal(200, (status("any", DENY(401), ALLOW, DENY(403))))
    assert.equal(403, (status("any", DENY(401), DENY(403)))) -- the last denial
    assert.equal(401, (status("any", DENY(401), NOTHING)))
    assert.equal(401, (status("any", NOTHING, DENY(401))))
    assert.equal(500, (status("any", DENY(401), ERROR)))
    assert.equal(500, (status("any", ERROR, NOTHING)))
    assert.equal(401, (status("any", ERROR, DENY(401))))
    assert.equal(200, (status("any", ERROR, ALLOW)))
  end)

  it("are not asked any more once one of any has allowed", function()
    local _, result = status("any", ALLOW, "exchange.request.headers:set('X-Asked', '1')")
    assert.is_nil(result.sent.headers["x-asked"])
    _, result = status("all", ALLOW, "exchange.request.headers:set('X-Asked', '1')")
    assert.equal("1", result.sent.headers["x-asked"])
  end)

  it("deny with a redirect or an answer of their own too", function()
    local redirect, respond = "return exchange:redirect(302, 'https://login.test/')", "return exchange:respond { status = 200, body = 'login' }"
    assert.equal(302, (status("all", ALLOW, redirect)))
    assert.equal(302, (status("any", DENY(401), redirect)))
    assert.equal(401, (status("any", redirect, DENY(401))))
    local code, result = status("any", redirect, ALLOW)
    assert.equal(200, code)
    assert.equal("hello", result.response.body)
    code, result = status("any", respond)
    assert.equal(200, code)
    assert.equal("login", result.response.body)
    assert.is_nil(result.sent)
  end)

  it("of different owners decide together", function()
    assert.equal(200, (status("any", policy("a", DENY(401), { trusted = true }), policy("b", ALLOW))))
    assert.equal(403, (status("any", policy("a", DENY(401)), policy("b", DENY(403), { trusted = true }))))
  end)

  it("decide before what comes after the last of them, and for nobody else", function()
    local mark = policy("mark", "exchange.request.headers:set('X-Mark', '1')", { fields = "" })
    local _, result = status("any", DENY(401), ALLOW, mark)
    assert.equal("1", result.sent.headers["x-mark"])
    assert.equal(401, (status("any", DENY(401), policy("after", "error('not to be run')", { fields = "" }))))
    -- an allow of a policy that guards nothing is no opinion
    assert.equal(401, (status("any", DENY(401), policy("other", ALLOW, { fields = "" }))))
    assert.equal(401, (status("any", policy("other", ALLOW, { fields = "" }), DENY(401))))
    -- its denial is one, whatever guards say
    assert.equal(404, (status("any", policy("other", "return exchange:deny(404)", { fields = "" }), ALLOW)))
  end)

  it("show the reason of a denial in the log only", function()
    local _, result = status("all", DENY(503))
    assert.is_nil(result.response.body:find("not you", 1, true))
    assert.matches("not you", table.concat(result.log))
  end)

  it("that say something else deny", function()
    assert.equal(500, (status("all", "return true")))
    assert.equal(500, (status("any", "return 'allow'")))
  end)

  it("may not skip their errors", function()
    assert.has_error(function() status("all", policy("a", ALLOW, { fields = "guard = true, on_error = 'skip'" })) end, "policy2.lua: is a guard and may not skip errors")
  end)
end)
