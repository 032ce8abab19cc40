"""For tests of settings: one proxy and its applications, and `settings`, which writes the whole ConfigMap live."""
import itertools
import re
import time

import pytest
from harness import Echo, certificate, config_map, service, slice_of, tls_secret, wait_until
from origin import Origin
from worlds import case, running

MARK = itertools.count(1)


def upstream(origin, connection):
    """Answers with what it saw, and with fields that settings hide."""
    while True:
        head = connection.read_head()
        found = re.search(rb"content-length: (\d+)", head.lower())
        if found:
            connection.read_exactly(int(found.group(1)))
        if b" /slow" in head:
            time.sleep(1.3)
        connection.send(b"HTTP/1.1 200 OK\r\nServer: theirs\r\nX-Powered-By: them\r\nX-Secret: 1\r\nSet-Cookie: a=b; Domain=in.example; Path=/in\r\nLocation: http://in.example/\r\n"
                        + b"Content-Length: %d\r\n\r\n" % len(head) + head)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    origin, app = Origin(upstream), Echo("app")
    pem, key = certificate(tmp_path_factory.mktemp("certificates"), "tls", ["tls.example"])
    cases = [case("echo.example", service_name="app"), case("origin.example", service_name="origin", path="/"), case("tls.example", service_name="app", more={"tls": "tls"}),
             case("named.example", path="/a/b", service_name="app"), case("own.example", service_name="app", proxy_body_size="2k")]
    manifests = {"app.json": [service("app"), *slice_of([app.port], name="app"), service("origin"), *slice_of([origin.port], name="origin"), tls_secret("tls", pem, key)],
                 "ingress.json": cases, "settings.json": [config_map("settings", {}, namespace="system"), config_map("extra", {"X-Extra": "$host-$request_method", "X-Forwarded-For": "set", "X-Empty": ""},
                                                                                                                     namespace="system")]}
    with running(manifests, [app], flags=["--configmap", "system/settings"], workers=1,
                 expect_errors=[r"setting=", r"ConfigMap system/", r"status=50[34]", r"timed out", r"its routes answer 503", r"global-auth-snippet"]) as proxy:
        proxy.origin, proxy.app = origin, app
        yield proxy
    origin.close()


@pytest.fixture
def settings(world):
    """settings(key="value", ...): writes them; `_` stands for `-`. What was set is gone after the test."""
    def write(**values):
        mark = f"mark-{next(MARK)}"
        data = {key.replace("_", "-"): value for key, value in values.items()}
        extra = config_map("extra", {"X-Extra": "$host-$request_method", "X-Forwarded-For": "set", "X-Empty": ""}, namespace="system")
        # hosts follow settings; the marker's route tells that both have come
        world.write("settings.json", [config_map("settings", data, namespace="system"), extra, case(f"{mark}.example", service_name="app")])
        wait_until(lambda: world.request("/", f"{mark}.example").status != 404, what="the settings")
        time.sleep(0.03)
        return world

    yield write
    write()
