--- A small API server in memory for the specs of kube/: collections, lists in pages, watches, optimistic locking, and faults on demand. It stands in for the
--- network client (native.api), whose own tests run over sockets; tests/cluster runs everything against a real kube-apiserver.
local json = require "cjson"

local api_server = {}
api_server.__index = api_server

function api_server.new()
  return setmetatable({ objects = {}, version = 100, requests = {}, news = {}, watches = {}, next_id = 0, now = 0, log = {}, faults = {}, page = 500 },
    api_server)
end

local function copy(value)
  return json.decode(json.encode(value))
end

local function collection_of(path)
  local rest = path:gsub("^/apis/[^/]+/v1/", ""):gsub("^/api/v1/", "")
  return (rest:match("^namespaces/[^/]+/([a-z]+)") or rest:match("^([a-z]+)"))
end

local PLURALS = { Ingress = "ingresses", IngressClass = "ingressclasses", Service = "services", EndpointSlice = "endpointslices", Secret = "secrets",
  ConfigMap = "configmaps", Namespace = "namespaces", Lease = "leases", Event = "events", Pod = "pods", Node = "nodes" }

local function selected(object, parameters)
  local field, label = parameters.fieldSelector, parameters.labelSelector
  for name, unlike, value in (field or ""):gmatch("([^,=!]+)(!?)=([^,]*)") do
    local have = name == "type" and object.type or name == "metadata.name" and object.metadata.name
    if (have == value) == (unlike == "!") then return false end
  end
  for name, value in (label or ""):gmatch("([^,=]+)=?([^,]*)") do
    local have = (object.metadata.labels or {})[name]
    if not have or (value ~= "" and have ~= value) then return false end
  end
  return true
end

local function in_scope(object, path)
  local namespace = path:match("/namespaces/([^/]+)/[a-z]+$")
  return not namespace or object.metadata.namespace == namespace
end

function api_server:push(id, kind, value, extra)
  self.news[#self.news + 1] = { id, kind, value, extra }
end

local function notify(self, event, object)
  for _, watch in pairs(self.watches) do
    if collection_of(watch.path) == PLURALS[object.kind] and in_scope(object, watch.path) and selected(object, watch.parameters) then
      self:push(watch.id, "event", json.encode { type = event, object = object })
    end
  end
end

local function key_of(object)
  return PLURALS[object.kind] .. " " .. (object.metadata.namespace or "") .. "/" .. object.metadata.name
end

--- Creates or replaces an object (Lua table).
function api_server:apply(object)
  object = copy(object)
  local before = self.objects[key_of(object)]
  self.version = self.version + 1
  object.metadata.resourceVersion = tostring(self.version)
  object.metadata.uid = before and before.metadata.uid or "uid-" .. self.version
  object.metadata.creationTimestamp = object.metadata.creationTimestamp or "2026-01-01T00:00:00Z"
  self.objects[key_of(object)] = object
  notify(self, before and "MODIFIED" or "ADDED", object)
  return object
end

function api_server:delete(kind, id)
  local key = PLURALS[kind] .. " " .. id
  local object = self.objects[key]
  self.objects[key] = nil
  self.version = self.version + 1
  notify(self, "DELETED", object)
end

function api_server:get(kind, id)
  return self.objects[PLURALS[kind] .. " " .. id]
end

-- ---- the client's side ----

local function parse(path)
  local plain, query = path:match("^([^?]*)%??(.*)$")
  local parameters = {}
  for name, value in query:gmatch("([^&=]+)=([^&]*)") do
    parameters[name] = value:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
  end
  return plain, parameters
end

local function answer_list(self, id, path, parameters)
  local keys = {}
  for key, object in pairs(self.objects) do
    if key:match("^(%S+)") == collection_of(path) and in_scope(object, path) and selected(object, parameters) then keys[#keys + 1] = key end
  end
  table.sort(keys)
  local from = tonumber(parameters.continue or 1)
  local to = math.min(#keys, from + self.page - 1)
  for i = from, to do
    local item = copy(self.objects[keys[i]])
    item.kind, item.apiVersion = nil, nil
    self:push(id, "item", json.encode(item))
  end
  self:push(id, "list", json.encode { resourceVersion = tostring(self.version), continue = to < #keys and tostring(to + 1) or nil })
  self:push(id, "done", 200, {})
end

local function answer_object(self, id, request, path)
  local key = collection_of(path) .. " " .. (path:match("/namespaces/([^/]+)/") or "") .. "/" .. (path:match("/([^/]+)/status$") or path:match("([^/]+)$"))
  local object = self.objects[key]
  if request.method == "GET" then
    if not object then return self:push(id, "done", 404, { body = "{}" }) end
    return self:push(id, "done", 200, { body = json.encode(object) })
  end
  local body = request.body and json.decode(request.body)
  if request.method == "POST" then
    body.metadata.namespace = path:match("/namespaces/([^/]+)/")
    if self.objects[key_of(body)] then return self:push(id, "done", 409, { body = "{}" }) end
    self:apply(body)
    return self:push(id, "done", 201, { body = "{}" })
  end
  if not object then return self:push(id, "done", 404, { body = "{}" }) end
  if request.method == "PATCH" then
    local changed = copy(object)
    for name, value in pairs(body) do changed[name] = value end
    self:apply(changed)
    return self:push(id, "done", 200, { body = "{}" })
  end
  if body.metadata.resourceVersion ~= object.metadata.resourceVersion then return self:push(id, "done", 409, { body = "{}" }) end
  if path:find("/status$") then body.spec = copy(object.spec) end -- as the real one: spec stays, metadata is what was sent
  self:apply(body)
  self:push(id, "done", 200, { body = json.encode(self.objects[key]) })
end

function api_server:send(request)
  self.next_id = self.next_id + 1
  local id, path, parameters = self.next_id, parse(request.path)
  self.requests[#self.requests + 1] = request.method .. " " .. request.path
  for i, fault in ipairs(self.faults) do
    if request.path:find(fault.path) and (not fault.method or fault.method == request.method) then
      if not fault.is_lasting then table.remove(self.faults, i) end
      self:push(id, unpack(fault.answer))
      return id
    end
  end
  if request.split == "watch" then
    self.watches[id] = { id = id, path = path, parameters = parameters }
  elseif request.split == "list" then
    answer_list(self, id, path, parameters)
  elseif path:find("/pods$") then
    local items = {}
    for key, object in pairs(self.objects) do
      if key:find("^pods ") and selected(object, parameters) then items[#items + 1] = object end
    end
    self:push(id, "done", 200, { body = json.encode { items = items } })
  else
    answer_object(self, id, request, path)
  end
  return id
end

function api_server:cancel(id)
  self.watches[id] = nil
  for i = #self.news, 1, -1 do
    if self.news[i][1] == id then table.remove(self.news, i) end
  end
end

function api_server:next()
  local item = table.remove(self.news, 1)
  if not item then return nil end
  if item[2] == "done" or item[2] == "failed" then self.watches[item[1]] = nil end
  return unpack(item)
end

--- Ends all watches of a collection with an answer: "done", 200 or "failed", "text".
function api_server:end_watches(name, ...)
  for id, watch in pairs(self.watches) do
    if collection_of(watch.path) == name then self:push(id, ...) end
  end
end

--- How many requests matched a pattern.
function api_server:count(pattern)
  local count = 0
  for _, request in ipairs(self.requests) do
    if request:find(pattern) then count = count + 1 end
  end
  return count
end

return api_server
