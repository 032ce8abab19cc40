--- The admission webhook's decision: an AdmissionReview comes in as bytes, its answer goes out. An Ingress is judged by the code that the sync judges it with,
-- alone but for the paths that others hold already: nothing that is wrong elsewhere refuses it, and an object that is not there is a warning. It reads the
-- sync's model and leaves no trace in it.
local json = require "cjson.safe"
local native = require "moongate.kube"
local annotations = require "kube.annotations"
local attaching = require "kube.attaching"
local check = require "kube.check"
local classes = require "kube.classes"
local model = require "kube.model"
local objects = require "kube.objects"
local schema = require "moongate.schema"
local world = require "kube.world"

local admission = {}

local VERSION = "admission.k8s.io/v1"
local GROUPS = { ["networking.k8s.io"] = true, extensions = true }
local OPERATIONS = { CREATE = true, UPDATE = true }
local DEFAULT_PREFIX = "nginx.ingress.kubernetes.io/"
local MAX_REFUSALS, MAX_WARNINGS, WARNING_BYTES = 8, 30, 120

---@class Review
---@field refusals string[] why not; none: it is allowed
---@field warnings string[]
---@field key string|nil "Ingress namespace/name", once it is known
---@field is_blind boolean|nil something was asked for that may exist without our knowing it
local review = {}
review.__index = review

local function say(self, list, text)
  if self.said[text] then return end
  self.said[text] = true
  list[#list + 1] = text
end

function review:refuse(text, ...) say(self, self.refusals, text:format(...)) end
function review:warn(text, ...) say(self, self.warnings, text:format(...)) end

--- In place of sync:fetch while policies attach: nothing is remembered, and nothing is followed.
function review:fetch(kind, id)
  local name = kind == "secret" and "Secret" or "ConfigMap"
  local object = self.sync.store:get(name, id)
  if object then return object.data end
  if self.sync.cluster and not self.sync:uses(name, id) then self.is_blind = true end
  return nil, "does not exist"
end

local function text_of(value)
  return type(value) == "string" and value ~= "" and value or nil
end

local function table_of(value)
  return type(value) == "table" and value or {}
end

-- ---- the object ----

--- Is it an Ingress of ours, as far as can be said before its fields are checked?
local function is_ours(sync, raw)
  local metadata, plain = table_of(raw.metadata), {}
  for name, value in pairs(table_of(metadata.annotations)) do
    if type(value) == "string" then plain[name] = value end
  end
  local seen = { class = text_of(table_of(raw.spec).ingressClassName), annotations = plain, namespace = text_of(metadata.namespace) or "default" }
  return classes.accepts(seen, sync.flags, sync.find_class, sync.cluster) and classes.is_watched(seen, sync.flags, sync.cluster)
end

--- The Ingress that is to be judged; nil: there is nothing to judge, or it is refused already.
local function read(self, request)
  local sync, resource = self.sync, table_of(request.resource)
  if resource.resource ~= "ingresses" or not GROUPS[resource.group] or text_of(request.subResource) then return nil end
  if not OPERATIONS[request.operation] then return nil end
  local raw = table_of(request.object)
  local metadata = table_of(raw.metadata)
  if text_of(metadata.deletionTimestamp) then return nil end -- whatever is wrong with it, its finalizers must be let go
  metadata.namespace = text_of(metadata.namespace) or request.namespace
  metadata.name = text_of(metadata.name) or text_of(request.name) or text_of(metadata.generateName) and metadata.generateName .. "new"
  if not is_ours(sync, raw) then return nil end
  local object, problems, key, is_skipped = objects.read(raw, sync.flags)
  self.key = key
  if is_skipped then return nil end
  local is_lenient = sync.own["strict-validate-path-type"] == false
  for _, problem in ipairs(problems) do
    local text = problem.field and problem.field .. ": " .. problem.text or problem.text
    if problem.level == "error" or (problem.level == "strict" and not is_lenient) then
      self:refuse("%s", text)
    elseif problem.level == "warn" then
      self:warn("%s", text)
    end
  end
  return object
end

-- ---- rules that need the Ingress alone ----

local function judge_catch_all(self, ingress)
  local is_forbidden, reason = classes.is_forbidden_catch_all(ingress, self.sync.flags)
  if is_forbidden then self:refuse("spec.defaultBackend: %s", reason) end
end

local function sorted(map)
  local names = {}
  for name in pairs(map) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function judge_prefix(self, ingress)
  local own = self.sync.prefixes[1]
  if own == DEFAULT_PREFIX then return end
  for _, name in ipairs(sorted(ingress.annotations)) do
    if name:sub(1, #DEFAULT_PREFIX) == DEFAULT_PREFIX then
      self:refuse("%s: %s is not read: annotations begin with %s here (--annotations-prefix)", name, schema.show(ingress.annotations[name]), own)
    end
  end
end

local function judge_words(self, ingress)
  local sync = self.sync
  local name, word = annotations.blocked(ingress.annotations, sync.prefixes, sync.own["annotation-value-word-blocklist"])
  if name then self:refuse("%s: %s holds %q, which annotation-value-word-blocklist forbids", name, schema.show(ingress.annotations[name]), word) end
end

--- Snippets, and annotations that nothing reads.
local function judge_names(self, short)
  local sync = self.sync
  local are_snippets_let_in = sync.own["allow-snippet-annotations"] == true
  for _, finding in ipairs(check.unread(sync, short)) do
    local name = finding.annotation
    if name:find("%-snippet$") and not are_snippets_let_in then
      self:refuse("%s: %s is nginx configuration text, and there is no nginx here: write a policy (a Lua file) instead, or remove it", name,
        schema.show(short[name]))
    else
      self:warn("%s", finding.text)
    end
  end
  for _, name in ipairs(sorted(sync.policies.set.old_names)) do
    if short[name] then self:warn("%s: is an old name of %s", name, sync.policies.set.old_names[name]) end
  end
end

-- ---- what policies say ----

--- A missing object is its routes' trouble for as long as it is missing, and no reason to refuse.
local function note_missing(self, made)
  local sync = self.sync
  for _, name in ipairs(sorted(made.upstreams)) do
    local upstream = made.upstreams[name]
    local id = upstream.namespace .. "/" .. upstream.service
    local service = sync.store:get("Service", id)
    if not service then
      self:warn("Service %s does not exist: its routes answer 503", id)
    elseif not model.find_port(service, upstream.port) then
      self:warn("Service %s has no port %q: its routes answer 503", id, upstream.port)
    end
  end
end

local function note_missing_secrets(self, ingress)
  local sync = self.sync
  for _, tls in ipairs(ingress.tls) do
    local id = tls.secret and ingress.namespace .. "/" .. tls.secret
    if id and not sync.store:has("Secret", id) and not (sync.cluster and sync.cluster:uid("Secret", id)) then
      self:warn("TLS Secret %s does not exist: the default certificate is served", id)
    end
  end
end

local function take_findings(self, findings)
  for _, finding in ipairs(findings) do
    local cause = finding.cause
    if cause == "other" then
      if not self.is_blind then self:warn("%s", finding.text) end
    elseif cause == "value" or finding.level == "deny" or (finding.level == "error" and cause ~= "failure") then
      self:refuse("%s", finding.text)
    else
      self:warn("%s", finding.text)
    end
  end
end

local function looks_like_regex(path)
  return path:find("[%^%$%*%+%?%(%)%[%]{}|\\]") ~= nil
end

local function first_other(self, ingress, host)
  local found
  for id in world.each(self.sync.world.ingresses:get(host)) do
    if id ~= ingress.id and (not found or id < found) then found = id end
  end
  return found
end

local function note_regexes(self, ingress, host, is_regex)
  if is_regex then
    local other = first_other(self, ingress, host)
    if other then self:warn("it makes regexes of all paths of host %s, of those of Ingress %s too", host, other) end
    return
  end
  for _, rule in ipairs(ingress.rules) do
    for _, path in ipairs(rule.host == host and rule.paths or {}) do
      if path.path_type ~= "Exact" and path.path_type ~= "Prefix" and looks_like_regex(path.path) then
        self:warn("path %s looks like a regex, but is none without use-regex", path.path)
      end
    end
  end
end

--- For a canary: an Ingress without annotations that has the same rules and leads elsewhere.
local function counterpart(canary)
  local rules = {}
  for i, rule in ipairs(canary.rules) do
    rules[i] = { host = rule.host, paths = {} }
    for k, path in ipairs(rule.paths) do
      rules[i].paths[k] = { path = path.path, type = path.type, path_type = path.path_type, service = "", port = "" }
    end
  end
  local backend = canary.default_backend and { service = "", port = "" }
  return {
    id = "", key = "", namespace = canary.namespace, name = "", created = canary.created, annotations = {}, tls = {}, rules = rules, default_backend = backend,
  }
end

--- Attaches the policies of one host to this Ingress alone.
local function judge_host(self, ingress, short, host, rest)
  local sync = self.sync
  local is_canary = annotations.is_canary(short)
  sync.reviewing, sync.builder = self, nil
  local made = attaching.host {
    name = host, ingresses = { is_canary and counterpart(ingress) or ingress }, canaries = is_canary and { ingress } or nil,
    short = function(one) return one == ingress and short or {} end, has_tls = #ingress.tls > 0, settings = sync.raw_settings,
    set = sync.policies.set, https_port = sync.https_port, has_stood = function() return false end,
    rest = function()
      sync.reviewing = nil
      local has_rested = rest()
      sync.reviewing, sync.builder = self, nil
      return has_rested
    end,
  }
  sync.reviewing = nil
  for i = #made.findings, 1, -1 do
    if made.findings[i].key == "" then table.remove(made.findings, i) end
  end
  for name, upstream in pairs(made.upstreams) do
    if upstream.service == "" then made.upstreams[name] = nil end
  end
  take_findings(self, made.findings)
  if not is_canary then note_regexes(self, ingress, host, made.body.regex) end
  note_missing(self, made)
end

-- ---- other Ingresses ----

--- The paths that an Ingress has on a host: type -> path -> true.
local function claims(ingress, host)
  local made = { exact = {}, prefix = {} }
  for _, rule in ipairs(ingress and ingress.rules or {}) do
    for _, path in ipairs(rule.host == host and rule.paths or {}) do made[path.type][path.path] = true end
  end
  return made
end

--- A path of a host that another Ingress has: two of one kind would leave it to their age who gets the requests. Whoever had it first may change the rest
--- of its Ingress; it does not become the one to blame.
local function judge_overlap(self, ingress, host)
  local sync, own = self.sync, claims(ingress, host)
  local before = claims(sync.placed:open(ingress.id), host)
  local taken = { exact = {}, prefix = {} }
  local function look_at(other, path)
    local of_type = taken[path.type]
    local is_first = before[path.type][path.path] and model.is_older(ingress, other)
    if not is_first and (not of_type[path.path] or model.is_older(other, of_type[path.path])) then of_type[path.path] = other end
  end
  -- One host may have them all: only those are opened whose bytes hold one of the paths.
  local function may_hold(version)
    for _, paths in pairs(own) do
      for path in pairs(paths) do
        if version:find(path, 1, true) then return true end
      end
    end
    return false
  end
  for id in world.each(sync.world.ingresses:get(host)) do
    local version = id ~= ingress.id and sync.placed:get(id)
    local other = version and may_hold(version) and sync.store.open(version)
    for _, rule in ipairs(other and other.rules or {}) do
      for _, path in ipairs(rule.host == host and rule.paths or {}) do
        if own[path.type][path.path] then look_at(other, path) end
      end
    end
  end
  for _, kind in ipairs { "exact", "prefix" } do
    for _, path in ipairs(sorted(taken[kind])) do
      self:refuse("host %s, path %s (%s): %s has it already", host, path, kind, taken[kind][path].key)
    end
  end
end

-- ---- the whole ----

--- Judges what a request asks for.
---@param sync table ready
---@param request table of an AdmissionReview
---@param rest fun(): boolean called between two parts of the work; true: others worked meanwhile
---@return Review
function admission.judge(sync, request, rest)
  local self = setmetatable({ sync = sync, refusals = {}, warnings = {}, said = {} }, review)
  local ingress = read(self, request)
  if not ingress then return self end
  local short, problems = annotations.short(ingress.annotations, sync.prefixes)
  for _, problem in ipairs(problems) do self:warn("%s", problem.text) end
  judge_catch_all(self, ingress)
  judge_prefix(self, ingress)
  judge_words(self, ingress)
  judge_names(self, short)
  local hosts = sorted(model.hosts_of(ingress))
  for _, host in ipairs(hosts) do
    rest()
    judge_host(self, ingress, short, host, rest)
  end
  for _, host in ipairs(annotations.is_canary(short) and {} or hosts) do
    rest()
    judge_overlap(self, ingress, host)
  end
  note_missing_secrets(self, ingress)
  return self
end

--- Not longer than `bytes`, and cut between two characters.
local function cut(text, bytes)
  if #text <= bytes then return text end
  return (text:sub(1, bytes - 3):gsub("[\192-\255]?[\128-\191]*$", "")) .. "..."
end

local function refusal(self)
  local list = self.refusals
  if #list <= MAX_REFUSALS then return table.concat(list, "; ") end
  return table.concat(list, "; ", 1, MAX_REFUSALS) .. ("; and %d more"):format(#list - MAX_REFUSALS)
end

local function answer(self, uid)
  local response = { uid = uid, allowed = #self.refusals == 0 }
  if not response.allowed then response.status = { status = "Failure", code = 400, reason = "BadRequest", message = refusal(self) } end
  for i = 1, math.min(#self.warnings, MAX_WARNINGS) do
    response.warnings = response.warnings or {}
    response.warnings[i] = cut(self.warnings[i]:gsub("%c", " "), WARNING_BYTES)
  end
  return json.encode { apiVersion = VERSION, kind = "AdmissionReview", response = response }
end

--- What is wrong with a review itself; nil: nothing.
local function malformed(raw, problem)
  if type(raw) ~= "table" then return "the body is not a JSON object" .. (problem and ": " .. problem or "") end
  if raw.kind ~= "AdmissionReview" then return "the body is not an AdmissionReview" end
  if raw.apiVersion ~= VERSION then return ("the apiVersion is %s, not %s"):format(schema.show(raw.apiVersion), VERSION) end
  local request = table_of(raw.request)
  if not text_of(request.uid) then return "request.uid is missing" end
  if OPERATIONS[request.operation] and type(request.object) ~= "table" then return "request.object is missing" end
end

--- Answers a review.
---@param sync table ready
---@param text string the body
---@param rest (fun(): boolean)|nil called between two parts of the work; true: others worked meanwhile
---@return integer status of HTTP: 200, or 400 with a sentence
---@return string text
---@return Review|nil
function admission.review(sync, text, rest)
  local raw, problem = json.decode(text)
  local wrong = malformed(raw, problem)
  if wrong then return 400, wrong end
  local judged = admission.judge(sync, raw.request, rest or function() return false end)
  return 200, answer(judged, raw.request.uid), judged
end

--- One slice of a review: with `text` it begins one, without it goes on.
---@param sync table ready
---@param seconds number
---@param text string|nil
---@return integer|nil status nil: there is more to do
---@return string|nil text
---@return boolean|nil is_allowed
function admission.step(sync, seconds, text)
  local deadline = native.clock() + seconds
  if text then
    sync.reviewer = coroutine.create(function()
      return admission.review(sync, text, function()
        if native.clock() < deadline then return false end
        deadline = coroutine.yield()
        return true
      end)
    end)
  end
  local reviewer = sync.reviewer
  local is_fine, status, answered, judged = coroutine.resume(reviewer, deadline)
  sync.reviewing = nil -- an error may have left it
  if not is_fine then error(debug.traceback(reviewer, status), 0) end
  if coroutine.status(reviewer) ~= "dead" then return nil end
  sync.reviewer = nil
  local is_allowed = judged ~= nil and #judged.refusals == 0
  if judged and not is_allowed then native.log("info", "review refused", (judged.key or "Ingress") .. ": " .. refusal(judged)) end
  return status, answered, is_allowed
end

return admission
