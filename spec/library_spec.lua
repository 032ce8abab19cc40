-- What `require "moongate"` gives, in both kinds of state: results where the page leaves no choice, and misuse, which raises with the function's name.
local testing = require "moongate.testing"

for _, trusted in ipairs { true, false } do
  describe(trusted and "the library in a trusted state" or "the library in a guest state", function()
    --- What a function with that body gives in an access hook, or its error.
    local function gives(code)
      local route = testing.route { trusted = trusted, source = [[local moongate = require "moongate"
        local policy = { name = "probe", summary = "x", applies = "always" }
        function policy.attach() return {} end
        local function probe(exchange) ]] .. code .. [[ end
        function policy.access(exchange)
          local _, text = pcall(probe, exchange)
          return exchange:respond { body = tostring(text) }
        end
        return policy]] }
      return route:request({ uri = "/?q=1" }).response.body
    end

    it("tells each group of a match", function()
      assert.equal("a a false false", gives [[local all, one, two, three = moongate.regex("(a)(x)?(y)?"):match("ba")
        return table.concat({ all, one, tostring(two), tostring(three) }, " ")]])
      assert.equal("4", gives [[return select("#", moongate.regex("(a)(x)?(y)?"):match("a"))]])
      assert.equal("10", gives [[return select("#", moongate.regex("(a)" .. ("(x)?"):rep(20)):match("a"))]])
      assert.equal("[a|]b", gives [[return (moongate.regex("(a)(x)?"):replace("ab", "[$1|$2]"))]])
    end)

    it("knows an array that is empty", function()
      assert.equal('{"a":[]}', gives [[return moongate.json.encode { a = moongate.json.empty_array }]])
      assert.equal('[[],{},null]', gives [[return moongate.json.encode { moongate.json.array {}, {}, moongate.json.null }]])
    end)

    it("keeps variables of 1 KiB", function()
      assert.equal("1024", gives [[exchange.variables:set("a", ("x"):rep(1024)) return #exchange.variables:get("a")]])
      assert.matches("at most 1024 bytes", gives [[exchange.variables:set("a", ("x"):rep(1025))]], 1, true)
    end)

    it("names the line of who called it", function()
      for _, call in ipairs {
        "moongate.regex('(')", "moongate.template('$nope')", "moongate.ip_set('x')", "moongate.host_set('a b')", "moongate.map { 'x' }",
        "moongate.map { a = {} }", "moongate.map(1)", "moongate.regex('a', 5)", "moongate.cookie.format('a b', 'c')",
        "moongate.cookie.format('a', 'b', { path = ';' })", "moongate.uri.build { scheme = {} }", "moongate.shared.dict('a b')",
        "moongate.counter('a b', {}, 'h')",
      } do
        local ok, problem = pcall(testing.route, { trusted = trusted, source = "local moongate = require 'moongate'\nlocal function make()\n  local made = "
          .. call .. "\n  return made\nend\nmake()\nreturn {}" })
        assert.is_false(ok)
        assert.matches("^policy.lua:3: [%a._]+: ", problem)
      end
    end)

    -- In a `return`, where Lua itself has no name left.
    for call, text in pairs {
      ["moongate.hash.md5()"] = "hash.md5: expects text, not nil",
      ["moongate.hash.hmac_sha256('a', {})"] = "hash.hmac_sha256: expects text, not a table",
      ["moongate.hash.sha1('a', true)"] = "hash.sha1: expects \"raw\" or nothing, not a boolean",
      ["moongate.hex.encode(true)"] = "hex.encode: expects text, not a boolean",
      ["moongate.base64.decode()"] = "base64.decode: expects text, not nil",
      ["moongate.secure_equal('a')"] = "secure_equal: expects text, not nil",
      ["moongate.random(0)"] = "random: expects a whole number from 1 on",
      ["moongate.random('x')"] = "random: expects a whole number from 1 on",
      ["moongate.random_bytes(65537)"] = "random_bytes: expects a whole number from 0 to 65536",
      ["moongate.time.http_date(-1)"] = "time.http_date: expects unix seconds of the years 1970 to 9999",
      ["moongate.uri.escape({})"] = "uri.escape: expects text, not a table",
      ["moongate.json.decode({})"] = "json.decode: expects text, not a table",
      ["moongate.json.encode()"] = "json.encode: expects a value",
      ["moongate.regex('a'):match()"] = "regex:match: expects text, not nil",
      ["moongate.regex('a'):replace('a')"] = "regex:replace: expects text, not nil",
      ["moongate.ip_set('::1'):contains({})"] = "ip_set:contains: expects text, not a table",
      ["moongate.map({}):get()"] = "map:get: expects text, not nil",
      ["moongate.regex({})"] = "moongate.regex: expects text, not a table",
      ["moongate.sleep('x')"] = "moongate.sleep: wants seconds, not a string",
    } do
      it("says what is wrong with " .. call, function() assert.equal(text, gives("return " .. call)) end)
    end
  end)
end
