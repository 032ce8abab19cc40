-- luacheck: no max line length
-- Canary Ingresses: which routes get their Services as alternatives, and what else they leave alone.
local kube = require "spec.kube_support"

local WEB = kube.service("web") .. "---\n" .. kube.slice("web") .. "---\n" .. kube.service("new") .. "---\n" .. kube.slice("new", "10.0.0.9")

--- A canary for the host and paths of kube.ingress {}.
local function canary(options)
  options = options or {}
  options.name = options.name or "canary"
  options.paths = options.paths or { { "/" } }
  for _, path in ipairs(options.paths) do path.service = options.service or "new" end
  options.annotations = options.annotations or {}
  options.annotations.canary = options.annotations.canary or "true"
  return kube.ingress(options)
end

local function start(...)
  return kube.start { files = { ["a.yaml"] = table.concat({ WEB, ... }, "---\n") } }
end

--- The upstreams of each route: path=upstream,upstream
local function routes(run, host)
  local list = {}
  for i, route in ipairs((run.units["host " .. (host or "shop.test")] or {}).routes or {}) do
    local names = {}
    for k, upstream in ipairs(route.upstreams) do names[k] = upstream.name:match("/([^/]+)/") end
    list[i] = route.path .. "=" .. table.concat(names, ",")
  end
  return table.concat(list, " ")
end

describe("a canary", function()
  teardown(kube.clean)

  it("offers an alternative for a rule of the same host, path and type", function()
    local run = start(kube.ingress { paths = { { "/" }, { "/a" }, { "/a", type = "Exact" } } }, canary { paths = { { "/a" } } })
    assert.equal("/=web /a=web,new /a=web", routes(run))
    assert.equal("", run.findings())
    assert.is_table(run.units["upstream default/new/80"])
    local route = run.units["host shop.test"].routes[2]
    assert.same({ { upstream = { service = "new", port = "80", name = "default-new-80" }, source = { kind = "Ingress", namespace = "default", name = "canary" } } },
      route.facts.alternatives)
    assert.equal("shop", route.source.name)
    assert.equal("canary", route.hooks.access[#route.hooks.access].policy)
  end)

  it("makes no host and no route", function()
    local run = start(canary {})
    assert.is_nil(run.units["host shop.test"])
    assert.is_nil(run.units["upstream default/new/80"])
    assert.matches("warn [^\n]*Ingress default/canary: canary: has no effect: no other Ingress has host shop.test", run.findings())
    run = start(kube.ingress { paths = { { "/a" } } }, canary { paths = { { "/b" }, { "/" } } })
    assert.equal("/a=web /=", routes(run))
    assert.matches("canary: has no effect: no other Ingress has a rule of host shop.test, path /b %(prefix%)", run.findings())
    assert.matches("canary: has no effect on host shop.test, path /: the rule that it names leads to no Service", run.findings())
  end)

  it("comes and goes with its Ingress, and with what the Ingress says", function()
    local run = start(kube.ingress {})
    assert.equal("/=web", routes(run))
    run.change("c.yaml", canary {})
    assert.equal("/=web,new", routes(run))
    run.change("c.yaml", canary { annotations = { canary = "false" } }) -- a second Ingress for the path
    assert.equal("/=web", routes(run))
    assert.matches("path / of host shop.test is ignored", run.findings())
    run.change("c.yaml", canary { annotations = { canary = "true", ["canary-weight"] = "5" } })
    assert.equal("/=web,new", routes(run))
    run.change("c.yaml", canary { host = "other.test" })
    assert.equal("/=web", routes(run))
    run.change("a.yaml", WEB .. "---\n" .. kube.ingress { host = "other.test" })
    assert.is_nil(run.units["host shop.test"])
    assert.equal("/=web,new", routes(run, "other.test"))
    run.change("c.yaml", nil)
    assert.equal("/=web", routes(run, "other.test"))
    assert.equal("", run.findings())
    assert.is_nil(run.units["upstream default/new/80"])
  end)

  it("is one of several, the oldest first", function()
    local more = kube.service("third") .. "---\n" .. kube.slice("third")
    local run = start(kube.ingress {}, canary { name = "young", created = "2026-03-01T00:00:00Z" }, more,
      canary { name = "old", service = "third", created = "2026-02-01T00:00:00Z" })
    assert.equal("/=web,third,new", routes(run))
  end)

  it("does not lead where the rule leads, nor twice to the same Service", function()
    local run = start(kube.ingress {}, canary { service = "web" })
    assert.equal("/=web", routes(run))
    assert.matches("canary: has no effect on host shop.test, path /: the rule that it names leads to the same Service", run.findings())
    run = start(kube.ingress {}, canary { name = "one", created = "2026-02-01T00:00:00Z" }, canary { name = "two", created = "2026-03-01T00:00:00Z" })
    assert.equal("/=web,new", routes(run))
    assert.matches("Ingress default/two: canary: has no effect on host shop.test, path /: Ingress default/one leads to the same Service", run.findings())
  end)

  it("says nothing about the rest of its host, nor about the Service that it leads to", function()
    local run = start(kube.ingress {}, canary { annotations = { canary = "true", ["server-alias"] = "alias.test", ["use-regex"] = "true", affinity = "cookie",
      ["auth-url"] = "http://auth.test/", ["load-balance"] = "nonsense" } }, kube.ingress { name = "direct", host = "direct.test", paths = { { "/", service = "new" } } })
    assert.is_nil(run.units["host alias.test"])
    assert.is_false(run.units["host shop.test"].regex)
    assert.is_nil(run.units["host shop.test"].routes[1].denied)
    assert.is_nil(run.units["host direct.test"].routes[1].hooks.balancer)
    assert.equal("", run.findings())
  end)

  it("tells its owner what is wrong with it", function()
    local run = start(kube.ingress {}, canary { annotations = { canary = "true", ["canary-weight"] = "much", ["canary-by-header-value"] = "x" } })
    assert.matches("warn [^\n]*Ingress default/canary: canary%-weight: much is not a whole number", run.findings())
    assert.matches("warn [^\n]*Ingress default/canary: canary%-by%-header%-value: x has no effect without canary%-by%-header", run.findings())
    assert.equal("/=web,new", routes(run))
  end)

  it("is refused alone when it is too risky", function()
    local run = kube.start { flags = { configmap = "default/settings" }, files = { ["a.yaml"] = WEB .. "---\n" .. kube.ingress {} .. "---\n"
      .. canary { annotations = { canary = "true", ["canary-by-header"] = "X-A" } },
      ["c.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: { annotations-risk-level: Low }\n" } }
    assert.equal("/=web", routes(run))
    assert.matches("error [^\n]*Ingress default/canary: canary%-by%-header: X%-A has the risk medium[^\n]*refused", run.findings())
  end)

  it("offers an alternative to a default backend", function()
    local function default(name, service, canary_value)
      local annotations = canary_value and "annotations: { nginx.ingress.kubernetes.io/canary: 'true' }" or "annotations: {}"
      return ("apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: { name: %s, %s }\nspec: { ingressClassName: nginx, "
        .. "defaultBackend: { service: { name: %s, port: { number: 80 } } } }\n"):format(name, annotations, service)
    end
    assert.equal("/=web,new", routes(start(default("main", "web"), default("canary", "new", true)), "_"))
  end)

  it("is seen again when policies change", function()
    local run = kube.start { policies = {}, files = { ["a.yaml"] = WEB .. "---\n" .. kube.ingress {} .. "---\n"
      .. canary { annotations = { canary = "true", ["lab-share"] = "5" } } } }
    assert.equal("/=web,new", routes(run))
    run.change_policy("lab.lua", [[
      return { name = "lab", summary = "x", annotations = { ["lab-share"] = { type = "integer", scope = "alternative", doc = "x" } },
        attach = function(route)
          route:set_request_header("X-Share", tostring(route.alternatives[1].annotations["lab-share"]))
        end }]])
    local edits = run.units["host shop.test"].routes[1].edits
    assert.same({ kind = "set_request", name = "X-Share", value = "5", when = "always" }, edits[#edits])
  end)
end)
