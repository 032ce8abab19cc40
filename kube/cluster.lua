--- A cluster as the source of objects: which kinds are followed, where their objects go, and when the first sync is whole. Secrets and ConfigMaps are kept
--- only where something names them. Answers of the API client are handed to whoever sent the request.
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
---@field namespaces_changed fun() the set of watched namespaces is another
---@field policies_in string|nil namespace whose labelled ConfigMaps hold policies
---@field policies_changed fun(name: string, data: table<string, string>|nil)
---@field restarted fun(count: integer)|nil a watch had to begin anew
---@field ingress_seen fun(id: string, raw: table|nil)|nil an Ingress came, changed or went (for its status)

---@param options ClusterOptions
function cluster.new(options)
  local self = setmetatable({
    options = options, flags = options.flags, handlers = {}, base = {}, named = {}, wanted = {}, unsynced = 0, restarts = 0,
    sweep_at = options.clock() + SWEEP_SECONDS,
  }, cluster)
  local selector = self.flags["watch-namespace-selector"] or ""
  if selector ~= "" then self.namespaces = {} end
  return self
end

-- ---- requests ----

--- Sends a request. The handler gets what client:next() gives for it: kind, value, extra; "done" and "failed" are the last.
---@return integer id
function cluster:send(request, handler)
  local id = self.options.client:send(request)
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
    self.options.log("error", "cannot follow " .. name, ("%s (what is known goes on being served)"):format(text))
  else
    self.options.log("notice", "following again", name)
  end
end

local function follow(self, kind, more)
  local rule, namespace = KINDS[kind], more.namespace or self.flags["watch-namespace"] or ""
  local path = rule.group .. (not rule.is_global and namespace ~= "" and "/namespaces/" .. namespace or "") .. "/" .. rule.name
  return reflector.new {
    name = more.field_selector and ("%s (%s in %s)"):format(rule.name, more.field_selector, namespace) or rule.name,
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

function cluster:put(kind, id, raw)
  self.options.store:put_object(kind .. " " .. id, raw)
  self.is_dirty = true
end

function cluster:remove(kind, id)
  self.options.store:remove(kind .. " " .. id)
  self.is_dirty = true
end

local function start_base(self, kind, more)
  more = more or {}
  more.put = more.put or function(id, raw) self:put(kind, id, raw) end
  more.remove = more.remove or function(id) self:remove(kind, id) end
  self.base[kind] = follow(self, kind, more)
  self.unsynced = self.unsynced + 1
end

--- TLS Secrets are told apart from the start, but the bytes of those that nothing names are dropped here.
local function start_secrets(self)
  start_base(self, "Secret", {
    put = function(id, raw)
      if self.wanted["Secret " .. id] then self:put("Secret", id, raw) end
    end,
    remove = function(id)
      self:remove("Secret", id)
      if self.wanted["Secret " .. id] then self:follow_named("Secret", id) end -- it may come back as one of another type
    end,
  })
end

--- ConfigMaps that hold policies: a kind of its own here, beside those that something names.
local function start_policies(self)
  local function change(id, data)
    self.options.policies_changed(id:match("/(.*)$"), data)
    self.is_dirty = true
  end
  self.unsynced = self.unsynced + 1
  self.base.policies = follow(self, "ConfigMap", {
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
          self.options.namespaces_changed()
        end
        self.is_dirty = true
      end,
      remove = function(id)
        self.namespaces[id:sub(2)] = nil
        self.options.namespaces_changed()
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
  if kind == "Ingress" then start_secrets(self) end
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
  local made = self.base[kind] or self.named[kind .. " " .. id]
  return made and made:uid(id)
end

--- Something names this Secret or ConfigMap: from now on its bytes are kept. One that is not here yet comes as an ordinary change.
---@param kind "Secret"|"ConfigMap"
---@param id string "namespace/name"
function cluster:want(kind, id)
  local key = kind .. " " .. id
  if self.wanted[key] then return end
  self.wanted[key] = true
  if kind == "Secret" and not (self.base.Secret and self.base.Secret.is_synced) then return end -- its list tells which are left
  self:follow_named(kind, id)
end

function cluster:follow_named(kind, id)
  local key = kind .. " " .. id
  local namespace, name = id:match("^([^/]+)/(.+)$")
  if self.named[key] or not namespace then return end
  self.unsynced = self.unsynced + 1
  self.named[key] = follow(self, kind, {
    namespace = namespace, field_selector = "metadata.name=" .. name,
    put = function(_, raw)
      -- The watch of TLS Secrets may have brought a newer version than the one that was listed for us.
      if kind == "Secret" and self.base.Secret:uid(id) and self.options.store:get(kind, id) then return end
      self:put(kind, id, raw)
    end,
    remove = function() self:remove(kind, id) end,
    on_synced = function(made)
      if kind == "Secret" and self.base.Secret:uid(id) then -- the watch of TLS Secrets brings its changes
        made:stop()
        self.named[key] = nil
      end
    end,
  })
end

--- After the list of TLS Secrets: whatever else was asked for is looked for by name.
local function look_for_others(self)
  for key in pairs(self.wanted) do
    local id = key:match("^Secret (.*)$")
    if id and not self.base.Secret:uid(id) then self:follow_named("Secret", id) end
  end
end

--- Is something that the first sync needs still to come?
function cluster:is_pending()
  if not self.base.Secret then return true end
  if self.base.Secret.is_synced and not self.has_looked then
    self.has_looked = true
    look_for_others(self)
  end
  return self.unsynced > 0
end

local function sweep(self)
  for key in pairs(self.wanted) do
    local kind, id = key:match("^(%S+) (.*)$")
    if not self.options.uses(kind, id) then
      self.wanted[key] = nil
      if self.named[key] then
        if not self.named[key].was_synced then self.unsynced = self.unsynced - 1 end
        self.named[key]:stop()
        self.named[key] = nil
      end
      self:remove(kind, id)
    end
  end
end

-- ---- turns ----

local function each_reflector(self, visit)
  for _, made in pairs(self.base) do visit(made) end
  for _, made in pairs(self.named) do visit(made) end
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
    sweep(self)
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
