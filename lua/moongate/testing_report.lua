--- What `moongate test` prints beside busted's own report: a request that ends with 500 because a hook raised tells a spec no more than that, so what was
-- raised is shown for each test that failed. Run by busted before any spec.
local busted = require "busted"

local shown = {}

--- The kit that the running spec has: busted gives each file its own.
local function take_raised()
  local testing = package.loaded["moongate.testing"]
  local raised = testing and testing.raised or {}
  if testing then testing.raised = {} end
  return raised
end

busted.subscribe({ "test", "end" }, function(element, parent, status)
  local raised = take_raised()
  if status ~= "success" and #raised > 0 then
    shown[#shown + 1] = ("%s %s"):format(parent and parent.name or "", element.name or "")
    local seen = {}
    for _, text in ipairs(raised) do
      if not seen[text] then shown[#shown + 1] = "  " .. text end
      seen[text] = true
    end
  end
  return nil, true
end)

busted.subscribe({ "exit" }, function()
  if #shown > 0 then io.stdout:write("\nRaised by hooks in tests that failed:\n", table.concat(shown, "\n"), "\n") end
  return nil, true
end)
