--- Response headers from a ConfigMap.
local policy = {
  name = "custom-headers",
  summary = "Sets response headers from a ConfigMap.",
  annotations = {
    ["custom-headers"] = {
      type = "config_map", on_invalid = "deny", risk = "medium",
      doc = "ConfigMap whose keys and values are headers. Each must be listed in global-allowed-response-headers.",
    },
  },
  settings = {
    ["global-allowed-response-headers"] = { type = "header_list", skip_invalid_items = true, doc = "Headers that custom-headers may set." },
  },
}

local function allowed_set(names)
  local set = {}
  for _, name in ipairs(names or {}) do set[name:lower()] = true end
  return set
end

local function complaint_about(name, value, allowed)
  if not name:find("^[%w%-_]+$") then return "has the key " .. name .. ", which is not a header name" end
  if value:find("%c") then return "has a control character in the value of " .. name end
  if not allowed[name:lower()] then return "has the header " .. name .. ", which global-allowed-response-headers does not list" end
end

function policy.attach(route, annotations, settings)
  local ref = annotations["custom-headers"]
  if not ref then return end
  local data, problem = route:config_map(ref)
  if not data then return route:deny("custom-headers: " .. ref .. " " .. (problem or "does not exist")) end
  local allowed, names, literal = allowed_set(settings["global-allowed-response-headers"]), {}, {}
  for name in pairs(data) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = data[name]:gsub("^%s+", ""):gsub("%s+$", "")
    local complaint = complaint_about(name, value, allowed)
    if complaint then return route:deny("custom-headers: " .. ref .. " " .. complaint) end
    -- A fixed edit reads variables, and here a dollar is a dollar.
    if value:find("$", 1, true) then
      literal[#literal + 1] = { name, value }
    else
      route:set_response_header(name, value)
    end
  end
  if #literal > 0 then return literal end
end

function policy.header_filter(exchange, literal)
  for i = 1, #literal do exchange.response.headers:set(literal[i][1], literal[i][2]) end
end

return policy
