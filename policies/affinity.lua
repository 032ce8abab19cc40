--- Keeps a visitor on one endpoint by a cookie: `<endpoint key>|<upstream key>`. Which endpoint a cookie means is the upstream's: all Ingresses that
-- lead there follow it, and agree on its name. Only those that ask for affinity themselves give one, each with its own Path, Domain, and so on.
local moongate = require "moongate"

local policy = {
  name = "affinity",
  summary = "Keeps a visitor on one endpoint by a cookie.",
  annotations = {
    ["affinity"] = { type = "enum", values = { "cookie" }, scope = "upstream", doc = "`cookie`: a visitor stays on one endpoint." },
    ["affinity-mode"] = {
      type = "enum", values = { "persistent", "balanced" }, default = "persistent", scope = "upstream", requires = "affinity", risk = "medium",
      doc = "`persistent`: a session stays as long as its endpoint serves. `balanced`: some sessions move when endpoints are added.",
    },
    ["session-cookie-name"] = {
      type = "string", pattern = "^[%w%-%._~/:]+$", max_length = 256, default = "INGRESSCOOKIE", scope = "upstream", requires = "affinity", risk = "medium",
      doc = "Name of the cookie.",
    },
    ["session-cookie-hash"] = {
      type = "enum", values = { "md5", "sha1", "index" }, default = "md5", scope = "upstream", requires = "affinity",
      doc = "How the cookie names the endpoint: a hash of its address, or its index.",
    },
    ["session-cookie-path"] = {
      type = "path", pattern = "^[^;,]+$", requires = "affinity", risk = "medium",
      doc = "The cookie's Path; the path of the rule unless given. Needed with use-regex.",
    },
    ["session-cookie-domain"] = {
      type = "string", pattern = "^%.?[%w%-%._]+$", requires = "affinity", risk = "medium", doc = "The cookie's Domain; none unless given.",
    },
    ["session-cookie-max-age"] = {
      type = "integer", max = 1e11, min = -1e9, requires = "affinity", risk = "medium",
      doc = "The cookie's Max-Age, in seconds; a session cookie unless given.",
    },
    ["session-cookie-expires"] = {
      type = "integer", max = 1e11, min = -1e9, requires = "affinity", risk = "medium", doc = "The cookie's Expires, in seconds from now.",
    },
    ["session-cookie-secure"] = {
      type = "boolean", default = false, requires = "affinity", doc = "Secure even over plain HTTP. Over TLS the cookie is always Secure.",
    },
    ["session-cookie-samesite"] = {
      type = "enum", values = { "None", "Lax", "Strict" }, ignore_case = "as_written", requires = "affinity",
      doc = "The cookie's SameSite; none unless given.",
    },
    ["session-cookie-conditional-samesite-none"] = {
      type = "boolean", default = false, requires = "session-cookie-samesite", doc = "Leaves SameSite=None out for browsers that misread it.",
    },
    ["session-cookie-change-on-failure"] = {
      type = "boolean", default = false, scope = "upstream", requires = "affinity",
      doc = "A retry goes to another endpoint at once, and the cookie follows it.",
    },
    ["affinity-canary-behavior"] = {
      type = "enum", values = { "sticky", "legacy" }, default = "sticky", scope = "alternative",
      doc = "On a canary Ingress. `sticky`: a visitor whom the canary served stays there. `legacy`: no session leads to the canary.",
    },
  },
}

-- The variable that says that the answer gives a cookie.
local IS_NEW = "affinity_is_new"

--- What the cookie has after the endpoint's key, as ingress-nginx writes it.
local function ending_of(name)
  local md5 = moongate.hash.md5
  return "|" .. md5(md5(name) .. name)
end

--- Does the route's own Ingress ask for affinity, or only another one of the upstream?
local function asks_itself(route)
  for _, source in ipairs(route.host.sources) do
    if source.name == route.source.name and source.namespace == route.source.namespace then return source.annotations["affinity"] == "cookie" end
  end
  return false
end

local function cookie_path(route, annotations)
  local path = annotations["session-cookie-path"]
  if path then return path end
  path = route.path:find("[;,%s]") and "/" or route.path
  if path:find("[%^%$%(%)%[%]%*%+%?|\\{}]") then
    route:warn("session-cookie-path: is missing, and the path " .. route.path .. " is a pattern: no browser sends that cookie back")
  end
  return path
end

function policy.attach(route, annotations)
  if annotations["affinity"] ~= "cookie" then return end
  route:set("balancer", "round_robin") -- a session wins over upstream-hash-by and load-balance, its first endpoint too
  local endings, sides, legacy = {}, {}, {}
  for _, upstream in ipairs(route.upstreams) do endings[upstream.name], sides[#sides + 1] = ending_of(upstream.name), upstream.name end
  for _, alternative in ipairs(route.alternatives) do
    local name = alternative.upstream.name
    if alternative.annotations["affinity-canary-behavior"] == "legacy" then
      legacy[name] = true
    else
      endings[name], sides[#sides + 1] = ending_of(name), name
    end
  end
  local config = {
    sides = #route.alternatives > 0 and sides or nil,
    legacy = legacy,
    name = annotations["session-cookie-name"],
    hash = annotations["session-cookie-hash"],
    uses_ring = annotations["affinity-mode"] == "balanced",
    found_by = annotations["affinity-mode"] == "balanced" and "ring" or annotations["session-cookie-hash"],
    -- One retry goes to the session's endpoint again, the next one leaves it: by then it does not serve.
    attempts = annotations["session-cookie-change-on-failure"] and 1 or 2,
    endings = endings,
  }
  local hooks = { balancer = true, access = config.sides and true or nil }
  if not asks_itself(route) then return config, hooks end
  hooks.header_filter = { variable = IS_NEW, source = "upstream" }
  config.gives_cookie = true
  config.path = cookie_path(route, annotations)
  config.domain = annotations["session-cookie-domain"]
  config.max_age = annotations["session-cookie-max-age"]
  config.expires = annotations["session-cookie-expires"]
  config.secure = annotations["session-cookie-secure"]
  config.same_site = annotations["session-cookie-samesite"]
  config.asks_browser = annotations["session-cookie-samesite"] == "None" and annotations["session-cookie-conditional-samesite-none"]
  return config, hooks
end

--- For whoever chooses between the upstreams of a route: the one that the visitor's session is with.
function policy.access(exchange, config)
  local cookie = exchange.request.cookies:get(config.name)
  for _, side in ipairs(cookie and config.sides or {}) do
    local ending = config.endings[side]
    if #cookie > #ending and cookie:sub(-#ending) == ending then return exchange.variables:set("affinity_upstream", side) end
  end
end

local function new_ring_key()
  return moongate.hex.encode(moongate.random_bytes(16))
end

--- A place on the ring whose endpoint serves and has not failed this exchange: as many draws as are worth it.
local function draw(upstream)
  local key, endpoint
  for _ = 1, 20 do
    key = new_ring_key()
    endpoint = upstream:hash(key)
    if not endpoint or (endpoint.healthy and not endpoint.tried) then break end
  end
  return key, endpoint
end

--- The answer will give a cookie, for the endpoint that serves or for a new place on the ring.
local function begin_session(exchange, config, upstream)
  exchange.variables:set(IS_NEW, "1")
  if not config.uses_ring then return end
  local key, endpoint = draw(upstream)
  exchange.ctx.ring_key = key
  if endpoint then upstream:choose(endpoint) end
end

function policy.balancer(exchange, config)
  local upstream = exchange.upstream
  local name = upstream.name
  if not name or config.legacy[name] then return end
  local ending = config.endings[name] or (not upstream.fallback and ending_of(name))
  local attempt = ending and upstream:resume(config.name, ending, config.found_by, config.attempts)
  if attempt then
    if attempt > 1 then exchange.variables:set(IS_NEW, "") end
  elseif config.gives_cookie and not upstream.fallback then
    begin_session(exchange, config, upstream)
  end
end

local function version_is_between(text, low, high)
  local version = tonumber(text)
  return version and version >= low and version <= high
end

--- Browsers that take SameSite=None for Strict, or drop the cookie.
local function misreads_none(agent)
  if not agent then return false end
  local chrome = agent:match("Chrom[^ /]*/(%d+)")
  if chrome and (version_is_between(chrome, 4, 6) or version_is_between(chrome, 40, 69)) then return true end
  if agent:find("CPU iPhone OS 12", 1, true) or agent:find("iPad; CPU OS 12", 1, true) then return true end
  return agent:find("Macintosh", 1, true) and agent:find("Intel Mac OS X 10_14", 1, true) and agent:find("Safari", 1, true) and not chrome
end

function policy.header_filter(exchange, config)
  local upstream = exchange.upstream
  local endpoint = upstream.endpoint
  if not endpoint then return end
  local key = exchange.ctx.ring_key
  if not key then
    key = config.hash == "sha1" and endpoint.key_sha1 or config.hash == "index" and endpoint.index or endpoint.key_md5
  end
  local name, same_site = upstream.name, config.same_site
  if config.asks_browser and misreads_none(exchange.request.headers:get("User-Agent")) then same_site = nil end
  -- Two things are older than the rules that cookie.format keeps: names with / or :, and SameSite in the user's spelling.
  local cookie = config.name .. moongate.cookie.format("x", key .. (config.endings[name] or ending_of(name)), {
    expires = config.expires and moongate.time.now() + config.expires,
    max_age = config.max_age,
    domain = config.domain,
    path = config.path,
    secure = config.secure or exchange.listener.scheme == "https",
    http_only = true,
  }):sub(2)
  if same_site then cookie = cookie .. "; SameSite=" .. same_site end
  exchange.response.headers:add("Set-Cookie", cookie)
end

return policy
