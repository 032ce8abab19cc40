-- What the admission webhook says to an Ingress: refusals, warnings, and that asking leaves nothing behind.
local kube = require "spec.kube_support" -- brings moongate.kube
local admission = require "kube.admission"
local api_server = require "spec.kube_api_server"
local following = require "kube.following"
local json = require "cjson"

local PREFIX = "nginx.ingress.kubernetes.io/"

--- An Ingress as the API server sends it. `paths`: { path, type, service, port }.
local function ingress(more)
  more = more or {}
  local annotations, paths = {}, {}
  for name, value in pairs(more.annotations or {}) do annotations[name:find("/", 1, true) and name or PREFIX .. name] = value end
  for i, path in ipairs(more.paths or { { "/" } }) do
    local service = { name = path.service or "web", port = { number = path.port or 80 } }
    paths[i] = { path = path[1], pathType = path.type or "Prefix", backend = { service = service } }
  end
  local rule = { host = more.host, http = { paths = paths } }
  if more.host == nil then rule.host = "new.test" elseif more.host == false then rule.host = nil end
  return {
    apiVersion = "networking.k8s.io/v1", kind = "Ingress",
    metadata = { name = more.name or "new", namespace = more.namespace or "default", annotations = next(annotations) and annotations or nil,
      creationTimestamp = more.created or "2026-06-01T00:00:00Z", deletionTimestamp = more.deleted },
    spec = { ingressClassName = more.class, rules = more.rules or { rule }, defaultBackend = more.default_backend, tls = more.tls },
  }
end

local function request_of(object, more)
  local request = {
    uid = "705ab4f5-6393-11e8-b7cc-42010a800002", operation = "CREATE", namespace = object.metadata and object.metadata.namespace, object = object,
    resource = { group = "networking.k8s.io", version = "v1", resource = "ingresses" },
  }
  for key, value in pairs(more or {}) do request[key] = value end
  return json.encode { apiVersion = "admission.k8s.io/v1", kind = "AdmissionReview", request = request }
end

--- The response to an object.
local function ask(run, object, more)
  local status, text = admission.review(run.sync, request_of(object, more))
  assert.equal(200, status)
  local answer = json.decode(text)
  assert.equal("admission.k8s.io/v1", answer.apiVersion)
  assert.equal("AdmissionReview", answer.kind)
  assert.equal("705ab4f5-6393-11e8-b7cc-42010a800002", answer.response.uid)
  return answer.response
end

local function refused(run, pattern, object, more)
  local response = ask(run, object, more)
  assert.is_false(response.allowed, "it is allowed")
  assert.equal(400, response.status.code)
  assert.equal("BadRequest", response.status.reason)
  if pattern then assert.matches(pattern, response.status.message, 1, true) end
  return response
end

local function allowed(run, object, more)
  local response = ask(run, object, more)
  assert.is_true(response.allowed, response.status and response.status.message)
  assert.is_nil(response.status)
  return response.warnings or {}
end

local function warned(run, pattern, object, more)
  local warnings = allowed(run, object, more)
  assert.matches(pattern, table.concat(warnings, "\n"), 1, true)
end

local WEB = kube.service("web") .. "---\n" .. kube.slice("web")

local function start(options)
  options = options or {}
  local data = {}
  for key, value in pairs(options.settings or {}) do data[#data + 1] = ("  %s: %q\n"):format(key, value) end
  local files = options.files or { ["web.yaml"] = WEB .. "---\n" .. kube.ingress { name = "old", host = "old.test", created = "2026-01-01T00:00:00Z" } }
  files["settings.yaml"] = #data > 0 and "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata:\n" .. table.concat(data) or nil
  local flags = options.flags or {}
  flags.configmap = #data > 0 and "default/settings" or nil
  return kube.start { files = files, flags = flags, policies = options.policies }
end

describe("the admission webhook", function()
  teardown(kube.clean)

  it("lets a good Ingress in, without a word", function()
    assert.same({}, allowed(start(), ingress { annotations = { ["ssl-redirect"] = "false", ["proxy-body-size"] = "8m" } }))
  end)

  it("says no more than 400 to what is no review", function()
    local run = start()
    for text, pattern in pairs {
      [""] = "is not a JSON object", ["[1"] = "is not a JSON object", ["null"] = "is not a JSON object", ["[]"] = "not an AdmissionReview",
      ["{}"] = "not an AdmissionReview",
      ['"AdmissionReview"'] = "is not a JSON object", [("["):rep(100000)] = "is not a JSON object",
      ['{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1beta1"}'] = "the apiVersion is admission.k8s.io/v1beta1",
      ['{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":null}'] = "request.uid is missing",
      ['{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":7}}'] = "request.uid is missing",
      ['{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","operation":"CREATE","object":[1'] = "is not a JSON object",
      ['{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"u","operation":"CREATE","object":null}}'] = "request.object is missing",
    } do
      local status, answer, judged = admission.review(run.sync, text)
      assert.equal(400, status)
      assert.matches(pattern, answer, 1, true)
      assert.is_nil(judged)
    end
  end)

  it("is asked about Ingresses that come or change, and says yes to all else", function()
    local run = start()
    local bad = ingress { annotations = { ["ssl-redirect"] = "maybe" } }
    refused(run, "ssl-redirect: maybe", bad)
    refused(run, "ssl-redirect: maybe", bad, { operation = "UPDATE" })
    refused(run, "ssl-redirect: maybe", bad, { dryRun = true })
    allowed(run, bad, { operation = "DELETE", object = json.null })
    allowed(run, bad, { operation = "CONNECT" })
    allowed(run, bad, { subResource = "status" })
    allowed(run, bad, { resource = { group = "", version = "v1", resource = "services" } })
    allowed(run, bad, { resource = { group = "example.com", version = "v1", resource = "ingresses" } })
    allowed(run, ingress { annotations = { ["ssl-redirect"] = "maybe" }, deleted = "2026-06-02T00:00:00Z" }, { operation = "UPDATE" })
  end)

  it("leaves Ingresses of others alone", function()
    local class = "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: { name: other }\nspec: { controller: example.com/other }\n"
    local run = start { files = { ["class.yaml"] = class }, flags = { ["watch-namespace"] = "default" } }
    local annotations = { ["ssl-redirect"] = "maybe" }
    refused(run, "ssl-redirect", ingress { annotations = annotations })
    allowed(run, ingress { annotations = annotations, class = "other" })
    allowed(run, ingress { annotations = annotations, class = "unknown" })
    allowed(run, ingress { annotations = { ["ssl-redirect"] = "maybe", ["kubernetes.io/ingress.class"] = "traefik" } })
    allowed(run, ingress { annotations = annotations, namespace = "elsewhere" })
    allowed(run, ingress { paths = { { "/etc/passwd" } }, class = "other" })
    refused(run, "deep inspection", ingress { paths = { { "/etc/passwd" } } })
  end)

  -- Each case: what is in the Ingress, and what the refusal must say. The reason follows the field or annotation and its value.
  for name, case in pairs {
    ["a host that is none"] = { { host = "_bad_.test" }, 'spec.rules[0].host: is "_bad_.test", not a host name' },
    ["a host that is an address"] = { { host = "10.0.0.1" }, 'spec.rules[0].host: is "10.0.0.1", an address' },
    ["a port that is none"] = { { paths = { { "/", port = 70000 } } }, "port.number: is 70000, not a port from 1 to 65535" },
    ["a Service's name that is none"] = { { paths = { { "/", service = "We_b" } } }, 'service.name: is "We_b", not a Service\'s name' },
    ["a path without its slash"] = { { paths = { { "x" } } }, 'path: is "x" and does not begin with /' },
    ["a line break in a path"] = { { paths = { { "/a\r\nb", type = "ImplementationSpecific" } } }, "path: holds a control character" },
    ["what deep inspection refuses"] = { { paths = { { "/x/etc/passwd" } } }, 'path: is "/x/etc/passwd", which deep inspection refuses' },
    ["a regex in a Prefix path"] = { { paths = { { "/a(b)" } } }, 'path: is "/a(b)": Prefix paths hold letters' },
    ["a regex in an Exact path"] = { { paths = { { "/a.*", type = "Exact" } } }, 'path: is "/a.*": Exact paths hold letters' },
    ["a regex that is none"] = { { paths = { { "/a(", type = "ImplementationSpecific" } }, annotations = { ["use-regex"] = "true" } },
      "path /a( of host new.test is no regex" },
    ["neither rules nor a default backend"] = { { rules = json.empty_array or {} }, "spec: has neither rules nor a default backend" },
    ["a boolean that is none"] = { { annotations = { ["ssl-redirect"] = "maybe" } }, "ssl-redirect: maybe is " },
    ["a number out of range"] = { { annotations = { ["proxy-connect-timeout"] = "-5" } }, "proxy-connect-timeout: -5 " },
    ["a size that is none"] = { { annotations = { ["proxy-body-size"] = "8 bananas" } }, "proxy-body-size: 8 bananas " },
    ["an unknown word"] = { { annotations = { affinity = "ip" } }, "affinity: ip " },
    ["a legacy prefix's value"] = { { annotations = { ["ingress.kubernetes.io/ssl-redirect"] = "maybe" } }, "ssl-redirect: maybe is " },
    ["our own prefix's value"] = { { annotations = { ["moongate.io/ssl-redirect"] = "maybe" } }, "ssl-redirect: maybe is " },
    ["a snippet"] = { { annotations = { ["configuration-snippet"] = "deny all;" } },
      "configuration-snippet: deny all; is nginx configuration text, and there is no nginx here" },
    ["a guard's value without what it requires"] = { { annotations = { ["auth-secret"] = "users" } }, "auth-secret: users has no effect without auth-type" },
    ["a guard that is not there yet"] = { { annotations = { ["auth-snippet"] = "x" } }, "auth-snippet: " },
  } do
    it("refuses " .. name, function() refused(start(), case[2], ingress(case[1])) end)
  end

  it("names all that is wrong, each thing once, and not without end", function()
    local run = start()
    local annotations = { ["ssl-redirect"] = "maybe", ["proxy-body-size"] = "8 bananas" }
    local message = refused(run, nil, ingress { paths = { { "/" }, { "/x" }, { "/y" } }, annotations = annotations }).status.message
    assert.matches("ssl%-redirect: maybe ", message)
    assert.matches("proxy%-body%-size: 8 bananas ", message)
    assert.equal(1, select(2, message:gsub("; ", "")))
    assert.equal(1, select(2, message:gsub("8 bananas", "")))
    local many = {}
    for i = 1, 20 do many[i] = { "/(" .. i } end
    assert.matches("; and 12 more$", refused(run, nil, ingress { paths = many }).status.message)
  end)

  it("follows flags and settings", function()
    local backend = { service = { name = "web", port = { number = 80 } } }
    local whole = { default_backend = backend }
    allowed(start(), ingress(whole))
    refused(start { flags = { ["disable-catch-all"] = "true" } }, "spec.defaultBackend: --disable-catch-all is on", ingress(whole))
    allowed(start { flags = { ["disable-catch-all"] = "true" } }, ingress { host = false })

    local regex = { paths = { { "/a(b)" } } }
    allowed(start { settings = { ["strict-validate-path-type"] = "false" } }, ingress(regex))
    allowed(start { flags = { ["deep-inspect"] = "false" } }, ingress { paths = { { "/x/etc/passwd" } } })

    local custom = start { flags = { ["annotations-prefix"] = "example.com" } }
    refused(custom, "nginx.ingress.kubernetes.io/ssl-redirect: true is not read: annotations begin with example.com/ here",
      ingress { annotations = { ["ssl-redirect"] = "true" } })
    refused(custom, "ssl-redirect: maybe is ", ingress { annotations = { ["example.com/ssl-redirect"] = "maybe" } })
    allowed(custom, ingress { annotations = { ["example.com/ssl-redirect"] = "true", ["other.example/x"] = "y" } })

    local words = start { settings = { ["annotation-value-word-blocklist"] = "load_module, lua_package,{" } }
    refused(words, 'upstream-vhost: a lua_package b holds "lua_package", which annotation-value-word-blocklist forbids',
      ingress { annotations = { ["upstream-vhost"] = "a lua_package b" } })
    allowed(words, ingress { annotations = { ["upstream-vhost"] = "example.com", ["other.example/x"] = "load_module" } })

    local risk = start { settings = { ["annotations-risk-level"] = "Medium" } }
    refused(risk, "server-alias: b.test has the risk high, which annotations-risk-level does not allow",
      ingress { annotations = { ["server-alias"] = "b.test" } })
    allowed(risk, ingress { annotations = { ["force-ssl-redirect"] = "true" } })
    allowed(start(), ingress { annotations = { ["server-alias"] = "b.test" } })

    local lenient = start { settings = { ["allow-snippet-annotations"] = "true" } }
    warned(lenient, "configuration-snippet: is nginx configuration text", ingress { annotations = { ["configuration-snippet"] = "deny all;" } })
    refused(lenient, "auth-snippet: ", ingress { annotations = { ["auth-snippet"] = "x" } }) -- it closes its routes
  end)

  it("warns of what is allowed and yet not meant so", function()
    local run = start()
    warned(run, "no-such-name: is not a known annotation", ingress { annotations = { ["no-such-name"] = "1" } })
    warned(run, "global-rate-limit: is removed from ingress-nginx in v1.12.0", ingress { annotations = { ["global-rate-limit"] = "1" } })
    warned(run, 'ingress.kubernetes.io/ssl-redirect: "false" is ignored',
      ingress { annotations = { ["ssl-redirect"] = "true", ["ingress.kubernetes.io/ssl-redirect"] = "false" } })
    warned(run, "session-cookie-name: shop has no effect without affinity", ingress { annotations = { ["session-cookie-name"] = "shop" } })
    warned(run, "path /a.*b looks like a regex, but is none without use-regex", ingress { paths = { { "/a.*b", type = "ImplementationSpecific" } } })
    local regex = ingress { paths = { { "/a.*b", type = "ImplementationSpecific" } }, annotations = { ["use-regex"] = "true" } }
    assert.same({}, allowed(run, regex))
    warned(run, "it makes regexes of all paths of host old.test, of those of Ingress default/old too",
      ingress { host = "old.test", paths = { { "/new" } }, annotations = { ["use-regex"] = "true" } })
    warned(run, "path /x of host new.test is ignored: another rule has it already", ingress { paths = { { "/x" }, { "/x" } } })
  end)

  it("only warns of objects that are not there, or bad", function()
    local run = start()
    warned(run, "Service default/none does not exist: its routes answer 503", ingress { paths = { { "/", service = "none" } } })
    warned(run, 'Service default/web has no port "81": its routes answer 503', ingress { paths = { { "/", port = 81 } } })
    warned(run, "TLS Secret default/none does not exist: the default certificate is served",
      ingress { tls = { { hosts = { "new.test" }, secretName = "none" } } })
    warned(run, "custom-headers: none ", ingress { annotations = { ["custom-headers"] = "none" } })
    local bad = start { files = { ["web.yaml"] = WEB,
      ["map.yaml"] = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: bad }\ndata: { 'not a header': x }\n" } }
    warned(bad, "custom-headers: bad has the key not a header", ingress { annotations = { ["custom-headers"] = "bad" } })
  end)

  it("keeps warnings short, and whole characters in them", function()
    local run = start()
    local warnings = allowed(run, ingress { annotations = { [("x"):rep(60) .. "." .. ("ä"):rep(90)] = "1", ["b" .. ("ü"):rep(100)] = "1" } })
    assert.equal(2, #warnings)
    for _, warning in ipairs(warnings) do
      assert.is_true(#warning <= 120 and #warning > 110)
      assert.is_nil(warning:find("\195%.%.%.$"))
    end
    local many = {}
    for i = 1, 100 do many["unknown-" .. i] = "1" end
    assert.equal(30, #allowed(run, ingress { annotations = many }))
  end)

  it("asks mounted policies, each in its own state", function()
    local run = start { policies = {
      ["shop.lua"] = [[
        local policy = { name = "shop", summary = "Shop.", annotations = {
          ["shop-percent"] = { type = "integer", min = 0, max = 100, doc = "Share." },
          ["shop-mode"] = { type = "enum", values = { "a", "b" }, on_invalid = "reject", doc = "Mode." },
          ["shop-trap"] = { type = "boolean", doc = "Trap." } } }
        function policy.attach(route, annotations)
          if annotations["shop-percent"] == 13 then route:deny("shop-percent: 13 brings bad luck on " .. route.path) end
          if annotations["shop-percent"] == 14 then route:warn("shop-percent: 14 is odd") end
          if annotations["shop-trap"] then error("trapped") end
        end
        return policy]],
    } }
    refused(run, "shop-percent: 101 is more than 100", ingress { annotations = { ["shop-percent"] = "101" } })
    refused(run, "shop-mode: c ", ingress { annotations = { ["shop-mode"] = "c" } })
    refused(run, "shop-percent: 13 brings bad luck on /x", ingress { paths = { { "/" }, { "/x" } }, annotations = { ["shop-percent"] = "13" } })
    warned(run, "shop-percent: 14 is odd", ingress { annotations = { ["shop-percent"] = "14" } })
    warned(run, "trapped", ingress { annotations = { ["shop-trap"] = "true" } }) -- the policy's fault, not the Ingress's
  end)

  describe("about paths that others have", function()
    local run
    setup(function()
      local paths = { { "/" }, { "/shop" }, { "/exact", type = "Exact" } }
      run = start { files = { ["web.yaml"] = WEB,
        ["a.yaml"] = kube.ingress { name = "old", host = "old.test", created = "2026-01-01T00:00:00Z", paths = paths },
        ["b.yaml"] = kube.ingress { name = "late", host = "old.test", created = "2026-05-01T00:00:00Z", paths = { { "/shop" }, { "/late" } } },
        ["c.yaml"] = kube.ingress { name = "any", host = false, created = "2026-01-01T00:00:00Z", paths = { { "/any" } } } } }
    end)

    it("refuses to take them", function()
      refused(run, "host old.test, path /shop (prefix): Ingress default/old has it already",
        ingress { host = "old.test", paths = { { "/free" }, { "/shop" } } })
      refused(run, "path /late (prefix): Ingress default/late has it already",
        ingress { host = "OLD.test", namespace = "other", paths = { { "/late" } } })
      refused(run, "path /shop (prefix)", ingress { host = "old.test", paths = { { "/shop", type = "ImplementationSpecific" } } })
      refused(run, "path /exact (exact)", ingress { host = "old.test", paths = { { "/exact", type = "Exact" } } })
      refused(run, "host _, path /any (prefix): Ingress default/any has it already", ingress { host = false, paths = { { "/any" } } })
      refused(run, "path / (prefix)", ingress { host = "old.test", paths = { { "" } } })
    end)

    it("knows that another type, path or host is another path", function()
      allowed(run, ingress { host = "old.test", paths = { { "/exact" }, { "/shop", type = "Exact" }, { "/shop/" }, { "/Shop" } } })
      allowed(run, ingress { host = "new.test", paths = { { "/shop" } } })
      allowed(run, ingress { host = "*.test", paths = { { "/shop" } } })
    end)

    it("lets an Ingress be itself, and who came first keep what it has", function()
      allowed(run, ingress { name = "old", host = "old.test", created = "2026-01-01T00:00:00Z", paths = { { "/" }, { "/shop" }, { "/more" } } },
        { operation = "UPDATE" })
      refused(run, "path /shop (prefix): Ingress default/old has it already",
        ingress { name = "late", host = "old.test", created = "2026-05-01T00:00:00Z", paths = { { "/shop" } } }, { operation = "UPDATE" })
      -- Age is no right to what one did not have.
      refused(run, "path /late (prefix): Ingress default/late has it already",
        ingress { name = "old", host = "old.test", created = "2026-01-01T00:00:00Z", paths = { { "/late" } } }, { operation = "UPDATE" })
    end)

    it("lets one side be a canary, and several canaries be", function()
      allowed(run, ingress { host = "old.test", paths = { { "/shop" } }, annotations = { canary = "true", ["canary-weight"] = "10" } })
      allowed(run, ingress { name = "second", host = "old.test", paths = { { "/shop" } }, annotations = { canary = "true" } })
    end)
  end)

  it("judges a canary by what is its own", function()
    local run = start {}
    assert.same({}, allowed(run, ingress { annotations = { canary = "true", ["canary-weight"] = "10", ["canary-by-header"] = "X-A" } }))
    refused(run, "canary-weight: much is not a whole number", ingress { annotations = { canary = "true", ["canary-weight"] = "much" } })
    warned(run, "canary-by-header-pattern: [a is not a regular expression",
      ingress { annotations = { canary = "true", ["canary-by-header"] = "X-A", ["canary-by-header-pattern"] = "[a" } })
    assert.same({}, allowed(run, ingress { annotations = { canary = "true", ["ssl-redirect"] = "nonsense" } })) -- it has no effect
    warned(run, "canary-weight: 10 has no effect: it is for Ingresses with canary", ingress { annotations = { ["canary-weight"] = "10" } })
  end)

  it("leaves no trace", function()
    local run = start { settings = { ["annotations-risk-level"] = "Medium" } }
    local sync = run.sync
    local function state()
      local parts = { run.findings(), #run.messages }
      for _, name in ipairs { "world", "hosts", "sent", "rejected", "good", "certificate_users", "dirty", "queue", "setting_findings", "placed" } do
        local keys = {}
        local function walk(value, at, depth)
          if type(value) ~= "table" or depth > 3 then return end
          for key, item in pairs(value) do
            keys[#keys + 1] = at .. "/" .. tostring(key)
            walk(item, at .. "/" .. tostring(key), depth + 1)
          end
        end
        walk(sync[name], name, 1)
        table.sort(keys)
        parts[#parts + 1] = table.concat(keys, "\n")
      end
      return table.concat(parts, "\n")
    end
    local before = state()
    for _, annotations in ipairs { { ["ssl-redirect"] = "maybe" }, { ["server-alias"] = "b.test" }, { ["custom-headers"] = "none" }, { ["no-such-name"] = "1" },
      { ["affinity"] = "cookie", ["session-cookie-name"] = "x" } } do
      ask(run, ingress { annotations = annotations, tls = { { hosts = { "new.test" }, secretName = "none" } } })
      ask(run, ingress { name = "old", host = "old.test", annotations = annotations }, { operation = "UPDATE" })
    end
    assert.equal(before, state())
    assert.is_nil(sync.reviewing)
    assert.is_false(sync:work(1))
    assert.equal(before, state())
  end)

  it("works in slices, and an error in one leaves nothing behind", function()
    local run = start()
    local rules = {}
    for i = 1, 5 do rules[i] = { host = "h" .. i .. ".test", http = ingress().spec.rules[1].http } end
    local object = ingress { rules = rules, annotations = { ["ssl-redirect"] = "maybe" } }
    local slices, status, text, is_allowed = 0, admission.step(run.sync, -1, request_of(object)), nil, nil
    while not status do
      slices = slices + 1
      status, text, is_allowed = admission.step(run.sync, -1)
    end
    assert.equal(15, slices)
    assert.equal(200, status)
    assert.is_false(is_allowed)
    assert.equal("ssl-redirect: maybe is neither true nor false", json.decode(text).response.status.message)
    status, text, is_allowed = admission.step(run.sync, 1, request_of(ingress()))
    assert.equal(200, status)
    assert.is_true(is_allowed)
    assert.is_true(json.decode(text).response.allowed)
    assert.same({ 400, "the body is not an AdmissionReview", false }, { admission.step(run.sync, 1, "{}") })

    local owners = run.sync.policies.set.owners
    run.sync.policies.set.owners = nil
    assert.has_error(function() admission.step(run.sync, 1, request_of(ingress())) end)
    run.sync.policies.set.owners = owners
    assert.is_nil(run.sync.reviewing)
    assert.equal(200, (admission.step(run.sync, 1, request_of(ingress()))))
  end)

  it("is not misled by what is attached between two slices", function()
    local policy = [[
      local policy = { name = "probe", summary = "Probe.", annotations = { probe = { type = "string", scope = "host", doc = "Probe." } } }
      function policy.attach_host() end
      function policy.attach(route, annotations)
        if annotations.probe == "bad" then route:deny("probe: bad on " .. route.path) end
      end
      return policy]]
    local function old(path)
      return kube.ingress { name = "old", host = "old.test", created = "2026-01-01T00:00:00Z", annotations = { probe = "good" }, paths = { { path } } }
    end
    local run = start { policies = { ["probe.lua"] = policy }, files = { ["web.yaml"] = WEB, ["old.yaml"] = old "/" } }
    local object = ingress { host = "old.test", paths = { { "/a" }, { "/b" } }, annotations = { probe = "bad" } }
    local number, status, text = 0, admission.step(run.sync, -1, request_of(object)), nil
    while not status do
      number = number + 1
      assert.is_table(run.change("old.yaml", old("/" .. number))["upsert host old.test"])
      status, text = admission.step(run.sync, -1)
    end
    local message = json.decode(text).response.status.message
    assert.matches("probe: bad on /a; probe: bad on /b", message, 1, true)
  end)

  describe("in a cluster", function()
    local server, run
    before_each(function()
      server = api_server.new()
      server:apply { apiVersion = "networking.k8s.io/v1", kind = "IngressClass", metadata = { name = "nginx" }, spec = { controller = "k8s.io/ingress-nginx" } }
      server:apply { apiVersion = "v1", kind = "Service", metadata = { name = "web", namespace = "default" }, spec = { ports = { { port = 80 } } } }
      server:apply { apiVersion = "v1", kind = "Secret", type = "kubernetes.io/tls", metadata = { name = "cert", namespace = "default" },
        data = { ["tls.crt"] = "", ["tls.key"] = "" } }
      server:apply { apiVersion = "v1", kind = "ConfigMap", metadata = { name = "headers", namespace = "default" }, data = {} }
      run = kube.follow {
        flags = { ["watch-ingress-without-class"] = "false" },
        attach = function(sync)
          following.attach(sync, { client = server, identity = { pod = "moongate-0", namespace = "system" }, clock = function() return server.now end,
            time = function() return 1767225600 + server.now end, random = function() return 0.5 end })
        end,
      }
      for _ = 1, 200 do
        if following.turn(run.sync, 1) > 0 then server.now = server.now + 0.001 end
      end
      assert.is_true(run.sync.is_ready)
    end)

    it("follows nothing for a question, and does not call missing what it never looked for", function()
      local requests = #server.requests
      assert.same({}, allowed(run, ingress { class = "nginx", annotations = { ["custom-headers"] = "headers" }, tls = { { secretName = "cert" } } }))
      warned(run, "TLS Secret default/none does not exist", ingress { class = "nginx", tls = { { secretName = "none" } } })
      assert.equal(requests, #server.requests)
      assert.is_nil(run.sync.cluster.named.wanted["ConfigMap default/headers"])
      assert.is_nil(run.sync.cluster.named.wanted["Secret default/cert"])
    end)

    it("is asked about its classes only", function()
      refused(run, "ssl-redirect", ingress { class = "nginx", annotations = { ["ssl-redirect"] = "maybe" } })
      allowed(run, ingress { annotations = { ["ssl-redirect"] = "maybe" } })
    end)
  end)
end)

describe("the sync", function()
  teardown(kube.clean)

  it("refuses an Ingress with a word that annotation-value-word-blocklist forbids, as soon as it does", function()
    local settings = "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: settings }\ndata: { annotation-value-word-blocklist: '%s' }\n"
    local shop = kube.ingress { annotations = { ["upstream-vhost"] = "evil.test" } }
    local run = kube.start { flags = { configmap = "default/settings" }, files = { ["a.yaml"] = WEB .. "---\n" .. shop,
      ["s.yaml"] = settings:format("root, evil") } }
    assert.is_nil(run.units["host shop.test"])
    assert.matches('error a.yaml:%d+: Ingress default/shop: .*upstream%-vhost: holds "evil", which annotation%-value%-word%-blocklist forbids', run.findings())
    run.change("s.yaml", settings:format("root"))
    assert.is_table(run.units["host shop.test"])
    assert.equal("", run.findings())
    run.change("s.yaml", settings:format("evil"))
    assert.is_nil(run.units["host shop.test"])
  end)
end)
