--- A fixed Connection header for the application.
local policy = {
  name = "connection-proxy-header",
  summary = "Sets the Connection header that the application sees.",
  annotations = {
    ["connection-proxy-header"] = {
      type = "enum", values = { "close", "keep-alive" }, doc = "The Connection header sent to the application. WebSockets no longer work with it.",
    },
  },
}

function policy.attach(route, annotations)
  if annotations["connection-proxy-header"] then route:set_request_header("Connection", annotations["connection-proxy-header"]) end
end

return policy
