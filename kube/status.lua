--- Writes `status.loadBalancer` of our Ingresses: the addresses under which clients reach us. Only the leader writes, only what differs, ten at a time.
--- The whole object goes back as it was read, with another `status`: ingress-nginx's RBAC allows `update` of the subresource and no `patch`.
local json = require "cjson.safe"
local json_text = require "kube.json_text"
local shelf = require "kube.shelf"

local status = {}
status.__index = status

local AT_ONCE = 10
local AGAIN_SECONDS = 5 -- after a failure
local LABELS_OF_ONE_VERSION = { ["pod-template-hash"] = true, ["controller-revision-hash"] = true, ["pod-template-generation"] = true }

---@class StatusOptions
---@field cluster table
---@field flags table<string, string>
---@field identity { pod: string, namespace: string }
---@field clock fun(): number
---@field log fun(level: string, message: string, detail: string)
---@field ingresses fun(): table shelf of ours, by id

---@param options StatusOptions
function status.new(options)
  local flags = options.flags
  return setmetatable({
    options = options, is_leader = false, due = math.huge, written = shelf.new(), queue = {}, queued = {}, busy = 0,
    is_on = flags["update-status"] ~= "false",
    interval = math.max(5, tonumber(flags["status-update-interval"]) or 60),
  }, status)
end

local function is_text(value)
  return type(value) == "string" and value ~= ""
end

local function members(object, ...)
  for _, name in ipairs { ... } do
    object = type(object) == "table" and object[name]
  end
  return type(object) == "table" and object or {}
end

-- ---- what is there, what is wanted ----

--- The canonical form of a list of addresses: sorted "ip=..." and "hostname=..." lines. Equal lists are equal strings.
local function canonical(list)
  local lines = {}
  for _, item in ipairs(list) do
    if is_text(item.ip) then
      lines[#lines + 1] = "ip=" .. item.ip
    elseif is_text(item.hostname) then
      lines[#lines + 1] = "hostname=" .. item.hostname
    end
  end
  table.sort(lines)
  return table.concat(lines, "\n")
end

local function encode(addresses)
  local list = {}
  for kind, value in addresses:gmatch("(%w+)=([^\n]+)") do list[#list + 1] = ("{%q:%s}"):format(kind, json.encode(value)) end
  return ('{"loadBalancer":{%s}}'):format(#list > 0 and '"ingress":[' .. table.concat(list, ",") .. "]" or "")
end

local function address_of(text)
  return (text:find("^%d+%.%d+%.%d+%.%d+$") or text:find(":", 1, true)) and { ip = text } or { hostname = text }
end

--- The addresses of a Service, by its type.
---@param service table as JSON gave it
---@return string canonical
function status.of_service(service)
  local spec, list = members(service, "spec"), {}
  if spec.type == "ExternalName" then
    list[1] = is_text(spec.externalName) and { hostname = spec.externalName } or nil
  elseif spec.type == "LoadBalancer" then
    for _, item in ipairs(members(service, "status", "loadBalancer", "ingress")) do list[#list + 1] = item end
    for _, ip in ipairs(members(spec, "externalIPs")) do list[#list + 1] = { ip = ip } end
  elseif spec.type == "NodePort" and #members(spec, "externalIPs") > 0 then
    for _, ip in ipairs(spec.externalIPs) do list[#list + 1] = { ip = ip } end
  elseif is_text(spec.clusterIP) and spec.clusterIP ~= "None" then
    list[1] = { ip = spec.clusterIP }
  end
  return canonical(list)
end

--- The addresses of the nodes that run ready pods of this controller.
---@param pods table[] as JSON gave them
---@param nodes table<string, table> by name
---@param is_internal boolean --report-node-internal-ip-address
---@return string canonical
function status.of_nodes(pods, nodes, is_internal)
  local list, seen = {}, {}
  for _, pod in ipairs(pods) do
    local is_ready = false
    for _, condition in ipairs(members(pod, "status", "conditions")) do
      if condition.type == "Ready" and condition.status == "True" then is_ready = true end
    end
    local name = members(pod, "spec").nodeName
    local found = {}
    for _, address in ipairs(is_ready and is_text(name) and members(nodes[name], "status", "addresses") or {}) do
      found[address.type] = found[address.type] or address.address
    end
    local ip = not is_internal and found.ExternalIP or found.InternalIP
    if is_text(ip) and not seen[ip] then
      seen[ip] = true
      list[#list + 1] = { ip = ip }
    end
  end
  return canonical(list)
end

-- ---- asking for it ----

--- Asks for one object; `done(object)`, or `done(nil, status)` with a line in the log.
local function get(self, path, done)
  self.options.cluster:ask({ method = "GET", path = path, timeout = 10 }, function(code, text)
    local object = code == 200 and json.decode(text)
    if type(object) == "table" then return done(object) end
    self:complain(("%s: %s"):format(path, code and "the API server answers " .. code or text))
    done(nil, code)
  end)
end

local function ask_own_pods(self, done)
  local identity = self.options.identity
  local base = "/api/v1/namespaces/" .. identity.namespace .. "/pods"
  get(self, base .. "/" .. identity.pod, function(own)
    if not own then return done(nil) end
    local parts = {}
    for name, value in pairs(members(own, "metadata", "labels")) do
      if not LABELS_OF_ONE_VERSION[name] then parts[#parts + 1] = name .. "=" .. value end
    end
    table.sort(parts)
    local selector = table.concat(parts, ","):gsub("[^A-Za-z0-9._~-]", function(byte) return ("%%%02X"):format(byte:byte()) end)
    get(self, base .. "?labelSelector=" .. selector, function(list) done(list and members(list, "items"), own) end)
  end)
end

--- A node that is gone has no address; one that could not be asked may have one.
local function ask_nodes(self, pods, done)
  local names, nodes, seen, asked, left, is_known = {}, {}, {}, 0, 0, true
  for _, pod in ipairs(pods) do
    local name = members(pod, "spec").nodeName
    if is_text(name) and not seen[name] then
      seen[name], names[#names + 1] = true, name
    end
  end
  local function ask()
    if asked == #names and left == 0 then return done(is_known and nodes or nil) end
    while asked < #names and left < AT_ONCE do
      asked, left = asked + 1, left + 1
      local name = names[asked]
      get(self, "/api/v1/nodes/" .. name, function(node, code)
        nodes[name], left = node, left - 1
        is_known = is_known and (node ~= nil or code == 404)
        ask()
      end)
    end
  end
  ask()
end

--- `done(canonical)`, or `done(nil)` when it cannot be told now.
local function ask_addresses(self, done)
  local flags = self.options.flags
  local fixed, service = flags["publish-status-address"] or "", flags["publish-service"] or ""
  if fixed ~= "" then
    local list = {}
    for text in fixed:gmatch("[^,%s]+") do list[#list + 1] = address_of(text) end
    done(canonical(list))
  elseif service ~= "" then
    local namespace, name = service:match("^([^/]+)/([^/]+)$")
    get(self, ("/api/v1/namespaces/%s/services/%s"):format(namespace, name), function(object) done(object and status.of_service(object)) end)
  else
    ask_own_pods(self, function(pods)
      if not pods then return done(nil) end
      ask_nodes(self, pods, function(nodes)
        done(nodes and status.of_nodes(pods, nodes, flags["report-node-internal-ip-address"] == "true"))
      end)
    end)
  end
end

-- ---- writing ----

function status:complain(text)
  if self.complaint ~= text then self.options.log("warn", "status of Ingresses", text) end
  self.complaint = text
end

local function enqueue(self, id)
  if self.queued[id] then return end
  self.queued[id] = true
  self.queue[#self.queue + 1] = id
end

local function differs(self, id)
  return self.addresses ~= nil and self.written:has(id) and self.written:get(id) ~= self.addresses
end

local pump

local function finish(self, id, problem)
  self.busy = self.busy - 1
  if problem then
    self:complain(("Ingress %s: %s"):format(id, problem))
    if self.is_leader then self.due = math.min(self.due, self.options.clock() + AGAIN_SECONDS) end
  end
  pump(self)
end

local function may_write(self)
  return self.is_leader or self.leaving ~= nil
end

local function write(self, id)
  local namespace, name = id:match("^(.-)/(.*)$")
  local path = ("/apis/networking.k8s.io/v1/namespaces/%s/ingresses/%s"):format(namespace, name)
  local wanted = self.addresses
  self.options.cluster:ask({ method = "GET", path = path, timeout = 10 }, function(code, text)
    if code == 404 or not may_write(self) then return finish(self, id) end
    local object = code == 200 and json.decode(text)
    if type(object) ~= "table" then return finish(self, id, code and "the API server answers " .. code or text) end
    if canonical(members(object, "status", "loadBalancer", "ingress")) == wanted then return finish(self, id) end
    local body = json_text.set(text, "status", encode(wanted))
    self.options.cluster:ask({ method = "PUT", path = path .. "/status", content_type = "application/json", body = body, timeout = 10 }, function(put, answer)
      if put == 200 or put == 404 then
        self.written:put(id, put == 200 and self.written:has(id) and wanted or nil) -- it may be gone by now
        finish(self, id)
      elseif put == 409 then -- it changed in between
        enqueue(self, id)
        finish(self, id)
      else
        finish(self, id, put and "the API server answers " .. put or answer)
      end
    end)
  end)
end

--- Sends the next ones.
function pump(self)
  while self.busy < AT_ONCE and #self.queue > 0 do
    local id = table.remove(self.queue)
    self.queued[id] = nil
    if differs(self, id) and may_write(self) and self.options.ingresses():has(id) then
      self.busy = self.busy + 1
      write(self, id)
    end
  end
  if self.leaving and self.busy == 0 and #self.queue == 0 then
    local done = self.leaving
    self.leaving = nil
    done()
  end
end

local function review_all(self)
  self.due = self.options.clock() + self.interval
  ask_addresses(self, function(addresses)
    if not addresses or not self.is_leader or self.is_leaving then return end
    self.addresses = addresses
    for id in self.options.ingresses():each() do
      if differs(self, id) then enqueue(self, id) end
    end
    pump(self)
  end)
end

--- An Ingress came, changed, or went (raw nil).
---@param id string
---@param raw table|nil as JSON gave it
function status:note(id, raw)
  if not self.is_on then return end
  self.written:put(id, raw and canonical(members(raw, "status", "loadBalancer", "ingress")) or nil)
  self:review(id)
end

--- Looks at one Ingress: something about it is new.
---@param id string
function status:review(id)
  if not self.is_leader or not differs(self, id) then return end
  enqueue(self, id)
  self.is_fresh = true -- written in the next turn: by then it is known whether it is ours
end

--- We lead now, or no longer.
---@param is_leader boolean
function status:lead(is_leader)
  self.is_leader = is_leader
  if not is_leader then self.addresses = nil end -- by the next time they may be others
  self.due = is_leader and self.is_on and self.options.clock() or math.huge
end

---@return number due
function status:tick()
  if self.options.clock() >= self.due then review_all(self) end
  if self.is_fresh then
    self.is_fresh = false
    pump(self)
  end
  return self.due
end

--- Empties the status at the end of the last replica, then calls `done`. With more than one address, or another pod of ours, it stays.
---@param done fun()
function status:leave(done)
  local flags = self.options.flags
  local _, count = (self.addresses or ""):gsub("[^\n]+", "")
  if not self.is_leader or not self.is_on or flags["update-status-on-shutdown"] == "false" or count ~= 1 then return done() end
  ask_own_pods(self, function(pods)
    local others = 0
    for _, pod in ipairs(pods or {}) do
      local is_ending = is_text(members(pod, "metadata").deletionTimestamp)
      if members(pod, "metadata").name ~= self.options.identity.pod and not is_ending then others = others + 1 end
    end
    if not pods or others > 0 then return done() end
    self.addresses, self.due, self.leaving, self.is_leaving = "", math.huge, done, true
    for id in self.options.ingresses():each() do
      if differs(self, id) then enqueue(self, id) end
    end
    pump(self)
  end)
end

return status
