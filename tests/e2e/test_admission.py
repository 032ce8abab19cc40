"""The admission webhook over real TLS: what it answers, what it refuses to read, its certificate, and that it keeps nobody waiting."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading

import harness
import pytest
from harness import certificate, ingress, service, slice_of, wait_until
from worlds import running

PATH = "/networking/v1/ingresses"
BODY_LIMIT = 3 * 1024 * 1024


def review(host="new.example", uid="u-1", operation="CREATE", name="new", **more):
    made = ingress(name, host, namespace="default", **more)
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {"uid": uid, "operation": operation, "namespace": "default", "name": name, "object": made,
                        "resource": {"group": "networking.k8s.io", "version": "v1", "resource": "ingresses"}}}


class Pair:
    """A certificate and its key as kubelet mounts a Secret: files that are links into a directory that is swapped."""

    def __init__(self, folder, hosts=("webhook.test",)):
        self.folder, self.hosts, self.version = folder / "mounted", hosts, 0
        self.folder.mkdir()
        self.swap()
        for name in ("cert", "key"):
            (self.folder / name).symlink_to(f"..data/{name}")

    def swap(self, cert=None, key=None):
        self.version += 1
        made = certificate(self.folder.parent, f"pair-{self.version}", self.hosts)
        version = self.folder / f"..{self.version}"
        version.mkdir()
        (version / "cert").write_text(cert if cert is not None else made[0])
        (version / "key").write_text(key if key is not None else made[1])
        (self.folder / "..new").symlink_to(version.name)
        (self.folder / "..new").rename(self.folder / "..data")
        return made[0]

    def flags(self, listen="127.0.0.1:0"):
        return ["--validating-webhook", listen, "--validating-webhook-certificate", str(self.folder / "cert"), "--validating-webhook-key", str(self.folder / "key")]


def port_of(proxy):
    return int(wait_until(lambda: proxy.errors.find(r'admission webhook listens.* port=(\d+)'), what="the webhook's port").group(1))


def context_for(pem, **more):
    context = ssl.create_default_context(cadata=pem)
    for key, value in more.items():
        setattr(context, key, value)
    return context


class Client:
    """One connection, verified."""

    def __init__(self, port, context=None, timeout=30):
        if context is None:
            context = ssl._create_unverified_context()
        self.socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout), server_hostname="webhook.test")
        self.connection = http.client.HTTPSConnection("webhook.test", port)
        self.connection.sock = self.socket

    def request(self, method, path, body=None, headers=None):
        self.connection.request(method, path, body, headers or {})
        response = self.connection.getresponse()
        return harness.Answer(response.status, response.getheaders(), response.read())

    def ask(self, asked, **headers):
        body = asked if isinstance(asked, (str, bytes)) else json.dumps(asked)
        return self.request("POST", PATH, body, {"Content-Type": "application/json", **headers})

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def manifests():
    return {"app.json": [service(), *slice_of([9])], "old.json": [ingress("old", "old.example", ["/", "/shop"])]}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("webhook"))
    with running(manifests(), flags=pair.flags(), expect_errors=["admission review not answered", "no-such-file"]) as proxy:
        proxy.pair, proxy.webhook = pair, port_of(proxy)
        yield proxy


def unverified(world):
    return Client(world.webhook)


def test_it_answers_over_a_verified_connection_again_and_again(world):
    pem = world.pair.swap()
    context = context_for(pem)
    context.set_alpn_protocols(["h2", "http/1.1"])  # as a Go client offers them
    with Client(world.webhook, context) as client:
        assert client.socket.selected_alpn_protocol() == "http/1.1"
        for number in range(20):
            answer = client.ask(review(uid=f"u-{number}"))
            assert (answer.status, answer.header("content-type")) == (200, "application/json")
            assert answer.json == {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {"uid": f"u-{number}", "allowed": True}}
        refused = client.ask(review(annotations={"nginx.ingress.kubernetes.io/ssl-redirect": "maybe"})).json["response"]
        assert refused["allowed"] is False and refused["status"]["code"] == 400
        assert refused["status"]["message"] == "ssl-redirect: maybe is neither true nor false"
        warned = client.ask(review(service_name="none")).json["response"]
        assert warned["allowed"] and warned["warnings"] == ["Service default/none does not exist: its routes answer 503"]
        taken = client.ask(review("old.example", path="/shop")).json["response"]
        assert taken["status"]["message"] == "host old.example, path /shop (prefix): Ingress default/old has it already"
        assert client.request("GET", "/healthz").text == "ok"


def test_it_knows_what_changed_a_moment_ago(world):
    with unverified(world) as client:
        assert client.ask(review("later.example")).json["response"]["allowed"]
        world.write("later.json", [ingress("later", "later.example")])
        wait_until(lambda: not client.ask(review("later.example")).json["response"]["allowed"], what="the path to be taken")
        world.remove("later.json")
        wait_until(lambda: client.ask(review("later.example")).json["response"]["allowed"], what="the path to be free")


def test_it_counts(world):
    before = {name: world.metric(f"moongate_reviews_{name}_total") for name in ("allowed", "refused", "unanswered")}
    with unverified(world) as client:
        client.ask(review())
        client.ask(review(annotations={"nginx.ingress.kubernetes.io/ssl-redirect": "maybe"}))
        client.ask("{}")
    assert {name: world.metric(f"moongate_reviews_{name}_total") for name in before} == {name: count + 1 for name, count in before.items()}


@pytest.mark.parametrize("method,path,headers,body,status", [
    ("GET", "/healthz", {}, None, 200),
    ("HEAD", "/healthz", {}, None, 200),
    ("POST", "/healthz", {}, "x", 405),
    ("GET", "/healthzz", {}, None, 404),
    ("POST", "/", {"Content-Type": "application/json"}, "{}", 404),
    ("POST", PATH + "/x", {"Content-Type": "application/json"}, "{}", 404),
    ("GET", PATH, {}, None, 405),
    ("PUT", PATH, {"Content-Type": "application/json"}, "{}", 405),
    ("POST", PATH, {}, "{}", 415),
    ("POST", PATH, {"Content-Type": "text/plain"}, "{}", 415),
    ("POST", PATH, {"Content-Type": "application/json; charset=utf-8"}, "{}", 400),
    ("POST", PATH, {"Content-Type": "application/json"}, "", 400),
    ("POST", PATH, {"Content-Type": "application/json"}, "{" * 200000, 400),
    ("POST", PATH, {"Content-Type": "application/json"}, b"\x00\xff\xfe" * 1000, 400),
    ("POST", PATH, {"Content-Type": "application/json"}, '{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}', 400),
])
def test_what_is_no_review_is_told_so(world, method, path, headers, body, status):
    with unverified(world) as client:
        answer = client.request(method, path, body, headers)
        assert answer.status == status
        if status == 405:
            assert answer.header("allow")
        assert client.ask(review()).status == 200  # the connection lives on


def test_a_body_is_kept_up_to_the_limit(world):
    before = world.metric("moongate_limit_review_bytes_total")
    with unverified(world) as client:
        big = json.dumps(review(annotations={"other.example/x": "y" * 10}))
        client.ask(big + " " * (BODY_LIMIT - len(big)))
        assert client.ask(big + " " * (BODY_LIMIT - len(big))).status == 200
    with unverified(world) as client:
        assert client.ask(" " * (BODY_LIMIT + 1)).status == 413

    def chunks():
        for _ in range(BODY_LIMIT // 65536 + 1):
            yield b" " * 65536

    with unverified(world) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError, ssl.SSLError):  # it need not read it all
            client.connection.request("POST", PATH, chunks(), {"Content-Type": "application/json", "Transfer-Encoding": "chunked"}, encode_chunked=True)
        assert client.connection.getresponse().status == 413
    assert world.metric("moongate_limit_review_bytes_total") == before + 2


def test_what_is_no_http_or_no_tls_is_closed(world):
    for data in (b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01" + b"\xff" * 100, os.urandom(1000)):
        with socket.create_connection(("127.0.0.1", world.webhook), 5) as raw:
            with contextlib.suppress(OSError):
                raw.sendall(data)
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(4096):
                    pass
    with unverified(world) as client:
        client.socket.sendall(b"garbage\r\n\r\n")
        assert client.socket.recv(4096).startswith(b"HTTP/1.1 400")
    with unverified(world) as client:
        assert client.request("GET", "/healthz").status == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_protocols_are_refused(world):
    old = ssl._create_unverified_context()
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Client(world.webhook, old)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl._create_unverified_context()
        context.minimum_version = context.maximum_version = version
        with Client(world.webhook, context) as client:
            assert client.ask(review()).status == 200


def test_many_ask_at_once(world):
    """More than are judged at once: each gets its own answer."""

    def one(number):
        with Client(world.webhook) as client:
            answers = []
            for turn in range(3):
                bad = (number + turn) % 2 == 1
                annotations = {"nginx.ingress.kubernetes.io/ssl-redirect": "maybe" if bad else "true"}
                response = client.ask(review(uid=f"{number}-{turn}", annotations=annotations)).json["response"]
                answers.append(response["uid"] == f"{number}-{turn}" and response["allowed"] is not bad)
            return all(answers)

    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert all(pool.map(one, range(100)))


def test_more_than_are_read_at_once_wait_in_line(world):
    """64 bodies that do not end, and one more: it is read as soon as one of them is done."""
    before = world.metric("moongate_limit_reviews_total")
    body = json.dumps(review()).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    slow = [Client(world.webhook) for _ in range(64)]
    for one in slow:
        one.socket.sendall(head + body[:10])
    last = Client(world.webhook)
    wait_until(lambda: [last.request("GET", "/healthz").status], what="health while others are read")
    last.socket.sendall(head + body)
    wait_until(lambda: world.metric("moongate_limit_reviews_total") == before + 1, what="the line")
    last.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        last.socket.recv(4096)
    last.socket.settimeout(30)
    slow[0].socket.sendall(body[10:])
    assert slow[0].socket.recv(4096).startswith(b"HTTP/1.1 200")
    assert last.socket.recv(4096).startswith(b"HTTP/1.1 200")
    for one in [*slow, last]:
        one.close()
    with unverified(world) as client:
        assert client.ask(review()).status == 200


def test_a_body_that_does_not_come_is_not_waited_for(world):
    before = world.metric("moongate_limit_review_ms_total")
    with unverified(world) as client:
        client.socket.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{".encode())
        assert client.socket.recv(4096).startswith(b"HTTP/1.1 408")
    wait_until(lambda: world.errors.find("admission review not answered.*status=408"), what="the report")
    assert world.metric("moongate_limit_review_ms_total") == before + 1


def test_connections_have_a_limit(world):
    """At 512 accepting pauses; the next one is served when one leaves."""
    before = world.metric("moongate_limit_review_connections_total")
    held = [socket.create_connection(("127.0.0.1", world.webhook), 5) for _ in range(512)]
    wait_until(lambda: world.metric("moongate_limit_review_connections_total") == before + 1, what="the pause")
    served = threading.Event()

    def late():
        with Client(world.webhook) as client:
            assert client.ask(review()).status == 200
            served.set()

    thread = threading.Thread(target=late)
    thread.start()
    assert not served.wait(0.2)
    held.pop().close()
    assert served.wait(20)
    thread.join()
    for one in held:
        one.close()


def test_askers_that_leave_are_forgotten(world):
    body = json.dumps(review()).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    for part in (head[:30], head, head + body[:50], head + body):
        for _ in range(5):
            client = Client(world.webhook)
            client.socket.sendall(part)
            client.close()
    with unverified(world) as client:
        assert client.ask(review()).status == 200


# ---- the certificate

def subject(port):
    with Client(port) as client:
        return client.socket.getpeercert(True)


def test_a_new_certificate_is_taken_and_a_broken_one_is_not(moongate, tmp_path):
    pair = Pair(tmp_path)
    proxy = moongate(manifests(), flags=pair.flags(), expect_errors=["certificate refused"])
    port = port_of(proxy)
    with Client(port) as old:
        newer = ssl.PEM_cert_to_DER_cert(pair.swap())
        assert subject(port) == newer
        assert old.ask(review()).status == 200  # who is connected stays
    assert proxy.errors.find("certificate changed")
    pair.swap(key="-----BEGIN PRIVATE KEY-----\nbm9uZQ==\n-----END PRIVATE KEY-----\n")
    for _ in range(3):
        assert subject(port) == newer
    wait_until(lambda: proxy.errors.find("certificate refused, the one before stays"), what="the report")
    assert len([line for line in proxy.errors.all() if "certificate refused" in line]) == 1
    pair.swap(cert=pathlib.Path(pair.folder / "cert").read_text())  # a key of another certificate
    assert subject(port) == newer
    wait_until(lambda: len([line for line in proxy.errors.all() if "certificate refused" in line]) == 2, what="the second report")
    newest = ssl.PEM_cert_to_DER_cert(pair.swap())
    assert subject(port) == newest


def test_traffic_does_not_wait_for_the_certificate(moongate, echo, tmp_path):
    app = echo()
    flags = ["--validating-webhook", "127.0.0.1:0", "--validating-webhook-certificate", str(tmp_path / "cert"), "--validating-webhook-key", str(tmp_path / "key")]
    proxy = moongate({"app.json": [service(), *slice_of([app.port])], "i.json": [ingress("a", "a.example")]}, flags=flags, expect_errors=["no certificate"])
    assert proxy.request("/", "a.example").status == 200
    assert proxy.errors.find("no certificate, handshakes are refused.*No such file")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Client(port_of(proxy))
    pem, key = certificate(tmp_path, "made", ["webhook.test"])
    (tmp_path / "key").write_text(key)
    (tmp_path / "cert").write_text(pem)
    with Client(port_of(proxy), context_for(pem)) as client:
        assert client.ask(review()).status == 200


# ---- start and end

def start(*flags):
    return subprocess.Popen([harness.BINARY, "run", "--http-port", "0", "--https-port", "0", "--healthz-port", "0", "--bind-address", "127.0.0.1", "--workers", "1", *flags],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=harness.ROOT)


@pytest.mark.parametrize("flags,said", [
    (["--validating-webhook", ":0"], "needs --validating-webhook-certificate and --validating-webhook-key"),
    (["--validating-webhook", "nowhere", "--validating-webhook-certificate", "c", "--validating-webhook-key", "k"], '"nowhere" is not ADDR:PORT or :PORT'),
])
def test_a_start_that_cannot_be_says_why(tmp_path, flags, said):
    process = start("--manifests", str(tmp_path), *flags)
    assert said in process.communicate(timeout=20)[1].decode()
    assert process.returncode != 0


def test_a_port_in_use_ends_the_start(tmp_path):
    pair = Pair(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start("--manifests", str(tmp_path / "mounted"), *pair.flags(f"127.0.0.1:{taken.getsockname()[1]}"))
        assert re.search(r"cannot listen on 127.0.0.1:\d+ for the admission webhook: [Aa]ddress already in use", process.communicate(timeout=20)[1].decode())
    assert process.returncode != 0


def test_all_addresses(moongate, tmp_path):
    pair = Pair(tmp_path)
    proxy = moongate(manifests(), flags=pair.flags(":0"))
    with Client(port_of(proxy)) as client:
        assert client.ask(review()).status == 200
    if socket.has_ipv6:
        with contextlib.closing(socket.create_connection(("::1", port_of(proxy)), 5)):
            pass


def test_before_the_first_sync_there_is_no_answer(tmp_path):
    """An API server that accepts and says nothing: health is answered, and a review gets 500 at once."""
    pair = Pair(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = start("--apiserver-host", f"http://127.0.0.1:{silent.getsockname()[1]}", *pair.flags())
        try:
            errors = harness.Lines(process.stderr)
            port = int(wait_until(lambda: errors.find(r"admission webhook listens.* port=(\d+)"), what="the port").group(1))
            with Client(port) as client:
                assert client.request("GET", "/healthz").status == 200
                answer = client.ask(review())
                assert (answer.status, answer.text) == (500, "the first sync is not over")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.wait()


def test_the_end_leaves_no_asker_hanging(tmp_path):
    """SIGTERM while connections are idle, half asked and in a handshake: the process ends cleanly."""
    pair = Pair(tmp_path)
    proxy = harness.Moongate(manifests(), flags=pair.flags())
    try:
        port = port_of(proxy)
        idle, half = Client(port), Client(port)
        assert idle.ask(review()).status == 200
        half.socket.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{".encode())
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            proxy.stop()
            assert raw.recv(100) == b""
        for one in (idle, half):
            with contextlib.suppress(OSError):
                assert one.socket.recv(100) == b""
            one.close()
    finally:
        proxy.kill()
        shutil.rmtree(proxy.folder, ignore_errors=True)
