--- The sync side: takes in changed paths, keeps the model true, and makes the messages of docs/seam.md. One change costs what it touches.
local native = require "moongate.kube"
local core = require "moongate.core"
local admission = require "kube.admission"
local annotations = require "kube.annotations"
local attaching = require "kube.attaching"
local canaries = require "kube.canaries"
local certificates = require "kube.certificates"
local check = require "kube.check"
local classes = require "kube.classes"
local files = require "kube.files"
local findings = require "kube.findings"
local gauges = require "kube.gauges"
local guard_settings = require "kube.guard_settings"
local large_host = require "kube.large_host"
local model = require "kube.model"
local policies = require "kube.policies"
local policy_change = require "kube.policy_change"
local scopes = require "kube.scopes"
local settings = require "kube.settings"
local shelf = require "kube.shelf"
local store = require "kube.store"
local versions = require "kube.versions"
local world = require "kube.world"

local sync = {}
sync.__index = sync

local add = world.add
local PART = 256 -- changes that wait here before they are handed over as a part of the message
local MAX_AT_ONCE = 256 -- hosts built in one turn after the first sync; more are sliced

---@class SyncOptions
---@field home string
---@field policies string[] mounted directories
---@field flags table<string, string>
---@field emit fun(message: string, taken: number, is_part: boolean) taken: since when what it says was known here, in monotonic seconds; 0: since before
--- the start. After a part comes the rest of the message.
---@field gauge fun(family: string, key: string, labels: string[]|nil, value: number|nil)|nil
---@field show_gauges fun(family: string, is_shown: boolean)|nil
---@field owners table|nil moongate.owners
---@field memory integer|nil of a guest state
---@field is_check boolean|nil
---@field lua_directory string|nil specs: where lua/ is

--- Beside the options: `cluster status lease events` where it follows one (kube/following.lua), `announce(ingress)`: told of each Ingress that counts.

---@param options SyncOptions
function sync.new(options)
  local self = setmetatable({ options = options, flags = options.flags, emit = options.emit, is_check = options.is_check }, sync)
  local documents = native.documents()
  local function position(id) -- an object of a cluster has a name and no place
    if type(id) == "number" then return documents:position(id) end
  end
  self.findings = findings.new {
    position = position,
    log = options.is_check and function() end or native.log, clock = native.clock,
  }
  self.store = store.new {
    position = position, findings = self.findings, flags = self.flags,
    replaced = function(kind, id, old)
      if kind ~= "Ingress" then return end
      self.placed:pin(id, old)
      self.good:pin(id, old)
    end,
  }
  self.files = files.new { documents = documents, store = self.store, findings = self.findings }
  self.policies = policies.new {
    owners = options.owners or require "moongate.owners", findings = self.findings, home = options.home, directories = options.policies, flags = self.flags,
    memory = options.memory, lua_directory = options.lua_directory, fetch = function(kind, namespace, ref) return self:fetch(kind, namespace, ref) end,
  }
  self.certificates = certificates.new { core = core, get = function(id) return self:object("Secret", id) end }
  self.gauges = gauges.new { gauge = options.gauge, show_gauges = options.show_gauges, flags = self.flags }
  self.lacks = {}          -- upstream name -> "no-service" or "no-endpoint"
  self.world = world.new()
  self.prefixes = annotations.prefixes(self.flags)
  self.scopes = scopes.new(function(ingress) return self:short(ingress) end)
  self.hosts = shelf.new() -- host -> what was built, see sync:host
  self.sent = {}           -- kind -> shelf: key -> hash of the encoded body that the other side has
  self.placed = versions.new(self.store) -- the version of each Ingress that counts
  self.rejected = {}       -- Ingress id -> { version, text }
  self.good = versions.new(self.store) -- the last one that every policy accepted
  self.certificate_users = {} -- Secret id -> { [holder] = true }
  self.dirty = { hosts = {}, upstreams = {}, certificates = {}, names = {}, orphans = {} }
  self.queue = { head = 1, tail = 0, has = {} } -- hosts to be built in slices
  self.raw_settings, self.fields, self.own = {}, {}, {}
  self.setting_findings = {}
  self.message = {}
  local own_ports = {}
  for port in (self.flags["own-ports"] or ""):gmatch("%d+") do own_ports[tonumber(port)] = true end
  self.find_class = function(name) return self.store:get("IngressClass", "/" .. name) end
  self.https_port = tonumber((self.flags["own-ports"] or ""):match("^%d+,(%d+)"))
  self.view = {
    flags = self.flags, own_ports = own_ports, address = native.address, is_own = native.is_own, array = native.array,
    service = function(id) return self.store:get("Service", id) end,
    endpoints = function(id) return self.store:get("Endpoints", id) end,
    slices = function(id)
      local list = {}
      for slice in world.each(self.world.slices:get(id)) do list[#list + 1] = self.store:get("EndpointSlice", slice) end
      table.sort(list, function(a, b) return a.id < b.id end)
      return list
    end,
    zone = function() return self.zone and self.zone.name end,
  }
  return self
end

-- ---- what policies and hosts ask for ----

--- A Secret or ConfigMap that something names: a cluster keeps only those.
function sync:object(kind, id)
  if self.cluster then self.cluster:want(kind, id) end
  return self.store:get(kind, id)
end

--- Does anything still name it?
function sync:uses(kind, id)
  local key = (kind == "Secret" and "secret " or "config_map ") .. id
  if self.world.users[key] or (self.pass and self.pass.users[key]) then return true end
  if kind == "Secret" then
    return self.certificate_users[id] ~= nil or id == self.flags["default-ssl-certificate"]
  end
  return id == self.flags.configmap or (self.setting_maps and self.setting_maps[id] == true)
end

--- The data of a Secret or ConfigMap, for route:secret and route:config_map; the host that is being built is built again when it changes.
function sync:fetch(kind, namespace, ref)
  local id = ref:find("/", 1, true) and ref or namespace .. "/" .. ref
  if self.reviewing then return self.reviewing:fetch(kind, id) end
  if self.users then self.users[kind .. " " .. id] = true end
  local object = self:object(kind == "secret" and "Secret" or "ConfigMap", id)
  if not object then return nil, "does not exist" end
  return object.data
end

function sync:short(ingress)
  if not ingress.short then
    local problems
    ingress.short, problems = annotations.short(ingress.annotations, self.prefixes)
    if self.store:version("Ingress", ingress.id) == ingress.version then self:report("annotations " .. ingress.id, problems, ingress.key) end
  end
  return ingress.short
end

--- Sets findings, with the place of the object that each is about.
function sync:report(source, list, key)
  for _, finding in ipairs(list or {}) do
    finding.key = finding.key or key
    if finding.key and not finding.document then finding.document, finding.line = self.store:where(finding.key) end
  end
  self.findings:set(source, list)
end

-- ---- messages ----

local function change(op, kind, key, body)
  return native.encode { op = op, kind = kind, key = key, body = body }
end

function sync:send(kind, key, packed)
  local sent, hash = self.sent[kind], packed and native.hash(packed)
  if not sent then
    sent = shelf.new()
    self.sent[kind] = sent
  end
  if sent:get(key) == hash then return end
  sent:put(key, hash)
  self.message[#self.message + 1] = packed and change("upsert", kind, key, native.raw(packed)) or change("delete", kind, key)
  if #self.message >= PART then self:hand_over(true) end
end

---@param is_part boolean there is more to come of this message
function sync:hand_over(is_part)
  local message = self.message
  self.message, self.has_part = {}, is_part
  if not self.is_check then self.emit(native.join(message), self.is_ready and self.taken_at or 0, is_part) end
end

-- ---- Ingresses ----

--- The version of an Ingress that counts: nil if it is not ours.
function sync:accepted(ingress)
  if not ingress then return nil end
  local source = "ingress " .. ingress.id
  local is_ours, reason = classes.accepts(ingress, self.flags, self.find_class, self.cluster)
  if is_ours then is_ours, reason = classes.is_watched(ingress, self.flags, self.cluster) end
  if is_ours then
    local is_forbidden, why = classes.is_forbidden_catch_all(ingress, self.flags)
    is_ours, reason = not is_forbidden, why
  end
  if not is_ours then
    self:report(source, { { level = "info", text = "is ignored: " .. reason } }, ingress.key)
    return nil
  end
  local name, word = annotations.blocked(ingress.annotations, self.prefixes, self.own["annotation-value-word-blocklist"])
  if name then
    local text = ("%s: holds %q, which annotation-value-word-blocklist forbids: the Ingress is refused"):format(name, word)
    self:report(source, { { level = "error", annotation = name, text = text } }, ingress.key)
    return nil
  end
  self:report(source, nil)
  local rejected = self.rejected[ingress.id]
  if rejected and rejected.version == ingress.version then
    return self.good:open(ingress.id)
  end
  return ingress
end

--- Our zone is known.
function sync:touch_upstreams()
  for name in self.world.upstreams:each() do self.dirty.upstreams[name] = true end
end

--- The values that all users of an upstream share are others now.
function sync:touch_sharers(upstream)
  large_host.touch(self)
  for holder in world.each(self.world.upstreams:get(upstream)) do
    if holder ~= world.SETTINGS then self.dirty.hosts[holder] = true end
  end
end

--- Lists an Ingress under its hosts, in place of its version before.
function sync:place_ingress(id, ingress)
  local known, version = self.placed:get(id), ingress and ingress.version
  if known == version then return end
  local before = known and self.store.open(known)
  self.placed:put(id, version)
  self.dirty.orphans[id] = true
  if ingress and self.announce then self.announce(ingress) end
  self.scopes:place(id, canaries.main(self, before), canaries.main(self, ingress))
  for host in pairs(before and model.hosts_of(before) or {}) do
    world.strike(canaries.index(self, before), host, id)
    self.dirty.hosts[host] = true
  end
  for host in pairs(ingress and model.hosts_of(ingress) or {}) do
    world.enlist(canaries.index(self, ingress), host, id)
    self.dirty.hosts[host] = true
  end
end

function sync:check_ingress(id)
  local ingress = self.store:get("Ingress", id)
  if not ingress then
    self.good:put(id, nil)
    self.rejected[id] = nil
    self:report("ingress " .. id, nil)
    self:report("annotations " .. id, nil)
    self:report("rejected " .. id, nil)
  end
  self:place_ingress(id, self:accepted(ingress))
end

--- A policy refuses an Ingress: its last accepted version takes its place.
function sync:reject(ingress, text)
  if self.store:version("Ingress", ingress.id) ~= ingress.version then return end
  self.rejected[ingress.id] = { version = ingress.version, text = text }
  local stays = self.good:has(ingress.id) and " (the version before stays)" or ""
  self:report("rejected " .. ingress.id, { { level = "error", text = text .. ": the Ingress is refused" .. stays } }, ingress.key)
  self:check_ingress(ingress.id)
end

--- Settings or policies are others: what they refused may be good now.
function sync:judge_again()
  local ids = {}
  for id in pairs(self.rejected) do ids[#ids + 1] = id end
  for _, id in ipairs(ids) do
    self.rejected[id] = nil
    self:report("rejected " .. id, nil)
    self:check_ingress(id)
  end
end

-- ---- taking in object changes ----

local apply = {}

function apply.Ingress(self, id)
  if self.rejected[id] then
    self.rejected[id] = nil
    self:report("rejected " .. id, nil)
  end
  self:check_ingress(id)
end

function apply.IngressClass(self)
  for id in self.store:each("Ingress") do self:check_ingress(id) end
end

function sync:touch_service(id)
  for name in world.each(self.world.by_service:get(id)) do self.dirty.upstreams[name] = true end
  if id == self.flags["default-backend-service"] or id == "default/kubernetes" then self.dirty.settings = true end
end

function apply.Service(self, id) self:touch_service(id) end
function apply.Endpoints(self, id) self:touch_service(id) end

function apply.EndpointSlice(self, id, old, new)
  local before, after = old and self.store.open(old).service, new and self.store.open(new).service
  local namespace = id:match("^[^/]*/")
  if before then world.strike(self.world.slices, namespace .. before, id) end
  if after then world.enlist(self.world.slices, namespace .. after, id) end
  for _, service in pairs { before or after, after } do self:touch_service(namespace .. service) end
end

function sync:touch_users(key)
  for host in pairs(self.world.users[key] or {}) do self.dirty.hosts[host] = true end
  policy_change.touch(self, key)
  large_host.touch(self, function(one) return one.users ~= nil and one.users[key] end)
end

function apply.Secret(self, id)
  self.dirty.certificates[id] = true
  self:touch_users("secret " .. id)
  if id == self.flags["default-ssl-certificate"] then self.dirty.settings = true end
end

function apply.ConfigMap(self, id)
  self:touch_users("config_map " .. id)
  if id == self.flags.configmap or (self.setting_maps and self.setting_maps[id]) then self.dirty.settings = true end
end

-- ---- settings ----

function sync:header_edits(key, kind, edits, list)
  local ref = self.own[key]
  if not ref or ref == "" then return end
  local namespace = (self.flags.configmap or ""):match("^([^/]+)/") or "default"
  local id = ref:find("/", 1, true) and ref or namespace .. "/" .. ref
  self.setting_maps[id] = true
  local map = self:object("ConfigMap", id)
  if not map then
    list[#list + 1] = { level = "warn", setting = key, text = ("%s: ConfigMap %s does not exist"):format(key, id) }
    return
  end
  local names = {}
  for name in pairs(map.data) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local template, problem = core.value("template", map.data[name])
    if not name:find("^[A-Za-z0-9_-]+$") then
      list[#list + 1] = { level = "warn", setting = key, key = map.key, text = ("%q is not a header's name: left out"):format(name) }
    elseif not template then
      list[#list + 1] = { level = "warn", setting = key, key = map.key, text = ("%s: %s: left out"):format(name, tostring(problem)) }
    else
      edits[#edits + 1] = { kind = kind, name = name, value = map.data[name], when = "always" }
    end
  end
end

function sync:default_backend(fields, list)
  local id = self.flags["default-backend-service"]
  local used = {}
  if id and id ~= "" then
    local service = self.store:get("Service", id)
    local port = service and service.ports[1] and service.ports[1].port
    if port then
      local name = model.upstream_key(service.namespace, service.name, port)
      used[name] = { name = name, namespace = service.namespace, service = service.name, port = port }
      fields.default_upstream = name
    else
      list[#list + 1] = { level = "warn", text = ("--default-backend-service: Service %s %s"):format(id, service and "has no port" or "does not exist") }
    end
  end
  self.default_used = self.world:set_upstreams(world.SETTINGS, self.default_used, used, function(name) self.dirty.upstreams[name] = true end)
end

function sync:default_certificate(fields, list)
  local id = self.flags["default-ssl-certificate"]
  if not id or id == "" then return end
  local secret, problem = self.certificates:usable(id)
  if problem then list[#list + 1] = { level = "warn", text = ("--default-ssl-certificate: Secret %s %s"):format(id, problem) } end
  if secret then fields.default_certificate = id end
  self.gauges:certificate("_", secret and id, self.certificates:facts(id))
  add(self.certificate_users, id, "settings")
  self.dirty.certificates[id] = true
end

local function same(a, b)
  for key, value in pairs(a) do
    if b[key] ~= value then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

function sync:build_settings()
  self.dirty.settings = nil
  self.setting_maps = {}
  local id = self.flags.configmap
  local map = id and id ~= "" and self:object("ConfigMap", id)
  self.builder = nil -- policies look at another host for a moment
  local raw, kept = guard_settings.choose(self.policies.set, self.is_ready and self.raw_settings or {}, map and map.data or {})
  local fields, own, list = settings.read(raw, self.policies.set.declared_settings)
  for _, finding in ipairs(kept) do list[#list + 1] = finding end
  local before = self.own
  self.own = own
  if id and id ~= "" and not map then list[#list + 1] = { level = "warn", text = ("--configmap: ConfigMap %s does not exist"):format(id) } end
  local edits = native.array {}
  self:header_edits("proxy-set-headers", "set_request", edits, list)
  self:header_edits("add-headers", "set_response", edits, list)
  for _, finding in ipairs(list) do finding.key = map and map.key end
  self:default_backend(fields, list)
  self:default_certificate(fields, list)
  fields.edits, fields.api_server = edits, model.api_server(self.view)
  self:report("settings", list)
  self.scopes:allow_risk(raw["annotations-risk-level"])
  self.store:judge_paths(own["strict-validate-path-type"] == false)
  self:send("settings", "settings", native.encode(fields))
  if raw["annotation-value-word-blocklist"] ~= self.raw_settings["annotation-value-word-blocklist"] then
    for ingress in self.store:each("Ingress") do self:check_ingress(ingress) end
  end
  if self.is_ready and (not same(raw, self.raw_settings) or before["service-upstream"] ~= own["service-upstream"]) then
    self:judge_again()
    large_host.touch(self)
    for host in self.hosts:each() do self:enqueue(host) end
  end
  self.raw_settings = raw
end

--- A setting that asks for a guard which does not exist yet.
function sync:missing_guard(set)
  for _, key in ipairs(annotations.guarding_settings) do
    local value = self.raw_settings[key]
    if value and value:find("%S") and not set.declared_settings[key] then return ("the setting %s: no policy for it yet"):format(key) end
  end
end

-- ---- hosts ----

function sync:ingresses_of(host)
  local list = {}
  for id in world.each(self.world.ingresses:get(host)) do list[#list + 1] = self.placed:open(id) end
  table.sort(list, model.is_older)
  return list
end

--- Builds a host under a policy set; nil if nothing makes it up. `rest`: as attaching.host wants it, where the host is built in slices.
function sync:build(host, set, rest)
  self.builder = rest -- whose host the policies attach to now
  local ingresses, alternatives = self:ingresses_of(host), canaries.of(self, host)
  canaries.note_lonely(self, host, #ingresses == 0 and alternatives or nil)
  if #ingresses == 0 then return nil end
  local has_tls, certificate, problem, looked = model.certificate(host, ingresses, function(id, name) return self.certificates:covers(id, name) end)
  local above = model.wildcard_above(host)
  local covering = not has_tls and above and self:host(above)
  if covering then has_tls, certificate = covering.has_tls == true, covering.certificate end
  self.users = {}
  for _, id in ipairs(looked) do self.users["secret " .. id] = true end
  local denied = self:missing_guard(set)
  local made = attaching.host {
    name = host, ingresses = ingresses, canaries = alternatives, short = function(ingress) return self:short(ingress) end,
    has_tls = has_tls, certificate = certificate, settings = self.raw_settings, set = set, denied = denied, service_upstream = self.own["service-upstream"],
    scopes = self.scopes, https_port = self.https_port,
    has_stood = function(ingress) return self.good:get(ingress.id) == ingress.version end, rest = rest,
  }
  if rest then large_host.encode(made.body.routes, rest) end
  made.users, self.users = self.users, nil
  made.has_tls, made.certificate = has_tls, certificate
  if problem then table.insert(made.findings, 1, { level = "warn", key = problem.key, text = problem.text }) end
  if denied then table.insert(made.findings, 1, { level = "deny", key = ingresses[1].key, text = denied .. ": its routes answer 503" }) end
  made.ingresses = canaries.join(ingresses, alternatives)
  made.packed = native.encode(made.body)
  made.body = nil
  return made
end

--- A wildcard's certificate serves hosts one label below that have no tls section of their own: what it is has changed.
function sync:touch_below(wildcard)
  large_host.touch(self, function(one) return model.wildcard_above(one.host) == wildcard end)
  for host in self.hosts:each() do
    if model.wildcard_above(host) == wildcard then self.dirty.hosts[host] = true end
  end
end

local function or_nil(set)
  return next(set) ~= nil and set or nil
end

---@class BuiltHost
---@field upstreams Names
---@field has_tls true|nil
---@field certificate string|nil
---@field users table<string, true>|nil
---@field names table<string, string>|nil

--- What was built of a host. Nearly all have one upstream and nothing else: that is kept as its name.
---@return BuiltHost|nil
function sync:host(host)
  local built = self.hosts:get(host)
  return type(built) == "string" and { upstreams = built } or built
end

function sync:note_host(host, built)
  local is_plain = built and type(built.upstreams) == "string" and not (built.has_tls or built.certificate or built.users or built.names or built.raised)
  self.hosts:put(host, is_plain and built.upstreams or built)
end

--- Takes over what was built: dependencies, findings, and the message.
function sync:commit(host, made)
  local known = self:host(host)
  local before, after = known or {}, made or {}
  local upstreams = self.world:set_upstreams(host, before.upstreams, after.upstreams or {}, function(name) self.dirty.upstreams[name] = true end)
  world.relist(self.world.users, before.users, after.users or {}, host)
  local names = {}
  for _, name in ipairs(after.aliases or {}) do names[name] = "alias" end
  for _, name in ipairs(after.redirect_hosts or {}) do names[name] = names[name] or "redirect" end
  names[host] = nil
  world.relist(self.world.names, before.names, names, host, function(name) self.dirty.names[name] = true end)
  self:note_host(host, made and {
    upstreams = upstreams, users = or_nil(made.users), names = or_nil(names), has_tls = made.has_tls or nil, certificate = made.certificate,
    raised = made.raised,
  } or nil)
  if host:sub(1, 2) == "*." and (before.has_tls ~= (after.has_tls or nil) or before.certificate ~= after.certificate) then self:touch_below(host) end
  if before.certificate ~= after.certificate then
    if before.certificate then world.remove(self.certificate_users, before.certificate, host) end
    if after.certificate then add(self.certificate_users, after.certificate, host) end
    self.dirty.certificates[before.certificate or after.certificate] = true
    if after.certificate then self.dirty.certificates[after.certificate] = true end
  end
  if host ~= "_" then self.gauges:certificate(host, after.certificate, after.certificate and self.certificates:facts(after.certificate)) end
  if (known == nil) ~= (made == nil) or self.world.names[host] then self.dirty.names[host] = true end
  self:report("host " .. host, after.findings)
  self:note_settings(after.setting_findings)
  self:send("host", host, after.packed)
end

--- What policies say about settings is the same for every host: once is enough.
function sync:note_settings(list)
  for _, finding in ipairs(list or {}) do
    if not self.setting_findings[finding.text] then
      self.setting_findings[finding.text] = finding
      self.dirty.setting_findings = true
    end
  end
end

--- Builds and commits under the live set.
function sync:rebuild(host)
  large_host.forget(self, host)
  self:take_over(host, self:build(host, self.policies.set))
end

--- Commits what was built under the live set. Rejections make other hosts dirty.
function sync:take_over(host, made)
  local is_refused = false
  for ingress, text in pairs(made and made.rejected or {}) do
    if self.placed:get(ingress.id) == ingress.version and self.good:get(ingress.id) ~= ingress.version then
      is_refused = true
      self:reject(ingress, text)
    end
  end
  if is_refused then return end -- it is dirty again, without the refused ones
  for _, ingress in ipairs(made and made.ingresses or {}) do
    local is_current = self.placed:get(ingress.id) == ingress.version -- not so where the host was built in slices, perhaps
    if is_current and not self.rejected[ingress.id] then self.good:put(ingress.id, ingress.version) end
  end
  self:commit(host, made)
  if self.pass then
    large_host.forget(self, host)
    self.pass.built[host] = nil
    self.pass.todo[host] = made and (self.pass.all or self.pass.affects(made)) or nil
  end
end

function sync:enqueue(host)
  local queue = self.queue
  if queue.has[host] then return end
  queue.tail = queue.tail + 1
  queue[queue.tail], queue.has[host] = host, true
end

-- ---- the rest of a message ----

--- The first host, in byte order, whose routes lead to an upstream: where to look for who asks.
function sync:first_host(name)
  local first
  for holder in world.each(self.world.upstreams:get(name)) do
    if holder ~= world.SETTINGS and (not first or holder < first) then first = holder end
  end
  return first
end

--- What an upstream lacks is another thing now: so may what its Ingresses are.
function sync:note_lack(name, lack)
  if self.lacks[name] == lack then return end
  self.lacks[name] = lack
  for holder in world.each(self.world.upstreams:get(name)) do
    canaries.touch_orphans(self, holder)
  end
end

--- Whether an Ingress leads nowhere, for its gauge.
function sync:review_orphan(id)
  local ingress, lacking = self.placed:open(id), {}
  local function look(backend)
    if backend and backend.service then lacking[self.lacks[model.upstream_key(ingress.namespace, backend.service, backend.port)] or ""] = true end
  end
  if ingress then
    look(ingress.default_backend)
    for _, rule in ipairs(ingress.rules) do
      for _, path in ipairs(rule.paths) do look(path) end
    end
  end
  self.gauges:orphan(id, lacking["no-service"] == true, lacking["no-endpoint"] == true)
end

function sync:build_upstream(name)
  local definition = self.world:definition(name)
  if not definition then
    self:note_lack(name, nil)
    self.findings:set("upstream " .. name, nil)
    self:send("upstream", name, nil)
    return
  end
  local body, list = model.upstream(self.view, definition)
  local has_service = self.store:has("Service", definition.namespace .. "/" .. definition.service)
  self:note_lack(name, not has_service and "no-service" or body.missing and "no-endpoint" or nil)
  local host = body.missing and #list > 0 and self:first_host(name)
  for _, finding in ipairs(list) do finding.text = host and ("%s (host %s uses it)"):format(finding.text, host) or finding.text end
  self:report("upstream " .. name, list)
  self:send("upstream", name, native.encode(body))
end

function sync:build_certificate(id)
  local secret, problem
  if self.certificate_users[id] then secret, problem = self.certificates:usable(id) end
  self:report("certificate " .. id, secret and problem and { { level = "warn", key = "Secret " .. id, text = problem .. " (the certificate before stays)" } })
  self:send("certificate", id, secret and native.encode { certificate = secret.data["tls.crt"], key = secret.data["tls.key"] })
end

--- A name that hosts claim as alias or redirect: a host of its own beats it, then the first owner by name.
function sync:build_name(name)
  if self.hosts:has(name) then return end -- the host itself was sent
  local owner, kind
  for host, how in pairs(self.world.names[name] or {}) do
    if not owner or host < owner then owner, kind = host, how end
  end
  self:send("host", name, owner and native.encode { owner = owner, redirect = kind == "redirect" })
end

--- Takes each key out of a set, in order, and visits it: an error of ours in one leaves the others for the next turn. Returns how many there were.
local function each_of(set, visit)
  local list = {}
  for key in pairs(set) do list[#list + 1] = key end
  table.sort(list)
  for i, key in ipairs(list) do
    set[key] = nil
    visit(key, i)
  end
  return #list
end

function sync:finish_message()
  each_of(self.dirty.names, function(name) self:build_name(name) end)
  each_of(self.dirty.upstreams, function(name) self:build_upstream(name) end)
  each_of(self.dirty.certificates, function(id) self:build_certificate(id) end)
  each_of(self.dirty.orphans, function(id) self:review_orphan(id) end)
  if self.dirty.setting_findings then
    self.dirty.setting_findings = nil
    local list = {}
    for _, finding in pairs(self.setting_findings) do list[#list + 1] = finding end
    table.sort(list, function(a, b) return a.text < b.text end)
    self:report("policy settings", list, self.flags.configmap and self.flags.configmap ~= "" and "ConfigMap " .. self.flags.configmap or nil)
  end
  if #self.message > 0 or self.has_part or not self.is_ready then self:hand_over(false) end
end

-- ---- turns ----

--- A change is taken in: the messages that come of it say since when it was known.
---@param now number monotonic seconds
function sync:take_in(now) self.taken_at = self.taken_at or now end

function sync:has_work() return self.pass ~= nil or self.large ~= nil or self.queue.head <= self.queue.tail or self:has_touched() end

--- Is there something that a flush did not come to?
function sync:has_touched() return next(self.dirty.hosts) ~= nil or self.store:has_changes() end

--- Everything that was taken in is sent.
function sync:rest()
  if not self:has_work() then self.taken_at = nil end
end

--- Takes in what the documents said and sends what follows from it.
function sync:flush()
  self.store:take(function(kind, id, old, new)
    local handler = apply[kind]
    if handler then handler(self, id, old, new) end
  end)
  if self.dirty.settings or not self.is_ready then
    self.setting_findings, self.dirty.setting_findings = {}, true
    self:build_settings()
  end
  if not self.is_ready then self:send("policies", "policies", self.policies.set.key) end
  for _ = 1, 4 do -- a refusal makes hosts dirty again
    self.scopes:settle(function(name) self:touch_sharers(name) end)
    local at_once = self.is_ready and MAX_AT_ONCE or math.huge
    local count = each_of(self.dirty.hosts, function(host, i)
      if i > at_once or (self.is_ready and large_host.is(self, host)) then self:enqueue(host) else self:rebuild(host) end
    end)
    if count == 0 then break end
  end
  if self.cluster and not self.is_ready and self.cluster:is_pending() then return end -- what hosts asked for is still to come
  self:finish_message()
  self.is_ready = true
  if self.cluster then self.findings:release() end
end

--- After the first sync: changes leave little garbage, so that memory stays flat.
function sync.settle_memory()
  collectgarbage()
  collectgarbage("setpause", 130)
  native.trim()
end

--- The first turn.
---@param paths string[] directories (and for `check`: files)
---@return true|nil ok
---@return string|nil message
function sync:start(paths)
  local set, problem = self.policies:start()
  if not set then return nil, problem end
  self.scopes.names = scopes.declared(set.order)
  if self.cluster then
    self.findings.is_held = true
    self.cluster:start()
    return true
  end
  if self.flags["enable-topology-aware-routing"] == "true" then
    local text = "--enable-topology-aware-routing: without a cluster there is no node that would tell our zone: endpoints of all zones are used"
    self:report("zone", { { level = "warn", text = text } })
  end
  for _, path in ipairs(paths) do
    local ok, unreadable = self.files:start(path, self.is_check)
    if not ok then return nil, unreadable end
  end
  self:flush()
  sync.settle_memory()
  return true
end

--- What the watch saw.
---@param paths string[]
---@param since number|nil monotonic seconds: when the first of it was seen
function sync:change(paths, since)
  self:take_in(since or native.clock())
  local of_policies = {}
  for _, path in ipairs(paths) do
    if self.policies:owns(path) then of_policies[#of_policies + 1] = path else self.files:take(path) end
  end
  self:flush()
  if #of_policies > 0 then policy_change.begin(self, of_policies) end
end

--- Files that could not be read are tried again.
function sync:retry()
  self.files:retry()
  self:flush()
end

--- Work that is left, for at most `seconds`. True if there is more; and whether files wait for a retry.
---@param seconds number
function sync:work(seconds)
  local deadline = native.clock() + seconds
  local queue = self.queue
  while (self.large or queue.head <= queue.tail) and native.clock() < deadline do
    if large_host.work(self, deadline) and queue.head <= queue.tail then
      local host = queue[queue.head]
      queue[queue.head], queue.has[host], queue.head = nil, nil, queue.head + 1
      if large_host.is(self, host) then self.large = large_host.begin(self, host, self.policies.set) else self:rebuild(host) end
    end
  end
  local is_left = #self.message > 0 or self.has_part or next(self.dirty.upstreams)
  if self:has_touched() then self:flush() elseif is_left then self:finish_message() end
  while self.pass and native.clock() < deadline do
    if policy_change.step(self, deadline) then policy_change.finish(self) end
  end
  self:rest()
  return self:has_work(), next(self.files.unread) ~= nil
end

--- `moongate check`.
sync.check = check.run
--- The admission webhook's question, in slices.
sync.review = admission.step

return sync
