--- Metrics that only this side knows, handed over line by line: who leads, which certificates there are, which Ingresses lead nowhere, watches that began
--- anew. A line is sent when it changes.
local gauges = {}
gauges.__index = gauges

local PREFIX = "nginx_ingress_controller_"
local EXPIRY, INFO, ORPHAN = PREFIX .. "ssl_expire_time_seconds", PREFIX .. "ssl_certificate_info", PREFIX .. "orphan_ingress"
local LEADER, RESTARTS = PREFIX .. "leader_election_status", "moongate_watch_restarts_total"

local function nothing() end

---@class GaugesOptions
---@field gauge fun(family: string, key: string, labels: string[]|nil, value: number|nil)|nil labels: name, value, name, value ...; nil takes the line away
---@field show_gauges fun(family: string, is_shown: boolean)|nil
---@field flags table<string, string>

---@param options GaugesOptions
function gauges.new(options)
  return setmetatable({
    put = options.gauge or nothing, show = options.show_gauges or nothing, class = options.flags["controller-class"] or "", certificates = {}, orphans = {},
  }, gauges)
end

--- Several replicas: those that do not lead keep what certificates say to themselves.
---@param name string of the Lease
---@param is_leader boolean
function gauges:lead(name, is_leader)
  self.put(LEADER, name, { "name", name }, is_leader and 1 or 0)
  self.show(EXPIRY, is_leader)
  self.show(INFO, is_leader)
end

---@param count integer since the start
function gauges:watch_restarts(count)
  self.put(RESTARTS, "", {}, count)
end

--- The certificate that a host serves now.
---@param host string
---@param id string|nil Secret id; nil: it has none of its own
---@param facts table|nil certificates:facts of it
function gauges:certificate(host, id, facts)
  if self.certificates[host] == facts then return end
  self.certificates[host] = facts
  if not id or not facts then
    self.put(EXPIRY, host)
    self.put(INFO, host)
    return
  end
  local namespace, name = id:match("^([^/]+)/(.+)$")
  local identifier = facts.issuer_serial .. "-" .. facts.serial
  self.put(EXPIRY, host, { "namespace", namespace, "class", self.class, "host", host, "secret_name", name, "identifier", identifier }, facts.not_after)
  self.put(INFO, host, {
    "namespace", namespace, "class", self.class, "host", host, "secret_name", name, "identifier", identifier,
    "issuer_organization", facts.issuer_organization, "issuer_common_name", facts.issuer_common_name,
    "serial_number", facts.serial, "public_key_algorithm", facts.key_algorithm,
  }, 1)
end

local function orphan(self, id, kind, is_orphan)
  local key = kind .. " " .. id
  if (self.orphans[key] == true) == is_orphan then return end
  self.orphans[key] = is_orphan or nil
  local namespace, name = id:match("^([^/]*)/(.+)$")
  self.put(ORPHAN, key, is_orphan and { "namespace", namespace, "ingress", name, "type", kind } or nil, 1)
end

--- Whether an Ingress names a Service that does not exist, or one without endpoints.
---@param id string
---@param has_no_service boolean
---@param has_no_endpoint boolean
function gauges:orphan(id, has_no_service, has_no_endpoint)
  orphan(self, id, "no-service", has_no_service)
  orphan(self, id, "no-endpoint", has_no_endpoint)
end

return gauges
