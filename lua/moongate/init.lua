--- The library of policies: `local moongate = require "moongate"`. Guests get a read-only view of it. What waits says so, and is for the hooks that may:
-- server_rewrite, rewrite and access.
-- Expected failures are `nil, message`; misuse raises with the function's name.
local core = require "moongate.core"

local find, gmatch, gsub, lower, match, sub = string.find, string.gmatch, string.gsub, string.lower, string.match, string.sub
local concat = table.concat
local error, type, tostring = error, type, tostring

local moongate = {}

local function misuse(name, text, level)
  error(name .. ": " .. text, level or 3)
end

local function need_text(name, text)
  if type(text) ~= "string" then error(name .. ": expects text, not a " .. type(text), 3) end
  return text
end

------------------------------------------------------------------------------------------------------- values made in C

-- Called in brackets: a call in a bare `return` would take the frame away by which the policy's line is found.
local function make(name, kind, source)
  local value, complaint = core.value(kind, source)
  if not value then error(name .. ": " .. tostring(complaint), 3) end
  return value
end

--- A regular expression (PCRE2, with match limits).
--- `regex:match(text)` -> whole match, group 1, ... (false for a group that took no part), or nil.
--- `regex:replace(text, replacement [, most])` -> text, count; `$0`..`$9` stand for groups, `$$` for a dollar.
---@param pattern string
---@param options { ignore_case: boolean|nil }|nil
---@return userdata regex
function moongate.regex(pattern, options)
  need_text("moongate.regex", pattern)
  if options ~= nil and type(options) ~= "table" then misuse("moongate.regex", "expects a table of options, not a " .. type(options)) end
  return (make("moongate.regex", "regex", (options and options.ignore_case and "i" or "") .. "\0" .. pattern))
end

--- Text with variables in nginx's spelling. `template:expand(exchange)` -> text; `template:is_constant()`; `tostring(template)`: its source.
---@param text string
---@return userdata template
function moongate.template(text)
  return (make("moongate.template", "template", need_text("moongate.template", text)))
end

--- A set of addresses. `set:contains(ip)` -> boolean.
---@param cidrs string|string[] "10.0.0.0/8, ::1" or a list
---@return userdata set
function moongate.ip_set(cidrs)
  if type(cidrs) == "table" then cidrs = concat(cidrs, ",") end
  return (make("moongate.ip_set", "ip_set", need_text("moongate.ip_set", cidrs)))
end

--- A set of host names and `*.suffix`. `set:contains(host)` -> boolean.
---@param hosts string|string[]
---@return userdata set
function moongate.host_set(hosts)
  if type(hosts) == "table" then hosts = concat(hosts, ",") end
  return (make("moongate.host_set", "host_set", need_text("moongate.host_set", hosts)))
end

--- An immutable map of strings, shared by all workers. `map:get(name)` -> text or nil.
---@param values table<string, string>
---@return userdata map
function moongate.map(values)
  if type(values) ~= "table" then misuse("moongate.map", "expects a table, not a " .. type(values)) end
  return (make("moongate.map", "map", values))
end

----------------------------------------------------------------------------------------------------------------- hashes

--- `hash.md5 .sha1 .sha256 (text [, "raw"])` and `hash.hmac_sha256(key, text [, "raw"])` -> lower-case hex, or the bytes; `hash.crc32 .fnv1a (text)` -> number.
moongate.hash = core.hash
--- `hex.encode(bytes)`, `hex.decode(text)` -> bytes, or nil and why.
moongate.hex = core.hex
--- `base64.encode(bytes)`, `base64.decode(text)` -> bytes, or nil and why; both alphabets are read.
moongate.base64 = core.base64
--- Compares in constant time.
moongate.secure_equal = core.secure_equal
--- `random(n)` -> 1 to n.
moongate.random = core.random
--- `random_bytes(n)` -> n bytes, at most 65536.
moongate.random_bytes = core.random_bytes
--- `time.now()`, `time.monotonic()`: seconds; `time.http_date([seconds])`.
moongate.time = core.time

--- `json.encode(value)`, `json.decode(text)` -> value, or nil and why. `json.null`; `json.array(t)` marks a table as an array, so that an empty one is `[]`;
--- `json.empty_array` is one.
moongate.json = { encode = core.json.encode, decode = core.json.decode, null = core.null, array = core.array, empty_array = core.array {} }

---------------------------------------------------------------------------------------------------------------- waiting

--- `sleep(seconds)`: waits that long (up to a 60th of a second longer), 3600 at most. Others are served meanwhile.
moongate.sleep = core.sleep

---@class moongate.http.headers
---@field get fun(self: moongate.http.headers, name: string): string|nil the first of that name, whatever its case
---@field all fun(self: moongate.http.headers, name: string): string[]
---@field each fun(self: moongate.http.headers): fun(): string|nil, string|nil names and values, in their order

---@class moongate.http.response
---@field status integer
---@field headers moongate.http.headers
---@field body string

---@class moongate.http.question
---@field method string|nil GET unless given
---@field url string|nil
---@field upstream userdata|nil what route:upstream() gave, instead of a url
---@field path string|nil of the upstream
---@field headers table<string, string|string[]>|nil
---@field body string|nil
---@field timeout number|nil seconds
---@field max_body integer|nil bytes of the answer's body
---@field keep_body boolean|nil false: the answer's body is read and thrown away, and `body` is empty

---@class moongate.http
---@field request fun(question: moongate.http.question): moongate.http.response|nil, string|nil

--- `http.request { method, url or upstream with path, headers, body, timeout, max_body, keep_body }`: waits for an HTTP answer; nil and why when none comes.
--- GET, 5 seconds and 64 KiB unless it says otherwise. Redirects are not followed, certificates of https are verified, addresses come from the cluster's names.
---@type moongate.http
moongate.http = { request = core.http_request }

-------------------------------------------------------------------------------------------------------------- passwords

--- `password.verify(hash, text)` -> whether the text is the one that the hash was made of; or nil and why it is not known (the hash is of an unknown form, too
--- many are being checked). Waits, at most five seconds. Forms: {PLAIN} {SHA} {SSHA} $apr1$ $1$ $2a$ $2b$ $2y$ $5$ $6$ and the old crypt of 13 letters.
--- `password.complaint(hash)` -> nil, or what is wrong with a hash: "has ...".
moongate.password = core.password

------------------------------------------------------------------------------------------------------------------- URIs

local uri = { escape = core.uri.escape, unescape = core.uri.unescape }
moongate.uri = uri

--- Splits an absolute URI or a path.
---@param text string
---@return { scheme: string|nil, host: string|nil, port: integer|nil, path: string, query: string|nil, fragment: string|nil }|nil
---@return string|nil error
function uri.parse(text)
  need_text("uri.parse", text)
  if find(text, "[%c ]") then return nil, "has a blank or a control character" end
  local parts, rest = {}, text
  rest, parts.fragment = match(rest, "^([^#]*)#?(.*)$")
  if not find(text, "#", 1, true) then parts.fragment = nil end
  local before, query = match(rest, "^([^?]*)%?(.*)$")
  if before then rest, parts.query = before, query end
  local scheme, authority, path = match(rest, "^(%a[%w+.-]*)://([^/]*)(.*)$")
  if not scheme then
    if sub(rest, 1, 1) ~= "/" then return nil, "is neither a URI with a scheme nor a path" end
    parts.path = rest
    return parts
  end
  local host, port = match(authority, "^(%[[%x:.]+%]):?(%d*)$")
  if not host then host, port = match(authority, "^([^:@%[%]]+):?(%d*)$") end
  if not host then return nil, "has a host that is malformed" end
  parts.scheme, parts.host, parts.path = lower(scheme), lower(host), path == "" and "/" or path
  if port ~= "" then
    parts.port = tonumber(port)
    if parts.port < 1 or parts.port > 65535 then return nil, "has a port that is not from 1 to 65535" end
  end
  return parts
end

--- Is the path of a rule one of those, or below one? Of a pattern nothing is known to be below.
---@param path string
---@param prefixes string[]
---@return boolean
function uri.is_within(path, prefixes)
  need_text("uri.is_within", path)
  for _, prefix in ipairs(prefixes) do
    local whole = sub(prefix, -1) == "/" and prefix or prefix .. "/"
    if path == prefix or (sub(path, 1, #whole) == whole and not find(path, "[%^%$%*%+%?%(%)%[%]{}|\\]")) then return true end
  end
  return false
end

--- The reverse of parse.
---@param parts table
---@return string
function uri.build(parts)
  if type(parts) ~= "table" then misuse("uri.build", "expects a table, not a " .. type(parts)) end
  local out = {}
  if parts.scheme then out[#out + 1] = need_text("uri.build", parts.scheme) .. "://" end
  if parts.host then out[#out + 1] = need_text("uri.build", parts.host) end
  if parts.port then out[#out + 1] = ":" .. tostring(parts.port) end
  out[#out + 1] = parts.path or "/"
  if parts.query then out[#out + 1] = "?" .. parts.query end
  if parts.fragment then out[#out + 1] = "#" .. parts.fragment end
  return concat(out)
end

---------------------------------------------------------------------------------------------------------------- cookies

moongate.cookie = {}

local TOKEN = "^[%w!#$%%&'*+%.^_`|~-]+$"
local SAME_SITE = { strict = "Strict", lax = "Lax", none = "None" }

local function attribute(name, value)
  if type(value) ~= "string" or find(value, "[%c;]") then misuse("cookie.format", name .. " has a character that is not allowed", 4) end
  return "; " .. name .. "=" .. value
end

--- A Set-Cookie value. Options: path, domain, max_age (seconds), expires (unix seconds), secure, http_only, same_site, partitioned.
---@param name string
---@param value string
---@param options table|nil
---@return string
function moongate.cookie.format(name, value, options)
  if type(name) ~= "string" or not find(name, TOKEN) then misuse("cookie.format", "not a cookie name") end
  if type(value) ~= "string" or find(value, "[%c ;,\"\\\127]") then misuse("cookie.format", "the value has a character that must be escaped") end
  local out = name .. "=" .. value
  if not options then return out end
  if options.expires then out = out .. "; Expires=" .. core.time.http_date(options.expires) end
  if options.max_age then
    if type(options.max_age) ~= "number" then misuse("cookie.format", "max_age is no number") end
    out = out .. "; Max-Age=" .. ("%d"):format(options.max_age)
  end
  if options.domain then out = out .. attribute("Domain", options.domain) end
  if options.path then out = out .. attribute("Path", options.path) end
  if options.secure then out = out .. "; Secure" end
  if options.http_only then out = out .. "; HttpOnly" end
  if options.same_site then
    local spelled = type(options.same_site) == "string" and SAME_SITE[lower(options.same_site)]
    if not spelled then misuse("cookie.format", "same_site is none of strict, lax, none") end
    out = out .. "; SameSite=" .. spelled
  end
  if options.partitioned then out = out .. "; Partitioned" end
  return out
end

--------------------------------------------------------------------------------------------------------------- counters

---@class moongate.counter
---@field add fun(self: moongate.counter, amount: integer, ...: string|number) a whole number from 0, then one value for each label; in hooks only

--- A counter of this policy's own, on /metrics as `moongate_policy_<name>_total`; a mounted policy's has the label `owner` too. To be made when the file is
-- loaded, not in a hook. The same name is the same counter, in all workers and after a reload; with other labels it starts anew.
---@param name string letters, digits and _
---@param labels string[] their names, at most 8
---@param help string one line
---@return moongate.counter
function moongate.counter(name, labels, help)
  need_text("moongate.counter", name)
  if type(labels) ~= "table" then misuse("moongate.counter", "expects a list of labels, not a " .. type(labels)) end
  local counter, complaint = core.counter(name, labels, need_text("moongate.counter", help))
  if not counter then misuse("moongate.counter", name .. ": " .. complaint) end
  return counter
end

---------------------------------------------------------------------------------------------------- shared dictionaries

---@class moongate.dict
---@field get fun(self: moongate.dict, key: string): string|number|boolean|nil
---@field set fun(self: moongate.dict, key: string, value: string|number|boolean, seconds: number|nil): true|nil, string|nil nil: there is no room
---@field add fun(self: moongate.dict, key: string, value: string|number|boolean, seconds: number|nil): boolean|nil, string|nil false: there is one
---@field incr fun(self: moongate.dict, key: string, amount: number, initial: number|nil, seconds: number|nil): number|nil, string|nil
---@field expire fun(self: moongate.dict, key: string, seconds: number): boolean
---@field remove fun(self: moongate.dict, key: string): boolean
---@field take fun(self: moongate.dict, key: string, rate: number, burst: number): boolean, number a leaky bucket: `rate` leaks out in a second
---@field may_take fun(self: moongate.dict, key: string, rate: number, burst: number): boolean, number what take would say
---@field acquire fun(self: moongate.dict, key: string, max: number): boolean one of `max`, held until the exchange ends

moongate.shared = {}

--- A dictionary that all workers share, and that outlives changes of policies and configuration. Its functions are for hooks. Each call is atomic; a full one
-- forgets what was used least recently, never what is held. A mounted policy's are its owner's own.
---@param name string letters, digits, _ - .
---@return moongate.dict
function moongate.shared.dict(name)
  local dict, complaint = core.dict(need_text("moongate.shared.dict", name))
  if not dict then misuse("moongate.shared.dict", complaint) end
  return dict
end

-------------------------------------------------------------------------------------------------------------------- log

--- `log.debug(text)`, `log.info`, `log.warn`, `log.error`: a line in Moongate's own log, with the policy's name. The setting `error-log-level` (`notice` unless
--- it says otherwise) decides which are written: by default `debug` and `info` are not.
moongate.log = {}
for level in gmatch("debug info warn error", "%a+") do
  moongate.log[level] = function(message)
    core.log(level, (gsub(tostring(message), "[%c]", " ")))
  end
end

return moongate
