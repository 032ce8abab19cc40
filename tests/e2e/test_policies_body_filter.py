"""Policies that change bodies on their way: of any size, at any pace, on connections that stay."""
import http.client
import socket
import ssl

import pytest
from harness import Echo, service, slice_of, wait_until
from origin import Origin
from worlds import case, running

POLICY = """
local policy = { name = "filter", summary = "A test.", annotations = { filter = { type = "string", doc = "How." } } }
local deeds = {}
function deeds.upper(chunk, last) if not last then return chunk:upper() end end
function deeds.tail(_, last) if last then return "the end" end end
function deeds.broken(chunk) if chunk:find "b" then error "broken" end end
function deeds.huge() return ("x"):rep(1048577) end
function policy.attach(_, annotations) if annotations.filter then return { deed = annotations.filter } end end
function policy.body_filter(_, config, chunk, last) return deeds[config.deed](chunk, last) end
return policy
"""
SIZE = 20_000_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\naabb\r\n"
CUT = {"/length": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\naabb", "/chunk": CHUNKED + b"9\r\n", "/last": CHUNKED, "/trailers": CHUNKED + b"0\r\nX: a\r\n", "/size": CHUNKED + b"x\r\n"}


def play(_, connection):
    while True:
        head = connection.read_head()
        path = head.split(b" ")[1].decode()
        if path in CUT:
            connection.send(CUT[path])
            return
        if path == "/large":
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: x\r\n\r\n" % SIZE)
            for _ in range(SIZE // 100_000):
                connection.send(b"a" * 100_000)
        elif b"chunked" in head:
            connection.read_until(b"0\r\n")
            trailers = connection.read_until(b"\r\n\r\n")
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(trailers), trailers))
        else:
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\naabb")


@pytest.fixture(scope="module")
def world():
    app, origin = Echo("app"), Origin(play)
    cases = []
    for deed in ("upper", "tail", "broken", "huge", "paced"):
        one = case(f"{deed}.example", service_name="origin", **({"limit_rate": "1000"} if deed == "paced" else {}))
        one["metadata"]["annotations"]["moongate.io/filter"] = "upper" if deed == "paced" else deed
        cases.append(one)
    manifests = {"app.json": [service("origin"), *slice_of([origin.port], name="origin")], "ingress.json": [*cases, case("plain.example", service_name="origin")]}
    with running(manifests, [app], workers=1, flags=["--trust-policies"], policies={"filter.lua": POLICY}, expect_errors=["phase=body_filter"]) as proxy:
        yield proxy
        assert origin.errors == []
    origin.close()


def test_connections_stay(world):
    connection = http.client.HTTPConnection("127.0.0.1", world.http_port, timeout=10)
    before = world.metric("moongate_upstream_connects_total")
    for host, wanted in (("upper.example", b"AABB"), ("tail.example", b"aabbthe end"), ("plain.example", b"aabb"), ("upper.example", b"AABB"), ("paced.example", b"AABB")):
        connection.request("GET", "/", headers={"Host": host})
        assert connection.getresponse().read() == wanted
    assert world.metric("moongate_upstream_connects_total") - before <= 1
    connection.close()


def test_trailers_ask_for_no_part_either(world):
    body = b"2\r\nab\r\n0\r\nX-Sum: 1\r\nRange: bytes=0-1\r\nRequest-Range: bytes=0-1\r\n\r\n"
    request = b"POST / HTTP/1.1\r\nHost: tail.example\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b"\r\nX-Sum: 1\r\n\r\n\r\n7\r\nthe end" in world.raw(request + body, half_close=False)


def test_a_large_body_that_is_read_slowly(world):
    with socket.create_connection(("127.0.0.1", world.http_port), 30) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(b"GET /large HTTP/1.0\r\nHost: upper.example\r\n\r\n")
        count, head = 0, b""
        while part := connection.recv(65536):
            if b"\r\n\r\n" not in head:
                head, _, part = (head + part).partition(b"\r\n\r\n")
                head += b"\r\n\r\n"
            assert part.strip(b"A") == b""
            count += len(part)
    assert count == SIZE and b"ETag" not in head and b"Content-Length" not in head


def test_http_1_0_keeps_its_end_apart_from_a_failure(world):
    with socket.create_connection(("127.0.0.1", world.http_port), 10) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nHost: broken.example\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            while connection.recv(65536):
                pass


def test_a_failure_resets(world):
    before = world.metric("moongate_limit_filtered_bytes_total")
    for host in ("broken.example", "huge.example"):
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            world.request("/", host)
    assert world.metric("moongate_limit_filtered_bytes_total") == before + 1
    wait_until(lambda: world.metric("moongate_exchanges") == 0, what="their end")
    assert world.request("/", "plain.example").text == "aabb"


@pytest.mark.parametrize("path", CUT)
def test_an_answer_that_the_application_cuts_is_never_a_whole_one(world, path):
    answer = world.raw(f"GET {path} HTTP/1.1\r\nHost: upper.example\r\n\r\nGET / HTTP/1.1\r\nHost: plain.example\r\n\r\n".encode(), half_close=False)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n4\r\nAABB\r\n"), answer
    with socket.create_connection(("127.0.0.1", world.https_port), 10) as raw:  # ended by the connection's end: then it must be no orderly one
        context = ssl._create_unverified_context()
        with context.wrap_socket(raw, server_hostname="upper.example", suppress_ragged_eofs=False) as connection, pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: upper.example\r\n\r\n".encode())
            while connection.recv(65536):
                pass


def test_a_client_that_leaves(world):
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", world.http_port), 10) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: upper.example\r\n\r\n")
            connection.recv(1000)
    wait_until(lambda: world.metric("moongate_exchanges") == 0, what="their end")
