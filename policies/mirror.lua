--- A copy of each request for somebody else, who is not waited for.
local policy = {
  name = "mirror",
  summary = "Sends a copy of each request to another address.",
  on_error = "skip",
  annotations = {
    ["mirror-target"] = {
      type = "template", pattern = "^https?://[%w%.%-:%[%]_]+[%w%-%._~:/?#%[%]@!$&'()*+,;=%%{}]*$", max_length = 2048, risk = "high",
      doc = "URL that gets a copy of each request that was let in; variables are allowed after its host. The answer is dropped.",
    },
    ["mirror-host"] = {
      type = "string", pattern = "^[%w%.%-:%[%]_]+$", max_length = 253, requires = "mirror-target", risk = "high",
      doc = "Host of the copy; that of the URL otherwise.",
    },
    ["mirror-request-body"] = {
      type = "boolean", style = "on_off", default = true, requires = "mirror-target",
      doc = "`off`: the copy has no body. `on`: bodies of up to 64 KiB are copied, requests with larger ones are not.",
    },
  },
}

local MAX_BODY = 65536

function policy.attach(_, annotations)
  local target = annotations["mirror-target"]
  if target then return { target = target, host = annotations["mirror-host"], with_body = annotations["mirror-request-body"] } end
end

function policy.access(exchange, config)
  if config.with_body then exchange.request:body { max = MAX_BODY } end -- to have it; what cannot be held is not copied, and is counted
  exchange:mirror { url = config.target:expand(exchange), host = config.host, body = config.with_body }
end

return policy
