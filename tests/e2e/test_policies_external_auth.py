"""External authentication over real HTTP: who comes in, what the service is asked, where its name leads, and what is remembered when it is gone."""
import socket

import pytest
from harness import Echo, config_map, service, slice_of, wait_until
from origin import Origin
from worlds import case, running

ERRORS = ["status=50[03]", "its routes answer 503", "auth-", "has no effect"]


def serve(_, connection):
    """Says what the path says: /STATUS, with fields behind it: /STATUS/Name=value/Name=value. `/cookie`: 200 where the cookie `s` is `ann`."""
    while True:
        head = connection.read_head().decode("latin-1")
        path, _, query = head.split(" ")[1].partition("?")
        status, *fields = path.strip("/").split("/")
        if status == "cookie":
            status = "200" if "s=ann" in head else "401"
        lines = "".join(f"{name}: {value}\r\n" for name, _, value in (field.partition("=") for field in fields))
        body = "" if head.startswith("HEAD") or status in ("204", "304") else "the service's own page" + "x" * int(query if query.isdigit() else 0)
        length = "" if status in ("204", "304") else f"Content-Length: {len(body)}\r\n"
        connection.send(f"HTTP/1.1 {status} Said\r\n{lines}{length}\r\n{body}".encode("latin-1"))


def fields_of(head):
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in head.strip().split("\r\n")[1:])}


@pytest.fixture(scope="module")
def proxy():
    app, pages, origin, gone = Echo("app"), Echo("pages"), Origin(serve), Origin(serve)
    gone.close()
    base = f"http://127.0.0.1:{origin.port}"
    cached = {"auth_cache_key": "$cookie_s", "auth_cache_duration": "200 401 5m", "auth_response_headers": "X-User"}
    ingresses = [
        *[case(f"s{status}.example", auth_url=f"{base}/{status}") for status in (200, 204, 401, 403, 302, 404, 500)],
        case("long.example", auth_url=f"{base}/401?900000"), case("longer.example", auth_url=f"{base}/200?1100000"),
        case("gone.example", auth_url=f"http://127.0.0.1:{gone.port}/"), case("fields.example", auth_url=f"{base}/200/X-User=ann", auth_response_headers="X-User,X-Groups"),
        case("challenge.example", auth_url=f"{base}/401/WWW-Authenticate=Basic/Set-Cookie=a=b"),
        case("always.example", auth_url=f"{base}/403/Set-Cookie=a=b", auth_always_set_cookie="true"), case("cookie.example", auth_url=f"{base}/200/Set-Cookie=a=b/Set-Cookie=c=d"),
        case("signin.example", auth_url=f"{base}/401/Set-Cookie=a=b", auth_signin="https://login.example/start"), case("cors.example", auth_url=f"{base}/401", enable_cors="true"),
        case("method.example", auth_url=f"{base}/200", auth_method="HEAD", auth_proxy_set_headers="more"),
        case("cached.example", path=["/", "/other"], auth_url=f"{base}/cookie/X-User=ann", **cached), case("plain.example"), case("bad.example", auth_url="ftp://auth.example/"),
        case("snippet.example", auth_url=f"{base}/200", auth_snippet="deny all;"), case("alone.example", auth_signin="https://login.example/"),
        case("any.example", auth_url=f"{base}/cookie", satisfy="any", allowlist_source_range="10.0.0.0/8", auth_response_headers="X-User"),
        case("pages.example", auth_url=f"{base}/401/WWW-Authenticate=Basic/Set-Cookie=a=b", auth_always_set_cookie="true", custom_http_errors="401", default_backend="pages"),
        case("page-signin.example", auth_url=f"{base}/401", auth_signin="/start", custom_http_errors="401", default_backend="pages")]
    manifests = {"app.json": [service(), *slice_of([app.port]), service("pages"), *slice_of([pages.port], "pages")], "ingress.json": ingresses, "more.json": [config_map("more", {"X-Tenant": "ours"})],
                 "settings.json": [config_map("settings", {"use-forwarded-headers": "true", "enable-underscores-in-headers": "true"})]}
    with running(manifests, [app, pages], expect_errors=ERRORS, flags=["--configmap", "default/settings"]) as it:
        it.origin, it.base = origin, base
        yield it
    origin.close()
    assert not origin.errors


def test_what_the_service_says_is_done(proxy):
    expected = {200: 200, 204: 200, 401: 401, 403: 403, 302: 500, 404: 500, 500: 500}
    for status, wanted in expected.items():
        answer = proxy.request("/", f"s{status}.example", method="POST", body=b"x" * 1000)
        assert answer.status == wanted
        assert b"own page" not in answer.body and (wanted == 200) == (answer.header("x-echo-name") == "app"), answer.body
    assert [proxy.request("/", f"{name}.example").status for name in ("gone", "long", "longer")] == [500, 401, 500]


def test_what_the_service_is_asked(proxy):
    heads = proxy.origin.heads
    heads.clear()
    assert proxy.request("/a%20b?c=d", "s200.example", method="POST", body=b"secret", headers={"Cookie": "k=v", "X-Original-URL": "http://lie/", "X-Forwarded-Proto": "lie", "Expect": "100-continue"}).status == 200
    assert heads[-1].startswith("GET /200 HTTP/1.1\r\n") and heads[-1].count("\r\n\r\n") == 1
    seen = fields_of(heads[-1])
    known = {"host": "127.0.0.1", "x-original-url": "http://s200.example/a%20b?c=d", "x-original-method": "POST", "x-sent-from": "nginx-ingress-controller", "x-real-ip": "127.0.0.1", "cookie": "k=v",
             "x-forwarded-for": "127.0.0.1", "x-auth-request-redirect": "/a%20b?c=d"}
    assert {name: seen.get(name) for name in known} == known
    assert len(seen["x-request-id"]) == 32 and not {"content-length", "transfer-encoding", "x-forwarded-proto", "expect", "connection"} & set(seen)
    # An application that gets names as CGI makes them cannot tell _ from -.
    claims = {"X_Original_URL": "http://lie/", "x_forwarded_for": "192.0.2.1", "X_Real_IP": "192.0.2.1", "X_Forwarded_Proto": "https", "X_Tenant": "theirs", "Content_Length": "5", "X_Other": "kept"}
    proxy.request("/", "method.example", headers=claims)
    seen = fields_of(heads[-1])
    assert (seen["x-tenant"], seen.get("x_other")) == ("ours", "kept") and not {name.lower() for name in claims} - {"x_other"} & set(seen)
    proxy.request("/m", "method.example", headers={"X-Tenant": "theirs", "X-Forwarded-For": "192.0.2.1"})
    seen = fields_of(heads[-1])
    assert heads[-1].startswith("HEAD ") and (seen["x-original-uri"], seen["x-scheme"], seen["x-tenant"], seen["x-real-ip"]) == ("/m", "http", "ours", "192.0.2.1")


def test_fields_cookies_and_challenges(proxy):
    seen = proxy.echo("/", "fields.example", headers={"X-User": "admin", "x_user": "admin", "X-Groups": "root", "X_Groups": "root", "X_Other": "kept"})["lower"]
    assert seen["x-user"] == "ann" and seen["x_other"] == "kept" and not {"x-groups", "x_user", "x_groups"} & set(seen)
    answer = proxy.request("/", "challenge.example")
    assert (answer.status, answer.header("WWW-Authenticate"), answer.header("Set-Cookie")) == (401, "Basic", None)
    answer = proxy.request("/", "always.example")
    assert (answer.status, answer.header("Set-Cookie")) == (403, "a=b")
    assert proxy.request("/", "cookie.example").all("Set-Cookie") == ["a=b", "c=d"]
    assert proxy.request("/", "cors.example", headers={"Origin": "http://a.example"}).header("Access-Control-Allow-Origin") == "*"
    assert proxy.request("/", "cors.example", method="OPTIONS").status == 204


def test_signing_in(proxy):
    answer = proxy.request("/?a=b&c=d", "signin.example")
    assert (answer.status, answer.header("Location"), answer.header("Set-Cookie")) == (302, "https://login.example/start?rd=http://signin.example%2F%3Fa%3Db%26c%3Dd", "a=b")
    answer = proxy.request("/", "signin.example", headers={"X-Forwarded-Proto": "https"})
    assert answer.header("Location") == "https://login.example/start?rd=https://signin.example%2F"


def test_error_pages(proxy):
    answer = proxy.request("/", "pages.example")
    assert (answer.header("x-echo-name"), answer.header("Set-Cookie")) == ("pages", "a=b")
    assert proxy.request("/", "page-signin.example").status == 302


def test_satisfy_any(proxy):
    def seen(client, **headers):
        answer = proxy.request("/", "any.example", headers={"X-Forwarded-For": client, "X-User": "admin", **headers})
        return answer.status, "x-user" in answer.text.lower()

    assert [seen("10.1.1.1"), seen("192.0.2.1", Cookie="s=ann"), seen("192.0.2.1")] == [(200, False), (200, False), (401, False)]


def test_what_cannot_be_read_is_closed(proxy):
    assert [proxy.request("/", f"{name}.example").status for name in ("bad", "snippet", "alone", "plain")] == [503, 503, 503, 200]


def test_names_inside_the_cluster_and_variables(moongate, echo, dns):
    app, origin = echo("app"), Origin(serve)
    names = dns({"auth.default.svc.cluster.local": ["127.0.0.1"], "a.example": ["127.0.0.1"]})
    hosts = [case("a.example", auth_url=f"http://$host:{origin.port}/200?u=$request_uri"), case("b.example", auth_url=f"http://auth.$namespace.svc.cluster.local:{origin.port}/403"),
             case("c.example", auth_url=f"http://nobody.default.svc.cluster.local:{origin.port}/200")]
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": hosts}, flags=["--resolver", f"127.0.0.1:{names.port}"], expect_errors=ERRORS)
    assert [proxy.request("/x?y", f"{name}.example").status for name in "abc"] == [200, 403, 500]
    assert origin.heads[0].startswith("GET /200?u=/x?y HTTP/1.1\r\n") and "\r\nhost: a.example\r\n" in origin.heads[0].lower()
    origin.close()


def test_what_is_remembered_outlives_the_service(moongate, echo):
    app, origin = echo("app"), Origin(serve)
    url = f"http://127.0.0.1:{origin.port}/cookie/X-User=ann/Connection=close"
    hosts = [case(name, path=["/", "/other"], auth_url=url, auth_cache_key="$cookie_s", auth_response_headers="X-User") for name in ("a.example", "b.example")]
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": hosts}, expect_errors=ERRORS, workers=3)

    def status(host, path="/", cookie="s=ann"):
        return proxy.request(path, host, headers={"Cookie": cookie, "X-User": "admin"}).status

    assert [status("a.example"), status("a.example", cookie="s=bob")] == [200, 401]
    count = len(origin.heads)
    assert {status("a.example") for _ in range(20)} == {200} and {status("a.example", cookie="s=bob") for _ in range(20)} == {401}
    assert len(origin.heads) == count == 2, "by any worker"
    assert proxy.echo("/", "a.example", headers={"Cookie": "s=ann", "X-User": "admin"})["lower"]["x-user"] == "ann"
    origin.listener.shutdown(socket.SHUT_RDWR)  # close() would leave the one who accepts his last connection
    origin.close()
    assert status("a.example", cookie="s=eve") == 500
    assert [status("a.example"), status("a.example", cookie="s=bob"), status("a.example", "/other"), status("b.example")] == [200, 401, 500, 500]


def test_the_settings_guard_everything(moongate, echo):
    app, origin = echo("app"), Origin(serve)
    base = f"http://127.0.0.1:{origin.port}"

    def settings(**data):
        return [config_map("settings", {key.replace("_", "-"): value for key, value in data.items()})]

    hosts = [case("a.example"), case("free.example", enable_global_auth="false"), case("own.example", auth_url=f"{base}/200"), case("acme.example", path="/.well-known/acme-challenge/x")]
    names = ("a.example", "free.example", "own.example", "acme.example")
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": hosts, "settings.json": settings()}, flags=["--configmap", "default/settings"], expect_errors=ERRORS + ["global-auth"])

    def live(expected, **data):
        proxy.write("settings.json", settings(**data))
        wait_until(lambda: [proxy.request("/.well-known/acme-challenge/x", name).status for name in names] == expected, what=str(data))

    live([403, 200, 200, 200], global_auth_url=f"{base}/403")
    live([302, 200, 200, 200], global_auth_url=f"{base}/401", global_auth_signin="https://login.example/")
    live([403, 200, 200, 403], global_auth_url=f"{base}/403", no_auth_locations="/elsewhere")
    for data, why in (({"global_auth_url": "no URL $at_all"}, "at_all"), ({"global_auth_url": f"{base}/200", "global_auth_snippet": "allow all;"}, "nginx configuration text")):
        proxy.write("settings.json", settings(**data))
        wait_until(lambda w=why: proxy.errors.find(f"{w}.*external-auth goes on with the settings that it had"), what="what is wrong")
        live([403, 200, 200, 403], **data)  # as before
    live([200, 200, 200, 200])
    live([503, 503, 503, 503], global_auth_url="no URL $at_all")  # nothing stood before
    live([503, 200, 200, 503], global_auth_url=f"{base}/200", global_auth_snippet="allow all;")  # closed with the host's other paths
    live([403, 200, 200, 200], global_auth_url=f"{base}/403")
    origin.close()


def test_questions_that_come_back_end(moongate, echo, dns):
    app, names = echo("app"), dns({"a.example": ["127.0.0.1"]})
    hosts = [case("a.example"), case("plain.example")]
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": hosts}, flags=["--resolver", f"127.0.0.1:{names.port}"], expect_errors=ERRORS + ["leads back"])
    hosts[0] = case("a.example", auth_url=f"http://a.example:{proxy.http_port}/again")
    proxy.write("ingress.json", hosts)
    wait_until(lambda: proxy.request("/", "a.example").status == 500, what="the guard")
    assert proxy.request("/", "a.example", headers={"X-Request-ID": "once"}).status == 500

    def count(end):
        return sum(line.endswith(end) for line in proxy.access.all())

    # It comes by eight times, and the next one gets 508 before it has an id.
    wait_until(lambda: count(" once") >= 8, what="the lines")
    assert proxy.request("/", "plain.example", headers={"X-Request-ID": "last"}).status == 200
    wait_until(lambda: count(" last") == 1, what="the last line")
    assert count(" once") == 8
