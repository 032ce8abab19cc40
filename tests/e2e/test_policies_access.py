"""Access lists and `satisfy`, over real HTTP: who the visitor is comes from X-Forwarded-For."""
import pytest
from harness import Echo, config_map, service, slice_of, wait_until
from worlds import case, running

INSIDE, OUTSIDE = "10.1.2.3", "192.0.2.1"
KEY = """
local policy = { name = "key", summary = "A guard.", guard = true, annotations = { key = { type = "string", doc = "x" } } }
function policy.attach(_, annotations) return { key = annotations.key } end
function policy.access(exchange, config)
  if exchange.request.headers:get("X-Key") == config.key then return exchange:allow() end
  return exchange:deny(401, "no key")
end
return policy
"""


def settings(**data):
    return [config_map("settings", {"use-forwarded-headers": "true", **{key.replace("_", "-"): value for key, value in data.items()}})]


@pytest.fixture(scope="module")
def proxy():
    app = Echo("app")
    ingresses = [
        case("allow.example", allowlist_source_range="10.0.0.0/8,2001:db8::/32"), case("old.example", whitelist_source_range="10.0.0.0/8"), case("deny.example", denylist_source_range="10.0.0.0/8"),
        case("both.example", allowlist_source_range="10.0.0.0/8", denylist_source_range="10.1.2.3"), case("wrong.example", path=["/", "/b"], allowlist_source_range="10.0.0/8"),
        case("any.example", allowlist_source_range="10.0.0.0/8", key="a", satisfy="any"), case("all.example", allowlist_source_range="10.0.0.0/8", key="a", satisfy="all"), case("plain.example"),
        case("redirect.example", allowlist_source_range="10.0.0.0/8", permanent_redirect="https://other.example/")]
    with running({"app.json": [service(), *slice_of([app.port])], "ingress.json": ingresses, "settings.json": settings()}, [app], policies={"key.lua": KEY},
                 flags=["--configmap", "default/settings"], expect_errors=["10.0.0/8, which is not|has the item 10.0.0/8", "status=503", "everybody"]) as it:
        yield it


def status(proxy, host, client=None, path="/", **headers):
    if client:
        headers["X-Forwarded-For"] = client
    return proxy.request(path, host, headers=headers).status


def test_lists(proxy):
    assert [status(proxy, "allow.example", client) for client in (INSIDE, OUTSIDE, "2001:db8::1", "2001:db9::1", None)] == [200, 403, 200, 403, 403]
    assert [status(proxy, "old.example", client) for client in (INSIDE, OUTSIDE)] == [200, 403]
    assert [status(proxy, "deny.example", client) for client in (INSIDE, OUTSIDE)] == [403, 200]
    assert [status(proxy, "both.example", client) for client in (INSIDE, "10.1.2.4", OUTSIDE)] == [403, 200, 403]
    assert [status(proxy, "wrong.example", INSIDE, path) for path in ("/", "/b")] == [503, 503]
    assert status(proxy, "redirect.example", OUTSIDE) == 301  # redirects come before, as in nginx


def test_satisfy(proxy):
    assert [status(proxy, "any.example", client, **headers) for client, headers in ((INSIDE, {}), (OUTSIDE, {"X-Key": "a"}), (OUTSIDE, {}), (INSIDE, {"X-Key": "b"}))] == [200, 200, 401, 200]
    assert [status(proxy, "all.example", client, **headers) for client, headers in ((INSIDE, {}), (OUTSIDE, {"X-Key": "a"}), (INSIDE, {"X-Key": "a"}))] == [401, 403, 200]


def test_lists_of_the_settings_are_live(proxy):
    def live(expected, **data):
        proxy.write("settings.json", settings(**data))
        wait_until(lambda: [status(proxy, "plain.example", client) for client in (INSIDE, "10.9.0.1", OUTSIDE)] == expected, what=str(data))

    live([200, 403, 403], whitelist_source_range="10.0.0.0/8", denylist_source_range="10.9.0.0/16")
    assert status(proxy, "old.example", INSIDE) == 200 and status(proxy, "old.example", OUTSIDE) == 403
    assert status(proxy, "any.example", "10.9.0.1", **{"X-Key": "a"}) == 200
    live([403, 200, 200], block_cidrs="10.1.0.0/16")
    assert status(proxy, "any.example", INSIDE, **{"X-Key": "a"}) == 403  # the controller's word stands
    proxy.write("settings.json", settings(denylist_source_range="everybody"))
    wait_until(lambda: proxy.errors.find("everybody.*access-lists goes on with the settings that it had"), what="what is wrong")
    live([403, 200, 200], denylist_source_range="everybody")
    live([200, 200, 200])
    live([503, 503, 503], denylist_source_range="everybody")  # nothing stood before
    live([200, 200, 200])
