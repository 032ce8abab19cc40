-- How the API server is reached: kubeconfig, flags, and what a pod is given.
require "spec.kube_support"
local connection = require "kube.connection"

local function choose(flags, files, environment)
  return connection.choose {
    flags = flags or {}, environment = function(name) return (environment or {})[name] end,
    read = function(path) return (files or {})[path], "no such file" end,
  }
end

local function kubeconfig(cluster, user, context)
  return ([[
apiVersion: v1
kind: Config
current-context: here
contexts: [{ name: here, context: { cluster: one, user: me%s } }]
clusters: [{ name: one, cluster: { server: "https://api.test:6443"%s } }]
users: [{ name: me, user: { %s } }]
]]):format(context or "", cluster or "", user or "")
end

local function config(...)
  return choose({ kubeconfig = "/home/me/config" }, { ["/home/me/config"] = kubeconfig(...) })
end

describe("the connection", function()
  it("takes everything that a kubeconfig says", function()
    local options = config(", certificate-authority-data: Q0E=, tls-server-name: other, proxy-url: 'http://proxy:3128', insecure-skip-tls-verify: true",
      "client-certificate-data: Q0VSVA==, client-key: keys/me.key, token: secret", ", namespace: shop")
    assert.same({ url = "https://api.test:6443", ca = "CA", server_name = "other", proxy = "http://proxy:3128", insecure = true, certificate = "CERT",
      key_file = "/home/me/keys/me.key", token = "secret", namespace = "shop" }, options)
  end)

  it("takes files by absolute path too, and a token's file", function()
    local options = config(", certificate-authority: /etc/ca.crt", "tokenFile: token")
    assert.same({ url = "https://api.test:6443", ca_file = "/etc/ca.crt", token_file = "/home/me/token", namespace = "default", insecure = false }, options)
  end)

  it("names what is wrong with a kubeconfig", function()
    local function problem(text)
      local options, message = choose({ kubeconfig = "/c" }, { ["/c"] = text })
      assert.is_nil(options)
      return message
    end
    assert.equal("--kubeconfig: /d: no such file", select(2, choose { kubeconfig = "/d" }))
    assert.equal("--kubeconfig: /c: current-context is missing", problem "kind: Config")
    assert.equal('--kubeconfig: /c: contexts has no entry "x"', problem "current-context: x")
    assert.equal('--kubeconfig: /c: clusters has no entry "b"', problem "current-context: x\ncontexts: [{ name: x, context: { cluster: b } }]")
    assert.is_truthy(problem "a: [":find("^%-%-kubeconfig: /c: "))
    assert.equal("--kubeconfig: /c: certificate-authority-data is not base64", problem(kubeconfig ", certificate-authority-data: '%%'"))
  end)

  it("refuses users that log in by a program, and says what to use", function()
    for _, plugin in ipairs { "exec: { command: aws }", "auth-provider: { name: gcp }" } do
      local options, message = config(nil, plugin)
      assert.is_nil(options)
      assert.is_truthy(message:find("/home/me/config: user \"me\" logs in by " .. plugin:match("^[^:]+"), 1, true), message)
      assert.is_truthy(message:find("use a token", 1, true))
    end
    assert.is_truthy(select(2, config(nil, "username: a, password: b")):find("no longer take", 1, true))
  end)

  it("takes the flag's address", function()
    local options = choose { ["apiserver-host"] = "https://a:1", ["certificate-authority"] = "/ca" }
    assert.same({ url = "https://a:1", ca_file = "/ca", namespace = "default" }, options)
    assert.is_truthy(select(2, choose { ["apiserver-host"] = "a:1" }):find("--apiserver-host", 1, true))
  end)

  it("takes what a pod is given", function()
    local account = "/var/run/secrets/kubernetes.io/serviceaccount/"
    local files = { [account .. "token"] = "t", [account .. "ca.crt"] = "c", [account .. "namespace"] = "system\n" }
    local options = choose({}, files, { KUBERNETES_SERVICE_HOST = "10.96.0.1", KUBERNETES_SERVICE_PORT = "443" })
    assert.same({ url = "https://10.96.0.1:443", token_file = account .. "token", ca_file = account .. "ca.crt", namespace = "system" }, options)
    assert.equal("https://[fd00::1]:443", choose({}, files, { KUBERNETES_SERVICE_HOST = "fd00::1", KUBERNETES_SERVICE_PORT = "443" }).url)
    local _, problem = choose({}, {}, { KUBERNETES_SERVICE_HOST = "10.96.0.1", KUBERNETES_SERVICE_PORT = "443" })
    assert.is_truthy(problem:find("token is not there", 1, true))
    assert.is_truthy(select(2, choose {}):find("--manifests DIR", 1, true))
  end)
end)
