--- How to reach the API server: --kubeconfig, else --apiserver-host, else what Kubernetes gives each pod. Pure: everything comes in by arguments.
local native = require "moongate.kube"
local objects = require "kube.objects"

local connection = {}

local ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/"

---@class ConnectionInput
---@field flags table<string, string>
---@field environment fun(name: string): string|nil
---@field read fun(path: string): string|nil, string|nil a file's text, or what went wrong

local function is_text(value)
  return type(value) == "string" and value ~= ""
end

local function text_or(value, otherwise)
  return is_text(value) and value or otherwise
end

local function flag(input, name)
  return text_or(input.flags[name])
end

-- ---- kubeconfig ----

--- The entry of a named list, such as `clusters`.
local function named(config, list, member, name, path)
  for _, entry in ipairs(type(config[list]) == "table" and config[list] or {}) do
    if type(entry) == "table" and entry.name == name then
      if type(entry[member]) == "table" then return entry[member] end
      return member == "user" and {} or nil, ("%s: %s %q is empty"):format(path, list, name)
    end
  end
  return nil, ("%s: %s has no entry %q"):format(path, list, tostring(name))
end

--- Inline data goes before a file; a relative path begins at the kubeconfig's folder.
local function material(entry, name, folder, path)
  local data = entry[name .. "-data"]
  if is_text(data) then
    local decoded = objects.base64_decode(data)
    if not decoded then return nil, nil, ("%s: %s-data is not base64"):format(path, name) end
    return decoded, nil
  end
  local file = entry[name]
  if not is_text(file) then return nil, nil end
  return nil, file:sub(1, 1) == "/" and file or folder .. file
end

--- What can log in, and what to do where it cannot.
local function check_user(user, name, path)
  for _, plugin in ipairs { "exec", "auth-provider" } do
    if type(user[plugin]) == "table" then
      return ("%s: user %q logs in by %s, which runs a program and is not supported: use a token, a tokenFile or a client certificate"):format(
        path, name, plugin)
    end
  end
  if is_text(user.username) or is_text(user.password) then
    return ("%s: user %q has a user name and password, which API servers no longer take: use a token or a client certificate"):format(path, name)
  end
end

local function from_kubeconfig(input, path)
  local text, unreadable = input.read(path)
  if not text then return nil, ("--kubeconfig: %s: %s"):format(path, unreadable or "cannot be read") end
  local config, problem = native.yaml(text)
  if type(config) ~= "table" then return nil, ("--kubeconfig: %s: %s"):format(path, type(problem) == "string" and problem or "is empty") end
  local current = config["current-context"]
  if not is_text(current) then return nil, ("--kubeconfig: %s: current-context is missing"):format(path) end
  local context, cluster, user
  context, problem = named(config, "contexts", "context", current, path)
  if not context then return nil, "--kubeconfig: " .. problem end
  cluster, problem = named(config, "clusters", "cluster", context.cluster, path)
  if not cluster then return nil, "--kubeconfig: " .. problem end
  user = {}
  if is_text(context.user) then
    user, problem = named(config, "users", "user", context.user, path)
    if not user then return nil, "--kubeconfig: " .. problem end
  end
  problem = check_user(user, context.user, path)
  if problem then return nil, "--kubeconfig: " .. problem end
  if not is_text(cluster.server) then return nil, ("--kubeconfig: %s: cluster %q has no server"):format(path, context.cluster) end
  local folder = path:match("^(.*/)") or "./"
  local options = {
    url = cluster.server, namespace = text_or(context.namespace, "default"), insecure = cluster["insecure-skip-tls-verify"] == true,
    server_name = text_or(cluster["tls-server-name"]), proxy = text_or(cluster["proxy-url"]), token = text_or(user.token),
  }
  if not options.token and is_text(user.tokenFile) then
    options.token_file = user.tokenFile:sub(1, 1) == "/" and user.tokenFile or folder .. user.tokenFile
  end
  for _, item in ipairs { { cluster, "certificate-authority", "ca" }, { user, "client-certificate", "certificate" }, { user, "client-key", "key" } } do
    local entry, name, field = item[1], item[2], item[3]
    options[field], options[field .. "_file"], problem = material(entry, name, folder, path)
    if problem then return nil, "--kubeconfig: " .. problem end
  end
  return options
end

-- ---- the others ----

local function in_cluster(input)
  local host, port = input.environment "KUBERNETES_SERVICE_HOST", input.environment "KUBERNETES_SERVICE_PORT"
  if not is_text(host) or not is_text(port) then
    return nil, "no cluster to follow: KUBERNETES_SERVICE_HOST is not set (this is no pod), and neither --kubeconfig nor --apiserver-host is given; "
      .. "--manifests DIR serves a directory without a cluster"
  end
  for _, file in ipairs { "token", "ca.crt" } do
    if not input.read(ACCOUNT .. file) then return nil, ("%s%s is not there: the pod has no service account token"):format(ACCOUNT, file) end
  end
  local namespace = input.read(ACCOUNT .. "namespace")
  return {
    url = ("https://%s:%s"):format(host:find(":", 1, true) and "[" .. host .. "]" or host, port),
    token_file = ACCOUNT .. "token", ca_file = ACCOUNT .. "ca.crt",
    namespace = namespace and namespace:match("^%s*(%S+)") or "default",
  }
end

--- How to connect.
---@param input ConnectionInput
---@return table|nil options of native.api, and `namespace`
---@return string|nil message one line
function connection.choose(input)
  local kubeconfig, host = flag(input, "kubeconfig"), flag(input, "apiserver-host")
  if kubeconfig then
    local options, problem = from_kubeconfig(input, kubeconfig)
    if options and host then options.url = host end -- as client-go: the flag goes before the file
    return options, problem
  end
  if host then
    if not host:find("^https?://") then return nil, ("--apiserver-host: %q does not begin with https:// or http://"):format(host) end
    return { url = host, ca_file = flag(input, "certificate-authority"), namespace = "default" }
  end
  return in_cluster(input)
end

return connection
