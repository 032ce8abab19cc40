"""affinity and load-balance, over real HTTP. Endpoints are told apart by the echo's name."""
import email.utils
import hashlib
import re
import signal
import time

import pytest
from harness import Echo, ingress, service, slice_of, wait_until
from origin import Origin
from worlds import PREFIX, case, named, running

STICKY = {"affinity": "cookie"}


def own(host, **more):
    """An Ingress with a Service of its own: stickiness is the upstream's, so that two Ingresses of one Service would share it."""
    return case(host, service_name=host.partition(".")[0], **more)


CASES = [
    case("default.example", **STICKY),
    own("sha1.example", **STICKY, session_cookie_hash="sha1"),
    own("index.example", **STICKY, session_cookie_hash="index"),
    own("all.example", **STICKY, session_cookie_name="S", session_cookie_path="/p", session_cookie_domain="all.example", session_cookie_max_age="60",
         session_cookie_expires="120", session_cookie_secure="true", session_cookie_samesite="Strict"),
    own("paths.example", path=["/something", "/somewhereelse"], **STICKY),
    own("insecure.example", **STICKY, session_cookie_secure="false"),
    own("samesite.example", **STICKY, session_cookie_samesite="lax"),
    own("none.example", **STICKY, session_cookie_samesite="None", session_cookie_conditional_samesite_none="true"),
    own("bad-age.example", **STICKY, session_cookie_max_age="an hour", session_cookie_expires="1h"),
    own("bad-name.example", **STICKY, session_cookie_name="a b"),
    own("bad-samesite.example", **STICKY, session_cookie_samesite="Always"),
    own("capital.example", affinity="Cookie"),
    own("mode-alone.example", affinity_mode="persistent", session_cookie_name="x"),
    own("balanced.example", **STICKY, affinity_mode="balanced", session_cookie_name="ring"),
    own("aliased.example", **STICKY, server_alias="other-name.example, *.wild-alias.example"),
    case("shared.example", path="/sticky", **STICKY),
    case("shared.example", path="/free", name="shared-free"),
    case("zero.example", service_name="empty", **STICKY),
    own("nine.example", **STICKY, session_cookie_max_age="-1"),
    own("regex.example", path="/re/.*", path_type="ImplementationSpecific", use_regex="true", session_cookie_path="/re", **STICKY),
    case("sharer.example", service_name="balanced"),
    case("sharer-other.example", service_name="sha1", session_cookie_name="unread", session_cookie_hash="index"),
    case("hash.example", service_name="hashed", upstream_hash_by="$request_uri", load_balance="ewma"),
    case("hash-subset.example", service_name="subset", upstream_hash_by="$arg_key", upstream_hash_by_subset="true", upstream_hash_by_subset_size="2"),
    case("hash-sticky.example", service_name="both", upstream_hash_by="$host", **STICKY),
    case("ewma.example", service_name="quick", load_balance="ewma"),
    case("least.example", service_name="least", load_balance="least_connections"),
    case("bad-balance.example", service_name="bad", load_balance="fastest"),
]


@pytest.fixture(scope="module")
def world():
    apps = [Echo(f"pod-{n}") for n in range(4)]
    objects = [service("empty")]
    for name in sorted({path["backend"]["service"]["name"] for one in CASES for path in one["spec"]["rules"][0]["http"]["paths"]} - {"empty"}):
        objects += [service(name), *slice_of([app.port for app in apps], name=name)]
    expected = [r"session-cookie", r"annotation=affinity", r"affinity: Cookie", r"Service default/empty", r"host=zero.example", r"load-balance", r"affinity-mode", r"host=zero"]
    with running({"app.json": objects, "ingress.json": CASES}, apps, expect_errors=expected) as proxy:
        proxy.apps = apps
        yield proxy


def cookies(answer):
    return answer.all("set-cookie")


def upstream_key(name="default-echoheaders-80"):
    def md5(text):
        return hashlib.md5(text.encode()).hexdigest()

    return md5(md5(name) + name)


def new_session(proxy, host, path="/", name="INGRESSCOOKIE", **more):
    answer = proxy.request(path, host, **more)
    found = re.match(rf"{re.escape(name)}=([^;]+)", (cookies(answer) or [""])[0])
    assert found, (host, answer.status, answer.headers)
    return answer, found.group(1)


def test_the_cookie_names_endpoint_and_upstream(world):
    answer, value = new_session(world, "default.example")
    key, of = value.split("|")
    owner = next(app for app in world.apps if app.name == answer.header("x-echo-name"))
    assert key == hashlib.md5(f"default-echoheaders-80127.0.0.1:{owner.port}".encode()).hexdigest()
    assert of == upstream_key()
    assert cookies(answer)[0] == f"INGRESSCOOKIE={value}; Path=/; HttpOnly"


def test_session_cookie_hash(world):
    answer, value = new_session(world, "sha1.example")
    owner = next(app for app in world.apps if app.name == answer.header("x-echo-name"))
    assert value.split("|")[0] == hashlib.sha1(f"default-sha1-80127.0.0.1:{owner.port}".encode()).hexdigest()
    for _ in range(4):
        answer, value = new_session(world, "index.example")
        assert re.fullmatch(r"\d+", value.split("|")[0])
        assert world.request("/", "index.example", headers={"Cookie": f"INGRESSCOOKIE={value}"}).header("x-echo-name") == answer.header("x-echo-name")


@pytest.mark.parametrize("host, name", [("default.example", "INGRESSCOOKIE"), ("balanced.example", "ring"), ("all.example", "S")])
def test_a_session_stays_and_is_not_issued_again(world, host, name):
    answer, value = new_session(world, host, name=name)
    for _ in range(8):
        again = world.request("/", host, headers={"Cookie": f"a=b; {name}={value}; c=d"})
        assert again.header("x-echo-name") == answer.header("x-echo-name") and not cookies(again)


def test_all_attributes_in_order(world):
    answer, value = new_session(world, "all.example", name="S")
    found = re.fullmatch(r"S=[^;]+; Expires=([^;]+); Max-Age=60; Domain=all\.example; Path=/p; Secure; HttpOnly; SameSite=Strict", cookies(answer)[0])
    assert found, cookies(answer)
    assert abs(email.utils.parsedate_to_datetime(found.group(1)).timestamp() - time.time() - 120) < 5


def test_each_rule_has_its_own_path(world):
    for path in ("/something", "/somewhereelse"):
        assert f"; Path={path};" in cookies(world.request(path + "/below", "paths.example"))[0]


def test_secure_over_tls_only(world):
    assert "Secure" not in cookies(world.request("/", "insecure.example"))[0]
    assert "; Secure;" in cookies(world.request("/", "insecure.example", https=True))[0]


@pytest.mark.parametrize("agent, has_none", [
    ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/51.0.2704.103 Safari/537.36", False),
    ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/80.0.3987.100 Safari/537.36", True),
    ("Mozilla/5.0 (iPhone; CPU iPhone OS 12_0 like Mac OS X)", False),
    ("Mozilla/5.0 (iPad; CPU OS 12_0 like Mac OS X)", False),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_4) AppleWebKit/605.1.15 Version/12.1 Safari/605.1.15", False),
    ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_14_4) AppleWebKit/537.36 Chrome/81.0 Safari/537.36", True),
    (None, True),
])
def test_conditional_samesite_none(world, agent, has_none):
    cookie = cookies(world.request("/", "none.example", headers={"User-Agent": agent} if agent else {}))[0]
    assert ("; SameSite=None" in cookie) is has_none


def test_samesite_as_written(world):
    assert cookies(world.request("/", "samesite.example"))[0].endswith("; SameSite=lax")


def test_what_is_invalid_is_left_out(world):
    assert cookies(world.request("/", "bad-age.example"))[0].endswith("; Path=/; HttpOnly")
    assert cookies(world.request("/", "bad-name.example"))[0].startswith("INGRESSCOOKIE=")
    assert "SameSite" not in cookies(world.request("/", "bad-samesite.example"))[0]
    assert "; Max-Age=-1;" in cookies(world.request("/", "nine.example"))[0]
    for host in ("capital.example", "mode-alone.example"):
        assert not cookies(world.request("/", host))


@pytest.mark.parametrize("cookie", ["", "x", "|", "a|b|c", "{key}|wrong", "0|{of}", "%00|{of}", "a" * 300 + "|{of}", "{key}"])
def test_a_wrong_cookie_starts_a_new_session(world, cookie):
    _, value = new_session(world, "default.example")
    key, of = value.split("|")
    cookie = cookie.replace("{key}", key).replace("{of}", of)
    new_session(world, "default.example", headers={"Cookie": f"INGRESSCOOKIE={cookie}"})


def test_aliases_keep_sessions(world):
    answer, value = new_session(world, "other-name.example")
    for host in ("other-name.example", "aliased.example", "a.wild-alias.example"):
        again = world.request("/", host, headers={"Cookie": f"INGRESSCOOKIE={value}"})
        assert again.header("x-echo-name") == answer.header("x-echo-name") and not cookies(again), host
    assert world.request("/", "a.b.wild-alias.example").status == 404


def test_other_ingresses_of_the_host_set_no_cookie(world):
    assert not cookies(world.request("/free", "shared.example"))
    assert cookies(world.request("/sticky", "shared.example"))
    assert not cookies(world.request("/elsewhere", "shared.example"))


def served(world, host, value=None, name="INGRESSCOOKIE", path="/"):
    """Who answers, and whether a cookie comes with it."""
    answer = world.request(path, host, headers={"Cookie": f"{name}={value}"} if value else {})
    assert answer.status == 200
    return answer.header("x-echo-name"), bool(cookies(answer))


def test_a_session_holds_wherever_its_upstream_serves(world):
    """Other Ingresses of the Service follow the cookie; only those that ask for affinity give one."""
    for _ in range(8):
        answer, value = new_session(world, "shared.example", "/sticky")
        for _ in range(3):
            assert served(world, "shared.example", value, path="/free") == (answer.header("x-echo-name"), False)
    assert len({served(world, "shared.example", path="/free") for _ in range(12)}) > 1


def test_how_a_session_is_named_is_the_upstreams(world):
    """The ring, the name of the cookie and its hash hold on another Ingress too; what that one says without `affinity` is not heard."""
    for host, other, name in (("balanced.example", "sharer.example", "ring"), ("sha1.example", "sharer-other.example", "INGRESSCOOKIE")):
        for _ in range(6):
            answer, value = new_session(world, host, name=name)
            assert served(world, other, value, name) == (answer.header("x-echo-name"), False)


def test_the_oldest_names_the_session(moongate, echo):
    apps = [echo(f"pod-{n}") for n in range(3)]

    def aged(name, day, **annotations):
        return ingress(name, f"{name}.example", annotations=named(**annotations), metadata={"creationTimestamp": f"2024-01-{day:02}T00:00:00Z"})

    old = aged("old", 1, affinity="cookie", session_cookie_name="OLD", session_cookie_path="/old")
    young = aged("young", 2, affinity="cookie", session_cookie_name="YOUNG", session_cookie_path="/young", session_cookie_hash="sha1")
    proxy = moongate({"app.json": [service(), *slice_of([app.port for app in apps])], "ingress.json": [young, old]})
    for host, path in (("old.example", "/old"), ("young.example", "/young")):
        answer, value = new_session(proxy, host, name="OLD")
        assert f"; Path={path};" in cookies(answer)[0] and len(value.split("|")[0]) == 40, "each has its own attributes, and both one way to name an endpoint"
        assert served(proxy, "young.example", value, "OLD") == served(proxy, "old.example", value, "OLD") == (answer.header("x-echo-name"), False)
    proxy.write("ingress.json", [young])
    wait_until(lambda: cookies(proxy.request("/", "young.example"))[0].startswith("YOUNG="), what="the young one's name")


def test_503_with_no_endpoint_even_with_a_cookie(world):
    answer = world.request("/", "zero.example", headers={"Cookie": f"INGRESSCOOKIE=0|{upstream_key('default-empty-80')}"})
    assert answer.status == 503 and not cookies(answer)


def test_regex_paths_with_a_cookie_path(world):
    assert "; Path=/re;" in cookies(world.request("/re/x", "regex.example"))[0]


def test_hash_by_text(world):
    owners = {}
    for n in range(30):
        owners.setdefault(world.request(f"/{n}", "hash.example").header("x-echo-name"), []).append(n)
    assert len(owners) > 1
    for owner, numbers in owners.items():
        for n in numbers[:3]:
            assert world.request(f"/{n}", "hash.example").header("x-echo-name") == owner


def test_hash_to_a_group(world):
    groups = set()
    for key in "abcdefghij":
        owners = {world.request(f"/?key={key}", "hash-subset.example").header("x-echo-name") for _ in range(12)}
        assert 1 <= len(owners) <= 2
        groups.add(frozenset(owners))
    assert len({name for group in groups for name in group}) > 2


def test_affinity_wins_over_hash(world):
    assert len({new_session(world, "hash-sticky.example")[0].header("x-echo-name") for _ in range(16)}) > 1


@pytest.mark.parametrize("host", ["ewma.example", "least.example", "bad-balance.example"])
def test_balancers_spread(world, host):
    assert len({world.request("/", host).header("x-echo-name") for _ in range(40)}) > 1


def test_round_robin_is_even(world):
    seen = [world.request("/", "bad-balance.example").header("x-echo-name") for _ in range(80)]
    assert min(seen.count(app.name) for app in world.apps) >= 10


def dying(moongate, echo, **annotations):
    apps = [echo(f"pod-{n}") for n in range(3)]
    proxy = moongate({"app.json": [service(), *slice_of([app.port for app in apps])], "ingress.json": [ingress("s", "s.example", annotations=named(affinity="cookie", **annotations))]})
    answer, value = new_session(proxy, "s.example")
    next(app for app in apps if app.name == answer.header("x-echo-name")).stop(signal.SIGKILL)
    return proxy, answer.header("x-echo-name"), {"Cookie": f"INGRESSCOOKIE={value}"}


@pytest.mark.parametrize("annotations", [{}, {"session_cookie_change_on_failure": "true"}, {"affinity_mode": "balanced", "session_cookie_change_on_failure": "true"}])
def test_a_failed_endpoint_loses_its_sessions(moongate, echo, annotations):
    proxy, owner, headers = dying(moongate, echo, **annotations)
    proxy.expect_errors.append(".*")
    answer = proxy.request("/", "s.example", headers=headers)
    assert answer.status == 200 and answer.header("x-echo-name") != owner
    assert cookies(answer), "the cookie follows the visitor"


def test_annotations_change_live(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("s", "s.example", annotations={PREFIX + "affinity": "cookie"})]})
    assert cookies(proxy.request("/", "s.example"))[0].startswith("INGRESSCOOKIE=")
    proxy.write("ingress.json", [ingress("s", "s.example", annotations=named(affinity="cookie", session_cookie_name="OTHER"))])
    wait_until(lambda: cookies(proxy.request("/", "s.example"))[0].startswith("OTHER="), what="the new name")
    proxy.write("ingress.json", [ingress("s", "s.example")])
    wait_until(lambda: not cookies(proxy.request("/", "s.example")), what="no cookie")


def test_a_stale_connection_moves_no_session(moongate):
    def script(name):
        def play(_, connection):
            connection.read_head()
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Echo-Name: %s\r\n\r\n" % name)
            connection.read_head()  # a second request on this connection gets no answer

        return play

    origins = [Origin(script(name)) for name in (b"one", b"two")]
    proxy = moongate({"app.json": [service(), *slice_of([origin.port for origin in origins])],
                      "ingress.json": [ingress("sticky", "sticky.example", annotations={PREFIX + "affinity": "cookie", PREFIX + "session-cookie-change-on-failure": "true"})]},
                     workers=1)
    first = proxy.request("/", "sticky.example")
    cookie = first.header("set-cookie").split(";")[0]
    for _ in range(12):
        answer = proxy.request("/", "sticky.example", headers={"Cookie": cookie})
        assert (answer.status, answer.header("x-echo-name"), answer.header("set-cookie")) == (200, first.header("x-echo-name"), None)
    for origin in origins:
        origin.close()
