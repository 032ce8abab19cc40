-- Types of annotations: what users may write, and what they are told.
local schema = require "moongate.schema"

local function read(spec, raw, context)
  if type(spec) == "string" then spec = { type = spec } end
  assert.is_nil(schema.check_spec("name", spec))
  return schema.parse("name", spec, raw, context)
end

local function complaint(spec, raw)
  local value, text = read(spec, raw)
  assert.is_nil(value)
  return text
end

describe("schema", function()
  it("reads booleans as Go does", function()
    for _, raw in ipairs { "1", "t", "T", "TRUE", "true", "True" } do assert.is_true(read("boolean", raw)) end
    for _, raw in ipairs { "0", "f", "F", "FALSE", "false", "False" } do assert.is_false(read("boolean", raw)) end
    for _, raw in ipairs { "yes", "on", "tRUE", "2" } do
      assert.equal("name: " .. raw .. " is neither true nor false", complaint("boolean", raw))
    end
  end)

  it("reads on and off where the style says so", function()
    local spec = { type = "boolean", style = "on_off" }
    assert.is_true(read(spec, "on"))
    assert.is_false(read(spec, "off"))
    assert.equal("name: true is neither on nor off", complaint(spec, "true"))
  end)

  it("reads whole numbers within their limits", function()
    local spec = { type = "integer", min = 0, max = 100 }
    assert.equal(42, read(spec, "42"))
    assert.equal(7, read(spec, "+7"))
    assert.equal("name: 101 is more than 100", complaint(spec, "101"))
    assert.equal("name: -1 is less than 0", complaint(spec, "-1"))
    for _, raw in ipairs { "1.5", "ten", "0x10", "1e3", "50k" } do
      assert.equal("name: " .. raw .. " is not a whole number", complaint(spec, raw))
    end
    assert.equal("name: 99999999999999999999 is too large a number", complaint("integer", "99999999999999999999"))
  end)

  it("reads numbers", function()
    assert.equal(0.25, read("number", "0.25"))
    assert.equal("name: nan is not a number", complaint("number", "nan"))
    assert.equal("name: 0x1p4 is not a number", complaint("number", "0x1p4"))
  end)

  it("reads sizes in nginx's spelling", function()
    assert.equal(512, read("size", "512"))
    assert.equal(8192, read("size", "8k"))
    assert.equal(8192, read("size", "8K"))
    assert.equal(1048576, read("size", "1m"))
    assert.equal(2 * 1024 ^ 3, read("size", "2g"))
    assert.equal("name: 1.5m is not a size such as 512, 8k or 1m", complaint("size", "1.5m"))
    assert.equal("name: 1b is not a size such as 512, 8k or 1m", complaint({ type = "size", units = "km" }, "1b"))
  end)

  it("reads durations in nginx's and Go's spelling", function()
    assert.equal(30, read("duration", "30"))
    assert.equal(30, read("duration", "30s"))
    assert.equal(5400, read("duration", "1h30m"))
    assert.equal(5400, read("duration", "1h 30m"))
    assert.equal(0.25, read("duration", "250ms"))
    assert.equal(5400, read("duration", "1.5h"))
    assert.equal("name: soon is not a duration such as 30s, 5m or 1h30m", complaint("duration", "soon"))
    assert.equal("name: 5x is not a duration such as 30s, 5m or 1h30m", complaint("duration", "5x"))
  end)

  it("reads enums, with the spelling of the list or of the user", function()
    local spec = { type = "enum", values = { "balanced", "persistent" } }
    assert.equal("persistent", read(spec, "persistent"))
    assert.equal("name: Persistent is none of balanced, persistent", complaint(spec, "Persistent"))
    assert.equal(308, read({ type = "enum", values = { 301, 308 } }, "308"))
    assert.equal("GRPC", read({ type = "enum", values = { "HTTP", "GRPC" }, ignore_case = true }, "grpc"))
    assert.equal("none", read({ type = "enum", values = { "None" }, ignore_case = "as_written" }, "none"))
  end)

  it("reads strings within pattern and length", function()
    local spec = { type = "string", pattern = "^[%w-]+$", max_length = 5 }
    assert.equal("a-b", read(spec, "a-b"))
    assert.equal("name: a b has a form that is not allowed here", complaint(spec, "a b"))
    assert.equal("name: abcdef is longer than 5 characters", complaint(spec, "abcdef"))
    assert.equal("name: a b has a control character", complaint("string", "a\27b"))
  end)

  it("reads lists, and leaves bad items out only where asked", function()
    assert.same({ "a", "b" }, read("list", "a, b,,"))
    assert.same({ 1, 2 }, read({ type = "list", of = "integer" }, "1,2"))
    assert.same({ "error", "timeout" }, read({ type = "list", separator = " ", values = { "error", "timeout" } }, "error  timeout"))
    assert.equal("name: 1,x has the item x, which is not a whole number", complaint({ type = "list", of = "integer" }, "1,x"))
    local context = { skipped = {} }
    assert.same({ 1 }, read({ type = "list", of = "integer", skip_invalid_items = true }, "1,x", context))
    assert.same({ "name: x is not a whole number" }, context.skipped)
  end)

  it("reads address and host lists into C values", function()
    assert.equal("userdata", type(read("cidr_list", "10.0.0.0/8, 2001:db8::/32")))
    assert.equal("name: 10.0.0.0/8,nobody has the item nobody, which is not an address or a CIDR", complaint("cidr_list", "10.0.0.0/8,nobody"))
    local context = { skipped = {} }
    assert.equal("userdata", type(read({ type = "cidr_list", skip_invalid_items = true }, "10.0.0.0/8,nobody", context)))
    assert.same({ "name: nobody is not an address or a CIDR" }, context.skipped)
    assert.equal("name: nobody has no item that is an address or a CIDR", complaint({ type = "cidr_list", skip_invalid_items = true }, "nobody"))
    assert.equal("userdata", type(read("host_list", "a.test,*.b.test")))
  end)

  it("reads headers and cookies by name", function()
    assert.equal("X-Id", read("header_name", "X-Id"))
    assert.equal("name: X Id is not a header name", complaint("header_name", "X Id"))
    assert.same({ "A", "B" }, read("header_list", "A,B"))
    assert.same({ A = "1", B = "x:y" }, read("header_map", "A: 1\nB: x:y"))
    assert.equal("route", read("cookie_name", "route"))
    assert.equal("name: a;b is not a cookie name", complaint("cookie_name", "a;b"))
  end)

  it("compiles regexes and templates", function()
    assert.equal("userdata", type(read("regex", "^/a(.*)$")))
    assert.matches("^name: %( is not a regular expression", (complaint("regex", "(")))
    assert.equal("userdata", type(read("template", "$host-x")))
    assert.equal("name: $nothing has the unknown variable $nothing", complaint("template", "$nothing"))
  end)

  it("reads URLs and paths without variables", function()
    assert.equal("https://a.test/x?y=z", read("url", "https://a.test/x?y=z"))
    assert.equal("name: /x is not a URL", complaint("url", "/x"))
    assert.equal("/x", read({ type = "url", path = true }, "/x"))
    assert.equal("name: https://$host/ has a variable, and none is allowed here", complaint("url", "https://$host/"))
    assert.equal("name: ftp://a.test has another scheme than http, https", complaint("url", "ftp://a.test"))
    assert.equal("name: https://a..b/ is not a URL", complaint("url", "https://a..b/"))
    assert.equal("name: https://a/ b has a character that no URL may have", complaint("url", "https://a/ b"))
    assert.equal("/app", read("path", "/app"))
    assert.equal("name: app is not a path from the root", complaint("path", "app"))
  end)

  it("reads status codes, alone and with durations", function()
    assert.same({ 404, 503 }, read("status_list", "404,503"))
    assert.equal("name: 404,99 has the item 99, which is not a status code", complaint("status_list", "404,99"))
    assert.equal("name: 200 has the item 200, which is less than 400", complaint({ type = "status_list", min = 400 }, "200"))
    assert.same({ { statuses = { 200, 202 }, seconds = 600 }, { statuses = { 401 }, seconds = 300 } }, read("status_durations", "200 202 10m, 401 5m"))
    assert.equal("name: 10m 200 has the item 10m 200, which is not status codes followed by a duration", complaint("status_durations", "10m 200"))
    assert.equal("name: 10m has the item 10m, which is not status codes followed by a duration", complaint("status_durations", "10m"))
    assert.same({ { statuses = { 200, 301 }, seconds = 600 } }, read({ type = "status_durations", bare_statuses = { 200, 301 } }, "10m"))
  end)

  it("reads pairs, TLS words and references", function()
    assert.is_false(read("pair", "off"))
    assert.same({ from = "a", to = "b" }, read("pair", "a b"))
    assert.equal("name: a is neither off nor two words", complaint("pair", "a"))
    assert.same({ "TLSv1.2", "TLSv1.3" }, read("tls_protocols", "TLSv1.3 TLSv1.2 TLSv1.3"))
    assert.equal("name: SSLv3 has the item SSLv3, which is none of TLSv1.2, TLSv1.3", complaint("tls_protocols", "SSLv3"))
    assert.equal("ECDHE+AESGCM:!aNULL@STRENGTH", read("tls_ciphers", "ECDHE+AESGCM:!aNULL@STRENGTH"))
    assert.equal("name: a;b is not an OpenSSL cipher list", complaint("tls_ciphers", "a;b"))
    assert.equal("ns/users", read("secret", "ns/users"))
    assert.equal("name: users has no namespace (namespace/name)", complaint({ type = "secret", namespaced = true }, "users"))
    assert.equal("name: a/b/c is not the name of an object", complaint("config_map", "a/b/c"))
    assert.equal("new:80", read("service", "new:80"))
    assert.equal("new:http", read("service", "new:http"))
    assert.equal("name: new has no port (name:port)", complaint("service", "new"))
    assert.equal("new", read({ type = "service", port = "optional" }, "new"))
    assert.equal("name: new:70000 has a port that is not from 1 to 65535", complaint("service", "new:70000"))
  end)

  it("takes empty text for no value, and trims line by line", function()
    for _, raw in ipairs { "", "  ", "\n \n" } do
      local value, text = read("integer", raw)
      assert.is_nil(value)
      assert.is_nil(text)
    end
    assert.equal(5, read("integer", " 5\n"))
    assert.equal("A: 1\nB: 2", schema.clean("  A: 1  \n\n  B: 2"))
  end)

  it("shows long and odd values on one short line", function()
    local _, text = read("integer", ("x"):rep(300))
    assert.equal("name: " .. ("x"):rep(77) .. "... is not a whole number", text)
  end)

  it("refuses wrong specifications", function()
    local function problem(spec) return schema.check_spec("name", spec) end
    assert.equal("name: has the unknown type 'bool'", problem { type = "bool" })
    assert.equal("name: has the unknown option 'mx'", problem { type = "integer", mx = 3 })
    assert.equal("name: has the option 'max', which is not a number", problem { type = "integer", max = "3" })
    assert.equal("name: has no values", problem { type = "enum" })
    assert.equal("name: has a default of the wrong type", problem { type = "integer", default = true })
    assert.equal("name: has the default 5, which is more than 3", problem { type = "integer", default = 5, max = 3 })
    for pattern, wrong in pairs {
      ["^a["] = "has a [ without its ]", ["[^]"] = "has a [ without its ]", ["[a%]"] = "has a [ without its ]", ["a%"] = "ends with %",
      ["(a"] = "has a ( without its )", [".)"] = "has a ) without its (",
      ["%1"] = "has %1 without its group", ["%fa"] = "has a %f without a [", ["%bx"] = "has a %b without two characters",
    } do
      assert.equal("name: has a pattern that " .. wrong, problem { type = "string", pattern = pattern })
      assert.is_false(pcall(function() for _, text in ipairs { "", "a", "aa", "x" } do (text):find(pattern) end end), pattern)
    end
    for _, pattern in ipairs { "^[%w%-._~/:]+$", "[]x]", "[^]x]", "%b()", "(a)%1", "%f[%a]a", "a-$", "%%", "[[]", "()" } do
      assert.is_nil(problem { type = "string", pattern = pattern })
    end
    assert.equal("name: has the default 'x', which is not a whole number", problem { type = "integer", default = "x" })
    assert.equal("name: has a default that is none of its values", problem { type = "enum", values = { "a" }, default = "b" })
    assert.equal("name: has the scope 'server', which is none of alternative, host, route, upstream", problem { type = "integer", scope = "server" })
    assert.equal("name: has the on_invalid 'ignore', which is none of default, deny, reject", problem { type = "integer", on_invalid = "ignore" })
    assert.equal("name: has the unknown type 'bool'", problem { type = "list", of = "bool" })
    assert.matches("is not a name", schema.check_spec("Name", { type = "integer" }))
  end)

  it("reads a default that is text like a user's", function()
    assert.equal(1048576, schema.default { type = "size", default = "1m" })
    assert.equal("x", schema.default { type = "string", default = "x" })
    assert.same({ "a", "b" }, schema.default { type = "list", default = "a,b" })
    assert.is_false(schema.default { type = "boolean", default = false })
  end)
end)
