-- body_filter: what hooks make of an answer's body, and what becomes of its head.
local testing = require "moongate.testing"

local function policy(name, code, more)
  return { trusted = not (more and more.is_guest), source = ("local policy = { name = %q, summary = 'x', applies = 'always' %s }\n"
    .. "function policy.attach() return { mark = '!' } end\nfunction policy.body_filter(exchange, config, chunk, last) %s end\nreturn policy")
    :format(name, more and more.fields or "", code) }
end

local function route(code, spec)
  spec = spec or {}
  spec.policies = { type(code) == "table" and code or policy("probe", code), unpack(spec.policies or {}) }
  return testing.route(spec)
end

local ANSWER = { body = "hello", headers = { ETag = '"x"', ["Accept-Ranges"] = "bytes", ["Content-Digest"] = "sha-256=:eA==:", ["X-A"] = "b" } }

describe("body_filter", function()
  it("sees each part and the end, and what it returns goes out", function()
    local upper = route "if last then return 'END' .. config.mark end return '<' .. chunk:upper() .. '>'"
    local result = upper:request { answer = ANSWER, headers = { ["Accept-Encoding"] = "gzip", Range = "bytes=0-1" } }
    assert.equal("<HELLO>END!", result.response.body)
    for _, name in ipairs { "content-length", "etag", "accept-ranges", "content-digest" } do assert.is_nil(result.response.headers[name], name) end
    assert.equal("b", result.response.headers["x-a"])
    assert.same({ "identity", nil }, { result.sent.headers["accept-encoding"], result.sent.headers.range })
    result = upper:request { answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n" }
    assert.equal("<AB><CDE>END!", result.response.body)
  end)

  it("sees the whole answer, unencoded, whatever the client asks for", function()
    local result = route("return chunk:upper()"):request { answer = ANSWER, headers = { ["Accept-Encoding"] = "gzip", Range = "bytes=0-1",
      ["Request-Range"] = "bytes=0-1", Connection = "upgrade", Upgrade = "websocket" } }
    local sent = result.sent.headers
    assert.same({ "websocket", "identity", nil, nil }, { sent.upgrade, sent["accept-encoding"], sent.range, sent["request-range"] })
    assert.equal("HELLO", result.response.body)
  end)

  it("takes away trailers that are true of the old body only", function()
    local result = route("return"):request { headers = { TE = "trailers" },
      answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nRepr-Digest: sha-256=:eA==:\r\nX-Took: 1\r\n\r\n" }
    assert.is_nil(result.bytes:find("Repr-Digest", 1, true))
    assert.is_truthy(result.bytes:find("0\r\nX-Took: 1\r\n\r\n", 1, true))
  end)

  it("leaves a part for which it returns nothing, and drops one for the empty string", function()
    assert.equal("hello", route(""):request({ answer = ANSWER }).response.body)
    assert.equal("", route("return ''"):request({ answer = ANSWER }).response.body)
  end)

  it("runs one after the other", function()
    local both = route("if not last then return chunk .. '1' end", { policies = { policy("second", "if not last then return chunk .. '2' end") } })
    assert.equal("hello12", both:request({ answer = ANSWER }).response.body)
  end)

  it("is not called where there is no body", function()
    local count = route "return 'x'"
    local result = count:request { method = "HEAD", answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" }
    assert.same({ "", nil }, { result.response.body, result.response.headers["content-length"] })
    result = count:request { answer = "HTTP/1.1 304 Not Modified\r\n\r\n" }
    assert.same({ 304, "" }, { result.status, result.response.body })
  end)

  it("sees answers of our own, with their length", function()
    local result = route("return 'ours: ' .. #chunk .. tostring(last)", { services = { default = {} } }):request {}
    assert.equal(503, result.status)
    assert.matches("^ours: %d+true$", result.response.body)
    assert.equal(tostring(#result.response.body), result.response.headers["content-length"])
  end)

  it("that fails cuts the answer off", function()
    local result = route("error 'broken'"):request { answer = ANSWER }
    assert.is_nil(result.bytes:find("0\r\n\r\n", 1, true))
    assert.is_nil(result.bytes:find("hello", 1, true))
    assert.matches('policy=probe phase=body_filter .*broken', table.concat(result.log, "\n"))
    result = route("return 5"):request { answer = ANSWER }
    assert.is_nil(result.bytes:find("0\r\n\r\n", 1, true))
    assert.matches("the body_filter hook returned a number; return nothing, or a string", table.concat(result.log, "\n"), 1, true)
    result = route("return ('x'):rep(1048577)"):request { answer = ANSWER }
    assert.is_nil(result.bytes:find("0\r\n\r\n", 1, true))
    assert.matches("returned more than 1048576 bytes", table.concat(result.log, "\n"), 1, true)
    assert.equal(1048576, #route("if not last then return ('x'):rep(1048576) end"):request({ answer = ANSWER }).response.body)
  end)

  it("that fails on an answer of our own gives a plain 500", function()
    local result = route("error 'broken'", { services = { default = {} } }):request {}
    assert.equal(500, result.status)
    assert.matches("<h1>500", result.response.body, 1, true)
  end)

  it("is for trusted policies", function()
    assert.has_error(function() route(policy("probe", "", { is_guest = true })) end, "policy.lua: has a body_filter hook, which takes --trust-policies")
  end)
end)
