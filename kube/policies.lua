--- The policy files: the built-in folder and the mounted directories. Each file stands alone: one that does not load keeps its version before,
-- and is reported. There are two states of each owner: the live one attaches for object changes while the other takes in changed files and
-- attaches anew; then they change places.
local native = require "moongate.kube"

local policies = {}
policies.__index = policies

--- A folder is a directory of the disk, or holds texts that came from elsewhere: path -> source.
local function read(folder, path)
  if folder.texts then return folder.texts[path], "is gone" end
  return native.read(path)
end

--- The files at or below a path.
local function list(folder, path)
  if not folder.texts then return native.list(path) end
  local below = {}
  for known in pairs(folder.texts) do
    if known == path then return "file" end
    if known:sub(1, #path + 1) == path .. "/" then below[#below + 1] = known end
  end
  return below
end

---@class PoliciesOptions
---@field owners table moongate.owners
---@field findings table
---@field home string
---@field directories string[] mounted ones, later ones win
---@field flags table<string, string>
---@field fetch function
---@field memory integer

---@param options PoliciesOptions
function policies.new(options)
  local self = setmetatable({
    owners_module = options.owners, findings = options.findings, fetch = options.fetch, lua_directory = options.lua_directory,
    memory = options.memory and options.memory > 0 and options.memory or nil,
    order_file = options.home .. "/policies/order.lua",
    folders = {}, broken = {}, is_broken = false,
  }, policies)
  self.folders[1] = { path = options.home .. "/policies", name = "builtin", is_trusted = true, files = {} }
  for _, directory in ipairs(options.directories) do
    self.folders[#self.folders + 1] = {
      path = (directory:gsub("(.)/+$", "%1")), name = directory, is_trusted = options.flags["trust-policies"] == "true", is_mounted = true, files = {},
    }
  end
  return self
end

--- Policies come from labelled ConfigMaps of a namespace, too. To be called before the start.
---@param namespace string
---@param is_trusted boolean
function policies:follow_config_maps(namespace, is_trusted)
  self.config_maps = { path = "ConfigMap " .. namespace, name = "configmaps", is_trusted = is_trusted, is_mounted = true, files = {}, texts = {} }
  self.folders[#self.folders + 1] = self.config_maps
end

--- A labelled ConfigMap came, changed or went. Returns the path under which its policies are, for policies:change.
---@param name string
---@param data table<string, string>|nil file name -> source
---@return string path
function policies:put_config_map(name, data)
  local folder, path = self.config_maps, self.config_maps.path .. "/" .. name
  for known in pairs(folder.texts) do
    if known:sub(1, #path + 1) == path .. "/" then folder.texts[known] = nil end
  end
  for file, source in pairs(data or {}) do folder.texts[path .. "/" .. file] = source end
  return path
end

local function is_policy(path, folder)
  if not path:find("%.lua$") then return false end
  local name = path:sub(#folder.path + 2)
  if folder.is_mounted then return name ~= "order.lua" and not name:find("_spec%.lua$") end
  return not name:find("/") and name ~= "order.lua"
end

local function open_state(self, folder)
  local owner = self.owners_module.open { name = folder.name, trusted = folder.is_trusted, memory = self.memory, fetch = self.fetch,
    lua_directory = self.lua_directory }
  return { owner = owner, loaded = {} } -- loaded: path -> source
end

--- Brings one state of a folder to the folder's accepted files.
local function bring_up(folder, state)
  for path, file in pairs(folder.files) do
    if file.source and state.loaded[path] ~= file.source then
      local description = state.owner:load(path, file.source)
      if description then
        state.loaded[path] = file.source
        state.names = state.names or {}
        if state.names[path] and state.names[path] ~= description.name then state.owner:unload(state.names[path]) end
        state.names[path] = description.name
      end
    end
  end
  for path in pairs(state.loaded) do
    if not folder.files[path] or not folder.files[path].source then
      state.owner:unload(state.names[path])
      state.loaded[path], state.names[path] = nil, nil
    end
  end
end

local function report(self, folder, path, problem)
  local key = "policy " .. path
  if not problem then
    self.findings:set(key, nil)
    self.broken[path] = nil
    return
  end
  self.broken[path] = problem
  local file = folder.files[path]
  local text = problem
  local line = problem:match("%.lua:(%d+):")
  if line then text = problem:gsub("^.-%.lua:%d+:%s*", "") end
  if text:sub(1, #path + 2) == path .. ": " then text = text:sub(#path + 3) end
  if file and file.source then text = text .. " (the version before stays)" end
  -- The object, where it is one, is told by an Event.
  self.findings:set(key, { { level = "error", file = path, line = tonumber(line), text = text, key = folder.texts and path:match("^(ConfigMap .+)/[^/]*$") } })
end

--- The name that a file would have: underscores become dashes.
local function name_of_file(path)
  return (path:match("([^/]+)%.lua$") or ""):gsub("_", "-")
end

--- Reads one file and tries it in the folder's spare state. True if something changed.
local function take_file(self, folder, state, path)
  local source, unreadable = read(folder, path)
  local file = folder.files[path]
  if not source then
    if not file then return false end
    folder.files[path] = nil
    report(self, folder, path, nil)
    if not folder.texts and native.list(path) then report(self, folder, path, unreadable) end
    return true
  end
  if file and file.tried == source then return false end
  file = file or {}
  folder.files[path] = file
  file.tried = source
  local description, problem = state.owner:load(path, source)
  if not description then
    report(self, folder, path, problem)
    return file.source == nil
  end
  for other, known in pairs(folder.files) do
    if other ~= path and known.description and known.description.name == description.name then
      report(self, folder, path, ("%s: has the name %q, which %s has already"):format(path, description.name, other))
      state.owner:load(other, known.source)
      return false
    end
  end
  state.names = state.names or {}
  if state.names[path] and state.names[path] ~= description.name then state.owner:unload(state.names[path]) end
  state.names[path], state.loaded[path] = description.name, source
  if file.source then file.before = file.before or { source = file.source, description = file.description } end
  file.source, file.description = source, description
  report(self, folder, path, nil)
  return true
end

local function read_order(self)
  local source = native.read(self.order_file)
  local chunk = source and loadstring(source, "@" .. self.order_file)
  local ok, order = pcall(chunk or function() return {} end)
  return ok and type(order) == "table" and order or {}
end

--- The built-in order, then the mounted ones, each where `before` and `after` allow. Returns the order, and path -> what is wrong with a placement.
local function arrange(self, active)
  local order, refused, index = {}, {}, {}
  local function place(policy, at)
    table.insert(order, at or #order + 1, policy)
    for i, other in ipairs(order) do index[other.name] = i end
  end
  local builtin = {}
  for name in pairs(active) do
    if self.folders[1].names[name] then builtin[name] = true end
  end
  for _, name in ipairs(read_order(self)) do
    if builtin[name] and not index[name] then place(active[name]) end
  end
  local rest = {}
  for name in pairs(active) do
    if not index[name] then rest[#rest + 1] = name end
  end
  table.sort(rest)
  for _, name in ipairs(rest) do
    if builtin[name] then place(active[name]) end
  end
  -- Mounted ones: those that name only what is placed go first; what is left over is a cycle.
  local waiting = {}
  for _, name in ipairs(rest) do
    if not builtin[name] then waiting[#waiting + 1] = active[name] end
  end
  local function names_of(policy)
    local names = {}
    for _, field in ipairs { "before", "after" } do
      for _, name in ipairs(policy.description[field] or {}) do names[#names + 1] = name end
    end
    return names
  end
  local function try(policy)
    local low, high = 1, #order + 1
    for _, name in ipairs(policy.description.after or {}) do low = math.max(low, index[name] + 1) end
    for _, name in ipairs(policy.description.before or {}) do high = math.min(high, index[name]) end
    if low > high then return false end
    place(policy, high)
    return true
  end
  local progress = true
  while progress and #waiting > 0 do
    progress = false
    for i = #waiting, 1, -1 do
      local policy, is_known, is_placed = waiting[i], true, true
      local unknown
      for _, name in ipairs(names_of(policy)) do
        if not active[name] then is_known, unknown = false, unknown or name end
        if not index[name] then is_placed = false end
      end
      if not is_known then
        refused[policy.file] = ("before or after names %q, and there is no such policy"):format(unknown)
        table.remove(waiting, i)
        active[policy.name] = nil
        progress = true
      elseif is_placed then
        table.remove(waiting, i)
        progress = true
        if not try(policy) then
          refused[policy.file] = "before and after contradict the order of the others"
          active[policy.name] = nil
        end
      end
    end
  end
  for _, policy in ipairs(waiting) do refused[policy.file] = "before and after form a cycle" end
  return order, refused
end

--- Which policies run, in which order, from which owner.
local function compose(self)
  local active, denied, denied_of = {}, {}, {}
  self.folders[1].names = {}
  for folder_index, folder in ipairs(self.folders) do
    for path, file in pairs(folder.files) do
      local description = file.description
      if description then
        local hooks = {}
        for _, hook in ipairs(description.hooks or {}) do hooks[hook] = true end
        if folder_index == 1 then folder.names[description.name] = true end
        active[description.name] = {
          name = description.name, description = description, hooks = hooks, folder = folder_index, file = path, source = file.source,
            is_trusted = folder.is_trusted,
        }
      end
    end
  end
  for folder_index, folder in ipairs(self.folders) do
    for path, file in pairs(folder.files) do
      local name = name_of_file(path)
      if folder_index > 1 and not file.description and self.folders[1].names[name] then
        denied[name] = ("policy %s does not load"):format(name)
      end
    end
  end
  for name in pairs(denied) do
    if active[name] and active[name].folder == 1 then active[name] = nil end
  end
  local order, refused = arrange(self, active)
  for path, text in pairs(refused) do self.findings:set("policy order " .. path, { { level = "error", file = path, text = text } }) end
  for path in pairs(self.refused or {}) do
    if not refused[path] then self.findings:set("policy order " .. path, nil) end
  end
  self.refused = refused
  local names = {}
  for name in pairs(denied) do names[#names + 1] = name end
  if #names > 0 then denied_of[1] = native.array(names) end
  return order, denied, denied_of
end

local function declare(set, description)
  local declared, settings = set.declared, set.declared_settings
  for name, spec in pairs(description.annotations or {}) do
    declared[name] = description.name
    if type(spec) == "table" then
      if spec.setting then settings[spec.setting] = true end
      local alias = type(spec.alias) == "string" and { spec.alias } or spec.alias or {}
      for _, other in ipairs(alias) do declared[other], set.old_names[other] = description.name, name end
    end
  end
  for key in pairs(description.settings or {}) do settings[key] = true end
end

--- The set as attaching.lua and the seam want it, over the given states (one a folder).
local function make_set(self, states)
  local order, denied, denied_of = compose(self)
  local set = { owners = {}, order = order, denied = denied, denied_of = denied_of, declared = {}, declared_settings = {}, old_names = {},
    states = states }
  local body = native.array {}
  for i, folder in ipairs(self.folders) do
    set.owners[i] = { owner = states[i].owner, active = native.array {}, name = folder.name }
  end
  for i, policy in ipairs(order) do
    local entry = set.owners[policy.folder]
    entry.active[#entry.active + 1] = policy.name
    declare(set, policy.description)
    body[i] = { name = policy.name, owner = entry.name, trusted = policy.is_trusted, file = policy.file, source = policy.source }
  end
  for i, folder in ipairs(self.folders) do
    local loaded = 0
    for _, file in pairs(folder.files) do loaded = loaded + (file.description and 1 or 0) end
    set.owners[i].is_partial = loaded > #set.owners[i].active
  end
  set.body = { policies = body }
  set.key = native.encode(set.body)
  return set
end

local function scan(folder)
  local files, problem = list(folder, folder.path)
  if type(files) ~= "table" then return nil, problem or "is not a directory" end
  table.sort(files)
  return files
end

--- Loads everything. A mounted directory that cannot be read is an error of the start.
---@return table|nil set
---@return string|nil message
function policies:start()
  self.live = {}
  for i, folder in ipairs(self.folders) do
    self.live[i] = open_state(self, folder)
    local files, problem = scan(folder)
    if not files then return nil, ("%s: %s"):format(folder.path, problem) end
    for _, path in ipairs(files) do
      if is_policy(path, folder) then take_file(self, folder, self.live[i], path) end
    end
  end
  self.is_broken = next(self.broken) ~= nil
  self.set = make_set(self, self.live)
  return self.set
end

local function folder_of(self, path)
  for i = #self.folders, 1, -1 do
    local folder = self.folders[i]
    if path == folder.path or path:sub(1, #folder.path + 1) == folder.path .. "/" then return folder, i end
  end
end

--- Does a changed path belong to a policy directory?
function policies:owns(path)
  return folder_of(self, path) ~= nil
end

--- A set of the files as they are now, in the spare states, and the names of the policies that are others than in the live set.
local function renew(self)
  local states = {}
  for i, folder in ipairs(self.folders) do
    if self.spare[i] then
      bring_up(folder, self.spare[i])
      states[i] = self.spare[i]
    else
      states[i] = self.live[i]
    end
  end
  local set = make_set(self, states)
  local changed = {}
  local before = {}
  for i, policy in ipairs(self.set.order) do before[policy.name] = { policy.source, policy.folder, i } end
  for _, policy in ipairs(set.order) do
    local old = before[policy.name]
    if not old or old[1] ~= policy.source or old[2] ~= policy.folder then changed[policy.name] = true end
    before[policy.name] = nil
  end
  for name in pairs(before) do changed[name] = true end
  for name in pairs(set.denied) do changed[name] = true end
  for name in pairs(self.set.denied) do changed[name] = true end
  return set, changed
end

--- Takes in changed paths. Returns a new set if anything is to be attached anew, and the names of the policies that changed.
---@param paths string[]
---@return table|nil set
---@return table<string, true>|nil changed names
function policies:change(paths)
  self.spare = self.spare or {}
  local is_changed = false
  for _, path in ipairs(paths) do
    local folder, i = folder_of(self, path)
    if folder then
      self.spare[i] = self.spare[i] or open_state(self, folder)
      bring_up(folder, self.spare[i])
      local files = {}
      local found = list(folder, path)
      if type(found) == "table" then
        for _, below in ipairs(found) do files[below] = true end
      else
        files[path] = true
      end
      for known in pairs(folder.files) do
        if known:sub(1, #path + 1) == path .. "/" then files[known] = true end
      end
      local sorted = {}
      for file in pairs(files) do sorted[#sorted + 1] = file end
      table.sort(sorted)
      for _, file in ipairs(sorted) do
        if is_policy(file, folder) and take_file(self, folder, self.spare[i], file) then is_changed = true end
      end
      if path == self.order_file then is_changed = true end
    end
  end
  self.is_broken = next(self.broken) ~= nil
  if is_changed then return renew(self) end
end

--- Files whose new version does not attach go back to the one that is live.
---@param raised table<string, string> policy -> what it raised
---@return boolean is_back whether one did
---@return table|nil set as of policies:change, if it is another than the live one
---@return table<string, true>|nil changed
function policies:take_back(raised)
  local is_back = false
  for _, folder in ipairs(self.folders) do
    for path, file in pairs(folder.files) do
      local text, before = file.description and raised[file.description.name], file.before
      if text and before and before.description.name == file.description.name then
        file.source, file.description, file.before = before.source, before.description, nil
        report(self, folder, path, text)
        is_back = true
      end
    end
  end
  self.is_broken = next(self.broken) ~= nil
  if not is_back then return false end
  local set, changed = renew(self)
  if set.key == self.set.key then return true end
  return true, set, changed
end

--- The new set is published: its states are the live ones now.
function policies:publish(set)
  for _, folder in ipairs(self.folders) do
    for _, file in pairs(folder.files) do file.before = nil end
  end
  for i in ipairs(self.folders) do
    if set.states[i] ~= self.live[i] then self.live[i], self.spare[i] = set.states[i], self.live[i] end
  end
  self.set = set
end

return policies
