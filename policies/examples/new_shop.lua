--- A user's policy, mounted from a ConfigMap: a share of the visitors sees the new shop and stays there.
local moongate = require "moongate"

local policy = {
  name = "new-shop",
  summary = "Sends a share of the visitors to another Service and keeps them there.",
  annotations = {
    ["new-shop-percent"] = { type = "integer", min = 0, max = 100, doc = "Share of visitors, in percent." },
    ["new-shop-service"] = { type = "service", requires = "new-shop-percent", doc = "Service and port that serves them, name:port." },
  },
}

function policy.attach(route, annotations)
  if annotations["new-shop-percent"] then
    return { percent = annotations["new-shop-percent"], upstream = route:upstream(annotations["new-shop-service"]) }
  end
end

function policy.access(exchange, config) -- which upstream: chosen once
  local side = exchange.request.cookies:get("shop")
  if side ~= "new" and side ~= "old" then
    side = moongate.random(100) <= config.percent and "new" or "old"
    exchange.ctx.new_side = side
  end
  if side == "new" then exchange:use_upstream(config.upstream) end
end

function policy.header_filter(exchange) -- runs on every answer, errors of our own included
  if exchange.ctx.new_side then
    local cookie = moongate.cookie.format("shop", exchange.ctx.new_side, { path = "/", http_only = true })
    exchange.response.headers:add("Set-Cookie", cookie)
  end
end

return policy
