--- Limits requests and connections of each visitor, by Ingress, in this replica. They count before anybody is asked who he is.
local moongate = require "moongate"

local policy = {
  name = "limits",
  summary = "Limits how often and how many times at once a visitor asks.",
  annotations = {
    ["limit-connections"] = { type = "integer", min = 0, doc = "Requests of one visitor in flight at once; 0: no limit." },
    ["limit-rps"] = { type = "integer", min = 0, doc = "Requests of one visitor in a second; 0: no limit." },
    ["limit-rpm"] = { type = "integer", min = 0, doc = "Requests of one visitor in a minute; 0: no limit." },
    ["limit-burst-multiplier"] = { type = "integer", min = 1, default = 5, doc = "As many times the limit may come at once." },
    ["limit-allowlist"] = { type = "cidr_list", alias = "limit-whitelist", doc = "Addresses that are not limited." },
  },
  settings = {
    ["limit-req-status-code"] = { type = "integer", min = 400, max = 599, default = 503, doc = "Status of a request beyond limit-rps or limit-rpm." },
    ["limit-conn-status-code"] = { type = "integer", min = 400, max = 599, default = 503, doc = "Status of a request beyond limit-connections." },
    ["limit-conn-zone-variable"] = {
      type = "template", default = "$binary_remote_addr", doc = "What tells visitors apart; who has none is not limited.",
    },
  },
}

local requests, connections = moongate.shared.dict "limit-requests", moongate.shared.dict "limit-connections"

function policy.attach(route, annotations, settings)
  local multiplier, rates = annotations["limit-burst-multiplier"], {}
  local rpm, rps, most = annotations["limit-rpm"] or 0, annotations["limit-rps"] or 0, annotations["limit-connections"] or 0
  if rpm > 0 then rates[1] = { mark = "m", rate = rpm / 60, burst = rpm * multiplier } end
  if rps > 0 then rates[#rates + 1] = { mark = "s", rate = rps, burst = rps * multiplier } end
  if #rates == 0 and most == 0 then return end
  return {
    of = route.source.namespace .. "/" .. route.source.name .. " ",
    rates = rates, connections = most, exempt = annotations["limit-allowlist"],
    visitor = settings["limit-conn-zone-variable"],
    request_status = settings["limit-req-status-code"], connection_status = settings["limit-conn-status-code"],
  }
end

--- Who it is, in the space of a key.
local function key_of(exchange, config)
  local visitor = config.visitor:expand(exchange)
  if visitor == "" then return nil end
  if #visitor > 128 then visitor = moongate.hash.sha256(visitor) end
  local key = config.of .. visitor
  return #key < 500 and key or moongate.hash.sha256(key)
end

function policy.access(exchange, config)
  if config.exempt and config.exempt:contains(exchange.client.ip) then return end
  local key, rates = key_of(exchange, config), config.rates
  if not key then return end
  -- Both buckets must have room before anything is put into one.
  for i = 1, #rates > 1 and #rates or 0 do
    if not requests:may_take(rates[i].mark .. key, rates[i].rate, rates[i].burst) then
      return exchange:deny(config.request_status, "more requests than limit-rp" .. rates[i].mark .. " allows")
    end
  end
  for i = 1, #rates do
    if not requests:take(rates[i].mark .. key, rates[i].rate, rates[i].burst) then
      return exchange:deny(config.request_status, "more requests than limit-rp" .. rates[i].mark .. " allows")
    end
  end
  if config.connections > 0 and not connections:acquire(key, config.connections) then
    return exchange:deny(config.connection_status, "more requests at once than limit-connections allows")
  end
end

return policy
