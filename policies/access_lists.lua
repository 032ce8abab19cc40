--- Lets in, or keeps out, by the visitor's address. One guard, so that the deny list stands before the allow list under `satisfy: any` too.
local policy = {
  name = "access-lists",
  summary = "Lets visitors in, or keeps them out, by their address.",
  guard = true,
  annotations = {
    ["allowlist-source-range"] = {
      type = "cidr_list", alias = "whitelist-source-range", setting = "whitelist-source-range", risk = "medium",
      doc = "Only these addresses are let in, all others get 403.",
    },
    ["denylist-source-range"] = {
      type = "cidr_list", setting = "denylist-source-range", risk = "medium", doc = "These addresses get 403, before the allow list is asked.",
    },
  },
  settings = {
    ["block-cidrs"] = { type = "cidr_list", doc = "These addresses get 403 on every route, whatever an Ingress says." },
  },
}

function policy.attach(_, annotations, settings)
  local allowed, denied, blocked = annotations["allowlist-source-range"], annotations["denylist-source-range"], settings["block-cidrs"]
  if not (allowed or denied or blocked) then return end
  local hooks = {}
  if blocked then hooks.rewrite = { client_in = blocked } end
  if allowed and denied then
    hooks.access = true
  elseif allowed then
    hooks.access = { client_not_in = allowed, otherwise = "allow" }
  elseif denied then
    hooks.access = { client_in = denied }
  end
  return { allowed = allowed, denied = denied }, hooks
end

-- The controller's own list admits nobody else's opinion.
function policy.rewrite(exchange)
  return exchange:deny(403, "the address is in block-cidrs")
end

function policy.access(exchange, config)
  local ip = exchange.client.ip
  if config.denied and config.denied:contains(ip) then return exchange:deny(403, "the address is in the deny list") end
  if not config.allowed then return end
  if config.allowed:contains(ip) then return exchange:allow() end
  return exchange:deny(403, "the address is not in the allow list")
end

return policy
