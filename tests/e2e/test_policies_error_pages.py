"""Error pages: another Service's answer in the place of one that nobody wants to see."""
import http.client
import re

import pytest
from harness import Echo, config_map, service, slice_of, wait_until
from origin import Origin
from worlds import case, running


def page(_, connection):
    """Answers with the status that X-Code says, and what it was told."""
    while True:
        head = connection.read_head().decode()
        code = int(re.search(r"X-Code: (\d+)", head).group(1))
        told = "\n".join(line for line in head.split("\r\n")[:-2] if not line.lower().startswith("user-agent")).encode()
        connection.send(b"HTTP/1.1 %d Page\r\nX-Page: yes\r\nContent-Length: %d\r\n\r\n" % (200 if code == 418 else code, len(told)) + (b"" if head.startswith("HEAD") else told))


def big(_, connection):
    while True:
        connection.read_head()
        connection.send(b"HTTP/1.1 502 Bad\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000)


@pytest.fixture(scope="module")
def world():
    app, pages, bigs = Echo("app"), Origin(page), Origin(big)
    cases = [
        case("one.example", custom_http_errors="404,418,503", default_backend="pages"),
        case("global.example", custom_http_errors="404"),
        case("left.example", custom_http_errors="404,503", default_backend="pages", disable_proxy_intercept_errors="true"),
        case("empty.example", service_name="empty", default_backend="pages"),
        case("nobody.example", service_name="empty", custom_http_errors="503", default_backend="pages"),
        case("nopage.example", custom_http_errors="404", default_backend="empty"),
        case("denied.example", custom_http_errors="403", default_backend="pages", denylist_source_range="127.0.0.0/8"),
        case("big.example", service_name="big", custom_http_errors="502", default_backend="pages"),
        case("session.example", custom_http_errors="404", default_backend="pages", affinity="cookie"),
        case("list.example"),
    ]
    services = [service(), *slice_of([app.port]), service("pages"), *slice_of([pages.port], name="pages"), service("empty"), service("big"), *slice_of([bigs.port], name="big")]
    manifests = {"app.json": services, "ingress.json": cases, "settings.json": [config_map("settings", {})]}
    with running(manifests, [app], workers=1, flags=["--configmap", "default/settings"], expect_errors=["default/empty", "no answer to replace", "status=50[023]"]) as proxy:
        proxy.pages, proxy.app = pages, app
        yield proxy
        assert pages.errors == []
    pages.close()
    bigs.close()


def test_an_applications_error_is_replaced(world):
    answer = world.request("/status/404?a=b", "one.example", headers={"Accept": "text/html"})
    assert answer.status == 404 and answer.header("X-Page") == "yes"
    lines = answer.text.split("\n")
    assert lines[0] == "GET / HTTP/1.1"
    for line in ("X-Code: 404", "X-Format: text/html", "X-Original-URI: /status/404?a=b", "X-Namespace: default", "X-Ingress-Name: one-example", "X-Service-Name: echoheaders",
                 "X-Service-Port: 80", "Host: one.example", "X-Forwarded-For: 127.0.0.1"):
        assert line in lines, answer.text
    assert re.search(r"X-Request-ID: [0-9a-f]{32}", answer.text)
    assert world.request("/status/418", "one.example").status == 200  # the page's own status
    assert world.request("/", "one.example").status == 200


def test_the_access_log_tells_both(world):
    assert world.request("/status/404?which=logged", "one.example").status == 404
    line = wait_until(lambda: world.access.find(r".*which=logged HTTP/1.1\" 404 .*"), what="the line").group(0)
    assert f"[default-pages] [] 127.0.0.1:{world.app.port} : 127.0.0.1:{world.pages.port} " in line
    assert " 404 : 404 " in line


def test_connections_stay(world):
    before = world.metric("moongate_upstream_connects_total")
    connection = http.client.HTTPConnection("127.0.0.1", world.http_port, timeout=10)
    for method in ("GET", "HEAD", "POST", "GET"):
        connection.request(method, "/status/404", headers={"Host": "one.example"})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 404 and answer.getheader("X-Page") == "yes" and (text == b"") == (method == "HEAD")
    connection.close()
    assert world.metric("moongate_upstream_connects_total") - before <= 2


def test_errors_of_our_own(world):
    assert "X-Code: 403" in world.request("/", "denied.example").text


def test_what_applications_say_can_stay(world):
    assert world.request("/status/404", "left.example").header("X-Page") is None


def test_without_a_page_it_is_ours(world):
    for host in ("global.example", "nopage.example"):
        answer = world.request("/status/404", host)
        assert (answer.status, "<h1>404 Not Found</h1>" in answer.text) == (404, True)


def test_a_service_without_endpoints(world):
    before = len(world.pages.heads)
    assert "X-Code: 503" in world.request("/", "nobody.example").text
    assert len(world.pages.heads) == before + 1  # what stands in is not replaced by itself
    answer = world.request("/any?x=1", "empty.example", method="PUT", body=b"text")
    assert answer.status == 503 and "PUT /any?x=1 HTTP/1.1" in answer.text and "X-Service-Name: empty" in answer.text and "Content-Length: 4" in answer.text


def test_a_long_old_answer(world):
    before = world.metric("moongate_limit_drain_bytes_total")
    assert "X-Code: 502" in world.request("/", "big.example").text
    assert world.metric("moongate_limit_drain_bytes_total") == before + 1


def test_pages_get_no_session(world):
    assert world.request("/status/404", "session.example").header("Set-Cookie") is None
    assert world.request("/", "session.example").header("Set-Cookie") is not None


def test_the_list_of_the_configmap(world):
    world.write("settings.json", [config_map("settings", {"custom-http-errors": "500,404"})])
    wait_until(lambda: "<h1>500" in world.request("/status/500", "list.example").text, what="the setting")
    world.write("settings.json", [config_map("settings", {})])
    wait_until(lambda: "<h1>500" not in world.request("/status/500", "list.example").text, what="no setting")


def test_the_default_backend_service():
    """It answers what no Ingress has an own one for, and all that the ConfigMap lists."""
    app, pages, own = Echo("app"), Origin(page), Origin(page)
    services = [service(), *slice_of([app.port]), service("pages"), *slice_of([pages.port], name="pages"), service("own"), *slice_of([own.port], name="own"), service("empty")]
    cases = [case("a.example", custom_http_errors="404"), case("listed.example", default_backend="own"), case("both.example", default_backend="own", custom_http_errors="404"),
             case("empty.example", default_backend="empty", custom_http_errors="404"), case("gone.example", default_backend="nobody", custom_http_errors="404")]
    manifests = {"app.json": services, "ingress.json": cases, "settings.json": [config_map("settings", {"custom-http-errors": "404,500"})]}
    with running(manifests, [app], flags=["--default-backend-service", "default/pages", "--configmap", "default/settings"], expect_errors=["default/empty", "default/nobody"]) as proxy:
        for host, status, count in (("a", 404, 1), ("listed", 404, 2), ("listed", 500, 3), ("empty", 404, 4), ("gone", 404, 5), ("both", 404, 5), ("both", 500, 5)):
            answer = proxy.request(f"/status/{status}", host + ".example")
            assert (answer.status, len(pages.heads), len(own.heads)) == (status, count, int(host == "both")), host
            assert ("X-Code: " in answer.text) == (f"{host} {status}" != "both 500")
    pages.close()
    own.close()
