"""An authentication service that is killed, slow, lying, redirecting or answers 100 MB: its guard stays closed, and everyone else is served."""
import contextlib
import socket
import threading
import time

import pytest
from harness import Echo, service, slice_of, wait_until
from origin import Origin
from worlds import case, running

OPEN = b"HTTP/1.1 200 OK\r\nX-User: ann\r\nContent-Length: 0\r\n\r\n"

# No answer that lets in, however its bytes are read.
LIES = {
    "nothing": b"", "a line": b"OK\r\n\r\n", "no status": b"HTTP/1.1\r\n\r\n", "two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", "four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "letters": b"HTTP/1.1 2xx OK\r\nContent-Length: 0\r\n\r\n", "letters behind": b"HTTP/1.1 200OK\r\nContent-Length: 0\r\n\r\n", "sign": b"HTTP/1.1 +200 OK\r\nContent-Length: 0\r\n\r\n",
    "blanks": b"HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", "999": b"HTTP/1.1 999 No\r\nContent-Length: 0\r\n\r\n", "000": b"HTTP/1.1 000 No\r\nContent-Length: 0\r\n\r\n",
    "600": b"HTTP/1.1 600 No\r\nContent-Length: 0\r\n\r\n", "100 alone": b"HTTP/1.1 100 Continue\r\n\r\n", "switch": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
    "HTTP/0.9": b"<html>welcome</html>", "HTTP/2": b"HTTP/2 200\r\nContent-Length: 0\r\n\r\n", "HTTP/9.9": b"HTTP/9.9 200 OK\r\nContent-Length: 0\r\n\r\n",
    "ICY": b"ICY 200 OK\r\n\r\n", "RTSP": b"RTSP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "head cut": b"HTTP/1.1 200 OK\r\nContent-Le", "no end of the head": b"HTTP/1.1 200 OK\r\nX-User: ann\r\n", "body cut": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    "chunks cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nabc\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n", "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "length of words": b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "coding of its own": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: rot13\r\n\r\n0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bare CR": b"HTTP/1.1 200 OK\r\nX-A: b\rX-User: admin\r\nContent-Length: 0\r\n\r\n", "NUL": b"HTTP/1.1 200 OK\r\nX-A: b\0c\r\nContent-Length: 0\r\n\r\n",
    "folded": b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 0\r\n\r\n", "blank before the colon": b"HTTP/1.1 200 OK\r\nX-User : admin\r\nContent-Length: 0\r\n\r\n",
    "no colon": b"HTTP/1.1 200 OK\r\nX-User\r\nContent-Length: 0\r\n\r\n",
    "a large head": b"HTTP/1.1 200 OK\r\nX-A: " + b"x" * 100000 + b"\r\nContent-Length: 0\r\n\r\n", "many fields": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 5000 + b"Content-Length: 0\r\n\r\n",
    "denial, then approval": b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n" + OPEN, "redirect": b"HTTP/1.1 302 Found\r\nLocation: /open\r\nContent-Length: 0\r\n\r\n", "TLS": b"\x15\x03\x01\0\x02\x02\x28",
    "redirect by 300": b"HTTP/1.1 300 Choose\r\nLocation: /open\r\nContent-Length: 0\r\n\r\n", "refresh": b"HTTP/1.1 304 Not Modified\r\n\r\n",
}
MODES = ("reset", "redirect", "large", "endless", "slow", "drip", "killed")
AT_ONCE, WAITING = MODES[:4], MODES[4:]


class Auth(Origin):
    """Does to everybody what `mode` says; `lie` is sent as it is."""

    def __init__(self):
        self.mode, self.lie, self.open = "open", b"", []
        super().__init__(Auth.serve)

    def serve(self, connection):
        self.open.append(connection.raw)
        connection.raw.settimeout(60)
        while True:
            path = connection.read_head().split(b" ")[1]
            mode = "open" if path == b"/open" else self.mode
            if mode == "open":
                connection.send(OPEN)
                continue
            if mode == "redirect":
                connection.send(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/open\r\nContent-Length: 0\r\n\r\n" % self.port)
                continue
            if mode == "lie":
                connection.send(self.lie)
            elif mode == "reset":
                connection.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif mode in ("slow", "killed"):
                while connection.raw.recv(4096):
                    pass
            elif mode == "drip":
                for byte in OPEN:
                    connection.send(bytes([byte]))
                    time.sleep(0.5)  # what it is about
            elif mode in ("large", "endless"):
                connection.send(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 104857600\r\n\r\n" if mode == "large" else b"\r\n"))
                with contextlib.suppress(OSError):
                    for _ in range(1600):
                        connection.send(b"x" * 65536)
            return

    def kill(self):
        for one in (self.listener, *self.open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def world():
    app, auths = Echo("app"), {name: Auth() for name in ("guarded", "other", *MODES)}
    ingresses = [case("plain.example"), case("signin.example", auth_url=f"http://127.0.0.1:{auths['guarded'].port}/check", auth_signin="https://login.example/")]
    ingresses += [case(f"{name}.example", auth_url=f"http://127.0.0.1:{one.port}/check", auth_response_headers="X-User") for name, one in auths.items()]
    with running({"app.json": [service(), *slice_of([app.port])], "ingress.json": ingresses}, [app], expect_errors=["status=50[0-4]", "policy failed"]) as it:
        it.auths = auths
        yield it
    for one in auths.values():
        one.close()
        assert not one.errors


@pytest.mark.parametrize("name", LIES)
def test_lies_open_nothing(world, name):
    auth = world.auths["guarded"]
    auth.mode, auth.lie = "lie", LIES[name]
    for host in ("guarded.example", "signin.example"):
        answer = world.request("/", host, headers={"X-User": "admin"})
        assert answer.status == 500, answer.text
    auth.mode = "open"
    assert world.request("/", "guarded.example").status == 200


class Load:
    """Threads that ask one host after the other until the end: statuses and times by host."""

    def __init__(self, proxy, hosts, threads):
        self.proxy, self.hosts, self.seen, self.is_over = proxy, hosts, {host: [] for host in hosts}, threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(threads)]
        for one in self.threads:
            one.start()

    def run(self):
        while not self.is_over.is_set():
            for host in self.hosts:
                began = time.monotonic()
                status = self.proxy.request("/", f"{host}.example", headers={"X-User": "admin"}, timeout=30).status
                self.seen[host].append((status, time.monotonic() - began))

    def end(self):
        self.is_over.set()
        for one in self.threads:
            one.join()
        return self.seen


def p99(seen):
    times = sorted(took for _, took in seen)
    return times[len(times) * 99 // 100]


def statuses(seen):
    return {status for status, _ in seen}


def waiting_requests(proxy, stack, host, count):
    made = [stack.enter_context(socket.create_connection(("127.0.0.1", proxy.http_port), 30)) for _ in range(count)]
    for one in made:
        one.sendall(b"GET / HTTP/1.1\r\nHost: %s.example\r\n\r\n" % host.encode())
    return made


def test_every_guard_stays_closed_and_everyone_else_is_served(world):
    # The same load while all services are well.
    guards, others = Load(world, MODES, 2), Load(world, ("plain", "other"), 2)
    wait_until(lambda: len(others.seen["other"]) >= 200, 60, "requests of the good times")
    before = others.end()
    assert {name: statuses(seen) for name, seen in guards.end().items()} == {name: {200} for name in MODES}
    for name in MODES:
        world.auths[name].mode = name
    with contextlib.ExitStack() as stack:
        held = {name: waiting_requests(world, stack, name, 60) for name in WAITING}
        wait_until(lambda: world.metric("moongate_hooks_waiting") == 60 * len(WAITING), what="requests that wait")
        guards, others = Load(world, AT_ONCE, 2), Load(world, ("plain", "other"), 2)
        world.auths["killed"].kill()
        answers = {name: {one.recv(12) for one in held[name]} for name in WAITING[::-1]}  # as long as we wait for the slowest
        seen, during = guards.end(), others.end()
    assert answers == {name: {b"HTTP/1.1 500"} for name in WAITING}
    assert {name: statuses(one) for name, one in seen.items()} == {name: {500} for name in AT_ONCE}
    assert world.request("/", "killed.example").status == 500
    assert {name: statuses(one) for name, one in during.items()} == {"plain": {200}, "other": {200}}
    for name, one in during.items():
        assert len(one) > 200 and p99(one) < 3 * p99(before[name]) + 0.05, (p99(one), p99(before[name]))
    print({name: (len(one), round(p99(one) * 1000, 2), round(p99(before[name]) * 1000, 2)) for name, one in during.items()})
    for name in MODES[:-1]:
        world.auths[name].mode = "open"
        assert world.request("/", f"{name}.example").status == 200
