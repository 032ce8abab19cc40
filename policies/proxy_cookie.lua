--- Cookies of the application, with another Domain or Path.
local policy = {
  name = "proxy-cookie",
  summary = "Changes Domain and Path in the application's cookies.",
  annotations = {
    ["proxy-cookie-domain"] = {
      type = "pair", setting = "proxy-cookie-domain", default = "off", risk = "medium",
      doc = "`off`, or two names: the Domain to look for and the one to write.",
    },
    ["proxy-cookie-path"] = {
      type = "pair", setting = "proxy-cookie-path", default = "off", risk = "medium",
      doc = "`off`, or two paths: the beginning of Path to look for and the one to write.",
    },
  },
}

local function plain_pair(route, name, pair)
  if not pair then return nil end
  local text = pair.from .. " " .. pair.to
  if pair.from:sub(1, 1) == "~" or text:find("$", 1, true) then
    return route:warn(name .. ": " .. text .. " has a pattern or a variable, which is not yet supported")
  end
  if text:find("[;,]") then return route:warn(name .. ": " .. text .. " has a character that no cookie attribute may have") end
  return pair
end

function policy.attach(route, annotations)
  local domain = plain_pair(route, "proxy-cookie-domain", annotations["proxy-cookie-domain"])
  local path = plain_pair(route, "proxy-cookie-path", annotations["proxy-cookie-path"])
  if domain then domain = { from = domain.from:gsub("^%.", ""):lower(), to = domain.to } end
  if domain or path then
    return { domain = domain, path = path }, { header_filter = { response_header = "Set-Cookie", source = "upstream" } }
  end
end

local function change(attribute, config)
  local before, name, between, value = attribute:match("^(%s*)([%w-]+)(%s*=%s*)(.-)%s*$")
  if not name then return attribute end
  name = before .. name .. between
  local kind, domain, path = attribute:match("^%s*([%w-]+)"):lower(), config.domain, config.path
  if kind == "domain" and domain and value:gsub("^%.", ""):lower() == domain.from then return name .. domain.to end
  if kind == "path" and path and value:sub(1, #path.from) == path.from then return name .. path.to .. value:sub(#path.from + 1) end
  return attribute
end

function policy.header_filter(exchange, config)
  local headers = exchange.response.headers
  local cookies = headers:all("Set-Cookie")
  for i = 1, #cookies do
    local pair, rest = cookies[i]:match("^([^;]*)(.*)$")
    cookies[i] = pair .. rest:gsub(";([^;]*)", function(attribute) return ";" .. change(attribute, config) end)
  end
  headers:set("Set-Cookie", cookies)
end

return policy
