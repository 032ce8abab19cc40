--- Tells browsers to come back over HTTPS only.
local policy = {
  name = "hsts",
  summary = "Adds Strict-Transport-Security to answers over HTTPS.",
  applies = "always", -- the setting's default is on
  settings = {
    ["hsts"] = { type = "boolean", default = true, doc = "Add the header." },
    ["hsts-max-age"] = { type = "integer", min = 0, default = 31536000, doc = "Seconds for which browsers remember it." },
    ["hsts-include-subdomains"] = { type = "boolean", default = true, doc = "It holds for names below the host too." },
    ["hsts-preload"] = { type = "boolean", default = false, doc = "Browsers' makers may list the host." },
  },
}

function policy.attach(route, _, settings)
  if not settings["hsts"] then return end
  local value = "max-age=" .. ("%d"):format(settings["hsts-max-age"])
  if settings["hsts-include-subdomains"] then value = value .. "; includeSubDomains" end
  if settings["hsts-preload"] then value = value .. "; preload" end
  route:set_response_header("Strict-Transport-Security", value, "https")
end

return policy
