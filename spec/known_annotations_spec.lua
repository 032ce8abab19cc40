-- Every annotation of ingress-nginx is declared by a policy or listed as not supported; every policy has its place in the order.
local attach = require "moongate.attach"

local function policies()
  local found = {}
  for path in io.popen("ls policies/*.lua"):lines() do
    if not path:find("order.lua", 1, true) then found[path] = dofile(path) end
  end
  return found
end

describe("the policies", function()
  it("all load, are documented, and are in the order", function()
    local driver, placed = attach.new {}, {}
    for _, name in ipairs(dofile "policies/order.lua") do
      assert.is_nil(placed[name], name .. " is there twice")
      placed[name] = true
    end
    for path, policy in pairs(policies()) do
      local description, problem = driver:load(policy, path)
      assert.is_nil(problem)
      assert.equal(path, "policies/" .. description.name:gsub("-", "_") .. ".lua")
      assert.is_true(placed[description.name], description.name .. " has no place in order.lua")
      placed[description.name] = nil
      assert.is_truthy(description.summary:find("%.$"), path)
      for _, group in ipairs { "annotations", "settings" } do
        for name, spec in pairs(description[group]) do assert.is_truthy(spec.doc and spec.doc:find("%.$"), name .. " has no doc") end
      end
    end
    assert.same({}, placed)
  end)

  it("and kube/settings.lua read the keys that docs/settings.md lists, and no others", function()
    local read, documented = require "kube.settings".keys(), {}
    for _, policy in pairs(policies()) do
      for key in pairs(policy.settings or {}) do read[key] = true end
      for _, spec in pairs(policy.annotations or {}) do
        if spec.setting then read[spec.setting] = true end
      end
    end
    for line in io.lines "docs/settings.md" do
      if line:find("^| [^-]") then
        for key in line:gmatch("`([%w-]+)`") do documented[key] = true end
      end
    end
    assert.same(read, documented)
  end)

  it("of the example are in its ConfigMap, word for word", function()
    local lines = {}
    for line in io.lines "policies/examples/new_shop.lua" do lines[#lines + 1] = line == "" and "" or "    " .. line end
    local manifest = assert(io.open("policies/examples/new_shop.configmap.yaml")):read "*a"
    assert.is_truthy(manifest:find("new_shop.lua: |\n" .. table.concat(lines, "\n") .. "\n", 1, true))
  end)

  it("and the list of unsupported names do not overlap", function()
    local unsupported = dofile "policies/known/unsupported.lua"
    for path, policy in pairs(policies()) do
      for name in pairs(policy.annotations or {}) do assert.is_nil(unsupported[name], name .. " of " .. path) end
    end
    for _, name in ipairs { "auth-tls-secret", "auth-snippet" } do
      assert.is_true(unsupported[name].deny, name)
    end
    assert.is_nil(unsupported["enable-modsecurity"].deny)
  end)
end)
