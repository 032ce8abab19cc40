--- When another endpoint is tried.
local WORDS = {
  "error", "timeout", "invalid_header", "http_500", "http_502", "http_503", "http_504", "http_403", "http_404", "http_429", "non_idempotent", "off",
}

local policy = {
  name = "next-upstream",
  summary = "Says after which failures another endpoint is tried, how often, and for how long.",
  annotations = {
    ["proxy-next-upstream"] = {
      type = "list", separator = " ", values = WORDS, setting = "proxy-next-upstream", default = "error timeout", risk = "medium",
      doc = "Failures after which another endpoint is tried; `non_idempotent` includes POST, LOCK and PATCH.",
    },
    ["proxy-next-upstream-tries"] = {
      type = "integer", min = 0, max = 1000, setting = "proxy-next-upstream-tries", default = 3, doc = "Tries in all; 0: each endpoint once.",
    },
    ["proxy-next-upstream-timeout"] = {
      type = "integer", min = 0, max = 86400, setting = "proxy-next-upstream-timeout", default = 0, doc = "Seconds for all tries; 0 for no limit.",
    },
  },
  settings = {
    ["retry-non-idempotent"] = { type = "boolean", default = false, doc = "Try again with POST, LOCK and PATCH too." },
  },
}

function policy.attach(route, annotations, settings)
  local words, non_idempotent = {}, settings["retry-non-idempotent"]
  for _, word in ipairs(annotations["proxy-next-upstream"]) do
    if word == "non_idempotent" then non_idempotent = true else words[#words + 1] = word end
  end
  route:set("retry_on", words)
  route:set("retry_non_idempotent", non_idempotent)
  route:set("retry_tries", annotations["proxy-next-upstream-tries"])
  route:set("retry_timeout", annotations["proxy-next-upstream-timeout"])
end

return policy
