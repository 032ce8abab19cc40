-- Documents of a file: which of them did a new version change?
local native = require("spec.kube_support").native

local function texts_of(text)
  local documents = native.documents()
  local list = {}
  for _, change in ipairs(documents:update("fresh.yaml", text)) do list[#list + 1] = change.text end
  return list
end

--- Follows the changes of one file and checks that they lead to what the text is.
local function follower()
  local documents, known = native.documents(), {}
  return function(text)
    local changes = assert(documents:update("a.yaml", text))
    for _, change in ipairs(changes) do
      if not change.text then
        assert.is_truthy(known[change.id])
        known[change.id] = nil
      end
    end
    for _, change in ipairs(changes) do
      if change.text then known[change.id] = change.text end
    end
    local expected, found, lines = texts_of(text), {}, {}
    for id, known_text in pairs(known) do
      local path, index, line = documents:position(id)
      assert.equal("a.yaml", path)
      found[index], lines[index] = known_text, line
    end
    assert.same(expected, found)
    local at = 1
    for i, one in ipairs(expected) do
      assert.equal(at, lines[i])
      at = at + select(2, one:gsub("\n", ""))
    end
    return changes
  end
end

describe("documents", function()
  it("are split at marker lines only", function()
    assert.same({ "a: 1\n", "---\nb: '---'\n", "--- # c\nc: |\n  ---\n", "---" }, texts_of("a: 1\n---\nb: '---'\n--- # c\nc: |\n  ---\n---"))
    assert.same({ "---x\n---y: 1\n" }, texts_of("---x\n---y: 1\n"))
    assert.same({ "---\r\na: 1\r\n", "---\r\nb: 2" }, texts_of("---\r\na: 1\r\n---\r\nb: 2"))
  end)
  it("are the same when the bytes are", function()
    local follow = follower()
    follow("a: 1\n---\nb: 2\n")
    assert.same({}, follow("a: 1\n---\nb: 2\n"))
  end)
  it("keep their id while they are edited, and only the edited one is told", function()
    local follow = follower()
    local first = follow("a: 1\n---\nb: 2\n---\nc: 3\n")
    local changes = follow("a: 1\n---\nb: two\nmore: 1\n---\nc: 3\n")
    assert.equal(1, #changes)
    assert.equal(first[2].id, changes[1].id)
  end)
  it("are told one by one when they are inserted or removed", function()
    local follow = follower()
    follow("---\na: 1\n---\nb: 2\n---\nc: 3\n")
    local inserted = follow("---\na: 1\n---\nx: 9\n---\nb: 2\n---\nc: 3\n")
    assert.equal(1, #inserted)
    assert.equal("---\nx: 9\n", inserted[1].text)
    local removed = follow("---\na: 1\n---\nb: 2\n---\nc: 3\n")
    assert.same({ { id = inserted[1].id } }, removed)
  end)
  it("are all gone with their file", function()
    local documents = native.documents()
    local first = documents:update("a.yaml", "a: 1\n---\nb: 2\n")
    assert.equal(2, #documents:forget("a.yaml"))
    assert.is_nil((documents:position(first[1].id)))
    assert.same({}, documents:paths())
  end)
  it("follow random edits", function()
    math.randomseed(7)
    local follow = follower()
    local parts = {}
    local pieces = { "a: 1\n", "---\n", "--- \nb\n", "---", "x\n", "\n", "--", "-", " ---\n", "---\nkey: value\n", "...\n" }
    for _ = 1, 3000 do
      local roll, at = math.random(10), math.random(#parts + 1)
      if roll <= 4 then
        table.insert(parts, at, pieces[math.random(#pieces)])
      elseif roll <= 6 and #parts > 0 then
        table.remove(parts, math.min(at, #parts))
      elseif roll <= 9 and #parts > 0 then
        parts[math.min(at, #parts)] = pieces[math.random(#pieces)]
      elseif #parts > 40 then
        parts = {}
      end
      follow(table.concat(parts))
    end
  end)
  it("of JSON are split at markers as well: no string of JSON holds a line break", function()
    local documents = native.documents()
    assert.equal(2, #documents:update("a.json", '{"a": 1}\n---\n{"a": 2}\n'))
  end)
end)
