-- Topology-aware routing: our zone, and the endpoints that are meant for it.
local kube = require "spec.kube_support" -- brings moongate.kube
local world = require "spec.kube_cluster_support"

local POD, NODE = "GET .*/pods/moongate%-0", "GET .*/nodes/node%-1"

local function hinted()
  local slice = world.slice("web", "10.0.0.1", "10.0.0.2")
  slice.endpoints[1].hints = { forZones = { { name = "a" } } }
  slice.endpoints[2].hints = { forZones = { { name = "b" } } }
  return slice
end

local function put_pod(server)
  server:apply { apiVersion = "v1", kind = "Pod", metadata = { name = "moongate-0", namespace = "system" }, spec = { nodeName = "node-1" } }
end

local function put_node(server, labels)
  server:apply { apiVersion = "v1", kind = "Node", metadata = { name = "node-1", labels = labels } }
end

local function addresses(run)
  local list = {}
  for i, endpoint in ipairs(run.units["upstream default/web/80"].endpoints) do list[i] = endpoint.ip end
  return table.concat(list, " ")
end

local FLAG = "enable-topology-aware-routing"
local ZONE = "topology.kubernetes.io/zone"

describe("topology-aware routing", function()
  teardown(kube.clean)

  it("begins with the endpoints of our node's zone, and follows its hints", function()
    local server = world.basic()
    server:apply(hinted())
    put_pod(server)
    put_node(server, { [ZONE] = "b" })
    local run = world.start(server, { [FLAG] = "true", ["update-status"] = "false" })
    assert.equal(1, #run.messages)
    assert.equal("10.0.0.2", addresses(run))
    server:apply(world.slice("web", "10.0.0.1", "10.0.0.2")) -- without hints
    run.turn()
    assert.equal("10.0.0.1 10.0.0.2", addresses(run))
    server:apply(hinted())
    run.turn()
    assert.equal("10.0.0.2", addresses(run))
    run.turn(120)
    assert.equal(1, server:count(POD))
    assert.equal(1, server:count(NODE))
  end)

  it("is off without the flag, and asks for nothing", function()
    local server = world.basic()
    server:apply(hinted())
    put_pod(server)
    put_node(server, { [ZONE] = "b" })
    local run = world.start(server, { [FLAG] = "false", ["update-status"] = "false" })
    run.turn(60)
    assert.equal("10.0.0.1 10.0.0.2", addresses(run))
    assert.equal(0, server:count(POD))
    assert.equal(0, server:count(NODE))
  end)

  it("uses all endpoints while the zone is not known, and asks again", function()
    local server = world.basic()
    server:apply(hinted())
    local run = world.start(server, { [FLAG] = "true", ["update-status"] = "false" })
    assert.equal(1, #run.messages) -- ready all the same
    assert.equal("10.0.0.1 10.0.0.2", addresses(run))
    put_pod(server)
    run.turn(31)
    assert.equal("10.0.0.1 10.0.0.2", addresses(run)) -- there is no node
    put_node(server, {})
    run.turn(31)
    assert.equal("10.0.0.1 10.0.0.2", addresses(run)) -- it has no zone
    put_node(server, { [ZONE] = "a" })
    run.turn(31)
    assert.equal("10.0.0.1", addresses(run))
  end)

  it("does not mind hints that are none", function()
    local server = world.basic()
    local slice = hinted()
    slice.endpoints[1].hints = { forZones = "a" }
    server:apply(slice)
    put_pod(server)
    put_node(server, { [ZONE] = "b" })
    local run = world.start(server, { [FLAG] = "true" })
    assert.equal("10.0.0.1 10.0.0.2", addresses(run))
  end)

  it("has no zone without a cluster, and says so", function()
    local run = kube.start { files = { ["a.yaml"] = kube.ingress {} .. "---\n" .. kube.service() .. "---\n" .. kube.slice() }, flags = { [FLAG] = "true" } }
    assert.equal("10.0.0.1", addresses(run))
    assert.matches("without a cluster there is no node", run.findings(), 1, true)
  end)
end)
