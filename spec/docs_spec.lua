-- The pages say what the sources say: `make docs` writes them anew.
local generate = require "docs.generate"
local home = os.getenv "MOONGATE_HOME" or "."

describe("the pages", function()
  for path, text in pairs(generate.pages(home)) do
    it(path .. " is what `make docs` makes", function()
      local file = assert(io.open(home .. "/" .. path, "rb"))
      local found = file:read "*a"
      file:close()
      assert.is_true(found == text, path .. " differs from its sources; run `make docs`")
    end)
  end

  it("name every member of an exchange, and none that is not there", function()
    local text = generate.exchange(home)
    assert.matches("| `:allow()` | access |", text, 1, true)
    assert.matches("| `:set_path(path)` | server_rewrite, rewrite, access |", text, 1, true)
    assert.matches("| `.status` | header_filter, body_filter, log | `integer` |", text, 1, true)
  end)
end)
