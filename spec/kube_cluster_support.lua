--- For the specs of a cluster as source: objects, and a sync over an api_server whose time passes when it is told to.
local api_server = require "spec.kube_api_server"
local kube = require "spec.kube_support" -- brings moongate.kube
local following = require "kube.following"

local world = {}

function world.ingress(name, more)
  more = more or {}
  return {
    apiVersion = "networking.k8s.io/v1", kind = "Ingress",
    metadata = { name = name, namespace = more.namespace or "default", annotations = more.annotations },
    spec = {
      ingressClassName = more.class or "nginx", tls = more.tls,
      rules = { { host = more.host or name .. ".test", http = { paths = { { path = "/", pathType = "Prefix",
        backend = { service = { name = "web", port = { number = 80 } } } } } } } },
    },
  }
end

function world.service(name) return { apiVersion = "v1", kind = "Service", metadata = { name = name, namespace = "default" },
  spec = { ports = { { port = 80 } } } } end

function world.slice(name, ...)
  local endpoints = {}
  for i, ip in ipairs { ... } do endpoints[i] = { addresses = { ip }, conditions = { ready = true } } end
  return { apiVersion = "discovery.k8s.io/v1", kind = "EndpointSlice", addressType = "IPv4",
    metadata = { name = name .. "-1", namespace = "default", labels = { ["kubernetes.io/service-name"] = name } }, ports = { { port = 8080 } },
      endpoints = endpoints }
end

world.CLASS = { apiVersion = "networking.k8s.io/v1", kind = "IngressClass", metadata = { name = "nginx" }, spec = { controller = "k8s.io/ingress-nginx" } }

--- A sync over an api_server. `run.turn(seconds)` lets time pass until nothing is left to do; `run.said` is what was logged about objects.
function world.start(server, flags)
  flags = flags or {}
  local said = {}
  flags["watch-ingress-without-class"] = flags["watch-ingress-without-class"] or "false"
  local run = kube.follow {
    flags = flags,
    attach = function(sync)
      following.attach(sync, { client = server, identity = { pod = "moongate-0", namespace = "system" }, clock = function() return server.now end,
        time = function() return 1767225600 + server.now end, random = function() return 0.5 end })
      sync.findings.write = function(_, _, text) said[#said + 1] = text end
    end,
  }
  run.said = said
  function run.turn(seconds)
    local deadline = server.now + (seconds or 0.1)
    while server.now < deadline do
      local wait = following.turn(run.sync, 1)
      if wait > 0 and #server.news == 0 then server.now = math.min(deadline, server.now + math.max(wait, 0.0005)) end
    end
  end
  run.turn()
  return run
end

function world.basic()
  local server = api_server.new()
  server:apply(world.CLASS)
  server:apply(world.service "web")
  server:apply(world.slice("web", "10.0.0.1"))
  server:apply(world.ingress "shop")
  return server
end

return world
