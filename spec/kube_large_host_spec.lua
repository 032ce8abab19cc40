-- A host with very many paths is built in slices: others do not wait for it, and nothing that changes meanwhile is lost.
local kube = require "spec.kube_support"

local INGRESSES, PATHS = 4, 150

local function large(number, options)
  local paths = {}
  for i = 1, PATHS do paths[i] = { ("/app-%d/%d"):format(number, i) } end
  return kube.ingress { name = "large-" .. number, host = "large.test", paths = paths, annotations = options }
end

local function files()
  local list = { ["web.yaml"] = kube.service("web") .. "---\n" .. kube.slice("web"), ["small.yaml"] = kube.ingress { name = "small", host = "small.test" } }
  for i = 1, INGRESSES do list["large-" .. i .. ".yaml"] = large(i) end
  return list
end

--- Has a host been attached in part? `has_looked`: and looked at a ConfigMap.
local function is_begun(one, has_looked)
  return one and one.users and (not has_looked or next(one.users) ~= nil)
end

--- Takes in a change and works for so short a time that the large host is not done.
local function begin(run, changes, has_looked)
  local paths = {}
  for name, text in pairs(changes) do
    local path = run.directory .. "/" .. name
    if text then kube.write(path, text) else os.remove(path) end
    paths[#paths + 1] = path
  end
  run.sync:change(paths)
  repeat run.sync:work(1e-4) until is_begun(run.sync.large, has_looked)
end

local function finish(run)
  while run.sync:work(1) do end
end

local function timeouts(run)
  local found = {}
  for _, route in ipairs(run.units["host large.test"].routes) do found[tostring(route.settings.read_timeout)] = true end
  return found
end

describe("a host with very many paths", function()
  teardown(kube.clean)

  it("is built as in one go", function()
    local run = kube.start { files = files() }
    local before = run.units["host large.test"]
    assert.equal(INGRESSES * PATHS + 1, #before.routes)
    begin(run, { ["large-1.yaml"] = large(1, { ["proxy-read-timeout"] = "7" }) })
    assert.equal(before, run.units["host large.test"])
    finish(run)
    local whole = kube.start { files = files() }
    whole.sync.is_ready = false
    whole.change("large-1.yaml", large(1, { ["proxy-read-timeout"] = "7" }))
    assert.is_false(run.units["host large.test"] == before)
    assert.same(whole.units["host large.test"], run.units["host large.test"])
  end)

  it("keeps no other host waiting, whose policies see their own host", function()
    local run = kube.start { files = files() }
    local before = run.units["host large.test"]
    begin(run, { ["large-1.yaml"] = large(1, { ["proxy-read-timeout"] = "7" }) })
    kube.write(run.directory .. "/small.yaml", kube.ingress { name = "small", host = "small.test", annotations = { ["proxy-read-timeout"] = "9" } })
    run.sync:change { run.directory .. "/small.yaml" }
    assert.equal(9, run.units["host small.test"].routes[1].settings.read_timeout)
    assert.equal(before, run.units["host large.test"])
    finish(run)
    assert.is_true(timeouts(run)["7"])
  end)

  it("is built again when its Ingresses change meanwhile", function()
    local run = kube.start { files = files() }
    begin(run, { ["large-1.yaml"] = large(1, { ["proxy-read-timeout"] = "7" }) })
    begin(run, { ["large-2.yaml"] = large(2, { ["proxy-read-timeout"] = "8" }) })
    finish(run)
    local found = timeouts(run)
    assert.is_true(found["7"] and found["8"])
  end)

  it("goes when its Ingresses go meanwhile", function()
    local run = kube.start { files = files() }
    begin(run, { ["large-1.yaml"] = large(1, { ["proxy-read-timeout"] = "7" }) })
    local paths = {}
    for i = 1, INGRESSES do
      paths[i] = run.directory .. "/large-" .. i .. ".yaml"
      os.remove(paths[i])
    end
    run.sync:change(paths)
    finish(run)
    assert.is_nil(run.units["host large.test"])
    assert.is_nil(next(run.sync.good["default/large-1"] or {}))
    assert.is_false(run.sync:has_work())
  end)

  local READER = [[
return { name = "reader", summary = "A trial.", applies = "always", header_filter = function() end,
  attach = function(route)
    local data = route:config_map("words")
    return { text = %q .. (data and data.word or "absent") }
  end }
]]

  local function words(text)
    return ("apiVersion: v1\nkind: ConfigMap\nmetadata: { name: words }\ndata: { word: %s }\n"):format(text)
  end

  local function texts(run)
    local found, list = {}, {}
    for _, route in ipairs(run.units["host large.test"].routes) do
      for _, hook in ipairs(route.hooks.header_filter or {}) do
        if hook.policy == "reader" then found[hook.config.text] = true end
      end
    end
    for text in pairs(found) do list[#list + 1] = text end
    return table.concat(list, " ")
  end

  it("is built again when a ConfigMap that it has read changes meanwhile", function()
    local list = files()
    list["words.yaml"] = words "one"
    local run = kube.start { files = list, policies = { ["reader.lua"] = READER:format "" } }
    assert.equal("one", texts(run))
    begin(run, { ["large-1.yaml"] = large(1, { ["proxy-read-timeout"] = "7" }) }, true)
    kube.write(run.directory .. "/words.yaml", words "two")
    run.sync:change { run.directory .. "/words.yaml" }
    finish(run)
    assert.equal("two", texts(run))
    assert.is_true(timeouts(run)["7"])
  end)

  it("that is new is built again too", function()
    local list = files()
    local run = kube.start { files = { ["web.yaml"] = list["web.yaml"], ["words.yaml"] = words "one" }, policies = { ["reader.lua"] = READER:format "" } }
    list["web.yaml"] = nil
    begin(run, list, true)
    kube.write(run.directory .. "/words.yaml", words "two")
    run.sync:change { run.directory .. "/words.yaml" }
    finish(run)
    assert.equal("two", texts(run))
  end)

  it("sees in a new policy set what changes meanwhile, though the set before did not ask for it", function()
    local list = files()
    list["words.yaml"] = words "one"
    local silent = READER:format "":gsub("data = route[^\n]*", "data")
    local run = kube.start { files = list, policies = { ["reader.lua"] = silent } }
    kube.write(run.policies .. "/reader.lua", READER:format "new ")
    run.sync:change { run.policies .. "/reader.lua" }
    repeat run.sync:work(1e-4) until is_begun(run.sync.pass.large, true)
    kube.write(run.directory .. "/words.yaml", words "two")
    run.sync:change { run.directory .. "/words.yaml" }
    finish(run)
    assert.equal("new two", texts(run))
  end)

  it("is attached to a new policy set in slices too, and to what changes meanwhile", function()
    local list = files()
    list["words.yaml"] = words "one"
    local run = kube.start { files = list, policies = { ["reader.lua"] = READER:format "" } }
    kube.write(run.policies .. "/reader.lua", READER:format "new ")
    run.sync:change { run.policies .. "/reader.lua" }
    repeat run.sync:work(1e-4) until is_begun(run.sync.pass.large, true)
    kube.write(run.directory .. "/words.yaml", words "two")
    run.sync:change { run.directory .. "/words.yaml" }
    begin(run, { ["large-1.yaml"] = large(1, { ["proxy-read-timeout"] = "7" }) })
    finish(run)
    assert.equal("new two", texts(run))
    assert.is_true(timeouts(run)["7"])
    assert.is_nil(run.sync.pass)
  end)

  it("is begun anew when the policy set that it is built under is replaced", function()
    local run = kube.start { files = files(), policies = { ["reader.lua"] = READER:format "" } }
    begin(run, { ["large-1.yaml"] = large(1, { ["proxy-read-timeout"] = "7" }) })
    kube.write(run.policies .. "/reader.lua", READER:format "new ")
    run.sync:change { run.policies .. "/reader.lua" }
    finish(run)
    assert.equal("new absent", texts(run))
    assert.is_true(timeouts(run)["7"])
  end)
end)
