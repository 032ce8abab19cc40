"""CORS over real HTTP and HTTPS: preflights, answers of applications, redirects, refusals."""
import pytest
from harness import Echo, service, slice_of
from worlds import case, running

ORIGIN = "https://shop.example"


@pytest.fixture(scope="module")
def proxy():
    app = Echo("app")
    ingresses = [
        case("any.example", enable_cors="true"), case("some.example", enable_cors="true", cors_allow_origin="https://shop.example, https://*.shop.example:8443, origin.com"),
        case("denied.example", enable_cors="true", whitelist_source_range="10.0.0.0/8"), case("moved.example", enable_cors="true", permanent_redirect="https://other.example/"),
        case("tls.example", enable_cors="true", force_ssl_redirect="true"), case("off.example", enable_cors="false"),
        case("said.example", enable_cors="true", cors_allow_methods="GET", cors_allow_headers="X-A", cors_expose_headers="X-B", cors_max_age="60", cors_allow_credentials="false")]
    with running({"app.json": [service(), *slice_of([app.port])], "ingress.json": ingresses}, [app], expect_errors=["origin.com is not an origin", "cors-"]) as it:
        yield it


def ask(proxy, host, origin=ORIGIN, **more):
    answer = proxy.request("/status/404" if more.pop("missing", False) else "/", host, headers={"Origin": origin} if origin else {}, **more)
    return answer, answer.header("access-control-allow-origin")


def test_everybody(proxy):
    for method in ("GET", "POST", "OPTIONS"):
        answer, allowed = ask(proxy, "any.example", method=method)
        assert allowed == "*" and answer.header("access-control-allow-credentials") == "true" and answer.header("access-control-max-age") == "1728000"
        assert answer.status == (204 if method == "OPTIONS" else 200) and answer.header("content-length") != "0"
    answer, allowed = ask(proxy, "any.example", missing=True)
    assert (answer.status, allowed) == (404, "*")
    assert ask(proxy, "any.example", method="OPTIONS", https=True)[0].header("strict-transport-security")


def test_some(proxy):
    for origin in (ORIGIN, "https://a.shop.example:8443", "HTTPS://SHOP.example"):
        answer, allowed = ask(proxy, "some.example", origin, method="OPTIONS")
        assert (answer.status, allowed, answer.header("x-echo-name")) == (204, origin, None)
        answer, allowed = ask(proxy, "some.example", origin)
        assert (answer.status, allowed) == (200, origin)
    for origin in ("https://other.example", "https://a.shop.example", "https://a.b.shop.example:8443", None):
        answer, allowed = ask(proxy, "some.example", origin, method="OPTIONS")
        assert (answer.status, allowed, answer.header("access-control-allow-methods")) == (200, None, None)  # the application's own answer


def test_before_redirects_and_guards(proxy):
    for host, status in (("denied.example", 403), ("moved.example", 301), ("tls.example", 308)):
        answer, allowed = ask(proxy, host)
        assert (answer.status, allowed) == (status, "*")
        answer, allowed = ask(proxy, host, method="OPTIONS")
        assert (answer.status, allowed) == (204, "*")


def test_what_it_is_told_to_say(proxy):
    answer, _ = ask(proxy, "said.example")
    assert {name: answer.header("access-control-" + name) for name in ("allow-methods", "allow-headers", "expose-headers", "max-age", "allow-credentials")} == {
        "allow-methods": "GET", "allow-headers": "X-A", "expose-headers": "X-B", "max-age": "60", "allow-credentials": None}
    assert ask(proxy, "off.example")[1] is None and ask(proxy, "off.example", method="OPTIONS")[0].status == 200
