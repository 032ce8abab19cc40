--- Lets pages of other origins use this application: answers their preflights, and says so on every answer, errors included.
local moongate = require "moongate"

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

--- A regex of all origins that are answered to; nil: any origin, and none.
local function read_origins(route, list)
  local patterns = {}
  for _, origin in ipairs(list) do
    local scheme, host, port = origin:match("^([a-z][a-z0-9+.-]*)://([%w%-._*]+)(:?%d*)$")
    local below = host and host:match("^%*(%.[%w%-._]+)$")
    if origin == "*" then return nil end
    if origin == "null" or (scheme and port ~= ":" and not host:find("*", 1, true)) then
      table.insert(patterns, "\\Q" .. origin .. "\\E")
    elseif below and port ~= ":" then
      table.insert(patterns, ("\\Q%s://\\E[a-z0-9-]+\\Q%s%s\\E"):format(scheme, below, port))
    else
      route:warn("cors-allow-origin: " .. origin .. " is not an origin; it is left out")
    end
  end
  if #patterns == 0 then table.insert(patterns, "(?!)") end
  return moongate.regex("^(?:" .. table.concat(patterns, "|") .. ")\\z", { ignore_case = true })
end

--- Which origin is answered to is known to the core: neither a hook nor a field is there for others.
function policy.attach(route, annotations)
  if not annotations["enable-cors"] then return end
  local origins = read_origins(route, annotations["cors-allow-origin"])
  local when = origins and { request_header = "Origin", matches = origins } or "always"
  route:set_response_header("Access-Control-Allow-Origin", origins and "$http_origin" or "*", when)
  if annotations["cors-allow-credentials"] then route:set_response_header("Access-Control-Allow-Credentials", "true", when) end
  route:set_response_header("Access-Control-Allow-Methods", annotations["cors-allow-methods"], when)
  route:set_response_header("Access-Control-Allow-Headers", annotations["cors-allow-headers"], when)
  route:set_response_header("Access-Control-Max-Age", ("%d"):format(annotations["cors-max-age"]), when)
  if annotations["cors-expose-headers"] then route:set_response_header("Access-Control-Expose-Headers", annotations["cors-expose-headers"], when) end
  return {}, { rewrite = { method = "OPTIONS", request_header = origins and "Origin", matches = origins } }
end

--- A preflight.
function policy.rewrite(exchange)
  return exchange:respond { status = 204, headers = { ["Content-Type"] = "text/plain charset=UTF-8" } }
end

return policy
