-- YAML as kubectl reads it.
local native = require("spec.kube_support").native

local function read(text)
  local value, message, line = native.yaml(text)
  if value == nil and message then return ("%d: %s"):format(line, message) end
  return value
end

describe("YAML", function()
  it("reads scalars as YAML 1.1 does", function()
    local map = read [[
yes: yes
on_: on
no_: "no"
octal: 0777
hex: 0x1F
plain: 10
under: 1_000
float: 1.5e3
version: 1.2.3
time: 2024-01-01T00:00:00Z
text: ~x
tagged: !!str 12
]]
    assert.is_true(map.yes)
    assert.is_true(map.on_)
    assert.equal("no", map.no_)
    assert.equal(511, map.octal)
    assert.equal(31, map.hex)
    assert.equal(10, map.plain)
    assert.equal(1000, map.under)
    assert.equal(1500, map.float)
    assert.equal("1.2.3", map.version)
    assert.equal("2024-01-01T00:00:00Z", map.time)
    assert.equal("~x", map.text)
    assert.equal("12", map.tagged)
  end)
  it("keeps nulls apart from absent", function()
    local map = read "a:\nb: ~\nc: null\n"
    assert.equal("userdata", type(map.a))
    assert.equal("userdata", type(map.b))
    assert.equal("userdata", type(map.c))
    assert.is_nil(map.d)
  end)
  it("keeps keys as text", function()
    assert.same({ on = 1, ["8"] = 2 }, read "on: 1\n8: 2\n")
  end)
  it("says where it begins", function()
    local _, line = native.yaml("---\n# why\n\na: 1\n")
    assert.equal(4, line)
  end)
  it("finds nothing in comments, markers and directives", function()
    for _, text in ipairs { "", "# x\n", "---\n", "---\n# x\n\n", "%YAML 1.1\n", "---\n...\n" } do
      local value, message = native.yaml(text)
      assert.is_nil(value)
      assert.is_nil(message)
    end
  end)
  it("reads aliases as the same table, and merges", function()
    local map = read "base: &b { x: 1, y: 2 }\nother: *b\nmerged: { <<: *b, y: 3 }\n"
    assert.equal(map.base, map.other)
    assert.same({ x = 1, y = 3 }, map.merged)
  end)
  it("refuses a key that is there twice, with its line", function()
    assert.equal('3: the key "a" is there twice', read "b: 1\na: 1\na: 2\n")
  end)
  it("says where text is broken", function()
    assert.matches("^3: ", read "a:\n  b: 1\n c: 2\n")
    assert.matches("while parsing a flow sequence", read "a: [1, 2")
    assert.matches("^1: .*anchor", read "a: *nothing\n")
    assert.matches("document start", read "a: 1\n...\nb: 2\n")
  end)
  it("bounds depth and aliases", function()
    assert.matches("too deeply", read(("["):rep(100) .. ("]"):rep(100)))
    assert.matches("too many aliases", read("a: &x 1\nb: [" .. ("*x, "):rep(1100) .. "]\n"))
  end)
  it("does not multiply nested aliases", function()
    local lines = { "a0: &a0 [x]" }
    for i = 1, 40 do lines[#lines + 1] = ("a%d: &a%d [*a%d, *a%d]"):format(i, i, i - 1, i - 1) end
    assert.equal("table", type(read(table.concat(lines, "\n"))))
  end)
end)
