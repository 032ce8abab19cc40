-- Secrets and ConfigMaps of a cluster that come and go: which version stays, and how many watches that takes.
local kube = require "spec.kube_support"
local world = require "spec.kube_cluster_support"

local basic, ingress, start = world.basic, world.ingress, world.start

local function secret(name, type, data)
  return { apiVersion = "v1", kind = "Secret", type = type, metadata = { name = name, namespace = "default" }, data = { ["tls.crt"] = data or "YQ==" } }
end

local function tls_ingress(name, secret_name)
  return ingress(name, { tls = { { hosts = { name .. ".test" }, secretName = secret_name or name } } })
end

local function data_of(run, name)
  local object = run.sync.store:get("Secret", "default/" .. name)
  return object and object.data["tls.crt"]
end

--- Puts the news of the watches that `is_first` chooses before those of all others.
local function reorder(server, is_first)
  local first, rest = {}, {}
  for _, item in ipairs(server.news) do
    local list = is_first(server.watches[item[1]].parameters) and first or rest
    list[#list + 1] = item
  end
  for _, item in ipairs(rest) do first[#first + 1] = item end
  server.news = first
end

local function is_by_name(parameters) return (parameters.fieldSelector or ""):find("^metadata.name=") ~= nil end
local function is_of_kind(parameters) return not is_by_name(parameters) end

local function watches(server, wanted)
  local count = 0
  for _, watch in pairs(server.watches) do
    if watch.path:find("/secrets$") and wanted(watch.parameters) then count = count + 1 end
  end
  return count
end

describe("a Secret that is made again as one of another type", function()
  teardown(kube.clean)

  for order, is_first in pairs { ["the kind's watch tells first"] = is_of_kind, ["its own watch tells first"] = is_by_name } do
    it("stays: " .. order, function()
      local server = basic()
      server:apply(secret("cert", "Opaque", "b2xk"))
      server:apply(tls_ingress "cert")
      local run = start(server)
      assert.equal("old", data_of(run, "cert"))
      for _, step in ipairs { { "kubernetes.io/tls", "bmV3", "new" }, { "Opaque", "bmV3ZXI=", "newer" }, { "kubernetes.io/tls", "bmV3ZXN0", "newest" } } do
        server:delete("Secret", "default/cert")
        server:apply(secret("cert", step[1], step[2]))
        reorder(server, is_first)
        run.turn()
        assert.equal(step[3], data_of(run, "cert"), step[1])
      end
    end)
  end
end)

describe("many Secrets that are named", function()
  teardown(kube.clean)

  local function many(server, from, to)
    for i = from, to do
      server:apply(secret("opaque-" .. i, "Opaque"))
      server:apply(tls_ingress("host-" .. i, "opaque-" .. i))
    end
  end

  it("are followed by one watch, as far as they are there and named", function()
    local server = basic()
    many(server, 1, 100)
    server:apply(secret("idle", "Opaque"))
    server:apply(secret("of-helm", "helm.sh/release.v1"))
    server:apply(secret("gone", "Opaque"))
    server:apply(tls_ingress "gone")
    local run = start(server)
    assert.is_false(run.parts[#run.messages]) -- the first message has parts, and is over
    for i = 1, #run.messages - 1 do assert.is_true(run.parts[i]) end
    assert.equal(0, watches(server, is_by_name))
    assert.equal(2, watches(server, is_of_kind))
    for i = 1, 100 do assert.equal("a", data_of(run, "opaque-" .. i)) end
    assert.is_nil(data_of(run, "idle"))
    server:apply(secret("opaque-7", "Opaque", "bmV3"))
    server:delete("Secret", "default/gone")
    server:apply(tls_ingress "idle") -- known, and its bytes were dropped
    server:apply(tls_ingress "late")
    run.turn()
    server:apply(secret("late", "Opaque"))
    run.turn()
    assert.equal("new", data_of(run, "opaque-7"))
    assert.is_nil(data_of(run, "gone"))
    assert.equal("a", data_of(run, "idle"))
    assert.equal("a", data_of(run, "late"))
    assert.equal(0, watches(server, is_by_name))
    for i = 1, 100 do server:delete("Ingress", "default/host-" .. i) end
    run.turn(130)
    assert.is_nil(data_of(run, "opaque-7"))
    server:apply(secret("opaque-8", "Opaque", "bmV3"))
    run.turn()
    assert.is_nil(data_of(run, "opaque-8"))
  end)

  it("that become many while it serves do so too, with nothing lost on the way", function()
    local server = basic()
    many(server, 1, 40)
    local run = start(server)
    assert.equal(40, watches(server, is_by_name))
    many(server, 41, 80)
    run.turn()
    assert.equal(0, watches(server, is_by_name))
    for i = 1, 80 do assert.equal("a", data_of(run, "opaque-" .. i)) end
    many(server, 300, 500) -- the Secrets are known before something names them
    for _ = 1, 3 do run.turn() end
    for i = 300, 500 do assert.equal("a", data_of(run, "opaque-" .. i)) end
    assert.is_true(run.sync.cluster.named.count.Secret <= 64)
  end)

  it("are at most 64 where not all may be read, and the rest count as absent", function()
    local server = basic()
    server.faults[1] = { path = "fieldSelector=type", answer = { "done", 403, { body = "{}" } }, is_lasting = true }
    many(server, 1, 100)
    local run = start(server)
    assert.equal(1, #run.messages)
    assert.equal(64, watches(server, is_by_name))
    local count = 0
    for i = 1, 100 do count = count + (data_of(run, "opaque-" .. i) and 1 or 0) end
    assert.equal(64, count)
    for i = 1, 64 do server:delete("Ingress", "default/host-" .. i) end
    run.turn(130) -- room for the others
    for i = 65, 100 do assert.equal("a", data_of(run, "opaque-" .. i)) end
  end)
end)

describe("a name that no object can have", function()
  teardown(kube.clean)

  it("is not asked for, and keeps nobody waiting", function()
    for _, name in ipairs { "not a namespace/map", "system?watch=true/map", "system/a map", "..%2f/map", "/", "system/", "Ärger/map" } do
      local server = basic()
      local send = server.send
      function server.send(self, request) -- as the real one: what must be escaped is refused
        if request.path:find "[^!-~]" then return nil, "the path holds bytes that must be escaped" end
        return send(self, request)
      end
      server:apply { apiVersion = "v1", kind = "ConfigMap", metadata = { name = "settings", namespace = "system" }, data = { ["proxy-set-headers"] = name } }
      local run = start(server, { configmap = "system/settings" })
      assert.equal(1, #run.messages, name)
      assert.equal(1, server:count "fieldSelector=metadata.*limit", name)
    end
  end)
end)
