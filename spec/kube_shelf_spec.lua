-- A shelf: a map outside of Lua's heap.
require "spec.kube_support"
local shelf = require "kube.shelf"

describe("a shelf", function()
  it("is a map, whatever comes and goes", function()
    local made, model, value = shelf.new(), {}, 0
    local state = 7
    local function random(bound) -- the same with every run
      state = (state * 1103515245 + 12345) % 2147483648
      return math.floor(state / 65536) % bound
    end
    for _ = 1, 20000 do
      local key = "key " .. random(700)
      value = value + 1
      if random(3) == 0 then
        made:put(key, nil)
        model[key] = nil
      else
        local new = random(10) == 0 and { value } or ("x"):rep(random(40)) .. value
        made:put(key, new)
        model[key] = new
      end
    end
    local count = 0
    for key in made:each() do
      count = count + 1
      assert.equal(model[key], made:get(key))
    end
    for i = 0, 699 do
      local key = "key " .. i
      assert.equal(model[key], made:get(key))
      assert.equal(model[key] ~= nil, made:has(key))
      if model[key] ~= nil then count = count - 1 end
    end
    assert.equal(0, count)
  end)

  it("holds any bytes, none too", function()
    local made = shelf.new()
    made:put("", "")
    made:put("a\0b", "c\0d")
    assert.equal("", made:get "")
    assert.equal("c\0d", made:get "a\0b")
    assert.is_nil(made:get "a")
    made:put("", nil)
    assert.same({ "a\0b" }, made:keys())
  end)

  it("may change while it is gone through", function()
    local made, seen = shelf.new(), 0
    for i = 1, 100 do made:put("key " .. i, "value") end
    for key in made:each() do
      seen = seen + 1
      made:put(key, nil)
      made:put("new " .. key, { key })
    end
    assert.equal(100, seen)
    assert.equal(100, #made:keys())
  end)
end)
