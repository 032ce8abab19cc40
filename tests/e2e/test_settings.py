"""The ConfigMap: what is written down, header fields, client addresses, redirects; each key changed live."""
import json
import re

import pytest
from harness import wait_until
from settings_world import MARK, settings, world  # noqa: F401: fixtures
from worlds import case


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


def test_log_format_escape_none(settings):
    world = settings(log_format_upstream="$request_uri <$http_user_agent> <$http_nothing>", log_format_escape_none="true")
    path = unique()
    world.request(path, "echo.example", headers={"User-Agent": 'a"\\b'})
    assert line_of(world, path) == f'{path} <a"\\b> <>'


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


# ---- a guard that no policy can keep

def test_a_guard_of_nginx_text_closes_every_route(settings):
    world = settings(global_auth_url="http://auth.example/", global_auth_snippet="deny all;")
    wait_until(lambda: {world.request("/", host).status for host in ("echo.example", "origin.example", "named.example")} == {503}, what="503")
    settings()
    wait_until(lambda: world.request("/", "echo.example").status == 200, what="open again")


def test_a_bad_value_keeps_the_default_and_is_reported(settings):
    world = settings(keep_alive_requests="many", nonsense="1")
    assert wait_until(lambda: world.errors.find(r"keep-alive-requests.*whole number"), what="the report") and wait_until(lambda: world.errors.find("nonsense.*not a known setting"), what="the other")
    assert world.echo("/", "echo.example")
