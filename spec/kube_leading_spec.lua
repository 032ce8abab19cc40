-- The Lease and the status at the edges: what is under way when we begin to lead, lead no longer, or end. Answers are given by hand.
require "spec.kube_support" -- brings moongate.kube
local json = require "cjson"
local events = require "kube.events"
local lease = require "kube.lease"
local shelf = require "kube.shelf"
local status = require "kube.status"

--- A cluster that keeps what is asked. `made.answer(pattern, status, body)` answers the oldest request that matches "METHOD path".
local function hand()
  local made = { now = 0, asked = {} }
  function made.ask(_, request, done) made.asked[#made.asked + 1] = { name = request.method .. " " .. request.path, request = request, done = done } end
  function made.uid() return "uid" end
  function made.find(pattern)
    for i, item in ipairs(made.asked) do
      if item.name:find(pattern) then return item, i end
    end
  end
  function made.answer(pattern, code, body)
    local item, i = made.find(pattern)
    assert(item, "nobody asks for " .. pattern)
    table.remove(made.asked, i)
    item.done(code, body and json.encode(body) or "{}")
    return item
  end
  made.options = { cluster = made, identity = { pod = "pod-0", namespace = "system" }, clock = function() return made.now end,
    time = function() return 1767225600 + made.now end, random = function() return 0.5 end, log = function() end }
  return made
end

local function with(options, more)
  local all = {}
  for name, value in pairs(options) do all[name] = value end
  for name, value in pairs(more) do all[name] = value end
  return all
end

local function lease_of(holder)
  return { metadata = { name = "leader", resourceVersion = "5" }, spec = { holderIdentity = holder, leaseDurationSeconds = 30 } }
end

describe("the Lease", function()
  local function leading()
    local made = hand()
    made.said = {}
    made.lease = lease.new(with(made.options, { flags = { ["election-id"] = "leader" }, changed = function(is) made.said[#made.said + 1] = is end }))
    made.lease:tick()
    made.answer("GET", 404)
    made.answer("POST", 201)
    assert.same({ true }, made.said)
    return made
  end

  it("is given up at the end, and we lead no longer", function()
    local made = leading()
    made.lease:leave()
    made.answer("GET", 200, lease_of "pod-0")
    assert.is_false(made.lease.has_left == true)
    assert.equal("", json.decode(made.answer("PUT", 200).request.body).spec.holderIdentity)
    assert.is_true(made.lease.has_left)
    assert.same({ true, false }, made.said)
  end)

  it("stays with another that has taken it meanwhile", function()
    for _, seen in ipairs { lease_of "pod-1", { metadata = { resourceVersion = "6" }, spec = json.null }, { metadata = { resourceVersion = "6" } } } do
      local made = leading()
      made.lease:leave()
      made.answer("GET", 200, seen)
      assert.is_nil(made.find "PUT")
      assert.is_true(made.lease.has_left)
      assert.same({ true, false }, made.said)
    end
  end)
end)

describe("the status of Ingresses", function()
  local function following(addresses)
    local made = hand()
    made.ingresses = shelf.new()
    made.ingresses:put("shop/web", "a version")
    local flags = { ["publish-service"] = "system/front" }
    made.status = status.new(with(made.options, { flags = flags, ingresses = function() return made.ingresses end }))
    made.service = function(ip) return { spec = { type = "LoadBalancer" }, status = { loadBalancer = { ingress = { { ip = ip } } } } } end
    made.ingress = function(ip) return { metadata = { name = "web" }, status = { loadBalancer = { ingress = ip and { { ip = ip } } or {} } } } end
    made.status:note("shop/web", made.ingress(addresses))
    made.status:lead(true)
    made.status:tick()
    made.answer("services/front", 200, made.service "192.0.2.1")
    return made
  end

  it("is not written by one that leads no longer", function()
    local made = following(nil)
    made.status:lead(false)
    made.answer("GET .*ingresses/web", 200, made.ingress(nil))
    assert.is_nil(made.find "PUT")
  end)

  it("is not written with the addresses of an earlier time as leader", function()
    local made = following "192.0.2.1"
    made.status:lead(false)
    made.status:note("shop/web", made.ingress "192.0.2.2") -- the leader after us
    made.status:lead(true)
    made.status:note("shop/web", made.ingress "192.0.2.2")
    made.status:tick()
    assert.is_nil(made.find "ingresses/web")
    made.answer("services/front", 200, made.service "192.0.2.2")
    assert.is_nil(made.find "ingresses/web")
  end)

  local function leaving(made)
    made.is_done = false
    made.status:leave(function() made.is_done = true end)
    local own = { metadata = { name = "pod-0", labels = { app = "moongate" } } }
    made.answer("pods/pod%-0", 200, own)
    made.answer("pods%?", 200, { items = { own } })
  end

  it("is empty at the end, whatever was asked before", function()
    local made = following "192.0.2.1"
    for i = 1, 11 do -- more than are written at once
      made.ingresses:put("shop/more-" .. i, "a version")
      made.status:note("shop/more-" .. i, made.ingress "192.0.2.1")
    end
    made.now = 60
    made.status:tick() -- looks for the addresses again
    leaving(made)
    made.answer("services/front", 200, made.service "192.0.2.1")
    local emptied = 0
    while made.find "GET .*ingresses/" do
      made.answer("GET .*ingresses/", 200, made.ingress "192.0.2.1")
      assert.is_nil(json.decode(made.answer("PUT .*status", 200).request.body).status.loadBalancer.ingress)
      emptied = emptied + 1
    end
    assert.equal(12, emptied)
    assert.is_true(made.is_done)
  end)

  it("is written again where somebody else was faster, at the end too", function()
    local made = following "192.0.2.1"
    leaving(made)
    made.answer("GET .*ingresses/web", 200, made.ingress "192.0.2.1")
    made.answer("PUT .*status", 409)
    assert.is_false(made.is_done)
    made.answer("GET .*ingresses/web", 200, made.ingress "192.0.2.1")
    made.answer("PUT .*status", 200)
    assert.is_true(made.is_done)
  end)

  local function on_nodes(count)
    local made = hand()
    made.ingresses = shelf.new()
    made.ingresses:put("shop/web", "a version")
    made.status = status.new(with(made.options, { flags = {}, ingresses = function() return made.ingresses end }))
    made.status:note("shop/web", { status = { loadBalancer = { ingress = { { ip = "192.0.2.1" } } } } })
    made.status:lead(true)
    made.status:tick()
    made.answer("pods/pod%-0", 200, { metadata = { name = "pod-0", labels = { app = "moongate" } } })
    local pods = {}
    for i = 1, count do pods[i] = { spec = { nodeName = "node-" .. i }, status = { conditions = { { type = "Ready", status = "True" } } } } end
    made.answer("pods%?", 200, { items = pods })
    return made
  end

  it("stays when a node cannot be asked, and not when it is gone", function()
    for _, code in ipairs { 500, 403, 404 } do
      local made = on_nodes(2)
      made.answer("nodes/node%-1", code)
      made.answer("nodes/node%-2", 200, { status = { addresses = { { type = "ExternalIP", address = "192.0.2.2" } } } })
      assert.equal(code == 404, made.find "ingresses/web" ~= nil)
    end
  end)

  it("asks ten nodes at once", function()
    local made = on_nodes(25)
    for i = 1, 25 do
      assert.equal(math.min(10, 26 - i), #made.asked)
      made.answer("nodes/", 200, { status = { addresses = { { type = "ExternalIP", address = "192.0.2." .. i } } } })
    end
    made.answer("GET .*ingresses/web", 200, { metadata = { name = "web" } })
    assert.equal(25, #json.decode(made.find("PUT").request.body).status.loadBalancer.ingress)
  end)

  it("of an Ingress that is gone is forgotten, though its writing ends later", function()
    local made = following(nil)
    made.answer("GET .*ingresses/web", 200, made.ingress(nil))
    made.ingresses = shelf.new()
    made.status:note("shop/web", nil)
    made.answer("PUT .*status", 200)
    assert.is_nil(made.status.written:get "shop/web")
  end)
end)

describe("Events", function()
  local function speaking()
    local made = hand()
    made.is_speaker, made.logged = true, {}
    made.events = events.new(with(made.options, { is_speaker = function() return made.is_speaker end,
      log = function(_, message, detail) made.logged[#made.logged + 1] = message .. ": " .. detail end }))
    made.say = function(count)
      for i = 1, count do made.events:say("Ingress shop/web", "Warning", "Problem", "text " .. i) end
    end
    return made
  end

  it("that wait are not sent by one that leads no longer", function()
    local made = speaking()
    made.say(100)
    made.events:tick()
    local sent = #made.asked
    assert.is_true(sent > 0 and sent < 100)
    made.is_speaker = false
    made.now = 60
    assert.equal(math.huge, made.events:tick())
    made.is_speaker = true
    made.events:tick()
    assert.equal(sent, #made.asked)
  end)

  it("that are too many are told of in the log", function()
    local made = speaking()
    made.say(600)
    for _ = 1, 200 do
      made.events:tick()
      made.now = made.now + 1
    end
    assert.same({ "Events left out: 100" }, made.logged)
  end)
end)
