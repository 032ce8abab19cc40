--- The sync over a cluster: joins the API client, the reflectors, the model and what is written back (status, Lease, Events), and says what a turn does.
--- Changes are gathered as those of files are: 2 ms, 5 ms while more arrive, 20 ms at most.
local cluster = require "kube.cluster"
local connection = require "kube.connection"
local events = require "kube.events"
local lease = require "kube.lease"
local native = require "moongate.kube"
local policy_change = require "kube.policy_change"
local status = require "kube.status"
local zone = require "kube.zone"

local following = {}

local GATHER, GATHER_MORE, GATHER_MAX = 0.002, 0.005, 0.020
local LEAVE_SECONDS = 5 -- for what is written at the end

--- Connects to the cluster that flags and environment name, and attaches.
---@param sync table
---@return table|nil client
---@return string|nil message
function following.connect(sync)
  local options, problem = connection.choose { flags = sync.flags, environment = os.getenv, read = native.read }
  if not options then return nil, problem end
  local client, unusable = native.api(options)
  if not client then return nil, unusable end
  following.attach(sync, {
    client = client,
    identity = { pod = os.getenv "POD_NAME" or os.getenv "HOSTNAME" or "moongate", namespace = os.getenv "POD_NAMESPACE" or options.namespace or "default" },
  })
  native.log("notice", "following a cluster", options.url)
  return client
end

---@class FollowingOptions
---@field client table native.api
---@field identity { pod: string, namespace: string } who we are: POD_NAME, POD_NAMESPACE
---@field clock fun(): number|nil specs
---@field time fun(): integer|nil specs: unix seconds
---@field random fun(): number|nil specs

--- Makes a sync (not started yet) follow a cluster.
---@param sync table
---@param options FollowingOptions
function following.attach(sync, options)
  local clock, flags = options.clock or native.clock, sync.flags
  sync.policies:follow_config_maps(options.identity.namespace, flags["trust-policies"] == "true")
  sync.cluster = cluster.new {
    client = options.client, flags = flags, store = sync.store, log = native.log, clock = clock, random = options.random or math.random,
    uses = function(kind, id) return sync:uses(kind, id) end,
    namespace_changed = function(name)
      local prefix = name .. "/"
      for id in sync.store:each("Ingress") do
        if id:sub(1, #prefix) == prefix then sync:check_ingress(id) end
      end
    end,
    ingress_seen = function(id, raw) sync.status:note(id, raw) end,
    restarted = function(count) sync.gauges:watch_restarts(count) end,
    policies_in = options.identity.namespace,
    policies_changed = function(name, data)
      sync.late_policies = sync.late_policies or {}
      sync.late_policies[#sync.late_policies + 1] = sync.policies:put_config_map(name, data)
    end,
  }
  sync.lease = lease.new {
    cluster = sync.cluster, flags = flags, identity = options.identity, clock = clock, time = options.time or native.time,
    random = options.random or math.random, log = native.log,
    changed = function(is_leader)
      sync.status:lead(is_leader)
      sync.gauges:lead(sync.lease.name, is_leader)
      if is_leader then sync.findings:each(function(finding) sync.events:finding(finding) end) end -- what is wrong since before we led
    end,
  }
  sync.gauges:watch_restarts(0)
  if sync.lease.is_held then sync.gauges:lead(sync.lease.name, false) end
  sync.status = status.new {
    cluster = sync.cluster, flags = flags, identity = options.identity, clock = clock, log = native.log,
    ingresses = function() return sync.placed end,
  }
  sync.events = events.new {
    cluster = sync.cluster, identity = options.identity, clock = clock, time = options.time or native.time, log = native.log,
    is_speaker = function() return sync.lease.is_leader or flags["disable-leader-election"] == "true" end,
  }
  sync.findings.notify = function(finding) sync.events:finding(finding) end
  if flags["enable-topology-aware-routing"] == "true" then
    sync.zone = zone.new {
      cluster = sync.cluster, identity = options.identity, clock = clock, log = native.log,
      found = function()
        sync:touch_upstreams()
        sync.cluster.is_dirty = true
      end,
    }
  end
  sync.turn, sync.leave = following.turn, following.leave
  sync.announce = function(ingress)
    sync.status:review(ingress.id)
    if flags["disable-sync-events"] ~= "true" then sync.events:say(ingress.key, "Normal", "Sync", "Scheduled for sync") end
  end
end

--- Is it time to work on what was gathered? Else: seconds until it is.
local function gathered(sync, now)
  local since, last = sync.gather_since, sync.gather_last
  local at = math.min(last + (last > since and GATHER_MORE or GATHER), since + GATHER_MAX)
  return now >= at, at - now
end

--- Paths of policies that came as ConfigMaps since the last turn.
local function take_late_policies(sync)
  local paths = sync.late_policies or {}
  sync.late_policies = nil
  return paths
end

--- One turn of the sync thread: takes news, and works on what they said, for about `seconds` at most.
---@param sync table
---@param seconds number
---@return number wait seconds until the next turn, unless news come before; 0: there is work left
function following.turn(sync, seconds)
  local source, clock = sync.cluster, sync.cluster.options.clock
  local start = clock()
  local _, is_more = source:take_news(start + seconds)
  local due = source:tick(sync.is_ready)
  if sync.zone then due = math.min(due, sync.zone:tick()) end
  if sync.is_ready then due = math.min(due, sync.lease:tick(), sync.status:tick(), sync.events:tick()) end
  local now = clock()
  if not sync.is_ready then
    if is_more then return 0 end
    if source:is_pending() or (sync.zone and sync.zone.is_pending) then return math.max(0, due - now) end
    policy_change.adopt(sync, take_late_policies(sync))
    sync:flush()
    if sync.is_ready then sync.settle_memory() end
    return 0
  end
  if source.is_dirty then
    source.is_dirty, sync.gather_last = false, now
    sync:take_in(start)
    sync.gather_since = sync.gather_since or now
  end
  if sync.gather_since then
    local is_time, wait = gathered(sync, now)
    if is_time then
      sync.gather_since = nil
      sync:flush()
      local paths = take_late_policies(sync)
      if #paths > 0 then policy_change.begin(sync, paths) end
      sync:work(seconds) -- or changes that come without a pause would keep it waiting
      return 0
    end
    return is_more and 0 or math.max(0, math.min(wait, due - now))
  end
  if is_more or sync:work(seconds) then return 0 end
  return math.max(0, due - clock())
end

--- The process is about to end: what others read of us is put in order, while serving goes on. True once there is nothing left to write, or it took too long.
---@param sync table
---@return boolean is_done
function following.leave(sync)
  local now = sync.cluster.options.clock()
  if not sync.leaving_since then
    sync.leaving_since = now
    sync.status:leave(function() sync.lease:leave() end)
  end
  return sync.lease.has_left or now - sync.leaving_since > LEAVE_SECONDS
end

return following
