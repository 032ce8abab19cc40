"""The header fields that an application gets, and what is taken off its answers (controller-behaviour a7)."""
import re

import pytest
from harness import Echo, service, slice_of
from origin import Origin, answering
from worlds import case, running


@pytest.fixture(scope="module")
def proxy():
    app = Echo("app")
    origin = Origin(answering(b"HTTP/1.1 200 OK\r\nServer: theirs\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\nX-Kept: 1\r\nContent-Length: 0\r\n\r\n"))
    cases = [case("app.example"), case("vhost.example", upstream_vhost="inner.example"), case("origin.example", service_name="origin")]
    with running({"app.json": [service(), *slice_of([app.port]), service("origin"), *slice_of([origin.port], name="origin")], "ingress.json": cases}, [app]) as it:
        yield it
    origin.close()


@pytest.mark.parametrize("https, scheme, port", [(False, "http", None), (True, "https", "443")])
def test_fields_of_our_own(proxy, https, scheme, port):
    seen = proxy.echo("/a?b", "app.example:1234", https=https)["lower"]
    assert (seen["host"], seen["x-forwarded-host"]) == ("app.example:1234", "app.example:1234")
    assert {seen["x-forwarded-proto"], seen["x-forwarded-scheme"], seen["x-scheme"]} == {scheme}
    assert seen["x-forwarded-port"] == (port or str(proxy.http_port)) or (not https and seen["x-forwarded-port"] == "80")
    assert (seen["x-real-ip"], seen["x-forwarded-for"]) == ("127.0.0.1", "127.0.0.1")
    assert re.fullmatch(r"[0-9a-f]{32}", seen["x-request-id"])
    for name in ("x-original-uri", "x-original-forwarded-for", "x-forwarded-prefix", "connection", "upgrade", "x-original-forwarded-host"):
        assert name not in seen, name


def test_fields_that_a_client_cannot_forge(proxy):
    forged = {"X-Real-IP": "1.2.3.4", "X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Forwarded-Port": "1", "X-Forwarded-Scheme": "https",
              "X-Scheme": "https", "Proxy": "http://evil.example"}
    seen = proxy.echo("/", "app.example", headers=forged)["lower"]
    assert (seen["x-real-ip"], seen["x-forwarded-for"], seen["x-forwarded-host"]) == ("127.0.0.1", "127.0.0.1", "app.example")
    assert {seen["x-forwarded-proto"], seen["x-forwarded-scheme"], seen["x-scheme"]} == {"http"} and seen["x-forwarded-port"] != "1"
    assert (seen["x-original-forwarded-for"], seen["x-original-forwarded-host"]) == ("1.2.3.4", "evil.example")
    assert "proxy" not in seen


def test_what_passes_untouched(proxy):
    sent = {"Authorization": "Basic eDp5", "Cookie": "a=b; c=\"d e\"", "Accept-Encoding": "gzip, br", "X-Custom": "1,2", "Range": "bytes=0-1", "If-None-Match": '"x"', "User-Agent": "me/1.0"}
    seen = proxy.echo("/%41/b%2Fc//d/../e;x=1?q=%20+&&=", "app.example", headers=sent)
    assert {name: seen["lower"][name.lower()] for name in sent} == sent
    assert seen["path"] == "/%41/b%2Fc//d/../e;x=1?q=%20+&&="


def test_vhost_keeps_the_visitors_host_beside_it(proxy):
    seen = proxy.echo("/", "vhost.example:81")["lower"]
    assert (seen["host"], seen["x-forwarded-host"]) == ("inner.example", "vhost.example:81")


def test_answers_lose_server_and_keep_the_rest(proxy):
    answer = proxy.request("/", "origin.example")
    assert (answer.header("server"), answer.header("x-kept"), answer.header("date")) == (None, "1", "Mon, 01 Jan 2024 00:00:00 GMT")
    assert proxy.request("/", "nobody.example").header("server") is None
