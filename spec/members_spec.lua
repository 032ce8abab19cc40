-- Each member of an exchange may be used in the hooks that docs/policies.md names, and in no other.
local generate = require "docs.generate"
local testing = require "moongate.testing"
local home = os.getenv "MOONGATE_HOME" or "."

local HOOKS = { "server_rewrite", "rewrite", "access", "balancer", "header_filter", "log" }
local REACHED = { Endpoint = "exchange.upstream.endpoint" } -- of the balancer it is upstream:endpoint(1)

--- The hooks in which the object itself can be reached.
local function reach(members, class)
  local name = class == "Endpoint" and "upstream" or generate.NAMES[class]:match "^exchange%.(%w+)"
  for _, member in ipairs(members) do
    if member.class == "Exchange" and member.name == name then return member.phases end
  end
  return { server_rewrite = true, rewrite = true, access = true, balancer = true, header_filter = true, log = true }
end

--- A policy whose hooks try every member and tell those that were allowed.
local function trial(members)
  local source = { "local seen = {}", "local function try(hook, name, use) local ok, problem = pcall(use)",
    "  if ok or not problem:find(': not in ' .. hook .. '; only in ', 1, true) then seen[#seen + 1] = hook .. ' ' .. name end end",
    "local policy = { name = 'trial', summary = 'x', applies = 'always' }",
    "function policy.attach_host() return {} end", "function policy.attach() return {} end" }
  for _, hook in ipairs(HOOKS) do
    source[#source + 1] = "function policy." .. hook .. "(exchange)"
    for _, member in ipairs(members) do
      local object = REACHED[member.class] or generate.NAMES[member.class]
      if hook == "balancer" and member.class == "Endpoint" then object = "exchange.upstream:endpoint(1)" end
      local use = member.is_method and ("%s:%s()"):format(object, member.name) or ("return %s.%s"):format(object, member.name)
      source[#source + 1] = ("  try(%q, %q, function() %s end)"):format(hook, member.class .. (member.is_method and ":" or ".") .. member.name, use)
    end
    if hook == "log" then source[#source + 1] = "  error(table.concat(seen, '\\n'), 0)" end
    source[#source + 1] = "end"
  end
  source[#source + 1] = "return policy"
  return table.concat(source, "\n")
end

describe("the members of an exchange", function()
  local members = {}
  for _, member in ipairs(generate.members(home)) do
    -- There is no TLS in a spec; and upstream:endpoint(i) is told from the field by its phase.
    local is_out = member.class == "Tls" or (member.class == "Upstream" and member.name == "endpoint" and member.is_method)
    if not is_out then members[#members + 1] = member end
  end

  -- In parts: what a hook says in the log has its bounds.
  for first = 1, #members, 4 do
    local part = {}
    for i = first, math.min(first + 3, #members) do part[#part + 1] = members[i] end
    it("may be used where the page says: " .. part[1].class .. "." .. part[1].name .. " to " .. part[#part].class .. "." .. part[#part].name, function()
      local route = testing.route { source = trial(part), trusted = true }
      local result = route:request { uri = "/" }
      local expected = {}
      for _, hook in ipairs(HOOKS) do
        for _, member in ipairs(part) do
          local is_allowed = member.phases[hook] and reach(members, member.class)[hook]
          expected[#expected + 1] = is_allowed and hook .. " " .. member.class .. (member.is_method and ":" or ".") .. member.name or nil
        end
      end
      local log = table.concat(result.log, "\n")
      local told = log:match 'phase=log.-detail="policy.lua:[%d-]+: ([^"]*)"'
      assert.is_string(told, log)
      assert.equal(table.concat(expected, " "), told)
    end)
  end
end)
