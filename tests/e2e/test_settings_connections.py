"""The ConfigMap: connections of clients, connections to upstreams, TLS; each key changed live."""
import http.client
import socket
import ssl
import time

import pytest
from harness import wait_until
from settings_world import settings, world  # noqa: F401: fixtures


# ---- connections of clients

def connections(world):
    return http.client.HTTPConnection("127.0.0.1", world.http_port, timeout=5)


def get(connection, path="/", host="echo.example"):
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    answer.read()
    return answer


def test_keep_alive_requests(settings):
    world = settings(keep_alive_requests="3")
    connection = connections(world)
    answers = [get(connection).getheader("connection") for _ in range(3)]
    assert answers == [None, None, "close"] or answers == ["keep-alive", "keep-alive", "close"]
    connection.close()


def test_keep_alive(settings):
    world = settings(keep_alive="1")
    with socket.create_connection(("127.0.0.1", world.http_port), 5) as client:
        client.sendall(b"GET /status/204 HTTP/1.1\r\nHost: echo.example\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 204")
        started = time.monotonic()
        assert client.recv(4096) == b"" and 0.5 < time.monotonic() - started < 2.5
    settings(keep_alive="0")
    assert get(connections(world)).getheader("connection") == "close"


@pytest.mark.parametrize("data, sent", [({"client_header_timeout": "1"}, b"GET / HTTP/1.1\r\nHost: echo.ex"),
                                        ({"client_body_timeout": "1"}, b"POST / HTTP/1.1\r\nHost: echo.example\r\nContent-Length: 10\r\n\r\nabc")])
def test_client_timeouts(settings, data, sent):
    world = settings(**data)
    with socket.create_connection(("127.0.0.1", world.http_port), 5) as client:
        client.sendall(sent)
        started = time.monotonic()
        got = client.recv(4096)
        assert got == b"" or b" 408 " in got
        assert 0.5 < time.monotonic() - started < 3


def test_large_client_header_buffers(settings):
    world = settings()
    assert world.request("/" + "a" * 9000, "echo.example").status == 414
    assert world.request("/", "echo.example", headers={"X": "a" * 40000}).status in (400, 431)
    settings(large_client_header_buffers="4 16k")
    assert world.request("/" + "a" * 9000, "echo.example").status == 200
    assert world.request("/", "echo.example", headers={"X": "a" * 15000, "Y": "a" * 15000, "Z": "a" * 15000}).status == 200
    settings(large_client_header_buffers="many")
    assert world.request("/" + "a" * 9000, "echo.example").status == 414


# ---- connections to upstreams

def test_upstream_keepalive(settings):
    world = settings()
    origin = world.origin

    def opened(count=4):
        before = origin.connections
        for _ in range(count):
            assert world.request("/", "origin.example").status == 200
        return origin.connections - before

    assert opened() <= 1
    settings(upstream_keepalive_connections="0")
    opened(2)
    assert opened() == 4
    settings(upstream_keepalive_requests="2")
    opened(1)
    assert 1 <= opened(4) <= 3
    settings(upstream_keepalive_timeout="1")
    opened(1)
    time.sleep(1.3)
    assert opened(1) == 1
    settings(upstream_keepalive_time="1s")
    opened(1)
    time.sleep(1.1)
    opened(1)
    assert opened(1) == 1


def test_proxy_defaults(settings):
    world = settings(proxy_body_size="1k", proxy_read_timeout="1")
    assert world.request("/", "echo.example", method="POST", body=b"x" * 1025).status == 413
    assert world.request("/", "own.example", method="POST", body=b"x" * 1025).status == 200, "an annotation wins"
    assert world.request("/slow", "origin.example", method="POST", body=b"").status == 504
    settings(proxy_cookie_domain="in.example out.example", proxy_cookie_path="/in /out", proxy_redirect_from="http://in.example/", proxy_redirect_to="http://out.example/")
    answer = world.request("/", "origin.example")
    assert (answer.header("set-cookie"), answer.header("location")) == ("a=b; Domain=out.example; Path=/out", "http://out.example/")
    settings(proxy_body_size="nonsense")
    assert world.request("/", "echo.example", method="POST", body=b"x" * 1025).status == 200


def test_proxy_add_original_uri_header(settings):
    world = settings()
    assert "x-original-uri" not in world.echo("/a?b", "echo.example")["lower"]
    settings(proxy_add_original_uri_header="true")
    assert world.echo("/a?b", "echo.example")["lower"]["x-original-uri"] == "/a?b"


# ---- TLS

def handshake(world, name="tls.example", session=None, **limits):
    context = ssl._create_unverified_context()
    for key, value in limits.items():
        setattr(context, key, value)
    with socket.create_connection(("127.0.0.1", world.https_port), 5) as raw, context.wrap_socket(raw, server_hostname=name, session=session) as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % (name or "x").encode())
        while tls.recv(65536):
            pass
        return tls.version(), tls.session


def test_ssl_protocols(settings):
    world = settings()
    assert handshake(world)[0] == "TLSv1.3"
    settings(ssl_protocols="TLSv1.2")
    wait_until(lambda: handshake(world)[0] == "TLSv1.2", what="TLS 1.2 alone")
    settings(ssl_protocols="TLSv1.3")
    with pytest.raises(ssl.SSLError):
        wait_until(lambda: not handshake(world, maximum_version=ssl.TLSVersion.TLSv1_2), timeout=2)
    settings(ssl_protocols="SSLv3")
    wait_until(lambda: handshake(world, maximum_version=ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2", what="the default")


def test_ssl_session_tickets(settings):
    world = settings()
    assert handshake(world, maximum_version=ssl.TLSVersion.TLSv1_2)[1].has_ticket
    settings(ssl_session_tickets="false")
    wait_until(lambda: not handshake(world, maximum_version=ssl.TLSVersion.TLSv1_2)[1].has_ticket, what="no tickets")


def test_ssl_reject_handshake(settings):
    world = settings()
    assert handshake(world, "unknown.example")[0]
    settings(ssl_reject_handshake="true")

    def is_refused(name):
        try:
            handshake(world, name)
        except (ssl.SSLError, ConnectionError):
            return True
        return False

    wait_until(lambda: is_refused("unknown.example"), what="the refusal")
    assert not is_refused("tls.example")
