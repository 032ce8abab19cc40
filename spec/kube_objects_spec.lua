-- What we read of Kubernetes objects, and what we say about wrong ones.
local native = require("spec.kube_support").native
local objects = require "kube.objects"

local function read(text, flags)
  local object, problems, key, is_skipped = objects.read(native.yaml(text), flags or {})
  local lines = {}
  for i, problem in ipairs(problems) do lines[i] = ("%s %s %s"):format(problem.level, problem.field or "", problem.text) end
  return object, table.concat(lines, "\n"), key, is_skipped
end

local function ingress(spec, api)
  return "apiVersion: " .. (api or "networking.k8s.io/v1") .. "\nkind: Ingress\nmetadata: { name: a }\nspec:\n" .. spec
end

describe("an Ingress", function()
  it("is read in its new form", function()
    local object, problems = read(ingress [[
  ingressClassName: nginx
  defaultBackend: { service: { name: fallback, port: { name: http } } }
  tls: [{ hosts: [A.example.com], secretName: cert }]
  rules:
  - host: A.Example.com
    http:
      paths:
      - { path: /x, pathType: Exact, backend: { service: { name: web, port: { number: 80 } } } }
      - { path: /y.*, pathType: ImplementationSpecific, backend: { service: { name: web, port: { name: http } } } }
  - host: "*.example.com"
]])
    assert.equal("", problems)
    assert.equal("default/a", object.id)
    assert.equal("nginx", object.class)
    assert.same({ service = "fallback", port = "http" }, object.default_backend)
    assert.same({ { hosts = { "a.example.com" }, secret = "cert" } }, object.tls)
    assert.equal("a.example.com", object.rules[1].host)
    assert.same({ path = "/x", type = "exact", path_type = "Exact", service = "web", port = "80" }, object.rules[1].paths[1])
    assert.same({ path = "/y.*", type = "prefix", path_type = "ImplementationSpecific", service = "web", port = "http" }, object.rules[1].paths[2])
    assert.same({ host = "*.example.com", paths = {} }, object.rules[2])
  end)
  it("is read in its old forms", function()
    for _, api in ipairs { "networking.k8s.io/v1beta1", "extensions/v1beta1" } do
      local object, problems = read(ingress([[
  backend: { serviceName: fallback, servicePort: 8080 }
  rules:
  - http: { paths: [{ path: /foo, backend: { serviceName: echoheaders, servicePort: "80" } }, { backend: { serviceName: b, servicePort: web } }] }
]], api))
      assert.equal("", problems)
      assert.same({ service = "fallback", port = "8080" }, object.default_backend)
      assert.equal("_", object.rules[1].host)
      assert.same({ path = "/foo", type = "prefix", service = "echoheaders", port = "80" }, object.rules[1].paths[1])
      assert.equal("/", object.rules[1].paths[2].path)
    end
  end)
  it("says which field is wrong", function()
    local object, problems, key = read(ingress [[
  rules:
  - host: "bad_host!"
    http:
      paths:
      - { path: x, pathType: Prefix, backend: { service: { name: web, port: { number: 99999 } } } }
      - { path: /, pathType: Fuzzy, backend: { service: { port: { number: "80" } } } }
      - { path: /, pathType: Exact, backend: { serviceName: web, servicePort: 80 } }
]])
    assert.is_nil(object)
    assert.equal("Ingress default/a", key)
    assert.matches('error spec.rules[0].host is "bad_host!", not a host name', problems, 1, true)
    assert.matches('error spec.rules[0].http.paths[0].path is "x" and does not begin with /', problems, 1, true)
    assert.matches("error spec.rules[0].http.paths[0].backend.service.port.number is 99999, not a port from 1 to 65535", problems, 1, true)
    assert.matches('error spec.rules[0].http.paths[1].pathType is "Fuzzy"', problems, 1, true)
    assert.matches("error spec.rules[0].http.paths[1].backend.service.name is missing", problems, 1, true)
    assert.matches("error spec.rules[0].http.paths[1].backend.service.port.number is a string, not a number", problems, 1, true)
    assert.matches("error spec.rules[0].http.paths[2].backend.service is missing", problems, 1, true)
    assert.matches("networking.k8s.io/v1 has service.name", problems, 1, true)
  end)
  it("wants annotations as texts", function()
    local _, problems = read [[
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: { name: a, annotations: { nginx.ingress.kubernetes.io/ssl-redirect: true } }
spec: { defaultBackend: { service: { name: a, port: { number: 80 } } } }
]]
    assert.equal("error metadata.annotations[nginx.ingress.kubernetes.io/ssl-redirect] is a boolean, not a string; write it in quotes", problems)
  end)
  it("is refused by deep inspection unless that is off", function()
    local text = ingress [[
  rules:
  - host: a.test
    http: { paths: [{ path: "/etc/passwd", pathType: Prefix, backend: { service: { name: a, port: { number: 80 } } } }] }
]]
    assert.matches("deep inspection", select(2, read(text)))
    assert.is_table((read(text, { ["deep-inspect"] = "false" })))
  end)
  it("ignores resource backends, and says so", function()
    local object, problems = read(ingress [[
  rules:
  - host: a.test
    http: { paths: [{ path: /r, pathType: Prefix, backend: { resource: { kind: Bucket, name: b } } }] }
]])
    assert.same({}, object.rules[1].paths)
    assert.matches("is not a Service: the path is ignored", problems)
  end)
end)

describe("other objects", function()
  it("are skipped when their kind is not ours", function()
    local object, problems, _, is_skipped = read "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: a }\n"
    assert.is_nil(object)
    assert.equal("", problems)
    assert.is_true(is_skipped)
    assert.is_true(select(4, read "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: { name: a }\n"))
  end)
  it("need a name and a version that exists", function()
    assert.matches("error metadata.name is missing", select(2, read "apiVersion: v1\nkind: Service\nmetadata: {}\n"))
    assert.matches('error apiVersion is "networking.k8s.io/v2"', select(2, read "apiVersion: networking.k8s.io/v2\nkind: Ingress\nmetadata: { name: a }\n"),
      1, true)
    assert.matches("is a string, not an object", select(2, read "hello"))
  end)
  it("give a Secret's data decoded, and stringData on top", function()
    local object = read "apiVersion: v1\nkind: Secret\nmetadata: { name: a }\ndata: { a: aGVsbG8=, b: aGVsbA==, c: aGVs, d: '' }\nstringData: { a: plain }\n"
    assert.same({ a = "plain", b = "hell", c = "hel", d = "" }, object.data)
    assert.matches("data[a] is not base64", select(2, read "apiVersion: v1\nkind: Secret\nmetadata: { name: a }\ndata: { a: 'not base64!' }\n"), 1, true)
  end)
  it("give a slice's ready and draining endpoints", function()
    local object = read [[
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: a, labels: { kubernetes.io/service-name: web } }
ports: [{ name: http, port: 8080 }]
endpoints:
- { addresses: [10.0.0.1], conditions: { ready: true } }
- { addresses: [10.0.0.2] }
- { addresses: [10.0.0.3], conditions: { ready: false } }
- { addresses: [10.0.0.4], conditions: { ready: false, serving: true, terminating: true } }
- { addresses: [10.0.0.5], conditions: { ready: false, serving: false, terminating: true } }
- { addresses: ["fd00::0:1"] }
]]
    local list = {}
    for i, endpoint in ipairs(object.endpoints) do list[i] = ("%s %s %s"):format(endpoint.ip, tostring(endpoint.ready), tostring(endpoint.draining)) end
    assert.same({ "10.0.0.1 true false", "10.0.0.2 true false", "10.0.0.4 false true", "fd00::1 true false" }, list)
  end)
  it("come one by one out of a List", function()
    local items, is_list = objects.items(native.yaml "apiVersion: v1\nkind: List\nitems: [{ kind: A }, { kind: B }]\n")
    assert.is_true(is_list)
    assert.equal(2, #items)
  end)
end)
