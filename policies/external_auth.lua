--- Asks a service of the author's whether a visitor may come in. Its 2xx lets him in, 401 and 403 are passed on, anything else is 500: whatever becomes of the
-- service, nobody comes in because of it.
local moongate = require "moongate"

local SECONDS = 10 -- for an answer
local BODY_BYTES = 1048576 -- of its body, which nobody reads
local RECORD_BYTES = 65536 -- of an answer that is remembered
local METHODS = { "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS" }
local KEY = "^[%w_${}-]+$"
local PARAMETER = "^[%w._~:/-]+$"
local PLAIN_URL = "^[%w._~:/?#%[%]@!&'()*+,;=%%-]+$"

local policy = {
  name = "external-auth",
  summary = "Asks another service whether a visitor may come in.",
  guard = true,
  annotations = {
    ["auth-url"] = {
      type = "template", risk = "high",
      doc = "http or https URL that is asked before each request: 2xx lets it in, 401 and 403 are its answer, all else is 500.",
    },
    ["auth-method"] = { type = "enum", values = METHODS, doc = "Method of that question; GET unless given." },
    ["auth-signin"] = { type = "template", risk = "high", doc = "Where visitors go who get 401: URL or path." },
    ["auth-signin-redirect-param"] = {
      type = "string", pattern = PARAMETER, risk = "medium", doc = "Argument of auth-signin that gets the visitor's own URL; rd unless given.",
    },
    ["auth-response-headers"] = {
      type = "header_list", risk = "medium", doc = "Fields of the service's answer that the application gets, in place of what the visitor sent.",
    },
    ["auth-proxy-set-headers"] = { type = "config_map", risk = "medium", doc = "ConfigMap whose keys and values are fields of the question." },
    ["auth-request-redirect"] = {
      type = "string", pattern = PLAIN_URL, risk = "medium", doc = "X-Auth-Request-Redirect of the question; the request's own path and query unless given.",
    },
    ["auth-cache-key"] = {
      type = "template", pattern = KEY, risk = "medium", doc = "What tells visitors apart whose answers are remembered; none is unless given.",
    },
    ["auth-cache-duration"] = {
      type = "status_durations", bare_statuses = { 200, 301, 302 }, default = "200 202 401 5m", risk = "medium", doc = "How long answers are remembered.",
    },
    ["auth-always-set-cookie"] = {
      type = "boolean", default = false, doc = "Set-Cookie of the service's answer goes to the visitor with errors too.",
    },
    ["auth-keepalive"] = { type = "integer", doc = "No effect: connections to the service are kept." },
    ["auth-keepalive-requests"] = { type = "integer", doc = "No effect, as auth-keepalive." },
    ["auth-keepalive-timeout"] = { type = "integer", doc = "No effect, as auth-keepalive." },
    ["auth-keepalive-share-vars"] = { type = "boolean", doc = "No effect: the question has the request's own X-Request-ID." },
    ["enable-global-auth"] = { type = "boolean", default = true, doc = "False: global-auth-url does not hold here." },
  },
  settings = {
    ["global-auth-url"] = { type = "template", doc = "The auth-url of each Ingress that has none of its own; the other global-auth keys go with it alone." },
    ["global-auth-method"] = { type = "enum", values = METHODS, doc = "As auth-method." },
    ["global-auth-signin"] = { type = "template", doc = "As auth-signin." },
    ["global-auth-signin-redirect-param"] = { type = "string", pattern = PARAMETER, doc = "As auth-signin-redirect-param." },
    ["global-auth-response-headers"] = { type = "header_list", doc = "As auth-response-headers." },
    ["global-auth-request-redirect"] = { type = "string", pattern = PLAIN_URL, doc = "As auth-request-redirect." },
    ["global-auth-cache-key"] = { type = "template", pattern = KEY, doc = "As auth-cache-key." },
    ["global-auth-cache-duration"] = {
      type = "status_durations", bare_statuses = { 200, 301, 302 }, default = "200 202 401 5m", doc = "As auth-cache-duration.",
    },
    ["global-auth-always-set-cookie"] = { type = "boolean", default = false, doc = "As auth-always-set-cookie." },
    ["global-auth-snippet"] = { type = "string", doc = "nginx configuration text: closes what global-auth-url guards." },
    ["no-auth-locations"] = {
      type = "list", of = "string", default = "/.well-known/acme-challenge", doc = "Paths of rules that ask nobody, with all below them.",
    },
  },
}

local decisions = moongate.shared.dict "external-auth"

-------------------------------------------------------------------------------------------------------- configuration time

-- What says something only together with auth-url.
local NEED_URL = {
  "auth-method", "auth-signin", "auth-signin-redirect-param", "auth-response-headers", "auth-proxy-set-headers", "auth-request-redirect", "auth-cache-key",
}

local function set_of(names)
  local set = {}
  for name in names:gmatch("%S+") do set[name] = true end
  return set
end

-- Variables of the host: none that lets a visitor choose who vouches for him.
local HOST_VARIABLES = set_of "host http_host best_http_host server_name hostname namespace ingress_name service_name service_port"
-- Fields that belong to a connection or to framing: neither copied nor given.
local CONNECTION_FIELDS = set_of [[
  connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade content-length expect proxy
]]
-- What the visitor says of his own request: the question says it itself, or not at all.
local CLAIMS = set_of [[
  host x-original-url x-original-uri x-original-method x-sent-from x-real-ip x-request-id x-auth-request-redirect x-scheme cdn-loop forwarded
  x-forwarded-for x-forwarded-proto x-forwarded-scheme x-forwarded-host x-forwarded-port x-forwarded-uri x-forwarded-method x-forwarded-server
  x-forwarded-prefix
]]

-- As an application sees it that gets names as CGI makes them: it cannot tell "-" from "_".
local function alike(name)
  return (name:lower():gsub("_", "-"))
end

local function is_authority(text)
  local host, port = text:match("^(%[[%x:.]+%]):?(%d*)$")
  if not host then host, port = text:match("^([%w._-]+):?(%d*)$") end
  return host ~= nil and not host:find("..", 1, true) and #port < 6 and (port == "" or (tonumber(port) > 0 and tonumber(port) < 65536))
end

--- The parts of a URL with variables, each a template; or nil and why.
local function read_url(template)
  local scheme, authority, rest = tostring(template):match("^(%a+)://([^/?#]+)([^#]*)")
  scheme = scheme and scheme:lower()
  if scheme ~= "http" and scheme ~= "https" then return nil, "is not an http or https URL" end
  for name in authority:gmatch("%${?([%w_]+)") do
    if not HOST_VARIABLES[name:lower()] then return nil, "has $" .. name .. " in its host, and who is asked is not the visitor's to choose" end
  end
  local plain = authority:gsub("%$%b{}", "1"):gsub("%$[%w_]+", "1")
  if not is_authority(plain) then return nil, "has a host that is malformed" end
  if rest:sub(1, 1) ~= "/" then rest = "/" .. rest end
  return { scheme = scheme .. "://", authority = moongate.template(authority), rest = moongate.template(rest) }
end

--- Where a 401 leads to: the visitor's own URL is put into it, unless it has that argument already.
local function read_signin(template, parameter)
  local text = tostring(template)
  if not text:find("^https?://.") and not text:find("^/") and not text:find("^%$") then return nil, "is neither a URL nor a path" end
  local query = text:match("^[^?]*%?(.*)$")
  for name, value in (query or ""):gmatch("([^&=]+)=?([^&]*)") do
    if name == parameter and value ~= "" then return template end
  end
  local mark = (query or "") == "" and "?" or "&"
  return moongate.template(text .. mark .. parameter .. "=$pass_access_scheme://$http_host$escaped_request_uri")
end

--- The fields of a ConfigMap, names in lower case; or nil and why.
local function read_fields(route, ref)
  local data, problem = route:config_map(ref)
  if not data then return nil, problem or "does not exist" end
  local fields = {}
  for name, value in pairs(data) do
    value = value:match("^%s*(.-)%s*$")
    if not name:find("^[%w_-]+$") or CONNECTION_FIELDS[name:lower()] then return nil, "has the key " .. name .. ", which no field can have for a name" end
    if value:find("%c") then return nil, "has a control character in the value of " .. name end
    fields[name:lower()] = value
  end
  return fields
end

local function text_of(fields)
  local lines = {}
  for name, text in pairs(fields) do lines[#lines + 1] = name .. ": " .. text end
  table.sort(lines)
  return table.concat(lines, "\n")
end

--- The text that tells visitors apart, its variables apart from each other, so that nobody's values pass for another's; and those of them that a visitor may
--- lack, or nil.
local function read_key(template)
  local text, known = tostring(template), {}
  for name in text:gmatch("%${?([%w_]+)") do
    local low = name:lower()
    local is_field = low:find("^http_") and low ~= "http_host"
    if is_field or low:find("^cookie_") or low:find("^arg_") or low == "remote_user" then known[#known + 1] = "${" .. name .. "}" end
  end
  return moongate.template((text:gsub("%${?[%w_]+}?", "%0\n"))), #known > 0 and moongate.template(table.concat(known)) or nil
end

local function lifetimes_of(durations)
  local lifetimes = {}
  for _, item in ipairs(durations) do
    for _, status in ipairs(item.statuses) do
      local name = tostring(status)
      lifetimes[name] = lifetimes[name] or item.seconds
    end
  end
  return lifetimes
end

--- What to ask and how, from annotations or from settings: names have `prefix` before them.
local function read_choice(route, prefix, values)
  local function bad(name, why) return route:deny(("%s%s: %s"):format(prefix, name, why)) end
  local function value(name) return values[prefix .. name] end
  local config, why = read_url(value "auth-url")
  if not config then return bad("auth-url", tostring(value "auth-url") .. " " .. why) end
  config.method, config.redirect, config.always = value "auth-method", value "auth-request-redirect", value "auth-always-set-cookie"
  if value "auth-signin" then
    config.signin, why = read_signin(value "auth-signin", value "auth-signin-redirect-param" or "rd")
    if not config.signin then return bad("auth-signin", tostring(value "auth-signin") .. " " .. why) end
  end
  config.names = value "auth-response-headers" or {}
  config.alike = {}
  for _, name in ipairs(config.names) do
    config.alike[alike(name)] = true
    -- Where basic authentication takes the visitor's away, behind all hooks.
    if name:lower() == "authorization" then route:set_request_header(name, "$http_authorization") end
    if CONNECTION_FIELDS[name:lower()] then return bad("auth-response-headers", "has the item " .. name .. ", which is the connection's own field") end
  end
  if value "auth-proxy-set-headers" then
    config.fields, why = read_fields(route, value "auth-proxy-set-headers")
    if not config.fields then return bad("auth-proxy-set-headers", value "auth-proxy-set-headers" .. " " .. why) end
  end
  if value "auth-cache-key" then
    config.key, config.known = read_key(value "auth-cache-key")
    config.lifetimes = lifetimes_of(value "auth-cache-duration")
    local about = { route.host.name, route.source.namespace, route.source.name, route.path, route.path_type or "", config.method or "" }
    for _, item in ipairs { tostring(value "auth-url"), table.concat(config.names, ","), text_of(config.fields or {}) } do table.insert(about, item) end
    config.about = table.concat(about, "\n")
  end
  config.url, config.xff = moongate.template "$scheme://$http_host$request_uri", moongate.template "$full_x_forwarded_for"
  return config
end

function policy.attach(route, annotations, settings)
  if moongate.uri.is_within(route.path, settings["no-auth-locations"]) then return end
  if annotations["auth-url"] then return read_choice(route, "", annotations) end
  local is_global = settings["global-auth-url"] ~= nil and annotations["enable-global-auth"]
  for _, name in ipairs(NEED_URL) do
    local text = name .. ": has no effect without auth-url"
    -- Who writes one of these wants a guard.
    if annotations[name] and not is_global then return route:deny(text) end
    if annotations[name] then route:warn(text) end
  end
  if not is_global then return end
  if settings["global-auth-snippet"] then return route:deny("global-auth-snippet: is nginx configuration text, and there is no nginx here") end
  return read_choice(route, "global-", settings)
end

-------------------------------------------------------------------------------------------------------------- the question

local function escape(text)
  return (text:gsub("[^\33-\126]", function(byte) return ("%%%02X"):format(byte:byte()) end))
end

--- Names in lower case, so that none is there twice.
local function fields_of(exchange, config, authority)
  local request, fields = exchange.request, {}
  for name, value in request.headers:each() do
    name = name:lower()
    local before = fields[name]
    local plain = alike(name)
    if CLAIMS[plain] or CONNECTION_FIELDS[plain] or (plain ~= name and config.fields and config.fields[plain]) then -- luacheck: ignore 542
    elseif not before then
      fields[name] = value
    elseif type(before) == "table" then
      before[#before + 1] = value
    elseif name == "cookie" then
      fields[name] = before .. "; " .. value
    else
      fields[name] = { before, value }
    end
  end
  fields["host"] = authority:match("^%[.-%]") or authority:match("^[^:]+")
  fields["x-original-url"] = config.url:expand(exchange)
  fields["x-original-method"] = request.method
  fields["x-sent-from"] = "nginx-ingress-controller"
  fields["x-real-ip"] = exchange.client.ip
  fields["x-forwarded-for"] = config.xff:expand(exchange)
  fields["x-request-id"] = request.id
  fields["x-auth-request-redirect"] = config.redirect or request.uri
  if config.method then
    fields["x-original-uri"] = request.uri
    fields["x-scheme"] = exchange.client.scheme
  end
  -- So that a question that comes back to us ends.
  local passes = request.headers:all("CDN-Loop")
  passes[#passes + 1] = "moongate"
  fields["cdn-loop"] = passes
  for name, value in pairs(config.fields or {}) do fields[name] = value end
  return fields
end

--- What the service answered, as it is remembered; or nil and why.
local function ask(exchange, config)
  local authority = config.authority:expand(exchange)
  if not is_authority(authority) then return nil, "its host is malformed: " .. authority end
  local is_sent, answer, why = pcall(moongate.http.request, {
    method = config.method or "GET", url = config.scheme .. authority .. escape(config.rest:expand(exchange)):gsub("#", "%%23"),
    headers = fields_of(exchange, config, authority), timeout = SECONDS, max_body = BODY_BYTES, keep_body = false,
  })
  if not is_sent then return nil, tostring(answer) end
  if not answer then return nil, why end
  local values = {}
  for i, name in ipairs(config.names) do
    local all = answer.headers:all(name)
    values[i] = #all > 0 and table.concat(all, ", ")
  end
  return { status = answer.status, values = values, challenges = answer.headers:all("WWW-Authenticate") }, answer.headers
end

------------------------------------------------------------------------------------------------------------- what is remembered

local function key_of(exchange, config)
  -- Whoever has nothing of what tells visitors apart is not known by it.
  if config.known and config.known:expand(exchange) == "" then return nil end
  local visitor = config.key:expand(exchange)
  return visitor:find("[^\n]") and moongate.hash.sha256(config.about .. "\n" .. visitor) or nil
end

--- One hash of all the request's fields that the answer says it depends on.
local function variant_of(exchange, names)
  local values = {}
  for _, name in ipairs(names) do values[#values + 1] = table.concat(exchange.request.headers:all(name), "\1") end
  return moongate.hash.sha256(table.concat(values, "\2"))
end

local function recall(exchange, key)
  local text = decisions:get(key)
  local answer = text and moongate.json.decode(text)
  if not answer or (answer.names and variant_of(exchange, answer.names) ~= answer.variant) then return nil end
  return answer
end

--- Seconds; nil: not at all. What the service says of itself can make it shorter, never longer.
local function lifetime_of(status, headers, config)
  local seconds = config.lifetimes[tostring(status)]
  if not seconds or headers:get("Set-Cookie") then return nil end
  local control = table.concat(headers:all("Cache-Control"), ","):lower()
  if control:find("no-cache", 1, true) or control:find("no-store", 1, true) or control:find("private", 1, true) then return nil end
  local has_age = false
  for age in control:gmatch('max%-?age="?(%d+)') do
    has_age, seconds = true, math.min(seconds, tonumber(age))
  end
  if headers:get("Expires") and not has_age then return nil end
  local accel = headers:get("X-Accel-Expires")
  if accel then seconds = math.min(seconds, tonumber(accel) or 0) end
  return seconds > 0 and seconds or nil
end

local function remember(exchange, config, key, answer, headers)
  local seconds = lifetime_of(answer.status, headers, config)
  local vary = table.concat(headers:all("Vary"), ","):lower()
  if not seconds or vary:find("*", 1, true) then return end
  local record = { status = answer.status, values = answer.values, challenges = answer.challenges }
  if vary ~= "" then
    record.names = {}
    for name in vary:gmatch("[^,%s]+") do table.insert(record.names, name) end
    record.variant = variant_of(exchange, record.names)
  end
  local text = moongate.json.encode(record)
  if #text <= RECORD_BYTES then decisions:set(key, text, seconds) end
end

--------------------------------------------------------------------------------------------------------------- the decision

--- The application gets the service's fields, and none of those names from anybody else.
local function give_fields(exchange, config, values)
  local headers, found = exchange.request.headers, nil
  if #config.names == 0 then return end
  for name in headers:each() do
    if config.alike[alike(name)] then
      found = found or {}
      found[#found + 1] = name
    end
  end
  for _, name in ipairs(found or {}) do headers:remove(name) end
  for i, name in ipairs(config.names) do
    if values[i] then headers:set(name, values[i]) else headers:remove(name) end
  end
end

function policy.access(exchange, config)
  -- Who looks at the first one and who looks at the last one do not see the same visitor.
  if exchange.request.headers:all("Authorization")[2] then return exchange:deny(400, "the request has two Authorization fields") end
  local ctx, key = exchange.ctx, config.key and key_of(exchange, config)
  local answer = key and recall(exchange, key)
  if not answer then
    local more
    answer, more = ask(exchange, config)
    if not answer then return exchange:deny(500, "the authentication service did not answer: " .. more) end
    ctx.cookies = more:all("Set-Cookie")
    if key then remember(exchange, config, key, answer, more) end
  end
  local status = answer.status
  if status >= 200 and status < 300 then
    ctx.is_admitted = true
    give_fields(exchange, config, answer.values)
    return exchange:allow()
  elseif status == 401 then
    if config.signin then return exchange:redirect(302, escape(config.signin:expand(exchange))) end
    ctx.challenges = answer.challenges
    return exchange:deny(401, "the authentication service says 401")
  elseif status == 403 then
    return exchange:deny(403, "the authentication service says 403")
  end
  return exchange:deny(500, "the authentication service says " .. status)
end

-- Another guard let him in, under `satisfy: any`: nobody vouches for what he sent.
function policy.balancer(exchange, config)
  if not exchange.ctx.is_admitted then give_fields(exchange, config, {}) end
end

local COOKIE_STATUSES = set_of "200 201 204 206 301 302 303 304 307 308"

function policy.header_filter(exchange, config)
  local response, ctx = exchange.response, exchange.ctx
  local headers = response.headers
  if response.status == 401 and response.source == "policy" and config.signin then -- another guard's
    response:set_status(302)
    headers:set("Location", escape(config.signin:expand(exchange)))
    headers:remove("WWW-Authenticate")
  elseif response.status == 401 and response.source ~= "upstream" then -- ours, or an error page in its place
    for _, challenge in ipairs(ctx.challenges or {}) do headers:add("WWW-Authenticate", challenge) end
  end
  if ctx.cookies and (config.always or COOKIE_STATUSES[tostring(response.status)]) then
    for _, cookie in ipairs(ctx.cookies) do headers:add("Set-Cookie", cookie) end
  end
end

return policy
