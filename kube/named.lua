--- Secrets and ConfigMaps. A cluster has many, and only those that something names are kept. A watch of the whole kind tells TLS Secrets apart from the
--- start; any other object is followed by its name, from the moment that something names it. Where that would be more than BY_NAME watches of a kind, one
--- watch of the whole kind takes their place. Each object has one follower that counts: events of two watches have no order among each other.
local named = {}
named.__index = named

local BY_NAME = 64 -- followers by name of one kind at once; beyond it the others wait for their turn

-- What one watch of the whole kind leaves out: TLS Secrets have theirs, and releases of Helm are large and named by nobody.
local OTHERS = { Secret = "type!=kubernetes.io/tls,type!=helm.sh/release.v1" }

---@class NamedOptions
---@field follow fun(kind: string, more: table): table starts a reflector
---@field unfollow fun(made: table) ends one
---@field put fun(kind: string, id: string, raw: table)
---@field remove fun(kind: string, id: string)
---@field namespace string the only one that is watched; "": all are
---@field log fun(level: string, message: string, detail: string)

---@param options NamedOptions
function named.new(options)
  return setmetatable({
    options = options,
    wanted = {},                             -- "Kind namespace/name" -> true: something names it
    held = {},                               -- of them, those that were put
    by_name = {},                            -- key -> its reflector
    count = { Secret = 0, ConfigMap = 0 },   -- of those
    waiting = { Secret = {}, ConfigMap = {} },
    whole = { Secret = {}, ConfigMap = {} }, -- reflectors of whole kinds
    others = {},                             -- kind -> the one of them that took the place of those by name; false: it may not be read
  }, named)
end

local function split(key) return key:match("^(%S+) (([^/]*)/.*)$") end

local function put(self, kind, id, raw)
  self.held[kind .. " " .. id] = true
  self.options.put(kind, id, raw)
end

local function drop(self, kind, id)
  self.held[kind .. " " .. id] = nil
  self.options.remove(kind, id)
end

--- Does a watch of the whole kind know the object?
local function is_known(self, kind, id)
  for _, made in ipairs(self.whole[kind]) do
    if made:uid(id) then return true end
  end
  return false
end

--- Is it among those that a watch of all others brings, or would bring?
local function is_in_scope(self, namespace)
  return self.options.namespace == "" or self.options.namespace == namespace
end

local look

local function unfollow(self, key)
  local kind = split(key)
  local made = self.by_name[key]
  if not made then return end
  self.options.unfollow(made)
  self.by_name[key], self.count[kind] = nil, self.count[kind] - 1
  local next_one = next(self.waiting[kind])
  if not next_one then return end
  self.waiting[kind][next_one] = nil
  local _, id, namespace = split(next_one)
  look(self, kind, id, namespace)
end

local function follow_by_name(self, kind, id, namespace)
  local key = kind .. " " .. id
  self.count[kind] = self.count[kind] + 1
  self.by_name[key] = self.options.follow(kind, {
    namespace = namespace, field_selector = "metadata.name=" .. id:sub(#namespace + 2),
    put = function(_, raw)
      if not (self.held[key] and is_known(self, kind, id)) then put(self, kind, id, raw) end -- a newer one may be there than the one that was listed for us
    end,
    remove = function()
      if not is_known(self, kind, id) then drop(self, kind, id) end
    end,
    on_synced = function() -- its bytes are there: a watch of the whole kind brings its changes
      local others = is_in_scope(self, namespace) and self.others[kind]
      if is_known(self, kind, id) or (others and others.is_synced) then unfollow(self, key) end
    end,
  })
end

local function follow_whole(self, kind, more)
  function more.put(id, raw)
    local key = kind .. " " .. id
    unfollow(self, key)
    if self.wanted[key] then put(self, kind, id, raw) end
  end
  function more.remove(id)
    local _, _, namespace = split(kind .. " " .. id)
    if not self.wanted[kind .. " " .. id] or is_known(self, kind, id) then return end -- it was made again, as one of another type
    drop(self, kind, id)
    look(self, kind, id, namespace)
  end
  local made = self.options.follow(kind, more)
  table.insert(self.whole[kind], made)
  return made
end

--- The watch of all others has its list.
local function take_over(self, kind, made)
  if made.is_forbidden then
    self.options.log("error", ("there are more %ss to follow than one by one (%d)"):format(kind, BY_NAME), "and no right to read all: some count as absent")
    self.others[kind] = false
  end
  for key in pairs(self.wanted) do
    local of, id, namespace = split(key)
    if of == kind and not made.is_forbidden and is_in_scope(self, namespace) then
      unfollow(self, key)
      if self.held[key] and not is_known(self, kind, id) then drop(self, kind, id) end
    end
    if of == kind then look(self, kind, id, namespace) end
  end
end

local function follow_others(self, kind)
  self.options.log("notice", ("following all %ss"):format(kind), ("more than %d are named one by one"):format(BY_NAME))
  self.others[kind] = follow_whole(self, kind, { field_selector = OTHERS[kind], on_synced = function(made) take_over(self, kind, made) end })
end

--- Sees to it that the bytes of an object come, if there are any.
function look(self, kind, id, namespace)
  local key, others = kind .. " " .. id, is_in_scope(self, namespace) and self.others[kind]
  if not self.wanted[key] or self.held[key] or self.by_name[key] then return end
  if others and not (others.is_synced and is_known(self, kind, id)) then return end -- they come with its list, or when the object does
  if self.count[kind] < BY_NAME then
    follow_by_name(self, kind, id, namespace)
  elseif is_in_scope(self, namespace) and self.others[kind] == nil then
    follow_others(self, kind)
  else
    self.waiting[kind][key] = true
  end
end

local function look_for_all(self, kind)
  for key in pairs(self.wanted) do
    local of, id, namespace = split(key)
    if of == kind then look(self, kind, id, namespace) end
  end
end

--- Follows TLS Secrets; their list tells which others are to be looked for.
function named:start()
  self.tls = follow_whole(self, "Secret", {})
end

--- Is the list of TLS Secrets still to come? Once it is there the rest is looked for.
function named:is_pending()
  if not (self.tls and self.tls.is_synced) then return true end
  if not self.has_looked then
    self.has_looked = true
    look_for_all(self, "Secret")
  end
  return false
end

--- Something names this Secret or ConfigMap: from now on its bytes are kept. One that is not here yet comes as an ordinary change.
---@param kind "Secret"|"ConfigMap"
---@param id string "namespace/name"
function named:want(kind, id)
  local key = kind .. " " .. id
  local namespace = id:match("^([a-z0-9-]+)/[a-z0-9.-]+$") -- no object has another name: whoever wrote it will be told that there is none
  if self.wanted[key] or not namespace then return end
  self.wanted[key] = true
  if kind == "ConfigMap" or self.has_looked then look(self, kind, id, namespace) end
end

--- Lets go of what nothing names any more.
---@param uses fun(kind: string, id: string): boolean
function named:sweep(uses)
  for key in pairs(self.wanted) do
    local kind, id = split(key)
    if not uses(kind, id) then
      self.wanted[key], self.waiting[kind][key] = nil, nil
      unfollow(self, key)
      drop(self, kind, id)
    end
  end
end

--- The uid of an object, for Events.
---@return string|nil
function named:uid(kind, id)
  for _, made in ipairs(self.whole[kind] or {}) do
    if made:uid(id) then return made:uid(id) end
  end
  local made = self.by_name[kind .. " " .. id]
  return made and made:uid(id)
end

---@param visit fun(made: table)
function named:each(visit)
  for _, made in pairs(self.by_name) do visit(made) end
  for _, list in pairs(self.whole) do
    for _, made in ipairs(list) do visit(made) end
  end
end

return named
