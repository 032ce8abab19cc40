--- The objects of all documents, by kind and name. Knows which document holds which object, keeps the last good version of an object whose
--- edit is broken, and refuses the second of two objects of one name. What changed is asked for with `take`.
local native = require "moongate.kube"
local json = require "cjson.safe"
local objects = require "kube.objects"

local store = {}
store.__index = store

json.decode_max_depth(64)

---@class Entry one object of one document
---@field key string|nil
---@field object Object|nil
---@field document integer|string
---@field item integer
---@field line integer
---@field problems Problem[]
---@field is_kept boolean|nil the edit is broken; the object is of an earlier version

---@param options { position: fun(document): string|nil, integer|nil, integer|nil, findings: table, flags: table<string, string> }
function store.new(options)
  return setmetatable({
    position = options.position, findings = options.findings, flags = options.flags,
    entries = {},     -- document id -> Entry[]
    by_key = {},      -- object key -> Entry[] (usually one)
    current = {},     -- object key -> the Entry that counts
    kinds = {},       -- kind -> { [ns/name] = Object }
    dirty = {},       -- object key -> the object before, or false
    unsettled = {},   -- object key -> true: its entries changed since the last take
    skipped = {},     -- kind -> count of documents of unknown kinds
    strict = {},      -- document id -> what is wrong with it under strict-validate-path-type
  }, store)
end

--- An object that counts.
---@return Object|nil
function store:get(kind, id)
  local of_kind = self.kinds[kind]
  return of_kind and of_kind[id]
end

--- All objects of a kind: id -> object. Not to be changed.
function store:all(kind)
  self.kinds[kind] = self.kinds[kind] or {}
  return self.kinds[kind]
end

--- Document id and line of an object, for findings.
function store:where(key)
  local entry = self.current[key]
  if entry then return entry.document, entry.line end
end

local function is_before(self, a, b)
  if a.document == b.document then return a.item < b.item end
  local path_a, index_a = self.position(a.document)
  local path_b, index_b = self.position(b.document)
  if path_a ~= path_b then return (path_a or "") < (path_b or "") end
  return (index_a or 0) < (index_b or 0)
end

local function place(self, entry)
  local path, index, line = self.position(entry.document)
  return ("%s:%d (document %d)"):format(path or "?", (line or 1) + entry.line - 1, index or 0)
end

--- Chooses the entry that counts for a key, and notes the change.
local function settle(self, key)
  local list, chosen = self.by_key[key], nil
  for _, entry in ipairs(list or {}) do
    if entry.object and (not chosen or is_before(self, entry, chosen)) then chosen = entry end
  end
  for _, entry in ipairs(list or {}) do
    local refused = entry ~= chosen and entry.object and {
      level = "error", document = entry.document, line = entry.line, key = key,
      text = ("is there twice: %s counts, %s is refused"):format(place(self, chosen), place(self, entry)),
    }
    self.findings:set(("duplicate %s %d"):format(entry.document, entry.item), refused and { refused })
  end
  local before = self.current[key]
  local old, new = before and before.object, chosen and chosen.object
  self.current[key] = chosen
  if old == new then return end
  local object = new or old
  self.kinds[object.kind] = self.kinds[object.kind] or {}
  self.kinds[object.kind][object.id] = new
  if self.dirty[key] == nil then self.dirty[key] = old or false end
end

local function drop_entry(self, entry, touched)
  self.findings:set(("duplicate %s %d"):format(entry.document, entry.item), nil)
  if not entry.key then return end
  local list = self.by_key[entry.key]
  for i = #list, 1, -1 do
    if list[i] == entry then table.remove(list, i) end
  end
  if #list == 0 then self.by_key[entry.key] = nil end
  touched[entry.key] = true
end

local function add_entry(self, entry, touched)
  if not entry.key then return end
  local list = self.by_key[entry.key]
  if not list then
    list = {}
    self.by_key[entry.key] = list
  end
  list[#list + 1] = entry
  touched[entry.key] = true
end

local function parse(text)
  local start = text:match("^%-%-%-[ \t]*\r?\n()") or 1
  if text:find("^%s*[{%[]", start) then
    local value = json.decode(text:sub(start))
    if value ~= nil then return value, 1 end
  end
  return native.yaml(text)
end

--- The entries of a document's value: the object itself, or the items of a List.
local function read_value(self, id, raw, line)
  local items, is_list = objects.items(raw)
  local entries = {}
  for i, item in ipairs(items) do
    local object, problems, key, is_skipped = objects.read(item, self.flags)
    if is_skipped then
      local kind = tostring(item.kind)
      self.skipped[kind] = (self.skipped[kind] or 0) + 1
    end
    if is_list then
      for _, problem in ipairs(problems) do problem.field = ("items[%d]%s"):format(i - 1, problem.field and "." .. problem.field or "") end
    end
    entries[i] = { key = object and object.key or key, object = object, document = id, item = i, line = line, problems = problems }
  end
  return entries
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

local function report(self, id, entries, failure)
  local list, strict = { failure }, {}
  for _, entry in ipairs(entries) do
    for _, problem in ipairs(entry.problems) do
      local text = problem.text
      if problem.level == "error" and entry.is_kept then text = text .. " (the version before stays)" end
      local finding = { level = problem.level, document = id, line = entry.line, key = entry.key, field = problem.field, text = text,
        is_quiet = problem.level == "info" }
      if problem.level == "strict" then strict[#strict + 1] = finding else list[#list + 1] = finding end
    end
  end
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
    local stays = #(self.entries[id] or {}) > 0 and " (the version before stays)" or ""
    report(self, id, {}, { level = "error", document = id, line = failed_line, text = line .. stays })
  elseif raw == nil or type(raw) == "userdata" then
    self:take_in(id, {})
  else
    self:take_in(id, read_value(self, id, raw, line or 1))
  end
end

--- Takes in one object of a cluster, new or changed.
---@param id string its name as a document: any text that stays with it
---@param raw table the object as JSON gave it
function store:put_object(id, raw)
  self:take_in(id, read_value(self, id, raw, 1))
end

---@private
function store:take_in(id, entries)
  local before = self.entries[id] or {}
  local old_by_key, touched = {}, {}
  for _, entry in ipairs(before) do
    if entry.key then old_by_key[entry.key] = entry end
  end
  for _, entry in ipairs(entries) do
    local old = entry.key and old_by_key[entry.key]
    if not entry.key and #before == 1 and #entries == 1 and #entry.problems > 0 then old = before[1] end -- its name is what is broken
    if old and old.object then
      if not entry.object and #entry.problems > 0 then
        entry.key, entry.object, entry.is_kept = old.key, old.object, true
      elseif entry.object and native.encode(old.object) == native.encode(entry.object) then
        entry.object = old.object
      end
    end
  end
  for _, entry in ipairs(before) do drop_entry(self, entry, touched) end
  for _, entry in ipairs(entries) do add_entry(self, entry, touched) end
  self.entries[id] = entries
  report(self, id, entries)
  for key in pairs(touched) do self.unsettled[key] = true end
end

--- A document is gone.
---@param id integer|string
function store:remove(id)
  local touched = {}
  for _, entry in ipairs(self.entries[id] or {}) do drop_entry(self, entry, touched) end
  self.entries[id] = nil
  self.findings:set("document " .. id, nil)
  self.findings:set("strict " .. id, nil)
  self.strict[id] = nil
  for key in pairs(touched) do self.unsettled[key] = true end
end

--- What changed since the last call: a list of { key, old, new }.
---@return { key: string, kind: string, old: Object|nil, new: Object|nil }[]
function store:take()
  -- Only now: between two documents of one change an object may be there twice, or not at all.
  for key in pairs(self.unsettled) do settle(self, key) end
  self.unsettled = {}
  local list = {}
  for key, old in pairs(self.dirty) do
    local entry = self.current[key]
    local new = entry and entry.object
    if (old or nil) ~= new then
      list[#list + 1] = { key = key, kind = (new or old).kind, id = (new or old).id, old = old or nil, new = new }
    end
  end
  self.dirty = {}
  return list
end

return store
