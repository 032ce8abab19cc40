"""Every limit of core/base/limits.h is pushed against, and its counter is seen to rise on /metrics; a limit without a case fails.

What no client, endpoint or policy of these can reach is another test's, which must then look at that counter.
"""
import contextlib
import http.client
import http.server
import re
import socket
import struct
import threading

import harness
import pytest
from harness import ROOT, config_map, ingress, service, slice_of, wait_until
from origin import Origin
from worlds import named, running

LIMITS = re.findall(r"^  X\((\w+), \d+,", (ROOT / "core" / "base" / "limits.h").read_text(), re.M)

# One deed a path; the text to work on is in X-Text.
POLICY = """
local moongate = require "moongate"
local policy = { name = "probe", summary = "Pushes against limits.", annotations = { probe = { type = "boolean", doc = "On." } } }
function policy.attach(route, annotations)
  if not annotations.probe then return end
  route:set("hook_timeout", 1)
  local copies = { route:upstream "origin:80", route:upstream "other:80", route:upstream "echoheaders:80" }
  return { origin = copies[1], copies = copies, steps = moongate.regex "^(a+)+$", depth = moongate.regex "^(?:(a)|b)*[cd]", heap = moongate.regex("^(?:(a)|b)*[cd]" .. ("(x)?"):rep(100)) }
end
local hits = moongate.counter("hits", { "text" }, "Hits.")
local deeds = {}
function deeds.cookies(exchange) exchange.request.cookies:get("last") end
function deeds.path(exchange) exchange.request:set_path("/" .. ("a"):rep(8192)) end
function deeds.query(exchange) exchange.request:set_query(("a"):rep(8193)) end
function deeds.variables(exchange) for i = 1, 17 do exchange.variables:set("v" .. i, "x") end end
function deeds.variable(exchange) exchange.variables:set("v", ("a"):rep(1025)) end
function deeds.long_wait() moongate.sleep(60) end
function deeds.body(exchange) assert(not exchange.request:body { max = 2 }) end
function deeds.answer(_, config) assert(not moongate.http.request { upstream = config.origin, path = "/large" }) end
function deeds.series(exchange) for i = 1, 300 do hits:add(1, i) end end
function deeds.series_bytes(exchange) hits:add(1, ("a"):rep(513)) end
local dict = moongate.shared.dict "d1"
function deeds.dict_key(exchange) dict:get(("a"):rep(513)) end
function deeds.dict_value(exchange) dict:set("a", ("a"):rep(65537)) end
function deeds.dict_bytes(exchange)
  local text = ("a"):rep(65536)
  for i = 1, 200 do dict:set("k" .. i, text) end
end
function deeds.dict_holds(exchange) for i = 1, 65 do dict:acquire("k", 100) end end
function deeds.dicts(exchange) for i = 1, 17 do moongate.shared.dict("d" .. i):get("k") end end
for _, name in ipairs { "steps", "depth", "heap" } do
  deeds[name] = function(exchange, config) assert(not config[name]:match(exchange.request.headers:get("X-Text"))) end
  deeds[name .. "_replace"] = function(exchange, config) assert(not config[name]:replace(exchange.request.headers:get("X-Text"), "")) end
end
function policy.access(exchange, config)
  for i = 1, 129 do exchange:mirror { upstream = config.copies[i % 3 + 1], path = "/mirrored" } end
  return exchange:respond { status = 200, body = "done" }
end
function policy.rewrite(exchange, config)
  if exchange.request.path == "/mirrors" then return end
  deeds[exchange.request.path:sub(2)](exchange, config)
  return exchange:respond { status = 200, body = "done" }
end
return policy
"""

ANSWERS = {
    "/head": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40000 + b"\r\n\r\n",
    "/fields": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"Content-Length: 0\r\n\r\n",
    "/name": b"HTTP/1.1 200 OK\r\n" + b"X" * 300 + b": a\r\nContent-Length: 0\r\n\r\n",
    "/options": b"HTTP/1.1 200 OK\r\nConnection: " + b"a," * 40 + b"a\r\nContent-Length: 0\r\n\r\n",
    "/informational": b"HTTP/1.1 102 Processing\r\n\r\n" * 9 + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "/large": b"HTTP/1.1 200 OK\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000,
    "/chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 300 + b"\r\na\r\n0\r\n\r\n",
    "/trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"a" * 9000 + b"\r\n\r\n",
    "/trailer-fields": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: a\r\n" * 200 + b"\r\n",
}


def answer(_, connection):
    while True:
        path = connection.read_head().split(b" ")[1].decode()
        connection.send(ANSWERS.get(path, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))


@pytest.fixture(scope="module")
def world():
    echo, origin = harness.Echo("app"), Origin(answer)
    hosts = [ingress("app", "app.example"), ingress("origin", "origin.example", service_name="origin"),
             ingress("probe", "probe.example", annotations={"moongate.io/probe": "true"}),
             ingress("sticky", "sticky.example", annotations=named(affinity="cookie")),
             ingress("hashed", "hashed.example", annotations=named(upstream_hash_by="$cookie_last")),
             ingress("regex", "regex.example", "/(a+)+$", path_type="ImplementationSpecific", annotations=named(use_regex="true")),
             ingress("many", "many.example", [f"/(a+)+x{i}" for i in range(2000)], path_type="ImplementationSpecific", annotations=named(use_regex="true")),
             ingress("deep", "deep.example", "/(?:(a)|b)*[cd]", path_type="ImplementationSpecific", annotations=named(use_regex="true"))]
    objects = [service(), *slice_of([echo.port]), service("origin"), *slice_of([origin.port], name="origin"), service("other"), *slice_of([origin.port], name="other")]
    errors = ["upstream failed", "answered with an error", "answer was cut", "policy failed"]
    with running({"app.json": objects, "hosts.json": hosts}, [echo], policies={"probe.lua": POLICY}, expect_errors=errors) as proxy:
        yield proxy
    origin.close()
    assert not origin.errors


def request(path="/", method="GET", headers="", host="app.example"):
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n".encode()


def sends(status, data):
    """These bytes are answered with that status; None: with nothing."""

    def deed(world):
        got = world.raw(data, half_close=False)
        assert (int(got.split(b" ")[1]) if got else None) == status, got[:200]

    return deed


def asks(path, status, host="origin.example", headers=None, body=None, method="GET"):
    def deed(world):
        assert world.request(path, host, method, headers=headers, body=body).status == status

    return deed


def is_cut(path):
    def deed(world):
        with pytest.raises((http.client.IncompleteRead, http.client.RemoteDisconnected)):
            world.request(path, "origin.example")

    return deed


def probes(deed, status=200, text="", **more):
    return asks("/" + deed, status, "probe.example", {"X-Text": text, **more})


def does_not_read(world):
    with socket.create_connection(("127.0.0.1", world.http_port), 10) as client:
        client.sendall(request("/bytes/50000000"))
        wait_until(lambda: world.metric("moongate_limit_link_pending_bytes_total") > 0, what="a client that does not read")


CHUNKED = "Transfer-Encoding: chunked\r\n"
CHUNKS = b"".join(b"8000\r\n" + b"a" * 0x8000 + b"\r\n" for _ in range(40)) + b"0\r\n\r\n"
COOKIES = {"Cookie": "; ".join(f"c{i}=1" for i in range(150))}
PROXY_V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11"


@contextlib.contextmanager
def with_settings(**data):
    """A Moongate of its own, for limits that only settings bring near."""
    settings = config_map("settings", {key.replace("_", "-"): value for key, value in data.items()})
    with running({"settings.json": [settings]}, flags=["--configmap", "default/settings"], workers=1) as proxy:
        yield proxy


def rises(proxy, limit, deed):
    name = f"moongate_limit_{limit.lower()}_total"
    before = proxy.metric(name)
    deed(proxy)
    wait_until(lambda: proxy.metric(name) > before, what=f"{name} above {before}")


def too_many_connections(_):
    with with_settings(max_worker_connections="2") as proxy, contextlib.ExitStack() as opened:
        rises(proxy, "CONNECTIONS", lambda proxy: [opened.enter_context(socket.create_connection(("127.0.0.1", proxy.http_port), 10)) for _ in range(2)])


def says_no_proxy_header(_):
    with with_settings(use_proxy_protocol="true", proxy_protocol_header_timeout="1s") as proxy:
        rises(proxy, "HANDSHAKE_MS", lambda proxy: proxy.raw(b"PRO", half_close=False))


def long_proxy_header(_):
    with with_settings(use_proxy_protocol="true") as proxy:
        rises(proxy, "PROXY_HEADER_BYTES", lambda proxy: proxy.raw(PROXY_V2 + struct.pack(">H", 5000), half_close=False))


def many_counters(_):
    policy = """
    local counters = {}
    for i = 1, 33 do counters[i] = require("moongate").counter("c" .. i, {}, "Help.") end
    return { name = "many", summary = "Too many.", applies = "always", attach = function() return {} end,
      access = function(exchange)
        for i = 1, 33 do counters[i]:add(1) end
        return exchange:respond { status = 200, body = "done" }
      end }"""
    with running({"hosts.json": [ingress("app", "app.example")]}, workers=1, policies={"many.lua": policy}, expect_errors=["policy counter dropped", "does not exist"]) as proxy:
        text = proxy.admin("/metrics").text
        assert text.count("# TYPE moongate_policy_c") == 32
        rises(proxy, "POLICY_COUNTERS", asks("/", 200, "app.example"))
        assert len(re.findall(r'^moongate_policy_c\d+_total\{owner="[^"]+"\} 1$', proxy.admin("/metrics").text, re.M)) == 32


class ApiServer(http.server.BaseHTTPRequestHandler):
    """Has nothing to list, and says too much where a watch is asked for."""
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        is_watch = "watch=true" in self.path
        body = b"a" * 70000 if is_watch else b'{"metadata":{"resourceVersion":"1"},"items":[]}'
        self.send_response(500 if is_watch else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def long_api_errors(_):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), ApiServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--manifests", "", "--apiserver-host", f"http://127.0.0.1:{server.server_port}", "--update-status=false", "--disable-leader-election", "--post-shutdown-grace-period=0"]
        with running({}, flags=flags, workers=1, expect_errors=["cannot follow"]) as proxy:
            wait_until(lambda: proxy.metric("moongate_limit_api_error_bytes_total") > 0, what="the counter")
        server.shutdown()


def many_statuses(_):
    app = harness.Echo("app")
    manifests = {"app.json": [service(), *slice_of([app.port]), ingress("app", "app.example")]}
    with running(manifests, [app], workers=1, flags=["--enable-metrics"]) as proxy:
        rises(proxy, "METRIC_ROUTE_SERIES", lambda proxy: [proxy.request(f"/status/{status}", "app.example") for status in range(200, 330)])


def many_passwords(_):
    policy = '''
local moongate = require "moongate"
local policy = { name = "probe", summary = "x", applies = "always", attach = function() return {} end }
function policy.access(exchange)
  local right, why = moongate.password.verify("$2y$13$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2", exchange.request.path)
  return exchange:respond { body = tostring(right) .. tostring(why) }
end
return policy
'''
    manifests = {"app.json": [service(), *slice_of([9]), ingress("app", "app.example")]}
    with running(manifests, policies={"probe.lua": policy}) as proxy, contextlib.ExitStack() as opened:
        def deed(proxy):
            for i in range(70):
                opened.enter_context(socket.create_connection((proxy.address, proxy.http_port), 10)).sendall(request(f"/{i}").replace(b"Connection: close\r\n", b""))

        rises(proxy, "PASSWORDS", deed)
        opened.close()  # those that wait are given up


ELSEWHERE = (many_passwords, too_many_connections, says_no_proxy_header, long_proxy_header, many_counters, long_api_errors, many_statuses)
CASES = {
    "HEAD_BYTES": [sends(431, request(headers="X: " + "a" * 40000 + "\r\n")), asks("/head", 502)],
    "REQUEST_LINE_BYTES": [sends(414, request("/" + "a" * 9000))],
    "HEADER_FIELDS": [sends(431, request(headers="X: a\r\n" * 200)), asks("/fields", 502), is_cut("/trailer-fields"),
                      sends(400, request(method="POST", headers=CHUNKED) + b"0\r\n" + b"X: a\r\n" * 200 + b"\r\n")],
    "HEADER_NAME_BYTES": [sends(400, request(headers="X" * 300 + ": a\r\n")), asks("/name", 502)],
    "CONNECTION_OPTIONS": [sends(400, request(headers="Connection: " + "a," * 40 + "a\r\n")), asks("/options", 502)],
    "TRAILER_BYTES": [sends(400, request(method="POST", headers=CHUNKED) + b"0\r\nX: " + b"a" * 9000 + b"\r\n\r\n"), is_cut("/trailer")],
    "CHUNK_LINE_BYTES": [sends(400, request(method="POST", headers=CHUNKED) + b"1;" + b"a" * 300 + b"\r\na\r\n0\r\n\r\n"), is_cut("/chunk")],
    "LINK_PENDING_BYTES": [does_not_read],
    "LINK_HELD_BYTES": "test_net_link",
    "TLS_PENDING_BYTES": "test_net_tls",
    "BODY_BYTES": [sends(413, request(method="POST", headers="Content-Length: 1048577\r\n")), sends(413, request(method="POST", headers=CHUNKED) + CHUNKS)],
    "BODY_BUFFER_BYTES": [asks("/", 200, "app.example", body=b"a" * 65537, method="POST"),
                          asks("/", 200, "app.example", {"Transfer-Encoding": "chunked"}, b"10001\r\n" + b"a" * 65537 + b"\r\n0\r\n\r\n", "POST")],
    "BODY_BUDGET_BYTES": "test_proxy_exchange",
    "DRAIN_BYTES": [sends(404, request(method="POST", headers="Content-Length: 300000\r\n", host="nobody.example")),
                    sends(404, request(method="POST", headers=CHUNKED, host="nobody.example").replace(b"Connection: close\r\n", b"") + CHUNKS[:300000])],
    "CONNECTIONS": [too_many_connections],
    "HANDSHAKE_MS": [says_no_proxy_header],
    "PROXY_HEADER_BYTES": [long_proxy_header],
    "INFORMATIONAL": [asks("/informational", 502)],
    "VARIABLES": [probes("variables", 500)],
    "VARIABLE_BYTES": [probes("variable", 500)],
    "REGEX_MATCH": [probes("steps", text="a" * 40 + "b"), probes("steps_replace", text="a" * 40 + "b"), asks("/" + "a" * 40 + "b", 404, "regex.example")],
    "REGEX_DEPTH": [probes("depth", text="a" * 4000), probes("depth_replace", text="a" * 4000), asks("/" + "a" * 4000, 404, "deep.example")],
    "REGEX_HEAP_KIB": [probes("heap", text="a" * 4000), probes("heap_replace", text="a" * 4000)],
    "COOKIES": [probes("cookies", **COOKIES), asks("/", 200, "sticky.example", COOKIES), asks("/", 200, "hashed.example", COOKIES)],
    "REWRITE_BYTES": [probes("path", 500), probes("query", 500)],
    "REGEX_ROUTES_MS": [asks("/" + "a" * 14 + "bx0123456789", 404, "many.example")],
    "WAITING": "test_script_waiting",
    "HOOK_MS": [probes("long_wait", 504)],
    "HOOK_BODY_BYTES": [asks("/body", 200, "probe.example", body=b"abc", method="POST")],
    "HTTP_CALLS": "test_script_http",
    "HTTP_SERVICE_CALLS": "test_script_http",
    "HTTP_ANSWER_BYTES": [probes("answer")],
    "FILTERED_BYTES": "test_policies_body_filter",
    "MIRRORS": [probes("mirrors")],
    "SERVICE_MIRRORS": "test_policies_mirror",
    "PASSES": [asks("/", 508, "app.example", {"CDN-Loop": ", ".join(["moongate"] * 8)})],
    "JSON_DEPTH": "test_kube_api",
    "API_ITEM_BYTES": "test_kube_api",
    "API_NEWS_BYTES": "test_kube_api",
    "API_ERROR_BYTES": [long_api_errors],
    "REVIEW_BYTES": "test_admission",
    "REVIEWS": "test_admission",
    "REVIEW_MS": "test_admission",
    "REVIEW_CONNECTIONS": "test_admission",
    "METRIC_SERIES": "test_proxy_tally",
    "METRIC_HOST_SERIES": "test_proxy_tally",
    "METRIC_ROUTE_SERIES": [many_statuses],
    "POLICY_COUNTERS": [many_counters],
    "POLICY_SERIES": [probes("series")],
    "POLICY_SERIES_BYTES": [probes("series_bytes")],
    "PASSWORDS": [many_passwords],
    "DICTIONARIES": [probes("dicts", 500)],
    "DICTIONARY_BYTES": [probes("dict_bytes")],
    "DICTIONARY_KEY_BYTES": [probes("dict_key", 500)],
    "DICTIONARY_VALUE_BYTES": [probes("dict_value", 500)],
    "DICTIONARY_HOLDS": [probes("dict_holds", 500)],
}


def test_every_limit_has_a_case():
    assert sorted(CASES) == sorted(LIMITS) and len(LIMITS) > 20


@pytest.mark.parametrize("limit, deed", [pytest.param(limit, deed, id=f"{limit}-{i}") for limit, deeds in CASES.items() if isinstance(deeds, list) for i, deed in enumerate(deeds)])
def test_its_counter_rises(world, limit, deed):
    if deed in ELSEWHERE:  # in a Moongate of its own
        deed(world)
    else:
        rises(world, limit, deed)


@pytest.mark.parametrize("limit, test", [(limit, test) for limit, test in CASES.items() if isinstance(test, str)])
def test_its_counter_is_looked_at_by_another_test(limit, test):
    path = ROOT / "tests" / "e2e" / f"{test}.py"
    if path.exists():
        assert re.search(rf'metric\("moongate_limit_{limit.lower()}_total"\) == before \+ [1-9]', path.read_text())
        return
    source = (ROOT / "tests" / "unit" / f"{test}.c").read_text()
    assert re.search(rf"assert_int_equal\(counter_get\(&(?:\w+(?:\.|->))?counters, COUNTER_LIMIT_{limit}\), [1-9]\)", source)
