-- The API server's client as Lua sees it, over real HTTP. Its bytes are tested in tests/unit/test_kube_api*.c.
local native = require("spec.kube_support").native

-- Answers as many requests as it is told; ends by itself when nobody comes.
local SERVER = [=[
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *a): pass
    def answer(self):
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = 200, b'{"metadata":{"resourceVersion":"5"},"items":[{"n":1},{"n":2}]}'
        if self.path == "/echo": body = b" ".join([self.command.encode(), (self.headers.get("Content-Type") or "").encode(), asked])
        if self.path == "/busy": status, body = 429, b"later"
        if self.path == "/watch": body = b'{"type":"ADDED"}\n{"type":"BOOKMARK"}\n'
        self.send_response(status)
        if status == 429: self.send_header("Retry-After", "3")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_GET = do_POST = do_PATCH = do_DELETE = answer
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
server.timeout = 20
print(server.server_port, flush=True)
server.handle_request()
]=]

local function start()
  local name = os.tmpname()
  local file = assert(io.open(name, "w"))
  file:write(SERVER)
  file:close()
  local pipe = assert(io.popen("env -u LD_PRELOAD python3 " .. name))
  local port = pipe:read("*l")
  os.remove(name)
  local client = assert(native.api { url = "http://127.0.0.1:" .. port })
  return client, pipe
end

--- All news until the one of `id` that is the last.
local function all(client, id)
  local news = {}
  repeat
    assert.is_true(client:wait(20000))
    local from, kind, value, extra = client:next()
    assert.equal(id, from)
    news[#news + 1] = { kind, value, extra }
  until kind == "done" or kind == "failed"
  assert.is_nil(client:next())
  return news
end

describe("native.api", function()
  it("gives what comes, as kinds and values", function()
    local client, server = start()
    local id = client:send { path = "/list", split = "list" }
    assert.equal(1, id)
    assert.same({ { "item", '{"n":1}' }, { "item", '{"n":2}' }, { "list", '{"resourceVersion":"5"}' }, { "done", 200, { body = "" } } }, all(client, id))
    id = client:send { path = "/watch", split = "watch" }
    assert.equal(2, id)
    assert.same({ { "event", '{"type":"ADDED"}' }, { "event", '{"type":"BOOKMARK"}' }, { "done", 200, { body = "" } } }, all(client, id))
    id = client:send { method = "PATCH", path = "/echo", body = "a\0b", content_type = "application/merge-patch+json" }
    assert.same({ { "done", 200, { body = "PATCH application/merge-patch+json a\0b" } } }, all(client, id))
    assert.same({ { "done", 429, { body = "later", retry_after = 3 } } }, all(client, client:send { path = "/busy", split = "list" }))
    local news = all(client, client:send { path = "/echo", max_body = 1 })
    assert.equal("failed", news[1][1])
    assert.matches("longer than 1 bytes", news[1][2])
    assert.same({ retry = false }, news[1][3])
    client:close()
    server:close()
  end)
  it("forgets what is cancelled", function()
    local client, server = start()
    local id = client:send { path = "/list", split = "list" }
    assert.is_true(client:wait(20000))
    client:cancel(id)
    assert.is_nil(client:next())
    assert.is_false(client:wait(0))
    client:close()
    server:close()
  end)
  it("says what fails", function()
    local client = assert(native.api { url = "http://127.0.0.1:1" })
    local news = all(client, client:send { path = "/" })
    assert.same({ { "failed", "the API server 127.0.0.1:1: no connection: Connection refused", { retry = true } } }, news)
    client:close()
  end)
  it("refuses what makes no sense", function()
    local client, message = native.api { url = "nonsense://" }
    assert.is_nil(client)
    assert.matches("no http or https URL", message)
    assert.has_error(function() native.api { url = 1 } end, "url is no text")
    client = assert(native.api { url = "http://127.0.0.1:1" })
    local id
    id, message = client:send { path = "no slash" }
    assert.is_nil(id)
    assert.matches("does not begin with /", message)
    assert.has_error(function() client:send {} end)
    assert.has_error(function() client:send { path = "/", split = "half" } end)
    assert.has_error(function() client:send { path = "/", timeout = -1 } end)
    assert.has_error(function() client:send { path = "/", timeout = 0 / 0 } end)
    client:close()
    client:close()
    assert.has_error(function() client:next() end)
    assert.has_error(function() client:send { path = "/" } end)
  end)
  it("ends what runs when it is collected", function()
    local client = assert(native.api { url = "http://127.0.0.1:1" })
    client:send { path = "/" }
    client = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
  end)
end)
