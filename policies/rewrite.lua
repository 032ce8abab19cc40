--- Changes the path on its way to the application, and what a path of an Ingress means.
local moongate = require "moongate"

local policy = {
  name = "rewrite",
  summary = "Rewrites the path, switches a host to regex paths, names the start page.",
  annotations = {
    ["rewrite-target"] = {
      type = "string", pattern = "^[%w%-%._~/:$]+$", max_length = 2048, risk = "medium",
      doc = "The path that the application sees; $1 to $9 are the groups of the rule's path, which is a regex then.",
    },
    ["use-regex"] = { type = "boolean", default = false, doc = "All paths of the host are regexes, case-insensitive, the longest first." },
    ["app-root"] = {
      type = "path", pattern = "^[%w%-%._~/:$]+$", max_length = 2048, scope = "host", risk = "medium", doc = "Where a request for / is sent.",
    },
    ["x-forwarded-prefix"] = {
      type = "string", pattern = "^[%w%-%._~/:$]+$", max_length = 2048, requires = "rewrite-target", risk = "medium",
      doc = "X-Forwarded-Prefix of rewritten requests; $1 to $9 as in rewrite-target.",
    },
  },
}

--- A target may hold $1 to $9 and no variable by name.
local function has_only_groups(text)
  return not text:gsub("%$[1-9]", ""):find("$", 1, true)
end

--- The rewrite-target, if it is one.
local function target_of(annotations)
  local target = annotations["rewrite-target"]
  if not target or target:find("://", 1, true) or not has_only_groups(target) then return nil end
  if target:sub(1, 1) ~= "/" then target = "/" .. target end
  return target
end

function policy.attach_host(host, annotations)
  for _, source in ipairs(host.sources) do
    local target = target_of(source.annotations)
    local is_regex = source.annotations["use-regex"]
    for _, path in ipairs(source.paths or {}) do
      if type(path) == "table" then path = path.path end
      if target and target ~= path then is_regex = true end
    end
    if is_regex then host:set("regex", true) end
  end
  if annotations["app-root"] then return { app_root = annotations["app-root"] }, { server_rewrite = { path = "/" } } end
end

function policy.attach(route, annotations)
  local target = target_of(annotations)
  if annotations["rewrite-target"] and not target then
    route:warn("rewrite-target: " .. annotations["rewrite-target"] .. " has more than a path with $1 to $9")
  end
  if not target or target == route.path then return end
  local prefix = annotations["x-forwarded-prefix"]
  if prefix and not has_only_groups(prefix) then
    route:warn("x-forwarded-prefix: " .. prefix .. " has more than a path with $1 to $9")
    prefix = nil
  end
  local ok, regex = pcall(moongate.regex, route.path, { ignore_case = true })
  if not ok then return route:warn("rewrite-target: " .. target .. " has no effect, the path " .. route.path .. " is no regex (" .. tostring(regex) .. ")") end
  return { regex = regex, target = target, prefix = prefix, has_groups = (target .. (prefix or "")):find("$", 1, true) ~= nil }
end

--- The start page: before any route is looked for, hence ahead of redirects to HTTPS.
function policy.server_rewrite(exchange, config)
  local host = exchange.request.headers:get("Host") or exchange.host_name
  return exchange:redirect(302, exchange.listener.scheme .. "://" .. host .. config.app_root)
end

local function fill(text, groups)
  return (text:gsub("%$([1-9])", function(digit) return groups[digit + 1] or "" end))
end

function policy.rewrite(exchange, config)
  local request = exchange.request
  local path, prefix = config.target, config.prefix
  if config.has_groups then
    local groups = { config.regex:match(request.path) }
    if not groups[1] then return end
    path, prefix = fill(path, groups), prefix and fill(prefix, groups)
  elseif not config.regex:match(request.path) then
    return
  end
  if prefix == "" then
    request.headers:remove("X-Forwarded-Prefix") -- the client's own is not this one
  elseif prefix then
    -- Groups of the path are decoded: a %0D in it must not end the field, nor fail the request.
    request.headers:set("X-Forwarded-Prefix", (prefix:gsub("%c", function(byte) return ("%%%02X"):format(byte:byte()) end)))
  end
  request:set_path(path)
end

return policy
