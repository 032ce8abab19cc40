--- Annotations without their prefix. Three prefixes are read; the first that is present wins, and a second that says something else is reported.
local annotations = {}

---@return string[] prefixes in their order, each with its slash
function annotations.prefixes(flags)
  local own = flags["annotations-prefix"]
  local list = { (own and own ~= "" and own or "nginx.ingress.kubernetes.io") .. "/", "moongate.io/" }
  if flags["legacy-annotations"] ~= "false" then list[#list + 1] = "ingress.kubernetes.io/" end
  return list
end

--- Short name -> raw value, and the problems of names that are there twice.
---@param raw table<string, string>
---@param prefixes string[]
---@return table<string, string> short
---@return { level: string, annotation: string, text: string }[] problems
function annotations.short(raw, prefixes)
  local short, from, problems = {}, {}, {}
  for _, prefix in ipairs(prefixes) do
    for name, value in pairs(raw) do
      if name:sub(1, #prefix) == prefix then
        local key = name:sub(#prefix + 1)
        if short[key] == nil then
          short[key], from[key] = value, name
        elseif short[key] ~= value then
          problems[#problems + 1] = { level = "warn", annotation = key, text = ("%s: %q is ignored, since %s is %q"):format(name, value, from[key],
            short[key]) }
        end
      end
    end
  end
  return short, problems
end

--- Is it one side of a canary pair?
---@param short table<string, string>
function annotations.is_canary(short)
  local value = short.canary
  return value == "true" or value == "True" or value == "TRUE" or value == "1" or value == "t" or value == "T"
end

--- The first annotation of ours (in byte order) whose value holds one of the words that the setting annotation-value-word-blocklist forbids.
---@param raw table<string, string>
---@param prefixes string[]
---@param words string[]|nil
---@return string|nil name
---@return string|nil word
function annotations.blocked(raw, prefixes, words)
  local found, found_word
  if not words or #words == 0 then return nil end
  for name, value in pairs(raw) do
    local is_ours = false
    for _, prefix in ipairs(prefixes) do is_ours = is_ours or name:sub(1, #prefix) == prefix end
    if is_ours and (not found or name < found) then
      for _, word in ipairs(words) do
        if value:find(word, 1, true) then
          found, found_word = name, word
          break
        end
      end
    end
  end
  return found, found_word
end

-- Families that decide who may come in. Until a policy declares such a name, a route that carries it is closed.
local function is_guarding(name)
  return name:sub(1, 5) == "auth-" or name == "satisfy" or name == "allowlist-source-range" or name == "whitelist-source-range"
    or name == "denylist-source-range"
end

--- The first name (in byte order) of a guarding family that no policy declares; nil if there is none.
---@param short table<string, string>
---@param declared table<string, any>
function annotations.unguarded(short, declared)
  local found
  for name, value in pairs(short) do
    if is_guarding(name) and value:find("%S") and not declared[name] and (not found or name < found) then found = name end
  end
  return found
end

-- Settings of the same families.
annotations.guarding_settings = { "global-auth-url", "whitelist-source-range", "denylist-source-range", "block-cidrs" }

return annotations
