--- How the API server is reached and who we are to it: a kubeconfig, an address, or the pod that we run in. Pure: files and environment come by functions.
--- What cannot be used is refused by name; nothing is left out silently, for it could be what keeps the connection safe.
local native = require "moongate.kube"
local base64_decode = require("kube.objects").base64_decode

local connection = {}

local ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/"
local INSTEAD = "give the user a token, a tokenFile or a client certificate, or run in a pod with a service account"

---@class ConnectionOptions options of native.api, and the namespace that is ours
---@field url string
---@field ca string|nil
---@field ca_file string|nil
---@field certificate string|nil
---@field certificate_file string|nil
---@field key string|nil
---@field key_file string|nil
---@field token string|nil
---@field token_file string|nil
---@field server_name string|nil
---@field insecure boolean|nil
---@field proxy string|nil
---@field namespace string|nil

--- Raised as a table by what reads, and returned as a message by `choose`: an error that is no text is a message for the operator.
local function refuse(text, ...)
  error({ message = text:format(...) }, 0)
end

local function given(text)
  return text ~= nil and text ~= ""
end

local function trim(text)
  return (text:gsub("^%s+", ""):gsub("%s+$", ""))
end

--- An address without a scheme is taken as client-go takes it.
local function with_scheme(address, is_tls)
  if address:find("://", 1, true) then return address end
  return (is_tls and "https://" or "http://") .. address
end

local function read_pem(read, path, what)
  local text, problem = read(path)
  if not text then refuse("%s %s: %s", what, path, problem) end
  if not text:find("-----BEGIN ", 1, true) then refuse("%s %s: it holds no PEM", what, path) end
end

-- ---- kubeconfig ----

--- A part of a kubeconfig: a map and where it stands, for messages.
local part = {}
part.__index = part

local function is_null(value)
  return value == nil or type(value) == "userdata"
end

local function new_part(config, value, place)
  if type(value) ~= "table" then refuse("%s: %s is no map", config.name, place) end
  return setmetatable({ config = config, map = value, place = place }, part)
end

function part:refuse(text, ...)
  refuse("%s: %s " .. text, self.config.name, self.place, ...)
end

function part:has(name)
  local value = self.map[name]
  return not is_null(value) and value ~= "" and value ~= false and not (type(value) == "table" and next(value) == nil)
end

function part:text(name)
  local value = self.map[name]
  if is_null(value) or value == "" then return nil end
  if type(value) ~= "string" then self:refuse("has a %s that is no text", name) end
  return value
end

function part:path(name)
  local path = self:text(name)
  if not path or path:sub(1, 1) == "/" then return path end
  return self.config.folder .. path
end

--- A certificate or key: its text from NAME-data, else the path from NAME.
function part:pem(name)
  local data = self:text(name .. "-data")
  if data then
    local text = base64_decode(data)
    if not text then self:refuse("has a %s-data that is no base64", name) end
    if not text:find("-----BEGIN ", 1, true) then self:refuse("has a %s-data that holds no PEM", name) end
    return text, nil
  end
  local path = self:path(name)
  if path then read_pem(self.config.read, path, ("%s: %s has a %s"):format(self.config.name, self.place, name)) end
  return nil, path
end

--- clusters, contexts or users: the one of a name.
local function find(config, kind, name)
  local list = config.map[kind .. "s"]
  for i, item in ipairs(type(list) == "table" and list or {}) do
    if type(item) ~= "table" then refuse("%s: item %d of %ss is no map", config.name, i, kind) end
    if item.name == name then return new_part(config, is_null(item[kind]) and {} or item[kind], ("%s %q"):format(kind, name)) end
  end
  refuse("%s: there is no %s %q", config.name, kind, name)
end

local function read_config(path, read)
  local config = { name = "kubeconfig " .. path, folder = path:match("^(.*/)[^/]*$") or "", read = read }
  local text, problem = read(path)
  if not text then refuse("%s: %s", config.name, problem) end
  local map, message, line = native.yaml(text)
  if map == nil and message then refuse("%s: line %d: %s", config.name, line, message) end
  if type(map) ~= "table" then refuse("%s: it is no kubeconfig", config.name) end
  config.map = map
  return config
end

local function take_user(user, options)
  if user:has "exec" then
    local exec = new_part(user.config, user.map.exec, user.place .. "'s exec")
    user:refuse("gets its credentials from a program (exec: %s), and no program is run: %s", exec:text "command" or "?", INSTEAD)
  end
  if user:has "auth-provider" then user:refuse("has an auth-provider, of which there are none any more: %s", INSTEAD) end
  if user:has "username" or user:has "password" then user:refuse("has username and password, which API servers no longer take: %s", INSTEAD) end
  for _, name in ipairs { "as", "as-uid", "as-groups", "as-user-extra" } do
    if user:has(name) then user:refuse("acts as another (%s), which is not supported", name) end
  end
  options.certificate, options.certificate_file = user:pem "client-certificate"
  options.key, options.key_file = user:pem "client-key"
  local has_certificate, has_key = options.certificate or options.certificate_file, options.key or options.key_file
  if has_certificate and not has_key then user:refuse("has a client-certificate without a client-key") end
  if has_key and not has_certificate then user:refuse("has a client-key without a client-certificate") end
  options.token, options.token_file = user:text "token", user:path "tokenFile"
end

local function take_proxy(place, options)
  local url = place:text "proxy-url"
  local scheme = url and url:match("^(%w+)://")
  if url and scheme ~= "http" and scheme ~= "https" and scheme ~= "socks5" then
    place:refuse("has a proxy-url that is none of http://, https://, socks5://")
  end
  options.proxy = url
end

local function from_kubeconfig(path, flags, read)
  local config, options = read_config(path, read), {}
  local name = config.map["current-context"]
  if type(name) ~= "string" or name == "" then refuse("%s: there is no current-context", config.name) end
  local context = find(config, "context", name)
  local cluster = find(config, "cluster", context:text "cluster" or context:refuse "names no cluster")
  local user = context:text "user"
  options.namespace = context:text "namespace" or "default"
  options.ca, options.ca_file = cluster:pem "certificate-authority"
  options.server_name = cluster:text "tls-server-name"
  options.insecure = cluster.map["insecure-skip-tls-verify"] == true or nil
  if cluster:has "insecure-skip-tls-verify" and not options.insecure then cluster:refuse("has an insecure-skip-tls-verify that is not true or false") end
  if options.insecure and (options.ca or options.ca_file) then
    cluster:refuse("has both certificate-authority and insecure-skip-tls-verify: one of them is wrong")
  end
  take_proxy(cluster, options)
  if user then take_user(find(config, "user", user), options) end
  if given(flags["certificate-authority"]) and given(flags["apiserver-host"]) then
    options.ca, options.ca_file, options.insecure = nil, flags["certificate-authority"], nil
    read_pem(read, options.ca_file, "--certificate-authority")
  end
  local server = given(flags["apiserver-host"]) and flags["apiserver-host"] or cluster:text "server" or cluster:refuse "has no server"
  options.url = with_scheme(server, options.ca or options.ca_file or options.certificate or options.certificate_file or options.insecure)
  return options
end

-- ---- without ----

local function from_host(flags, read)
  local ca_file = given(flags["certificate-authority"]) and flags["certificate-authority"] or nil
  if ca_file then read_pem(read, ca_file, "--certificate-authority") end
  return { url = with_scheme(flags["apiserver-host"], ca_file), ca_file = ca_file }
end

local function from_pod(host, port, read)
  local options = { ca_file = ACCOUNT .. "ca.crt", token_file = ACCOUNT .. "token" }
  options.url = ("https://%s:%s"):format(host:find(":", 1, true) and "[" .. host .. "]" or host, port)
  local token, problem = read(options.token_file)
  if not token then
    refuse("this is a pod (KUBERNETES_SERVICE_HOST is set), and the token of its service account cannot be read: %s: %s", options.token_file, problem)
  end
  read_pem(read, options.ca_file, "the cluster's certificate authority")
  local namespace = read(ACCOUNT .. "namespace")
  options.namespace = namespace and given(trim(namespace)) and trim(namespace) or nil
  return options
end

local function choose(flags, environment, read)
  if given(flags.kubeconfig) then return from_kubeconfig(flags.kubeconfig, flags, read) end
  if given(flags["apiserver-host"]) then return from_host(flags, read) end
  local host, port = environment "KUBERNETES_SERVICE_HOST", environment "KUBERNETES_SERVICE_PORT"
  if given(host) and given(port) then return from_pod(host, port, read) end
  refuse("no API server is known: there is neither --kubeconfig nor --apiserver-host, and this is no pod (%s is not set). "
    .. "--manifests DIR serves a directory, without a cluster", given(host) and "KUBERNETES_SERVICE_PORT" or "KUBERNETES_SERVICE_HOST")
end

--- The first that is given: --kubeconfig, --apiserver-host (with --certificate-authority), the pod's service account. --apiserver-host beside a kubeconfig
--- replaces its server.
---@param source { flags: table<string, string>, environment: (fun(name: string): string|nil), read: fun(path: string): string|nil, string|nil }
---@return ConnectionOptions|nil
---@return string|nil message
function connection.choose(source)
  local is_ok, result = pcall(choose, source.flags, source.environment, source.read)
  if is_ok then return result end
  if type(result) ~= "table" then error(result, 0) end
  return nil, result.message
end

return connection
