"""redirect, rewrite, ssl-redirect and hsts, over real HTTP: one proxy, a host for each case."""
import pytest
from harness import Echo, certificate, service, slice_of, tls_secret
from worlds import case, running

CASES = [
    case("permanent.example", permanent_redirect="https://new.example/there?x=1"),
    case("permanent-path.example", permanent_redirect="/moved"),
    case("permanent-relative.example", permanent_redirect="/moved", relative_redirects="true"),
    case("permanent-308.example", permanent_redirect="https://new.example", permanent_redirect_code="308"),
    case("permanent-bad-code.example", permanent_redirect="https://new.example", permanent_redirect_code="200"),
    case("permanent-bad.example", permanent_redirect="https://new.example/$host"),
    case("temporal.example", temporal_redirect="https://tmp.example/a", permanent_redirect="https://new.example"),
    case("temporal-307.example", temporal_redirect="https://tmp.example", temporal_redirect_code="307"),
    case("temporal-308.example", temporal_redirect="https://tmp.example", temporal_redirect_code="308"),
    case("temporal-path.example", temporal_redirect="/only-a-path"),
    case("redirect-first.example", permanent_redirect="https://new.example", force_ssl_redirect="true", rewrite_target="/x"),
    case("example-bare.example", from_to_www_redirect="true"),
    case("www.example-www.example", from_to_www_redirect="true"),
    case("owned.example", from_to_www_redirect="true"),
    case("www.owned.example"),
    case("force.example", force_ssl_redirect="true"),
    case("force-slash.example", force_ssl_redirect="true", preserve_trailing_slash="true"),
    case("force-port.example", force_ssl_redirect="true", use_port_in_redirects="true"),
    case("force-invalid.example", force_ssl_redirect="yes"),
    case("tls.example", more={"tls": "tls"}),
    case("tls-default.example", more={"tls": "nowhere"}),
    case("tls-off.example", more={"tls": "tls-off"}, ssl_redirect="false"),
    case("tls-app-root.example", more={"tls": "nowhere"}, app_root="/start"),
    case("plain.example", ssl_redirect="true"),
    case("app-root.example", app_root="/start"),
    case("app-root-deep.example", path="/deep", app_root="/deep/start"),
    case("app-root-url.example", app_root="https://elsewhere.example/"),
    case("rewrite.example", path="/something(/|$)(.*)", path_type="ImplementationSpecific", rewrite_target="/$2"),
    case("rewrite-plain.example", path="/api", rewrite_target="/v2/all"),
    case("rewrite-same.example", path="/same", rewrite_target="/same"),
    case("rewrite-bad.example", path="/bad", rewrite_target="/x$host"),
    case("rewrite-prefix.example", path="/shop/(.*)", path_type="ImplementationSpecific", rewrite_target="/$1", x_forwarded_prefix="/shop"),
    case("rewrite-group.example", path="/(de|fr)/(.*)", path_type="ImplementationSpecific", rewrite_target="/$2", x_forwarded_prefix="/$1"),
    case("prefix-alone.example", x_forwarded_prefix="/shop"),
    case("prefix-empty.example", path="/shop/(.*)", path_type="ImplementationSpecific", rewrite_target="/$1", x_forwarded_prefix=""),
]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    secrets = [tls_secret(name, *certificate(folder, name, [name + ".example"])) for name in ("tls", "tls-off")]
    app = Echo("app")
    expected = [r"permanent-redirect", r"temporal-redirect", r"force-ssl-redirect", r"app-root", r"rewrite-target", r"nowhere", r"x-forwarded-prefix", r"from-to-www"]
    with running({"app.json": [service(), *slice_of([app.port]), *secrets], "ingress.json": CASES}, [app], expect_errors=expected) as it:
        yield it


@pytest.mark.parametrize("host, path, status, location", [
    ("permanent.example", "/any?q=2", 301, "https://new.example/there?x=1"),
    ("permanent-path.example", "/any", 301, "http://permanent-path.example/moved"),
    ("permanent-relative.example", "/any", 301, "/moved"),
    ("permanent-308.example", "/", 308, "https://new.example"),
    ("permanent-bad-code.example", "/", 301, "https://new.example"),
    ("temporal.example", "/", 302, "https://tmp.example/a"),
    ("temporal-307.example", "/", 307, "https://tmp.example"),
    ("temporal-308.example", "/", 302, "https://tmp.example"),
    ("redirect-first.example", "/", 301, "https://new.example"),
    ("www.example-bare.example", "/foo/?a=b", 308, "http://example-bare.example:80/foo/?a=b"),
    ("www.example-bare.example", "/foo/", 308, "http://example-bare.example:80/foo"),
    ("example-www.example", "/foo", 308, "http://www.example-www.example:80/foo"),
    ("force.example", "/a/b?c=d", 308, "https://force.example/a/b?c=d"),
    ("force.example:8080", "/", 308, "https://force.example"),
    ("force.example", "/a/", 308, "https://force.example/a"),
    ("force-slash.example", "/a/", 308, "https://force-slash.example/a/"),
    ("tls.example", "/a", 308, "https://tls.example/a"),
    ("tls-default.example", "/a", 308, "https://tls-default.example/a"),
    ("tls-app-root.example", "/", 302, "http://tls-app-root.example/start"),
    ("app-root.example", "/", 302, "http://app-root.example/start"),
    ("app-root.example", "//", 302, "http://app-root.example/start"),
    ("app-root.example:81", "/?a=b", 302, "http://app-root.example:81/start"),
    ("app-root-deep.example", "/", 302, "http://app-root-deep.example/deep/start"),
])
def test_redirects(proxy, host, path, status, location):
    answer = proxy.request(path, host)
    got = (answer.header("location") or "").replace(f":{proxy.http_port}/", ":80/")
    assert (answer.status, got) == (status, location)


@pytest.mark.parametrize("host, path", [
    ("permanent-bad.example", "/"), ("temporal-path.example", "/"), ("www.owned.example", "/"), ("force-invalid.example", "/"), ("tls-off.example", "/"), ("plain.example", "/"),
    ("app-root.example", "/start"), ("app-root-url.example", "/"), ("tls.example", "/.well-known/acme-challenge/token"), ("force.example", "/.well-known/acme-challenge/token"),
])
def test_no_redirect(proxy, host, path):
    assert proxy.echo(path, host)["path"] == path


def test_redirect_with_our_port(proxy):
    assert proxy.request("/a", "force-port.example").header("location") == f"https://force-port.example:{proxy.https_port}/a"


def test_every_method_is_redirected_and_the_body_is_left(proxy):
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD"):
        assert proxy.request("/", "force.example", method=method, body=b"x" if method in ("POST", "PUT") else None).status == 308


def test_a_declared_body_over_the_limit_is_refused_before_the_redirect(proxy):
    answer = proxy.raw(b"POST / HTTP/1.1\r\nHost: permanent.example\r\nContent-Length: 1048577\r\n\r\n", half_close=False)
    assert answer.split(b"\r\n")[0].split(b" ")[1] == b"413"


def test_www_over_tls_says_443(proxy):
    answer = proxy.request("/foo", "www.example-bare.example", https=True)
    assert (answer.status, answer.header("location").replace(str(proxy.https_port), "443")) == (308, "https://example-bare.example:443/foo")


@pytest.mark.parametrize("host, path, seen", [
    ("rewrite.example", "/something", "/"),
    ("rewrite.example", "/something/", "/"),
    ("rewrite.example", "/something/new?a=1&b", "/new?a=1&b"),
    ("rewrite.example", "/SOMETHING/new", "/new"),
    ("rewrite.example", "/something/a%20b/c", "/a%20b/c"),
    ("rewrite.example", "/something/%C3%A4", "/%C3%A4"),
    ("rewrite-plain.example", "/api", "/v2/all"),
    ("rewrite-plain.example", "/api/deeper?q", "/v2/all?q"),
    ("rewrite-same.example", "/same/x", "/same/x"),
    ("rewrite-bad.example", "/bad/x", "/bad/x"),
    ("rewrite-prefix.example", "/shop/cart", "/cart"),
])
def test_rewrite_target(proxy, host, path, seen):
    assert proxy.echo(path, host)["path"] == seen


@pytest.mark.parametrize("host, path, prefix", [
    ("rewrite-prefix.example", "/shop/cart", "/shop"), ("rewrite-group.example", "/fr/a", "/fr"), ("prefix-alone.example", "/a", None), ("prefix-empty.example", "/shop/a", None),
])
def test_x_forwarded_prefix(proxy, host, path, prefix):
    assert proxy.echo(path, host)["lower"].get("x-forwarded-prefix") == prefix


def test_hsts_over_tls_only_and_on_our_own_answers(proxy):
    assert proxy.request("/", "plain.example").header("strict-transport-security") is None
    for path, host in (("/", "tls.example"), ("/status/500", "tls.example"), ("/", "permanent.example")):
        assert proxy.request(path, host, https=True).header("strict-transport-security") == "max-age=31536000; includeSubDomains", host


def test_https_requests_are_not_redirected(proxy):
    for host in ("tls.example", "force.example", "tls-default.example"):
        assert proxy.echo("/", host, https=True)["lower"]["x-forwarded-proto"] == "https"
