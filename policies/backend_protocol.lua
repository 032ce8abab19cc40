--- What the application speaks.
local policy = {
  name = "backend-protocol",
  summary = "Says what the application speaks.",
  annotations = {
    ["backend-protocol"] = {
      type = "enum", values = { "HTTP", "HTTPS", "AUTO_HTTP", "GRPC", "GRPCS", "FCGI" }, ignore_case = true, default = "HTTP",
      doc = "`HTTP`, `HTTPS` (whose certificate is not verified), or `AUTO_HTTP`: as the visitor came. The others are not yet supported.",
    },
  },
}

function policy.attach(route, annotations)
  local protocol = annotations["backend-protocol"]
  if protocol == "HTTPS" then
    route:set("protocol", "https")
  elseif protocol == "AUTO_HTTP" then
    route:set("protocol", "auto")
  elseif protocol ~= "HTTP" then
    route:deny("backend-protocol: " .. protocol .. " is not yet supported")
  end
end

return policy
