--- Events of the cluster for what is wrong with objects: `kubectl describe` shows them to the owner. Only the leader speaks; the rate is bounded, and what is
--- said again within ten minutes raises the count of the Event that is there.
local json = require "cjson.safe"

local events = {}
events.__index = events

local BURST, RATE = 50, 5          -- Events at once, Events a second
local SAME_SECONDS = 600
local REMEMBERED = 1000
local QUEUE = 500
local MESSAGE_BYTES = 1024          -- what the API allows

local REASONS = { deny = "Denied", error = "Refused", warn = "Problem" }

local KINDS = {
  Ingress = "networking.k8s.io/v1", Service = "v1", Secret = "v1", ConfigMap = "v1", EndpointSlice = "discovery.k8s.io/v1",
}

---@class EventsOptions
---@field cluster table
---@field identity { pod: string, namespace: string }
---@field clock fun(): number
---@field time fun(): number unix seconds
---@field log fun(level: string, message: string, detail: string)
---@field is_speaker fun(): boolean

---@param options EventsOptions
function events.new(options)
  return setmetatable({
    options = options, queue = {}, head = 1, tail = 0, said = {}, remembered = 0, allowance = BURST, counted_at = options.clock(), dropped = 0,
  }, events)
end

local function stamp(seconds)
  return os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(seconds))
end

--- Cut where no letter of UTF-8 is cut.
local function shorten(text)
  if #text <= MESSAGE_BYTES then return text end
  local stop = MESSAGE_BYTES - 3
  while text:byte(stop + 1) >= 0x80 and text:byte(stop + 1) < 0xC0 do stop = stop - 1 end
  return text:sub(1, stop) .. "..."
end

--- Says something about an object.
---@param key string "Ingress shop/front"
---@param type "Normal"|"Warning"
---@param reason string
---@param message string
function events:say(key, type, reason, message)
  local kind, namespace, name = key:match("^(%S+) ([^/]+)/(.+)$")
  if not kind or not KINDS[kind] or not self.options.is_speaker() then return end
  if self.tail - self.head + 1 >= QUEUE then
    self.dropped = self.dropped + 1
    return
  end
  self.tail = self.tail + 1
  self.queue[self.tail] = { kind = kind, namespace = namespace, name = name, type = type, reason = reason, message = shorten(message) }
end

--- A finding about an object becomes a Warning.
---@param finding Finding
function events:finding(finding)
  if not finding.key or not REASONS[finding.level] then return end
  local name = finding.field or finding.annotation or finding.setting
  local text = finding.text
  if finding.file then -- one of the files that a ConfigMap holds
    text = ("%s:%s %s"):format(finding.file:match("[^/]+$"), finding.line and finding.line .. ":" or "", text)
  end
  if name and text:sub(1, #name + 1) ~= name .. ":" then text = name .. ": " .. text end
  self:say(finding.key, "Warning", REASONS[finding.level], text)
end

local function report(self, status, text)
  if status == 200 or status == 201 then return end
  local problem = status and "the API server answers " .. status or text
  if self.complaint ~= problem then self.options.log("warn", "an Event was not taken", problem) end
  self.complaint = problem
end

local function forget_old(self, now)
  for id, known in pairs(self.said) do
    if now - known.at > SAME_SECONDS or self.remembered >= REMEMBERED then
      self.said[id] = nil
      self.remembered = self.remembered - 1
    end
  end
end

local function repeat_event(self, item, known)
  known.count = known.count + 1
  local body = json.encode { count = known.count, lastTimestamp = stamp(self.options.time()) }
  self.options.cluster:ask({
    method = "PATCH", path = ("/api/v1/namespaces/%s/events/%s"):format(item.namespace, known.name), content_type = "application/merge-patch+json", body = body,
    timeout = 10,
  }, function(status, text)
    if status ~= 404 then report(self, status, text) end -- its time was over
  end)
end

local function make_event(self, item, id, now)
  local identity, time = self.options.identity, self.options.time()
  self.made = (self.made or 0) + 1
  local name = ("%s.%x%04x"):format(item.name:sub(1, 200), math.floor(time * 1000), self.made % 65536)
  local uid = self.options.cluster:uid(item.kind, item.namespace .. "/" .. item.name)
  self.said[id] = { name = name, count = 1, at = now }
  self.remembered = self.remembered + 1
  local body = json.encode {
    apiVersion = "v1", kind = "Event", metadata = { name = name, namespace = item.namespace },
    involvedObject = { apiVersion = KINDS[item.kind], kind = item.kind, namespace = item.namespace, name = item.name, uid = uid },
    reason = item.reason, message = item.message, type = item.type, count = 1, firstTimestamp = stamp(time), lastTimestamp = stamp(time),
    source = { component = "moongate" }, reportingComponent = "moongate", reportingInstance = identity.pod,
  }
  self.options.cluster:ask({
    method = "POST", path = ("/api/v1/namespaces/%s/events"):format(item.namespace), content_type = "application/json", body = body, timeout = 10,
  }, function(status, text) report(self, status, text) end)
end

local function send(self, item, now)
  local id = table.concat({ item.kind, item.namespace, item.name, item.reason, item.message }, "\0")
  if self.remembered >= REMEMBERED then forget_old(self, now) end
  local known = self.said[id]
  if known and now - known.at <= SAME_SECONDS then
    repeat_event(self, item, known)
  else
    if known then self.remembered = self.remembered - 1 end
    make_event(self, item, id, now)
  end
end

--- Sends what the rate allows. Returns when the next turn is due.
---@return number
function events:tick()
  if not self.options.is_speaker() then self.queue, self.head, self.tail = {}, 1, 0 end
  if self.head > self.tail then return math.huge end
  local now = self.options.clock()
  self.allowance = math.min(BURST, self.allowance + (now - self.counted_at) * RATE)
  self.counted_at = now
  while self.head <= self.tail and self.allowance >= 1 do
    local item = self.queue[self.head]
    self.queue[self.head] = nil
    self.head, self.allowance = self.head + 1, self.allowance - 1
    send(self, item, now)
  end
  if self.head <= self.tail then return now + 1 / RATE end
  if self.dropped > 0 then self.options.log("warn", "Events left out", tostring(self.dropped)) end
  self.dropped = 0
  return math.huge
end

return events
