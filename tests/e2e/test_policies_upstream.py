"""How the application is asked: upstream-vhost, connection-proxy-header, backend-protocol, service-upstream, timeouts, bodies, retries, and whom values belong to."""
import signal
import socket
import ssl
import threading
import time

import pytest
from harness import Echo, WebSocket, certificate, ingress, service, slice_of, wait_until
from origin import Origin, answering
from worlds import case, named, running

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def proxy():
    app = Echo("app")
    cases = [
        case("vhost.example", upstream_vhost="inner.example"),
        case("vhost-variable.example", upstream_vhost="$arg_to.inner.example"),
        case("vhost-bad.example", upstream_vhost="a b;c"),
        case("close.example", connection_proxy_header="close"),
        case("keep.example", connection_proxy_header="keep-alive"),
        case("connection-bad.example", connection_proxy_header="upgrade"),
        case("grpc.example", backend_protocol="GRPC"),
        case("fcgi.example", backend_protocol="FCGI"),
        case("ajp.example", backend_protocol="AJP"),
        case("small.example", proxy_body_size="1k"),
        case("default-size.example"),
        case("any-size.example", proxy_body_size="0"),
        case("bad-size.example", proxy_body_size="many"),
        case("capital-size.example", proxy_body_size="2K", client_body_buffer_size="1b"),
        case("large.example", proxy_body_size="8m", client_body_buffer_size="16k", proxy_request_buffering="off"),
        case("quick.example", proxy_read_timeout="1"),
        case("bad-timeouts.example", proxy_read_timeout="1s", proxy_send_timeout="", proxy_connect_timeout="-1"),
        case("unlogged.example", enable_access_log="false"),
        case("logged.example"),
        case("aliased.example", server_alias="alias.example, Upper.Alias.example,,bad name,logged.example,*.wild.example"),
        case("second.example", server_alias="alias.example"),
    ]
    expected = [r"upstream-vhost", r"connection-proxy-header", r"backend-protocol", r"proxy-body-size", r"client-body-buffer-size", r"proxy-\w+-timeout", r"server-alias",
                r"host=(grpc|fcgi|quick).example", r'error="timed out" tries=1']
    with running({"app.json": [service(), *slice_of([app.port])], "ingress.json": cases}, [app], expect_errors=expected) as it:
        yield it


def test_upstream_vhost(proxy):
    seen = proxy.echo("/", "vhost.example")["lower"]
    assert (seen["host"], seen["x-forwarded-host"]) == ("inner.example", "vhost.example")
    assert proxy.echo("/?to=a", "vhost-variable.example")["lower"]["host"] == "a.inner.example"
    assert proxy.echo("/", "vhost-bad.example")["lower"]["host"] == "vhost-bad.example"


def test_connection_proxy_header_ends_upgrades(proxy):
    for host in ("close.example", "keep.example"):
        tunnel = WebSocket(proxy.http_port, "/ws", host)
        assert tunnel.status == 200
        tunnel.close()
    tunnel = WebSocket(proxy.http_port, "/ws", "connection-bad.example")
    assert tunnel.status == 101
    tunnel.close()


def test_protocols_that_are_not_supported_are_closed(proxy):
    assert proxy.request("/", "grpc.example").status == 503
    assert proxy.request("/", "fcgi.example").status == 503
    assert proxy.request("/", "ajp.example").status == 200


@pytest.mark.parametrize("host, size, status", [
    ("small.example", 1024, 200), ("small.example", 1025, 413), ("default-size.example", 1 << 20, 200), ("default-size.example", (1 << 20) + 1, 413),
    ("any-size.example", 3 << 20, 200), ("bad-size.example", (1 << 20) + 1, 413), ("capital-size.example", 2048, 200), ("capital-size.example", 2049, 413),
    ("large.example", 5 << 20, 200),
])
def test_body_size(proxy, host, size, status):
    try:
        answer = proxy.request("/", host, method="POST", body=b"x" * size)
    except (BrokenPipeError, ConnectionResetError):
        answer = None  # the answer came first and the rest of the body was refused
    assert answer is None and status == 413 or answer.status == status
    parts = b"".join(b"%x\r\n" % 1024 + b"y" * 1024 + b"\r\n" for _ in range(size // 1024)) + (b"1\r\ny\r\n" if size % 1024 else b"")
    raw = b"POST / HTTP/1.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nHost: " + host.encode() + b"\r\n\r\n" + parts + b"0\r\n\r\n"
    try:
        got = proxy.raw(raw, half_close=False)
    except (BrokenPipeError, ConnectionResetError):
        got = b""
    assert not got and status == 413 or int(got.split(b" ")[1]) == status


def test_read_timeout(proxy):
    started = time.monotonic()
    assert proxy.request("/sleep/30", "quick.example", method="POST", body=b"").status == 504
    assert 0.9 < time.monotonic() - started < 2.5
    assert proxy.request("/sleep/2", "bad-timeouts.example").status == 200


def test_access_log(proxy):
    proxy.request("/quiet", "unlogged.example")
    proxy.request("/loud", "logged.example")
    wait_until(lambda: proxy.access.find("GET /loud"), what="the access log")
    assert not proxy.access.find("GET /quiet")


def test_server_alias(proxy):
    for host in ("alias.example", "upper.alias.example", "UPPER.alias.example", "x.wild.example", "alias.example:1234", "alias.example."):
        assert proxy.request("/", host).status == 200, host
    for host in ("wild.example", "x.y.wild.example"):
        assert proxy.request("/", host).status == 404, host
    proxy.request("/owner", "logged.example")
    wait_until(lambda: proxy.access.find("GET /owner"), what="a name that is a host of its own stays there")


# ---- an origin that is looked at closely

@pytest.fixture
def through(moongate):
    opened = []

    def start(scripts, annotations, **options):
        opened.extend(Origin(script) for script in scripts)
        options.setdefault("expect_errors", [".*"])
        proxy = moongate({"app.json": [service(), *slice_of([one.port for one in opened])], "ingress.json": [ingress("a", "a.example", annotations=named(**annotations))]}, **options)
        proxy.origins = list(opened)
        return proxy

    yield start
    for one in opened:
        one.close()
        assert not one.errors


def status(code, text=b"no"):
    return answering(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (code, len(text)) + text)


def close_after_head(_, connection):
    connection.read_head()


@pytest.mark.parametrize("words, bad, method, repeated", [
    ("http_503", status(503), "GET", True),
    ("http_503", status(503), "POST", False),
    ("http_503 non_idempotent", status(503), "POST", True),
    ("http_404", status(404), "GET", True),
    ("http_429 http_500", status(500), "GET", True),
    ("error timeout", status(503), "GET", False),
    ("off", close_after_head, "GET", False),
    ("error", close_after_head, "PUT", True),
    ("nonsense", close_after_head, "GET", True),
    ("invalid_header", answering(b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n"), "GET", True),
])
def test_next_upstream(through, words, bad, method, repeated):
    proxy = through([bad, answering(OK)], {"proxy_next_upstream": words})
    answers = [proxy.request("/", "a.example", method=method, body=b"x" if method in ("POST", "PUT") else None).status for _ in range(6)]
    assert (set(answers) == {200}) is repeated, answers


@pytest.mark.parametrize("size, head, code", [(None, 30000, 200), (None, 34000, 502), ("64k", 60000, 200), ("64k", 70000, 502), ("4k", 3900, 200), ("4k", 4200, 502), ("0", 30000, 200), ("9m", 30000, 200)])
def test_proxy_buffer_size(through, size, head, code):
    """How long the head of an answer may be, its status line and blank line included."""
    start = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
    lines = b"".join(b"X-%d: " % n + b"a" * 990 + b"\r\n" for n in range(head // 1000))
    rest = head - len(start + lines) - 2
    answer = start + lines + (b"Y: " + b"b" * (rest - 5) + b"\r\n" if rest > 5 else b"") + b"\r\nok"
    proxy = through([answering(answer)], {"proxy_buffer_size": size} if size else {})
    got = proxy.request("/", "a.example")
    assert (got.status, got.text if code == 200 else "ok") == (code, "ok")


@pytest.mark.parametrize("value, lines, connections", [("close", ["connection: close"], 2), ("keep-alive", ["connection: keep-alive"], 1), ("upgrade", [], 1), (None, [], 1)])
def test_connection_proxy_header(through, value, lines, connections):
    proxy = through([answering(OK)], {"connection_proxy_header": value} if value else {}, workers=1)
    for _ in range(2):
        assert proxy.request("/", "a.example").status == 200
    for head in proxy.origins[0].heads:
        assert [line for line in head.lower().split("\r\n") if line.startswith(("connection:", "te:"))] == lines
    assert proxy.origins[0].connections == connections
    if value in ("close", "keep-alive"):
        proxy.request("/", "a.example", headers={"TE": "trailers", "Connection": "TE"})
        assert [line for line in proxy.origins[0].heads[-1].lower().split("\r\n") if line.startswith(("connection:", "te:"))] == lines


def test_next_upstream_tries(through):
    proxy = through([status(503) for _ in range(4)], {"proxy_next_upstream": "http_503", "proxy_next_upstream_tries": "2"})
    assert proxy.request("/", "a.example").status == 503
    assert sum(len(one.heads) for one in proxy.origins) == 2


def test_next_upstream_tries_without_a_limit_end(through):
    proxy = through([status(503) for _ in range(5)], {"proxy_next_upstream": "http_503", "proxy_next_upstream_tries": "0"})
    assert proxy.request("/", "a.example", timeout=5).status == 503
    assert [len(one.heads) for one in proxy.origins] == [1] * 5


def test_next_upstream_timeout(through):
    def slow(_, connection):
        connection.read_head()
        time.sleep(0.7)
        connection.send(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")

    proxy = through([slow] * 4, {"proxy_next_upstream": "http_503", "proxy_next_upstream_tries": "0", "proxy_next_upstream_timeout": "1"})
    started = time.monotonic()
    assert proxy.request("/", "a.example").status in (502, 503, 504)
    assert time.monotonic() - started < 2.2
    assert sum(len(one.heads) for one in proxy.origins) == 2


def test_request_buffering(through):
    """On: the application is asked when the body is there. Off: at once."""
    def hold(proxy):
        with socket.create_connection(("127.0.0.1", proxy.http_port), 5) as client:
            client.sendall(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab")
            time.sleep(0.15)
            asked = len(proxy.origins[-1].heads)
            client.sendall(b"cd")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        return asked

    def script(_, connection):
        connection.read_head()
        connection.read_exactly(4)
        connection.send(OK)

    assert hold(through([script], {})) == 0
    # the second proxy has both origins: either sees the head at once
    proxy = through([script], {"proxy_request_buffering": "off"})
    proxy.write("app.json", [service(), *slice_of([proxy.origins[-1].port])])
    wait_until(lambda: hold(proxy) == 1, what="streaming")


@pytest.mark.parametrize("protocol, plain, encrypted", [("HTTPS", "https", "https"), ("https", "https", "https"), ("AUTO_HTTP", "http", "https"), ("HTTP", "http", "http")])
def test_backend_protocol(moongate, tmp_path, protocol, plain, encrypted):
    """One port that speaks both: it looks at the first byte."""
    pem, key = certificate(tmp_path, "inner", ["inner"])
    (tmp_path / "pem").write_text(pem + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "pem")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            try:
                is_tls = raw.recv(1, socket.MSG_PEEK) == b"\x16"
                with (context.wrap_socket(raw, server_side=True) if is_tls else raw) as one:
                    one.recv(65536)
                    text = b"https" if is_tls else b"http"
                    one.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    proxy = moongate({"app.json": [service(), *slice_of([listener.getsockname()[1]])], "ingress.json": [ingress("a", "a.example", annotations=named(backend_protocol=protocol))]})
    assert proxy.request("/", "a.example").text == plain
    assert proxy.request("/", "a.example", https=True).text == encrypted
    listener.close()


# ---- whom a value belongs to

def test_service_upstream(moongate, echo):
    """The Service's own address in place of the endpoint's; without one, endpoints."""
    behind, app = echo("cluster-ip"), echo("pod")
    with_ip = service("with-ip", port=behind.port, clusterIP="127.0.0.1")
    headless = service("headless", port=behind.port, clusterIP="None")
    proxy = moongate({"app.json": [with_ip, headless, *slice_of([app.port], name="with-ip"), *slice_of([app.port], name="headless")], "ingress.json": [
        ingress("a", "a.example", service_name="with-ip", port=behind.port, annotations=named(service_upstream="true")),
        ingress("b", "b.example", service_name="headless", port=behind.port, annotations=named(service_upstream="true"))]})
    assert proxy.request("/", "a.example").header("x-echo-name") == "cluster-ip"
    assert proxy.request("/", "b.example").header("x-echo-name") == "pod"


def aged(name, host, day, **annotations):
    return ingress(name, host, annotations=named(**annotations), metadata={"creationTimestamp": f"2024-01-{day:02}T00:00:00Z"})


def test_the_oldest_ingress_decides_for_an_upstream(moongate, echo):
    apps = [echo(f"pod-{n}") for n in range(3)]
    ours = [aged("b", "b.example", 2, upstream_hash_by="$arg_other"), aged("a", "a.example", 1, upstream_hash_by="$arg_key"), aged("c", "c.example", 3)]
    proxy = moongate({"app.json": [service(), *slice_of([app.port for app in apps])], "ingress.json": ours})

    def owners(host, query):
        return {proxy.request(f"/?{query.format(n)}", host).header("x-echo-name") for n in range(12)}

    for host in ("a.example", "b.example", "c.example"):
        assert len(owners(host, "key=1&other={}")) == 1, host
        assert len(owners(host, "key={}&other=1")) > 1, host
    proxy.write("ingress.json", [ours[0], aged("a", "a.example", 1), ours[2]])
    for host in ("a.example", "b.example", "c.example"):
        wait_until(lambda host=host: len(owners(host, "key=1&other={}")) > 1 and len(owners(host, "key={}&other=1")) == 1, what="the next oldest's value")
    proxy.write("ingress.json", [ours[2]])
    wait_until(lambda: len(owners("c.example", "key=1&other=1")) > 1, what="round robin")


def test_service_upstream_is_shared(moongate, echo):
    behind, app = echo("cluster-ip"), echo("pod")
    objects = [service("web", port=behind.port, clusterIP="127.0.0.1"), *slice_of([app.port], name="web")]
    more = {"service_name": "web", "port": behind.port}
    proxy = moongate({"app.json": objects, "ingress.json": [
        ingress("a", "a.example", annotations=named(service_upstream="true"), metadata={"creationTimestamp": "2024-01-02T00:00:00Z"}, **more),
        ingress("b", "b.example", annotations=named(service_upstream="false"), metadata={"creationTimestamp": "2024-01-01T00:00:00Z"}, **more)]})
    assert {proxy.request("/", host).header("x-echo-name") for host in ("a.example", "b.example")} == {"pod"}
    proxy.write("ingress.json", [ingress("a", "a.example", annotations=named(service_upstream="true"), **more), ingress("b", "b.example", **more)])
    wait_until(lambda: {proxy.request("/", host).header("x-echo-name") for host in ("a.example", "b.example")} == {"cluster-ip"}, what="the shared value")


def test_an_endpoint_that_died_is_left_out(moongate, echo):
    apps = [echo("one"), echo("two")]
    proxy = moongate({"app.json": [service(), *slice_of([app.port for app in apps])], "ingress.json": [ingress("a", "a.example")]}, expect_errors=[".*"])
    apps[0].stop(signal.SIGKILL)
    assert {proxy.request("/", "a.example").header("x-echo-name") for _ in range(10)} == {"two"}
