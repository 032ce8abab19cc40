"""HTTP/1.1 both ways, over raw bytes."""
import hashlib
import socket
import ssl
import time

import pytest
from harness import WebSocket, ingress, service, slice_of, wait_until
from origin import Origin, answering

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def through(moongate):
    """Starts Moongate in front of an Origin with this script; host foo.example."""
    opened = []

    def start(script, annotations=None, more=(), **options):
        origin = Origin(script)
        opened.append(origin)
        proxy = moongate({"app.json": [service(), *slice_of([origin.port, *more])], "ingress.json": [ingress("app", "foo.example", annotations=annotations)]}, **options)
        proxy.origin = origin
        return proxy

    yield start
    for origin in opened:
        origin.close()
        assert not origin.errors


def request(path="/", method="GET", headers="", body=b"", version="1.1"):
    return f"{method} {path} HTTP/{version}\r\nHost: foo.example\r\n{headers}\r\n".encode() + body


def test_pipelined_requests_are_answered_in_order(through):
    def script(_, connection):
        while True:
            path = connection.read_head().split(b" ")[1]
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path) + path)

    proxy = through(script)
    answer = proxy.raw(b"".join(request(f"/{n}") for n in range(5)) + request("/last", headers="Connection: close\r\n"), half_close=False)
    assert [part.split(b"\r\n\r\n", 1)[1] for part in answer.split(b"HTTP/1.1 200 OK")[1:]] == [b"/0", b"/1", b"/2", b"/3", b"/4", b"/last"]


def test_chunked_both_ways_with_trailers(through):
    def script(_, connection):
        assert b"transfer-encoding: chunked" in connection.read_head().lower()
        body = connection.read_until(b"\r\n\r\n")
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n")
        assert b"X-Up: 1" in body and b"hello" in body

    proxy = through(script, {"nginx.ingress.kubernetes.io/proxy-request-buffering": "off"})
    answer = proxy.raw(request(method="POST", headers="Transfer-Encoding: chunked\r\nTE: trailers\r\nConnection: close, TE\r\n", body=b"5\r\nhello\r\n0\r\nX-Up: 1\r\n\r\n"), half_close=False)
    assert b"Transfer-Encoding: chunked\r\n" in answer and b"3\r\nabc\r\n" in answer and b"X-Sum: 6\r\n" in answer


def test_expect_continue(through):
    def script(_, connection):
        connection.read_head()
        assert connection.read_exactly(5) == b"hello"
        connection.send(OK)

    proxy = through(script)
    with socket.create_connection(("127.0.0.1", proxy.http_port), 5) as client:
        client.sendall(request(method="PUT", headers="Content-Length: 5\r\nExpect: 100-continue\r\n"))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_head_and_no_content(through):
    def script(_, connection):
        while True:
            head = connection.read_head()
            if head.startswith(b"HEAD"):
                connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            elif b"/304" in head:
                connection.send(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n")
            else:
                connection.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    proxy = through(script)
    answer = proxy.raw(request(method="HEAD") + request("/304") + request("/204", headers="Connection: close\r\n"), half_close=False)
    assert answer.count(b"HTTP/1.1") == 3 and b"Content-Length: 1000\r\n" in answer and b" 304 " in answer and b" 204 " in answer


def test_http_1_0_clients(through):
    proxy = through(answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"))
    answer = proxy.raw(request(version="1.0"), half_close=False)
    assert answer.startswith(b"HTTP/1.1 200") and b"chunked" not in answer.lower() and answer.endswith(b"\r\n\r\nok")


def test_hop_by_hop_fields_are_not_forwarded(through):
    proxy = through(answering(b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-End: 1\r\nServer: x\r\nContent-Length: 0\r\n\r\n"))
    answer = proxy.request("/", "foo.example", headers={"Connection": "close, X-Mine", "X-Mine": "1", "Proxy": "evil", "X-Under": "1"})
    assert answer.header("x-hop") is None and answer.header("x-end") == "1" and answer.header("server") is None and answer.header("date")
    head = proxy.origin.heads[0].lower()
    assert "x-mine" not in head and "\r\nproxy:" not in head and "x-under: 1" in head


def test_early_answer_ends_the_upload(through):
    def script(_, connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        time.sleep(0.2)

    proxy = through(script, {"nginx.ingress.kubernetes.io/proxy-request-buffering": "off", "nginx.ingress.kubernetes.io/proxy-body-size": "0"})
    with socket.create_connection(("127.0.0.1", proxy.http_port), 5) as client:
        client.sendall(request(method="POST", headers="Content-Length: 100000000\r\n") + b"x" * 1000)
        assert client.recv(1000).startswith(b"HTTP/1.1 403")


def test_websocket_survives_changes_and_echoes(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("app", "foo.example")]})
    tunnel = WebSocket(proxy.http_port, "/ws", "foo.example")
    assert tunnel.status == 101
    tunnel.send(b"one")
    assert tunnel.receive() == (1, b"one")
    proxy.write("ingress.json", [ingress("app", "foo.example", annotations={"nginx.ingress.kubernetes.io/permanent-redirect": "/moved"})])
    proxy.wait_live("/", "foo.example", lambda answer: answer.status == 301)
    tunnel.send(b"x" * 70000, opcode=2)
    assert tunnel.receive() == (2, b"x" * 70000)
    assert proxy.metric("moongate_superseded_units") == 0, "a tunnel pins no old configuration"
    tunnel.close()
    wait_until(lambda: proxy.metric("moongate_tunnels") == 0, what="the tunnel to end")


def test_large_bodies_in_constant_memory(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])],
                      "ingress.json": [ingress("app", "foo.example", annotations={"nginx.ingress.kubernetes.io/proxy-body-size": "0"})]})
    before = proxy.metric("moongate_resident_memory_bytes")
    answer = proxy.request("/bytes/50000000", "foo.example", timeout=60)
    expected = bytes(10 if i % 64 == 63 else 48 + i % 64 for i in range(16384)) * (50000000 // 16384 + 1)
    assert hashlib.sha1(answer.body).digest() == hashlib.sha1(expected[:50000000]).digest()
    seen = proxy.echo("/", "foo.example", method="POST", body=b"y" * 20_000_000, timeout=60)
    assert seen["body_bytes"] == 20_000_000
    assert proxy.metric("moongate_resident_memory_bytes") - before < 16 << 20


@pytest.mark.parametrize("raw, status", [
    (b"GET / HTTP/1.1\r\n\r\n", 400),                                                             # no Host
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: foo.example\r\n folded: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost : foo.example\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: foo.example\r\nX: a\rb\r\n\r\n", 400),
    (b"GET / HTTP/1.1\nHost: foo.example\n\n", 400),
    (b"GET / HTTP/1.1\r\nHost: foo.example\r\nX: a\x00b\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: foo.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\nHost: foo.example\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    (b"POST / HTTP/1.1\r\nHost: foo.example\r\nContent-Length: +3\r\n\r\nabc", 400),
    (b"POST / HTTP/1.1\r\nHost: foo.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", (400, 501)),
    (b"POST / HTTP/1.1\r\nHost: foo.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", (400, 501)),
    (b"POST / HTTP/1.1\r\nHost: foo.example\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", 400),
    (b"GET /%00 HTTP/1.1\r\nHost: foo.example\r\n\r\n", 400),
    (b"GET /../.. HTTP/1.1\r\nHost: foo.example\r\n\r\n", 400),
    (b"GET / HTTP/2.0\r\nHost: foo.example\r\n\r\n", (400, 505)),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: foo.example\r\n\r\n", 414),
    (b"GET / HTTP/1.1\r\nHost: foo.example\r\nX: " + b"a" * 40000 + b"\r\n\r\n", 431),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
])
def test_bad_requests(through, raw, status):
    proxy = through(answering(OK))
    answer = proxy.raw(raw, half_close=False)
    got = int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else None
    assert got in (status if isinstance(status, tuple) else (status,)), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1 and proxy.origin.connections == 0


def test_body_over_the_limit(through):
    proxy = through(answering(OK), {"nginx.ingress.kubernetes.io/proxy-body-size": "1k"})
    assert proxy.request("/", "foo.example", method="POST", body=b"x" * 1025).status == 413
    assert b" 413 " in proxy.raw(request(method="POST", headers="Connection: close\r\nTransfer-Encoding: chunked\r\n", body=b"800\r\n" + b"x" * 2048 + b"\r\n0\r\n\r\n"), half_close=False).split(b"\r\n")[0]


def test_bad_upstreams_are_502(through):
    proxy = through(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok"), expect_errors=[".*"])
    assert proxy.request("/", "foo.example").status == 502


def test_an_upstream_that_refuses_is_502_and_another_is_tried(through):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = listener.getsockname()[1]
    proxy = through(answering(OK), more=[dead], expect_errors=[".*"])
    for _ in range(8):
        assert proxy.request("/", "foo.example").status == 200
    assert proxy.metric("moongate_upstream_retries_total") > 0
    proxy.write("app.json", [service(), *slice_of([dead])])
    assert proxy.wait_live("/", "foo.example", lambda answer: answer.status != 200).status == 502


def test_a_silent_upstream_is_504(through):
    def script(_, connection):
        connection.read_head()
        connection.read_exactly(1)

    proxy = through(script, {"nginx.ingress.kubernetes.io/proxy-read-timeout": "1", "nginx.ingress.kubernetes.io/proxy-next-upstream-tries": "1"}, expect_errors=[".*"])
    started = time.monotonic()
    assert proxy.request("/", "foo.example").status == 504
    assert 0.9 < time.monotonic() - started < 3


def test_no_endpoint_is_503(moongate):
    proxy = moongate({"app.json": [service()], "ingress.json": [ingress("app", "foo.example"), ingress("gone", "gone.example", service_name="nowhere")]}, expect_errors=[".*"])
    answer = proxy.request("/", "foo.example")
    assert answer.status == 503 and "<title>503 Service Temporarily Unavailable</title>" in answer.text
    assert proxy.request("/", "gone.example").status == 503
    assert proxy.errors.find("EndpointSlice")


def test_post_is_not_repeated_but_get_is(through):
    def script(origin, connection):
        connection.read_head()
        if origin.connections == 1:
            return  # closes after the request was read
        connection.send(OK)

    proxy = through(script, expect_errors=[".*"])
    assert proxy.request("/", "foo.example", method="POST", body=b"x").status == 502
    proxy = through(script, expect_errors=[".*"])
    assert proxy.request("/", "foo.example").status in (200, 502)


@pytest.mark.parametrize("more", [[], [100], [100, 200], [30000, 30000]])
@pytest.mark.parametrize("is_tls", [False, True])
def test_client_that_leaves_is_logged_as_499(through, is_tls, more):
    """Whatever it has asked for besides: `more` are lengths of requests that are pipelined behind the one that waits."""
    def script(_, connection):
        connection.read_head()
        connection.read_exactly(1)

    proxy = through(script)
    client = socket.create_connection(("127.0.0.1", proxy.https_port if is_tls else proxy.http_port), 5)
    if is_tls:
        client = ssl._create_unverified_context().wrap_socket(client)
    client.sendall(request("/leaving"))
    wait_until(lambda: proxy.origin.heads, what="the request upstream")
    for length in more:
        client.sendall(request("/more", headers="X-Filler: " + "f" * length + "\r\n"))
    client.close()
    assert wait_until(lambda: proxy.access.find(r'"GET /leaving HTTP/1\.1" (\d+)'), what="access log").group(1) == "499"
