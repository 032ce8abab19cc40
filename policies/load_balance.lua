--- How requests are spread over the endpoints of a Service.
local policy = {
  name = "load-balance",
  summary = "Spreads requests in turn, by load, by speed, or by a hash.",
  annotations = {
    ["load-balance"] = {
      -- The last four are names that ingress-nginx uses inside; it takes them for the default.
      type = "enum", values = { "round_robin", "least_connections", "ewma", "chash", "chashsubset", "sticky_balanced", "sticky_persistent" },
      setting = "load-balance", default = "round_robin", scope = "upstream",
      doc = "`round_robin`: in turn. `least_connections`: who has the fewest requests. `ewma`: the quicker one of two.",
    },
    ["upstream-hash-by"] = {
      type = "template", pattern = "^[%w%-_${}]+$", scope = "upstream", risk = "high",
      doc = "Text with variables, such as $request_uri: equal text goes to the same endpoint. Wins over load-balance.",
    },
    ["upstream-hash-by-subset"] = {
      type = "boolean", default = false, scope = "upstream", requires = "upstream-hash-by", doc = "Equal text goes to a group of endpoints.",
    },
    ["upstream-hash-by-subset-size"] = {
      type = "integer", min = 1, max = 1000, default = 3, scope = "upstream", requires = "upstream-hash-by-subset", doc = "How many are a group.",
    },
  },
}

local BALANCERS = { least_connections = true, ewma = true }

function policy.attach(route, annotations)
  local by = annotations["upstream-hash-by"]
  if by then
    route:set("balancer", "hash")
    route:set("hash_by", by)
    if annotations["upstream-hash-by-subset"] then route:set("hash_subset_size", annotations["upstream-hash-by-subset-size"]) end
  else
    local balancer = annotations["load-balance"]
    route:set("balancer", BALANCERS[balancer] and balancer or "round_robin")
  end
end

return policy
