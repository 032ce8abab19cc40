--- Whether a request body is held before the application is asked.
local policy = {
  name = "request-buffering",
  summary = "Holds request bodies, or streams them on as they arrive.",
  annotations = {
    ["proxy-request-buffering"] = {
      type = "boolean", style = "on_off", setting = "proxy-request-buffering", default = true,
      doc = "`off` streams a body on while it arrives; what was sent cannot be tried again.",
    },
  },
}

function policy.attach(route, annotations)
  route:set("request_buffering", annotations["proxy-request-buffering"])
end

return policy
