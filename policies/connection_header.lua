--- What is said to the application about its connection.
local policy = {
  name = "connection-header",
  summary = "Sets the Connection header that the application sees.",
  annotations = {
    ["connection-proxy-header"] = {
      type = "enum", values = { "close", "keep-alive" },
      doc = "`close`: a connection for each request. `keep-alive`: says what HTTP/1.1 means anyway. Upgrades, such as WebSockets, do not work then.",
    },
  },
}

function policy.attach(route, annotations)
  if annotations["connection-proxy-header"] then route:set_request_header("Connection", annotations["connection-proxy-header"]) end
end

return policy
