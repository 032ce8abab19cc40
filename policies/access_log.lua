--- Whether requests are written to the access log.
local policy = {
  name = "access-log",
  summary = "Leaves routes out of the access log.",
  annotations = {
    ["enable-access-log"] = { type = "boolean", default = true, doc = "`false`: no line in the access log." },
  },
}

function policy.attach(route, annotations)
  if not annotations["enable-access-log"] then route:set("access_log", false) end
end

return policy
