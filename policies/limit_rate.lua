--- How fast answers go out.
local policy = {
  name = "limit-rate",
  summary = "How fast answers go out.",
  annotations = {
    ["limit-rate"] = { type = "integer", min = 0, max = 4194304, setting = "limit-rate", default = 0, doc = "KiB of one answer in a second; 0: no limit." },
    ["limit-rate-after"] = {
      type = "integer", min = 0, max = 4294967296, setting = "limit-rate-after", default = 0, doc = "KiB that go out at full speed first.",
    },
  },
}

function policy.attach(route, annotations)
  if annotations["limit-rate"] == 0 then return end
  route:set("limit_rate", annotations["limit-rate"] * 1024)
  route:set("limit_rate_after", annotations["limit-rate-after"] * 1024)
end

return policy
