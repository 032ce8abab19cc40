--- What is wrong with an object, a file, a setting: one form for the log, `check`, and what comes later (Events, explain).
local findings = {}
findings.__index = findings

---@class Finding
---@field level "info"|"warn"|"error"|"deny"
---@field text string
---@field document integer|nil id of the document it is about
---@field line integer|nil line within that document, from 1
---@field file string|nil where there is no document
---@field key string|nil the object: "Ingress default/shop"
---@field field string|nil
---@field annotation string|nil
---@field setting string|nil
---@field is_quiet boolean|nil only for `check`, never logged
---@field is_said boolean|nil it was logged

local RANK = { deny = 1, error = 2, warn = 3, info = 4 }
local LOG_LEVEL = { deny = "error", error = "error", warn = "warn", info = "info" }

-- Lines in a row before the log is spared, and how many a second it gets then: `check` lists all.
local LOG_BURST, LOG_RATE = 100, 10

---@class FindingsOptions
---@field position fun(document: integer): string, integer, integer
---@field log fun(level: string, message: string, detail: string)
---@field clock fun(): number

---@class Findings
---@field notify fun(finding: Finding)|nil told of each new finding
---@field is_held boolean|nil nothing is said yet: what is missing may be on its way

---@param options FindingsOptions
function findings.new(options)
  return setmetatable({
    by_source = {}, position = options.position, write = options.log, clock = options.clock, allowance = LOG_BURST, counted_at = options.clock(), unsaid = 0,
  }, findings)
end

function findings:log(finding)
  local now = self.clock()
  self.allowance = math.min(LOG_BURST, self.allowance + (now - self.counted_at) * LOG_RATE)
  self.counted_at = now
  if self.allowance < 1 then
    self.unsaid = self.unsaid + 1
    return
  end
  self.allowance = self.allowance - 1
  if self.unsaid > 0 then self.write("warn", "findings not logged", ("%d; moongate check lists all"):format(self.unsaid)) end
  self.unsaid = 0
  self.write(LOG_LEVEL[finding.level], finding.level == "deny" and "denied" or "finding", self:format(finding))
end

--- One finding as one line of text, without its level.
---@param finding Finding
function findings:format(finding)
  local parts = {}
  local file, line = finding.file, finding.file and finding.line
  if finding.document then
    local path, _, first = self.position(finding.document)
    file, line = path, first and first + (finding.line or 1) - 1
  end
  if file then parts[#parts + 1] = line and ("%s:%d"):format(file, line) or file end
  if finding.key then parts[#parts + 1] = finding.key end
  local name = finding.field or finding.annotation or finding.setting
  if name and finding.text:sub(1, #name + 1) ~= name .. ":" then parts[#parts + 1] = name end
  parts[#parts + 1] = finding.text
  return table.concat(parts, ": ")
end

local function identity(finding)
  return table.concat({ finding.level, finding.key or finding.file or "", finding.field or finding.annotation or finding.setting or "", finding.text }, "\0")
end

local function say(self, finding)
  if finding.is_quiet or finding.is_said or self.is_held then return end
  finding.is_said = true
  self:log(finding)
  if self.notify then self.notify(finding) end
end

--- Says from now on what is found, and what is there.
function findings:release()
  self.is_held = nil
  self:each(function(finding) say(self, finding) end)
end

--- Replaces all findings of one source (a document, a host, a Service ...); new ones are logged.
---@param source string
---@param list Finding[]|nil
function findings:set(source, list)
  local before = self.by_source[source]
  if not list or #list == 0 then
    self.by_source[source] = nil
    return
  end
  local known = {}
  for _, finding in ipairs(before or {}) do known[identity(finding)] = finding end
  local seen, kept = {}, {}
  for _, finding in ipairs(list) do
    local id = identity(finding)
    if not seen[id] then
      seen[id] = true
      kept[#kept + 1] = finding
      finding.is_said = known[id] and known[id].is_said
      say(self, finding)
    end
  end
  self.by_source[source] = kept
end

--- Visits every finding that is not only for `check`.
---@param visit fun(finding: Finding)
function findings:each(visit)
  for _, list in pairs(self.by_source) do
    for _, finding in ipairs(list) do
      if not finding.is_quiet then visit(finding) end
    end
  end
end

--- All findings, by place; equal lines once. Returns lines and a count by level.
---@return { level: string, text: string }[] lines
---@return table<string, integer> counts
function findings:all()
  local lines, seen, counts = {}, {}, { deny = 0, error = 0, warn = 0, info = 0 }
  for _, list in pairs(self.by_source) do
    for _, finding in ipairs(list) do
      local text = self:format(finding)
      if not seen[text] then
        seen[text] = true
        counts[finding.level] = counts[finding.level] + 1
        local path, index, line = finding.file or "", 0, finding.line or 0
        if finding.document then path, index, line = self.position(finding.document) end
        lines[#lines + 1] = { level = finding.level, text = text, path = path or "", index = index or 0, line = line or 0 }
      end
    end
  end
  table.sort(lines, function(a, b)
    if a.path ~= b.path then return a.path < b.path end
    if a.index ~= b.index then return a.index < b.index end
    if RANK[a.level] ~= RANK[b.level] then return RANK[a.level] < RANK[b.level] end
    return a.text < b.text
  end)
  return lines, counts
end

return findings
