"""Canaries over real HTTP: headers, cookies, weights, sessions, several of them, and what changes while requests run."""
import collections
import re

import pytest
from harness import Echo, service, slice_of, wait_until
from worlds import case, running


def canary(host, name, service_name, path="/", **annotations):
    return case(host, path=path, name=name, service_name=service_name, canary="true", **annotations)


@pytest.fixture(scope="module")
def proxy():
    apps = {name: Echo(name) for name in ("main", "new", "second")}
    objects = [item for name, app in apps.items() for item in (service(name), *slice_of([app.port], name=name))]
    ingresses = [
        case("rules.example", path=["/", "/other"], service_name="main"), canary("rules.example", "rules-new", "new", canary_by_header="X-Canary", canary_by_cookie="canary"),
        case("value.example", service_name="main"), canary("value.example", "value-new", "new", canary_by_header="X-Canary", canary_by_header_value="yes"),
        case("pattern.example", service_name="main"), canary("pattern.example", "pattern-new", "new", canary_by_header="X-Canary", canary_by_header_pattern="^[a-z]{3}$"),
        case("weight.example", service_name="main"), canary("weight.example", "weight-new", "new", canary_weight="40"),
        case("all.example", service_name="main"), canary("all.example", "all-new", "new", canary_weight="1000", canary_weight_total="1000"),
        case("several.example", service_name="main"), canary("several.example", "several-new", "new", canary_weight="50", canary_by_header="X-One"),
        canary("several.example", "several-second", "second", canary_weight="50", canary_by_header="X-Two"),
        case("sticky.example", service_name="main", affinity="cookie", session_cookie_name="s"), canary("sticky.example", "sticky-new", "new", canary_by_header="X-Canary"),
        case("legacy.example", service_name="main", affinity="cookie", session_cookie_name="s"),
        canary("legacy.example", "legacy-new", "new", canary_by_header="X-Canary", affinity_canary_behavior="legacy"),
        case("gone.example", service_name="main"), canary("gone.example", "gone-new", "gone", canary_weight="100"), service("gone"),
        canary("alone.example", "alone-new", "new", canary_weight="100")]
    with running({"app.json": objects, "ingress.json": ingresses}, apps.values(), flags=["--enable-metrics"], expect_errors=["alone.example", "Service default/gone"]) as it:
        yield it


def served(proxy, host, path="/", **headers):
    return proxy.request(path, host, headers=headers).header("x-echo-name")


def test_header_and_cookie(proxy):
    def ask(**headers):
        return served(proxy, "rules.example", **{name.replace("_", "-"): value for name, value in headers.items()})

    assert [ask(X_Canary=value) for value in ("always", "never", "other")] == ["new", "main", "main"]
    assert [ask(Cookie=f"canary={value}") for value in ("always", "never", "other")] == ["new", "main", "main"]
    assert [ask(X_Canary=header, Cookie=f"canary={cookie}") for header, cookie in (("never", "always"), ("always", "never"), ("x", "always"))] == ["main", "new", "new"]
    assert ask() == "main" and served(proxy, "rules.example", "/other", **{"X-Canary": "always"}) == "main"  # that rule has no canary
    assert served(proxy, "rules.example", "/below", **{"X-Canary": "always"}) == "new"


def test_value_and_pattern(proxy):
    assert [served(proxy, "value.example", **{"X-Canary": value}) for value in ("yes", "Yes", "always")] == ["new", "main", "main"]
    assert [served(proxy, "pattern.example", **{"X-Canary": value}) for value in ("abc", "abcd", "always")] == ["new", "main", "main"]


def test_weight(proxy):
    seen = collections.Counter(served(proxy, "weight.example") for _ in range(300))
    assert 70 < seen["new"] < 170 and seen["new"] + seen["main"] == 300
    assert {served(proxy, "all.example") for _ in range(20)} == {"new"}


def test_several(proxy):
    assert served(proxy, "several.example", **{"X-One": "always"}) == "new" and served(proxy, "several.example", **{"X-Two": "always"}) == "second"
    seen = collections.Counter(served(proxy, "several.example") for _ in range(200))
    assert set(seen) == {"new", "second"} and min(seen.values()) > 50
    assert {served(proxy, "several.example", **{"X-One": "never", "X-Two": "never"}) for _ in range(5)} == {"main"}


def test_sessions_stay(proxy):
    def begin(host, header):
        answer = proxy.request("/", host, headers={"X-Canary": header})
        return answer.header("x-echo-name"), (answer.header("set-cookie") or "").split(";")[0]

    for header, side in (("always", "new"), ("never", "main")):
        name, cookie = begin("sticky.example", header)
        assert name == side and cookie.startswith("s=")
        for other in ("always", "never", "x"):
            answer = proxy.request("/", "sticky.example", headers={"X-Canary": other, "Cookie": cookie})
            assert (answer.header("x-echo-name"), answer.header("set-cookie")) == (side, None)
    assert begin("legacy.example", "always") == ("new", "")
    name, cookie = begin("legacy.example", "never")
    assert name == "main" and served(proxy, "legacy.example", **{"X-Canary": "always", "Cookie": cookie}) == "main"
    assert served(proxy, "legacy.example", Cookie=begin("sticky.example", "always")[1]) == "main"


def test_a_canary_that_cannot_serve_and_one_without_a_rule(proxy):
    assert {served(proxy, "gone.example") for _ in range(5)} == {"main"}
    assert proxy.request("/", "alone.example").status == 404


def test_who_served_is_written_down(proxy):
    assert served(proxy, "all.example", "/written") == "new"
    line = wait_until(lambda: proxy.access.find(r"GET /written .*"), what="the log").group(0)
    assert "[default-main-80] [default-new-80]" in line
    found = [one for one in re.findall(r"nginx_ingress_controller_requests\{.*?\}", proxy.admin("/metrics").text) if 'host="all.example"' in one and 'canary="default-new-80"' in one]
    assert found and 'ingress="all-example"' in found[0] and 'service="main"' in found[0]


def test_a_release_in_steps(moongate, echo):
    main, new = echo("main"), echo("new")
    objects = [service("main"), *slice_of([main.port], name="main"), service("new"), *slice_of([new.port], name="new"), case("shop.example", service_name="main")]
    proxy = moongate({"app.json": objects}, expect_errors=["canary"])

    def step(weight):
        proxy.write("canary.json", [canary("shop.example", "shop-new", "new", canary_weight=str(weight))])

    assert served(proxy, "shop.example") == "main"
    step(100)
    wait_until(lambda: served(proxy, "shop.example") == "new", what="the canary")
    step(0)
    wait_until(lambda: served(proxy, "shop.example") == "main", what="the way back")
    step(50)
    wait_until(lambda: {served(proxy, "shop.example") for _ in range(10)} == {"main", "new"}, what="both")
    proxy.remove("canary.json")
    wait_until(lambda: {served(proxy, "shop.example") for _ in range(10)} == {"main"}, what="the end of the canary")
