--- The manifests of directories and files: which documents there are, and what of them changed. Hands the documents to the store; decides nothing.
local native = require "moongate.kube"

local files = {}
files.__index = files

---@class Files
---@field documents userdata of native.documents
---@field roots table<string, true> the paths that were asked for
---@field unread table<string, true> files that are there and could not be read: no more is heard of them if that was our own shortage

---@param options { documents: userdata, store: table, findings: table }
function files.new(options)
  return setmetatable({ documents = options.documents, store = options.store, findings = options.findings, roots = {}, unread = {} }, files)
end

local function is_manifest(path)
  return path:find("%.ya?ml$") ~= nil or path:find("%.json$") ~= nil
end

local function take_changes(self, changes)
  for _, item in ipairs(changes) do
    if not item.text then self.store:remove(item.id) end
  end
  for _, item in ipairs(changes) do
    if item.text then self.store:put(item.id, item.text) end
  end
end

local function take_file(self, path)
  local changes, problem = self.documents:update(path)
  self.unread[path] = nil
  if changes then
    self.findings:set("file " .. path, nil)
    take_changes(self, changes)
  elseif native.list(path) then
    self.unread[path] = true
    self.findings:set("file " .. path, { { level = "error", file = path, text = "cannot be read: " .. problem } })
  else
    self.findings:set("file " .. path, nil)
    take_changes(self, self.documents:forget(path))
  end
end

--- Takes in one changed path of the manifests: a file, a directory, or what is gone.
---@param path string
---@param is_asked_for boolean|nil a file is taken whatever its name
function files:take(path, is_asked_for)
  local list, problem = native.list(path)
  if self.roots[path] then -- a root that is gone is a mishap, not the wish to serve nothing
    self.findings:set("root " .. path, not list and { { level = "error", file = path, text = problem .. " (what was there stays)" } } or nil)
    if not list then return end
  end
  if list == "file" then
    if is_asked_for or is_manifest(path) then take_file(self, path) end
    return
  end
  local below = {}
  for _, file in ipairs(type(list) == "table" and list or {}) do
    if is_manifest(file) then below[file] = true end
  end
  local prefix = path:sub(-1) == "/" and path or path .. "/"
  for _, known in ipairs(self.documents:paths()) do
    if known == path or known:sub(1, #prefix) == prefix then below[known] = true end
  end
  local sorted = {}
  for file in pairs(below) do sorted[#sorted + 1] = file end
  table.sort(sorted)
  for _, file in ipairs(sorted) do take_file(self, file) end
end

--- Tries again what could not be read.
function files:retry()
  local paths = {}
  for path in pairs(self.unread) do paths[#paths + 1] = path end
  table.sort(paths)
  for _, path in ipairs(paths) do take_file(self, path) end
end

--- Reads a root for the first time.
---@param path string
---@param may_be_file boolean|nil
---@return true|nil ok
---@return string|nil message
function files:start(path, may_be_file)
  local list, unreadable = native.list(path)
  if not list then return nil, ("%s: %s"):format(path, unreadable) end
  if list == "file" and not may_be_file then return nil, ("%s: is not a directory"):format(path) end
  path = path:gsub("(.)/+$", "%1")
  self.roots[path] = true
  self:take(path, true)
  return true
end

return files
