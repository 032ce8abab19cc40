-- The driver inside an owner state: which policies attach, what they are told, and what comes back.
local attach = require "moongate.attach"
local core = require "moongate.core"

local function driver_of(policies, fetch)
  if policies.name then policies = { policies } end
  local driver = attach.new { fetch = fetch }
  for _, policy in ipairs(policies) do assert(driver:load(policy, "policies/" .. policy.name .. ".lua")) end
  return driver
end

local function route_input(annotations, settings, change)
  local input = {
    host = { name = "shop.test", tls = true, listener = {}, sources = {
      { namespace = "ns", name = "ing", paths = { "/" }, annotations = annotations or {} } } },
    route = {
      path = "/", path_type = "Prefix", source = { kind = "Ingress", namespace = "ns", name = "ing" },
      upstreams = { { service = "web", port = "80", weight = 1, name = "ns-web-80" } }, alternatives = {},
    },
    annotations = annotations or {}, settings = settings or {},
  }
  for key, value in pairs(change or {}) do input[key] = value end
  return input
end

local function config_of(result) return core.pack.decode(result.config) end

local function policy(fields)
  local made = { name = "trial", summary = "Trial.", annotations = { ["a-number"] = { type = "integer", max = 9, default = 1 } } }
  for key, value in pairs(fields) do made[key] = value end
  made.attach = made.attach or function(_, annotations) return { number = annotations["a-number"] } end
  return made
end

describe("load", function()
  local function refusal(made)
    local description, problem = attach.new {}:load(made, "x.lua")
    assert.is_nil(description)
    return problem
  end

  it("describes a policy as plain data", function()
    local description = attach.new {}:load({
      name = "trial", summary = "Trial.", guard = true, annotations = { a = { type = "list", of = "integer", default = { 1 } } },
      attach = function() end, access = function() end, log = function() end,
    }, "x.lua")
    assert.equal("trial", description.name)
    assert.equal("x.lua", description.file)
    assert.is_true(description.guard)
    assert.same({ "access", "log" }, description.hooks)
    assert.is_true(description.attach)
    assert.is_false(description.attach_host)
    assert.same({ type = "list", of = "integer", default = { 1 } }, description.annotations.a)
    assert.equal("deny", description.on_error)
  end)

  it("refuses what is no policy, and says why", function()
    assert.equal("x.lua: returns a nil, not a policy", refusal(nil))
    assert.equal("x.lua: has no name (lower case, digits, dashes)", refusal {})
    assert.equal("x.lua: has the unknown field 'acess'", refusal { name = "a", acess = function() end })
    assert.equal("x.lua: has a 'access' that is not a function", refusal { name = "a", access = true })
    assert.equal("x.lua: is a guard and may not skip errors", refusal { name = "a", guard = true, on_error = "skip" })
    assert.equal("x.lua: has a rewrite hook and no attach", refusal { name = "a", rewrite = function() end })
    assert.equal("x.lua: has a server_rewrite hook and no attach_host", refusal { name = "a", server_rewrite = function() end })
    assert.equal("x.lua: has a wrong specification in 'annotations': b: has the unknown type 'bool'",
      refusal { name = "a", annotations = { b = { type = "bool" } } })
    assert.matches("is a guard, so that 'b' cannot have on_invalid", refusal {
      name = "a", guard = true, attach = function() end, access = function() end, annotations = { b = { type = "integer", on_invalid = "default" } } })
  end)

  it("replaces by name and keeps the old version of a file that does not load", function()
    local driver = driver_of(policy {})
    assert.is_nil((driver:load({ name = "trial", oops = 1 }, "x.lua")))
    assert.equal(3, config_of(driver:attach_route(route_input { ["a-number"] = "3" }).trial).number)
    driver:load(policy { attach = function() return { number = "new" } end }, "x.lua")
    assert.equal("new", config_of(driver:attach_route(route_input { ["a-number"] = "3" }).trial).number)
    driver:unload "trial"
    assert.same({}, driver:attach_route(route_input { ["a-number"] = "3" }))
  end)
end)

describe("which policies attach", function()
  it("is those whose annotations or aliases the route carries", function()
    local driver = driver_of(policy { annotations = { new = { type = "string", alias = "old" } }, attach = function(_, a) return { a.new } end })
    assert.same({}, driver:attach_route(route_input {}))
    assert.same({}, driver:attach_route(route_input { new = "" }))
    assert.same({ "x" }, config_of(driver:attach_route(route_input { old = "x" }).trial))
    assert.same({ "y" }, config_of(driver:attach_route(route_input { old = "x", new = "y" }).trial))
  end)

  it("is those that apply always", function()
    assert.equal(1, config_of(driver_of(policy { applies = "always" }):attach_route(route_input {}).trial).number)
  end)

  it("is those for which a setting differs from its default", function()
    local driver = driver_of(policy {
      annotations = { ["a-number"] = { type = "integer", setting = "a-number", default = 1 } }, settings = { code = { type = "integer", default = 308 } },
      attach = function(_, annotations, settings) return { annotations["a-number"], settings.code } end,
    })
    assert.same({}, driver:attach_route(route_input({}, { ["a-number"] = "1", code = "308" })))
    assert.same({ 5, 308 }, config_of(driver:attach_route(route_input({}, { ["a-number"] = "5" })).trial))
    assert.same({ 1, 301 }, config_of(driver:attach_route(route_input({}, { code = "301" })).trial))
    assert.same({ 7, 308 }, config_of(driver:attach_route(route_input({ ["a-number"] = "7" }, { ["a-number"] = "5" })).trial))
  end)

  it("takes host and settings from the attach_host before, and from no other host's", function()
    local fields = { annotations = { ["a-number"] = { type = "integer", scope = "host", setting = "a-number", default = 1 } } }
    local driver = driver_of(policy(fields))
    local function ask(host_name, annotations)
      return driver:attach_route(route_input(annotations, nil, { host_name = host_name, host = {}, settings = {} }))
    end
    driver:attach_host(route_input({ ["a-number"] = "3" }, {}))
    for _ = 1, 2 do assert.equal(3, config_of(ask("shop.test").trial).number) end
    driver:attach_host(route_input({}, { ["a-number"] = "5" }))
    assert.equal(5, config_of(ask("shop.test").trial).number)
    assert.equal(7, config_of(ask("shop.test", { ["a-number"] = "7" }).trial).number)
    assert.has_error(function() ask("other.test") end, "attach_route: the host before was not other.test")
  end)

  it("can be narrowed by name", function()
    local driver = driver_of { policy { name = "one" }, policy { name = "two" } }
    local results = driver:attach_route(route_input({ ["a-number"] = "3" }, {}, { only = { "two" } }))
    assert.is_nil(results.one)
    assert.is_table(results.two)
  end)

  it("is told which hooks a policy wants on the route", function()
    local function attached(...)
      local returned, count = { ... }, select("#", ...)
      local made = policy { attach = function() return unpack(returned, 1, count) end, access = function() end, log = function() end }
      return driver_of(made):attach_route(route_input { ["a-number"] = "3" }).trial
    end
    assert.is_nil(attached({ number = 1 }).hooks)
    assert.same({ log = true }, attached({ number = 1 }, { "log" }).hooks)
    assert.same({ log = true }, attached({ number = 1 }, { log = true, access = false }).hooks)
    assert.same({}, attached({ number = 1 }, {}).hooks)
    for _, case in ipairs {
      { { "rewrite" }, "attach chose a hook that the policy does not have there: rewrite" },
      { { "attach" }, "attach chose a hook that the policy does not have there: attach" },
      { { false }, "attach chose a hook that the policy does not have there: false" },
      { "log", "attach returned a string after its config, not its hooks" },
    } do
      local result = attached({ number = 1 }, case[1])
      assert.is_nil(result.config)
      assert.equal("spec/attach_spec.lua:130: " .. case[2], result.findings[1].text)
    end
  end)

  it("has no config for a policy that returns nothing", function()
    local result = driver_of(policy { attach = function() end }):attach_route(route_input { ["a-number"] = "3" }).trial
    assert.is_nil(result.config)
    assert.same({}, result.findings)
  end)
end)

describe("an invalid value", function()
  local function finding(spec, made)
    spec.type, spec.max, spec.default = "integer", 9, spec.default
    local fields = made or {}
    fields.annotations = { ["a-number"] = spec }
    local result = driver_of(policy(fields)):attach_route(route_input { ["a-number"] = "12" }).trial
    return result, result.findings[1]
  end

  it("is reported, and the default is used", function()
    local result, found = finding { default = 2 }
    assert.same({ level = "warn", text = "a-number: 12 is more than 9", annotation = "a-number", cause = "value" }, found)
    assert.equal(2, config_of(result).number)
  end)

  it("denies the route where the policy says so", function()
    local result, found = finding { on_invalid = "deny" }
    assert.equal("deny", found.level)
    assert.is_nil(result.config)
  end)

  it("refuses the object where the policy says so", function()
    local result = finding { on_invalid = "reject" }
    assert.equal("a-number: 12 is more than 9", result.rejected)
    assert.is_nil(result.config)
  end)

  it("denies for a guard, whatever else", function()
    local _, found = finding({}, { guard = true, access = function() end })
    assert.equal("deny", found.level)
  end)

  it("in a setting falls back to the default, but denies for a guard", function()
    local fields = {
      annotations = { list = { type = "integer", setting = "list", default = 1 } }, attach = function(_, a) return { a.list } end, applies = "always",
    }
    local result = driver_of(policy(fields)):attach_route(route_input({}, { list = "x" })).trial
    assert.same({ { level = "warn", text = "list: x is not a whole number", setting = "list" } }, result.findings)
    assert.same({ 1 }, config_of(result))
    fields.applies = nil
    result = driver_of(policy(fields)):attach_route(route_input({}, { list = "x" })).trial
    assert.equal("warn", result.findings[1].level)
    fields.guard, fields.access, fields.applies = true, function() end, nil
    result = driver_of(policy(fields)):attach_route(route_input({}, { list = "x" })).trial
    assert.equal("deny", result.findings[1].level)
  end)

  it("reports each item left out of a list", function()
    local result = driver_of(policy {
      annotations = { list = { type = "list", of = "integer", skip_invalid_items = true } }, attach = function(_, a) return a.list end,
    }):attach_route(route_input { list = "1,x,3" }).trial
    assert.same({ 1, 3 }, config_of(result))
    assert.equal("list: x is not a whole number", result.findings[1].text)
  end)

  it("is one whose required annotation is missing", function()
    local driver = driver_of(policy {
      annotations = { size = { type = "integer", requires = "subset", default = 3 }, subset = { type = "boolean" } },
      attach = function(_, a) return { a.size } end,
    })
    local result = driver:attach_route(route_input { size = "5" }).trial
    assert.equal("size: 5 has no effect without subset", result.findings[1].text)
    assert.same({ 3 }, config_of(result))
    assert.same({ 5 }, config_of(driver:attach_route(route_input { size = "5", subset = "true" }).trial))
  end)

  it("is one whose required annotation is missing, and closes a guard's route", function()
    local driver = driver_of(policy {
      guard = true, annotations = { key = { type = "string", requires = "lock" }, lock = { type = "boolean" } },
      attach = function() return {} end, access = function() end,
    })
    local result = driver:attach_route(route_input { key = "x" }).trial
    assert.same({ "deny", "key: x has no effect without lock" }, { result.findings[1].level, result.findings[1].text })
    assert.is_nil(result.config)
  end)

  it("is one above the allowed risk", function()
    local driver = driver_of(policy { annotations = { text = { type = "string", risk = "high" } } })
    assert.is_nil(driver:attach_route(route_input { text = "x" }).trial.rejected)
    assert.equal("text: x has the risk high, which annotations-risk-level does not allow",
      driver:attach_route(route_input({ text = "x" }, { ["annotations-risk-level"] = "Medium" })).trial.rejected)
  end)
end)

describe("scope host", function()
  it("takes the value of the oldest Ingress that sets it", function()
    local driver = driver_of(policy {
      annotations = { root = { type = "path", scope = "host" } },
      attach = function(_, a) return { a.root } end, attach_host = function(_, a) return { a.root } end, server_rewrite = function() end,
    })
    local input = route_input {}
    input.host.sources = {
      { namespace = "ns", name = "first", paths = {}, annotations = { root = "" } },
      { namespace = "ns", name = "second", paths = {}, annotations = { root = "/a" } },
      { namespace = "ns", name = "third", paths = {}, annotations = { root = "/b" } },
    }
    assert.same({ "/a" }, config_of(driver:attach_route(input).trial))
    assert.same({ "/a" }, config_of(driver:attach_host(input).trial))
    input.host.sources[2].annotations.root = "a"
    local result = driver:attach_host(input).trial
    assert.equal("root: a is not a path from the root", result.findings[1].text)
    assert.same({ namespace = "ns", name = "second" }, result.findings[1].source)
    assert.same({ "/b" }, config_of(result)) -- the next one's: its own is invalid, and nobody else's is
  end)
end)

describe("the host object", function()
  local function on_host(attach_host, annotations)
    local made = policy { annotations = { flag = { type = "boolean" } }, attach_host = attach_host, applies = "always" }
    local input = route_input(annotations)
    input.route = nil
    return driver_of(made):attach_host(input).trial
  end

  it("has facts, and sources with read annotations", function()
    on_host(function(host)
      assert.equal("shop.test", host.name)
      assert.is_true(host.tls)
      assert.is_true(host.sources[1].annotations.flag)
      assert.same({ "/" }, host.sources[1].paths)
    end, { flag = "t" })
  end)

  it("collects aliases, redirect hosts and settings", function()
    local result = on_host(function(host)
      host:add_alias "Other.test"
      host:add_redirect_host "www.shop.test"
      host:set("regex", true)
      host:warn "trial: x is odd"
    end)
    assert.same({ "other.test" }, result.aliases)
    assert.same({ "www.shop.test" }, result.redirect_hosts)
    assert.same({ regex = true }, result.set)
    assert.same({ { level = "warn", text = "trial: x is odd" } }, result.findings)
  end)

  it("refuses what it does not know", function()
    local function problem(attach_host) return on_host(attach_host).findings[1].text end
    assert.matches("host:set: 'regexx' is not a setting of hosts", problem(function(host) host:set("regexx", true) end))
    assert.matches("host:set: regex expects true or false", problem(function(host) host:set("regex", 1) end))
    assert.matches("host:add_alias: 'a b' is not a host name", problem(function(host) host:add_alias "a b" end))
    assert.matches("host.nam: there is no such member", problem(function(host) return host.nam end))
  end)
end)

describe("the route object", function()
  local function on_route(attach_route, settings, fetch)
    local made = policy { attach = attach_route, applies = "always" }
    return driver_of(made, fetch):attach_route(route_input({}, settings)).trial
  end
  local function problem(attach_route) return on_route(attach_route).findings[1].text end

  it("has facts", function()
    local result = on_route(function(route)
      assert.equal("/", route.path)
      assert.equal("Prefix", route.path_type)
      assert.equal("ing", route.source.name)
      assert.equal("ns-web-80", route.upstreams[1].name)
      assert.equal("shop.test", route.host.name)
      assert.is_true(route.host.tls)
    end)
    assert.same({}, result.findings)
  end)

  it("takes settings of the right name and type only", function()
    local result = on_route(function(route)
      route:set("read_timeout", 5)
      route:set("body_limit", 1024)
      route:set("balancer", "hash")
      route:set("hash_by", "$host")
      route:set("retry_on", { "error", "http_502" })
      route:set("access_log", false)
    end)
    assert.same({
      read_timeout = 5, body_limit = 1024, balancer = "hash", hash_by = "$host", retry_on = { "error", "http_502" }, access_log = false,
    }, result.set)
    assert.matches("attach_spec.lua:%d+: route:set: 'read_timeot' is not a setting of routes", problem(function(route) route:set("read_timeot", 5) end))
    assert.matches("route:set: read_timeout expects seconds .*, not 5s", problem(function(route) route:set("read_timeout", "5s") end))
    assert.matches("route:set: access_log expects true or false", problem(function(route) route:set("access_log", "off") end))
    assert.matches("route:set: balancer expects round_robin", problem(function(route) route:set("balancer", "ring") end))
    assert.matches("route:set: hash_by is given '$nothing', which has the unknown variable",
      problem(function(route) route:set("hash_by", "$nothing") end), 1, true)
  end)

  it("takes templates as text or as values", function()
    local result = on_route(function(route)
      route:set("upstream_host", core.value("template", "in.$host"))
      route:set_request_header("X-Host", core.value("template", "$host"))
    end)
    assert.equal("in.$host", result.set.upstream_host)
    assert.same({ { kind = "set_request", name = "X-Host", value = "$host" } }, result.edits)
  end)

  it("collects header edits", function()
    local result = on_route(function(route)
      route:remove_request_header "X-A"
      route:set_response_header("X-B", "b")
      route:add_response_header("X-C", "$host", "https")
      route:remove_response_header "X-D"
    end)
    assert.same({
      { kind = "remove_request", name = "X-A" },
      { kind = "set_response", name = "X-B", value = "b", when = "always" },
      { kind = "add_response", name = "X-C", value = "$host", when = "https" },
      { kind = "remove_response", name = "X-D", when = "always" },
    }, result.edits)
    assert.matches("'X A' is not a header name", problem(function(route) route:set_request_header("X A", "b") end))
    assert.matches("text with a line break", problem(function(route) route:set_request_header("X-A", "b\r\nc: d") end))
    assert.matches("expects a value", problem(function(route) route:set_request_header "X-A" end))
    assert.matches("'often' is none of always, success, https", problem(function(route) route:set_response_header("X-A", "b", "often") end))
  end)

  it("gives handles to other Services", function()
    local result = on_route(function(route) return { upstream = route:upstream "new:80", again = route:upstream "new:80" } end)
    assert.same({ "ns/new/80" }, result.upstreams)
    assert.same({ { name = "ns/new/80", namespace = "ns", service = "new", port = "80" } }, result.services)
    assert.is_string(result.config)
    assert.matches("route:upstream: expects name:port, not nil", problem(function(route) route:upstream(nil) end))
  end)

  it("reads objects of its own namespace, and remembers them even when they are missing", function()
    local data = { ["ns/users"] = { auth = "a:b" }, ["other/users"] = { auth = "c:d" } }
    local function fetch(kind, namespace, name)
      assert.equal("secret", kind)
      local found = data[namespace .. "/" .. name]
      if found then return found end
      return nil, "does not exist"
    end
    local function read(route)
      local own, other, other_problem = route:secret "users", route:secret "other/users"
      local missing, problem_text = route:secret "nobody"
      return { own = own.auth, other = other and other.auth, other_problem = other_problem, missing = missing, problem = problem_text }
    end
    local result = on_route(read, {}, fetch)
    assert.same({ own = "a:b", other_problem = "is in another namespace (see allow-cross-namespace-resources)", problem = "does not exist" }, config_of(result))
    assert.same({ "ns/users", "ns/nobody" }, result.secrets)
    result = on_route(read, { ["allow-cross-namespace-resources"] = "true" }, fetch)
    assert.equal("c:d", config_of(result).other)
    assert.same({ "ns/users", "other/users", "ns/nobody" }, result.secrets)
  end)

  it("reports and denies", function()
    local result = on_route(function(route) route:warn "a: b is odd"; route:deny "a: b is worse" end)
    assert.same({ { level = "warn", text = "a: b is odd" }, { level = "deny", text = "a: b is worse" } }, result.findings)
  end)

  it("is closed when attach has returned", function()
    local kept
    on_route(function(route) kept = route end)
    assert.has_error(function() kept:set("read_timeout", 1) end, "route:set: only while the policy is being attached")
  end)

  it("cannot be changed from outside, nor its host be set", function()
    assert.matches("route.path: cannot be assigned", problem(function(route) route.path = "/x" end))
    assert.matches("host:set: only in attach_host", problem(function(route) route.host:set("regex", true) end))
    on_route(function(route) assert.is_false(getmetatable(route)) end)
    assert.matches("call it with a colon, route:set", problem(function(route) route.set("read_timeout", 1) end))
  end)
end)

describe("a policy that errs", function()
  it("is told by what the core would refuse: nobody else's routes are to go with it", function()
    for set, complaint in pairs {
      ["'protocol', 'ftp'"] = 'protocol: has the unknown value "ftp"', ["'satisfy', 'some'"] = 'satisfy: has the unknown value "some"',
      ["'retry_on', { 'nope' }"] = 'retry_on: "nope" is not a reason to retry', ["'retry_tries', -1"] = "retry_tries: -1 is not between 0 and 2147483647",
      ["'connect_timeout', 1e9"] = "connect_timeout: is not between 0 and 4294967 seconds",
    } do
      local code = loadstring("return function(route) route:set(" .. set .. ") end", "@set.lua")()
      local result = driver_of(policy { attach = code }):attach_route(route_input { ["a-number"] = "3" }).trial
      assert.equal("set.lua:1: route:set: " .. complaint, result.findings[1].text)
      assert.same({}, result.set)
    end
  end)

  it("is named by its own line, not by the library's", function()
    for _, call in ipairs { "route:set_request_header('X Y', 'a')", "route:upstream('A:80')", "route:warn(nil)", "route:set('fallback_upstream', 'A')",
      "route:set_response_header('X', 'a', 'sometimes')", "route:set('balancer', 'x')", "route:secret(1)" } do
      local code = loadstring("return function(route)\n" .. call .. "\nend", "@misuse.lua")()
      local result = driver_of(policy { attach = code }):attach_route(route_input { ["a-number"] = "3" }).trial
      assert.matches("^misuse.lua:2: route:", result.findings[1].text)
    end
    local driver = driver_of(policy { attach_host = function(host) host:add_alias "a b" end, server_rewrite = function() end, applies = "always" })
    assert.matches("^spec/attach_spec.lua:%d+: host:add_alias", driver:attach_host(route_input {}).trial.findings[1].text)
  end)

  it("while its annotations are read hurts no other either", function()
    local bad = policy { name = "bad" }
    local driver = driver_of { bad, policy { name = "good" } }
    bad.annotations["a-number"].min = {} -- nothing that a file can do; so would a mistake of the library's
    local results = driver:attach_route(route_input { ["a-number"] = "3" })
    assert.matches("its annotations cannot be read", results.bad.findings[1].text)
    assert.is_nil(results.bad.config)
    assert.equal(3, config_of(results.good).number)
  end)

  it("is not on the route, and hurts no other", function()
    local driver = driver_of {
      policy { name = "bad", attach = function(route) route:set("access_log", false); error "oops" end }, policy { name = "good" },
    }
    local results = driver:attach_route(route_input { ["a-number"] = "3" })
    assert.is_nil(results.bad.config)
    assert.same({}, results.bad.set)
    assert.equal("error", results.bad.findings[1].level)
    assert.matches("attach_spec.lua:%d+: oops", results.bad.findings[1].text)
    assert.equal(3, config_of(results.good).number)
  end)

  it("denies if it is a guard", function()
    local driver = driver_of(policy { guard = true, access = function() end, attach = function() error({}) end })
    local result = driver:attach_route(route_input { ["a-number"] = "3" }).trial
    assert.equal("deny", result.findings[1].level)
    assert.matches("^spec/attach_spec.lua:%d+: attach raised a table$", result.findings[1].text)
  end)

  it("includes one whose config cannot be stored", function()
    for code, text in pairs {
      [{ f = print }] = "f: is not plain data: a function",
      [{ a = { { b = { c = coroutine.create(print) } } } }] = "a.b.c: is not plain data: a thread",
      [{ a = { [1.5] = 1 } }] = "a: a table has a number key that is not of an array without gaps",
    } do
      local result = driver_of(policy { attach = function() return code end }):attach_route(route_input { ["a-number"] = "3" }).trial
      assert.is_nil(result.config)
      assert.matches("^spec/attach_spec.lua:%d+: attach returned a config that cannot be stored: " .. text .. "$", result.findings[1].text)
    end
  end)
end)
