--- How large a request may be.
local policy = {
  name = "body-size",
  summary = "Limits the size of request bodies, and how much of one is held in memory.",
  annotations = {
    ["proxy-body-size"] = {
      type = "size", units = "kmg", setting = "proxy-body-size", default = "1m", risk = "medium", doc = "Larger bodies get 413; 0 allows any size.",
    },
    ["client-body-buffer-size"] = {
      type = "size", units = "km", setting = "client-body-buffer-size", doc = "Bytes of a body that are held before the application is asked.",
    },
  },
}

function policy.attach(route, annotations)
  route:set("body_limit", annotations["proxy-body-size"])
  if annotations["client-body-buffer-size"] then route:set("request_body_buffer", annotations["client-body-buffer-size"]) end
end

return policy
