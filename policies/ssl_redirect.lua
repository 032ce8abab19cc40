--- Sends plain HTTP to HTTPS.
local policy = {
  name = "ssl-redirect",
  summary = "Redirects plain HTTP to HTTPS.",
  applies = "always", -- the setting's default is on
  annotations = {
    ["ssl-redirect"] = { type = "boolean", setting = "ssl-redirect", default = true, doc = "Redirect to HTTPS when the host has a certificate." },
    ["force-ssl-redirect"] = {
      type = "boolean", setting = "force-ssl-redirect", default = false, risk = "medium", doc = "Redirect even without one (TLS ended in front of us).",
    },
    ["preserve-trailing-slash"] = {
      type = "boolean", setting = "preserve-trailing-slash", default = false, risk = "medium", doc = "Keep a slash that ends the address.",
    },
    ["use-port-in-redirects"] = {
      type = "boolean", setting = "use-port-in-redirects", default = false, doc = "Write our HTTPS port into the new address.",
    },
  },
  settings = {
    ["http-redirect-code"] = { type = "enum", values = { 301, 302, 307, 308 }, default = 308, doc = "Status of redirects to HTTPS." },
    ["no-tls-redirect-locations"] = {
      type = "list", of = "string", default = "/.well-known/acme-challenge", doc = "Paths that stay on plain HTTP, with all below them.",
    },
  },
}

local function begins_with(text, prefix)
  return text:sub(1, #prefix) == prefix
end

function policy.attach(route, annotations, settings)
  local host = route.host
  if not (annotations["force-ssl-redirect"] or (annotations["ssl-redirect"] and host.tls)) then return end
  local exempt = {}
  for _, prefix in ipairs(settings["no-tls-redirect-locations"]) do
    if begins_with(route.path, prefix) then return end
    if begins_with(prefix, route.path) or route.path_type ~= "Prefix" then exempt[#exempt + 1] = prefix end
  end
  return {
    code = settings["http-redirect-code"],
    keeps_slash = annotations["preserve-trailing-slash"],
    port = annotations["use-port-in-redirects"] and (host.listener.https_port or 443) or nil,
    exempt = #exempt > 0 and exempt or nil,
  }
end

local function is_exempt(path, prefixes)
  for i = 1, #prefixes do
    if begins_with(path, prefixes[i]) then return true end
  end
end

function policy.rewrite(exchange, config)
  if exchange.client.scheme ~= "http" then return end
  local request = exchange.request
  if config.exempt and is_exempt(request.path, config.exempt) then return end
  local uri, host = request.uri, request.host
  if host == "" then host = exchange.host_name end
  if not config.keeps_slash and uri:sub(-1) == "/" then uri = uri:sub(1, -2) end
  if config.port then host = host .. ":" .. config.port end
  return exchange:redirect(config.code, "https://" .. host .. uri)
end

return policy
