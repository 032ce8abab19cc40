"""What a Service leads to: slices, Endpoints objects, ports by name, conditions, and names outside."""
import socket
import subprocess

import pytest
from harness import BINARY, Echo, Lines, ingress, service, slice_of, wait_until
from names import our_address


def served(proxy, host="a.example", path="/"):
    answer = proxy.request(path, host)
    return answer.header("x-echo-name") if answer.status == 200 else answer.status


def one_slice(name, port, suffix="x", addresses=("127.0.0.1",), port_name="http", conditions=None, family="IPv4", of="web"):
    return {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": f"{name}-{suffix}", "labels": {"kubernetes.io/service-name": of}}, "addressType": family,
            "ports": [{"name": port_name, "port": port}], "endpoints": [{"addresses": list(addresses), "conditions": conditions if conditions is not None else {"ready": True}}]}


def web(**more):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}], **more}}


def to(host, port):
    made = ingress(host.split(".")[0], host, service_name="web")
    made["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] = {"name": port} if isinstance(port, str) else {"number": port}
    return made


def test_ports_by_name_and_number(moongate, echo):
    one, two = echo("one"), echo("two")
    ports = [{"name": "http", "port": 80, "targetPort": "web-port"}, {"name": "admin", "port": 81, "targetPort": two.port}]
    slices = [one_slice("s", one.port, "1"), one_slice("s", two.port, "2", port_name="admin")]
    proxy = moongate({"app.json": [web(ports=ports), *slices], "ingress.json": [to("a.example", "http"), to("b.example", 81), to("c.example", "admin"), to("d.example", two.port), to("e.example", "web-port"),
                                                                              to("f.example", 82), to("g.example", "nothing")]}, expect_errors=["has no port", "status=503"])
    assert [served(proxy, f"{letter}.example") for letter in "abcdefg"] == ["one", "two", "two", "two", "one", 503, 503]


def test_a_port_without_a_name(moongate, echo):
    app = echo("one")
    bare = one_slice("s", app.port)
    del bare["ports"][0]["name"]
    proxy = moongate({"app.json": [web(ports=[{"port": 80, "targetPort": app.port}]), bare], "ingress.json": [to("a.example", 80)]})
    assert served(proxy) == "one"


def test_several_slices_are_one_upstream(moongate, echo):
    apps = [echo(f"pod-{n}") for n in range(3)]
    slices = [one_slice("s", app.port, str(n)) for n, app in enumerate(apps)]
    proxy = moongate({"app.json": [web()], "slices.json": [*slices, one_slice("s", apps[0].port, "twice")], "ingress.json": [to("a.example", 80)]}, workers=1)
    seen = [served(proxy) for _ in range(12)]
    assert {name: seen.count(name) for name in seen} == {"pod-0": 4, "pod-1": 4, "pod-2": 4}, "an address that is listed twice counts once"
    proxy.write("slices.json", slices[1:2])
    wait_until(lambda: {served(proxy) for _ in range(4)} == {"pod-1"}, what="one slice")
    proxy.write("slices.json", [])
    proxy.expect_errors += ["EndpointSlice", "status=503"]
    wait_until(lambda: served(proxy) == 503, what="none")


@pytest.mark.parametrize("conditions, is_used", [
    ({}, True), ({"ready": True}, True), ({"ready": False}, False), ({"ready": None}, True), ({"ready": False, "serving": True}, False), ({"ready": True, "serving": True, "terminating": False}, True),
    ({"ready": False, "serving": False, "terminating": True}, False), ({"serving": True}, True),
])
def test_conditions(moongate, echo, conditions, is_used):
    sure, maybe = echo("sure"), echo("maybe")
    proxy = moongate({"app.json": [web(), one_slice("s", sure.port, "1"), one_slice("s", maybe.port, "2", conditions=conditions)], "ingress.json": [to("a.example", 80)]}, workers=1)
    assert ({served(proxy) for _ in range(6)} == {"sure", "maybe"}) is is_used


def test_only_terminating_endpoints_still_serve(moongate, echo):
    app = echo("leaving")
    proxy = moongate({"app.json": [web(), one_slice("s", app.port, conditions={"ready": False, "serving": True, "terminating": True})], "ingress.json": [to("a.example", 80)]}, expect_errors=["."])
    assert served(proxy) in ("leaving", 503)


def test_endpoints_objects(moongate, echo):
    one, two = echo("one"), echo("two")

    def endpoints(*ports):
        return {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "web"}, "subsets": [{"addresses": [{"ip": "127.0.0.1"}], "ports": [{"name": "http", "port": port}]} for port in ports]}

    proxy = moongate({"app.json": [web()], "endpoints.json": [endpoints(one.port, two.port)], "ingress.json": [to("a.example", 80)]})
    assert {served(proxy) for _ in range(8)} == {"one", "two"}
    proxy.write("endpoints.json", [endpoints(one.port), one_slice("s", two.port)])
    wait_until(lambda: {served(proxy) for _ in range(8)} == {"two"}, what="slices to win over Endpoints")


def test_ipv6_endpoints(moongate):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        listen, address, family = "127.0.0.1", "127.0.0.1", "IPv4"  # a machine without IPv6
    else:
        listen, address, family = "[::1]", "::1", "IPv6"
    app = EchoAt(listen, "six")
    proxy = moongate({"app.json": [web(), one_slice("s", app.port, addresses=[address], family=family)], "ingress.json": [to("a.example", 80)]})
    assert served(proxy) == "six"
    app.stop()


def test_our_own_ports_are_no_endpoints(moongate):
    proxy = moongate({"app.json": [web()], "ingress.json": [to("a.example", 80)]}, expect_errors=["EndpointSlice", "our own listeners", "status=50"])
    for port in (proxy.http_port, proxy.health_port):
        proxy.write("slice.json", [one_slice("s", port)])
        wait_until(lambda: proxy.errors.find("our own listeners") or served(proxy) != 503, what="the refusal")
        assert served(proxy) == 503


# ---- ExternalName

class EchoAt(Echo):
    """An echo on an address that is not loopback's 127.0.0.1."""

    def __init__(self, address, name):
        self.name = name
        self.process = subprocess.Popen([BINARY, "echo", "--listen", f"{address}:0", "--name", name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.out = Lines(self.process.stdout)
        self.port = int(wait_until(lambda: self.out.find(r"listens on port (\d+)"), what="echo's port").group(1))


def external(name, port=80):
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"type": "ExternalName", "externalName": name, "ports": [{"port": port, "targetPort": port}]}}


def test_external_names_follow_the_name_server(moongate, dns):
    address = our_address()
    one = EchoAt(address, "outside")
    server = dns({"app.outside.example": [address]})
    proxy = moongate({"app.json": [external("app.outside.example.", one.port)], "ingress.json": [to("a.example", one.port)]}, flags=["--resolver", f"127.0.0.1:{server.port}"], expect_errors=["."])
    wait_until(lambda: served(proxy) == "outside", what="the name")
    server.names["app.outside.example"] = ["127.0.0.1"]
    wait_until(lambda: served(proxy) in (502, 503), what="a loopback address to be refused")
    wait_until(lambda: proxy.errors.find("resolves to a loopback"), what="the report")
    server.names["app.outside.example"] = [address]
    wait_until(lambda: served(proxy) == "outside", what="the name again")
    server.names["app.outside.example"] = None
    before = len(server.asked)
    wait_until(lambda: len(server.asked) > before + 1, what="another question")
    assert served(proxy) == "outside", "what was resolved last goes on serving"
    one.stop()


@pytest.mark.parametrize("name", ["nowhere.example", "localhost", "127.0.0.1", "x.localhost", "loop.example", "::1"])
def test_external_names_that_lead_nowhere(moongate, dns, name):
    server = dns({"loop.example": ["127.0.0.1"]})
    app = Echo("inside")
    proxy = moongate({"app.json": [external(name, app.port)], "ingress.json": [to("a.example", app.port)]}, flags=["--resolver", f"127.0.0.1:{server.port}"], expect_errors=["."])
    for _ in range(3):
        assert served(proxy) in (502, 503)
    app.stop()


def test_external_addresses_and_the_flag_against_them(moongate):
    address = our_address()
    app = EchoAt(address, "outside")
    manifests = {"app.json": [external(address, app.port)], "ingress.json": [to("a.example", app.port)]}
    assert served(moongate(manifests)) == "outside"
    assert served(moongate(manifests, flags=["--disable-svc-external-name"], expect_errors=["disable-svc-external-name", "status=503"])) == 503
    app.stop()


def test_a_service_that_comes_and_goes(moongate, echo):
    app = echo("one")
    proxy = moongate({"ingress.json": [to("a.example", 80)]}, expect_errors=["Service default/web", "status=503", "EndpointSlice"])
    assert served(proxy) == 503
    proxy.write("app.json", [web(), one_slice("s", app.port)])
    wait_until(lambda: served(proxy) == "one", what="the Service")
    proxy.remove("app.json")
    wait_until(lambda: served(proxy) == 503, what="its end")


def test_services_of_a_name_in_two_namespaces(moongate, echo):
    one, two = echo("one"), echo("two")

    def placed(namespace, *objects):
        for item in objects:
            item["metadata"]["namespace"] = namespace
        return list(objects)

    proxy = moongate({"app.json": [*placed("x", service("web"), *slice_of([one.port], name="web"), ingress("i", "x.example", service_name="web")),
                                   *placed("y", service("web"), *slice_of([two.port], name="web"), ingress("i", "y.example", service_name="web"))]})
    assert (served(proxy, "x.example"), served(proxy, "y.example")) == ("one", "two")
