--- Redirects of the application, with another beginning.
local policy = {
  name = "proxy-redirect",
  summary = "Changes the beginning of Location and Refresh in the application's answers.",
  annotations = {
    ["proxy-redirect-from"] = {
      type = "string", max_length = 2048, setting = "proxy-redirect-from", default = "off", risk = "medium",
      doc = "The text that Location and Refresh begin with; `off` and `default` change nothing.",
    },
    ["proxy-redirect-to"] = {
      type = "template", max_length = 2048, setting = "proxy-redirect-to", default = "off", risk = "medium", doc = "What is written in its place.",
    },
  },
}

function policy.attach(route, annotations)
  local from, to = annotations["proxy-redirect-from"], annotations["proxy-redirect-to"]
  if from == "off" or from == "default" or tostring(to) == "off" then return end
  if from:sub(1, 1) == "~" or from:find("$", 1, true) then
    return route:warn("proxy-redirect-from: " .. from .. " has a pattern or a variable, which is not yet supported")
  end
  return { from = from, to = to }
end

function policy.header_filter(exchange, config)
  local response = exchange.response
  if response.source ~= "upstream" then return end
  local headers, from = response.headers, config.from
  local location = headers:get("Location")
  if location and location:sub(1, #from) == from then
    headers:set("Location", config.to:expand(exchange) .. location:sub(#from + 1))
  end
  local refresh = headers:get("Refresh")
  local head, url = (refresh or ""):match("^(.-[uU][rR][lL]=)(.*)$")
  if url and url:sub(1, #from) == from then
    headers:set("Refresh", head .. config.to:expand(exchange) .. url:sub(#from + 1))
  end
end

return policy
