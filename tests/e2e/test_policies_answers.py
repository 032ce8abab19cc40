"""What the visitor gets: proxy-redirect, proxy-cookie, custom-headers; and what is said about invalid values."""
import pytest
from harness import config_map, ingress, service, slice_of, wait_until
from origin import Origin, answering
from worlds import case, named, running


def answer_to_path(_, connection):
    """Answers with the header lines that the query holds, percent-encoded by the test."""
    from urllib.parse import unquote

    while True:
        head = connection.read_head().decode()
        query = head.split(" ")[1].partition("?")[2]
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + "".join(line + "\r\n" for line in unquote(query).split("|") if line).encode() + b"\r\n")


CASES = [
    case("redirect.example", proxy_redirect_from="http://inner.example/", proxy_redirect_to="https://outer.example/x/"),
    case("redirect-variable.example", proxy_redirect_from="http://inner.example", proxy_redirect_to="$scheme://$host"),
    case("redirect-half.example", proxy_redirect_from="http://inner.example/"),
    case("redirect-off.example", proxy_redirect_from="off", proxy_redirect_to="https://outer.example/"),
    case("redirect-default.example", proxy_redirect_from="default", proxy_redirect_to="https://outer.example/"),
    case("redirect-pattern.example", proxy_redirect_from="~^http://(.*)", proxy_redirect_to="https://outer.example/"),
    case("cookie.example", proxy_cookie_domain="inner.example outer.example", proxy_cookie_path="/one/ /"),
    case("cookie-off.example", proxy_cookie_domain="off", proxy_cookie_path="off"),
    case("cookie-bad.example", proxy_cookie_domain="one", proxy_cookie_path="/a /b;Secure"),
    case("headers.example", custom_headers="default/headers"),
    case("headers-short.example", custom_headers="headers"),
    case("headers-missing.example", custom_headers="default/nowhere"),
    case("headers-not-allowed.example", custom_headers="default/not-allowed"),
    case("headers-bad-name.example", custom_headers="default/bad-name"),
    case("headers-elsewhere.example", custom_headers="other/headers"),
]


@pytest.fixture(scope="module")
def proxy():
    origin = Origin(answer_to_path)
    maps = [config_map("headers", {"X-One": "1", "X-Dollar": "a $host b", "Server": "mine"}), config_map("not-allowed", {"X-Two": "2"}), config_map("bad-name", {"X One": "1"}),
            config_map("headers", {"X-One": "1"}, namespace="other"),
            config_map("settings", {"global-allowed-response-headers": "X-One,x-dollar, Server,X One"})]
    expected = [r"proxy-redirect-from", r"proxy-cookie", r"custom-headers", r"global-allowed", r"host=headers-"]
    with running({"app.json": [service(), *slice_of([origin.port]), *maps], "ingress.json": CASES}, flags=["--configmap", "default/settings"], expect_errors=expected) as it:
        yield it
    origin.close()
    assert not origin.errors


def get(proxy, host, lines, **more):
    from urllib.parse import quote

    return proxy.request("/?" + quote(lines), host, **more)


@pytest.mark.parametrize("host, lines, name, value", [
    ("redirect.example", "Location: http://inner.example/a?b", "location", "https://outer.example/x/a?b"),
    ("redirect.example", "Location: http://other.example/a", "location", "http://other.example/a"),
    ("redirect.example", "Location: /http://inner.example/", "location", "/http://inner.example/"),
    ("redirect.example", "Refresh: 5; url=http://inner.example/a", "refresh", "5; url=https://outer.example/x/a"),
    ("redirect-variable.example", "Location: http://inner.example/a", "location", "http://redirect-variable.example/a"),
    ("redirect-half.example", "Location: http://inner.example/a", "location", "http://inner.example/a"),
    ("redirect-off.example", "Location: off/a", "location", "off/a"),
    ("redirect-default.example", "Location: default/a", "location", "default/a"),
    ("redirect-pattern.example", "Location: http://inner.example/a", "location", "http://inner.example/a"),
    ("cookie.example", "Set-Cookie: a=b; Domain=inner.example; Path=/one/two", "set-cookie", "a=b; Domain=outer.example; Path=/two"),
    ("cookie.example", "Set-Cookie: a=b; domain=.INNER.example; HttpOnly", "set-cookie", "a=b; domain=outer.example; HttpOnly"),
    ("cookie.example", "Set-Cookie: a=b; Domain=other.example; Path=/two", "set-cookie", "a=b; Domain=other.example; Path=/two"),
    ("cookie.example", "Set-Cookie: path=/one/; Secure", "set-cookie", "path=/one/; Secure"),
    ("cookie-off.example", "Set-Cookie: a=b; Domain=off; Path=off", "set-cookie", "a=b; Domain=off; Path=off"),
    ("cookie-bad.example", "Set-Cookie: a=b; Domain=one; Path=/a", "set-cookie", "a=b; Domain=one; Path=/a"),
    ("headers.example", "X-One: theirs", "x-one", "1"),
    ("headers.example", "", "x-dollar", "a $host b"),
    ("headers.example", "", "server", "mine"),
    ("headers-short.example", "", "x-one", "1"),
])
def test_answers(proxy, host, lines, name, value):
    answer = get(proxy, host, lines)
    assert (answer.status, answer.all(name)) == (200, [value])


def test_each_cookie_on_its_own(proxy):
    answer = get(proxy, "cookie.example", "Set-Cookie: a=1; Path=/one/x|Set-Cookie: b=2|Set-Cookie: c=3; Domain=inner.example")
    assert answer.all("set-cookie") == ["a=1; Path=/x", "b=2", "c=3; Domain=outer.example"]


@pytest.mark.parametrize("host", ["headers-missing.example", "headers-not-allowed.example", "headers-bad-name.example", "headers-elsewhere.example"])
def test_headers_that_may_not_be_set_close_the_routes(proxy, host):
    assert get(proxy, host, "").status == 503
    wait_until(lambda: proxy.errors.find(rf"{host.partition('.')[0]}.*custom-headers"), what="the report")


def test_custom_headers_follow_their_config_map(moongate):
    origin = Origin(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    settings = config_map("settings", {"global-allowed-response-headers": "X-One"})
    proxy = moongate({"app.json": [service(), *slice_of([origin.port]), settings], "map.json": [config_map("headers", {"X-One": "1"})],
                      "ingress.json": [ingress("a", "a.example", annotations=named(custom_headers="headers"))]}, flags=["--configmap", "default/settings"], expect_errors=["custom-headers", "host=a.example"])
    assert proxy.request("/", "a.example").header("x-one") == "1"
    proxy.write("map.json", [config_map("headers", {"X-One": "2"})])
    proxy.wait_live("/", "a.example", lambda answer: answer.header("x-one") == "2")
    proxy.remove("map.json")
    proxy.wait_live("/", "a.example", lambda answer: answer.status == 503)
    proxy.write("map.json", [config_map("headers", {"X-One": "3"})])
    proxy.wait_live("/", "a.example", lambda answer: answer.header("x-one") == "3")
    origin.close()
