--- Error pages from a Service, and a Service for who has no endpoint.
local policy = {
  name = "custom-http-errors",
  summary = "Replaces answers with certain statuses by those of the default backend, which also stands in for a Service without endpoints.",
  annotations = {
    ["custom-http-errors"] = {
      type = "status_list", min = 400, max = 599,
      doc = "Statuses whose answers the default backend replaces, those of Moongate itself included. Takes the place of the ConfigMap's list.",
    },
    ["default-backend"] = {
      type = "string", pattern = "^[a-z][a-z0-9-]*$", max_length = 63,
      doc = "A Service of the same namespace, by its first port: answers errors of custom-http-errors, and requests while the route's own has no endpoint.",
    },
    ["disable-proxy-intercept-errors"] = {
      type = "boolean", setting = "disable-proxy-intercept-errors", default = false,
      doc = "`true`: only Moongate's own errors are replaced, never an application's answer.",
    },
  },
  settings = {
    ["custom-http-errors"] = {
      type = "status_list", min = 300, max = 599, skip_invalid_items = true, doc = "Statuses whose answers the default backend of all replaces.",
    },
  },
}

function policy.attach(route, annotations, settings)
  local service, listed = annotations["default-backend"], annotations["custom-http-errors"]
  local statuses, hooks = listed or settings["custom-http-errors"] or {}, {}
  if service then
    route:set("fallback_upstream", service)
    hooks[1] = "balancer"
  end
  if #statuses > 0 then
    route:set("intercept_errors", not annotations["disable-proxy-intercept-errors"])
    hooks[#hooks + 1] = "header_filter"
  end
  if #hooks == 0 then return end
  local main = route.upstreams[1] or {}
  local config = { namespace = route.source.namespace, ingress = route.source.name, service = main.service or "", port = main.port or "", codes = {} }
  config.upstream = listed and service and route:upstream(service) -- what the ConfigMap lists is for the default backend of all
  for _, status in ipairs(statuses) do config.codes[tostring(status)] = true end
  return config, hooks
end

--- What ingress-nginx tells its error pages.
local function headers(exchange, config, code)
  return {
    ["X-Code"] = code,
    ["X-Format"] = exchange.request.headers:get("Accept") or "",
    ["X-Original-URI"] = exchange.request.uri,
    ["X-Namespace"] = config.namespace,
    ["X-Ingress-Name"] = config.ingress,
    ["X-Service-Name"] = config.service,
    ["X-Service-Port"] = config.port,
  }
end

--- A Service that has no endpoint is as good as none that is named: the default backend of all.
local function pages(config)
  if not config.upstream then return nil end
  local _, ready = config.upstream:count()
  return ready > 0 and config.upstream or nil
end

function policy.balancer(exchange, config)
  if not exchange.upstream.fallback then return end
  for name, value in pairs(headers(exchange, config, "503")) do exchange.request.headers:set(name, value) end
end

function policy.header_filter(exchange, config)
  local response = exchange.response
  local status = response.status
  if status < 300 then return end
  local ctx, source = exchange.ctx, response.source
  if ctx.is_replaced then
    -- Without it nobody could log in.
    if status == 401 and ctx.challenge and not response.headers:get("WWW-Authenticate") then response.headers:set("WWW-Authenticate", ctx.challenge) end
    return
  end
  local code = tostring(status)
  if not config.codes[code] or (source == "upstream" and exchange.upstream.fallback) then return end
  ctx.is_replaced, ctx.challenge = true, response.headers:all("WWW-Authenticate")
  return exchange:replace_response(pages(config), { path = "/", headers = headers(exchange, config, code) })
end

return policy
