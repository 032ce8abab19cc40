--- Lets pages of other origins use this application: answers their preflights, and says so on every answer, errors included.
local policy = {
  name = "cors",
  summary = "Lets pages of other origins use the application (CORS).",
  annotations = {
    ["enable-cors"] = { type = "boolean", default = false, doc = "Answer preflights, and add the Access-Control fields." },
    ["cors-allow-origin"] = {
      type = "list", default = "*", requires = "enable-cors", risk = "medium",
      doc = "Origins, such as https://example.com, https://*.example.com:8443 (one label) or null; * for all of them.",
    },
    ["cors-allow-methods"] = {
      type = "string", pattern = "^[%a, ]+$", default = "GET, PUT, POST, DELETE, PATCH, OPTIONS", requires = "enable-cors", risk = "medium",
      doc = "Access-Control-Allow-Methods.",
    },
    ["cors-allow-headers"] = {
      type = "string", pattern = "^[%w_, -]+$", requires = "enable-cors", risk = "medium", doc = "Access-Control-Allow-Headers.",
      default = "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
    },
    ["cors-expose-headers"] = {
      type = "string", pattern = "^[%w_*, -]+$", requires = "enable-cors", risk = "medium", doc = "Access-Control-Expose-Headers; none unless given.",
    },
    ["cors-allow-credentials"] = { type = "boolean", default = true, requires = "enable-cors", doc = "Access-Control-Allow-Credentials: true." },
    ["cors-max-age"] = { type = "integer", default = 1728000, requires = "enable-cors", doc = "Access-Control-Max-Age, in seconds." },
  },
}

--- Origins as they are compared: whole ones by their text, and those with a wildcard by what is before and after its label.
local function read_origins(route, list)
  local origins = { exact = {}, wildcards = {} }
  for _, origin in ipairs(list) do
    local text = origin:lower()
    local scheme, host, port = origin:match("^([a-z][a-z0-9+.-]*)://([%w%-._*]+)(:?%d*)$")
    local below = host and host:match("^%*(%.[%w%-._]+)$")
    if origin == "*" then return nil end
    if origin == "null" or (scheme and port ~= ":" and not host:find("*", 1, true)) then
      origins.exact[text] = true
    elseif below and port ~= ":" then
      table.insert(origins.wildcards, { before = scheme .. "://", after = (below .. port):lower() })
    else
      route:warn("cors-allow-origin: " .. origin .. " is not an origin; it is left out")
    end
  end
  return origins
end

function policy.attach(route, annotations)
  if not annotations["enable-cors"] then return end
  local origins = read_origins(route, annotations["cors-allow-origin"])
  local fields = {
    { "Access-Control-Allow-Methods", annotations["cors-allow-methods"] },
    { "Access-Control-Allow-Headers", annotations["cors-allow-headers"] },
    { "Access-Control-Max-Age", ("%d"):format(annotations["cors-max-age"]) },
  }
  if annotations["cors-allow-credentials"] then table.insert(fields, 1, { "Access-Control-Allow-Credentials", "true" }) end
  if annotations["cors-expose-headers"] then table.insert(fields, { "Access-Control-Expose-Headers", annotations["cors-expose-headers"] }) end
  if origins then return { origins = origins, fields = fields } end
  -- The same for everybody: no hook has to do it.
  route:set_response_header("Access-Control-Allow-Origin", "*")
  for _, field in ipairs(fields) do route:set_response_header(field[1], field[2]) end
  return {}, { "rewrite" }
end

local function is_allowed(origins, origin)
  if not origin then return false end
  origin = origin:lower()
  if origins.exact[origin] then return true end
  for _, wildcard in ipairs(origins.wildcards) do
    local before, after = wildcard.before, wildcard.after
    local label = #origin > #before + #after and origin:sub(1, #before) == before and origin:sub(-#after) == after
      and origin:sub(#before + 1, -#after - 1)
    if label and label:find("^[a-z0-9-]+$") then return true end
  end
  return false
end

local function is_answered_to(exchange, config)
  return not config.origins or is_allowed(config.origins, exchange.request.headers:get("Origin"))
end

function policy.rewrite(exchange, config)
  if exchange.request.method ~= "OPTIONS" or not is_answered_to(exchange, config) then return end
  return exchange:respond { status = 204, headers = { ["Content-Type"] = "text/plain charset=UTF-8" } }
end

function policy.header_filter(exchange, config)
  if not config.origins or not is_answered_to(exchange, config) then return end
  local headers, fields = exchange.response.headers, config.fields
  headers:set("Access-Control-Allow-Origin", exchange.request.headers:get("Origin"))
  for i = 1, #fields do headers:set(fields[i][1], fields[i][2]) end
end

return policy
