-- A cluster as source: what is asked of the API server, what is sent to the workers' side, and what is written back.
local kube = require "spec.kube_support" -- brings moongate.kube
local world = require "spec.kube_cluster_support"
local clusters = require "kube.cluster"
local following = require "kube.following"
local json_text = require "kube.json_text"
local lease = require "kube.lease"
local status = require "kube.status"

local CLASS, basic, ingress, service, slice, start = world.CLASS, world.basic, world.ingress, world.service, world.slice, world.start

describe("a cluster", function()
  teardown(kube.clean)

  it("is served as one first message when all lists are there", function()
    local run = start(basic())
    assert.equal(1, #run.messages)
    assert.is_table(run.units["host shop.test"])
    assert.equal("10.0.0.1", run.units["upstream default/web/80"].endpoints[1].ip)
  end)

  it("is not ready while one list is missing, and tries again", function()
    local server = basic()
    server.faults[1] = { path = "/services", answer = { "failed", "10.0.0.1:443: connection refused", { retry = true } } }
    local run = start(server)
    assert.equal(0, #run.messages)
    run.turn(2)
    assert.equal(1, #run.messages)
  end)

  it("says whether anything is known of what it cannot follow", function()
    local server, said = basic(), {}
    local followed = clusters.new { client = server, flags = {}, store = { put_object = function() end, remove = function() end },
      clock = function() return server.now end, random = function() return 0.5 end, log = function(_, message, detail) said[message] = detail end }
    local function pass(seconds)
      server.now = server.now + seconds
      followed:tick(false)
      followed:take_news(math.huge)
    end
    server.faults[1] = { path = "/services", answer = { "done", 500, { body = "{}" } }, is_lasting = true }
    followed:start()
    pass(0)
    assert.matches("%(nothing of it is known yet%)", said["cannot follow services"])
    server.faults = {}
    pass(60)
    said = {}
    for _ = 1, 3 do
      server:end_watches("services", "done", 500, { body = "{}" })
      pass(60)
    end
    assert.matches("%(what is known goes on being served%)", said["cannot follow services"])
  end)

  it("lists in pages", function()
    local server = basic()
    server.page = 3
    for i = 1, 10 do server:apply(ingress("more-" .. i)) end
    local run = start(server)
    assert.is_table(run.units["host more-10.test"])
    assert.equal(4, server:count("GET .*/ingresses%?limit"))
  end)

  it("follows changes", function()
    local server = basic()
    local run = start(server)
    server:apply(slice("web", "10.0.0.1", "10.0.0.2"))
    run.turn()
    assert.equal(2, #run.units["upstream default/web/80"].endpoints)
    server:apply(ingress "new")
    run.turn()
    assert.is_table(run.units["host new.test"])
    server:delete("Ingress", "default/new")
    run.turn()
    assert.is_nil(run.units["host new.test"])
  end)

  it("says of each message since when its change was known", function()
    local server = basic()
    local run = start(server)
    assert.same({ 0 }, run.taken) -- the start is no change
    local before = server.now
    server:apply(ingress "new")
    run.turn()
    server:apply(ingress "newer")
    run.turn()
    assert.equal(3, #run.taken)
    assert.is_true(run.taken[2] >= before and run.taken[2] < run.taken[3])
    assert.is_nil(run.sync.taken_at)
  end)

  it("counts watches that begin anew, and says who leads", function()
    local server = basic()
    local run = start(server)
    assert.equal(0, run.gauges["moongate_watch_restarts_total "])
    assert.equal(1, run.gauges["nginx_ingress_controller_leader_election_status ingress-controller-leader"])
    assert.is_true(run.shown["nginx_ingress_controller_ssl_expire_time_seconds"])
    run = start(basic(), { ["disable-leader-election"] = "true" })
    assert.same({}, run.shown) -- nobody leads: everybody tells
    assert.is_nil(run.gauges["nginx_ingress_controller_leader_election_status ingress-controller-leader"])
  end)

  it("gathers what comes together into one message", function()
    local server = basic()
    local run = start(server)
    for i = 1, 20 do server:apply(ingress("burst-" .. i)) end
    run.turn()
    assert.equal(2, #run.messages)
  end)

  it("relists after 410 and drops what is gone meanwhile", function()
    local server = basic()
    local run = start(server)
    server:apply(ingress "old")
    run.turn()
    server.watches = {} -- nothing of what follows is told
    server:delete("Ingress", "default/old")
    server:apply(ingress "young")
    for id = 1, server.next_id do
      if run.sync.cluster.handlers[id] then server:push(id, "event", [[{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}]]) end
    end
    run.turn(3)
    assert.is_nil(run.units["host old.test"])
    assert.is_table(run.units["host young.test"])
    assert.is_true(run.sync.cluster:restart_count() > 0)
    assert.equal(run.sync.cluster:restart_count(), run.gauges["moongate_watch_restarts_total "])
  end)

  it("goes on from its resourceVersion when a watch is cut, without a new list", function()
    local server = basic()
    local run = start(server)
    run.turn(2)
    local lists = server:count("ingresses%?limit")
    server:end_watches("ingresses", "failed", "the connection was cut", { retry = true })
    run.turn(2)
    server:apply(ingress "later")
    run.turn()
    assert.is_table(run.units["host later.test"])
    assert.equal(lists, server:count("ingresses%?limit"))
  end)

  it("keeps an object whose name was made again when the deletion of the old one comes late", function()
    local server = basic()
    local run = start(server)
    for id, watch in pairs(server.watches) do
      if watch.path:find("/ingresses$") then
        server:push(id, "event", [[{"type":"DELETED","object":{"metadata":{"name":"shop","namespace":"default","uid":"another","resourceVersion":"9"}}}]])
      end
    end
    run.turn()
    assert.is_table(run.units["host shop.test"])
  end)

  it("goes on serving while the API server is away, and catches up", function()
    local server = basic()
    local run = start(server)
    run.turn(2)
    server.faults[1] = { path = ".", answer = { "failed", "refused", { retry = true } }, is_lasting = true }
    for _, name in ipairs { "ingresses", "services", "endpointslices", "secrets", "ingressclasses" } do server:end_watches(name, "failed", "cut",
      { retry = true }) end
    run.turn(120)
    assert.is_table(run.units["host shop.test"])
    server.faults = {}
    run.turn(60)
    server:apply(ingress "back")
    run.turn()
    assert.is_table(run.units["host back.test"])
  end)

  it("waits longer from failure to failure", function()
    local server = basic()
    server.faults[1] = { path = "/services", answer = { "done", 500, { body = "{}" } }, is_lasting = true }
    local run = start(server)
    run.turn(300)
    local count = server:count("/services%?limit")
    assert.is_true(count > 10 and count < 25, "asked " .. count .. " times")
    assert.equal(0, #run.messages)
  end)

  it("heeds Retry-After", function()
    local server = basic()
    server.faults[1] = { path = "/services", answer = { "done", 429, { body = "{}", retry_after = 20 } } }
    local run = start(server)
    run.turn(19)
    assert.equal(1, server:count("/services%?limit"))
    run.turn(2)
    assert.equal(1, #run.messages)
  end)

  it("ignores a class that does not exist, and takes it in when it appears", function()
    local server = basic()
    server:delete("IngressClass", "/nginx")
    local run = start(server)
    assert.is_nil(run.units["host shop.test"])
    server:apply(CLASS)
    run.turn()
    assert.is_table(run.units["host shop.test"])
  end)

  it("does not look at the class where IngressClasses may not be read", function()
    local server = basic()
    server.faults[1] = { path = "/ingressclasses", answer = { "done", 403, { body = "{}" } }, is_lasting = true }
    server:apply(ingress("annotated", { class = "other", annotations = { ["kubernetes.io/ingress.class"] = "nginx" } }))
    local run = start(server)
    assert.is_table(run.units["host annotated.test"])
    assert.is_nil(run.units["host shop.test"])
  end)

  it("keeps the bytes of the Secrets that something names, and no others", function()
    local server = basic()
    local function secret(name, type)
      return { apiVersion = "v1", kind = "Secret", type = type or "kubernetes.io/tls", metadata = { name = name, namespace = "default" },
        data = { ["tls.crt"] = "YQ==" } }
    end
    server:apply(secret "used")
    server:apply(secret "idle")
    server:apply(secret("opaque", "Opaque"))
    server:apply(ingress("tls", { tls = { { hosts = { "tls.test" }, secretName = "used" } } }))
    server:apply(ingress("late", { tls = { { hosts = { "late.test" }, secretName = "opaque" } } }))
    local run = start(server)
    assert.equal(1, #run.messages)
    assert.is_table(run.sync.store:get("Secret", "default/used"))
    assert.is_table(run.sync.store:get("Secret", "default/opaque"))
    assert.is_nil(run.sync.store:get("Secret", "default/idle"))
    server:apply(ingress("more", { tls = { { hosts = { "more.test" }, secretName = "idle" } } }))
    run.turn()
    assert.is_table(run.sync.store:get("Secret", "default/idle"))
    server:delete("Secret", "default/used")
    run.turn()
    assert.is_nil(run.sync.store:get("Secret", "default/used"))
    server:apply(secret("used", "Opaque"))
    run.turn()
    assert.is_table(run.sync.store:get("Secret", "default/used"))
    server:delete("Ingress", "default/more")
    run.turn(130)
    assert.is_nil(run.sync.store:get("Secret", "default/idle"))
  end)

  it("says what is missing once all is there that can be", function()
    local server = basic()
    server:apply { apiVersion = "v1", kind = "ConfigMap", metadata = { name = "settings", namespace = "system" },
      data = { ["add-headers"] = "system/headers" } }
    server:apply { apiVersion = "v1", kind = "ConfigMap", metadata = { name = "headers", namespace = "system" }, data = { ["X-A"] = "1" } }
    local run = start(server, { configmap = "system/settings" })
    assert.same({}, run.said)
    server:delete("ConfigMap", "system/headers")
    run.turn()
    assert.same({ "ConfigMap system/settings: add-headers: ConfigMap system/headers does not exist" }, run.said)
    run = start(server, { configmap = "system/settings" })
    assert.same({ "ConfigMap system/settings: add-headers: ConfigMap system/headers does not exist" }, run.said)
  end)

  it("reads the controller's ConfigMap, live", function()
    local server = basic()
    local map = { apiVersion = "v1", kind = "ConfigMap", metadata = { name = "settings", namespace = "system" }, data = { ["proxy-read-timeout"] = "7" } }
    server:apply(map)
    local run = start(server, { configmap = "system/settings" })
    assert.equal(1, #run.messages)
    local before = #run.messages
    map.data["keep-alive"] = "11"
    server:apply(map)
    run.turn()
    assert.is_true(#run.messages > before)
    assert.equal(11000, run.units["settings settings"].keep_alive_timeout_ms or run.units["settings settings"].keep_alive_ms)
  end)

  it("takes policies from labelled ConfigMaps of its own namespace, live", function()
    local server = basic()
    local function map(value, namespace, labels)
      local metadata = { name = "mine", namespace = namespace or "system", labels = labels or { ["moongate.io/policies"] = "true" } }
      local source = [[return { name = "greeting", summary = "s", applies = "always", attach = function() return { text = %q } end,
        header_filter = function() end }]]
      return { apiVersion = "v1", kind = "ConfigMap", metadata = metadata, data = { ["greeting.lua"] = source:format(value) } }
    end
    local function config(run)
      for _, hook in ipairs(run.units["host shop.test"].routes[1].hooks.header_filter or {}) do
        if hook.policy == "greeting" then return hook.config.text end
      end
    end
    server:apply(map("first"))
    server:apply(map("stranger", "default"))
    local run = start(server)
    assert.equal(1, #run.messages)
    assert.equal("first", config(run))
    for _, policy in ipairs(run.units["policies policies"].policies) do
      if policy.name == "greeting" then assert.is_false(policy.trusted) end
    end
    server:apply(map("second"))
    run.turn()
    assert.equal("second", config(run))
    local broken = map "x"
    broken.data["greeting.lua"] = "return {"
    server:apply(broken)
    run.turn(1)
    assert.equal("second", config(run))
    local event
    for key, object in pairs(server.objects) do
      if key:find("^events system/") and object.involvedObject.kind == "ConfigMap" then event = object end
    end
    assert.equal("mine", event.involvedObject.name)
    assert.is_truthy(event.message:find("^greeting.lua:1: "), event.message)
    server:delete("ConfigMap", "system/mine")
    run.turn()
    assert.is_nil(config(run))
  end)

  it("restricts itself to the namespaces that the selector chooses", function()
    local server = basic()
    server:apply { apiVersion = "v1", kind = "Namespace", metadata = { name = "default", labels = { team = "web" } } }
    server:apply(ingress("far", { namespace = "far" }))
    local run = start(server, { ["watch-namespace-selector"] = "team=web" })
    assert.is_table(run.units["host shop.test"])
    assert.is_nil(run.units["host far.test"])
    local check, checked = run.sync.check_ingress, {}
    function run.sync.check_ingress(self, id)
      checked[#checked + 1] = id
      return check(self, id)
    end
    server:apply { apiVersion = "v1", kind = "Namespace", metadata = { name = "far", labels = { team = "web" } } }
    run.turn()
    assert.is_table(run.units["host far.test"])
    assert.same({ "far/far" }, checked) -- and not every Ingress that there is
    server:delete("Namespace", "/far")
    run.turn()
    assert.is_nil(run.units["host far.test"])
  end)
end)

describe("leader election", function()
  teardown(kube.clean)

  it("makes the Lease and renews it", function()
    local server = basic()
    local run = start(server)
    assert.equal("moongate-0", server:get("Lease", "system/ingress-controller-leader").spec.holderIdentity)
    assert.is_true(run.sync.lease.is_leader)
    local first = server:get("Lease", "system/ingress-controller-leader").spec.renewTime
    run.turn(20)
    assert.are_not.equal(first, server:get("Lease", "system/ingress-controller-leader").spec.renewTime)
  end)

  local function held_by_other(server, seconds)
    server:apply { apiVersion = "coordination.k8s.io/v1", kind = "Lease", metadata = { name = "ingress-controller-leader", namespace = "system" },
      spec = { holderIdentity = "other", leaseDurationSeconds = seconds, leaseTransitions = 4 } }
  end

  it("waits for the holder's Lease to stand still for its duration", function()
    local server = basic()
    held_by_other(server, 30)
    local run = start(server)
    run.turn(25)
    held_by_other(server, 30) -- renewed
    run.turn(28)
    assert.is_false(run.sync.lease.is_leader)
    run.turn(20)
    assert.is_true(run.sync.lease.is_leader)
    assert.equal(5, server:get("Lease", "system/ingress-controller-leader").spec.leaseTransitions)
  end)

  it("stops leading when it cannot renew", function()
    local server = basic()
    local run = start(server)
    server.faults[1] = { path = "/leases", answer = { "failed", "refused" }, is_lasting = true }
    run.turn(30)
    assert.is_false(run.sync.lease.is_leader)
  end)

  it("gives the Lease up at the end", function()
    local server = basic()
    local run = start(server)
    local is_done
    for _ = 1, 20 do
      is_done = following.leave(run.sync)
      run.turn(0.05)
    end
    assert.is_true(is_done)
    assert.equal("", server:get("Lease", "system/ingress-controller-leader").spec.holderIdentity)
  end)

  it("reads durations as Go writes them", function()
    assert.equal(90, lease.seconds_of("1m30s", 1))
    assert.equal(30, lease.seconds_of("", 30))
  end)
end)

describe("the status of Ingresses", function()
  teardown(kube.clean)

  local function balancer(server, ip)
    local object = service "front"
    object.metadata.namespace, object.spec.type, object.status = "system", "LoadBalancer", { loadBalancer = { ingress = { { ip = ip } } } }
    server:apply(object)
  end

  local function addresses(server, id)
    local made = server:get("Ingress", id).status
    return made and made.loadBalancer and made.loadBalancer.ingress and made.loadBalancer.ingress[1] and made.loadBalancer.ingress[1].ip
  end

  it("is the address of the published Service, and nothing else of the object changes", function()
    local server = basic()
    balancer(server, "192.0.2.7")
    local annotated = ingress("noted", { annotations = { ["example.com/list"] = "[]", empty = "" } })
    annotated.metadata.labels = { a = "b" }
    server:apply(annotated)
    local run = start(server, { ["publish-service"] = "system/front" })
    run.turn(1)
    assert.equal("192.0.2.7", addresses(server, "default/shop"))
    assert.equal("192.0.2.7", addresses(server, "default/noted"))
    assert.same({ ["example.com/list"] = "[]", empty = "" }, server:get("Ingress", "default/noted").metadata.annotations)
    assert.same({ a = "b" }, server:get("Ingress", "default/noted").metadata.labels)
    local puts = server:count("PUT .*/status")
    run.turn(200)
    assert.equal(puts, server:count("PUT .*/status")) -- only changes are written
    balancer(server, "192.0.2.8")
    run.turn(70)
    assert.equal("192.0.2.8", addresses(server, "default/shop"))
    server:apply(ingress "fresh")
    run.turn(1)
    assert.equal("192.0.2.8", addresses(server, "default/fresh"))
  end)

  it("is not written for Ingresses of another class", function()
    local server = basic()
    server:apply(ingress("foreign", { class = "other" }))
    local run = start(server, { ["publish-status-address"] = "192.0.2.1" })
    run.turn(1)
    assert.equal("192.0.2.1", addresses(server, "default/shop"))
    assert.is_nil(addresses(server, "default/foreign"))
  end)

  it("is emptied by the last pod, and stays while another runs", function()
    for _, others in ipairs { 0, 1 } do
      local server = basic()
      server:apply { apiVersion = "v1", kind = "Pod", metadata = { name = "moongate-0", namespace = "system", labels = { app = "moongate" } } }
      if others > 0 then
        server:apply { apiVersion = "v1", kind = "Pod", metadata = { name = "moongate-1", namespace = "system", labels = { app = "moongate" } } }
      end
      local run = start(server, { ["publish-status-address"] = "192.0.2.1" })
      run.turn(1)
      for _ = 1, 20 do
        following.leave(run.sync)
        run.turn(0.05)
      end
      assert.equal(others > 0 and "192.0.2.1" or nil, addresses(server, "default/shop"))
      assert.is_true(run.sync.lease.has_left)
    end
  end)

  it("comes from nodes with ready pods where no Service is named", function()
    local pods = {
      { spec = { nodeName = "one" }, status = { conditions = { { type = "Ready", status = "True" } } } },
      { spec = { nodeName = "two" }, status = { conditions = { { type = "Ready", status = "False" } } } },
    }
    local nodes = { one = { status = { addresses = { { type = "InternalIP", address = "10.1.0.1" }, { type = "ExternalIP", address = "192.0.2.9" } } } } }
    assert.equal("ip=192.0.2.9", status.of_nodes(pods, nodes, false))
    assert.equal("ip=10.1.0.1", status.of_nodes(pods, nodes, true))
  end)

  it("is taken from Services by their type", function()
    assert.equal("hostname=a.example\nip=192.0.2.1", status.of_service { spec = { type = "LoadBalancer", externalIPs = { "192.0.2.1" } },
      status = { loadBalancer = { ingress = { { hostname = "a.example" } } } } })
    assert.equal("ip=10.0.0.9", status.of_service { spec = { type = "ClusterIP", clusterIP = "10.0.0.9" } })
    assert.equal("ip=192.0.2.1", status.of_service { spec = { type = "NodePort", clusterIP = "10.0.0.9", externalIPs = { "192.0.2.1" } } })
    assert.equal("hostname=b.example", status.of_service { spec = { type = "ExternalName", externalName = "b.example" } })
    assert.equal("", status.of_service { spec = { type = "ClusterIP", clusterIP = "None" } })
  end)
end)

describe("Events", function()
  teardown(kube.clean)

  local function find(server, reason)
    for key, object in pairs(server.objects) do
      if key:find("^events ") and object.reason == reason then return object end
    end
  end

  it("tell the owner of an Ingress what is wrong with it", function()
    local server = basic()
    server:apply(ingress("wrong", { annotations = { ["nginx.ingress.kubernetes.io/proxy-read-timeout"] = "soon" } }))
    local run = start(server)
    run.turn(1)
    local event = find(server, "Problem")
    assert.is_table(event)
    assert.equal("wrong", event.involvedObject.name)
    assert.equal(server:get("Ingress", "default/wrong").metadata.uid, event.involvedObject.uid)
    assert.is_truthy(event.message:find("proxy-read-timeout: soon is", 1, true) or event.message:find("proxy-read-timeout", 1, true))
    server:apply(ingress "fine")
    run.turn(1)
    assert.equal("fine", find(server, "Sync").involvedObject.name)
  end)

  it("are bounded in their rate and aggregated", function()
    local server = basic()
    local run = start(server, { ["disable-sync-events"] = "true" })
    for _ = 1, 30 do run.sync.events:say("Ingress default/shop", "Warning", "Problem", "the same") end
    for i = 1, 300 do run.sync.events:say("Ingress default/shop", "Warning", "Problem", "text " .. i) end
    run.turn(1)
    assert.is_true(server:count("/events") <= 60)
    run.turn(120)
    local same
    for key, object in pairs(server.objects) do
      if key:find("^events ") and object.message == "the same" then
        assert.is_nil(same)
        same = object
      end
    end
    assert.equal(30, same.count)
  end)
end)

describe("edits in JSON text", function()
  it("replace a member, and nothing else", function()
    local before = [[{ "a": [ {"status":1} , "]}" ], "status" : {"old":[1,{}]}, "b":{} }]]
    assert.equal([[{ "a": [ {"status":1} , "]}" ], "status" : {"x":2}, "b":{} }]], json_text.set(before, "status", [[{"x":2}]]))
    assert.equal([[{"status":1,"a":"\"status\":"}]], json_text.set([[{"a":"\"status\":"}]], "status", "1"))
    assert.equal([[{"status":1}]], json_text.set("{}", "status", "1"))
    assert.equal([[{"a":1,"status":2}]], json_text.set([[{"a":1,"status":null}]], "status", "2"))
    assert.is_nil(json_text.set([[{"a":"]], "status", "1"))
    assert.is_nil(json_text.set("[]", "status", "1"))
  end)
end)
