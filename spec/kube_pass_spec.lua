-- A new policy set takes several turns to be attached: what happens to objects meanwhile must not be lost.
local kube = require "spec.kube_support"
local world = require "spec.kube_cluster_support"
local following = require "kube.following"

local HOSTS = 50

local function policy(body)
  return { apiVersion = "v1", kind = "ConfigMap", metadata = { name = "mine", namespace = "system", labels = { ["moongate.io/policies"] = "true" } },
    data = { ["greeting.lua"] = ([[return { name = "greeting", summary = "s", applies = "always", attach = function(route) %s end,
      header_filter = function() end }]]):format(body) } }
end

local function words(text)
  return { apiVersion = "v1", kind = "ConfigMap", metadata = { name = "words", namespace = "default" }, data = { hello = text } }
end

--- One short turn, so that a pass is not over with it.
local function turn(run, server, seconds)
  following.turn(run.sync, seconds or 1e-5)
  server.now = server.now + 0.001
end

--- A sync in the midst of a pass: the policy names a ConfigMap for the first time, some hosts are attached to it, and its watch is under way.
local function in_the_midst()
  local server = world.basic()
  for i = 1, HOSTS do server:apply(world.ingress("host-" .. i)) end
  server:apply(words "first")
  server:apply(policy "return { text = 'none' }")
  local run = world.start(server, { ["trust-policies"] = "true" })
  server:apply(policy [[local data = route:config_map("words") return { text = data and data.hello or "absent" }]])
  repeat turn(run, server) until run.sync.pass
  repeat run.sync:work(1e-4) until next(run.sync.pass.built)
  assert.is_table(run.sync.pass)
  return run, server
end

local function texts(run)
  local found = {}
  for i = 1, HOSTS do
    for _, hook in ipairs(run.units["host host-" .. i .. ".test"].routes[1].hooks.header_filter or {}) do
      if hook.policy == "greeting" then found[hook.config.text] = true end
    end
  end
  return found
end

describe("while policies are attached", function()
  teardown(kube.clean)

  it("an object that comes is looked at by the hosts that are attached already", function()
    local run, server = in_the_midst()
    repeat turn(run, server) until run.sync.store:get("ConfigMap", "default/words")
    assert.is_table(run.sync.pass)
    run.turn()
    assert.is_nil(run.sync.pass)
    assert.same({ first = true }, texts(run))
  end)

  it("what they name goes on being followed", function()
    local run, server = in_the_midst()
    server.now = server.now + 61
    run.sync.cluster:tick(true) -- lets go of what nothing names
    assert.is_true(run.sync.cluster.named.wanted["ConfigMap default/words"])
    run.turn()
    server:apply(words "second")
    run.turn()
    assert.same({ second = true }, texts(run))
  end)

  it("they become so while changes of objects come without a pause", function()
    local run, server = in_the_midst()
    for i = 1, 1000 do
      server:apply(world.slice("web", "10.0." .. math.floor(i / 250) .. "." .. i % 250 + 1))
      turn(run, server, 1e-3)
      if not run.sync.pass then break end
    end
    assert.is_true(run.sync.pass == nil)
  end)
end)
