local testing = require "moongate.testing"

local function route(annotations, settings, more)
  local spec = { policy = "head_size.lua", annotations = annotations, settings = settings }
  for name, value in pairs(more or {}) do spec[name] = value end
  return testing.route(spec)
end

local function answer(bytes)
  return { answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " .. ("a"):rep(bytes) .. "\r\n\r\n" }
end

describe("head-size", function()
  it("answers 502 where the application's head is longer", function()
    local short = route { ["proxy-buffer-size"] = "2k" }
    assert.equal(200, short:request(answer(1900)).status)
    assert.equal(502, short:request(answer(2100)).status)
  end)

  it("leaves the core's limit where nothing is said, and raises it", function()
    assert.equal(502, route({}):request(answer(33000)).status)
    assert.equal(200, route({ ["proxy-buffer-size"] = "64k" }):request(answer(33000)).status)
    assert.equal(200, route({}, { ["proxy-buffer-size"] = "64k" }):request(answer(33000)).status)
  end)

  it("has bounds", function()
    for text, complaint in pairs { ["1b"] = "is not a size such as 512, 8k or 1m", ["100"] = "is less than 512", ["2m"] = "is more than 1048576" } do
      local made = route({ ["proxy-buffer-size"] = text }, {}, { allow_findings = true })
      assert.equal("proxy-buffer-size: " .. text .. " " .. complaint, made.findings[1].text)
      assert.is_nil(made.set.head_limit)
    end
  end)
end)
