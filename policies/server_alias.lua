--- Further names of a host.
local policy = {
  name = "server-alias",
  summary = "Further names that a host answers to.",
  annotations = {
    ["server-alias"] = {
      type = "list", of = { type = "string", pattern = "^[%*%w][%w%-%._%*]*$", max_length = 253 }, skip_invalid_items = true, scope = "host", risk = "high",
      doc = "Names, comma-separated; `*.name` for all one label below. A name that is the host of another Ingress stays there.",
    },
  },
}

function policy.attach_host(host, annotations)
  for _, name in ipairs(annotations["server-alias"] or {}) do
    local rest = name:gsub("^%*%.", "")
    if rest:find("*", 1, true) then
      host:warn("server-alias: " .. name .. " has a * that is not its first label")
    elseif name:lower() ~= host.name then
      host:add_alias(name)
    end
  end
end

return policy
