-- What a host costs: its routes are asked about one by one, so that each question must be small.
require "spec.kube_support"
local attaching = require "kube.attaching"
local core = require "moongate.core"

--- The largest question about a route of a host that has `count` Ingresses with as many paths each.
local function largest_question(count)
  local largest, questions = 0, 0
  local owner = {
    attach_host = function() return {} end,
    attach_route = function(_, question)
      questions = questions + 1
      largest = math.max(largest, #assert(core.pack.encode(question)))
      return {}
    end,
  }
  local ingresses = {}
  for i = 1, count do
    local rules = { host = "a.test", paths = {} }
    for j = 1, count do rules.paths[j] = { path = ("/%03d/%03d"):format(i, j), type = "prefix", path_type = "Prefix", service = "web", port = "80" } end
    ingresses[i] = { id = "default/i" .. i, key = "Ingress default/i" .. i, namespace = "default", name = ("i%03d"):format(i), rules = { rules }, tls = {} }
  end
  local set = { owners = { { owner = owner, active = { "trial" } } }, denied_of = {}, denied = {}, order = {}, declared = {} }
  attaching.host {
    name = "a.test", ingresses = ingresses, short = function() return { one = "1" } end, has_tls = false, settings = {}, set = set,
    has_stood = function() return false end,
  }
  assert.is_true(questions >= count * count)
  return largest
end

describe("a host", function()
  it("asks as little about a route when there are many", function()
    assert.equal(largest_question(2), largest_question(40))
  end)
end)
