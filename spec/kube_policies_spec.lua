-- Policy files: each stands alone, in its order, and a changed one is attached anew where it matters.
local kube = require "spec.kube_support"

local WEB = kube.service("web") .. "---\n" .. kube.slice("web")

local function policy(name, more, attach)
  return ([[
local policy = { name = %q, summary = "A trial.", annotations = { [%q] = { type = "string" } } %s }
function policy.attach(route, annotations) if annotations[%q] then %s return { text = annotations[%q] } end end
function policy.rewrite() end
return policy
]]):format(name, name .. "-text", more and ", " .. more or "", name .. "-text", attach or "", name .. "-text")
end

local function order_of(run)
  local list = {}
  for i, one in ipairs(run.units["policies policies"].policies) do list[i] = one.name end
  return list
end

local function place_of(list, name)
  for i, one in ipairs(list) do
    if one == name then return i end
  end
end

local function hooks_of(run, host, phase)
  local names = {}
  for i, hook in ipairs((run.units["host " .. host].routes[1].hooks or {})[phase] or {}) do names[i] = hook.policy end
  return names
end

local FILES = {
  ["a.yaml"] = kube.ingress { annotations = { ["one-text"] = "hello" } },
  ["b.yaml"] = kube.ingress { name = "other", host = "other.test" },
  ["w.yaml"] = WEB,
}

describe("mounted policies", function()
  teardown(kube.clean)

  it("are attached, and sent with their source", function()
    local run = kube.start { files = FILES, policies = { ["one.lua"] = policy "one" } }
    local hooks = run.units["host shop.test"].routes[1].hooks.rewrite
    local found
    for _, hook in ipairs(hooks) do found = hook.policy == "one" and hook or found end
    assert.same({ text = "hello" }, found.config)
    local list = run.units["policies policies"].policies
    assert.equal("one", list[#list].name)
    assert.equal(run.policies, list[#list].owner)
    assert.is_false(list[#list].trusted)
    assert.matches("A trial", list[#list].source)
  end)

  it("are published anew in one message with the hosts that they touch", function()
    local run = kube.start { files = FILES, policies = { ["one.lua"] = policy "one" } }
    local before = #run.messages
    local seen = run.change_policy("one.lua", policy("one", nil, "route:set('read_timeout', 3)"))
    assert.equal(before + 1, #run.messages)
    assert.is_table(seen["upsert policies policies"])
    assert.equal(3, seen["upsert host shop.test"].routes[1].settings.read_timeout)
    assert.is_nil(seen["upsert host other.test"])
    run.change_policy("one.lua", nil)
    assert.is_nil(place_of(hooks_of(run, "shop.test", "rewrite"), "one"))
    assert.is_nil(place_of(order_of(run), "one"))
  end)

  it("keep their version before when the new one does not load", function()
    local run = kube.start { files = FILES, policies = { ["one.lua"] = policy "one", ["two.lua"] = policy "two" } }
    local seen = run.change_policy("one.lua", "return {\n  name = 'one'\n  summary = 'x' }\n")
    assert.is_nil(seen["upsert policies policies"])
    assert.matches("one.lua:3: .*%(the version before stays%)", run.findings())
    run.change_policy("two.lua", policy("two", nil, "route:set('read_timeout', 3)"))
    assert.is_truthy(place_of(hooks_of(run, "shop.test", "rewrite"), "one"))
    run.change_policy("one.lua", policy("one", nil, "route:set('read_timeout', 4)"))
    assert.equal(4, run.units["host shop.test"].routes[1].settings.read_timeout)
    assert.not_matches("one.lua", run.findings())
  end)

  it("keep their version before when the new one does not attach where that one did", function()
    local run = kube.start { files = FILES, policies = { ["one.lua"] = policy "one", ["two.lua"] = policy "two" } }
    local seen = run.change_policy("one.lua", policy("one", nil, "error 'oops'"))
    assert.is_nil(seen["upsert policies policies"])
    assert.matches("one.lua:2: oops %(host shop.test%) %(the version before stays%)", run.findings())
    assert.is_truthy(place_of(hooks_of(run, "shop.test", "rewrite"), "one"))
    run.change_policy("two.lua", policy("two", "applies = 'always'", "")) -- others go on, over the version that stays
    assert.is_truthy(place_of(hooks_of(run, "shop.test", "rewrite"), "one"))
    assert.matches("oops", run.findings())
    run.change_policy("one.lua", policy("one", nil, "route:set('read_timeout', 4)"))
    assert.equal(4, run.units["host shop.test"].routes[1].settings.read_timeout)
    assert.not_matches("one.lua", run.findings())
  end)

  it("are not kept from changing by an Ingress on which the version before raised too", function()
    local function touchy(value)
      return policy("one", nil, "if annotations['one-text'] == 'bad' then error 'oops' end route:set('read_timeout', " .. value .. ")")
    end
    local bad = kube.ingress { name = "bad", host = "bad.test", annotations = { ["one-text"] = "bad" } }
    local files = { ["a.yaml"] = FILES["a.yaml"], ["w.yaml"] = WEB, ["bad.yaml"] = bad }
    local run = kube.start { files = files, policies = { ["one.lua"] = touchy(3) } }
    assert.matches("Ingress default/bad: .*one.lua:2: oops", run.findings())
    run.change_policy("one.lua", touchy(4))
    assert.equal(4, run.units["host shop.test"].routes[1].settings.read_timeout)
    assert.matches("Ingress default/bad: .*one.lua:2: oops", run.findings())
    assert.not_matches("the version before stays", run.findings())
  end)

  it("that are broken from the start are left out; one with a built-in's name closes where that would be", function()
    local run = kube.start { policies = { ["rewrite.lua"] = "return nothing(", ["mine.lua"] = "error('x')" }, files = {
      ["a.yaml"] = kube.ingress { annotations = { ["rewrite-target"] = "/new" }, paths = { { "/old" } } },
      ["b.yaml"] = kube.ingress { name = "other", host = "other.test" }, ["w.yaml"] = WEB } }
    assert.matches("rewrite", run.units["host shop.test"].routes[1].denied)
    assert.is_nil(run.units["host other.test"].routes[1].denied)
    assert.matches("error [^\n]*mine.lua", run.findings())
    assert.is_nil(place_of(order_of(run), "rewrite"))
    run.change_policy("rewrite.lua", nil)
    assert.is_nil(run.units["host shop.test"].routes[1].denied)
    assert.is_truthy(place_of(order_of(run), "rewrite"))
  end)

  it("replace a built-in by its name, in its place", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { annotations = { ["hsts-text"] = "x" } } }, policies = { ["hsts.lua"] = policy "hsts" } }
    local list = run.units["policies policies"].policies
    local order = order_of(run)
    assert.equal(run.policies, list[place_of(order, "hsts")].owner)
    local plain = kube.start {}
    assert.equal(place_of(order_of(plain), "hsts"), place_of(order, "hsts"))
    assert.is_truthy(place_of(hooks_of(run, "shop.test", "rewrite"), "hsts"))
  end)

  it("go where before and after say; unknown names and cycles refuse a file", function()
    local run = kube.start { policies = {
      ["early.lua"] = policy("early", "before = { 'rewrite' }"), ["late.lua"] = policy("late", "after = { 'early' }, before = { 'rewrite' }"),
      ["unknown.lua"] = policy("unknown", "before = { 'no-such' }"),
      ["x.lua"] = policy("x", "before = { 'y' }"), ["y.lua"] = policy("y", "before = { 'x' }"),
    } }
    local order = order_of(run)
    assert.is_true(place_of(order, "early") < place_of(order, "late"))
    assert.is_true(place_of(order, "late") < place_of(order, "rewrite"))
    for _, name in ipairs { "unknown", "x", "y" } do assert.is_nil(place_of(order, name)) end
    assert.matches('unknown.lua: before or after names "no-such"', run.findings(), 1, true)
    assert.matches("x.lua: before and after form a cycle", run.findings(), 1, true)
  end)

  it("may refuse an Ingress, whose last accepted version stays", function()
    local strict = [[
local policy = { name = "strict", summary = "x", annotations = { ["strict-number"] = { type = "integer", max = 9, on_invalid = "reject" } } }
function policy.attach(route, annotations) end
return policy
]]
    local function ingress(number, path) return kube.ingress { annotations = { ["strict-number"] = number }, paths = { { path } } } end
    local run = kube.start { files = { ["a.yaml"] = ingress("1", "/one"), ["w.yaml"] = WEB }, policies = { ["strict.lua"] = strict } }
    run.change("a.yaml", ingress("99", "/two"))
    assert.equal("/one", run.units["host shop.test"].routes[1].path)
    assert.matches("error a.yaml:1: Ingress default/shop: strict%-number: .* is more than 9.*the version before stays", run.findings())
    run.change("a.yaml", ingress("2", "/three"))
    assert.equal("/three", run.units["host shop.test"].routes[1].path)
    assert.equal("", run.findings())
    run.change("b.yaml", kube.ingress { name = "bad", host = "bad.test", annotations = { ["strict-number"] = "99" } })
    assert.is_nil(run.units["host bad.test"])
  end)

  it("see Secrets and ConfigMaps, and are attached again when those change", function()
    local reader = [[
local policy = { name = "reader", summary = "x", annotations = { ["reader-map"] = { type = "config_map" } } }
function policy.attach(route, annotations)
  local data, problem = route:config_map(annotations["reader-map"])
  if not data then route:deny("reader-map: " .. tostring(problem)) return end
  return { text = data.text }
end
function policy.rewrite() end
return policy
]]
    local run = kube.start { policies = { ["reader.lua"] = reader }, files = { ["a.yaml"] = kube.ingress { annotations = { ["reader-map"] = "texts" } },
      ["w.yaml"] = WEB } }
    assert.matches("does not exist", run.units["host shop.test"].routes[1].denied)
    run.change("m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: texts }\ndata: { text: one }\n")
    local route = run.units["host shop.test"].routes[1]
    assert.is_nil(route.denied)
    run.change("m.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: texts }\ndata: { text: two }\n")
    route = run.units["host shop.test"].routes[1]
    local config
    for _, hook in ipairs(route.hooks.rewrite) do config = hook.policy == "reader" and hook.config or config end
    assert.same({ text = "two" }, config)
  end)

  it("lead to other upstreams, which are sent too", function()
    local other = [[
local policy = { name = "other", summary = "x", annotations = { ["other-service"] = { type = "service" } } }
function policy.attach(route, annotations)
  if annotations["other-service"] then return { upstream = route:upstream(annotations["other-service"]) } end
end
function policy.access() end
return policy
]]
    local run = kube.start { policies = { ["other.lua"] = other }, files = { ["a.yaml"] = kube.ingress { annotations = { ["other-service"] = "new:80" } },
      ["w.yaml"] = WEB .. "---\n" .. kube.service("new") .. "---\n" .. kube.slice("new", "10.0.0.9") } }
    assert.equal("10.0.0.9", run.units["upstream default/new/80"].endpoints[1].ip)
    run.change("a.yaml", kube.ingress {})
    assert.is_nil(run.units["upstream default/new/80"])
  end)

  it("do not hold up object changes while they are attached", function()
    local run = kube.start { files = FILES, policies = { ["one.lua"] = policy "one" } }
    kube.write(run.policies .. "/one.lua", policy("one", nil, "route:set('read_timeout', 3)"))
    run.sync:change { run.policies .. "/one.lua" } -- attached in slices: nothing is published yet
    kube.write(run.directory .. "/a.yaml", kube.ingress { annotations = { ["one-text"] = "changed" } })
    local first = #run.messages
    run.sync:change { run.directory .. "/a.yaml" }
    assert.equal(first + 1, #run.messages)
    assert.not_equal(3, run.units["host shop.test"].routes[1].settings.read_timeout)
    while run.sync:work(1) do end
    assert.equal(3, run.units["host shop.test"].routes[1].settings.read_timeout)
  end)
end)
