--- Which Ingresses are ours: IngressClass, the old class annotation, and the flags about them. Pure.
local classes = {}

local function flag(flags, name, default)
  local value = flags[name]
  if value == nil or value == "" then return default end
  return value
end

--- Is an IngressClass ours?
---@param class table an IngressClass object
---@param flags table<string, string>
function classes.is_ours(class, flags)
  if class.controller == flag(flags, "controller-class", "k8s.io/ingress-nginx") then return true end
  return flags["ingress-class-by-name"] == "true" and class.name == flag(flags, "ingress-class", "nginx")
end

--- Is an Ingress ours? If not, why.
---@param ingress table
---@param flags table<string, string>
---@param get_class fun(name: string): table|nil
---@param cluster table|nil where Ingresses come from a cluster: without the right to read IngressClasses, spec.ingressClassName is not looked at
---@return boolean is_ours
---@return string|nil reason
function classes.accepts(ingress, flags, get_class, cluster)
  local wanted = flag(flags, "ingress-class", "nginx")
  if ingress.class and ingress.class ~= "" and not (cluster and not cluster:has_classes()) then
    local class = get_class(ingress.class)
    if not class then
      if ingress.class == wanted and not cluster then return true end -- a directory need not hold the class that --ingress-class names
      return false, ("its class %q does not exist"):format(ingress.class)
    end
    if classes.is_ours(class, flags) then return true end
    return false, ("its class %q belongs to the controller %q"):format(ingress.class, class.controller)
  end
  local annotation = ingress.annotations["kubernetes.io/ingress.class"]
  if annotation and annotation ~= "" then
    if annotation == wanted then return true end
    return false, ("its class annotation is %q, ours is %q"):format(annotation, wanted)
  end
  if flag(flags, "watch-ingress-without-class", "true") == "true" then return true end
  return false, "it names no class, and --watch-ingress-without-class is off"
end

--- Is its namespace one that flags choose?
---@param ingress table
---@param flags table<string, string>
---@param cluster table|nil knows which namespaces --watch-namespace-selector chooses
---@return boolean is_wanted
---@return string|nil reason
function classes.is_watched(ingress, flags, cluster)
  local namespace = flag(flags, "watch-namespace", "")
  if cluster and not cluster:is_watched(ingress.namespace) then
    return false, ("the labels of namespace %q do not match --watch-namespace-selector"):format(ingress.namespace)
  end
  if namespace ~= "" and ingress.namespace ~= namespace then return false, ("only namespace %q is watched"):format(namespace) end
  return true
end

--- Does it claim the catch-all that --disable-catch-all forbids?
---@return boolean is_it
---@return string|nil reason
function classes.is_forbidden_catch_all(ingress, flags)
  if flags["disable-catch-all"] ~= "true" or not ingress.default_backend then return false end
  return true, "--disable-catch-all is on and it has a default backend"
end

return classes
