-- Settings of guards that change for the worse: who guarded goes on as before, and nothing is opened.
local kube = require "spec.kube_support"

local WEB = kube.service("web") .. "---\n" .. kube.slice("web")
local GOOD = "http://auth.test/check"

local function settings(data)
  local lines = {}
  for key, value in pairs(data) do lines[#lines + 1] = ("  %s: %q\n"):format(key:gsub("_", "-"), value) end
  return "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata:" .. (#lines > 0 and "\n" .. table.concat(lines) or " {}\n")
end

local function start(data, annotations)
  local run = kube.start { flags = { configmap = "default/settings" },
    files = { ["a.yaml"] = kube.ingress { annotations = annotations } .. "---\n" .. WEB, ["s.yaml"] = settings(data) } }

  --- What a policy's access hook was told on the route, or "closed" or "open".
  function run.guard(name)
    local route = run.units["host shop.test"].routes[1]
    if route.denied then return "closed" end
    for _, hook in ipairs((route.hooks or {}).access or {}) do
      if hook.policy == (name or "external-auth") then return hook.config end
    end
    return "open"
  end

  function run.set(changed) return run.change("s.yaml", settings(changed)) end
  return run
end


describe("settings of a guard", function()
  teardown(kube.clean)

  it("that cannot be read leave those that stood, all of them", function()
    local run = start { global_auth_url = GOOD, global_auth_method = "HEAD" }
    local stood = run.guard()
    assert.equal("HEAD", stood.method)
    for _, bad in ipairs {
      { global_auth_url = "auth.test/check" }, { global_auth_url = "http://$nonsense/" }, { global_auth_url = GOOD, global_auth_method = "BREW" },
      { global_auth_url = "http://other.test/", global_auth_signin = "javascript:x" }, { global_auth_url = GOOD, global_auth_snippet = "allow all;" },
    } do
      run.set(bad)
      assert.same(stood, run.guard())
      assert.matches("error .*global%-auth%-.* %(external%-auth goes on with the settings that it had%)", run.findings())
      assert.is_nil(run.findings():find("deny", 1, true))
    end
    run.set { global_auth_url = "https://other.test/" }
    assert.equal("https://", run.guard().scheme)
    assert.is_nil(run.findings():find("external-auth", 1, true))
    run.set {}
    assert.equal("open", run.guard())
  end)

  it("that cannot be read close where none stood", function()
    assert.equal("closed", start({ global_auth_url = "auth.test" }).guard())
    local run = start {}
    assert.equal("open", run.guard())
    run.set { global_auth_url = "auth.test" }
    assert.equal("closed", run.guard())
    run.set { global_auth_url = "auth2.test" }
    assert.equal("closed", run.guard())
    run.set { global_auth_url = GOOD }
    assert.is_table(run.guard())
    run.set { global_auth_url = "auth.test" }
    assert.is_table(run.guard())
  end)

  it("are each guard's own, and nobody else's values wait for them", function()
    local run = start { global_auth_url = GOOD, whitelist_source_range = "10.0.0.0/8" }
    local stood = run.guard "access-lists"
    run.set { global_auth_url = GOOD, global_auth_method = "HEAD", whitelist_source_range = "10.0.0.0/33", proxy_read_timeout = "7" }
    assert.same(stood, run.guard "access-lists")
    assert.equal("HEAD", run.guard().method)
    assert.equal(7, run.units["host shop.test"].routes[1].settings.read_timeout)
    run.change("b.yaml", kube.ingress { name = "late", host = "late.test" }) -- what comes later is guarded too
    assert.is_nil(run.units["host late.test"].routes[1].denied)
    assert.equal(2, #run.units["host late.test"].routes[1].hooks.access)
  end)

  it("are looked at again when the policies change", function()
    local policy = [[
local policy = { name = "gate", summary = "A trial.", guard = true, settings = { ["gate-mode"] = { type = "enum", values = { %s } } } }
function policy.attach(_, _, settings) if settings["gate-mode"] then return { mode = settings["gate-mode"] } end end
function policy.access() end
return policy
]]
    local run = kube.start { flags = { configmap = "default/settings" }, policies = { ["gate.lua"] = policy:format("'a', 'b'") },
      files = { ["a.yaml"] = kube.ingress {} .. "---\n" .. WEB, ["s.yaml"] = settings { gate_mode = "a" } } }
    local function mode()
      local route = run.units["host shop.test"].routes[1]
      return route.denied and "closed" or route.hooks.access[1].config.mode
    end
    run.change("s.yaml", settings { gate_mode = "c" })
    assert.equal("a", mode())
    run.change_policy("gate.lua", policy:format("'a', 'c'"))
    assert.equal("c", mode())
    run.change_policy("gate.lua", policy:format("'b'"))
    assert.equal("closed", mode())
  end)
end)
