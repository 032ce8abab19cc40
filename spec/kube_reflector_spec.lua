-- Following one kind of object: what is asked for after which answer. Here the answers are given by hand; spec/kube_cluster_spec.lua has a server.
require "spec.kube_support" -- brings moongate.kube
local json = require "cjson"
local reflector = require "kube.reflector"

local function object(name, version)
  return { metadata = { name = name, namespace = "default", uid = "uid-" .. name, resourceVersion = tostring(version) } }
end

--- A reflector, and what it asked for and said. `made.give(kind, value, extra)` answers its last request; `made.wait(seconds)` lets time pass.
local function follow()
  local made = { now = 0, requests = {}, known = {}, troubles = {}, restarts = 0 }
  local handler
  made.reflector = reflector.new {
    name = "ingresses", path = "/ingresses", kind = "Ingress", api = "networking.k8s.io/v1", clock = function() return made.now end,
    random = function() return 0.5 end, send = function(request, answer)
      made.requests[#made.requests + 1], handler = request, answer
      return #made.requests
    end,
    cancel = function() end, synced = function() end, restarted = function() made.restarts = made.restarts + 1 end,
    put = function(id, raw) made.known[id] = raw end, remove = function(id) made.known[id] = nil end,
    trouble = function(_, text) made.troubles[#made.troubles + 1] = text or "over" end,
  }
  function made.give(...) handler(...) end
  function made.last() return made.requests[#made.requests] end
  function made.wait(seconds)
    local stop = made.now + seconds
    while made.reflector.due <= stop do
      made.now = math.max(made.now, made.reflector.due)
      local before = #made.requests
      made.reflector:tick()
      if made.answer and #made.requests > before then made.answer() end
    end
    made.now = stop
  end
  function made.list(objects, version, continue)
    for _, item in ipairs(objects) do made.give("item", json.encode(item)) end
    made.give("list", json.encode { resourceVersion = tostring(version), continue = continue })
    made.give("done", 200, {})
  end
  function made.event(type, what) made.give("event", json.encode { type = type, object = what }) end
  made.reflector:tick()
  return made
end

local TOO_OLD = { kind = "Status", code = 410, message = "too old" }

describe("following a kind", function()
  it("begins the list anew when its second page cannot be had, even where a list was whole before", function()
    local made = follow()
    made.list({ object("first", 1), object("gone", 2) }, 10)
    made.event("ERROR", TOO_OLD)
    assert.equal("list", made.last().split)
    made.list({ object("first", 1) }, 20, "the-rest")
    made.give("failed", "cut", { retry = true }) -- "gone" is no more, and "late" is on the page that did not come
    made.wait(60)
    assert.equal("list", made.last().split)
    assert.is_nil(made.last().path:find "continue=")
    made.list({ object("first", 1), object("late", 15) }, 21)
    assert.is_table(made.known["default/late"])
    assert.is_nil(made.known["default/gone"])
    assert.is_truthy(made.last().path:find "resourceVersion=21")
  end)

  it("begins the list anew when the token of the second page is too old", function()
    local made = follow()
    made.list({ object("gone", 2) }, 10)
    made.event("ERROR", TOO_OLD)
    made.list({}, 20, "the-rest")
    made.give("done", 410, { body = "{}" })
    made.wait(60)
    assert.equal("list", made.last().split)
  end)

  -- A cluster that was restored from a backup is at a lower version than the one that we know, for as long as it takes.
  it("lists again when the server goes on refusing to watch from the version that it knows", function()
    for _, answer in ipairs {
      { "done", 504, { body = [[{"message":"Too large resource version: 900, current: 10"}]] } },
      { "event", json.encode { type = "ERROR", object = { code = 500, message = "Too large resource version: 900, current: 10" } } },
    } do
      local made = follow()
      made.list({ object("old", 900) }, 900)
      for _ = 1, 10 do
        if made.last().split == "list" then break end
        made.give(unpack(answer))
        made.wait(31)
      end
      assert.equal("list", made.last().split)
      made.list({ object("restored", 5) }, 10)
      assert.is_nil(made.known["default/old"])
      assert.is_table(made.known["default/restored"])
    end
  end)

  it("asks less and less often, and complains once at most, while each watch ends with an error", function()
    for _, code in ipairs { 410, 500 } do
      local made = follow()
      made.list({}, 10)
      made.answer = function()
        while made.now == 0 or made.reflector.due > made.now + 3600 do -- it waits for an answer
          assert(#made.requests < 60, "asked again and again")
          if made.last().split == "list" then made.list({}, 10) else made.event("ERROR", { code = code, message = "no" }) end
          if made.now == 0 then break end
        end
      end
      made.answer()
      made.wait(300)
      assert.is_true(#made.troubles <= 1, "complained " .. #made.troubles .. " times")
    end
  end)
end)
