"""Authors of Ingresses and Services who mean harm to others: what they write is a report on their object, and nothing else is hurt."""
import re
import resource
import socket
import threading

import pytest
from harness import ingress, service, slice_of, wait_until
from hostile import obedient, request, statuses
from names import Dns
from test_services import external, our_address, to, web


def pump(source, sink):
    try:
        while part := source.recv(65536):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


class Relay:
    """A load balancer that we know nothing of: passes connections on to `port`, once that is set."""

    def __init__(self, address):
        self.listener = socket.create_server((address, 0), backlog=64)
        self.port, self.to, self.connections = self.listener.getsockname()[1], None, 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self.to))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    def close(self):
        self.listener.close()


def test_a_request_that_leads_back_to_us_ends(moongate):
    """One request made a connection for each pass, as long as there were files."""
    relay = Relay(our_address())
    proxy = moongate({"app.json": [external(our_address(), relay.port)], "ingress.json": [to("a.example", relay.port)]}, expect_errors=["leads back to us"])
    relay.to = proxy.http_port
    assert proxy.request("/", "a.example").status == 508
    assert relay.connections == 8 and proxy.metric("moongate_limit_passes_total") == 1
    relay.close()


def test_passes_are_counted_whatever_else_the_field_says(through):
    proxy = through(obedient)
    for value, status in (("cloudflare, moongate", 200), ("moongate, " * 7, 200), ("moongate, " * 8, 508), ("moongate\r\nCDN-Loop: x, moongate,moongate\r\n" + "CDN-Loop: moongate\r\n" * 5 + "X: y", 508)):
        proxy.expect_errors = ["leads back to us"]
        assert statuses(proxy.raw(request(headers=f"CDN-Loop: {value}\r\nConnection: close\r\n"), half_close=False)) == [status], value
    assert "CDN-Loop: cloudflare, moongate\r\n" in proxy.origin.heads[0], "an application of our own is not counted"


OURS = ["127.0.0.1", "127.8.8.8", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "ours"]


def test_no_address_of_this_host_leads_to_our_listeners(moongate):
    addresses = [our_address() if address == "ours" else address for address in OURS]
    proxy = moongate({"ingress.json": [to("slice.example", 80), ingress("ip", "ip.example", service_name="ip", annotations={"nginx.ingress.kubernetes.io/service-upstream": "true"})]},
                     expect_errors=["EndpointSlice", "our own listeners", "status=503", "does not exist", "has no port"])  # between two files
    for address in addresses:
        for port in (proxy.http_port, proxy.https_port, proxy.health_port):
            made = slice_of([port], "web")[0]
            made["addressType"] = "IPv6" if ":" in address else "IPv4"
            made["endpoints"][0]["addresses"] = [address]
            proxy.write("app.json", [web(), made, service("ip", port, clusterIP=address)])
            proxy.write("ingress.json", [to("slice.example", 80), ingress("ip", "ip.example", service_name="ip", port=port, annotations={"nginx.ingress.kubernetes.io/service-upstream": "true"}),
                                         ingress("mark", f"mark-{address.replace(':', '-').replace('.', '-')}-{port}.example", annotations={"nginx.ingress.kubernetes.io/permanent-redirect": "https://live.example/"})])
            wait_until(lambda: proxy.request("/", f"mark-{address.replace(':', '-').replace('.', '-')}-{port}.example").status == 301, what="the change")
            assert [proxy.request("/", host).status for host in ("slice.example", "ip.example")] == [503, 503], (address, port)


@pytest.mark.parametrize("name", ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "metadata.example", "ours.example", "0.0.0.0", "127.1", "2130706433", "0x7f.1", "LOCALHOST", "localhost."])
def test_names_outside_do_not_lead_inside(moongate, name):
    """Loopback, link-local (where clouds tell machines their secrets) and our own listeners, by address and by name."""
    server = Dns({"metadata.example": ["169.254.169.254", "127.0.0.1", "0.0.0.0"], "ours.example": [our_address(), "127.0.0.1"]})
    proxy = moongate({"app.json": []}, flags=["--resolver", f"127.0.0.1:{server.port}"], expect_errors=["."])
    proxy.write("app.json", [external(name, proxy.http_port), to("a.example", proxy.http_port)])
    wait_until(lambda: proxy.request("/", "a.example").status != 404, what="the Ingress")
    if name.endswith(".example"):
        wait_until(lambda: proxy.errors.find("(one of our own listeners|link-local address)"), what="the report")
    begun = [proxy.request("/", "a.example").status for _ in range(3)]
    assert set(begun) <= {502, 503}, begun
    assert not re.search("upstream failed", "\n".join(proxy.errors.all())), "nothing was dialled"
    server.close()


def in_namespace(objects, namespace):
    for one in objects:
        one["metadata"]["namespace"] = namespace
    return objects


def test_no_service_takes_the_place_of_another_namespaces(moongate, echo):
    """"a-b" and "c", "a" and "b-c": the names of both upstreams are a-b-c-80."""
    first, second = echo("first"), echo("second")
    victim = in_namespace([service("c"), *slice_of([first.port], "c"), ingress("one", "one.example", service_name="c")], "a-b")
    hostile = in_namespace([service("b-c"), *slice_of([second.port], "b-c"), ingress("two", "two.example", service_name="b-c")], "a")
    for early, late in ((victim, hostile), (hostile, victim)):
        proxy = moongate({"early.json": early}, workers=1)
        proxy.write("late.json", late)
        wait_until(lambda: proxy.request("/", late[-1]["spec"]["rules"][0]["host"]).status == 200, what="the later one")
        for _ in range(3):
            assert [proxy.request("/", host).header("x-echo-name") for host in ("one.example", "two.example")] == ["first", "second"]
        wait_until(lambda: len([line for line in proxy.access.all() if "[a-b-c-80]" in line]) >= 6, what="the log, which calls both by their name")


FORGERY = 'a" level=error message="forged\nlevel=error\r\0\x1b[31m'


def test_what_authors_write_is_one_field_of_a_log_line(through):
    proxy = through(obedient, expect_errors=["finding"])
    objects = [ingress(FORGERY, "a.example"), ingress("b", FORGERY), ingress("c", "c.example", "/" + FORGERY, path_type="Exact"), ingress("d", "d.example", service_name=FORGERY),
               ingress("e", "e.example", annotations={"nginx.ingress.kubernetes.io/permanent-redirect": FORGERY}), ingress("f", "f.example", class_name=FORGERY), service(FORGERY),
               ingress("g", "g.example", "/(" + FORGERY, annotations={"nginx.ingress.kubernetes.io/use-regex": "true"}, path_type="ImplementationSpecific"),
               ingress("last", "last.example", annotations={"nginx.ingress.kubernetes.io/permanent-redirect": "https://x/"})]
    proxy.write("evil.json", objects)
    wait_until(lambda: proxy.request("/", "last.example").status == 301, what="the objects")
    wait_until(lambda: proxy.errors.find("forged"), what="reports")
    for line in proxy.errors.all():
        bare = re.sub(r'"(\\.|[^"\\])*"', '""', line)
        assert line.startswith("time=") and not re.search(r"[\x00-\x1f\x7f]", line) and bare.count("level=") == bare.count("message=") == 1, line


def test_a_change_is_not_lost_while_there_are_no_files_left(through):
    """Clients can take all descriptors for a while; a manifest that comes then is read later, without being touched again."""
    proxy = through(obedient, expect_errors=["cannot be read: Too many open files"])
    limits = resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    proxy.write("late.json", [ingress("late", "late.example")])
    wait_until(lambda: proxy.errors.find("late.json: cannot be read"), what="the report")
    resource.prlimit(proxy.process.pid, resource.RLIMIT_NOFILE, limits)
    wait_until(lambda: statuses(proxy.raw(request(host="late.example", headers="Connection: close\r\n"), half_close=False)) == [200], what="the retry")
    assert len([line for line in proxy.errors.all() if "late.json" in line]) == 1


@pytest.mark.parametrize("path", ["x", "~x", "^/x", "/" + "a" * 2048, "/" + "\\E" * 1023 + "(", "/(" * 100, "/" + "(" * 300, "/\\", "/a{1,65535}{1,65535}", "/(?<a>x)(?<a>y)", "/(?R)", "/[[:x:]]"])
def test_no_path_of_a_host_holds_up_the_others(moongate, echo, path):
    """Whoever may write an Ingress may name any host: what cannot be served of it stands alone."""
    hostile = [ingress(f"evil-{kind}", "shared.example", path, annotations=annotations, path_type="ImplementationSpecific")
               for kind, annotations in (("plain", {}), ("regex", {"nginx.ingress.kubernetes.io/use-regex": "true"}), ("rewrite", {"nginx.ingress.kubernetes.io/rewrite-target": "/$1"}))]
    proxy = moongate({"app.json": [service(), *slice_of([echo().port])], "a.json": [ingress("a", "shared.example", "/a")], "evil.json": hostile}, expect_errors=["evil"])
    assert proxy.request("/a", "shared.example").status == 200
    proxy.write("b.json", [ingress("b", "shared.example", "/b")])
    proxy.wait_live("/b", "shared.example", lambda answer: answer.status == 200)
    assert proxy.errors.find("Ingress default/evil-regex")
