-- Which API server, and who we are to it.
local kube = require "spec.kube_support" -- brings moongate.kube
local connection = require "kube.connection"

local ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/"
local PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
local PEM_DATA = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBPT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo="
local NOTHING = "no API server is known: there is neither --kubeconfig nor --apiserver-host, and this is no pod (KUBERNETES_SERVICE_HOST is not set). "
  .. "--manifests DIR serves a directory, without a cluster"

--- choose { flags, environment, files } -> options or the message
local function choose(given)
  local options, message = connection.choose {
    flags = given.flags or {},
    environment = function(name) return (given.environment or {})[name] end,
    read = function(path)
      local text = (given.files or {})[path]
      if text then return text end
      return nil, "No such file or directory"
    end,
  }
  return options or message
end

local function kubeconfig(text, files, flags)
  files, flags = files or {}, flags or {}
  files["/home/a/.kube/config"] = text
  flags.kubeconfig = "/home/a/.kube/config"
  return choose { flags = flags, files = files }
end

--- A kubeconfig whose cluster and user are these (one line of YAML each).
local function of(cluster, user, files, flags)
  return kubeconfig(([[
apiVersion: v1
kind: Config
current-context: here
contexts:
- { name: there, context: { cluster: other, user: other } }
- { name: here, context: { cluster: one, user: me, namespace: shop } }
clusters:
- { name: other, cluster: { server: "https://other.test" } }
- { name: one, cluster: %s }
users:
- { name: me, user: %s }
]]):format(cluster, user), files, flags)
end

local SERVER = '{ server: "https://api.test:6443" }'

describe("the connection of a pod", function()
  local files = { [ACCOUNT .. "token"] = "t\n", [ACCOUNT .. "ca.crt"] = PEM, [ACCOUNT .. "namespace"] = "ingress\n" }
  local environment = { KUBERNETES_SERVICE_HOST = "10.96.0.1", KUBERNETES_SERVICE_PORT = "443" }
  it("is its service account's", function()
    assert.same({ url = "https://10.96.0.1:443", ca_file = ACCOUNT .. "ca.crt", token_file = ACCOUNT .. "token", namespace = "ingress" },
      choose { environment = environment, files = files })
  end)
  it("may be IPv6", function()
    local options = choose { environment = { KUBERNETES_SERVICE_HOST = "fd00:10:96::1", KUBERNETES_SERVICE_PORT = "6443" }, files = files }
    assert.equal("https://[fd00:10:96::1]:6443", options.url)
  end)
  it("has no namespace where the file is missing", function()
    assert.is_nil(choose { environment = environment, files = { [ACCOUNT .. "token"] = "t", [ACCOUNT .. "ca.crt"] = PEM } }.namespace)
  end)
  it("says what is missing", function()
    assert.equal("this is a pod (KUBERNETES_SERVICE_HOST is set), and the token of its service account cannot be read: " .. ACCOUNT
      .. "token: No such file or directory", choose { environment = environment })
    assert.equal("the cluster's certificate authority " .. ACCOUNT .. "ca.crt: No such file or directory",
      choose { environment = environment, files = { [ACCOUNT .. "token"] = "t" } })
    assert.equal("the cluster's certificate authority " .. ACCOUNT .. "ca.crt: it holds no PEM",
      choose { environment = environment, files = { [ACCOUNT .. "token"] = "t", [ACCOUNT .. "ca.crt"] = "" } })
  end)
  it("gives way to flags", function()
    assert.equal("http://127.0.0.1:8001", choose { flags = { ["apiserver-host"] = "http://127.0.0.1:8001" }, environment = environment, files = files }.url)
  end)
end)

describe("without anything", function()
  it("says what was looked for", function()
    assert.equal(NOTHING, choose {})
    assert.equal(NOTHING, choose { flags = { kubeconfig = "", ["apiserver-host"] = "" }, environment = { KUBERNETES_SERVICE_HOST = "" } })
    assert.matches("KUBERNETES_SERVICE_PORT is not set", choose { environment = { KUBERNETES_SERVICE_HOST = "10.0.0.1" } })
  end)
end)

describe("--apiserver-host", function()
  it("is an address, with an authority if it is given", function()
    assert.same({ url = "https://a.test:6443" }, choose { flags = { ["apiserver-host"] = "https://a.test:6443" } })
    assert.same({ url = "https://a.test", ca_file = "/ca" }, choose { flags = { ["apiserver-host"] = "https://a.test", ["certificate-authority"] = "/ca" },
      files = { ["/ca"] = PEM } })
  end)
  it("needs no scheme", function()
    assert.equal("http://localhost:8080", choose { flags = { ["apiserver-host"] = "localhost:8080" } }.url)
    assert.equal("https://a:1", choose { flags = { ["apiserver-host"] = "a:1", ["certificate-authority"] = "/ca" }, files = { ["/ca"] = PEM } }.url)
  end)
  it("refuses an authority that cannot be read", function()
    assert.equal("--certificate-authority /ca: No such file or directory",
      choose { flags = { ["apiserver-host"] = "https://a", ["certificate-authority"] = "/ca" } })
  end)
  it("replaces a kubeconfig's server, and its authority if one is given", function()
    local cluster = ('{ server: "https://api.test", certificate-authority-data: %s }'):format(PEM_DATA)
    local options = of(cluster, "{ token: t }", nil, { ["apiserver-host"] = "https://b.test" })
    assert.same({ url = "https://b.test", ca = PEM, token = "t", namespace = "shop" }, options)
    options = of(cluster, "{ token: t }", { ["/ca"] = PEM }, { ["apiserver-host"] = "https://b.test", ["certificate-authority"] = "/ca" })
    assert.same({ url = "https://b.test", ca_file = "/ca", token = "t", namespace = "shop" }, options)
    options = of(cluster, "{ token: t }", nil, { ["certificate-authority"] = "/ca" })
    assert.equal(PEM, options.ca)
  end)
end)

describe("a kubeconfig", function()
  it("gives what its current context names", function()
    assert.same({ url = "https://api.test:6443", token = "secret", namespace = "shop" }, of(SERVER, "{ token: secret }"))
  end)
  it("may be JSON", function()
    assert.equal("https://a.test", kubeconfig('{"current-context":"c","contexts":[{"name":"c","context":{"cluster":"k"}}],'
      .. '"clusters":[{"name":"k","cluster":{"server":"https://a.test"}}]}').url)
  end)
  it("gives certificates inline", function()
    local cluster = '{ server: "https://a", certificate-authority-data: %s, tls-server-name: kubernetes, certificate-authority: /unused }'
    local options = of(cluster:format(PEM_DATA),
      ("{ client-certificate-data: %s, client-key-data: %s }"):format(PEM_DATA, PEM_DATA))
    assert.same({ url = "https://a", ca = PEM, certificate = PEM, key = PEM, server_name = "kubernetes", namespace = "shop" }, options)
  end)
  it("gives certificates and tokens as files, from its own folder on", function()
    local options = of('{ server: "https://a", certificate-authority: pki/ca.crt }', "{ client-certificate: ../me.crt, client-key: /me.key, tokenFile: token }",
      { ["/home/a/.kube/pki/ca.crt"] = PEM, ["/home/a/.kube/../me.crt"] = PEM, ["/me.key"] = PEM })
    assert.same({ url = "https://a", ca_file = "/home/a/.kube/pki/ca.crt", certificate_file = "/home/a/.kube/../me.crt", key_file = "/me.key",
      token_file = "/home/a/.kube/token", namespace = "shop" }, options)
  end)
  it("is in the working directory where its path has no folder", function()
    local config = "current-context: c\ncontexts: [{ name: c, context: { cluster: k } }]\n"
      .. "clusters: [{ name: k, cluster: { server: 'https://a', certificate-authority: ca } }]\n"
    assert.equal("ca", choose { flags = { kubeconfig = "config" }, files = { config = config, ca = PEM } }.ca_file)
  end)
  it("gives token and its file", function()
    local options = of(SERVER, "{ token: t, tokenFile: /token }")
    assert.equal("t", options.token)
    assert.equal("/token", options.token_file)
  end)
  it("gives proxies", function()
    for _, url in ipairs { "http://p:3128", "https://u:p@p", "socks5://p:1080" } do
      assert.equal(url, of(('{ server: "https://a", proxy-url: "%s" }'):format(url), "{}").proxy)
    end
    local message = of('{ server: "https://a", proxy-url: "ftp://u:secret@p" }', "{}")
    assert.equal('kubeconfig /home/a/.kube/config: cluster "one" has a proxy-url that is none of http://, https://, socks5://', message)
  end)
  it("says that the server is not verified, where it says so itself", function()
    assert.is_true(of('{ server: "https://a", insecure-skip-tls-verify: true }', "{}").insecure)
    assert.is_nil(of('{ server: "https://a", insecure-skip-tls-verify: false }', "{}").insecure)
    assert.matches("both certificate%-authority and insecure%-skip%-tls%-verify",
      of(('{ server: "https://a", insecure-skip-tls-verify: true, certificate-authority-data: %s }'):format(PEM_DATA), "{}"))
    assert.matches("not true or false", of('{ server: "https://a", insecure-skip-tls-verify: "true" }', "{}"))
  end)
  it("needs no scheme in its server", function()
    assert.equal("http://a:8080", of('{ server: "a:8080" }', "{}").url)
    assert.equal("https://a:8080", of('{ server: "a:8080", insecure-skip-tls-verify: true }', "{}").url)
    assert.equal("https://a", of("{ server: a }", ("{ client-certificate-data: %s, client-key-data: %s }"):format(PEM_DATA, PEM_DATA)).url)
  end)
  it("may have no user, no namespace and nulls", function()
    local options = kubeconfig("current-context: c\ncontexts: [{ name: c, context: { cluster: k, namespace: } }]\n"
      .. "clusters: [{ name: k, cluster: { server: 'https://a', certificate-authority: ~, proxy-url: '' } }]\nusers: ~\npreferences: {}\n")
    assert.same({ url = "https://a", namespace = "default" }, options)
  end)

  local function refused(text, files)
    local message = kubeconfig(text, files)
    assert.equal("string", type(message))
    return (message:gsub("^kubeconfig /home/a/%.kube/config: ", ""))
  end
  local function refused_user(user, files)
    local message = of(SERVER, user, files)
    assert.equal("string", type(message))
    return (message:gsub("^kubeconfig /home/a/%.kube/config: ", ""))
  end

  it("is refused where it cannot be read", function()
    assert.equal("kubeconfig /nonesuch: No such file or directory", choose { flags = { kubeconfig = "/nonesuch" } })
    assert.equal("it is no kubeconfig", refused "")
    assert.equal("it is no kubeconfig", refused "text")
    assert.matches("^line 2: ", refused "a: 1\n\tb: [")
  end)
  it("is refused where a part is missing", function()
    assert.equal("there is no current-context", refused "clusters: []\n")
    assert.equal('there is no context "c"', refused "current-context: c\n")
    assert.equal('context "c" names no cluster', refused "current-context: c\ncontexts: [{ name: c, context: {} }]\n")
    assert.equal('there is no cluster "k"', refused "current-context: c\ncontexts: [{ name: c, context: { cluster: k } }]\n")
    assert.equal('cluster "k" has no server', refused "current-context: c\ncontexts: [{ name: c, context: { cluster: k } }]\nclusters: [{ name: k }]\n")
    assert.equal('there is no user "u"', refused("current-context: c\ncontexts: [{ name: c, context: { cluster: k, user: u } }]\n"
      .. "clusters: [{ name: k, cluster: { server: 'https://a' } }]\n"))
  end)
  it("is refused where a part has another form", function()
    assert.equal('kubeconfig /home/a/.kube/config: cluster "one" is no map', of("text", "{}"))
    assert.equal("item 1 of contexts is no map", refused "current-context: c\ncontexts: [c]\n")
    assert.equal('context "c" is no map', refused "current-context: c\ncontexts: [{ name: c, context: x }]\n")
    assert.equal('user "me" has a token that is no text', refused_user "{ token: 12345 }")
  end)
  it("is refused where credentials are of a kind that we do not have", function()
    local instead = ": give the user a token, a tokenFile or a client certificate, or run in a pod with a service account"
    assert.equal('user "me" gets its credentials from a program (exec: aws), and no program is run' .. instead,
      refused_user "{ exec: { apiVersion: client.authentication.k8s.io/v1, command: aws, args: [eks] } }")
    assert.equal('user "me" has an auth-provider, of which there are none any more' .. instead, refused_user "{ auth-provider: { name: gcp } }")
    assert.equal('user "me" has username and password, which API servers no longer take' .. instead, refused_user "{ username: a, password: secret }")
    assert.equal('user "me" acts as another (as-groups), which is not supported', refused_user "{ token: t, as-groups: [a] }")
    assert.equal('user "me" has a client-certificate without a client-key', refused_user("{ client-certificate-data: " .. PEM_DATA .. " }"))
    assert.equal('user "me" has a client-key without a client-certificate', refused_user("{ client-key-data: " .. PEM_DATA .. " }"))
  end)
  it("is refused where certificates are none, without showing them", function()
    assert.equal('user "me" has a client-key-data that is no base64',
      refused_user("{ client-certificate-data: " .. PEM_DATA .. ", client-key-data: 'sec!ret' }"))
    assert.equal('user "me" has a client-certificate-data that holds no PEM', refused_user "{ client-certificate-data: c2VjcmV0 }")
    assert.equal('user "me" has a client-certificate /home/a/.kube/x: No such file or directory', refused_user "{ client-certificate: x }")
    assert.equal('user "me" has a client-certificate /x: it holds no PEM', refused_user("{ client-certificate: /x }", { ["/x"] = "secret" }))
  end)
end)

describe("the options", function()
  it("are what the client takes", function()
    local client = assert(kube.native.api(of(SERVER, "{ token: t }")))
    client:close()
    local none, message = kube.native.api(of('{ server: "http://a.test" }', "{ token: secret }"))
    assert.is_nil(none)
    assert.equal("a token is not sent to a.test:80 without TLS", message)
  end)
end)
