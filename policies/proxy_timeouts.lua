--- How long we wait for the application.
local policy = {
  name = "proxy-timeouts",
  summary = "Sets how long to wait for the application.",
  annotations = {
    ["proxy-connect-timeout"] = {
      type = "integer", min = 1, max = 86400, setting = "proxy-connect-timeout", default = 5, doc = "Seconds for connecting to an endpoint.",
    },
    ["proxy-read-timeout"] = {
      type = "integer", min = 1, max = 31536000, setting = "proxy-read-timeout", default = 60, doc = "Seconds of silence while the answer is read.",
    },
    ["proxy-send-timeout"] = {
      type = "integer", min = 1, max = 31536000, setting = "proxy-send-timeout", default = 60, doc = "Seconds of silence while the request is sent.",
    },
  },
}

function policy.attach(route, annotations)
  route:set("connect_timeout", annotations["proxy-connect-timeout"])
  route:set("read_timeout", annotations["proxy-read-timeout"])
  route:set("send_timeout", annotations["proxy-send-timeout"])
end

return policy
