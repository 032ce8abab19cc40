"""/metrics: ingress-nginx's families and ours, read by a strict reader of the format (exposition.py)."""
import contextlib
import datetime
import http.client
import re
import socket
import subprocess

import pytest
from exposition import one, parse, pick
from harness import ROOT, WebSocket, certificate, ingress, service, slice_of, tls_secret, wait_until
from test_start import one_line, run

PREFIX = "nginx_ingress_controller_"
REQUESTS = PREFIX + "requests"
HISTOGRAMS = ["request_duration_seconds", "response_duration_seconds", "connect_duration_seconds", "header_duration_seconds", "request_size", "response_size", "bytes_sent"]
LABELS = {"controller_class", "controller_namespace", "controller_pod", "host", "path", "namespace", "ingress", "service", "canary", "status", "method"}
ON = ["--enable-metrics"]


def metrics(proxy):
    answer = proxy.admin("/metrics")
    assert answer.status == 200 and answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    return parse(answer.text)


def counted(proxy, number, **labels):
    """The families once so many requests have these labels: an exchange counts a moment after its answer."""
    def look():
        families = metrics(proxy)
        found = sum(value for _, value in pick(families, REQUESTS, **labels))
        assert found <= number, (found, number, labels)
        return families if found == number else None
    return wait_until(look, what=f"{number} requests of {labels}")


def shop(app, *more, **options):
    return {"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress("shop", "foo.example", **options), *more]}


def test_off_unless_asked_for(moongate, echo, monkeypatch):
    monkeypatch.setenv("POD_NAME", "moongate-7")
    monkeypatch.setenv("POD_NAMESPACE", "edge")
    proxy = moongate(shop(echo()))
    assert proxy.request("/", "foo.example").status == 200
    wait_until(lambda: proxy.metric("moongate_exchanges_ended_total") == 1, what="the exchange to end")
    families = metrics(proxy)
    assert REQUESTS not in families and not any(PREFIX + name in families for name in HISTOGRAMS)
    constant = {"controller_class": "k8s.io/ingress-nginx", "controller_namespace": "edge", "controller_pod": "moongate-7"}
    process = PREFIX + "nginx_process_"
    for name in ("num_procs", "cpu_seconds_total", "resident_memory_bytes", "virtual_memory_bytes", "oldest_start_time_seconds", "read_bytes_total", "write_bytes_total", "requests_total"):
        assert [labels for labels, _ in pick(families, process + name)] == [constant]
    assert one(families, process + "num_procs") == 1 and one(families, process + "requests_total") == 1
    assert 0 < one(families, process + "cpu_seconds_total") < 60
    assert one(families, process + "virtual_memory_bytes") > one(families, process + "resident_memory_bytes") > 1 << 20
    now = datetime.datetime.now().timestamp()
    assert now - 300 < one(families, process + "oldest_start_time_seconds") <= now
    assert {labels["state"] for labels, _ in pick(families, process + "connections")} == {"active", "reading", "writing", "waiting"}
    assert one(families, process + "connections_total", state="accepted") == one(families, process + "connections_total", state="handled") == 1
    assert set(pick(families, PREFIX + "build_info")[0][0]) == {*constant, "release", "build", "repository"}
    assert one(families, PREFIX + "config_last_reload_successful") == 1 and one(families, PREFIX + "errors") == 0 and one(families, PREFIX + "success") >= 1
    assert now - 300 < one(families, PREFIX + "config_last_reload_successful_timestamp_seconds") <= now
    assert families[process + "cpu_seconds_total"].type == families[PREFIX + "success"].type == "counter"
    assert PREFIX + "leader_election_status" not in families  # no cluster, no election


def test_every_family_is_in_the_docs(moongate, echo, tmp_path):
    pem = certificate(tmp_path, "cert", ["foo.example"])
    manifests = {**shop(echo(), ingress("lost", "lost.example", service_name="nowhere"), tls="cert"), "secret.json": [tls_secret("cert", *pem)]}
    proxy = moongate(manifests, flags=ON, expect_errors=["nowhere"])
    assert proxy.request("/", "foo.example", https=True).status == 200
    documented = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    for name in counted(proxy, 1):
        if not name.startswith("moongate_limit_") and not re.fullmatch("moongate_answers_[234]xx_total", name):
            assert {name, name.removeprefix(PREFIX)} & documented, name


def test_requests(moongate, echo, monkeypatch):
    monkeypatch.setenv("POD_NAME", "moongate-0")
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    proxy = moongate(shop(echo(), ingress("lost", "lost.example", "/some", "nowhere")), flags=ON, expect_errors=["nowhere", "status=503"])
    sent = received = 0
    for _ in range(5):
        head = b"GET /some/where HTTP/1.1\r\nHost: Foo.Example:80\r\nConnection: close\r\n\r\n"
        sent, received = len(head), received + len(proxy.raw(head, half_close=False))
    assert proxy.request("/", "foo.example", method="POST", body=b"x" * 5000).status == 200
    assert proxy.request("/status/404", "foo.example").status == 404
    assert proxy.request("/some/where", "lost.example").status == 503
    assert proxy.request("/", "nobody.example").status == 404
    counted(proxy, 5, host="foo.example", method="GET", status="200")
    counted(proxy, 1, host="foo.example", method="POST", status="200")
    counted(proxy, 1, host="foo.example", method="GET", status="404")
    families = counted(proxy, 1, host="lost.example", status="503")
    assert families[REQUESTS].type == "counter" and len(families[REQUESTS].samples) == 4
    assert pick(families, REQUESTS, status="503")[0][0] == {
        "controller_class": "k8s.io/ingress-nginx", "controller_namespace": "default", "controller_pod": "moongate-0", "host": "lost.example", "path": "/some",
        "namespace": "default", "ingress": "lost", "service": "nowhere", "canary": "", "status": "503", "method": "GET"}
    for name in HISTOGRAMS:
        family = families[PREFIX + name]
        assert family.type == "histogram" and all({key for key, _ in labels} - {"le"} == LABELS for (_, labels), _ in family)
        assert one(families, PREFIX + name, "_count", host="foo.example", method="GET", status="200") == 5
        has_endpoint = name not in ("response_duration_seconds", "connect_duration_seconds", "header_duration_seconds")
        assert len(pick(families, PREFIX + name, "_count", host="lost.example")) == has_endpoint
    times = [labels["le"] for labels, _ in pick(families, PREFIX + "request_duration_seconds", "_bucket", status="404")]
    assert times == ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"]
    assert [labels["le"] for labels, _ in pick(families, PREFIX + "request_size", "_bucket", status="404")] == [str(n) for n in range(10, 101, 10)] + ["+Inf"]
    assert [labels["le"] for labels, _ in pick(families, PREFIX + "bytes_sent", "_bucket", status="404")][-3:] == ["1e+06", "1e+07", "+Inf"]
    mine = {"host": "foo.example", "method": "GET", "status": "200"}
    assert one(families, PREFIX + "request_size", "_sum", **mine) == 5 * sent
    assert one(families, PREFIX + "response_size", "_sum", **mine) == received == one(families, PREFIX + "bytes_sent", "_sum", **mine)
    assert one(families, PREFIX + "request_size", "_sum", method="POST") > 5000
    assert 0 < one(families, PREFIX + "response_duration_seconds", "_sum", **mine) <= one(families, PREFIX + "request_duration_seconds", "_sum", **mine) < 60


def test_times_are_where_they_belong(moongate, echo):
    proxy = moongate(shop(echo()), flags=ON + ["--time-buckets", "0.5,30"])
    assert proxy.request("/sleep/1", "foo.example").status == 200
    families = counted(proxy, 1)
    for name, low in (("request_duration_seconds", 0), ("response_duration_seconds", 0), ("header_duration_seconds", 0), ("connect_duration_seconds", 1)):
        assert [value for _, value in pick(families, PREFIX + name, "_bucket")] == [low, 1, 1], name


def test_counters_outlive_changes_and_go_with_their_ingress(moongate, echo):
    app = echo()
    proxy = moongate(shop(app, ingress("other", "foo.example", "/other")), flags=ON)
    assert proxy.request("/", "foo.example").status == 200
    counted(proxy, 1, ingress="shop")
    for number in range(3):  # the host is built anew each time
        proxy.write("ingress.json", [ingress("shop", "foo.example", annotations={"nginx.ingress.kubernetes.io/upstream-vhost": f"v{number}.example"}), ingress("other", "foo.example", "/other")])
        wait_until(lambda: proxy.echo("/", "foo.example")["lower"]["host"] == f"v{number}.example", what="the change")
    before = sum(value for _, value in pick(metrics(proxy), REQUESTS, ingress="shop"))
    assert before >= 4
    assert proxy.request("/other", "foo.example").status == 200
    counted(proxy, 1, ingress="other")
    proxy.write("ingress.json", [ingress("other", "foo.example", "/other")])
    wait_until(lambda: not pick(metrics(proxy), REQUESTS, ingress="shop"), what="its series to go")
    families = counted(proxy, 1, ingress="other")
    assert all(not pick(families, PREFIX + name, "_count", ingress="shop") for name in HISTOGRAMS)


def test_a_tunnel_counts_at_its_end(moongate, echo):
    proxy = moongate(shop(echo()), flags=ON)
    socket_ = WebSocket(proxy.http_port, "/ws", "foo.example")
    assert socket_.status == 101
    socket_.send(b"hello")
    assert socket_.receive()[1] == b"hello"
    proxy.write("ingress.json", [ingress("shop", "foo.example", annotations={"nginx.ingress.kubernetes.io/proxy-body-size": "1m"})])
    wait_until(lambda: proxy.metric("moongate_superseded_units") == 0 and proxy.metric("moongate_snapshot_generation") > 1, what="the change")
    assert not pick(metrics(proxy), REQUESTS)
    socket_.close()
    counted(proxy, 1, status="101", ingress="shop")


@pytest.mark.parametrize("flags, expected", [
    ([], {"foo.example": 1, "alias.example": 1, "*.wild.example": 1}),
    (["--metrics-per-undefined-host"], {"foo.example": 1, "alias.example": 1, "x.wild.example": 1, "nobody.example": 2}),
    (["--metrics-per-host=false"], {None: 5}),
])
def test_hosts(moongate, echo, flags, expected):
    proxy = moongate(shop(echo(), ingress("wild", "*.wild.example"), annotations={"nginx.ingress.kubernetes.io/server-alias": "alias.example"}), flags=ON + flags)
    for host in ("foo.example", "alias.example", "x.wild.example", "nobody.example", "nobody.example"):
        assert proxy.request("/", host).status in (200, 404)
    families = counted(proxy, sum(expected.values()))
    seen = {}
    for labels, value in pick(families, REQUESTS):
        host = labels.get("host")
        seen[host] = seen.get(host, 0) + value
        assert (labels["ingress"] == "") == (labels["status"] == "404")
    assert seen == expected


def test_what_is_reported_is_chosen_by_flags(moongate, echo):
    proxy = moongate(shop(echo()), flags=ON + ["--report-status-classes", "--length-buckets=100,10000", "--exclude-socket-metrics=bytes_sent,nginx_ingress_controller_connect_duration_seconds",
                                              "--exclude-socket-metrics=typo", "--bucket-factor=1.1", "--max-buckets=50"], expect_errors=["typo"])
    assert proxy.request("/status/204", "foo.example").status == 204 and proxy.request("/", "foo.example").status == 200
    families = counted(proxy, 2, status="2xx")
    assert PREFIX + "bytes_sent" not in families and PREFIX + "connect_duration_seconds" not in families and PREFIX + "header_duration_seconds" in families
    assert [labels["le"] for labels, _ in pick(families, PREFIX + "response_size", "_bucket")] == ["100", "10000", "+Inf"]
    assert proxy.errors.find(r"exclude-socket-metrics.*typo")
    assert len([line for line in proxy.errors.all() if "--bucket-factor" in line or "--max-buckets" in line]) == 2


def test_wrong_flags_are_one_clear_line(tmp_path):
    for flag, wrong in (("time-buckets", "0.1,fast"), ("length-buckets", "100,10"), ("size-buckets", "")):
        assert f"--{flag}" in one_line(run("--manifests", str(tmp_path), f"--{flag}={wrong}"))
    assert "--metrics-per-host" in one_line(run("--manifests", str(tmp_path), "--metrics-per-undefined-host", "--metrics-per-host=false"))


def test_odd_names_spoil_nothing(moongate, echo):
    proxy = moongate(shop(echo(), path='/a"b\\c', path_type="ImplementationSpecific"), flags=ON + ["--metrics-per-undefined-host"])
    assert proxy.request('/a%22b%5Cc', "foo.example").status == 200
    counted(proxy, 1, path='/a"b\\c')
    proxy.raw(b"GET / HTTP/1.1\r\nHost: x\xffy\"\r\nConnection: close\r\n\r\n")
    proxy.raw(b"PROPFIND / HTTP/1.1\r\nHost: foo.example\r\nConnection: close\r\n\r\n")
    proxy.raw(b"REPORT / HTTP/1.1\r\nHost: foo.example\r\nConnection: close\r\n\r\n")
    counted(proxy, 1, host="foo.example", method="PROPFIND")
    counted(proxy, 1, host="foo.example", method="other")


def test_a_long_page_is_read_slowly_or_not_to_its_end(moongate, echo):
    hosts = [f"h{number}.example" for number in range(150)]
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "ingress.json": [ingress(f"i{number}", host) for number, host in enumerate(hosts)]}, flags=ON)
    connection = http.client.HTTPConnection("127.0.0.1", proxy.http_port, timeout=10)
    with contextlib.closing(connection):
        for host in hosts:
            connection.request("GET", "/", headers={"Host": host})
            assert connection.getresponse().read()
    families = counted(proxy, len(hosts))
    assert len(pick(families, PREFIX + "header_duration_seconds", "_count")) == len(hosts)
    raw = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", proxy.health_port), 10) as leaves:
        leaves.sendall(raw)
        assert leaves.recv(1000)
    with socket.create_connection(("127.0.0.1", proxy.health_port), 10) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(raw)
        assert slow.recv(1000).startswith(b"HTTP/1.1 200")
        proxy.remove("ingress.json")  # what the page lists stays until it is written
        assert proxy.admin("/healthz").status == 200
        wait_until(lambda: proxy.metric("moongate_hosts") == 0, what="the hosts to go")
    assert proxy.admin("/healthz").text == "ok"
    head = http.client.HTTPConnection("127.0.0.1", proxy.health_port, timeout=10)
    with contextlib.closing(head):
        head.request("HEAD", "/metrics")
        assert head.getresponse().status == 200
    old = socket.create_connection(("127.0.0.1", proxy.health_port), 10)
    with old:
        old.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b""
        while part := old.recv(65536):
            text += part
    parse(text.partition(b"\r\n\r\n")[2].decode())
    assert not pick(metrics(proxy), REQUESTS)


def test_connections_by_state(moongate, echo):
    proxy = moongate(shop(echo()), workers=1)
    state = PREFIX + "nginx_process_connections"

    def are(**expected):
        families = metrics(proxy)
        return all(one(families, state, state=name) == value for name, value in expected.items())

    with socket.create_connection(("127.0.0.1", proxy.http_port), 10) as slow, socket.create_connection(("127.0.0.1", proxy.http_port), 10):
        wait_until(lambda: are(active=2, reading=0, writing=0, waiting=2), what="two idle connections")
        slow.sendall(b"GET /sleep/1 HTTP/1.1\r\nHost: foo.")
        wait_until(lambda: are(active=2, reading=1, writing=0, waiting=1), what="a head in part")
        slow.sendall(b"example\r\n\r\n")
        wait_until(lambda: are(active=2, reading=0, writing=1, waiting=1), what="a request in progress")
        assert slow.recv(4096).startswith(b"HTTP/1.1 200")
        slow.sendall(b"GET / HT")
        wait_until(lambda: are(active=2, reading=1, writing=0), what="the next head in part")
    wait_until(lambda: are(active=0, reading=0, writing=0, waiting=0), what="the end")


def test_configuration(moongate, echo):
    manifests = shop(echo())
    first, second = moongate(manifests), moongate(manifests)
    name = PREFIX + "config_hash"
    before = one(metrics(first), name)
    assert before and before == one(metrics(second), name) and before == int(before)
    changed = [ingress("shop", "foo.example"), ingress("more", "more.example")]
    good = one(metrics(first), PREFIX + "success")
    first.write("ingress.json", changed)
    first.wait_live("/", "more.example", lambda answer: answer.status == 200)
    families = metrics(first)
    assert one(families, name) != before and one(families, PREFIX + "success") > good
    second.write("more.json", changed[1:])  # in another file: the same in the end
    second.wait_live("/", "more.example", lambda answer: answer.status == 200)
    assert one(metrics(second), name) == one(families, name)
    second.remove("more.json")
    wait_until(lambda: one(metrics(second), name) == before, what="the hash of before")


def test_how_long_changes_take(moongate, echo):
    proxy = moongate(shop(echo()))
    live = "moongate_change_to_live_seconds"
    assert one(metrics(proxy), live, "_count") == 0  # the start is no change
    for number in range(3):
        proxy.write("ingress.json", [ingress("shop", "foo.example"), ingress("more", f"more{number}.example")])
        proxy.wait_live("/", f"more{number}.example", lambda answer: answer.status == 200)
    wait_until(lambda: one(metrics(proxy), live, "_count") >= 3, what="all workers to have it")
    families = metrics(proxy)
    assert 0.002 < one(families, live, "_sum") < 30
    assert one(families, live, "_bucket", le="0.001") == 0  # 2 ms are waited for what comes with it


def test_errors_of_policies(moongate, echo):
    bad = """return { name = "bad-one", summary = "Fails.", applies = "always", attach = function() return {} end,
      header_filter = function(exchange) if exchange.request.path == "/bad" then error("on purpose") end end }"""
    proxy = moongate(shop(echo()), policies={"bad_one.lua": bad}, expect_errors=["policy failed", "a policy failed"])
    family = "moongate_errors_of_policy_total"
    assert proxy.request("/", "foo.example").status == 200
    assert one(metrics(proxy), family, policy="bad-one") == 0
    for _ in range(2):
        assert proxy.request("/bad", "foo.example").status == 500
    families = metrics(proxy)
    assert one(families, family, policy="bad-one") == 2 and one(families, family, policy="ssl-redirect") == 0 and one(families, "moongate_hook_errors_total") == 2


def test_endpoints_by_state(moongate, echo):
    good, gone = echo(), echo()
    proxy = moongate({"app.json": [service(), *slice_of([good.port, gone.port])], "ingress.json": [ingress("shop", "foo.example")]})
    family = "moongate_endpoints"
    assert one(metrics(proxy), family, state="ready") == 2
    gone.stop()

    def failed():
        assert proxy.request("/", "foo.example").status == 200
        return one(metrics(proxy), family, state="failed") == 1

    wait_until(failed, what="the endpoint to be out")
    assert one(metrics(proxy), family, state="ready") == 1
    proxy.write("app.json", [service(), *slice_of([good.port]), *slice_of([gone.port], suffix="2", conditions={"ready": False, "serving": True, "terminating": True})])
    wait_until(lambda: one(metrics(proxy), family, state="ready") == 1 and one(metrics(proxy), family, state="failed") + one(metrics(proxy), family, state="draining") == 1, what="draining")
    proxy.write("app.json", [service(), *slice_of([good.port])])
    wait_until(lambda: sum(value for _, value in pick(metrics(proxy), family)) == 1, what="it to go")


def certificate_facts(pem, tmp_path):
    (tmp_path / "c.pem").write_text(pem)
    text = subprocess.run(["openssl", "x509", "-in", tmp_path / "c.pem", "-noout", "-serial", "-enddate"], check=True, capture_output=True, text=True).stdout
    fields = dict(line.split("=", 1) for line in text.splitlines())
    end = datetime.datetime.strptime(fields["notAfter"], "%b %d %H:%M:%S %Y %Z").replace(tzinfo=datetime.timezone.utc)
    return str(int(fields["serial"], 16)), int(end.timestamp())


def test_certificates(moongate, echo, tmp_path):
    first, other = certificate(tmp_path, "first", ["foo.example"]), certificate(tmp_path, "other", ["foo.example"])
    proxy = moongate({**shop(echo(), tls="cert"), "secret.json": [tls_secret("cert", *first)]})
    expiry, info = PREFIX + "ssl_expire_time_seconds", PREFIX + "ssl_certificate_info"
    for pem, _ in (first, other):
        serial, end = certificate_facts(pem, tmp_path)
        families = wait_until(lambda: (lambda found: found if pick(found, info, serial_number=serial) else None)(metrics(proxy)), what="the certificate")
        common = {"namespace": "default", "class": "k8s.io/ingress-nginx", "host": "foo.example", "secret_name": "cert", "identifier": f"-{serial}"}
        assert pick(families, expiry) == [(common, end)]
        name = "first" if pem == first[0] else "other"
        assert pick(families, info) == [({**common, "issuer_organization": "", "issuer_common_name": name, "serial_number": serial, "public_key_algorithm": "ECDSA"}, 1)]
        proxy.write("secret.json", [tls_secret("cert", *other)])
    proxy.write("ingress.json", [ingress("shop", "foo.example")])
    wait_until(lambda: expiry not in metrics(proxy) and info not in metrics(proxy), what="it to go")


def test_orphans(moongate, echo):
    app = echo()
    proxy = moongate({"app.json": [service(), *slice_of([app.port]), service("empty")],
                      "ingress.json": [ingress("good", "good.example"), ingress("lost", "lost.example", service_name="nowhere"), ingress("idle", "idle.example", service_name="empty")]},
                     expect_errors=["nowhere", "has no EndpointSlice"])
    family = PREFIX + "orphan_ingress"

    def orphans():
        return sorted((labels["namespace"], labels["ingress"], labels["type"], value) for labels, value in pick(metrics(proxy), family))

    assert orphans() == [("default", "idle", "no-endpoint", 1), ("default", "lost", "no-service", 1)]
    proxy.write("nowhere.json", [service("nowhere"), *slice_of([app.port], "nowhere")])
    wait_until(lambda: orphans() == [("default", "idle", "no-endpoint", 1)], what="its Service")
    proxy.write("late.json", [ingress("late", "late.example", service_name="empty")])
    wait_until(lambda: len(orphans()) == 2, what="another Ingress of the same Service")
    proxy.write("empty.json", slice_of([app.port], "empty"))
    wait_until(lambda: orphans() == [], what="an endpoint")
    proxy.remove("empty.json")
    wait_until(lambda: len(orphans()) == 2, what="the endpoint to go")
    proxy.remove("late.json")
    wait_until(lambda: orphans() == [("default", "idle", "no-endpoint", 1)], what="the Ingress to go")
