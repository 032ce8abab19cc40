"""The ConfigMap: what policies read of it, and what decides about annotations; each key changed live."""
import socket
import threading
import time

import pytest
from harness import Echo, config_map, service, slice_of, wait_until
from origin import Origin, answering
from settings_world import settings  # noqa: F401: fixture
from worlds import case, running

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def reads_heads_only(_, connection):
    connection.read_head()
    time.sleep(5)


def full_listener():
    """A listener that takes no connection: its queue is full, so that connecting goes on for ever."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    held = []
    for _ in range(4):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(listener.getsockname())
        held.append(one)
    return listener, held


@pytest.fixture(scope="module")
def world():
    app, other = Echo("app"), Echo("other")
    origins = {"fine": Origin(answering(OK)), "busy": Origin(answering(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n")), "deaf": Origin(reads_heads_only),
               "long": Origin(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + b"a" * 4000 + b"\r\n\r\n"))}
    full, held = full_listener()
    objects = [service("app"), *slice_of([app.port], name="app"), service("two"), *slice_of([app.port, other.port], name="two"), service("mixed"),
               *slice_of([origins["fine"].port, origins["busy"].port], name="mixed"), service("fine"), *slice_of([origins["fine"].port], name="fine"), service("deaf"),
               *slice_of([origins["deaf"].port], name="deaf"), service("long"), *slice_of([origins["long"].port], name="long"), service("full"), *slice_of([full.getsockname()[1]], name="full"),
               service("cluster", port=other.port, clusterIP="127.0.0.1"), *slice_of([app.port], name="cluster"),
               config_map("headers", {"X-One": "1"}), config_map("headers", {"X-One": "theirs"}, namespace="elsewhere")]
    cases = [case("app.example", service_name="app"), case("two.example", service_name="two"), case("mixed.example", service_name="mixed"), case("fine.example", service_name="fine"),
             case("deaf.example", service_name="deaf"), case("full.example", service_name="full"), case("long.example", service_name="long"), case("cluster.example", service_name="cluster", more={"port": other.port}),
             case("headers.example", service_name="app", custom_headers="headers"), case("foreign.example", service_name="app", custom_headers="elsewhere/headers"),
             case("medium.example", service_name="app", force_ssl_redirect="true"), case("moved.example", service_name="app", permanent_redirect="/moved"),
             case("slash.example", service_name="app", path="/p/"), case("bare.example", service_name="app", from_to_www_redirect="true")]
    manifests = {"app.json": objects, "ingress.json": cases, "settings.json": [config_map("settings", {}, namespace="system")]}
    expected = [r"setting=", r"ConfigMap system/", r"custom-headers", r"host=(headers|foreign|medium|full|deaf|mixed|long).example", r"timed out", r"risk", r"status=50[234]", r"endpoint"]
    with running(manifests, [app, other], flags=["--configmap", "system/settings"], workers=1, expect_errors=expected) as proxy:
        proxy.origins, proxy.app, proxy.other = origins, app, other
        yield proxy
    for one in origins.values():
        one.close()
    for one in [full, *held]:
        one.close()


# ---- how applications are asked

def test_load_balance(settings):
    """While one endpoint works on a request, `least_connections` leaves it alone and turns do not."""
    world = settings()

    def names_beside_a_slow_request():
        with socket.create_connection(("127.0.0.1", world.http_port), 10) as slow:
            slow.sendall(b"GET /sleep/1 HTTP/1.1\r\nHost: two.example\r\nConnection: close\r\n\r\n")
            wait_until(lambda: world.metric("moongate_exchanges") == 1, what="the slow request")
            names = {world.request("/", "two.example").header("x-echo-name") for _ in range(8)}
            slow.recv(4096)
        return len(names)

    assert names_beside_a_slow_request() == 2
    settings(load_balance="least_connections")
    assert names_beside_a_slow_request() == 1
    settings(load_balance="fastest")
    assert names_beside_a_slow_request() == 2


def statuses(world, method="GET"):
    return {world.request("/", "mixed.example", method=method, body=b"" if method == "POST" else None).status for _ in range(6)}


def test_next_upstream(settings):
    world = settings()
    assert statuses(world) == {200, 503}
    settings(proxy_next_upstream="error timeout http_503")
    assert statuses(world) == {200} and statuses(world, "POST") == {200, 503}
    settings(proxy_next_upstream="error timeout http_503", retry_non_idempotent="true")
    assert statuses(world, "POST") == {200}
    settings(proxy_next_upstream="error timeout http_503", proxy_next_upstream_tries="1")
    assert statuses(world) == {200, 503}


def asked_after(world, sent):
    """Whether the application was asked while the client still holds back the last byte of its body."""
    origin = world.origins["fine"]
    before = len(origin.heads)
    with socket.create_connection(("127.0.0.1", world.http_port), 5) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: fine.example\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (sent + 1) + b"x" * sent)
        end = time.monotonic() + 0.3
        while len(origin.heads) == before and time.monotonic() < end:
            time.sleep(0.005)
        asked = len(origin.heads) > before
        client.sendall(b"y")
        assert client.recv(4096).startswith(b"HTTP/1.1 200")
    return asked


def test_request_buffering(settings):
    world = settings()
    assert not asked_after(world, 3000)
    settings(proxy_request_buffering="off")
    assert asked_after(world, 3000)
    settings(client_body_buffer_size="2k")
    assert asked_after(world, 3000) and not asked_after(world, 1000)


@pytest.mark.parametrize("key, host, body", [("proxy_connect_timeout", "full.example", None), ("proxy_send_timeout", "deaf.example", b"x" * (16 << 20))])
def test_timeouts(settings, key, host, body):
    world = settings(**{key: "1", "proxy_next_upstream": "off", "proxy_body_size": "0"})
    started = time.monotonic()
    try:
        status = world.request("/", host, method="POST" if body else "GET", body=body, timeout=20).status
    except (BrokenPipeError, ConnectionResetError):
        status = 504  # the answer came while the body was being sent
    assert status == 504 and 0.9 < time.monotonic() - started < 4


def test_proxy_buffer_size(settings):
    world = settings()
    assert world.request("/", "fine.example").status == 200
    settings(proxy_buffer_size="32")
    assert world.request("/", "fine.example").status == 200, "less than any head: the default is used"
    settings(proxy_buffer_size="1k")
    assert (world.request("/", "fine.example").status, world.request("/", "long.example").status) == (200, 502)
    settings(proxy_buffer_size="8k")
    assert world.request("/", "long.example").status == 200


def test_service_upstream(settings):
    world = settings()
    assert world.request("/", "cluster.example").header("x-echo-name") == "app"
    settings(service_upstream="true")
    world.wait_live("/", "cluster.example", lambda answer: answer.header("x-echo-name") == "other")
    settings()
    world.wait_live("/", "cluster.example", lambda answer: answer.header("x-echo-name") == "app")


# ---- what a visitor gets

def test_redirects(settings):
    world = settings()
    assert world.request("/", "moved.example").header("location") == "http://moved.example/moved"
    assert world.request("/p?a=b", "slash.example").header("location") == "http://slash.example/p/?a=b"
    settings(relative_redirects="true")
    assert world.request("/", "moved.example").header("location") == "/moved"
    assert world.request("/p?a=b", "slash.example").header("location") == "/p/?a=b"
    settings(use_port_in_redirects="true")
    assert world.request("/", "moved.example").header("location") == f"http://moved.example:{world.http_port}/moved"
    assert world.request("/p", "slash.example").header("location") == f"http://slash.example:{world.http_port}/p/"
    assert world.request("/a", "medium.example").header("location") == f"https://medium.example:{world.https_port}/a"


@pytest.mark.parametrize("headers, location", [
    ({"X-Forwarded-Proto": "https", "X-Forwarded-Port": "8443"}, "https://bare.example:8443/a"), ({"X-Forwarded-Proto": "https"}, "https://bare.example:443/a"),
    ({"X-Forwarded-Port": "81"}, "http://bare.example:81/a"),
])
def test_www_redirects_follow_trusted_fields(settings, headers, location):
    world = settings()
    assert world.request("/a", "www.bare.example", headers=headers).header("location") == f"http://bare.example:{world.http_port}/a"
    settings(use_forwarded_headers="true")
    assert world.request("/a", "www.bare.example", headers=headers).header("location") == location


def test_server_tokens(settings):
    world = settings()
    assert world.request("/", "app.example").header("server") is None
    settings(server_tokens="true")
    assert [world.request("/", host).header("server") for host in ("app.example", "moved.example", "nobody.example")] == ["moongate"] * 3


# ---- what annotations may say

def test_global_allowed_response_headers(settings):
    world = settings()
    assert world.request("/", "headers.example").status == 503
    settings(global_allowed_response_headers="X-One")
    assert world.request("/", "headers.example").header("x-one") == "1"


def test_allow_cross_namespace_resources(settings):
    world = settings(global_allowed_response_headers="X-One")
    assert world.request("/", "foreign.example").status == 503
    settings(global_allowed_response_headers="X-One", allow_cross_namespace_resources="true")
    assert world.request("/", "foreign.example").header("x-one") == "theirs"


def test_annotations_risk_level(settings):
    world = settings()
    assert world.request("/", "medium.example").status == 308
    settings(annotations_risk_level="Low")
    world.wait_live("/", "medium.example", lambda answer: answer.status == 503)
    settings(annotations_risk_level="medium")
    world.wait_live("/", "medium.example", lambda answer: answer.status == 308)
