--- Another Host for the application.
local policy = {
  name = "upstream-vhost",
  summary = "Sets the Host that the application sees.",
  annotations = {
    ["upstream-vhost"] = {
      type = "template", pattern = "^[%w%-%._~:$%[%]{}]+$", max_length = 512,
      doc = "The Host header sent to the application; variables are allowed. X-Forwarded-Host keeps the visitor's.",
    },
  },
}

function policy.attach(route, annotations)
  if annotations["upstream-vhost"] then route:set("upstream_host", annotations["upstream-vhost"]) end
end

return policy
