--- Sends some of a rule's requests to the Service of a canary Ingress with the same rule: by a header, a cookie, or as a share of all. What a session
-- says (affinity) comes first. Several canaries are asked in turn, the oldest first; their shares add up.
local moongate = require "moongate"

local policy = {
  name = "canary",
  summary = "Sends some requests to another Service, which canary Ingresses name.",
  annotations = {
    ["canary"] = { type = "boolean", default = false, doc = "The Ingress has no rules of its own: it offers an alternative for those of another one." },
    ["canary-by-header"] = {
      type = "header_name", scope = "alternative", risk = "medium", doc = "`always` in this header: the canary; `never`: not the canary.",
    },
    ["canary-by-header-value"] = {
      type = "string", pattern = "^[%w%-%._~/:]+$", scope = "alternative", requires = "canary-by-header", risk = "medium",
      doc = "This value of the header, instead of `always` and `never`.",
    },
    ["canary-by-header-pattern"] = {
      type = "string", max_length = 4096, scope = "alternative", requires = "canary-by-header", risk = "medium",
      doc = "A regular expression for the header, where no value is given.",
    },
    ["canary-by-cookie"] = {
      type = "cookie_name", scope = "alternative", risk = "medium", doc = "`always` in this cookie: the canary; `never`: not the canary.",
    },
    ["canary-weight"] = { type = "integer", min = 0, default = 0, scope = "alternative", doc = "Share of the requests that nothing else decides about." },
    ["canary-weight-total"] = { type = "integer", min = 0, default = 100, scope = "alternative", doc = "What the weight is a share of; at least 100." },
  },
}

--- A pattern that is no regex decides against the canary, as in ingress-nginx: false.
local function pattern_of(route, alternative)
  local rules = alternative.annotations
  local text = rules["canary-by-header-pattern"]
  if not text or rules["canary-by-header-value"] then return nil end
  local is_regex, regex = pcall(moongate.regex, text)
  if is_regex then return regex end
  route:warn("canary-by-header-pattern: " .. text .. " is not a regular expression; requests with that header stay", alternative)
  return false
end

function policy.attach(route)
  local sides = {}
  for i, alternative in ipairs(route.alternatives) do
    local rules = alternative.annotations
    sides[i] = {
      name = alternative.upstream.name,
      upstream = route:upstream(alternative.upstream),
      header = rules["canary-by-header"], value = rules["canary-by-header-value"], pattern = pattern_of(route, alternative),
      cookie = rules["canary-by-cookie"],
      share = rules["canary-weight"] / math.max(rules["canary-weight-total"], 100),
    }
  end
  if #sides > 0 then return { main = route.upstreams[1].name, sides = sides } end
end

--- What a header or cookie says of a canary: true, false, or nil: nothing.
local function by_word(word)
  if word == "always" then return true end
  if word == "never" then return false end
end

local function by_header(side, text)
  if side.value then return text == side.value or nil end
  if side.pattern == nil then return by_word(text) end
  if not side.pattern then return false end
  local found, problem = side.pattern:match(text)
  if found then return true end
  if problem then return false end
end

local function verdict(side, request)
  local text = side.header and request.headers:get(side.header)
  local says = text and by_header(side, text)
  if says == nil and side.cookie then says = by_word(request.cookies:get(side.cookie)) end
  return says
end

--- The canary that the visitor's session is with; false: it is with the main Service.
local function by_session(exchange, config)
  local name = exchange.variables:get("affinity_upstream")
  if not name then return nil end
  if name == config.main then return false end
  for _, side in ipairs(config.sides) do
    if side.name == name and side.upstream:count() > 0 then return side end
  end
end

local function serves(side)
  local _, ready = side.upstream:count()
  return ready > 0
end

local function choose(exchange, config)
  local side = by_session(exchange, config)
  if side ~= nil then return side end
  local drawn, sides, share = nil, config.sides, 0
  for i = 1, #sides do
    local candidate = sides[i]
    local says = verdict(candidate, exchange.request)
    if says ~= false and serves(candidate) then
      if says then return candidate end
      share = share + candidate.share
      drawn = drawn or (moongate.random(2 ^ 30) - 1) / 2 ^ 30
      if not side and drawn < share then side = candidate end -- unless a later one is asked for by name
    end
  end
  return side
end

function policy.access(exchange, config)
  local side = choose(exchange, config)
  if side then exchange:use_upstream(side.upstream) end
end

return policy
