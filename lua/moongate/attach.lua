--- Attaches an owner's policies to hosts and routes: the driver inside an owner state.
--
-- The registry in C makes one driver per owner state and calls:
--   attach.new { fetch = function(kind, namespace, name) -> table of strings | nil, error }     kind: "secret" or "config_map"
--   driver:load(policy, file)      -> description | nil, error        `policy`: what the file returned; the same name replaces
--   driver:unload(name)
--   driver:attach_host(input)      -> { [policy name] = result }
--   driver:attach_route(input)     -> { [policy name] = result }
-- Inputs, results and descriptions are plain data (the `config` of a result is packed already), so that only bytes need to cross.
-- Safe in guest states: nothing here is reachable from a policy but the objects of objects.lua.
local core = require "moongate.core"
local debug = require "debug"
local conditions = require "moongate.conditions"
local objects = require "moongate.objects"
local schema = require "moongate.schema"

local find, format, gsub, lower, sub = string.find, string.format, string.gsub, string.lower, string.sub
local concat, insert, remove, sort = table.concat, table.insert, table.remove, table.sort

local attach = {}

local HOOKS = { "server_rewrite", "rewrite", "access", "balancer", "header_filter", "body_filter", "log" }
local HOOK = {}
for i = 1, #HOOKS do HOOK[HOOKS[i]] = true end
local FIELDS = {
  name = "string", summary = "string", annotations = "table", settings = "table", applies = "string", guard = "boolean",
  before = "names", after = "names", on_error = "string", attach_host = "function", attach = "function",
}
for _, hook in ipairs(HOOKS) do FIELDS[hook] = "function" end

------------------------------------------------------------------------------------------------------------ describing

local function sorted(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  return keys
end

local function fields_error(policy)
  for _, field in ipairs(sorted(policy)) do
    local wanted, value = FIELDS[field], policy[field]
    if not wanted then return "has the unknown field '" .. tostring(field) .. "'" end
    if wanted == "names" then
      if type(value) ~= "table" then return "has a '" .. field .. "' that is not a list of names" end
      for i = 1, #value do
        if type(value[i]) ~= "string" then return "has a '" .. field .. "' that is not a list of names" end
      end
    elseif type(value) ~= wanted then
      return "has a '" .. field .. "' that is not a " .. wanted
    end
  end
  if policy.applies and policy.applies ~= "always" then return "has an 'applies' that is not \"always\"" end
  if policy.on_error and policy.on_error ~= "deny" and policy.on_error ~= "skip" then
    return "has an 'on_error' that is neither \"deny\" nor \"skip\""
  end
  if policy.guard and policy.on_error == "skip" then return "is a guard and may not skip errors" end
  if policy.guard and not policy.access then return "is a guard and has no access hook" end
  if policy.server_rewrite and not policy.attach_host then return "has a server_rewrite hook and no attach_host" end
  for i = 2, #HOOKS do
    if policy[HOOKS[i]] and not policy.attach then return "has a " .. HOOKS[i] .. " hook and no attach" end
  end
end

local function specs_error(policy)
  for _, group in ipairs { "annotations", "settings" } do
    for _, name in ipairs(sorted(policy[group] or {})) do
      local problem = schema.check_spec(name, policy[group][name])
      if problem then return "has a wrong specification in '" .. group .. "': " .. problem end
      local on_invalid = policy[group][name].on_invalid
      if policy.guard and on_invalid and on_invalid ~= "deny" then
        return "is a guard, so that '" .. name .. "' cannot have on_invalid = \"" .. on_invalid .. "\""
      end
    end
  end
end

--- A deep copy of plain data, so that nothing of a policy's own tables leaves its state.
local function plain(value, depth)
  local kind = type(value)
  if kind == "string" or kind == "number" or kind == "boolean" then return value end
  if kind ~= "table" or depth > 8 then return tostring(value) end
  local copy = {}
  for key, item in pairs(value) do copy[key] = plain(item, depth + 1) end
  if value[1] ~= nil then core.array(copy) end
  return copy
end

local function describe(policy, file)
  local hooks = {}
  for _, hook in ipairs(HOOKS) do
    if policy[hook] then hooks[#hooks + 1] = hook end
  end
  return {
    name = policy.name, summary = policy.summary, file = file, applies = policy.applies, guard = policy.guard or false,
    before = core.array(plain(policy.before or {}, 1)), after = core.array(plain(policy.after or {}, 1)),
    on_error = policy.on_error or "deny",
    annotations = plain(policy.annotations or {}, 1), settings = plain(policy.settings or {}, 1),
    hooks = core.array(hooks), attach = policy.attach ~= nil, attach_host = policy.attach_host ~= nil,
  }
end

--- What the driver keeps of a policy: specifications with read defaults, and the names that make it apply.
local function prepare(policy)
  local entry = { name = policy.name, policy = policy, guard = policy.guard or false, annotations = {}, settings = {}, names = {} }
  for _, name in ipairs(sorted(policy.annotations or {})) do
    local spec = policy.annotations[name]
    local item = {
      name = name, spec = spec, default = schema.default(spec), aliases = schema.names(spec.alias), requires = schema.names(spec.requires),
      is_alternative = spec.scope == "alternative",
    }
    entry.has_alternatives = entry.has_alternatives or item.is_alternative
    entry.annotations[#entry.annotations + 1] = item
    entry.names[#entry.names + 1] = name
    for _, alias in ipairs(item.aliases) do entry.names[#entry.names + 1] = alias end
    if spec.setting then
      item.setting = { key = spec.setting, spec = spec, default = item.default }
      entry.settings[#entry.settings + 1] = item.setting
    end
  end
  entry.own_settings = {}
  for _, key in ipairs(sorted(policy.settings or {})) do
    local spec = policy.settings[key]
    local setting = { key = key, spec = spec, default = schema.default(spec) }
    entry.settings[#entry.settings + 1] = setting
    entry.own_settings[#entry.own_settings + 1] = setting
  end
  return entry
end

--------------------------------------------------------------------------------------------------------------- reading

local function equal(a, b)
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" then return false end
  for key, value in pairs(a) do
    if not equal(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

--- Adds a finding and returns it. `cause`, where it matters to who decides about the object: "value" (an annotation's text is no value), "failure" (the
--- policy's own code raised an error), "other" (said after the policy looked at another object).
local function note(findings, level, text, name, key, source)
  local finding = { level = level, text = text, annotation = name, setting = key, source = source }
  findings[#findings + 1] = finding
  return finding
end

--- A setting's value, its complaint if it has one, and whether it differs from the default. Read once for as long as its text stays.
local function read_setting(setting, settings)
  local raw = schema.clean(settings[setting.key])
  local cached = setting.cached
  if cached and cached.raw == raw then return cached end
  cached = { raw = raw, value = setting.default, differs = false, skipped = {} }
  if raw ~= nil then
    local value, complaint = schema.parse(setting.key, setting.spec, raw, cached)
    cached.complaint = complaint
    if not complaint then
      cached.value = value
      cached.differs = not equal(value, setting.default) and raw ~= setting.spec.default
    end
  end
  setting.cached = cached
  return cached
end

local function note_setting(entry, setting, read, findings)
  if read.complaint then note(findings, entry.guard and "deny" or "warn", read.complaint, nil, setting.key) end
  for i = 1, #read.skipped do note(findings, "warn", read.skipped[i], nil, setting.key) end
end

--- The text of an annotation on one object, and the name under which it was written.
local function own_raw(item, raws)
  local raw, name = schema.clean(raws[item.name]), item.name
  for i = 1, #item.aliases do
    if raw ~= nil then break end
    name = item.aliases[i]
    raw = schema.clean(raws[name])
  end
  return raw, name
end

local NONE = {} -- most annotations are not there, and this is asked for each of them on each route

local function host_raws_of(item, input)
  local known = input.shared and input.shared.raws[item]
  if known then return known end
  local found = NONE
  for _, source in ipairs(input.host.sources or NONE) do
    local raw, name = own_raw(item, source.annotations or NONE)
    if raw ~= nil then
      if found == NONE then found = {} end
      found[#found + 1] = { raw = raw, name = name, source = { namespace = source.namespace, name = source.name } }
    end
  end
  if input.shared then input.shared.raws[item] = found end
  return found
end

--- The texts of an annotation where its scope says they come from, each with the object that wrote it; the first good one counts.
local function raws_of(item, input)
  if item.is_alternative ~= (input.is_alternative or false) then return NONE end -- what is written on the other kind of Ingress is not its own
  local found = item.spec.scope == "host" and host_raws_of(item, input) or NONE
  if found ~= NONE then return found end
  local raw, name = own_raw(item, input.annotations or NONE)
  return raw and { { raw = raw, name = name, source = input.source } } or NONE
end

local function missing_requirement(entry, item, input)
  for _, name in ipairs(item.requires) do
    local found
    for _, other in ipairs(entry.annotations) do
      if other.name == name then found = raws_of(other, input)[1] end
    end
    if found == nil and schema.clean((input.annotations or {})[name]) == nil then return name end
  end
end

local function risk_complaint(item, one, settings)
  local level = lower(schema.clean(settings["annotations-risk-level"]) or "high")
  local risk = item.spec.risk or "low"
  if schema.RISKS[risk] > (schema.RISKS[level] or schema.RISKS.high) then
    return one.name .. ": " .. schema.show(one.raw) .. " has the risk " .. risk .. ", which annotations-risk-level does not allow"
  end
end

local function is_of_another(source, input)
  local own = input.route and input.route.source
  return source ~= nil and own ~= nil and (source.namespace ~= own.namespace or source.name ~= own.name)
end

--- One text as a value. Nil: the next one counts, or the default; nil and true: what is wrong is the end of it.
local function read_one(entry, item, one, input, result)
  local findings = result.findings
  local risky = risk_complaint(item, one, input.settings or {})
  if risky then -- its own object is refused; everyone else goes on without the value
    if is_of_another(one.source, input) then return nil, false end
    if not result.rejected then result.rejected, result.rejected_by = risky, one.source end
    note(findings, "error", risky, one.name, nil, one.source)
    return nil, false
  end
  local missing = missing_requirement(entry, item, input)
  if missing then
    local text = one.name .. ": " .. schema.show(one.raw) .. " has no effect without " .. missing
    note(findings, entry.guard and "deny" or "warn", text, one.name, nil, one.source)
    return nil, true
  end
  local context = { skipped = {} }
  local value, complaint = schema.parse(one.name, item.spec, one.raw, context)
  for i = 1, #context.skipped do note(findings, "warn", context.skipped[i], one.name, nil, one.source) end
  if not complaint then return value, true end
  local on_invalid = entry.guard and "deny" or item.spec.on_invalid or "default"
  if on_invalid == "reject" and not result.rejected then result.rejected, result.rejected_by = complaint, one.source end
  note(findings, on_invalid == "deny" and "deny" or on_invalid == "reject" and "error" or "warn", complaint, one.name, nil, one.source).cause = "value"
  return nil, on_invalid ~= "default"
end

--- All annotations of a policy as values. Complaints go to the result: findings, and `rejected` with the object that it is about. In attach_host only
-- about what is the host's: the rest is said where the routes of its object are.
local function read_annotations(entry, input, result)
  local values, aside = {}, { findings = {} }
  for _, item in ipairs(entry.annotations) do
    if item.is_alternative == (input.is_alternative or false) then
      local value = item.default
      if item.setting then
        local read = read_setting(item.setting, input.settings or {})
        note_setting(entry, item.setting, read, result.findings)
        value = read.value
      end
      local is_told = input.route or item.spec.scope == "host"
      for _, one in ipairs(raws_of(item, input)) do
        local own, is_end = read_one(entry, item, one, input, is_told and result or aside)
        if own ~= nil then value = own end
        if is_end then break end
      end
      values[item.name] = value
    end
  end
  return values
end

--- What the alternatives of a route say: the annotations that sit on them, as values. What sits on the route's own Ingress in vain is said there.
local function read_alternatives(entry, input, result)
  local list = {}
  for _, item in ipairs(entry.has_alternatives and entry.annotations or NONE) do
    local raw = item.is_alternative and own_raw(item, input.annotations or NONE)
    if raw then note(result.findings, "warn", item.name .. ": " .. schema.show(raw) .. " has no effect: it is for Ingresses with canary", item.name) end
  end
  for i, alternative in ipairs(input.route.alternatives or NONE) do
    list[i] = read_annotations(entry, { is_alternative = true, annotations = alternative.annotations, settings = input.settings,
      route = { source = alternative.source }, source = alternative.source }, result)
  end
  return list
end

local function read_settings(entry, input, result)
  local values = {}
  for _, setting in ipairs(entry.own_settings) do
    local read = read_setting(setting, input.settings or {})
    note_setting(entry, setting, read, result.findings)
    values[setting.key] = read.value
  end
  return values
end

--- Reads one source's annotations for host.sources: values only, complaints come from the routes of that source.
local function source_reader(entry)
  return function(raws)
    local values = {}
    for _, item in ipairs(entry.annotations) do
      local raw = own_raw(item, raws)
      if raw ~= nil then
        local value, complaint = schema.parse(item.name, item.spec, raw)
        if not complaint then values[item.name] = value end
      end
    end
    return values
  end
end

-------------------------------------------------------------------------------------------------------------- applying

local function carries(entry, annotations)
  if not annotations then return false end
  for i = 1, #entry.names do
    local raw = annotations[entry.names[i]]
    if raw ~= nil and schema.clean(raw) ~= nil then return true end
  end
  return false
end

local function settings_differ(entry, settings)
  for _, setting in ipairs(entry.settings) do
    -- An invalid setting must not be overlooked because nothing else calls the policy.
    local read = read_setting(setting, settings or {})
    if read.differs or read.complaint then return true end
  end
  return false
end

local function has_host_scope(entry)
  for _, item in ipairs(entry.annotations) do
    if item.spec.scope == "host" then return true end
  end
  return false
end

local function is_carried_by_host(entry, input)
  for _, source in ipairs(input.host.sources or {}) do
    if carries(entry, source.annotations) then return true end
  end
  return false
end

local function applies(entry, input, is_host)
  if entry.policy.applies == "always" or carries(entry, input.annotations) or settings_differ(entry, input.settings) then return true end
  if entry.has_alternatives and input.route and #(input.route.alternatives or NONE) > 0 then return true end
  if not is_host and not entry.has_host_scope then return false end
  local shared = input.shared
  if not shared then return is_carried_by_host(entry, input) end
  if shared.carried[entry] == nil then shared.carried[entry] = is_carried_by_host(entry, input) end
  return shared.carried[entry]
end

--- Errors of a policy say file and line; where they do not, the lines of its attach or attach_host.
local function error_text(entry, method, problem)
  local text = type(problem) == "string" and gsub(problem, "%s+$", "") or method .. " raised a " .. type(problem)
  local place = debug.getinfo(entry.policy[method], "S")
  if sub(text, 1, #place.short_src + 1) == place.short_src .. ":" then return text end
  local last = place.lastlinedefined > place.linedefined and "-" .. place.lastlinedefined or ""
  return format("%s:%d%s: %s", place.short_src, place.linedefined, last, text)
end

--- The hooks that attach chose: name to true, or to the condition as it crosses; or nil and an error.
local function chosen_hooks(entry, method, choice)
  if type(choice) ~= "table" then return nil, method .. " returned a " .. type(choice) .. " after its config, not its hooks" end
  local hooks = {}
  for name, condition in pairs(choice) do
    if type(name) == "number" then name, condition = condition, true end
    local is_here = HOOK[name] and entry.policy[name] and (name == "server_rewrite") == (method == "attach_host")
    if not is_here then return nil, method .. " chose a hook that the policy does not have there: " .. tostring(name) end
    hooks[name] = condition or nil
    if condition and condition ~= true then
      local packed, complaint = conditions.pack(condition, name, entry.guard)
      if not packed then return nil, format("the condition that %s gave for %s %s", method, name, complaint) end
      hooks[name] = packed
    end
  end
  return hooks
end

--- What attach and attach_host are called with; nil where the policy is not asked.
local function read_input(entry, input, result)
  local annotations = read_annotations(entry, input, result)
  local settings = read_settings(entry, input, result)
  for _, finding in ipairs(result.findings) do
    if finding.level == "deny" then return nil end
  end
  local alternatives = input.route and read_alternatives(entry, input, result)
  if result.rejected and input.route then return nil end
  return annotations, settings, alternatives
end

--- What attach or attach_host gave, into `result`; or an error.
local function keep(entry, method, result, config, hooks)
  if config == nil or config == false then return nil end
  local packed, complaint = core.pack.encode(config)
  if not packed then return method .. " returned a config that cannot be stored: " .. complaint end
  if hooks ~= nil then
    result.hooks, complaint = chosen_hooks(entry, method, hooks)
    if not result.hooks then return complaint end
  end
  result.config = packed
end

--- Runs attach or attach_host into `result`: packs the config, or reports the error. In guests pcall renews the budget, so that each policy has its own.
local function run(entry, method, object, input, result)
  local is_good, annotations, settings, alternatives = pcall(read_input, entry, input, result)
  if is_good and not annotations then return end
  local problem
  if is_good then
    local config, hooks
    objects.tell_alternatives(object, alternatives)
    is_good, config, hooks = pcall(entry.policy[method], object, annotations, settings)
    if is_good then problem = keep(entry, method, result, config, hooks) else problem = config end
    is_good = is_good and not problem
  else
    problem = "its annotations cannot be read: " .. tostring(annotations)
  end
  objects.close(object)
  if not is_good then
    problem = error_text(entry, method, problem)
    result.raised = problem
    note(result.findings, entry.guard and "deny" or "error", problem).cause = result.has_looked and "other" or "failure"
    result.config, result.hooks, result.set = nil, nil, {}
    for _, list in ipairs { "edits", "aliases", "redirect_hosts" } do
      if result[list] then result[list] = core.array {} end
    end
  end
end

---------------------------------------------------------------------------------------------------------------- driver

---@class moongate.attach.driver
local driver = {}
driver.__index = driver
driver.__metatable = false

--- `fetch(kind, namespace, name)` gives the data of a Secret or ConfigMap.
---@param options { fetch: function|nil }
---@return moongate.attach.driver
function attach.new(options)
  local self = setmetatable({ entries = {}, owner = {} }, driver)
  local cross = { key = "allow-cross-namespace-resources", spec = { type = "boolean" }, default = false }
  self.owner.fetch = options and options.fetch
  self.is_guest = options and options.is_guest
  self.owner.route_settings = core.route_settings()
  self.owner.may_cross_namespaces = function(settings) return read_setting(cross, settings or {}).value end
  return self
end

function driver:index_of(name)
  for i, entry in ipairs(self.entries) do
    if entry.name == name then return i end
  end
end

--- Takes a policy; one of the same name is replaced in its place.
---@param policy table what the file returned
---@param file string for messages
---@return table|nil description
---@return string|nil error
function driver:load(policy, file)
  if type(policy) ~= "table" then return nil, file .. ": returns a " .. type(policy) .. ", not a policy" end
  if type(policy.name) ~= "string" or not find(policy.name, "^[a-z0-9][a-z0-9-]*$") then
    return nil, file .. ": has no name (lower case, digits, dashes)"
  end
  local problem = fields_error(policy) or specs_error(policy)
  if not problem and self.is_guest and policy.body_filter then problem = "has a body_filter hook, which takes --trust-policies" end
  if problem then return nil, file .. ": " .. problem end
  local entry = prepare(policy)
  entry.has_host_scope = has_host_scope(entry)
  local index = self:index_of(policy.name)
  if index then self.entries[index] = entry else insert(self.entries, entry) end
  return describe(policy, file)
end

function driver:unload(name)
  local index = self:index_of(name)
  if index then remove(self.entries, index) end
end

local function chosen(input)
  if not input.only then return nil end
  local names = {}
  for _, name in ipairs(input.only) do names[name] = true end
  return names
end

--- Also keeps what the host's routes share, so that it need not come with each of them.
---@param input table
---@return table<string, table> results by policy
function driver:attach_host(input)
  self.shared = { host = input.host, settings = input.settings, carried = {}, raws = {} }
  local results, only = {}, chosen(input)
  for _, entry in ipairs(self.entries) do
    if entry.policy.attach_host and (not only or only[entry.name]) and applies(entry, input, true) then
      local result = { aliases = core.array {}, redirect_hosts = core.array {}, set = {}, findings = core.array {} }
      run(entry, "attach_host", objects.host(input.host, result, source_reader(entry), true), input, result)
      results[entry.name] = result
    end
  end
  return results
end

---@param input table with `host_name` in place of `host` and `settings`: those of the last attach_host, which was this host's
---@return table<string, table> results by policy
function driver:attach_route(input)
  if input.host_name then
    local shared = self.shared
    if not shared or shared.host.name ~= input.host_name then error("attach_route: the host before was not " .. input.host_name, 0) end
    input.host, input.settings, input.shared = shared.host, shared.settings, shared
  end
  local results, only = {}, chosen(input)
  for _, entry in ipairs(self.entries) do
    if entry.policy.attach and (not only or only[entry.name]) and applies(entry, input, false) then
      local result = {
        set = {}, edits = core.array {}, findings = core.array {},
        upstreams = core.array {}, services = core.array {}, secrets = core.array {}, config_maps = core.array {},
      }
      run(entry, "attach", objects.route(input, result, source_reader(entry), self.owner), input, result)
      results[entry.name] = result
    end
  end
  return results
end

--- All findings of results as lines, deny first: for specs and tools.
---@param results table<string, table>
---@return string
function attach.text(results)
  local lines = {}
  for _, name in ipairs(sorted(results)) do
    for _, finding in ipairs(results[name].findings) do lines[#lines + 1] = finding.level .. " " .. finding.text end
  end
  return concat(lines, "\n")
end

return attach
