--- The Service's own address instead of its endpoints.
local policy = {
  name = "service-upstream",
  summary = "Connects to a Service's cluster address instead of its endpoints.",
  annotations = {
    ["service-upstream"] = {
      type = "boolean", setting = "service-upstream", default = false, scope = "upstream",
      doc = "Connect to the Service's cluster address. Sessions do not stick then, and nothing can be tried again elsewhere.",
    },
  },
}

function policy.attach(route, annotations)
  if annotations["service-upstream"] then route:set("use_service_address", true) end
end

return policy
