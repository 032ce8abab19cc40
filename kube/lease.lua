--- Leader election by a Lease of coordination.k8s.io: who writes the status of Ingresses. Traffic never depends on it. Times of other clocks are not
--- compared with ours: a holder is taken for dead when its Lease has not changed for its duration, as seen here.
local json = require "cjson.safe"

local lease = {}
lease.__index = lease

local function seconds_of(text, default)
  local total, rest = 0, tostring(text or "")
  local units = { h = 3600, m = 60, s = 1 }
  for number, unit in rest:gmatch("(%d+%.?%d*)([hms])") do total = total + tonumber(number) * units[unit] end
  return total > 0 and total or default
end
lease.seconds_of = seconds_of

---@class LeaseOptions
---@field cluster table
---@field flags table<string, string>
---@field identity { pod: string, namespace: string }
---@field clock fun(): number
---@field time fun(): number unix seconds, with a fraction
---@field random fun(): number
---@field log fun(level: string, message: string, detail: string)
---@field changed fun(is_leader: boolean)

---@param options LeaseOptions
function lease.new(options)
  local flags = options.flags
  local self = setmetatable({
    options = options, is_leader = false, due = options.clock(), duration = math.max(3, seconds_of(flags["election-ttl"], 30)),
    name = flags["election-id"] or "ingress-controller-leader",
  }, lease)
  self.path = ("/apis/coordination.k8s.io/v1/namespaces/%s/leases"):format(options.identity.namespace)
  self.is_held = flags["disable-leader-election"] ~= "true"
  if not self.is_held then self.due = math.huge end
  return self
end

local function set_leader(self, is_leader)
  if self.is_leader == is_leader then return end
  self.is_leader = is_leader
  self.options.log("notice", is_leader and "leading" or "no longer leading", ("lease %s, %s"):format(self.name, self.options.identity.pod))
  self.options.changed(is_leader)
end

local function stamp(seconds)
  return os.date("!%Y-%m-%dT%H:%M:%S", math.floor(seconds)) .. (".%06dZ"):format(seconds % 1 * 1e6)
end

--- The Lease as we write it. `seen` is the one that is there, if one is.
local function body(self, seen, is_release)
  local now, spec = stamp(self.options.time()), seen and seen.spec or {}
  local is_ours = spec.holderIdentity == self.options.identity.pod
  local metadata = { name = self.name, namespace = self.options.identity.namespace }
  if seen then
    metadata.resourceVersion = seen.metadata.resourceVersion
    metadata.labels = type(seen.metadata.labels) == "table" and next(seen.metadata.labels) and seen.metadata.labels or nil
    metadata.annotations = type(seen.metadata.annotations) == "table" and next(seen.metadata.annotations) and seen.metadata.annotations or nil
  end
  local transitions = tonumber(spec.leaseTransitions) or 0
  return json.encode {
    apiVersion = "coordination.k8s.io/v1", kind = "Lease", metadata = metadata,
    spec = {
      holderIdentity = is_release and "" or self.options.identity.pod,
      leaseDurationSeconds = is_release and 1 or math.floor(self.duration),
      acquireTime = is_ours and type(spec.acquireTime) == "string" and spec.acquireTime or now, renewTime = now,
      leaseTransitions = (is_ours or not seen) and transitions or transitions + 1,
    },
  }
end

--- Sets the next look: a quarter of the duration, a little apart from the others.
local look

local function again(self)
  self.is_asking = false
  if self.is_leaving then return look(self) end
  local now = self.options.clock()
  if self.is_leader and now - self.renewed_at > self.duration / 2 then set_leader(self, false) end
  self.due = now + self.duration / 4 * (0.9 + 0.2 * self.options.random())
end

local function complain(self, text)
  if self.complaint ~= text then self.options.log("warn", "leader election", text) end
  self.complaint = text
end

local function left(self)
  self.has_left = true
  set_leader(self, false)
end

--- Who has it; "": nobody.
local function holder_of(seen)
  local spec = type(seen) == "table" and seen.spec
  return type(spec) == "table" and type(spec.holderIdentity) == "string" and spec.holderIdentity or ""
end

local function write(self, seen, is_release)
  local asked_at = self.options.clock()
  self.options.cluster:ask({
    method = seen and "PUT" or "POST", path = seen and self.path .. "/" .. self.name or self.path, content_type = "application/json",
    body = body(self, seen, is_release), timeout = self.duration / 4,
  }, function(status, text)
    if is_release then return left(self) end
    if status == 200 or status == 201 then
      self.complaint, self.renewed_at = nil, asked_at
      self.observed = nil
      set_leader(self, true)
    elseif status ~= 409 then -- 409: another one was faster
      complain(self, status and ("%s: the API server answers %d"):format(self.name, status) or text)
    end
    again(self)
  end)
end

--- May we take it? Only when its holder has let it pass.
local function is_free(self, seen)
  seen.spec = type(seen.spec) == "table" and seen.spec or {}
  local holder = holder_of(seen)
  if holder == self.options.identity.pod or holder == "" then return true end
  local now, mark = self.options.clock(), seen.metadata.resourceVersion
  if self.observed ~= mark then self.observed, self.observed_at = mark, now end
  return now - self.observed_at > (tonumber(seen.spec.leaseDurationSeconds) or self.duration)
end

function look(self)
  self.is_asking, self.due = true, math.huge
  self.options.cluster:ask({ method = "GET", path = self.path .. "/" .. self.name, timeout = self.duration / 4 }, function(status, text)
    local seen = status == 200 and json.decode(text)
    if self.is_leaving then
      if self.is_leader and holder_of(seen) == self.options.identity.pod then write(self, seen, true) else left(self) end
    elseif status == 404 then
      write(self, nil)
    elseif type(seen) == "table" and type(seen.metadata) == "table" then
      if is_free(self, seen) then
        write(self, seen)
      else
        set_leader(self, false)
        again(self)
      end
    else
      complain(self, status and ("%s: the API server answers %d"):format(self.name, status) or text)
      again(self)
    end
  end)
end

--- Looks or renews when it is time. Returns when the next turn is due.
---@return number
function lease:tick()
  if self.options.clock() >= self.due then look(self) end
  return self.due
end

--- Gives the Lease up, so that another replica need not wait for its end; then `has_left`.
function lease:leave()
  if self.is_leaving then return end
  self.is_leaving = true
  if not self.is_leader then self.has_left = true elseif not self.is_asking then look(self) end
end

return lease
