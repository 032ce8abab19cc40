-- From files to messages: what one change sends, and what a broken one leaves alone.
local kube = require "spec.kube_support"

local WEB = kube.service("web") .. "---\n" .. kube.slice("web")

local function count(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  return table.concat(keys, ", ")
end

local function certificate(name)
  local directory = kube.directory()
  kube.run(("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=%s "
    .. "-addext 'subjectAltName=DNS:%s' -keyout %s/k -out %s/c 2>/dev/null"):format(
    name, name, directory, directory))
  return kube.native.read(directory .. "/c"), kube.native.read(directory .. "/k")
end

local function secret(name, cert, key)
  local function block(text) return "    " .. text:gsub("\n(.)", "\n    %1") end
  return ("apiVersion: v1\nkind: Secret\nmetadata: { name: %s }\nstringData:\n  tls.crt: |\n%s  tls.key: |\n%s"):format(name, block(cert), block(key))
end

describe("the sync", function()
  teardown(kube.clean)

  it("begins with settings and policies even when there is nothing", function()
    local run = kube.start {}
    assert.equal(1, #run.messages)
    assert.equal("policies policies, settings settings", count(run.units))
    assert.is_true(#run.units["policies policies"].policies > 5)
    assert.equal("builtin", run.units["policies policies"].policies[1].owner)
  end)

  it("makes hosts and upstreams, all in the first message", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress {} .. "---\n" .. WEB } }
    assert.equal(1, #run.messages)
    local host = run.units["host shop.test"]
    assert.equal("/", host.routes[1].path)
    assert.equal("prefix", host.routes[1].type)
    assert.same({ kind = "Ingress", namespace = "default", name = "shop" }, host.routes[1].source)
    assert.equal("default/web/80", host.routes[1].upstreams[1].name)
    assert.same({ { ip = "10.0.0.1", port = 8080, ready = true, draining = false } }, run.units["upstream default/web/80"].endpoints)
    assert.equal("", run.findings())
  end)

  it("sends what a change touches and nothing else", function()
    local run = kube.start { files = { ["i.yaml"] = kube.ingress {} .. "---\n" .. kube.ingress { name = "other", host = "other.test" },
      ["s.yaml"] = kube.service "web",
      ["e.yaml"] = kube.slice "web" } }
    assert.equal("upsert upstream default/web/80", count(run.change("e.yaml", kube.slice("web", "10.0.0.1, 10.0.0.2"))))
    assert.equal("", count(run.change("e.yaml", "# only a comment\n" .. kube.slice("web", "10.0.0.1, 10.0.0.2"))))
    assert.equal("upsert host shop.test", count(run.change("i.yaml", kube.ingress { paths = { { "/" }, { "/x" } } } .. "---\n"
      .. kube.ingress { name = "other", host = "other.test" })))
    assert.equal("delete host shop.test", count(run.change("i.yaml", kube.ingress { name = "other", host = "other.test" })))
    assert.equal("delete host other.test, delete upstream default/web/80", count(run.change("i.yaml", nil)))
  end)

  it("keeps the version before of what is broken, and goes on with the rest", function()
    local good = kube.ingress {}
    local run = kube.start { files = { ["a.yaml"] = good .. "---\n" .. WEB } }
    assert.equal("", count(run.change("a.yaml", good .. "  bad: [\n---\n" .. WEB)))
    assert.matches("error a.yaml:%d+: .*%(the version before stays%)", run.findings())
    assert.equal("", count(run.change("a.yaml", good:gsub("number: 80", "number: 0") .. "---\n" .. WEB)))
    assert.matches("error a.yaml:1: Ingress default/shop: spec.rules[0].http.paths[0].backend.service.port.number: is 0", run.findings(), 1, true)
    assert.equal("upsert upstream default/web/80", count(run.change("a.yaml", "{\n---\n" .. kube.service("web") .. "---\n" .. kube.slice("web", "10.0.0.7"))))
    assert.is_table(run.units["host shop.test"])
    assert.equal("", count(run.change("a.yaml", good .. "---\n" .. kube.service("web") .. "---\n" .. kube.slice("web", "10.0.0.7"))))
    assert.equal("", run.findings())
  end)

  it("refuses the second of two objects of one name, and takes it when the first is gone", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { host = "a.test" }, ["b.yaml"] = "# two\n" .. kube.ingress { host = "b.test" } } }
    assert.is_table(run.units["host a.test"])
    assert.is_nil(run.units["host b.test"])
    assert.matches("error b.yaml:2: Ingress default/shop: is there twice: .*/?a.yaml:1 %(document 1%) counts, .*/?b.yaml:2 %(document 1%) is refused",
      run.findings())
    assert.equal("delete host a.test, upsert host b.test", (count(run.change("a.yaml", nil)):gsub(", [^,]*upstream[^,]*", "")))
    assert.not_matches("twice", run.findings())
  end)

  it("reads Lists and JSON", function()
    local run = kube.start { files = {
      ["list.yaml"] = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: { name: web }\n  spec: { ports: [{ port: 80 }] }\n",
      ["ingress.json"] = '{"apiVersion":"networking.k8s.io/v1","kind":"Ingress","metadata":{"name":"j","labels":null},"spec":'
        .. '{"rules":[{"host":"json.test","http":{"paths":'
        .. '[{"path":"/","pathType":"Prefix","backend":{"service":{"name":"web","port":{"number":80}}}}]}}]}}' } }
    assert.is_table(run.units["host json.test"])
    assert.not_matches("does not exist", run.findings())
  end)

  it("follows classes", function()
    local class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: { name: nginx }\nspec: { controller: %s }\n"
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { class = "nginx" } } }
    assert.is_table(run.units["host shop.test"])
    run.change("c.yaml", class:format("example.com/other"))
    assert.is_nil(run.units["host shop.test"])
    assert.matches('info a.yaml:1: Ingress default/shop: is ignored: its class "nginx" belongs to the controller "example.com/other"', run.findings(), 1, true)
    run.change("c.yaml", class:format("k8s.io/ingress-nginx"))
    assert.is_table(run.units["host shop.test"])
  end)

  it("warns of a Service without a slice and of one that is not there", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { paths = { { "/" }, { "/no", service = "none" } } } .. "---\n" .. kube.service("web") } }
    assert.is_true(run.units["upstream default/web/80"].missing)
    assert.matches("warn a.yaml:%d+: Service default/web: has no EndpointSlice.-kind: EndpointSlice", run.findings())
    assert.matches("warn Service default/none: does not exist", run.findings())
  end)

  it("serves certificates, and keeps the one before when a Secret breaks", function()
    local cert, key = certificate "shop.test"
    local spec = "  tls: [{ hosts: [shop.test], secretName: cert }]\n"
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { spec = spec } .. "---\n" .. WEB, ["s.yaml"] = secret("cert", cert, key) } }
    local host = run.units["host shop.test"]
    assert.is_true(host.tls)
    assert.equal("default/cert", host.certificate)
    assert.equal(cert, run.units["certificate default/cert"].certificate)
    local cert2, key2 = certificate "shop.test"
    assert.equal("upsert certificate default/cert", count(run.change("s.yaml", secret("cert", cert2, key2))))
    assert.equal("", count(run.change("s.yaml", secret("cert", "junk\n", "junk\n"))))
    assert.matches("warn s.yaml:1: Secret default/cert: is not usable.*the certificate before stays", run.findings())
    local other, other_key = certificate "other.test"
    assert.equal("delete certificate default/cert, upsert host shop.test", count(run.change("s.yaml", secret("cert", other, other_key))))
    assert.is_nil(run.units["host shop.test"].certificate)
    assert.is_true(run.units["host shop.test"].tls)
    assert.matches("Secret default/cert does not cover the host: shop.test gets the default certificate", run.findings())
  end)

  it("closes routes whose guard has no policy", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { annotations = { ["auth-tls-secret"] = "default/ca" } } .. "---\n"
      .. kube.ingress { name = "open",
      paths = { { "/open" } } } .. "---\n" .. WEB } }
    local by_path = {}
    for _, route in ipairs(run.units["host shop.test"].routes) do by_path[route.path] = route.denied or "open" end
    assert.same({ ["/"] = "auth-tls-secret: no policy for it yet", ["/open"] = "open" }, by_path)
    assert.matches("deny a.yaml:1: Ingress default/shop: auth-tls-secret: is not supported yet", run.findings(), 1, true)
    run.change("a.yaml", kube.ingress { annotations = { ["auth-tls-secret"] = "" } } .. "---\n" .. WEB) -- an empty value counts as none
    assert.is_nil(run.units["host shop.test"].routes[1].denied)
  end)

  it("says once which object is not there", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { annotations = { ["auth-type"] = "basic", ["auth-secret"] = "none" } } .. "---\n" .. WEB } }
    assert.equal("auth-secret: none does not exist", run.units["host shop.test"].routes[1].denied)
  end)

  it("reads its settings live, and closes everything where a setting asks for a guard", function()
    local function map(data) return "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: " .. data .. "\n" end
    local run = kube.start { flags = { configmap = "default/settings" }, files = { ["a.yaml"] = kube.ingress {} .. "---\n" .. WEB,
      ["c.yaml"] = map '{ keep-alive: "10" }' },
      -- A replacement that does not read the setting.
      policies = { ["external_auth.lua"] = "return { name = 'external-auth', summary = 'x' }" } }
    assert.equal(10000, run.units["settings settings"].keep_alive_ms)
    local seen = run.change("c.yaml", map '{ keep-alive: "20", nonsense: "1" }')
    assert.equal(20000, seen["upsert settings settings"].keep_alive_ms)
    assert.matches("warn c.yaml:1: ConfigMap default/settings: nonsense: is not a known setting", run.findings(), 1, true)
    run.change("c.yaml", map '{ global-auth-url: "http://auth.test" }')
    assert.matches("global%-auth%-url", run.units["host shop.test"].routes[1].denied)
    run.change("c.yaml", map '{ keep-alive: "20" }')
    assert.is_nil(run.units["host shop.test"].routes[1].denied)
    run.change("h.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: heads }\ndata: { X-One: 'a $host', 'bad name': x }\n")
    seen = run.change("c.yaml", map '{ proxy-set-headers: default/heads }')
    assert.same({ { kind = "set_request", name = "X-One", value = "a $host", when = "always" } }, seen["upsert settings settings"].edits)
    assert.matches('"bad name" is not a header\'s name', run.findings(), 1, true)
    seen = run.change("h.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: heads }\ndata: { X-Two: b }\n")
    assert.equal("X-Two", seen["upsert settings settings"].edits[1].name)
  end)

  it("judges paths as strict-validate-path-type says, also at start", function()
    local function map(data) return "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: " .. data .. "\n" end
    local run = kube.start { flags = { configmap = "default/settings" }, files = { ["a.yaml"] = kube.ingress { paths = { { "/a(b)" } } } .. "---\n" .. WEB,
      ["c.yaml"] = map '{ strict-validate-path-type: "false" }' } }
    assert.matches("info a.yaml:1: [^\n]*Prefix paths hold", run.findings())
    run.change("c.yaml", map '{ keep-alive: "10" }')
    assert.matches("warn a.yaml:1: [^\n]*Prefix paths hold", run.findings())
    run.change("c.yaml", map '{ strict-validate-path-type: "false" }')
    assert.matches("info a.yaml:1: [^\n]*Prefix paths hold", run.findings())
    run.change("a.yaml", kube.ingress {} .. "---\n" .. WEB)
    assert.not_matches("Prefix paths hold", run.findings())
  end)

  it("warns of a setting that would refuse requests and is not supported", function()
    local run = kube.start { flags = { configmap = "default/settings" }, files = { ["a.yaml"] = kube.ingress {} .. "---\n" .. WEB,
      ["c.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: { block-user-agents: curl }\n" } }
    assert.is_nil(run.units["host shop.test"].routes[1].denied)
    assert.matches("warn [^\n]*block%-user%-agents: is not supported yet", run.findings())
  end)

  it("knows the default backend and certificate of the flags", function()
    local cert, key = certificate "any.test"
    local run = kube.start { flags = { ["default-backend-service"] = "default/web", ["default-ssl-certificate"] = "default/cert" },
      files = { ["a.yaml"] = WEB, ["s.yaml"] = secret("cert", cert, key) } }
    assert.equal("default/web/80", run.units["settings settings"].default_upstream)
    assert.equal("default/cert", run.units["settings settings"].default_certificate)
    assert.is_table(run.units["upstream default/web/80"])
    assert.is_table(run.units["certificate default/cert"])
  end)

  it("tells where the API server listens, as its own Service says", function()
    local slice = [[
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: kubernetes%s, namespace: default, labels: { kubernetes.io/service-name: kubernetes } }
addressType: IPv%d
ports: [{ name: https, port: 6443 }]
endpoints: [{ addresses: [%q] }]
]]
    local run = kube.start { files = { ["a.yaml"] = kube.ingress {} .. "---\n" .. WEB } }
    assert.equal("", run.units["settings settings"].api_server)
    run.change("k.yaml", kube.service("kubernetes", "{ name: https, port: 443, targetPort: 6443 }", "") .. "---\n" .. slice:format("", 4, "10.9.0.5"))
    assert.equal("10.9.0.5:6443", run.units["settings settings"].api_server)
    run.change("more.yaml", slice:format("-6", 6, "2001:db8::5"))
    assert.equal("10.9.0.5:6443,[2001:db8::5]:6443", run.units["settings settings"].api_server)
    run.change("k.yaml", nil)
    assert.equal("", run.units["settings settings"].api_server)
    assert.is_nil(run.findings():find("kubernetes", 1, true))
  end)

  it("prefers the first prefix and reports a second that differs", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { annotations = {
      ["ingress.kubernetes.io/proxy-read-timeout"] = "7", ["moongate.io/proxy-read-timeout"] = "8" } } .. "---\n" .. WEB } }
    assert.equal(8, run.units["host shop.test"].routes[1].settings.read_timeout)
    assert.matches('ingress.kubernetes.io/proxy-read-timeout: "7" is ignored, since moongate.io/proxy-read-timeout is "8"', run.findings(), 1, true)
    run = kube.start { flags = { ["legacy-annotations"] = "false" },
      files = { ["a.yaml"] = kube.ingress { annotations = { ["ingress.kubernetes.io/proxy-read-timeout"] = "7" } } } }
    assert.not_equal(7, run.units["host shop.test"].routes[1].settings.read_timeout)
  end)

  it("sends aliases, and drops one that becomes a host of its own", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress { annotations = { ["server-alias"] = "alias.test" } } .. "---\n" .. WEB } }
    assert.same({ owner = "shop.test", redirect = false }, run.units["host alias.test"])
    run.change("b.yaml", kube.ingress { name = "own", host = "alias.test" })
    assert.is_nil(run.units["host alias.test"].owner)
    run.change("b.yaml", nil)
    assert.same({ owner = "shop.test", redirect = false }, run.units["host alias.test"])
    run.change("a.yaml", kube.ingress {} .. "---\n" .. WEB)
    assert.is_nil(run.units["host alias.test"])
  end)

  it("looks into directories, and forgets what is moved away", function()
    local run = kube.start {}
    kube.run("mkdir " .. run.directory .. "/team")
    kube.write(run.directory .. "/team/a.yaml", kube.ingress {})
    run.seen { run.directory .. "/team" }
    assert.is_table(run.units["host shop.test"])
    kube.run(("mv %s/team %s/.hidden"):format(run.directory, run.directory))
    run.seen { run.directory .. "/team" }
    assert.is_nil(run.units["host shop.test"])
  end)

  it("hands a long first message over in parts", function()
    local list = { WEB }
    for i = 1, 600 do list[i + 1] = kube.ingress { name = "i" .. i, host = "h" .. i .. ".test" } end
    local run = kube.start { files = { ["many.yaml"] = table.concat(list, "---\n") } }
    assert.same({ true, true, false }, run.parts)
    assert.same({ 0, 0, 0 }, run.taken)
    for i = 1, 600 do assert.is_table(run.units["host h" .. i .. ".test"]) end
    run.change("more.yaml", kube.ingress { name = "one", host = "one.test" })
    assert.same({ true, true, false, false }, run.parts)
  end)

  it("moves an Ingress when classes change with it", function()
    local function class(name)
      return ("apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: { name: %s }\nspec: { controller: k8s.io/ingress-nginx }\n"):format(name)
    end
    local run = kube.start { files = { ["w.yaml"] = WEB } }
    for i = 1, 8 do -- in whichever order they are looked at
      local list = {}
      for n = 1, 8 do list[n] = class(("c%d-%d"):format(i, n)) end
      list[9] = kube.ingress { host = "h" .. i .. ".test" }
      run.change("all.yaml", table.concat(list, "---\n"))
      assert.is_table(run.units["host h" .. i .. ".test"])
      assert.is_nil(run.units["host h" .. i - 1 .. ".test"])
    end
  end)

  it("goes on with the other hosts when one cannot be built", function()
    local files = { ["w.yaml"] = kube.service("web") .. "---\n" .. kube.slice("web") }
    for i = 1, 9 do files["i" .. i .. ".yaml"] = kube.ingress { name = "i" .. i, host = ("h%d.test"):format(i) } end
    local run = kube.start { files = files }
    local build = run.sync.build
    function run.sync.build(self, host, ...)
      assert(host ~= "h5.test", "a mistake of ours")
      return build(self, host, ...)
    end
    local paths = {}
    for i = 1, 9 do
      paths[i] = run.directory .. "/i" .. i .. ".yaml"
      kube.write(paths[i], kube.ingress { name = "i" .. i, host = ("h%d.test"):format(i), annotations = { ["proxy-read-timeout"] = "7" } })
    end
    assert.has_error(function() run.sync:change(paths) end) -- the thread logs it, and takes its next turn
    while run.sync:work(1) do end
    for i = 1, 9 do
      assert.equal(i ~= 5 and 7 or nil, run.units[("host h%d.test"):format(i)].routes[1].settings.read_timeout)
    end
  end)

  it("goes on with the other objects when one cannot be taken in", function()
    local files = { ["w.yaml"] = kube.service("web") .. "---\n" .. kube.slice("web") }
    for i = 1, 9 do files["i" .. i .. ".yaml"] = kube.ingress { name = "i" .. i, host = ("h%d.test"):format(i) } end
    local run = kube.start { files = files }
    local check = run.sync.check_ingress
    function run.sync.check_ingress(self, id)
      assert(id ~= "default/i5", "a mistake of ours")
      return check(self, id)
    end
    local paths = {}
    for i = 1, 9 do
      paths[i] = run.directory .. "/i" .. i .. ".yaml"
      kube.write(paths[i], kube.ingress { name = "i" .. i, host = ("new-h%d.test"):format(i) })
    end
    assert.has_error(function() run.sync:change(paths) end)
    while run.sync:work(1) do end
    for i = 1, 9 do
      assert.equal(i ~= 5, run.units[("host new-h%d.test"):format(i)] ~= nil)
      assert.equal(i == 5, run.units[("host h%d.test"):format(i)] ~= nil)
    end
  end)

  it("goes on with the other upstreams when one cannot be built", function()
    local files = {}
    for i = 1, 9 do files["s" .. i .. ".yaml"] = kube.service("web-" .. i) .. "---\n" .. kube.slice("web-" .. i) end
    for i = 1, 9 do files["i" .. i .. ".yaml"] = kube.ingress { name = "i" .. i, host = ("h%d.test"):format(i), paths = { { "/", service = "web-" .. i } } } end
    local run = kube.start { files = files }
    local build = run.sync.build_upstream
    function run.sync.build_upstream(self, name)
      assert(name ~= "default/web-5/80", "a mistake of ours")
      return build(self, name)
    end
    local paths = {}
    for i = 1, 9 do
      paths[i] = run.directory .. "/s" .. i .. ".yaml"
      kube.write(paths[i], kube.service("web-" .. i) .. "---\n" .. kube.slice("web-" .. i, "10.0.0.2"))
    end
    assert.has_error(function() run.sync:change(paths) end)
    while run.sync:work(1) do end
    for i = 1, 9 do
      assert.equal(i ~= 5 and "10.0.0.2" or "10.0.0.1", run.units[("upstream default/web-%d/80"):format(i)].endpoints[1].ip)
    end
  end)

  it("loses none of what is queued while the queue is worked on", function()
    local files = { ["w.yaml"] = kube.service("web") .. "---\n" .. kube.slice("web") }
    for i = 1, 40 do files["i" .. i .. ".yaml"] = kube.ingress { name = "i" .. i, host = ("h%d.test"):format(i) } end
    local run = kube.start { files = files }
    local rebuild, built = run.sync.rebuild, 0
    function run.sync.rebuild(self, host)
      built = built + 1
      return rebuild(self, host)
    end
    for most = 1, 39 do -- so many are built when all are queued again
      built = 0
      for i = 1, 40 do run.sync:enqueue(("h%d.test"):format(i)) end
      repeat run.sync:work(1e-5) until built >= most
      local first = built
      for i = 1, 40 do run.sync:enqueue(("h%d.test"):format(i)) end
      while run.sync:work(1) do end
      assert.equal(40 + first, built)
    end
  end)

  it("slices what is too much for one turn", function()
    local run = kube.start { files = { ["w.yaml"] = WEB } }
    local list = {}
    for i = 1, 600 do list[i] = kube.ingress { name = "i" .. i, host = "h" .. i .. ".test" } end
    local before = #run.messages
    run.change("many.yaml", table.concat(list, "---\n"))
    assert.is_true(#run.messages - before >= 2)
    for i = 1, 600 do assert.is_table(run.units["host h" .. i .. ".test"]) end
  end)
end)

describe("values of an upstream", function()
  teardown(kube.clean)

  local function balancers(run)
    local list = {}
    for _, host in ipairs { "a", "b", "c" } do
      local unit = run.units["host " .. host .. ".test"]
      list[#list + 1] = unit and ((unit.routes[1].settings.balancer or "round_robin") .. " " .. (unit.routes[1].settings.hash_by or "-")) or "none"
    end
    return table.concat(list, ", ")
  end

  local function one(name, day, annotations, more)
    return kube.ingress { name = name, host = name .. ".test", annotations = annotations, created = ("2024-01-%02dT00:00:00Z"):format(day), paths = more }
  end

  it("are those of the oldest Ingress that sets each, for everyone who leads there", function()
    local run = kube.start { files = { ["s.yaml"] = WEB .. "---\n" .. kube.service("other"), ["b.yaml"] = one("b", 2, { ["load-balance"] = "ewma" }),
      ["c.yaml"] = one("c", 3),
      ["a.yaml"] = one("a", 1, { ["upstream-hash-by"] = "$host" }) } }
    assert.equal("hash $host, hash $host, hash $host", balancers(run))
    run.change("a.yaml", one("a", 1))
    assert.equal("ewma -, ewma -, ewma -", balancers(run))
    run.change("a.yaml", one("a", 1, { ["load-balance"] = "least_connections" }))
    assert.equal("least_connections -, least_connections -, least_connections -", balancers(run))
    run.change("a.yaml", one("a", 1, { ["load-balance"] = "least_connections" }, { { "/", service = "other" } }))
    assert.equal("least_connections -, ewma -, ewma -", balancers(run))
    run.change("b.yaml", nil)
    assert.equal("least_connections -, none, round_robin -", balancers(run))
  end)

  it("are not those of an Ingress whose own are invalid, too risky, or without what they need", function()
    local risk = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: { annotations-risk-level: %s }\n"
    local run = kube.start { flags = { configmap = "default/settings" }, files = { ["s.yaml"] = WEB, ["m.yaml"] = risk:format "High",
      ["b.yaml"] = one("b", 2, { ["load-balance"] = "ewma" }), ["a.yaml"] = one("a", 1, { ["load-balance"] = "fastest" }) } }
    assert.equal("round_robin -, ewma -, none", balancers(run))
    assert.matches("warn a.yaml:1: Ingress default/a: load%-balance: fastest is none of", run.findings())
    run.change("a.yaml", one("a", 1, { ["upstream-hash-by"] = "$host" }))
    assert.equal("hash $host, hash $host, none", balancers(run))
    run.change("m.yaml", risk:format "Medium") -- hash-by is of high risk
    assert.equal("round_robin -, ewma -, none", balancers(run))
    assert.matches("upstream%-hash%-by", run.units["host a.test"].routes[1].denied) -- it stood before
    assert.is_nil(run.units["host b.test"].routes[1].denied)
    run.change("m.yaml", risk:format "High")
    assert.equal("hash $host, hash $host, none", balancers(run))
    run.change("a.yaml", one("a", 1, { ["upstream-hash-by-subset-size"] = "2", ["upstream-hash-by-subset"] = "true" }))
    run.change("b.yaml", one("b", 2, { ["upstream-hash-by"] = "$host", ["upstream-hash-by-subset"] = "false" }))
    assert.equal("hash $host, hash $host, none", balancers(run))
    assert.is_nil(run.units["host b.test"].routes[1].settings.hash_subset_size)
  end)

  it("touch no host of other upstreams", function()
    local run = kube.start { files = { ["s.yaml"] = WEB .. "---\n" .. kube.service("other"), ["a.yaml"] = one("a", 1),
      ["b.yaml"] = one("b", 2, nil, { { "/", service = "other" } }) } }
    assert.equal("upsert host a.test", count(run.change("a.yaml", one("a", 1, { ["load-balance"] = "ewma" }))))
  end)

  it("reach all sharers when a policy that declares such a value comes", function()
    local run = kube.start { policies = {}, files = { ["s.yaml"] = WEB, ["a.yaml"] = one("a", 1, { badge = "gold" }), ["b.yaml"] = one("b", 2) } }
    local seen = run.change_policy("badge.lua", [[
local policy = { name = "badge", summary = "x", annotations = { badge = { type = "string", scope = "upstream", doc = "x" } } }
function policy.attach(_, annotations) return annotations.badge and { badge = annotations.badge } end
function policy.access() end
return policy
]])
    assert.is_truthy(seen["upsert host a.test"])
    assert.is_truthy(seen["upsert host b.test"])
  end)
end)

describe("a host", function()
  teardown(kube.clean)
  it("loses nothing to the Ingress that says too much about it", function()
    local function aged(name, day, annotations, path)
      return kube.ingress { name = name, annotations = annotations, created = ("2024-01-%02dT00:00:00Z"):format(day), paths = { { path } } }
    end
    local run = kube.start { flags = { configmap = "default/settings" }, files = { ["s.yaml"] = WEB, ["a.yaml"] = aged("a", 1, nil, "/a"),
      ["m.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: { annotations-risk-level: Low }\n",
      ["b.yaml"] = aged("b", 2, { ["server-alias"] = "alias.test" }, "/b"), ["c.yaml"] = aged("c", 3, { ["app-root"] = "not a path" }, "/c"),
      ["d.yaml"] = aged("d", 4, nil, "/d") } }
    local paths = {}
    for i, route in ipairs(run.units["host shop.test"].routes) do paths[i] = route.path .. (route.denied and " denied" or "") end
    assert.same({ "/a", "/d", "/" }, paths) -- b and c are refused
    assert.matches("error b.yaml:1: Ingress default/b: server%-alias", run.findings())
    local risk = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: { annotations-risk-level: %s }\n"
    run.change("m.yaml", risk:format "High")
    run.change("a.yaml", aged("a", 1, { ["use-regex"] = "maybe" }, "/a"))
    run.change("c.yaml", aged("c", 3, { ["app-root"] = "/start" }, "/c"))
    run.change("d.yaml", aged("d", 4, { ["rewrite-target"] = "/x" }, "/d"))
    assert.not_matches("default/[bcd]: use%-regex", run.findings())
    assert.equal(1, #run.units["host shop.test"].hooks)
    assert.same({ owner = "shop.test", redirect = false }, run.units["host alias.test"])
    -- what they all said is too much now: those that said it are closed, as they have stood
    run.change("m.yaml", risk:format "Low")
    local denied = {}
    for _, route in ipairs(run.units["host shop.test"].routes) do denied[route.path] = route.denied or false end
    assert.same({ ["/a"] = false, ["/"] = false }, { ["/a"] = denied["/a"], ["/"] = denied["/"] })
    assert.matches("server%-alias", denied["/b"])
    assert.matches("app%-root", denied["/c"])
    assert.matches("rewrite%-target", denied["/d"])
    assert.same({ hooks = 0 }, { hooks = #run.units["host shop.test"].hooks, alias = run.units["host alias.test"] })
  end)
end)

describe("check", function()
  teardown(kube.clean)
  it("lists everything, with annotations that nothing reads", function()
    local run = kube.start { is_check = true, flags = { configmap = "default/s" }, files = {
      ["a.yaml"] = kube.ingress { annotations = { ["ssl-redirect"] = "nope", ["no-such-thing"] = "1",
        ["enable-opentelemetry"] = "true", ["configuration-snippet"] = "x" } }
        .. "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: { name: d }\n",
      ["c.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: s }\ndata: { use-gzip: 'true' }\n" } }
    assert.equal(0, #run.messages)
    local lines, counts = run.sync:check()
    local texts = {}
    for i, line in ipairs(lines) do texts[i] = line.level .. " " .. line.text end
    local text = table.concat(texts, "\n")
    assert.matches("no-such-thing: is not a known annotation", text, 1, true)
    assert.matches("warn [^\n]*enable%-opentelemetry: is not yet supported", text)
    assert.matches("warn [^\n]*configuration%-snippet: is nginx configuration text", text)
    assert.matches("use-gzip: is not supported yet", text, 1, true)
    assert.matches("kinds that are not used: 1 Deployment", text, 1, true)
    assert.matches("warn [^\n]*ssl%-redirect: ", text)
    assert.equal(0, counts.error)
  end)
end)
