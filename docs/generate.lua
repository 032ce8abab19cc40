--- Makes what the pages say of the sources: `make docs` writes it, the spec docs_spec.lua fails where a page differs.
--
-- docs/policies.md: the parts between "<!-- generated: NAME -->" and "<!-- end -->". docs/annotations.md: the whole page.
local testing = require "moongate.testing" -- brings moongate.core

local generate = {}

local PHASES = { "server_rewrite", "rewrite", "access", "balancer", "header_filter", "body_filter", "log" }

---@param home string
---@param path string
---@return string
local function read(home, path)
  local file = assert(io.open(home .. "/" .. path, "rb"))
  local text = file:read "*a"
  file:close()
  return text
end

local function cell(text)
  return (text:gsub("|", "\\|"):gsub("\n", " "))
end

------------------------------------------------------------------------------------------------- exchange_members.h

--- { ["Exchange.respond"] = { rewrite = true, ... } } in the order of the header.
---@param home string
---@return { class: string, name: string, is_method: boolean, phases: table<string, boolean> }[]
function generate.members(home)
  local text = read(home, "core/script/exchange_members.h")
  local masks = {}
  local function mask(expression)
    local set = {}
    local is_negated = {}
    for sign, name in expression:gmatch "([~]?)%s*([%u][%u_()]*)" do
      local phase = name:match "^PHASE%(([%u_]+)%)$"
      local target = sign == "~" and is_negated or set
      if phase then
        target[phase:lower()] = true
      else
        for key in pairs(assert(masks[name], name)) do target[key] = true end
      end
    end
    for key in pairs(is_negated) do set[key] = nil end
    return set
  end
  local definitions = {}
  for name, expression in text:gmatch "#define ([%u]+) (%b())\n" do definitions[#definitions + 1] = { name, expression:sub(2, -2) } end
  local left = #definitions
  while left > 0 do -- each may name one that is defined later
    local before = left
    for _, definition in ipairs(definitions) do
      local is_done, set = pcall(mask, definition[2])
      if not masks[definition[1]] and is_done then
        masks[definition[1]], left = set, left - 1
      end
    end
    assert(left < before, "exchange_members.h has masks that cannot be read")
  end
  local members = {}
  for object, name, form, phases in text:gmatch 'X%(([%u_]+), ":?([%w_]+)", (%u+), (.-), [%w_]+%)' do
    local class = object:lower():gsub("^%l", string.upper):gsub("_(%l)", string.upper)
    members[#members + 1] = { class = class, name = name, is_method = form == "METHOD", phases = mask(phases) }
  end
  return members
end

local function hooks(phases)
  local list = {}
  for _, phase in ipairs(PHASES) do list[#list + 1] = phases[phase] and phase or nil end
  if #list == #PHASES then return "all" end
  if #list == #PHASES - 1 and not phases.server_rewrite then return "all but server_rewrite" end
  return table.concat(list, ", ")
end

-------------------------------------------------------------------------------------------------- LuaLS annotations

--- A type and the text behind it: a blank ends a type unless it is in quotes or brackets, or stands behind a colon or a comma.
local function split_type(text)
  local at = 1
  while at <= #text do
    local c = text:sub(at, at)
    if c == " " and not text:sub(at - 1, at - 1):find "[:,]" then break end
    local _, stop = text:find(c == '"' and '^"[^"]*"' or c == "{" and "^%b{}" or c == "(" and "^%b()" or "^.", at)
    at = stop + 1
  end
  return text:sub(1, at - 1), (text:sub(at):gsub("^%s+", ""))
end

--- Classes of a file with annotations: { name, doc, fields = { { name, type, doc } }, functions = { { name, doc, params, returns } } } in order.
---@param text string
local function read_annotations(text)
  local classes, by_name, doc, params, returns, current = {}, {}, {}, {}, {}, nil
  for line in text:gmatch "([^\n]*)\n" do
    local tag, rest = line:match "^%-%-%-@(%w+)%s*(.*)$"
    if tag == "class" then
      current = { name = rest:match "^[%w.]+", doc = table.concat(doc, " "), fields = {}, functions = {} }
      classes[#classes + 1], by_name[current.name], doc = current, current, {}
    elseif tag == "field" then
      local name, type_ = rest:match "^([%w_]+) (.*)$"
      current.fields[#current.fields + 1] = { name = name, split_type(type_) }
    elseif tag == "param" then
      params[#params + 1] = rest
    elseif tag == "return" then
      returns[#returns + 1] = rest
    elseif line:find "^%-%-%-%-" then
      doc = {}
    elseif line:find "^%-%-%- ?" then
      doc[#doc + 1] = line:match "^%-%-%- ?(.*)$"
    elseif line:find "^%-%- " and #doc > 0 then
      doc[#doc + 1] = line:match "^%-%- (.*)$"
    else
      local owner, separator, name, arguments = line:match "^function ([%w_.]-)([.:])([%w_]+)(%b())"
      if owner then
        local class = by_name[owner]
        if not class then
          class = { name = owner, doc = "", fields = {}, functions = {} }
          classes[#classes + 1], by_name[owner] = class, class
        end
        class.functions[#class.functions + 1] = {
          name = name, call = owner .. separator .. name .. arguments, arguments = arguments, doc = table.concat(doc, " "), params = params, returns = returns,
        }
      end
      if line ~= "" or #doc > 0 then doc, params, returns = {}, {}, {} end
    end
  end
  return classes
end

local function sentence(text)
  text = text:gsub("%s+$", "")
  return (text == "" or text:find "[.:`]$") and text or text .. "."
end

local function described(field)
  return ("`%s`%s"):format(field[1], field[2] ~= "" and ": " .. field[2] or "")
end

--- What a function takes and gives, in words, behind its own.
local function explain(method)
  local parts = { method.doc ~= "" and sentence(method.doc) or nil }
  for _, param in ipairs(method.params) do
    local name, rest = param:match "^([%w_.]+) (.*)$"
    local type_, text = split_type(rest)
    if name ~= "..." then parts[#parts + 1] = ("`%s`: `%s`%s."):format(name, type_, text ~= "" and ", " .. text or "") end
  end
  local gives = {}
  for _, one in ipairs(method.returns) do gives[#gives + 1] = "`" .. split_type(one) .. "`" end
  if #gives > 0 and not (#gives == 1 and gives[1] == "`Answer`") then parts[#parts + 1] = "Gives " .. table.concat(gives, ", ") .. "." end
  return table.concat(parts, " ")
end

--- How a policy reaches an object of each class.
local NAMES = {
  Exchange = "exchange", Client = "exchange.client", Tls = "exchange.client.tls", Listener = "exchange.listener", Request = "exchange.request",
  RequestHeaders = "exchange.request.headers", Cookies = "exchange.request.cookies", Variables = "exchange.variables", Upstream = "exchange.upstream",
  Endpoint = "an endpoint", Response = "exchange.response", ResponseHeaders = "exchange.response.headers",
}

generate.NAMES = NAMES

--- The members of an exchange; an error names one that only C or only the annotations have.
---@param home string
---@return string
function generate.exchange(home)
  local phases, order = {}, {}
  for _, member in ipairs(generate.members(home)) do
    local key = member.class .. (member.is_method and ":" or ".") .. member.name
    phases[key] = member.phases
    order[#order + 1] = key
  end
  local out, seen = {}, {}
  for _, class in ipairs(read_annotations(read(home, "lua/moongate/exchange.lua"))) do
    out[#out + 1] = ("**`%s`**%s\n\n| | hooks | |\n|---|---|---|"):format(assert(NAMES[class.name], class.name), class.doc ~= "" and ": " .. class.doc or "")
    local function row(key, shown, text)
      if not phases[key] then error("lua/moongate/exchange.lua: " .. key .. " is not in core/script/exchange_members.h", 0) end
      seen[key] = true
      out[#out + 1] = ("| `%s` | %s | %s |"):format(cell(shown), hooks(phases[key]), cell(text))
    end
    for _, field in ipairs(class.fields) do row(class.name .. "." .. field.name, "." .. field.name, described(field)) end
    for _, method in ipairs(class.functions) do row(class.name .. ":" .. method.name, ":" .. method.name .. method.arguments, explain(method)) end
    out[#out + 1] = ""
  end
  for _, key in ipairs(order) do
    if not seen[key] then error("core/script/exchange_members.h: " .. key .. " is not in lua/moongate/exchange.lua", 0) end
  end
  return table.concat(out, "\n")
end

--- The functions of the library.
---@param home string
---@return string
function generate.library(home)
  local out = { "| | |", "|---|---|" }
  for _, class in ipairs(read_annotations(read(home, "lua/moongate/init.lua"))) do
    for _, field in ipairs(class.fields) do
      out[#out + 1] = ("| `%s.%s` | %s |"):format((class.name:gsub("^moongate%.", "")), field.name, cell(described(field)))
    end
    for _, method in ipairs(class.functions) do
      out[#out + 1] = ("| `%s` | %s |"):format(cell(method.call:gsub("^moongate%.", "")), cell(explain(method)))
    end
  end
  -- What is C: a comment above `moongate.NAME = ...`.
  local doc = {}
  for line in read(home, "lua/moongate/init.lua"):gmatch "([^\n]*)\n" do
    local text, name = line:match "^%-%-%- ?(.*)$" or (#doc > 0 and line:match "^%-%- (.*)$"), line:match "^moongate%.([%w_]+) = "
    if text and not line:find "^%-%-%-[@-]" then
      doc[#doc + 1] = text
    else
      if name and #doc > 0 then out[#out + 1] = ("| `%s` | %s |"):format(name, cell(table.concat(doc, " "))) end
      if line ~= "" then doc = {} end
    end
  end
  return table.concat(out, "\n") .. "\n"
end

--- What route:set takes.
---@param home string
---@return string
function generate.route_settings(home)
  local out = { "| name | type | |", "|---|---|---|" }
  for name, type_, unit in read(home, "core/route/route_settings.h"):gmatch 'X%(([%l_]+), (%u+), [^,]+, "(.-)"%)' do
    out[#out + 1] = ("| `%s` | %s | %s |"):format(name, type_:lower(), cell(unit))
  end
  return table.concat(out, "\n") .. "\n"
end

------------------------------------------------------------------------------------------------------- annotations.md

local function shown(value)
  if value == nil then return "" end
  if type(value) == "table" then
    local list = {}
    for i, one in ipairs(value) do list[i] = tostring(one) end
    return "`" .. table.concat(list, ", ") .. "`"
  end
  return tostring(value) == "" and "" or "`" .. tostring(value) .. "`"
end

local function kind(spec)
  local text = spec.type
  if spec.values then
    local list = {}
    for i, one in ipairs(spec.values) do list[i] = tostring(one) end
    text = table.concat(list, ", ")
  end
  if spec.min then text = text .. " from " .. spec.min end
  if spec.max then text = text .. " to " .. spec.max end
  return text
end

local function row(name, spec)
  local notes = { spec.doc and sentence(spec.doc) }
  if spec.setting and spec.setting ~= name then notes[#notes + 1] = ("Default: the setting `%s`."):format(spec.setting)
  elseif spec.setting then notes[#notes + 1] = "Default: the setting of that name." end
  if spec.alias then notes[#notes + 1] = "Also `" .. table.concat(type(spec.alias) == "table" and spec.alias or { spec.alias }, "`, `") .. "`." end
  if spec.requires then notes[#notes + 1] = ("With `%s`."):format(spec.requires) end
  return ("| `%s` | %s | %s | %s |"):format(name, cell(kind(spec)), cell(shown(spec.default)), cell(table.concat(notes, " ")))
end

local function sorted(map)
  local names = {}
  for name in pairs(map or {}) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- Every annotation that a policy of ours reads.
---@param home string
---@return string
function generate.annotations(home)
  local out = {
    "# Annotations", "",
    "What the built-in policies read, in the order in which they run. Names go behind `nginx.ingress.kubernetes.io/`, `moongate.io/` or",
    "`ingress.kubernetes.io/`. Each policy is one file of [policies/](../policies); replace it with a file of its name",
    "([writing a policy](policies.md)). Where something differs from ingress-nginx on purpose, [differences](differences.md) says why.", "",
  }
  for _, name in ipairs(dofile(home .. "/policies/order.lua")) do
    local file = "policies/" .. name:gsub("-", "_") .. ".lua"
    local policy = dofile(home .. "/" .. file)
    out[#out + 1] = ("## %s\n\n%s [%s](../%s)\n"):format(name, sentence(policy.summary), file, file)
    if next(policy.annotations or {}) then
      out[#out + 1] = "| annotation | value | default | |\n|---|---|---|---|"
      for _, annotation in ipairs(sorted(policy.annotations)) do out[#out + 1] = row(annotation, policy.annotations[annotation]) end
      out[#out + 1] = ""
    end
    if next(policy.settings or {}) then
      out[#out + 1] = "| key of the ConfigMap | value | default | |\n|---|---|---|---|"
      for _, setting in ipairs(sorted(policy.settings)) do out[#out + 1] = row(setting, policy.settings[setting]) end
      out[#out + 1] = ""
    end
  end
  return table.concat(out, "\n"):gsub("%s+$", "") .. "\n"
end

--- What moongate.testing takes and gives: the list at the top of its file.
---@param home string
---@return string
function generate.testing(home)
  local list = read(home, "lua/moongate/testing.lua"):match "\n%-%- (testing%.route {.-)\n%-%-\n"
  return "```text\n" .. list:gsub("\n%-%- ?", "\n") .. "\n```\n"
end

---------------------------------------------------------------------------------------------------------------- pages

--- All pages as they should be: path to text.
---@param home string
---@return table<string, string>
function generate.pages(home)
  local policies = read(home, "docs/policies.md"):gsub("(<!%-%- generated: (%w+) %-%->\n).-(<!%-%- end %-%->)", function(head, name, foot)
    local make = ({ exchange = generate.exchange, library = generate.library, settings = generate.route_settings, testing = generate.testing })[name]
    return head .. "\n" .. assert(make, name)(home) .. "\n" .. foot
  end)
  return { ["docs/policies.md"] = policies, ["docs/annotations.md"] = generate.annotations(home) }
end

--- `luajit docs/generate.lua HOME` writes them.
if arg and arg[0] and arg[0]:find "generate%.lua$" then
  assert(testing)
  for path, text in pairs(generate.pages(arg[1])) do
    local file = assert(io.open(arg[1] .. "/" .. path, "wb"))
    file:write(text)
    file:close()
  end
end

return generate
