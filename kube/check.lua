--- `moongate check`: what the log leaves out is listed too.
local annotations = require "kube.annotations"
local native = require "moongate.kube"

local check = {}

--- Names that ingress-nginx knows and no policy here declares, with the reason.
local function unsupported_names(home)
  local path = home .. "/policies/known/unsupported.lua"
  local source = native.read(path)
  local chunk = source and loadstring(source, "@" .. path)
  local ok, names = pcall(chunk or function() return {} end)
  return ok and type(names) == "table" and names or {}
end

--- Annotations that nothing reads: those that have no policy yet, and those that nobody knows. What closes its routes has a finding of its own.
---@param self table the sync
---@param short table<string, string>
---@return Finding[]
function check.unread(self, short)
  local declared, list = self.policies.set.declared, {}
  self.unsupported = self.unsupported or unsupported_names(self.options.home)
  for name in pairs(short) do
    if not declared[name] and name ~= "service-upstream" and not annotations.unguarded({ [name] = "set" }, declared) then
      local known = self.unsupported[name]
      list[#list + 1] = known and { level = "warn", annotation = name, text = ("%s: is %s"):format(name, known.reason) }
        or { level = "warn", annotation = name, text = name .. ": is not a known annotation" }
    end
  end
  return list
end

local function check_annotations(self)
  for id in self.store:each("Ingress") do
    local ingress = self.store:get("Ingress", id)
    self:report("unread " .. id, check.unread(self, self:short(ingress)), ingress.key)
  end
end

--- All findings, for `moongate check`.
---@return { level: string, text: string }[] lines
---@return table<string, integer> counts
---@param self table the sync, started
function check.run(self)
  while self:work(1) do end
  check_annotations(self)
  local skipped = {}
  for kind, count in pairs(self.store.skipped) do skipped[#skipped + 1] = ("%d %s"):format(count, kind) end
  table.sort(skipped)
  if #skipped > 0 then self.findings:set("skipped", { { level = "info", text = "objects of kinds that are not used: " .. table.concat(skipped, ", ") } }) end
  return self.findings:all()
end

return check
