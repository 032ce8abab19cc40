"""The ConfigMap: each key changed live, in front of one proxy and one application. `settings` writes the whole map and waits until it stands."""
import http.client
import itertools
import json
import re
import socket
import ssl
import time

import pytest
from harness import Echo, certificate, config_map, service, slice_of, tls_secret, wait_until
from origin import Origin
from worlds import case, running

MARK = itertools.count(1)


def upstream(origin, connection):
    """Answers with what it saw, and with fields that settings hide."""
    while True:
        head = connection.read_head()
        found = re.search(rb"content-length: (\d+)", head.lower())
        if found:
            connection.read_exactly(int(found.group(1)))
        if b" /slow" in head:
            time.sleep(1.3)
        connection.send(b"HTTP/1.1 200 OK\r\nServer: theirs\r\nX-Powered-By: them\r\nX-Secret: 1\r\nSet-Cookie: a=b; Domain=in.example; Path=/in\r\nLocation: http://in.example/\r\n"
                        + b"Content-Length: %d\r\n\r\n" % len(head) + head)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    origin, app = Origin(upstream), Echo("app")
    pem, key = certificate(tmp_path_factory.mktemp("certificates"), "tls", ["tls.example"])
    cases = [case("echo.example", service_name="app"), case("origin.example", service_name="origin", path="/"), case("tls.example", service_name="app", more={"tls": "tls"}),
             case("named.example", path="/a/b", service_name="app"), case("own.example", service_name="app", proxy_body_size="2k")]
    manifests = {"app.json": [service("app"), *slice_of([app.port], name="app"), service("origin"), *slice_of([origin.port], name="origin"), tls_secret("tls", pem, key)],
                 "ingress.json": cases, "settings.json": [config_map("settings", {}, namespace="system"), config_map("extra", {"X-Extra": "$host-$request_method", "X-Forwarded-For": "set", "X-Empty": ""},
                                                                                                                     namespace="system")]}
    with running(manifests, [app], flags=["--configmap", "system/settings"], workers=1, expect_errors=[r"setting=", r"ConfigMap system/", r"status=50[34]", r"timed out", r"its routes answer 503"]) as proxy:
        proxy.origin, proxy.app = origin, app
        yield proxy
    origin.close()


@pytest.fixture
def settings(world):
    """settings(key="value", ...): writes them; `_` stands for `-`. What was set is gone after the test."""
    def write(**values):
        mark = f"mark-{next(MARK)}"
        data = {key.replace("_", "-"): value for key, value in values.items()}
        extra = config_map("extra", {"X-Extra": "$host-$request_method", "X-Forwarded-For": "set", "X-Empty": ""}, namespace="system")
        # hosts follow settings; the marker's route tells that both have come
        world.write("settings.json", [config_map("settings", data, namespace="system"), extra, case(f"{mark}.example", service_name="app")])
        wait_until(lambda: world.request("/", f"{mark}.example").status != 404, what="the settings")
        time.sleep(0.03)
        return world

    yield write
    write()


def line_of(world, path):
    return wait_until(lambda: world.access.find(rf".*{re.escape(path)}.*"), what=f"the line of {path}").group(0)


def unique(prefix="/n"):
    return f"{prefix}{next(MARK)}"


# ---- what is written down

def test_access_log_format_json(settings):
    world = settings(access_log_format="json")
    path = unique("/a/b/")
    world.request(path + "?q=%22", "named.example", method="POST", body=b"12345", headers={"User-Agent": 'a"b\\c\u00e9', "Referer": "http://r/"})
    line = json.loads(line_of(world, path))
    assert {key: line[key] for key in ("method", "host", "uri", "protocol", "status", "namespace", "ingress", "service", "service_port", "path", "upstream", "endpoint", "upstream_status", "scheme", "client",
                                       "referer")} == {
        "method": "POST", "host": "named.example", "uri": path + "?q=%22", "protocol": "HTTP/1.1", "status": 200, "namespace": "default", "ingress": "named-example", "service": "app",
        "service_port": "80", "path": "/a/b", "upstream": "default-app-80", "endpoint": f"127.0.0.1:{world.app.port}", "upstream_status": "200", "scheme": "http", "client": "127.0.0.1",
        "referer": "http://r/"}
    assert line["request_bytes"] > 100 and line["body_bytes"] > 50 and 0 <= line["duration"] < 5 and re.fullmatch(r"[0-9a-f]{32}", line["request_id"])


def test_log_format_upstream(settings):
    world = settings(log_format_upstream='$remote_addr "$request" $status [$namespace/$ingress_name/$service_name:$service_port$location_path] $http_x_one $arg_a $cookie_c $sent_http_x_echo_name $host $scheme $$ '
                                         '$upstream_addr $nosuch')
    path = unique("/a/b/")
    world.request(path + "?a=1", "named.example", headers={"X-One": 'quo"te', "Cookie": "c=2"})
    assert line_of(world, path).startswith(f'127.0.0.1 "GET {path}?a=1 HTTP/1.1" 200 [default/named-example/app:80/a/b] quo\\x22te 1 2 app named.example http ') is True


def test_log_format_escape_json(settings):
    world = settings(log_format_upstream='{"uri": "$request_uri", "agent": "$http_user_agent", "none": "$http_nothing"}', log_format_escape_json="true")
    path = unique()
    world.request(path, "echo.example", headers={"User-Agent": 'a"\\b'})
    assert json.loads(line_of(world, path)) == {"uri": path, "agent": 'a"\\b', "none": ""}


def test_skip_access_log_urls_and_disable_access_log(settings):
    quiet, loud = unique("/quiet"), unique("/loud")
    world = settings(skip_access_log_urls=f"/other,{quiet}")
    world.request(quiet, "echo.example")
    world.request(loud, "echo.example")
    line_of(world, loud)
    assert not world.access.find(re.escape(quiet) + r"\b")
    settings(disable_access_log="true")
    silent, after = unique("/silent"), unique("/after")
    world.request(silent, "echo.example")
    settings()
    world.request(after, "echo.example")
    line_of(world, after)
    assert not world.access.find(re.escape(silent) + r"\b")


def test_the_default_backend_is_logged_on_request(settings):
    world = settings()
    quiet, loud = unique("/unlogged"), unique("/logged")
    world.request(quiet, "nobody.example")
    settings(enable_access_log_for_default_backend="true")
    world.request(loud, "nobody.example")
    line_of(world, loud)
    assert not world.access.find(re.escape(quiet) + r"\b")


def test_error_log_level(settings):
    def warnings(world):
        return len([line for line in world.errors.all() if "its routes answer 503" in line or "answered with an error" in line])

    world = settings(error_log_level="error")
    before = warnings(world)
    world.write("more.json", [case("dead.example", service_name="nowhere")])
    world.wait_live("/", "dead.example", lambda answer: answer.status == 503)
    assert warnings(world) == before
    settings(error_log_level="warn")
    world.request("/", "dead.example")
    wait_until(lambda: warnings(world) > before, what="warnings again")
    world.remove("more.json")


# ---- header fields

def test_header_maps(settings):
    world = settings(proxy_set_headers="system/extra", add_headers="extra")
    seen = world.echo("/", "echo.example")
    assert seen["lower"]["x-extra"] == "echo.example-GET" and seen["lower"]["x-forwarded-for"] == "set" and "x-empty" not in seen["lower"]
    assert seen["answer"].header("x-extra") == "echo.example-GET"
    settings(add_headers="system/nowhere")
    assert world.echo("/", "echo.example")["answer"].header("x-extra") is None


def test_hide_headers_and_server(settings):
    world = settings(hide_headers="X-Powered-By, x-secret")
    answer = world.request("/", "origin.example")
    assert (answer.header("x-powered-by"), answer.header("x-secret"), answer.header("server")) == (None, None, None)
    settings(allow_backend_server_header="true")
    answer = world.request("/", "origin.example")
    assert (answer.header("x-powered-by"), answer.header("server")) == ("them", "theirs")


def test_underscores_in_headers(settings):
    world = settings()
    assert "a_b" not in world.echo("/", "echo.example", headers={"a_b": "1"})["lower"]
    settings(enable_underscores_in_headers="true")
    assert world.echo("/", "echo.example", headers={"a_b": "1"})["lower"]["a_b"] == "1"


def test_request_ids(settings):
    world = settings()
    assert world.echo("/", "echo.example", headers={"X-Request-ID": "mine"})["lower"]["x-request-id"] == "mine"
    settings(generate_request_id="false")
    assert "x-request-id" not in world.echo("/", "echo.example")["lower"]
    assert world.echo("/", "echo.example", headers={"X-Request-ID": "mine"})["lower"]["x-request-id"] == "mine"


# ---- who the client is

FORWARDED = {"X-Forwarded-For": "203.0.113.7, 10.1.2.3", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "outer.example", "X-Forwarded-Port": "8443"}


def forwarded(world, headers=None):
    seen = world.echo("/", "echo.example", headers=FORWARDED if headers is None else headers)["lower"]
    return tuple(seen.get(name) for name in ("x-real-ip", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-original-forwarded-for"))


def test_forwarded_headers_are_not_trusted_by_default(settings):
    world = settings()
    assert forwarded(world) == ("127.0.0.1", "127.0.0.1", "http", "echo.example", "80", "203.0.113.7, 10.1.2.3") or forwarded(world)[4] == str(world.http_port)
    assert forwarded(world)[:4] == ("127.0.0.1", "127.0.0.1", "http", "echo.example")


@pytest.mark.parametrize("data, seen", [
    ({"use_forwarded_headers": "true"}, ("203.0.113.7", "203.0.113.7", "https", "outer.example", "8443")),
    ({"use_forwarded_headers": "true", "proxy_real_ip_cidr": "127.0.0.1/32"}, ("10.1.2.3", "10.1.2.3", "https", "outer.example", "8443")),
    ({"use_forwarded_headers": "true", "proxy_real_ip_cidr": "127.0.0.1, 10.0.0.0/8"}, ("203.0.113.7", "203.0.113.7", "https", "outer.example", "8443")),
    ({"use_forwarded_headers": "true", "compute_full_forwarded_for": "true"}, ("203.0.113.7", "203.0.113.7, 10.1.2.3, 127.0.0.1", "https", "outer.example", "8443")),
    ({"compute_full_forwarded_for": "true"}, ("127.0.0.1", "127.0.0.1", "http", "echo.example")),
    ({"use_forwarded_headers": "true", "proxy_real_ip_cidr": "192.0.2.0/24"}, ("127.0.0.1", "127.0.0.1")),
    ({"enable_real_ip": "true"}, ("203.0.113.7", "203.0.113.7", "http", "echo.example")),
    ({"enable_real_ip": "true", "proxy_real_ip_cidr": "192.0.2.0/24"}, ("127.0.0.1", "127.0.0.1", "http", "echo.example")),
])
def test_client_address(settings, data, seen):
    assert forwarded(settings(**data))[:len(seen)] == seen


def test_forwarded_for_header(settings):
    world = settings(use_forwarded_headers="true", forwarded_for_header="CF-Connecting-IP")
    assert forwarded(world, {"CF-Connecting-IP": "198.51.100.1", "X-Forwarded-For": "203.0.113.7"})[:2] == ("198.51.100.1", "198.51.100.1")


def test_forwarded_proto_counts_for_redirects(settings):
    world = settings(use_forwarded_headers="true")
    assert world.request("/", "tls.example").status == 308
    assert world.request("/", "tls.example", headers={"X-Forwarded-Proto": "https"}).status == 200


# ---- redirects and HSTS

def test_redirect_settings(settings):
    world = settings()
    assert world.request("/", "tls.example").status == 308
    settings(http_redirect_code="301")
    assert world.request("/", "tls.example").status == 301
    settings(http_redirect_code="418")
    assert world.request("/", "tls.example").status == 308
    settings(ssl_redirect="false")
    assert world.request("/", "tls.example").status == 200
    settings(force_ssl_redirect="true")
    assert world.request("/a/", "echo.example").header("location") == "https://echo.example/a"
    settings(force_ssl_redirect="true", preserve_trailing_slash="true", no_tls_redirect_locations="/plain,/other")
    assert world.request("/a/", "echo.example").header("location") == "https://echo.example/a/"
    assert world.request("/plain/x", "echo.example").status == 200
    assert world.request("/.well-known/acme-challenge/x", "echo.example").status == 308


@pytest.mark.parametrize("data, value", [
    ({}, "max-age=31536000; includeSubDomains"), ({"hsts": "false"}, None), ({"hsts_max_age": "60"}, "max-age=60; includeSubDomains"), ({"hsts_include_subdomains": "false"}, "max-age=31536000"),
    ({"hsts_preload": "true"}, "max-age=31536000; includeSubDomains; preload"), ({"hsts_max_age": "soon"}, "max-age=31536000; includeSubDomains"),
])
def test_hsts(settings, data, value):
    assert settings(**data).request("/", "tls.example", https=True).header("strict-transport-security") == value


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


# ---- guards that no policy keeps yet

@pytest.mark.parametrize("key", ["global_auth_url", "whitelist_source_range", "denylist_source_range"])
def test_guards_without_a_policy_close_every_route(settings, key):
    world = settings(**{key: "http://auth.example/" if "url" in key else "10.0.0.0/8"})
    wait_until(lambda: {world.request("/", host).status for host in ("echo.example", "origin.example", "named.example")} == {503}, what="503")
    settings()
    wait_until(lambda: world.request("/", "echo.example").status == 200, what="open again")


def test_a_bad_value_keeps_the_default_and_is_reported(settings):
    world = settings(keep_alive_requests="many", nonsense="1")
    assert wait_until(lambda: world.errors.find(r"keep-alive-requests.*whole number"), what="the report") and wait_until(lambda: world.errors.find("nonsense.*not a known setting"), what="the other")
    assert world.echo("/", "echo.example")
