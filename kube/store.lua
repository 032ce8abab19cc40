--- The objects of all documents, by kind and name. Knows which document holds which object, keeps the last good version of an object whose
--- edit is broken, and refuses the second of two objects of one name. What changed is asked for with `take`.
---
--- A *version* is what is kept of an object. There are thousands of some kinds: theirs is one packed string, which makes a table when somebody asks.
local native = require "moongate.kube"
local json = require "cjson.safe"
local objects = require "kube.objects"
local shelf = require "kube.shelf"

local store = {}
store.__index = store

json.decode_max_depth(64)

local PACKED = { Ingress = true, Service = true, EndpointSlice = true, Endpoints = true }

---@alias Version string|Object

---@class Entry one object of one document: what the store keeps of it
---@field version Version
---@field document integer
---@field item integer in the document
---@field line integer

local GONE = "" -- no version is that

---@class StoreOptions
---@field position fun(document): string|nil, integer|nil, integer|nil
---@field findings table
---@field flags table<string, string>
---@field replaced (fun(kind: string, id: string, old: Version))|nil told of each version that counts no longer, before anybody learns of the change

---@param options StoreOptions
function store.new(options)
  return setmetatable({
    position = options.position, findings = options.findings, flags = options.flags, replaced = options.replaced,
    entries = shelf.new(), -- document id as text -> the key of its object, or a list of keys
    by_key = shelf.new(), -- object key -> Entry, or Entry[] where there are more; once it counts, one alone is a text: its place (see place_text)
    doubled = {},     -- object key -> true: there was more than one entry at the last take
    kinds = {},       -- kind -> shelf: ns/name -> the version that counts
    unsettled = {},   -- object key -> true: its entries changed since the last take
    arrived = shelf.new(), -- object key -> the version that a cluster gave since the last take, or GONE
    changed = {},     -- object keys that changed, and are to be visited
    olds = {},        -- of them: the version before, or false
    skipped = {},     -- kind -> count of documents of unknown kinds
    reported = {},    -- document id -> true: something was said of it
    strict = {},      -- document id -> what is wrong with it under strict-validate-path-type
  }, store)
end

-- ---- versions ----

local function id_of(namespace, name)
  return namespace .. "/" .. name
end

local function version_of(object)
  if not PACKED[object.kind] then return object end
  local key, id = object.key, object.id
  object.key, object.id = nil, nil -- follow from the rest
  local packed = native.encode(object)
  object.key, object.id = key, id
  return packed
end

local function is_same(a, b)
  return a == b or type(a) == "table" and type(b) == "table" and native.encode(a) == native.encode(b)
end

--- The object of a version: of a packed one a new table with each call, so compare `version`.
---@param version Version
---@return Object
function store.open(version)
  if type(version) == "table" then return version end
  local object = native.decode(version)
  object.version, object.id = version, id_of(object.namespace, object.name)
  object.key = object.kind .. " " .. object.id
  return object
end

--- The version of an object that counts.
---@return Version|nil
function store:version(kind, id)
  local of_kind = self.kinds[kind]
  return of_kind and of_kind:get(id)
end

--- Is there such an object?
---@return boolean
function store:has(kind, id)
  local of_kind = self.kinds[kind]
  return of_kind ~= nil and of_kind:has(id)
end

--- An object that counts.
---@return Object|nil
function store:get(kind, id)
  local version = self:version(kind, id)
  return version and store.open(version)
end

--- for id in store:each(kind) do
function store:each(kind)
  local of_kind = self.kinds[kind]
  if of_kind then return of_kind:each() end
  return function() end
end

-- ---- the documents of a directory ----

--- "Ingress default/shop", "IngressClass nginx"
local function parts_of(key)
  local kind, id = key:match("^(%S+) (.*)$")
  return kind, id:find("/", 1, true) and id or "/" .. id
end

local function place_text(entry)
  return ("%d %d %d"):format(entry.document, entry.item, entry.line)
end

--- The one entry of a key whose version counts.
local function entry_of(self, key, text)
  local document, item, line = text:match("^(%d+) (%d+) (%d+)$")
  return { version = self:version(parts_of(key)), document = tonumber(document), item = tonumber(item), line = tonumber(line) }
end

--- Calls visit(entry) for each entry of a key.
local function each_entry(self, key, visit)
  local held = self.by_key:get(key)
  if not held then return end
  if type(held) == "string" then return visit(entry_of(self, key, held)) end
  if held.version then return visit(held) end
  for _, entry in ipairs(held) do visit(entry) end
end

local function is_before(self, a, b)
  if a.document == b.document then return a.item < b.item end
  local path_a, index_a = self.position(a.document)
  local path_b, index_b = self.position(b.document)
  if path_a ~= path_b then return (path_a or "") < (path_b or "") end
  return (index_a or 0) < (index_b or 0)
end

--- The entry that counts for a key.
local function choose(self, key)
  local chosen
  each_entry(self, key, function(entry)
    if not chosen or is_before(self, entry, chosen) then chosen = entry end
  end)
  return chosen
end

--- Document id and line of an object, for findings.
function store:where(key)
  local entry = choose(self, key)
  if entry then return entry.document, entry.line end
end

local function place(self, entry)
  local path, index, line = self.position(entry.document)
  return ("%s:%d (document %d)"):format(path or "?", (line or 1) + entry.line - 1, index or 0)
end

local function duplicate(entry)
  return ("duplicate %s %d"):format(entry.document, entry.item)
end

--- Chooses the version that counts for a key, and says which entries of that name are refused.
local function settle(self, key)
  local held = self.by_key:get(key)
  local is_alone = type(held) == "string" or held and held.version ~= nil
  local chosen = choose(self, key)
  if is_alone and not self.doubled[key] then return chosen.version end
  self.doubled[key] = held and not is_alone or nil
  each_entry(self, key, function(entry)
    local refused = entry ~= chosen and {
      level = "error", document = entry.document, line = entry.line, key = key,
      text = ("is there twice: %s counts, %s is refused"):format(place(self, chosen), place(self, entry)),
    }
    self.findings:set(duplicate(entry), refused and { refused })
  end)
  return chosen and chosen.version
end

--- Takes the entries of a document out of a key's.
local function drop_entries(self, id, key)
  local kept = {}
  each_entry(self, key, function(entry)
    if entry.document ~= id then
      kept[#kept + 1] = entry
    elseif self.doubled[key] then
      self.findings:set(duplicate(entry), nil)
    end
  end)
  self.by_key:put(key, #kept > 1 and kept or kept[1])
  self.unsettled[key] = true
end

local function add_entry(self, key, entry)
  local list = {}
  each_entry(self, key, function(other) list[#list + 1] = other end)
  list[#list + 1] = entry
  self.by_key:put(key, #list > 1 and list or entry)
  self.unsettled[key] = true
end

local function keys_of(self, id)
  local keys = self.entries:get(tostring(id))
  return type(keys) == "table" and keys or { keys }
end

local function parse(text)
  local start = text:match("^%-%-%-[ \t]*\r?\n()") or 1
  if text:find("^%s*[{%[]", start) then
    local value = json.decode(text:sub(start))
    if value ~= nil then return value, 1 end
  end
  return native.yaml(text)
end

---@class Reading one object of a document, as it was read
---@field key string|nil
---@field version Version|nil
---@field line integer
---@field problems Problem[]
---@field is_kept boolean|nil the edit is broken; the version is an earlier one

--- What a document's value holds: the object itself, or the items of a List.
---@return Reading[]
local function read_value(self, raw, line)
  local items, is_list = objects.items(raw)
  local readings = {}
  for i, item in ipairs(items) do
    local object, problems, key, is_skipped = objects.read(item, self.flags)
    if is_skipped then
      local kind = tostring(item.kind)
      self.skipped[kind] = (self.skipped[kind] or 0) + 1
    end
    if is_list then
      for _, problem in ipairs(problems) do problem.field = ("items[%d]%s"):format(i - 1, problem.field and "." .. problem.field or "") end
    end
    readings[i] = { key = object and object.key or key, version = object and version_of(object), line = line, problems = problems }
  end
  return readings
end

--- How bad it is, a setting says; it is known after the first documents, and nothing is said before.
local function report_strict(self, id)
  if self.is_lenient == nil then return end
  local level, list = self.is_lenient and "info" or "warn", {}
  for i, finding in ipairs(self.strict[id] or {}) do
    list[i] = { level = level, document = id, line = finding.line, key = finding.key, field = finding.field, text = finding.text, is_quiet = self.is_lenient }
  end
  self.findings:set("strict " .. id, list)
end

local function report(self, id, readings, failure)
  local list, strict = { failure }, {}
  for _, reading in ipairs(readings) do
    for _, problem in ipairs(reading.problems) do
      local text = problem.text
      if problem.level == "error" and reading.is_kept then text = text .. " (the version before stays)" end
      local finding = { level = problem.level, document = id, line = reading.line, key = reading.key, field = problem.field, text = text,
        is_quiet = problem.level == "info" }
      if problem.level == "strict" then strict[#strict + 1] = finding else list[#list + 1] = finding end
    end
  end
  local has_said = #list > 0 or #strict > 0
  if not has_said and not self.reported[id] then return end
  self.reported[id] = has_said or nil
  self.findings:set("document " .. id, list)
  self.strict[id] = #strict > 0 and strict or nil
  report_strict(self, id)
end

--- The setting strict-validate-path-type: false is lenient.
---@param is_lenient boolean
function store:judge_paths(is_lenient)
  if self.is_lenient == is_lenient then return end
  self.is_lenient = is_lenient
  for id in pairs(self.strict) do report_strict(self, id) end
end

--- Takes in a document that is new or changed.
---@param id integer
---@param text string
function store:put(id, text)
  local raw, line, failed_line = parse(text)
  if raw == nil and line then
    local stays = #keys_of(self, id) > 0 and " (the version before stays)" or ""
    report(self, id, {}, { level = "error", document = id, line = failed_line, text = line .. stays })
  elseif raw == nil or type(raw) == "userdata" then
    self:take_in(id, {})
  else
    self:take_in(id, read_value(self, raw, line or 1))
  end
end

---@private
---@param id integer
---@param readings Reading[]
function store:take_in(id, readings)
  local before, known = keys_of(self, id), {}
  for _, key in ipairs(before) do
    each_entry(self, key, function(entry)
      if entry.document == id then known[key] = entry.version end
    end)
  end
  for _, reading in ipairs(readings) do
    local key = reading.key
    if not key and #before == 1 and #readings == 1 and #reading.problems > 0 then key = before[1] end -- its name is what is broken
    local old = key and known[key]
    if old and not reading.version and #reading.problems > 0 then
      reading.key, reading.version, reading.is_kept = key, old, true
    elseif old and reading.version and is_same(old, reading.version) then
      reading.version = old
    end
  end
  for key in pairs(known) do drop_entries(self, id, key) end
  local keys = {}
  for i, reading in ipairs(readings) do
    if reading.version then
      keys[#keys + 1] = reading.key
      add_entry(self, reading.key, { version = reading.version, document = id, item = i, line = reading.line })
    end
  end
  self.entries:put(tostring(id), #keys > 1 and keys or keys[1])
  report(self, id, readings)
end

local function forget(self, id)
  if not self.reported[id] then return end
  self.reported[id], self.strict[id] = nil, nil
  self.findings:set("document " .. id, nil)
  self.findings:set("strict " .. id, nil)
end

--- A document is gone.
---@param id integer
function store:remove(id)
  for _, key in ipairs(keys_of(self, id)) do drop_entries(self, id, key) end
  self.entries:put(tostring(id), nil)
  forget(self, id)
end

-- ---- the objects of a cluster: one document each, whose name is theirs ----

--- Takes in an object that is new or changed.
---@param kind string
---@param id string "namespace/name"
---@param raw table the object as JSON gave it
function store:put_object(kind, id, raw)
  local name, before = kind .. " " .. id, self:version(kind, id)
  local arrived = self.arrived:get(name)
  if arrived then before = arrived ~= GONE and arrived or nil end
  local reading = read_value(self, raw, 1)[1]
  if reading.version then
    self.arrived:put(name, before and is_same(before, reading.version) and before or reading.version)
  elseif before and #reading.problems > 0 then
    reading.is_kept = true
  end
  report(self, name, { reading })
end

--- An object is gone.
---@param kind string
---@param id string
function store:remove_object(kind, id)
  self.arrived:put(kind .. " " .. id, GONE)
  forget(self, kind .. " " .. id)
end

-- ---- changes ----

--- Takes over what counts for a key, and notes whether that is a change.
local function note(self, key, new)
  local kind, id = parts_of(key)
  local of_kind = self.kinds[kind]
  if not of_kind then
    of_kind = shelf.new()
    self.kinds[kind] = of_kind
  end
  local old = of_kind:get(id)
  if old == new then return end
  if old and self.replaced then self.replaced(kind, id, old) end
  of_kind:put(id, new)
  if self.olds[key] ~= nil then return end
  self.changed[#self.changed + 1], self.olds[key] = key, old or false
end

--- Is there something left that `take` did not come to, for an error in `visit`?
function store:has_changes() return #self.changed > 0 end

--- Calls visit(kind, id, old version, new version) for each object that is another since the last call.
---@param visit fun(kind: string, id: string, old: Version|nil, new: Version|nil)
function store:take(visit)
  -- Only now: between two documents of one change an object may be there twice, or not at all.
  for key in pairs(self.unsettled) do
    note(self, key, settle(self, key))
    local held = self.by_key:get(key)
    if type(held) == "table" and held.version then self.by_key:put(key, place_text(held)) end
  end
  for key in self.arrived:each() do
    local version = self.arrived:get(key)
    note(self, key, version ~= GONE and version or nil)
  end
  self.unsettled, self.arrived = {}, shelf.new()
  local changed, olds = self.changed, self.olds
  while #changed > 0 do
    local key = table.remove(changed)
    local old, kind, id = olds[key] or nil, parts_of(key)
    olds[key] = nil
    visit(kind, id, old, self:version(kind, id))
  end
  self.changed, self.olds = {}, {}
end

return store
