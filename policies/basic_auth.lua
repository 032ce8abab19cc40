--- Asks for a user's name and password (HTTP basic authentication), as a Secret has them.
local moongate = require "moongate"

local policy = {
  name = "basic-auth",
  summary = "Lets in who knows a name and a password of a Secret.",
  guard = true,
  annotations = {
    ["auth-type"] = { type = "enum", values = { "basic" }, doc = "`basic`: HTTP basic authentication." },
    ["auth-secret"] = { type = "secret", requires = "auth-type", risk = "medium", doc = "Secret with the users, [namespace/]name." },
    ["auth-secret-type"] = {
      type = "enum", values = { "auth-file", "auth-map" }, default = "auth-file", requires = "auth-type",
      doc = "`auth-file`: the key `auth` holds lines of htpasswd. `auth-map`: each key is a user, its value the hash.",
    },
    ["auth-realm"] = {
      type = "string", pattern = "^[%w%-%._~/: ]+$", default = "", requires = "auth-type", risk = "medium", doc = "What the visitor is shown.",
    },
  },
  settings = {
    ["no-auth-locations"] = {
      type = "list", of = "string", default = "/.well-known/acme-challenge", doc = "Paths of rules that ask nobody, with all below them.",
    },
  },
}

local function trim(text)
  return text:match("^%s*(.-)%s*$")
end

local function sorted(map)
  local keys = {}
  for key in pairs(map) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

--- Users and hashes of htpasswd's lines; the first of two with one name counts.
local function users_of_file(text)
  local users = {}
  for line in text:gmatch("[^\r\n]+") do
    local name, hash = line:match("^%s*([^:#][^:]*):([^:]+)")
    if name and not users[name] then users[name] = trim(hash) end
  end
  return users
end

local function users_of_map(data)
  local users = {}
  for name, hash in pairs(data) do users[name] = trim(hash) end
  return users
end

--- A hash that no password has, and that takes as long as one of the users': what is done for a name that is not there. Nil: theirs take no time.
local function decoy_of(users)
  local first
  for name, hash in pairs(users) do
    if (not first or name < first) and hash:sub(1, 1) ~= "{" and not moongate.password.complaint(hash) then first = name end
  end
  return first and users[first]:sub(1, -2) .. (users[first]:sub(-1) == "." and "/" or ".")
end

local NAMES_SHOWN = 3

--- One line for all whose hash is wrong in one way.
local function note_bad_hashes(route, ref, users)
  local names, bad = sorted(users), {}
  if #names == 0 then route:warn("auth-secret: " .. ref .. " has no user: nobody gets in") end
  for _, name in ipairs(names) do
    local why = moongate.password.complaint(users[name])
    if why then
      bad[why] = bad[why] or {}
      table.insert(bad[why], (name:gsub("%c", "?")))
    end
  end
  for _, why in ipairs(sorted(bad)) do
    local list = bad[why]
    local who = #list == 1 and "the user " or "the users "
    who = who .. table.concat(list, ", ", 1, math.min(#list, NAMES_SHOWN))
    if #list > NAMES_SHOWN then who = ("%s and %d others"):format(who, #list - NAMES_SHOWN) end
    route:warn(("auth-secret: %s %s: %s %s not get in"):format(ref, why, who, #list == 1 and "does" or "do"))
  end
  return #names > 0
end

function policy.attach(route, annotations, settings)
  local kind, ref = annotations["auth-type"], annotations["auth-secret"]
  if not kind then return end
  if moongate.uri.is_within(route.path, settings["no-auth-locations"]) then return end
  if not ref then return route:deny("auth-secret: is missing, and auth-type needs it") end
  local data, problem = route:secret(ref)
  if not data then return route:deny("auth-secret: " .. ref .. " " .. (problem or "does not exist")) end
  local users
  if annotations["auth-secret-type"] == "auth-map" then
    users = users_of_map(data)
  elseif data.auth then
    users = users_of_file(data.auth)
  else
    return route:deny("auth-secret: " .. ref .. " has no key auth")
  end
  route:remove_request_header("Authorization") -- it is not for the application
  return {
    users = note_bad_hashes(route, ref, users) and moongate.map(users) or nil,
    decoy = decoy_of(users),
    challenge = 'Basic realm="' .. annotations["auth-realm"] .. '"',
  }
end

--- The name and the password that came with the request.
local function credentials(header)
  local kind, rest = (header or ""):match("^(%a+) +(%S+)%s*$")
  if not kind or kind:lower() ~= "basic" then return nil end
  return (moongate.base64.decode(rest) or ""):match("^([^:]*):(.*)$")
end

function policy.access(exchange, config)
  local headers = exchange.request.headers:all("Authorization")
  if headers[2] then return exchange:deny(400, "the request has two Authorization fields") end
  local name, password = credentials(headers[1])
  local hash = name and config.users and config.users:get(name)
  local is_user = hash and not moongate.password.complaint(hash)
  if not is_user then hash = name and config.decoy end -- nobody learns from the time it takes whose names are there
  if hash then
    local is_right, problem = moongate.password.verify(hash, password)
    if is_right and is_user then return exchange:allow() end
    if is_right == nil then return exchange:deny(503, "the password could not be checked: " .. problem) end
  end
  exchange.ctx.asks = true
  return exchange:deny(401, name and "wrong name or password" or "no name and password")
end

function policy.header_filter(exchange, config)
  if exchange.ctx.asks and exchange.response.status == 401 then exchange.response.headers:set("WWW-Authenticate", config.challenge) end
end

return policy
