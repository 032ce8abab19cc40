"""The ConfigMap: connections of clients, connections to upstreams, TLS; each key changed live."""
import http.client
import re
import signal
import socket
import ssl
import subprocess
import time

import pytest
from harness import config_map, ingress, service, slice_of, wait_until
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


def test_client_header_buffer_size(settings):
    """A head that fits into the first buffer needs none of the large ones."""
    world = settings(client_header_buffer_size="16k")
    assert world.request("/" + "a" * 9000, "echo.example").status == 200
    assert world.request("/" + "a" * 17000, "echo.example").status == 414
    settings(client_header_buffer_size="64k", large_client_header_buffers="4 8k")
    assert world.request("/", "echo.example", headers={"X": "a" * 40000}).status == 200


def test_ignore_invalid_headers(settings):
    world = settings()
    head = b"GET / HTTP/1.1\r\nHost: echo.example\r\nX@Y: 1\r\nConnection: close\r\n\r\n"
    answer = world.raw(head, half_close=False)
    assert answer.startswith(b"HTTP/1.1 200") and b"X@Y" not in answer
    settings(ignore_invalid_headers="false")
    assert world.raw(head, half_close=False).startswith(b"HTTP/1.1 400")


def is_served(world):
    """Whether a new connection is: one that waits in the kernel's queue is not."""
    try:
        return world.request("/status/204", "echo.example", timeout=0.5).status == 204
    except TimeoutError:
        return False


def test_max_worker_connections(settings):
    world = settings(max_worker_connections="2")
    held = [connections(world) for _ in range(2)]
    for connection in held:
        assert get(connection, "/status/204").status == 204
    waiting = connections(world)
    waiting.request("GET", "/status/204", headers={"Host": "echo.example"})
    assert not is_served(world)
    held.pop().close()
    assert waiting.getresponse().status == 204
    assert not is_served(world), "the one that waited took the place"
    # what is full by the old number is not by the new one, though no connection ends
    world.write("settings.json", [config_map("settings", {"max-worker-connections": "100"}, namespace="system")])
    wait_until(lambda: is_served(world), what="the new number")
    for connection in [*held, waiting]:
        connection.close()


def test_use_proxy_protocol(settings):
    world = settings()
    request = b"GET / HTTP/1.1\r\nHost: echo.example\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 7 443\r\n"

    def write(**data):  # not `settings`: it asks over plain HTTP whether they have come
        world.write("settings.json", [config_map("settings", {key.replace("_", "-"): value for key, value in data.items()}, namespace="system")])

    write(use_proxy_protocol="true")
    wait_until(lambda: b"192.0.2.7" in world.raw(header + request, half_close=False), what="the address of the header")
    assert world.raw(request, half_close=False) == b""
    write(use_proxy_protocol="true", proxy_protocol_header_timeout="300ms", server_tokens="true")
    wait_until(lambda: b"\r\nServer: moongate\r\n" in world.raw(header + request, half_close=False), what="the settings")

    def seconds():
        with socket.create_connection(("127.0.0.1", world.http_port), 10) as client:
            started = time.monotonic()
            assert client.recv(100) == b""
            return time.monotonic() - started

    assert 0.2 < seconds() < 2
    write()
    wait_until(lambda: world.raw(request, half_close=False).startswith(b"HTTP/1.1 200"), what="plain HTTP again")


def test_worker_shutdown_timeout(moongate, echo):
    """How long the end waits for requests that are in progress."""
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("a", "a.example")], "settings.json": [config_map("settings", {})]},
                     flags=["--configmap", "default/settings", "--post-shutdown-grace-period", "0"], expect_errors=["shut", "drain", "client left"])
    proxy.write("settings.json", [config_map("settings", {"worker-shutdown-timeout": "1s", "server-tokens": "true"})])
    proxy.wait_live("/", "a.example", lambda answer: answer.header("server") == "moongate")
    with socket.create_connection(("127.0.0.1", proxy.http_port), 10) as client:
        client.sendall(b"GET /sleep/30 HTTP/1.1\r\nHost: a.example\r\n\r\n")
        wait_until(lambda: proxy.metric("moongate_exchanges") == 1, what="the request")
        started = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        assert proxy.process.wait(20) == 0 and 0.9 < time.monotonic() - started < 6


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


def cipher_of(world, *offered):
    """The cipher of a TLS 1.2 handshake in which the client offers these; None if it fails."""
    context = ssl._create_unverified_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join(offered) + ":@SECLEVEL=0")
    try:
        with socket.create_connection(("127.0.0.1", world.https_port), 5) as raw, context.wrap_socket(raw, server_hostname="tls.example") as tls:
            return tls.cipher()[0]
    except (ssl.SSLError, ConnectionError):
        return None


GCM, CHACHA, CBC = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-ECDSA-AES128-SHA"


def test_ssl_ciphers(settings):
    world = settings()
    assert (cipher_of(world, CBC), cipher_of(world, CHACHA, GCM)) == (None, GCM), "the server's order"
    settings(ssl_ciphers=f"{CBC}:{CHACHA}")
    wait_until(lambda: cipher_of(world, CBC) == CBC, what="the cipher")
    assert (cipher_of(world, GCM), cipher_of(world, CHACHA)) == (None, CHACHA)
    long = ":".join([CBC] * 40 + [CHACHA])
    settings(ssl_ciphers=long)
    wait_until(lambda: cipher_of(world, CHACHA) == CHACHA, what="the end of a long list")
    settings(ssl_ciphers="NO-SUCH-CIPHER")
    wait_until(lambda: (cipher_of(world, CBC), cipher_of(world, CHACHA, GCM)) == (None, GCM), what="the default")
    assert wait_until(lambda: world.errors.find(r"ssl-ciphers.*the default is used"), what="the report")


def group_of(world, *offered):
    """The key exchange of a TLS 1.3 handshake in which the client offers these groups; None if it fails."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{world.https_port}", "-servername", "tls.example", "-tls1_3", "-groups", ":".join(offered)]
    said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10).stdout
    found = re.search(r"(?:(?:Server|Peer) Temp Key: (?:ECDH, )?|Negotiated TLS1.3 group: )([\w-]+)", said)
    return found and found.group(1).lower()


def test_ssl_ecdh_curve(settings):
    world = settings()
    assert group_of(world, "X25519") == "x25519" and group_of(world, "P-384")
    settings(ssl_ecdh_curve="secp384r1")
    wait_until(lambda: group_of(world, "X25519") is None, what="one curve alone")
    assert group_of(world, "X25519", "P-384") is not None
    settings(ssl_ecdh_curve="no-such-curve")
    wait_until(lambda: group_of(world, "X25519") == "x25519", what="the default")
    assert wait_until(lambda: world.errors.find(r"ssl-ecdh-curve.*the default is used"), what="the report")


def test_ssl_session_timeout(settings):
    world = settings()
    assert handshake(world, maximum_version=ssl.TLSVersion.TLSv1_2)[1].ticket_lifetime_hint == 600
    settings(ssl_session_timeout="2s")
    wait_until(lambda: handshake(world, maximum_version=ssl.TLSVersion.TLSv1_2)[1].ticket_lifetime_hint == 2, what="the hint")


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
