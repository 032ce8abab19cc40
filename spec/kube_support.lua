--- For the specs of kube/: the native module over the real C, temporary directories, and a sync whose messages are kept as the units they make.
local core_file = assert(package.searchpath("moongate.core", package.cpath), "moongate.core is not built")
package.preload["moongate.kube"] = package.preload["moongate.kube"] or assert(package.loadlib(core_file, "luaopen_moongate_kube"))
require "moongate.core" -- brings moongate.owners

local kube = { native = require "moongate.kube" }
local home = assert(os.getenv("MOONGATE_HOME"), "MOONGATE_HOME is not set")

--- Runs a command; quoting is the caller's.
function kube.run(command)
  assert(os.execute(command) == 0, command)
end

local directories = {}

function kube.directory()
  local path = os.tmpname()
  os.remove(path)
  kube.run("mkdir -p " .. path)
  directories[#directories + 1] = path
  return path
end

--- Removes what the specs of a file made; call it in a teardown.
function kube.clean()
  for _, path in ipairs(directories) do kube.run("rm -rf " .. path) end
  directories = {}
end

--- Writes a file as careful programs do: beside it, then renamed.
function kube.write(path, text)
  local file = assert(io.open(path .. ".part", "w"))
  file:write(text)
  file:close()
  assert(os.rename(path .. ".part", path))
end

local function new_sync(made, other_home, policies, flags, is_check)
  return require("kube.sync").new {
    home = other_home or home, lua_directory = home .. "/lua", policies = policies, flags = flags, is_check = is_check,
    gauge = function(family, key, labels, value) made.gauges[family .. " " .. key] = labels and value end,
    show_gauges = function(family, is_shown) made.shown[family] = is_shown end,
    emit = function(message, taken, is_part)
      made.parts[#made.parts + 1] = is_part
      made.taken[#made.taken + 1] = taken
      local changes = kube.native.decode(message)
      made.messages[#made.messages + 1] = changes
      for _, change in ipairs(changes) do
        made.units[change.kind .. " " .. change.key] = change.op == "upsert" and change.body or nil
      end
    end,
  }
end

--- A sync over a cluster, started; `attach(sync)` joins it to one.
---@param options { flags: table<string, string>, attach: fun(sync: table) }
function kube.follow(options)
  local made = { units = {}, messages = {}, gauges = {}, shown = {}, taken = {}, parts = {} }
  options.flags["own-ports"] = "80,443,10254"
  made.sync = new_sync(made, nil, {}, options.flags)
  options.attach(made.sync)
  assert(made.sync:start {})
  return made
end

---@class KubeStart
---@field files table<string, string>|nil
---@field flags table<string, string>|nil
---@field policies table<string, string>|nil
---@field is_check boolean|nil

--- A sync over a directory with `files`; `units` holds what it sent: "kind key" -> body.
---@param options KubeStart
function kube.start(options)
  local made = { directory = kube.directory(), units = {}, messages = {}, gauges = {}, shown = {}, taken = {}, parts = {} }
  for name, text in pairs(options.files or {}) do kube.write(made.directory .. "/" .. name, text) end
  local mounted = {}
  if options.policies then
    made.policies = kube.directory()
    mounted[1] = made.policies
    for name, text in pairs(options.policies) do kube.write(made.policies .. "/" .. name, text) end
  end
  local flags = { ["own-ports"] = "80,443,10254" }
  for name, value in pairs(options.flags or {}) do flags[name] = value end
  made.sync = new_sync(made, options.home, mounted, flags, options.is_check)
  assert(made.sync:start { made.directory })

  --- Writes (or with nil: removes) a manifest and lets the sync see it. Returns the changes of the messages it made, by "op kind key".
  function made.change(name, text)
    local path = made.directory .. "/" .. name
    if text then kube.write(path, text) else os.remove(path) end
    return made.seen { path }
  end

  function made.change_policy(name, text)
    local path = made.policies .. "/" .. name
    if text then kube.write(path, text) else os.remove(path) end
    return made.seen { path }
  end

  function made.seen(paths)
    local first, seen = #made.messages + 1, {}
    made.sync:change(paths)
    while made.sync:work(1) do end
    for i = first, #made.messages do
      for _, change in ipairs(made.messages[i]) do seen[change.op .. " " .. change.kind .. " " .. change.key] = change.body or true end
    end
    return seen
  end

  --- All findings as one text, a line each: "level text".
  function made.findings()
    local lines = {}
    for _, line in ipairs((made.sync.findings:all())) do
      lines[#lines + 1] = line.level .. " " .. line.text:gsub(made.directory:gsub("%p", "%%%0") .. "/", "")
    end
    return table.concat(lines, "\n")
  end

  return made
end

local function metadata(options)
  local annotations = {}
  for name, value in pairs(options.annotations or {}) do
    if not name:find("/", 1, true) then name = "nginx.ingress.kubernetes.io/" .. name end
    annotations[#annotations + 1] = ("    %s: %q\n"):format(name, value)
  end
  return ("  name: %s\n  namespace: %s\n"):format(options.name or "shop", options.namespace or "default")
    .. (options.created and "  creationTimestamp: \"" .. options.created .. "\"\n" or "")
    .. (#annotations > 0 and "  annotations:\n" .. table.concat(annotations) or "")
end

--- An Ingress: name, namespace, created, annotations, class, host (false: none), paths { { path, type, service, port } }, spec (more lines).
function kube.ingress(options)
  local paths = {}
  for _, path in ipairs(options.paths or { { "/" } }) do
    paths[#paths + 1] = ("      - { path: %q, pathType: %s, backend: { service: { name: %s, port: { %s: %s } } } }\n"):format(
      path[1], path.type or "Prefix", path.service or "web", type(path.port) == "string" and "name" or "number", path.port or 80)
  end
  return "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n" .. metadata(options) .. "spec:\n"
    .. (options.class and "  ingressClassName: " .. options.class .. "\n" or "") .. (options.spec or "")
    .. "  rules:\n  - " .. (options.host == false and "" or ("host: %q\n    "):format(options.host or "shop.test"))
    .. "http:\n      paths:\n" .. table.concat(paths)
end

function kube.service(name, ports, more)
  return ("apiVersion: v1\nkind: Service\nmetadata: { name: %s }\nspec: { ports: [%s]%s }\n"):format(
    name or "web", ports or "{ port: 80 }", more or ", selector: { app: web }")
end

function kube.slice(service, addresses, port)
  return ([[
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: { name: %s-1, labels: { kubernetes.io/service-name: %s } }
addressType: IPv4
ports: [{ port: %d }]
endpoints: [{ addresses: [%s] }]
]]):format(service or "web", service or "web", port or 8080, addresses or "10.0.0.1")
end

return kube
