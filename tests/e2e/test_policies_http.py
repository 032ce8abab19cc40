"""HTTP requests of policies: what is sent and what comes back, where they may not go, and services that are slow, gone, lying or too large."""
import contextlib
import os
import socket
import ssl
import threading

import pytest
from harness import Echo, certificate, ingress, service, slice_of, wait_until
from names import our_address
from origin import Origin

POLICY = '''
local moongate = require "moongate"
local policy = { name = "asks", summary = "A test.", annotations = { asks = { type = "string", doc = "A URL." } } }
function policy.attach(route, annotations)
  if annotations.asks then return { url = annotations.asks ~= "upstream" and annotations.asks or nil, upstream = annotations.asks == "upstream" and route:upstream "auth:80" or nil } end
end
function policy.access(exchange, config)
  local headers = exchange.request.headers
  local request = { url = config.url, upstream = config.upstream, timeout = tonumber(headers:get("X-Timeout") or 5), max_body = tonumber(headers:get("X-Max") or 65536),
    method = headers:get("X-Method"), headers = { ["X-Sent"] = { "one", "two" } }, body = headers:get("X-Body") }
  if request.upstream then request.path = headers:get("X-Path") elseif headers:get("X-Path") then request.url = request.url .. headers:get("X-Path") end
  local response, why = moongate.http.request(request)
  if not response then return exchange:respond { status = 200, headers = { ["X-Why"] = why }, body = "none" } end
  return exchange:respond { status = 200, headers = { ["X-Status"] = tostring(response.status), ["X-Two"] = response.headers:all("x-two"), ["X-Name"] = response.headers:get("X-NAME") or "-" }, body = response.body }
end
return policy
'''


def wait_for_end(connection):
    while connection.raw.recv(4096):
        pass


def answer(_, connection):
    """Answers by path; keeps the connection."""
    while True:
        head = connection.read_head()
        path = head.split(b" ")[1].decode()
        length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = connection.read_exactly(int(length[0])) if length else b""
        if path == "/large":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 300000)
        elif path == "/endless":
            connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            with contextlib.suppress(OSError):
                for _ in range(2000):
                    connection.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            return
        elif path == "/head":
            connection.send(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 40000 + b"\r\nContent-Length: 0\r\n\r\n")
        elif path == "/fields":
            connection.send(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200 + b"Content-Length: 0\r\n\r\n")
        elif path == "/redirect":
            connection.send(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
        elif path == "/slow":
            wait_for_end(connection)
            return
        elif path == "/broken":
            connection.send(b"ICY 200\r\n\r\n")
            return
        elif path == "/short":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
            return
        else:
            text = head + body
            connection.send(b"HTTP/1.1 207 Multi\r\nX-Name: origin\r\nX-Two: a\r\nx-two: b\r\nContent-Length: %d\r\n\r\n" % len(text) + text)


@pytest.fixture
def service_of(moongate, echo):
    """A Moongate whose policy asks an origin, by its Service; more hosts by name and URL."""
    started = []

    def start(urls=None, policies=None, serve=answer, **more):
        origin = Origin(serve)
        app = echo("app")
        started.append(origin)
        hosts = [ingress("a", "a.example", annotations={"moongate.io/asks": "upstream"}), ingress("plain", "plain.example")]
        hosts += [ingress(name.replace(".", "-"), name, annotations={"moongate.io/asks": url.format(port=origin.port)}) for name, url in (urls or {}).items()]
        objects = [service(), *slice_of([app.port]), service("auth"), *slice_of([origin.port], name="auth"), *hosts]
        return moongate({"all.json": objects}, policies=policies or {"asks.lua": POLICY}, **more), origin

    yield start
    for one in started:
        one.close()


def test_what_is_sent_and_what_comes_back(service_of):
    proxy, origin = service_of()
    seen = proxy.request("/", "a.example", headers={"X-Path": "/auth?x=1", "X-Method": "POST", "X-Body": "hello"})
    assert (seen.header("X-Status"), seen.all("X-Two"), seen.header("X-Name")) == ("207", ["a", "b"], "origin")
    head, _, body = seen.body.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /auth?x=1 HTTP/1.1" and body == b"hello"
    assert sorted(lines[1:]) == ["Content-Length: 5", "Host: auth.default", "X-Sent: one", "X-Sent: two"]
    assert proxy.request("/", "a.example", headers={"X-Method": "HEAD"}).body == b""
    assert origin.heads[-1].startswith("HEAD / HTTP/1.1")
    with_body = proxy.request("/", "a.example", headers={"X-Method": "GET", "X-Body": "hello"}).text
    assert with_body.startswith("GET / HTTP/1.1") and "Content-Length: 5" in with_body and with_body.endswith("hello")
    assert proxy.request("/", "a.example").text.startswith("GET / HTTP/1.1\r\nHost: auth.default\r\n")
    assert proxy.request("/", "a.example", headers={"X-Method": "PUT"}).text.split("\r\n")[0] == "PUT / HTTP/1.1"


def test_connections_are_kept(service_of):
    proxy, origin = service_of(workers=1)
    for _ in range(10):
        assert proxy.request("/", "a.example").header("X-Status") == "207"
    assert origin.connections == 1


@pytest.mark.parametrize("path, headers, why", [
    ("/large", {}, "the answer's body is too large"), ("/endless", {}, "the answer's body is too large"), ("/endless", {"X-Max": "1000000"}, "the answer's body is too large"),
    ("/head", {}, "the answer's head is too large"), ("/fields", {}, "the answer's head has too many fields"), ("/slow", {"X-Timeout": "0.2"}, "timeout"), ("/broken", {}, None), ("/short", {}, None)])
def test_services_that_lie(service_of, path, headers, why):
    proxy, origin = service_of()
    got = proxy.request("/", "a.example", headers={"X-Path": path, **headers})
    assert got.text == "none" and (why is None or got.header("X-Why") == why), got.headers
    assert proxy.request("/", "a.example").header("X-Status") == "207"
    assert proxy.request("/", "plain.example").status == 200


def test_redirects_are_not_followed(service_of):
    proxy, origin = service_of()
    assert proxy.request("/", "a.example", headers={"X-Path": "/redirect"}).header("X-Status") == "302"


def test_a_service_that_is_gone_and_comes_back(moongate, echo):
    app = echo("app")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = nobody.getsockname()[1]
        objects = [service(), *slice_of([app.port]), service("auth"), ingress("a", "a.example", annotations={"moongate.io/asks": "upstream"})]
        proxy = moongate({"all.json": [*objects, *slice_of([gone], name="auth")]}, policies={"asks.lua": POLICY}, expect_errors=["has no EndpointSlice"])
        assert "connect" in proxy.request("/", "a.example").header("X-Why").lower()
        # the endpoint that answers is asked when another does not
        proxy.write("all.json", [*objects, *slice_of([gone, app.port], name="auth")])
        wait_until(lambda: proxy.request("/", "a.example").header("X-Status") == "200", what="the other endpoint")
        assert all(proxy.request("/", "a.example").header("X-Status") == "200" for _ in range(4))
        proxy.write("all.json", objects)
        wait_until(lambda: proxy.request("/", "a.example").header("X-Why") == "the Service has no endpoint that is ready", what="no endpoint")


def test_a_guest_reaches_nothing_of_this_host(service_of, dns):
    server = dns({"loop.example": ["127.0.0.1"], "meta.example": ["169.254.169.254"]})
    hosts = ["http://127.0.0.1:{port}", "http://127.1:{port}", "http://2130706433:{port}", "http://0.0.0.0:{port}", "http://[::1]:{port}", "http://[::ffff:127.0.0.1]:{port}", "http://169.254.169.254/",
             "http://[fe80::1]/", "http://[64:ff9b::7f00:1]/", "http://loop.example:{port}", "http://meta.example", "https://loop.example:{port}", "http://224.0.0.1/"]
    urls = {f"h{i}.example": url for i, url in enumerate(hosts)}
    proxy, origin = service_of(urls, flags=["--resolver", f"127.0.0.1:{server.port}"])
    for host, url in urls.items():
        assert "a mounted policy may not reach" in (proxy.request("/", host).header("X-Why") or ""), url
    assert origin.connections == 0


def free_port():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        return nobody.getsockname()[1]


def test_a_guest_does_not_reach_the_api_server_or_our_own_ports(moongate, echo, dns):
    own, app = our_address(), echo("app")
    objects = [service(), *slice_of([app.port])]
    os.environ["KUBERNETES_SERVICE_HOST"] = "203.0.113.7"
    try:
        proxy = moongate({"app.json": objects}, policies={"asks.lua": POLICY})
    finally:
        del os.environ["KUBERNETES_SERVICE_HOST"]
    urls = [f"http://{own}:{proxy.http_port}", f"https://{own}:{proxy.https_port}", f"http://{own}:{proxy.health_port}/metrics", "https://203.0.113.7/api"]
    proxy.write("hosts.json", [ingress(f"h{i}", f"h{i}.example", annotations={"moongate.io/asks": url}) for i, url in enumerate(urls)])
    for i in range(len(urls)):
        wait_until(lambda: "a mounted policy may not reach" in (proxy.request("/", f"h{i}.example").header("X-Why") or ""), what=urls[i])
    # Where its Service leads to, which changes.
    port = free_port()
    behind = [{**service("kubernetes", 443), "spec": {"ports": [{"name": "http", "port": 443, "targetPort": port}]}}, *slice_of([port], name="kubernetes")]
    behind[1]["endpoints"][0]["addresses"] = [own]
    proxy.write("behind.json", [*behind, ingress("behind", "behind.example", annotations={"moongate.io/asks": f"http://{own}:{port}/api"})])
    wait_until(lambda: "a mounted policy may not reach" in (proxy.request("/", "behind.example").header("X-Why") or ""), what="the API server's own address")
    behind[1]["endpoints"][0]["addresses"] = ["203.0.113.8"]
    proxy.write("behind.json", [*behind, ingress("behind", "behind.example", annotations={"moongate.io/asks": f"http://{own}:{port}/api"})])
    wait_until(lambda: "connect" in (proxy.request("/", "behind.example").header("X-Why") or "").lower(), what="another address")


def trusted(service_of, urls, flags=(), **more):
    return service_of(urls, flags=["--trust-policies", *flags], **more)


def test_names_come_from_our_resolver(service_of, dns):
    server = dns({"auth.example": ["127.0.0.1"]})
    proxy, origin = trusted(service_of, {"n.example": "http://auth.example:{port}/x", "gone.example": "http://nowhere.example:{port}/"}, ["--resolver", f"127.0.0.1:{server.port}"], workers=1)
    for _ in range(5):
        got = proxy.request("/", "n.example")
        assert got.header("X-Status") == "207"
    assert f"Host: auth.example:{origin.port}" in got.text
    assert proxy.request("/", "gone.example").header("X-Why") == "nowhere.example is not resolved"
    assert len([name for name in server.asked if name == "auth.example"]) <= 2, server.asked


def test_certificates_are_verified(service_of, dns, tmp_path):
    pem, key = certificate(tmp_path, "auth", ["auth.example"])
    (tmp_path / "pair.pem").write_text(pem + key)
    (tmp_path / "ca.pem").write_text(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(tmp_path / "pair.pem"))
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            with contextlib.suppress(OSError, ssl.SSLError), context.wrap_socket(raw, server_side=True) as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    threading.Thread(target=serve, daemon=True).start()
    port = listener.getsockname()[1]
    server = dns({"auth.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    urls = {"good.example": f"https://auth.example:{port}/", "bad.example": f"https://other.example:{port}/"}
    os.environ["SSL_CERT_FILE"] = str(tmp_path / "ca.pem")
    try:
        proxy, _ = trusted(service_of, urls, ["--resolver", f"127.0.0.1:{server.port}"])
    finally:
        del os.environ["SSL_CERT_FILE"]
    assert proxy.request("/", "good.example").text == "ok"
    assert "SSL" in proxy.request("/", "bad.example").header("X-Why")
    stranger, _ = trusted(service_of, urls, ["--resolver", f"127.0.0.1:{server.port}"])
    assert "SSL" in stranger.request("/", "good.example").header("X-Why")
    listener.close()


def test_a_client_that_leaves_cancels_the_request(service_of):
    ended = threading.Event()

    def serve(_, connection):
        connection.read_head()
        wait_for_end(connection)
        ended.set()

    proxy, origin = service_of(serve=serve)
    with socket.create_connection(("127.0.0.1", proxy.http_port), 10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
        wait_until(lambda: proxy.metric("moongate_hooks_waiting") == 1 and len(origin.heads) == 1, what="the request to the service")
    assert ended.wait(5), "the connection to the service is closed"
    wait_until(lambda: proxy.metric("moongate_hooks_waiting") == 0, what="the end of the wait")


@pytest.mark.parametrize("path", ["/slow", "http://slow.example"])
def test_a_second_signal_ends_those_that_wait(service_of, path):
    silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # a name server that is asked and says nothing
    silent.bind(("127.0.0.1", 0))
    urls = {"n.example": path} if path != "/slow" else {}
    proxy, origin = service_of(urls, flags=["--resolver", f"127.0.0.1:{silent.getsockname()[1]}", "--shutdown-grace-period=0", "--post-shutdown-grace-period=0"], expect_errors=["ending what is left"])
    with socket.create_connection(("127.0.0.1", proxy.http_port), 10) as client:
        host, more = ("n.example", "") if urls else ("a.example", "X-Path: /slow\r\n")
        client.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nX-Timeout: 60\r\n{more}\r\n".encode())
        wait_until(lambda: proxy.metric("moongate_hooks_waiting") == 1, what="the wait")
        proxy.process.terminate()
        wait_until(lambda: proxy.errors.find("shutting down"), what="the first signal")
        proxy.process.terminate()
        assert proxy.process.wait(20) == 0
    silent.close()


def test_a_service_that_is_killed_while_many_ask(moongate, echo):
    app, auth = echo("app"), Echo("auth")
    objects = [service(), *slice_of([app.port]), service("auth"), *slice_of([auth.port], name="auth"),
               ingress("a", "a.example", annotations={"moongate.io/asks": "upstream"}), ingress("plain", "plain.example")]
    proxy = moongate({"all.json": objects}, policies={"asks.lua": POLICY})
    seen = []

    def ask():
        for _ in range(20):
            seen.append(proxy.request("/", "a.example").status)
            seen.append(proxy.request("/", "plain.example").status)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(seen) > 20, what="some answers")
    auth.process.kill()
    for thread in threads:
        thread.join(30)
    assert set(seen) == {200} and len(seen) == 160
    auth.stop()
