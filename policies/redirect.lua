--- Answers with a redirect instead of asking the application.
local moongate = require "moongate"

local policy = {
  name = "redirect",
  summary = "Redirects for good, for a while, or between the names with and without www.",
  annotations = {
    ["permanent-redirect"] = { type = "url", path = true, max_length = 2048, risk = "medium", doc = "Every request is sent to this URL or path." },
    ["permanent-redirect-code"] = { type = "integer", min = 300, max = 308, default = 301, doc = "Its status." },
    ["temporal-redirect"] = { type = "url", max_length = 2048, risk = "medium", doc = "The same for a while; wins over permanent-redirect." },
    ["temporal-redirect-code"] = { type = "integer", min = 300, max = 307, default = 302, doc = "Its status." },
    ["relative-redirects"] = {
      type = "boolean", setting = "relative-redirects", default = false,
      doc = "Redirects to a path (permanent-redirect, and /p to /p/) stay a path.",
    },
    ["use-port-in-redirects"] = {
      type = "boolean", setting = "use-port-in-redirects", default = false, doc = "Write our port into an address made of a path.",
    },
    ["from-to-www-redirect"] = {
      type = "boolean", default = false, scope = "host", doc = "The host's name with www. (or without, if it has one) leads here.",
    },
  },
  settings = {
    ["http-redirect-code"] = { type = "enum", values = { 301, 302, 307, 308 }, default = 308, doc = "Status of redirects from the other name." },
  },
}

function policy.attach_host(host, annotations, settings)
  if not annotations["from-to-www-redirect"] then return end
  if host.name == "_" or host.name:find("*", 1, true) then
    return host:warn("from-to-www-redirect: true has no effect on " .. host.name)
  end
  local other = host.name:match("^www%.(.+)$") or "www." .. host.name
  host:add_redirect_host(other)
  return { from = other, to = host.name, code = settings["http-redirect-code"] }
end

function policy.attach(route, annotations)
  -- Of the redirects that the core makes: "/p" to "/p/".
  if annotations["relative-redirects"] then route:set("relative_redirects", true) end
  if annotations["use-port-in-redirects"] then route:set("port_in_redirects", true) end
  local target, code = annotations["temporal-redirect"], annotations["temporal-redirect-code"]
  if not target then target, code = annotations["permanent-redirect"], annotations["permanent-redirect-code"] end
  if not target then return end
  return {
    code = code, location = target, is_path = target:sub(1, 1) == "/" and not annotations["relative-redirects"],
    writes_port = annotations["use-port-in-redirects"],
  }
end

local STANDARD = { http = 80, https = 443 }

--- What X-Forwarded-Port says to the application: the listener's port, or what a trusted proxy in front of us said.
local PASSED_PORT = moongate.template("$pass_server_port")

--- The port of an address with the client's scheme; the listener's is of no use where TLS ended in front of us.
local function port_of(exchange, scheme)
  local listener, port = exchange.listener, tonumber(PASSED_PORT:expand(exchange))
  if port == listener.port and listener.scheme ~= scheme then return STANDARD[scheme] end
  return port
end

function policy.server_rewrite(exchange, config)
  local request = exchange.request
  if request.host ~= config.from then return end
  local scheme, uri = exchange.client.scheme, request.uri
  if uri:sub(-1) == "/" then uri = uri:sub(1, -2) end
  return exchange:redirect(config.code, scheme .. "://" .. config.to .. ":" .. port_of(exchange, scheme) .. uri)
end

function policy.rewrite(exchange, config)
  local location = config.location
  if config.is_path then
    local scheme, host = exchange.client.scheme, exchange.request.host
    if host == "" then host = exchange.host_name end
    local port = config.writes_port and port_of(exchange, scheme)
    if port and port ~= STANDARD[scheme] then host = host .. ":" .. port end
    location = scheme .. "://" .. host .. location
  end
  return exchange:redirect(config.code, location)
end

return policy
