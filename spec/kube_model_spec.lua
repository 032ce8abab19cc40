-- The model: routes, upstreams, certificates, classes, settings.
local native = require("spec.kube_support").native
local classes = require "kube.classes"
local model = require "kube.model"
local settings = require "kube.settings"

local function ingress(fields)
  fields.id = "default/" .. fields.name
  fields.key = "Ingress " .. fields.id
  fields.namespace, fields.created = "default", fields.created or ""
  fields.rules, fields.tls, fields.annotations = fields.rules or {}, fields.tls or {}, fields.annotations or {}
  return fields
end

local function path(text, service, kind)
  return { path = text, type = kind or "prefix", service = service, port = "80" }
end

local function shown(routes)
  local list = {}
  for i, route in ipairs(routes) do
    list[i] = ("%s %s %s"):format(route.type, route.path, route.is_default_backend and "-" or route.service)
  end
  return list
end

describe("routes", function()
  it("take the older of two equal ones, and by name downwards when there is no age", function()
    local a = ingress { name = "a", rules = { { host = "h", paths = { path("/x", "of-a") } } } }
    local b = ingress { name = "b", rules = { { host = "h", paths = { path("/x", "of-b"), path("/x", "exact-b", "exact") } } } }
    local list = { a, b }
    table.sort(list, model.is_older)
    assert.equal(b, list[1])
    local routes, shadowed = model.routes("h", list)
    assert.same({ "prefix /x of-b", "exact /x exact-b", "prefix / -" }, shown(routes))
    assert.equal(a, shadowed[1].ingress)
    a.created, b.created = "2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"
    table.sort(list, model.is_older)
    assert.equal(a, list[1])
  end)
  it("get an implicit / to the Ingress's default backend, with the oldest one's annotations", function()
    local oldest = ingress { name = "z", rules = { { host = "h", paths = { path("/x", "x") } } } }
    local other = ingress { name = "a", default_backend = { service = "fallback", port = "80" }, rules = { { host = "h", paths = {} } } }
    local routes = model.routes("h", { oldest, other })
    assert.same({ "prefix /x x", "prefix / fallback" }, shown(routes))
    assert.equal(oldest, routes[2].annotated_by)
    assert.equal(other, routes[2].ingress)
  end)
  it("let an Ingress with only a default backend take the catch-all", function()
    local only = ingress { name = "a", default_backend = { service = "fallback", port = "80" } }
    assert.same({ _ = true }, model.hosts_of(only))
    local routes = model.routes("_", { only })
    assert.same({ "prefix / fallback" }, shown(routes))
    assert.is_true(routes[1].is_catch_all)
  end)
end)

local function upstream(options)
  local world = {
    flags = options.flags or {}, own_ports = { [80] = true }, address = native.address, is_own = options.is_own or function() return false end,
      array = native.array,
    service = function() return options.service end,
    slices = function() return options.slices or {} end,
    endpoints = function() return options.endpoints end,
    zone = function() return options.zone end,
  }
  local body, findings = model.upstream(world, { name = "n", namespace = "default", service = "web", port = options.port or "80",
    use_service_address = options.use_service_address })
  local list = {}
  for i, endpoint in ipairs(body.endpoints) do
    list[i] = ("%s:%d%s"):format(endpoint.ip, endpoint.port, endpoint.draining and " draining" or endpoint.ready and "" or " not ready")
  end
  return list, body, findings[1] and findings[1].text
end

local function endpoint(ip, is_draining)
  local text, family, is_loopback = native.address(ip)
  return { ip = text, family = family, is_loopback = is_loopback, ready = not is_draining, draining = is_draining or false }
end

local function service(ports, more)
  local made = { id = "default/web", key = "Service default/web", name = "web", namespace = "default", type = "ClusterIP", ports = ports, has_selector = true }
  for key, value in pairs(more or {}) do made[key] = value end
  return made
end

local HTTP = { name = "http", port = "80", target = "web" }

describe("an upstream", function()
  it("finds its port by number, name and target", function()
    local slices = { { ports = { { name = "http", port = 8080 }, { name = "other", port = 9 } }, endpoints = { endpoint "10.0.0.1" } } }
    for _, reference in ipairs { "80", "http", "web" } do
      assert.same({ "10.0.0.1:8080" }, (upstream { service = service { HTTP }, slices = slices, port = reference }))
    end
    local list, body, text = upstream { service = service { HTTP }, slices = slices, port = "81" }
    assert.same({}, list)
    assert.is_true(body.missing)
    assert.matches('has no port "81"', text)
  end)
  it("keeps to our zone where each endpoint says whose it is, and one is ours", function()
    local function meant_for(ip, zones, is_draining)
      local made = endpoint(ip, is_draining)
      made.zones = zones
      return made
    end
    local function served(zone, endpoints, more)
      local slices = { { ports = { { name = "http", port = 8080 } }, endpoints = endpoints }, more }
      return table.concat(upstream { service = service { HTTP }, slices = slices, zone = zone }, " ")
    end
    local a, b = meant_for("10.0.0.1", { "a" }), meant_for("10.0.0.2", { "b", "c" })
    assert.equal("10.0.0.1:8080", served("a", { a, b }))
    assert.equal("10.0.0.2:8080", served("c", { a, b }))
    assert.equal("10.0.0.1:8080 10.0.0.2:8080", served(nil, { a, b }))
    assert.equal("10.0.0.1:8080 10.0.0.2:8080", served("d", { a, b })) -- none is ours
    assert.equal("10.0.0.1:8080 10.0.0.3:8080", served("a", { a, endpoint "10.0.0.3" })) -- one does not say
    assert.equal("10.0.0.1:8080 10.0.0.3:8080 draining", served("a", { a, b, endpoint("10.0.0.3", true) }))
    assert.equal("10.0.0.1:8080 10.0.0.2:8080 10.0.0.3:8080 draining", served("d", { a, b, meant_for("10.0.0.3", { "d" }, true) }))
    -- Slices of other ports are no part of it.
    assert.equal("10.0.0.2:8080", served("b", { a, b }, { ports = { { name = "other", port = 9 } }, endpoints = { endpoint "10.0.0.4" } }))
    assert.equal("10.0.0.1:8080", served("a", { a }, { ports = { { name = "http", port = 8080 } }, endpoints = { b } }))
  end)
  it("counts an address once, and keeps draining ones apart", function()
    local ports = { { name = "http", port = 8080 } }
    local list = upstream { service = service { HTTP }, slices = {
      { ports = ports, endpoints = { endpoint "10.0.0.1", endpoint("10.0.0.2", true) } }, { ports = ports, endpoints = { endpoint "10.0.0.1",
        endpoint "10.0.0.2" } } } }
    assert.same({ "10.0.0.1:8080", "10.0.0.2:8080" }, list)
    assert.same({ "10.0.0.2:8080 draining" }, (upstream { service = service { HTTP }, slices = { { ports = ports, endpoints = { endpoint("10.0.0.2",
      true) } } } }))
  end)
  it("reads Endpoints where there is no slice", function()
    assert.same({ "10.0.0.1:8080" }, (upstream { service = service { HTTP },
      endpoints = { subsets = { { ports = { { name = "http", port = 8080 } }, endpoints = { endpoint "10.0.0.1" } } } } }))
  end)
  it("shows the slice to add when there is none", function()
    local list, body, text = upstream { service = service { { name = "", port = "80", target = "8080" } } }
    assert.same({}, list)
    assert.is_true(body.missing)
    assert.matches("kind: EndpointSlice", text)
    local slice = native.yaml((text:match("{.*}")))
    assert.equal("web", slice.metadata.labels["kubernetes.io/service-name"])
    assert.equal(8080, slice.ports[1].port)
  end)
  it("is missing without its Service", function()
    local _, body, text = upstream {}
    assert.is_true(body.missing)
    assert.matches("does not exist", text)
  end)
  it("may be on loopback, but not one of our own listeners", function()
    local slices = { { ports = { { name = "http", port = 8080 } }, endpoints = { endpoint "127.0.0.1" } } }
    assert.same({ "127.0.0.1:8080" }, (upstream { service = service { HTTP }, slices = slices }))
    for _, ip in ipairs { "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::", "::ffff:127.0.0.1" } do
      local list, body, text = upstream { service = service { HTTP }, slices = { { ports = { { name = "http", port = 80 } }, endpoints = { endpoint(ip) } } } }
      assert.same({}, list)
      assert.is_true(body.missing)
      assert.matches("one of our own listeners", text)
    end
  end)
  it("of an ExternalName is a name, unless it is our own host", function()
    local function external(name, flags)
      return select(2, upstream { flags = flags, service = service({}, { type = "ExternalName", external_name = name }), port = "443" })
    end
    assert.equal("example.com", external("example.com").external_name)
    assert.equal(443, external("example.com").external_port)
    assert.is_true(external("example.com").outside)
    for _, name in ipairs { "localhost", "x.localhost", "127.0.0.1", "::1", "0.0.0.0", "::ffff:127.0.0.1", "169.254.169.254", "fe80::1",
      "::ffff:169.254.169.254" } do
      assert.is_true(external(name).missing)
      assert.is_nil(external(name).external_name)
    end
    assert.is_true(external("example.com", { ["disable-svc-external-name"] = "true" }).missing)
  end)
  it("is none of our listeners, by no address of this host", function()
    local slices = { { ports = { { name = "http", port = 80 } }, endpoints = { endpoint "192.0.2.1", endpoint "10.0.0.1" } } }
    local function is_own(ip) return ip == "192.0.2.1" end
    local list, body, text = upstream { service = service { HTTP }, slices = slices, is_own = is_own }
    assert.same({ "10.0.0.1:80" }, list)
    assert.matches("192.0.2.1 port 80, which is one of our own listeners", text)
    assert.is_nil(body.outside)
    list, body, text = upstream { service = service({ HTTP }, { cluster_ip = "192.0.2.1" }), use_service_address = true, is_own = is_own }
    assert.same({}, list)
    assert.is_true(body.missing)
    assert.matches("one of our own listeners", text)
    list, body, text = upstream { service = service({}, { type = "ExternalName", external_name = "192.0.2.1" }), port = "80", is_own = is_own }
    assert.same({}, list)
    assert.is_true(body.missing)
    assert.matches("one of our own listeners", text)
    assert.same({ "192.0.2.1:81" }, (upstream { service = service({}, { type = "ExternalName", external_name = "192.0.2.1" }), port = "81", is_own = is_own }))
  end)
  it("may be the Service's own address", function()
    local list, body = upstream { service = service({ HTTP }, { cluster_ip = "10.96.0.1" }), use_service_address = true }
    assert.same({ "10.96.0.1:80" }, list)
    assert.is_true(body.outside)
    local slices = { { ports = { { name = "http", port = 8080 } }, endpoints = { endpoint "10.0.0.1" } } }
    assert.same({ "10.0.0.1:8080" }, (upstream { service = service({ HTTP }, { cluster_ip = "None" }), use_service_address = true, slices = slices }))
  end)
end)

describe("a certificate", function()
  local function choose(list, covered)
    local has_tls, id, problem = model.certificate("a.test", list, function(secret) return covered[secret] or false, "does not cover the host" end)
    return has_tls, id, problem and problem.text
  end
  it("comes from the tls entry that names the host", function()
    local one = ingress { name = "one", tls = { { hosts = { "*.test" }, secret = "wild" }, { hosts = { "a.test" }, secret = "exact" } } }
    local has_tls, id = choose({ one }, { ["default/exact"] = true, ["default/wild"] = true })
    assert.is_true(has_tls)
    assert.equal("default/exact", id)
  end)
  it("comes from any Secret of the Ingress that covers the host, else it is the default one", function()
    local one = ingress { name = "one", tls = { { hosts = { "*.test" }, secret = "wild" } } }
    assert.equal("default/wild", select(2, choose({ one }, { ["default/wild"] = true })))
    local has_tls, id = choose({ one }, {})
    assert.is_true(has_tls)
    assert.is_nil(id)
  end)
  it("is the default one, with a word, when its Secret does not do", function()
    local has_tls, id, text = choose({ ingress { name = "one", tls = { { hosts = { "a.test" }, secret = "bad" } } } }, {})
    assert.is_true(has_tls)
    assert.is_nil(id)
    assert.matches("Secret default/bad does not cover the host", text)
  end)
  it("is decided by the oldest Ingress that has a tls section", function()
    local plain = ingress { name = "plain" }
    local first = ingress { name = "first", tls = { { hosts = { "a.test" }, secret = "first" } } }
    local second = ingress { name = "second", tls = { { hosts = { "a.test" }, secret = "second" } } }
    assert.equal("default/first", select(2, choose({ plain, first, second }, { ["default/first"] = true, ["default/second"] = true })))
    assert.is_false((choose({ plain }, {})))
  end)
end)

describe("classes", function()
  local known = { nginx = { name = "nginx", controller = "k8s.io/ingress-nginx" }, other = { name = "other", controller = "example.com/other" } }
  local function accepts(one, flags, list)
    return (classes.accepts(ingress(one), flags or {}, function(name) return (list or known)[name] end))
  end
  it("by name, by the old annotation, or without any", function()
    assert.is_true(accepts { name = "a", class = "nginx" })
    assert.is_false(accepts { name = "a", class = "other" })
    assert.is_false(accepts { name = "a", class = "unknown", annotations = { ["kubernetes.io/ingress.class"] = "nginx" } })
    assert.is_true(accepts { name = "a", annotations = { ["kubernetes.io/ingress.class"] = "nginx" } })
    assert.is_false(accepts { name = "a", annotations = { ["kubernetes.io/ingress.class"] = "other" } })
    assert.is_true(accepts { name = "a" })
    assert.is_false(accepts({ name = "a" }, { ["watch-ingress-without-class"] = "false" }))
  end)
  it("assume the one that --ingress-class names, unless it is there and another's", function()
    assert.is_true(accepts({ name = "a", class = "nginx" }, {}, {}))
    assert.is_true(accepts({ name = "a", class = "mine" }, { ["ingress-class"] = "mine" }, {}))
    assert.is_false(accepts({ name = "a", class = "nginx" }, {}, { nginx = { name = "nginx", controller = "example.com/x" } }))
    assert.is_true(accepts({ name = "a", class = "nginx" }, { ["ingress-class-by-name"] = "true" }, { nginx = { name = "nginx",
      controller = "example.com/x" } }))
  end)
end)

describe("settings", function()
  local function read(data, declared)
    local fields, own, findings = settings.read(data, declared or {})
    local lines = {}
    for _, finding in ipairs(findings) do lines[#lines + 1] = finding.level .. " " .. finding.setting .. " " .. finding.text end
    table.sort(lines)
    return fields, table.concat(lines, "\n"), own
  end
  it("become fields", function()
    local fields, text = read {
      ["keep-alive"] = "75", ["client-header-timeout"] = "1m30s", ["use-forwarded-headers"] = "true", ["large-client-header-buffers"] = "4 16k",
      ["access-log-format"] = "json", ["ssl-session-timeout"] = "10m", ["max-worker-connections"] = "100", ["hide-headers"] = "",
    }
    assert.equal("", text)
    assert.same({ keep_alive_ms = 75000, client_header_timeout_ms = 90000, use_forwarded_headers = true, client_head_bytes = 65536,
      client_request_line_bytes = 16384,
      access_log_json = true, ssl_session_timeout_ms = 600000, max_worker_connections = 100 }, fields)
  end)
  it("that are bad are left at their default, and said", function()
    local fields, text = read { ["keep-alive"] = "long", ["use-proxy-protocol"] = "maybe", ["large-client-header-buffers"] = "8k" }
    assert.same({}, fields)
    assert.equal([[warn keep-alive keep-alive: "long" is not a time, such as 60, 10m or 500ms; the default is used
warn large-client-header-buffers large-client-header-buffers: "8k" is not a count and a size, such as 4 8k; the default is used
warn use-proxy-protocol use-proxy-protocol: "maybe" is not true or false; the default is used]], text)
  end)
  it("have bounds", function()
    local fields, text = read { ["keep-alive"] = "9999999999999999", ["client-header-buffer-size"] = "99999999999g",
      ["large-client-header-buffers"] = "999999999999999 9g" }
    assert.same({}, fields)
    assert.equal([[warn client-header-buffer-size client-header-buffer-size: "99999999999g" is too large; the default is used
warn keep-alive keep-alive: "9999999999999999" is too long; the default is used
warn large-client-header-buffers large-client-header-buffers: "999999999999999 9g" is not a count and a size, such as 4 8k; the default is used]], text)
  end)
  it("that are decided at start say so, and those that no proxy without nginx can follow", function()
    assert.equal([[info main-snippet is about nginx configuration text, and there is no nginx here; write a policy instead
warn bind-address bind-address: has no effect: listeners are opened at start, on --bind-address
warn worker-processes worker-processes: has no effect: the number of workers is decided at start, by --workers]],
      select(2, read { ["worker-processes"] = "4", ["bind-address"] = "10.0.0.1", ["main-snippet"] = "env A;" }))
    assert.equal("", select(2, read { ["worker-processes"] = "auto" }))
  end)
  it("that are read where annotations are are checked here", function()
    assert.equal([[warn allow-cross-namespace-resources allow-cross-namespace-resources: "yes" is not true or false; the default is used
warn annotations-risk-level annotations-risk-level: "none" is not one of Low, Medium, High, Critical; the default is used]],
      select(2, read { ["allow-cross-namespace-resources"] = "yes", ["annotations-risk-level"] = "none" }))
    assert.equal("", select(2, read { ["allow-cross-namespace-resources"] = "true", ["annotations-risk-level"] = "Critical" }))
  end)
  it("are told apart: of policies, not yet supported, without meaning, unknown", function()
    assert.equal([[info server-name-hash-max-size has no meaning here
info use-gzip is not supported yet
warn no-such-key is not a known setting]],
      select(2, read({ ["ssl-redirect"] = "true", ["use-gzip"] = "true", ["server-name-hash-max-size"] = "512", ["no-such-key"] = "1" },
      { ["ssl-redirect"] = true })))
  end)
end)
