--- A cluster as the source of objects: which kinds are followed, where their objects go, and when the first sync is whole. Secrets and ConfigMaps are kept
--- only where something names them (kube/named.lua). Answers of the API client are handed to whoever sent the request.
local named = require "kube.named"
local reflector = require "kube.reflector"

local cluster = {}
cluster.__index = cluster

local SWEEP_SECONDS = 60
local POLICIES_LABEL = "moongate.io/policies=true"
local NETWORKING, CORE, DISCOVERY = "/apis/networking.k8s.io/v1", "/api/v1", "/apis/discovery.k8s.io/v1"

local KINDS = {
  Ingress = { name = "ingresses", group = NETWORKING, api = "networking.k8s.io/v1" },
  IngressClass = { name = "ingressclasses", group = NETWORKING, api = "networking.k8s.io/v1", is_global = true, is_optional = true },
  Service = { name = "services", group = CORE, api = "v1" },
  EndpointSlice = { name = "endpointslices", group = DISCOVERY, api = "discovery.k8s.io/v1", label_selector = "kubernetes.io/service-name" },
  Secret = { name = "secrets", group = CORE, api = "v1", field_selector = "type=kubernetes.io/tls", is_optional = true },
  ConfigMap = { name = "configmaps", group = CORE, api = "v1", is_optional = true },
  Namespace = { name = "namespaces", group = CORE, api = "v1", is_global = true },
}
cluster.KINDS = KINDS

---@class ClusterOptions
---@field client userdata|table native.api
---@field flags table<string, string>
---@field store table
---@field log fun(level: string, message: string, detail: string)
---@field clock fun(): number
---@field random fun(): number
---@field uses fun(kind: string, id: string): boolean does anything still name this Secret or ConfigMap?
---@field namespace_changed fun(name: string) it is watched now, or no longer
---@field policies_in string|nil namespace whose labelled ConfigMaps hold policies
---@field policies_changed fun(name: string, data: table<string, string>|nil)
---@field restarted fun(count: integer)|nil a watch had to begin anew
---@field ingress_seen fun(id: string, raw: table|nil)|nil an Ingress came, changed or went (for its status)

---@param options ClusterOptions
function cluster.new(options)
  local self = setmetatable({
    options = options, flags = options.flags, handlers = {}, base = {}, unsynced = 0, restarts = 0, sweep_at = options.clock() + SWEEP_SECONDS,
  }, cluster)
  self.named = named.new {
    follow = function(kind, more) return self:follow(kind, more) end, unfollow = function(made) self:unfollow(made) end,
    put = function(kind, id, raw) self:put(kind, id, raw) end, remove = function(kind, id) self:remove(kind, id) end,
    namespace = self.flags["watch-namespace"] or "", log = options.log,
  }
  local selector = self.flags["watch-namespace-selector"] or ""
  if selector ~= "" then self.namespaces = {} end
  return self
end

-- ---- requests ----

--- Sends a request. The handler gets what client:next() gives for it: kind, value, extra; "done" and "failed" are the last.
---@return integer id
function cluster:send(request, handler)
  local id = assert(self.options.client:send(request))
  self.handlers[id] = handler
  return id
end

function cluster:cancel(id)
  self.handlers[id] = nil
  self.options.client:cancel(id)
end

--- A request whose answer is wanted whole. `done(status, body, extra)`; no answer: status nil, body what went wrong.
---@param request table
---@param done fun(status: integer|nil, body: string, extra: table|nil)
function cluster:ask(request, done)
  return self:send(request, function(kind, value, extra)
    if kind == "done" then
      done(value, extra and extra.body or "", extra)
    elseif kind == "failed" then
      done(nil, value)
    end
  end)
end

-- ---- objects ----

local function trouble(self, made, text)
  local name = made.options.name
  if text then
    self.options.log("error", "cannot follow " .. name, ("%s (%s)"):format(text, made.is_synced and "what is known goes on being served"
      or "nothing of it is known yet"))
  else
    self.options.log("notice", "following again", name)
  end
end

---@private
function cluster:follow(kind, more)
  self.unsynced = self.unsynced + 1
  local rule, namespace = KINDS[kind], more.namespace or self.flags["watch-namespace"] or ""
  local path = rule.group .. (not rule.is_global and namespace ~= "" and "/namespaces/" .. namespace or "") .. "/" .. rule.name
  return reflector.new {
    name = more.field_selector and ("%s (%s%s)"):format(rule.name, more.field_selector, namespace ~= "" and " in " .. namespace or "") or rule.name,
    path = path, kind = kind, api = rule.api, field_selector = more.field_selector or rule.field_selector,
    label_selector = more.label_selector or rule.label_selector, is_optional = rule.is_optional,
    send = function(request, handler) return self:send(request, handler) end,
    cancel = function(id) self:cancel(id) end,
    put = more.put, remove = more.remove,
    synced = function(made) self:note_synced(kind, made, more) end,
    trouble = function(made, text) trouble(self, made, text) end,
    restarted = function()
      self.restarts = self.restarts + 1
      if self.options.restarted then self.options.restarted(self.restarts) end
    end,
    clock = self.options.clock, random = self.options.random,
  }
end

---@private
function cluster:unfollow(made)
  if not made.was_synced then self.unsynced = self.unsynced - 1 end
  made:stop()
end

function cluster:put(kind, id, raw)
  self.options.store:put_object(kind, id, raw)
  self.is_dirty = true
end

function cluster:remove(kind, id)
  self.options.store:remove_object(kind, id)
  self.is_dirty = true
end

local function start_base(self, kind, more)
  more = more or {}
  more.put = more.put or function(id, raw) self:put(kind, id, raw) end
  more.remove = more.remove or function(id) self:remove(kind, id) end
  self.base[kind] = self:follow(kind, more)
end

--- ConfigMaps that hold policies: a kind of its own here, beside those that something names.
local function start_policies(self)
  local function change(id, data)
    self.options.policies_changed(id:match("/(.*)$"), data)
    self.is_dirty = true
  end
  self.base.policies = self:follow("ConfigMap", {
    namespace = self.options.policies_in, label_selector = POLICIES_LABEL,
    put = function(id, raw)
      local data = {}
      for name, text in pairs(type(raw.data) == "table" and raw.data or {}) do data[name] = type(text) == "string" and text or nil end
      change(id, data)
    end,
    remove = function(id) change(id, nil) end,
  })
end

--- Follows what every cluster needs; TLS Secrets when the Ingresses that name them are known.
function cluster:start()
  start_base(self, "Ingress", {
    put = function(id, raw)
      self:put("Ingress", id, raw)
      if self.options.ingress_seen then self.options.ingress_seen(id, raw) end
    end,
    remove = function(id)
      self:remove("Ingress", id)
      if self.options.ingress_seen then self.options.ingress_seen(id, nil) end
    end,
  })
  for _, kind in ipairs { "IngressClass", "Service", "EndpointSlice" } do start_base(self, kind) end
  if self.options.policies_in then start_policies(self) end
  if self.namespaces then
    start_base(self, "Namespace", {
      label_selector = self.flags["watch-namespace-selector"],
      put = function(id)
        local name = id:sub(2)
        if not self.namespaces[name] then
          self.namespaces[name] = true
          self.options.namespace_changed(name)
        end
        self.is_dirty = true
      end,
      remove = function(id)
        self.namespaces[id:sub(2)] = nil
        self.options.namespace_changed(id:sub(2))
        self.is_dirty = true
      end,
    })
  end
end

function cluster:note_synced(kind, made, more)
  if made.was_synced then return end
  made.was_synced = true
  self.unsynced = self.unsynced - 1
  if made.is_forbidden then
    local meaning = kind == "IngressClass" and "spec.ingressClassName is not looked at" or "they count as absent"
    self.options.log("warn", "no right to read " .. made.options.name, meaning)
  end
  if kind == "Ingress" then self.named:start() end
  if more.on_synced then more.on_synced(made) end
end

--- May IngressClasses be read? Without the right the field counts as absent.
function cluster:has_classes()
  return not (self.base.IngressClass and self.base.IngressClass.is_forbidden)
end

--- Is a namespace watched?
function cluster:is_watched(namespace)
  return not self.namespaces or self.namespaces[namespace] == true
end

--- The uid of an object, for Events.
---@return string|nil
function cluster:uid(kind, id)
  local made = self.base[kind]
  if made then return made:uid(id) end
  return self.named:uid(kind, id)
end

--- Something names this Secret or ConfigMap.
---@param kind "Secret"|"ConfigMap"
---@param id string "namespace/name"
function cluster:want(kind, id) self.named:want(kind, id) end

--- Is something that the first sync needs still to come?
function cluster:is_pending()
  return self.named:is_pending() or self.unsynced > 0
end

-- ---- turns ----

local function each_reflector(self, visit)
  for _, made in pairs(self.base) do visit(made) end
  self.named:each(visit)
end

--- Ticks what is due.
---@param is_ready boolean the first sync is over
---@return number due monotonic seconds at which the next is
function cluster:tick(is_ready)
  local now, due = self.options.clock(), math.huge
  local ready = {}
  each_reflector(self, function(made)
    if made.due <= now then ready[#ready + 1] = made end
  end)
  for _, made in ipairs(ready) do made:tick() end
  if is_ready and now >= self.sweep_at then
    self.sweep_at = now + SWEEP_SECONDS
    self.named:sweep(self.options.uses)
  end
  each_reflector(self, function(made) due = math.min(due, made.due) end)
  return is_ready and math.min(due, self.sweep_at) or due
end

--- Hands out what arrived, until nothing is left or `deadline`. True if anything came.
---@param deadline number monotonic seconds
function cluster:take_news(deadline)
  local client, came = self.options.client, false
  repeat
    local id, kind, value, extra = client:next()
    if not id then return came end
    came = true
    local handler = self.handlers[id]
    if kind == "done" or kind == "failed" then self.handlers[id] = nil end
    if handler then handler(kind, value, extra) end
  until self.options.clock() >= deadline
  return came, true
end

--- Watches that had to begin anew since the start.
function cluster:restart_count() return self.restarts end

return cluster
