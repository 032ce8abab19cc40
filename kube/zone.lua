--- The zone that we run in, for --enable-topology-aware-routing: our pod names its node, and a label of the node names the zone. Asked for at the start, again
--- until it is known, and then no more: a pod stays on its node.
local json = require "cjson.safe"

local zone = {}
zone.__index = zone

local LABEL = "topology.kubernetes.io/zone"
local AGAIN_SECONDS = 30

---@class Zone
---@field name string|nil the zone, once it is known
---@field is_pending boolean the first answer is still to come

---@class ZoneOptions
---@field cluster table
---@field identity { pod: string, namespace: string }
---@field clock fun(): number
---@field log fun(level: string, message: string, detail: string)
---@field found fun() the zone is known

---@param options ZoneOptions
---@return Zone
function zone.new(options)
  return setmetatable({ options = options, due = options.clock(), is_pending = true }, zone)
end

--- Without a zone all endpoints are used; why, is said once.
local function give_up(self, why)
  self.is_pending, self.due = false, self.options.clock() + AGAIN_SECONDS
  if self.complaint ~= why then self.options.log("warn", "zone not known, endpoints of all zones are used", why) end
  self.complaint = why
end

--- Asks for an object; `done` gets it when it is one.
local function get(self, path, done)
  self.options.cluster:ask({ method = "GET", path = path, timeout = 10 }, function(code, text)
    local object = code == 200 and json.decode(text)
    if type(object) == "table" then return done(object) end
    give_up(self, ("%s: %s"):format(path, code and "the API server answers " .. code or text))
  end)
end

local function member(object, ...)
  for _, name in ipairs { ... } do object = type(object) == "table" and object[name] or nil end
  return type(object) == "string" and object ~= "" and object or nil
end

local function look(self)
  local identity = self.options.identity
  get(self, ("/api/v1/namespaces/%s/pods/%s"):format(identity.namespace, identity.pod), function(pod)
    local node = member(pod, "spec", "nodeName")
    if not node then return give_up(self, ("pod %s/%s names no node"):format(identity.namespace, identity.pod)) end
    get(self, "/api/v1/nodes/" .. node, function(object)
      local name = member(object, "metadata", "labels", LABEL)
      if not name then return give_up(self, ("node %s has no label %s"):format(node, LABEL)) end
      self.name, self.is_pending = name, false
      self.options.log("notice", "zone known", name)
      self.options.found()
    end)
  end)
end

--- Asks when it is time to.
---@return number due
function zone:tick()
  if not self.name and self.options.clock() >= self.due then
    self.due = math.huge
    look(self)
  end
  return self.due
end

return zone
