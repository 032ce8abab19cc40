--- Certificates of Secrets: which are usable, which host they cover. A Secret whose new content is no certificate keeps serving what it held before.
local certificates = {}
certificates.__index = certificates

---@param options { core: table, get: fun(id: string): table|nil }
function certificates.new(options)
  return setmetatable({ core = options.core, get = options.get, good = {}, checked = setmetatable({}, { __mode = "k" }) }, certificates)
end

--- What the C side says about a Secret and a host; remembered as long as the Secret is the same.
local function check(self, secret, host)
  local known = self.checked[secret]
  if not known then
    known = {}
    self.checked[secret] = known
  end
  if not known[host] then
    local result, problem = self.core.certificate_check(secret.data["tls.crt"], secret.data["tls.key"], host)
    known[host] = { covers = result and result.covers or false, is_valid = result ~= nil, problem = problem }
    if host == "" and result then known[host].facts = result end
  end
  return known[host]
end

-- "error:0480006C:PEM routines::no start line" -> "no start line"
local function plain(problem)
  return (tostring(problem):gsub("error:%x+:[^:]*:[^:]*:", ""))
end

local function problem_of(self, secret)
  local data = secret.data
  if not data["tls.crt"] or not data["tls.key"] then return "has no " .. (data["tls.crt"] and "tls.key" or "tls.crt") end
  local result = check(self, secret, "")
  if not result.is_valid then return "is not usable: " .. plain(result.problem) end
end

--- The usable version of a Secret.
---@param id string
---@return table|nil secret
---@return string|nil problem also where an earlier version is used instead
function certificates:usable(id)
  local secret = self.get(id)
  if not secret then
    self.good[id] = nil
    return nil, "does not exist"
  end
  if self.good[id] == secret then return secret end
  local problem = problem_of(self, secret)
  if not problem then
    self.good[id] = secret
    return secret
  end
  return self.good[id], problem
end

--- What the usable version's certificate is, the same table as long as it is the same: serial, issuer, end.
---@param id string
---@return table|nil
function certificates:facts(id)
  local secret = self:usable(id)
  return secret and check(self, secret, "").facts
end

--- Does a Secret's certificate cover a host?
---@return boolean covers
---@return string|nil why
function certificates:covers(id, host)
  local secret, problem = self:usable(id)
  if not secret then return false, problem end
  if host == "_" or check(self, secret, host).covers then return true end
  return false, "does not cover the host"
end

return certificates
