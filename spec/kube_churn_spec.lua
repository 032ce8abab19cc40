-- Objects of ever new names that come and go leave nothing behind.
local kube = require "spec.kube_support"
local world = require "spec.kube_cluster_support"

--- Counts what can be reached: entries of tables, of shelves, and of what functions hold.
local function count(value, seen, path, counts)
  local kind = type(value)
  if (kind ~= "table" and kind ~= "function") or seen[value] then return end
  seen[value] = true
  if kind == "function" then
    for i = 1, 255 do
      local name, held = debug.getupvalue(value, i)
      if not name then return end
      count(held, seen, path .. "^" .. name, counts)
    end
  end
  local entries = 0
  for key, item in pairs(value) do
    entries = entries + 1
    local step = type(key) == "string" and #key < 25 and not key:find "[%d/ ]" and key or "*"
    count(item, seen, path .. "." .. step, counts)
    count(key, seen, path .. ".key", counts)
  end
  if rawget(value, "texts") and type(value.texts) == "userdata" then entries = entries + #value:keys() end
  counts[path] = (counts[path] or 0) + entries
  count(getmetatable(value), seen, path .. ".meta", counts)
end

local function counts_of(run, server)
  collectgarbage()
  collectgarbage() -- what is held weakly goes
  local counts, seen = {}, {}
  for _, others in ipairs { server, _G, package.loaded, run.units, run.messages, run.taken, run.parts, run.said } do seen[others] = true end
  count(run.sync, seen, "sync", counts)
  return counts
end

local function object(kind, name, more)
  local made = { apiVersion = "v1", kind = kind, metadata = { name = name, namespace = "default" } }
  for key, value in pairs(more) do made[key] = value end
  return made
end

local function one(server, number)
  local name, ids = "name-" .. number, {}
  local function put(made)
    server:apply(made)
    ids[#ids + 1] = made.kind .. " default/" .. made.metadata.name
  end
  local service, slice = world.service(name), world.slice(name, "10.0.0." .. number % 250 + 1)
  put(object("Secret", name, { type = "kubernetes.io/tls", data = { ["tls.crt"] = "YQ==", ["tls.key"] = "YQ==" } }))
  put(object("Secret", "opaque-" .. name, { type = "Opaque", data = { auth = "YQ==" } }))
  put(object("ConfigMap", "headers-" .. name, { data = { ["X-One"] = "1" } }))
  put(service)
  put(slice)
  local prefix = "nginx.ingress.kubernetes.io/"
  local ingress = world.ingress(name, { tls = { { hosts = { name .. ".test" }, secretName = name } }, annotations = {
    [prefix .. "custom-headers"] = "default/headers-" .. name, [prefix .. "proxy-read-timeout"] = number % 2 == 0 and "soon" or "5",
    [prefix .. "server-alias"] = "alias-" .. name .. ".test", [prefix .. "no-such-" .. name] = "x", [prefix .. "affinity"] = "cookie",
    [prefix .. "auth-type"] = "basic", [prefix .. "auth-secret"] = "opaque-" .. name, [prefix .. "upstream-hash-by"] = number % 3 == 0 and "$host" or nil,
  } })
  ingress.spec.rules[1].http.paths[1].backend.service.name = number % 5 == 0 and "missing-" .. name or name
  put(ingress)
  return ids
end

local function live(run, server, from, to)
  local ids = {}
  for number = from, to do ids[#ids + 1] = one(server, number) end
  run.turn(2)
  for number = from, to, 3 do one(server, number) end
  run.turn(70)
  for i, list in ipairs(ids) do
    for step = 1, #list do
      local kind, id = list[i % 2 == 0 and step or #list + 1 - step]:match("^(%S+) (.*)$")
      server:delete(kind, id)
      if i % 4 == 0 then run.turn(0.05) end
    end
  end
  run.turn(1500) -- Events are remembered for ten minutes
end

describe("objects that come and go", function()
  teardown(kube.clean)

  it("leave nothing behind", function()
    local server = world.basic()
    local run = world.start(server, { ["publish-status-address"] = "192.0.2.1", ["trust-policies"] = "true" })
    live(run, server, 1, 80)
    server.log, server.requests = {}, {}
    local before = counts_of(run, server)
    live(run, server, 81, 160)
    local left = {}
    for path, number in pairs(counts_of(run, server)) do
      if number > (before[path] or 0) + 2 then left[#left + 1] = ("%s: %d, %d before"):format(path, number, before[path] or 0) end
    end
    table.sort(left)
    assert.equal("", table.concat(left, "\n"))
  end)
end)
