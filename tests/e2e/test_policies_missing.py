"""Annotations that no policy declares: what guards is closed, the rest is served, and `check` tells them apart."""
import subprocess

import pytest
from harness import BINARY, Echo, service, slice_of
from worlds import PREFIX, case, running

GUARDS = {"auth-tls-secret": "default/ca", "auth-tls-match-cn": "CN=x",
          "auth-snippet": "x"}
HARMLESS = {"configuration-snippet": "deny all;", "limit-rps": "1", "global-rate-limit": "1", "enable-modsecurity": "true", "no-such-name": "1",
            "proxy-buffering": "on"}


def cases():
    made = []
    for name, value in {**GUARDS, **HARMLESS}.items():
        one = case(f"{name}.example")
        one["metadata"]["annotations"] = {PREFIX + name: value}
        made.append(one)
    empty = case("empty.example")
    empty["metadata"]["annotations"] = {PREFIX + "auth-tls-secret": ""}
    mixed = case("mixed.example", path=["/", "/other"])
    mixed["metadata"]["annotations"] = {"ingress.kubernetes.io/auth-tls-secret": "default/ca"}
    return [*made, empty, mixed, case("canary.example"), case("canary.example", path="/c", name="canary", canary="true", canary_weight="100")]


@pytest.fixture(scope="module")
def proxy():
    app = Echo("app")
    with running({"app.json": [service(), *slice_of([app.port])], "ingress.json": cases()}, [app], expect_errors=["its routes answer 503", "canary", "status=503"]) as it:
        yield it


@pytest.mark.parametrize("name", GUARDS)
def test_what_guards_is_closed(proxy, name):
    assert proxy.request("/", f"{name}.example").status == 503
    assert proxy.request("/", f"{name}.example", method="OPTIONS").status == 503


@pytest.mark.parametrize("name", [*HARMLESS, "empty", "canary"])
def test_the_rest_is_served(proxy, name):
    assert proxy.request("/", f"{name}.example").status == 200


def test_all_routes_under_any_prefix(proxy):
    assert [proxy.request(path, "mixed.example").status for path in ("/", "/other", "/else")] == [503, 503, 503]


def test_a_canary_takes_no_route(proxy):
    assert proxy.echo("/c", "canary.example")["name"] == "app"


def test_check_tells_them_apart(proxy):
    said = subprocess.run([BINARY, "check", str(proxy.manifests)], capture_output=True, text=True, timeout=60)
    text = said.stdout + said.stderr
    for name, what in (("enable-modsecurity", "is not yet supported"), ("configuration-snippet", "is nginx configuration text"), ("global-rate-limit", "is removed from ingress-nginx in v1.12.0"),
                       ("no-such-name", "is not a known annotation"), ("auth-tls-secret", "is not supported yet")):
        assert f"{name}: {what}" in text, text
