--- How long the head of an answer may be.
local policy = {
  name = "head-size",
  summary = "Limits the head of the application's answers.",
  annotations = {
    ["proxy-buffer-size"] = {
      type = "size", units = "kmg", min = 512, max = 1048576, setting = "proxy-buffer-size",
      doc = "Bytes of an answer's head, 32k unless given; a longer one is answered with 502.",
    },
  },
}

function policy.attach(route, annotations)
  if annotations["proxy-buffer-size"] then route:set("head_limit", annotations["proxy-buffer-size"]) end
end

return policy
