--- Follows one kind of object of the API server: a list in pages, then a watch from the list's resourceVersion on, for ever. What it knows of an object
--- is its uid and resourceVersion; the objects themselves are its owner's. No waiting and no I/O here: requests go out by `send`, answers come in by
--- handlers, and `due` says when `tick` is to be called.
local json = require "cjson.safe"
local shelf = require "kube.shelf"

local reflector = {}
reflector.__index = reflector

local PAGE = 500            -- objects of one page of a list
local WATCH_SECONDS = 290   -- a watch is asked to end after this and up to as much again, so that watches do not end together
local WATCH_IDLE = 150      -- a bookmark comes each minute: so long without a byte, and the connection is dead
local BACKOFF_FIRST, BACKOFF_MAX = 0.5, 30
local FORBIDDEN_AGAIN = 300 -- for what may be missing
local SHORT_WATCH = 1       -- seconds: a watch that ends sooner counts as a failure, so that a server cannot make us spin
local REFUSALS = 3          -- watches in a row that the server refuses: our version may mean nothing to it (one that was restored is at a lower one)
local TOO_MANY = 429        -- a status that says nothing about our version

---@class ReflectorOptions
---@field name string the resource, for messages: "ingresses"
---@field path string of the collection: "/apis/networking.k8s.io/v1/ingresses"
---@field kind string
---@field api string apiVersion
---@field field_selector string|nil
---@field label_selector string|nil
---@field is_optional boolean|nil without the right to read it, it counts as empty
---@field send fun(request: table, handler: fun(kind: string, value: any, extra: table|nil)): integer
---@field cancel fun(id: integer)
---@field put fun(id: string, raw: table, uid: string) an object is new or changed; id is "namespace/name"
---@field remove fun(id: string)
---@field synced fun(self: table) a list is whole
---@field trouble fun(self: table, text: string|nil) what is wrong now; nil: it is over
---@field clock fun(): number monotonic seconds
---@field random fun(): number from 0 to 1

---@param options ReflectorOptions
function reflector.new(options)
  return setmetatable({
    options = options, known = shelf.new(), is_synced = false, is_forbidden = false, failures = 0, refusals = 0, due = options.clock(), state = "waiting",
  }, reflector)
end

local function escape(text)
  return (text:gsub("[^A-Za-z0-9._~-]", function(byte) return ("%%%02X"):format(byte:byte()) end))
end

local function query(self, parameters)
  local parts = {}
  if self.options.field_selector then parts[#parts + 1] = "fieldSelector=" .. escape(self.options.field_selector) end
  if self.options.label_selector then parts[#parts + 1] = "labelSelector=" .. escape(self.options.label_selector) end
  for _, parameter in ipairs(parameters) do parts[#parts + 1] = parameter[1] .. "=" .. escape(tostring(parameter[2])) end
  return self.options.path .. "?" .. table.concat(parts, "&")
end

local function is_text(value)
  return type(value) == "string" and value ~= ""
end

--- What goes wrong is tried again, later each time.
local function back_off(self, text, after)
  self.failures = self.failures + 1
  local delay = math.min(BACKOFF_MAX, BACKOFF_FIRST * 2 ^ math.min(self.failures - 1, 10))
  delay = delay * (0.5 + self.options.random())
  self.state, self.request, self.due = "waiting", nil, self.options.clock() + math.max(delay, after or 0)
  if text and self.trouble ~= text then -- said once, not at each try
    self.trouble = text
    self.options.trouble(self, text)
  end
end

local function is_fine(self)
  self.failures, self.refusals = 0, 0
  if self.trouble then
    self.trouble = nil
    self.options.trouble(self, nil)
  end
end

--- A Status object's message, where the answer is one.
local function status_text(status, extra)
  local body = extra and extra.body and json.decode(extra.body)
  local message = type(body) == "table" and type(body.message) == "string" and body.message
  return ("the API server answers %d%s"):format(status, message and ": " .. message or "")
end

-- ---- objects ----

local function take(self, raw)
  local metadata = type(raw) == "table" and raw.metadata
  if type(metadata) ~= "table" or not is_text(metadata.name) then return nil end
  local id = (is_text(metadata.namespace) and metadata.namespace or "") .. "/" .. metadata.name
  local mark = (metadata.uid or "") .. " " .. (metadata.resourceVersion or "")
  if self.known:get(id) ~= mark then
    self.known:put(id, mark)
    raw.kind, raw.apiVersion = self.options.kind, self.options.api
    self.options.put(id, raw, metadata.uid or "")
  end
  return id
end

local function forget(self, id)
  if not self.known:has(id) then return end
  self.known:put(id, nil)
  self.options.remove(id)
end

--- The uid of an object, nil if there is no such object.
---@param id string
---@return string|nil
function reflector:uid(id)
  local mark = self.known:get(id)
  return mark and mark:match("^(%S*)")
end

-- ---- list ----

local list, watch

local function end_list(self)
  if not self.is_garbled then -- else an object that could not be read may be one that we know
    for id in self.known:each() do
      if not self.seen[id] then forget(self, id) end
    end
  end
  self.seen = nil
  self.is_synced = true
  if self.is_garbled then
    self.options.trouble(self, "the API server's list holds what is no object: it is left out")
  elseif self.refusals == 0 then -- else it is the watch that must succeed
    is_fine(self)
  end
  self.options.synced(self)
  if self.state ~= "stopped" then watch(self) end
end

--- Without the right to read what may be missing, there is nothing of it.
local function end_forbidden(self)
  self.seen = nil
  self.is_forbidden, self.is_synced = true, true
  for id in self.known:each() do forget(self, id) end
  self.state, self.request, self.due = "waiting", nil, self.options.clock() + FORBIDDEN_AGAIN
  self.options.synced(self)
end

local function on_list(self, kind, value, extra)
  if kind == "item" then
    local id = take(self, json.decode(value))
    if id then self.seen[id] = true else self.is_garbled = true end
  elseif kind == "list" then
    self.page = json.decode(value)
  elseif kind == "failed" then
    back_off(self, value)
  elseif value == 200 then
    local metadata = type(self.page) == "table" and self.page or {}
    self.page = nil
    if not is_text(metadata.resourceVersion) then
      back_off(self, "the API server's list has no resourceVersion")
    elseif is_text(metadata.continue) then -- the version counts when the list is whole: a watch from it makes up for nothing before it
      list(self, metadata.continue)
    else
      self.version, self.is_forbidden = metadata.resourceVersion, false
      end_list(self)
    end
  elseif value == 410 then -- the token of the next page is too old: from the start
    self.options.restarted()
    back_off(self, nil)
  elseif self.options.is_optional and (value == 403 or value == 404) then
    end_forbidden(self)
  else
    back_off(self, status_text(value, extra), extra and extra.retry_after)
  end
end

function list(self, continue)
  if not continue then self.seen, self.is_garbled = {}, false end
  local parameters = { { "limit", PAGE } }
  if continue then parameters[2] = { "continue", continue } end
  self.state, self.due, self.page = "listing", math.huge, nil
  self.request = self.options.send({ method = "GET", path = query(self, parameters), split = "list", timeout = 120, idle = 30 },
    function(...) on_list(self, ...) end)
end

-- ---- watch ----

local function relist(self)
  self.version = nil
  self.options.restarted()
end

--- The server answers, and lets us watch no more.
local function refused(self, text, after)
  self.refusals = self.refusals + 1
  if self.refusals >= REFUSALS then relist(self) end
  back_off(self, text, after)
end

--- Our version is too old: a list, at once unless the one before it was of no use either.
local function too_old(self)
  relist(self)
  self.refusals = self.refusals + 1
  if self.refusals == 1 then list(self) else back_off(self, nil) end
end

--- One line of a watch. An event that cannot be understood ends the watch; a list makes up for what was missed.
local function on_event(self, line)
  local event = json.decode(line)
  local object = type(event) == "table" and event.object
  if type(object) ~= "table" then
    relist(self)
    return "the API server's watch sent what is no event"
  end
  if event.type == "ERROR" then
    if object.code == 410 then return nil, true end
    return ("the API server ended the watch: %s"):format(tostring(object.message or object.reason or object.code))
  end
  local metadata = type(object.metadata) == "table" and object.metadata or {}
  if event.type == "DELETED" then
    local id = (is_text(metadata.namespace) and metadata.namespace or "") .. "/" .. tostring(metadata.name)
    local uid = self:uid(id)
    if uid and (uid == metadata.uid or not metadata.uid) then forget(self, id) end -- another uid: one of this name was made since
  elseif event.type ~= "BOOKMARK" then
    take(self, object)
  end
  if is_text(metadata.resourceVersion) then self.version = metadata.resourceVersion end
end

local function end_watch(self)
  if self.request then self.options.cancel(self.request) end
  self.request = nil
end

local function on_watch(self, kind, value, extra)
  if kind == "event" then
    local problem, is_too_old = on_event(self, value)
    if problem or is_too_old then
      end_watch(self)
      if is_too_old then too_old(self) else refused(self, problem) end
    else
      is_fine(self)
    end
    return
  end
  local lasted = self.options.clock() - self.watching_since
  self.request = nil
  if kind == "done" and value == 200 then
    if lasted >= SHORT_WATCH then watch(self) else back_off(self, nil) end
  elseif kind == "done" and value == 410 then
    too_old(self)
  elseif kind == "done" then
    if value == 403 or value == 404 then relist(self) end
    local fail = value == TOO_MANY and back_off or refused
    fail(self, status_text(value, extra), extra and extra.retry_after)
  elseif lasted >= SHORT_WATCH then -- cut: the version is still good
    self.options.restarted()
    self.failures = 0
    back_off(self, nil)
  else
    back_off(self, value)
  end
end

function watch(self)
  local seconds = math.floor(WATCH_SECONDS * (1 + self.options.random()))
  self.state, self.due, self.watching_since = "watching", math.huge, self.options.clock()
  self.request = self.options.send({
    method = "GET", split = "watch", idle = WATCH_IDLE,
    path = query(self, { { "watch", "true" }, { "allowWatchBookmarks", "true" }, { "resourceVersion", self.version }, { "timeoutSeconds", seconds } }),
  }, function(...) on_watch(self, ...) end)
end

-- ---- life ----

--- To be called when `due` has come.
function reflector:tick()
  if self.state ~= "waiting" or self.options.clock() < self.due then return end
  if self.version and self.is_synced then watch(self) else list(self) end
end

--- Ends it; what it put stays.
function reflector:stop()
  end_watch(self)
  self.state, self.due = "stopped", math.huge
end

return reflector
