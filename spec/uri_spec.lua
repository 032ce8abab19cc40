-- moongate.uri.is_within: which rules a list of paths is about.
local moongate = require "moongate"

describe("a path is within", function()
  local cases = {
    { "/open", { "/open" }, true }, { "/open/a", { "/open" }, true }, { "/openly", { "/open" }, false }, { "/open/a", { "/open/" }, true },
    { "/open", { "/open/" }, false }, { "/", { "/" }, true }, { "/a", { "/" }, true }, { "/a", {}, false }, { "/b", { "/a", "/b" }, true },
    { "/open/.*", { "/open" }, false }, { "/open/(a|b)", { "/open" }, false }, { "/open/.*", { "/open/.*" }, true },
  }
  for _, case in ipairs(cases) do
    it(case[1] .. " and " .. table.concat(case[2], ", "), function() assert.equal(case[3], moongate.uri.is_within(case[1], case[2])) end)
  end
end)
