--- What the application speaks.
local policy = {
  name = "backend-protocol",
  summary = "Says what the application speaks.",
  annotations = {
    ["backend-protocol"] = {
      type = "enum", values = { "HTTP", "HTTPS", "AUTO_HTTP", "GRPC", "GRPCS", "FCGI" }, ignore_case = true, default = "HTTP",
      doc = "`HTTP` or `HTTPS` (whose certificate is not verified). The others are not yet supported.",
    },
  },
}

function policy.attach(route, annotations)
  local protocol = annotations["backend-protocol"]
  if protocol == "HTTPS" then
    route:set("protocol", "https")
  elseif protocol ~= "HTTP" then
    route:deny("backend-protocol: " .. protocol .. " is not yet supported")
  end
end

return policy
