"""Slow clients and slow upstreams: everything has a time, and what waits is bounded."""
import os
import re
import select
import socket
import time
from urllib.parse import quote, unquote

import pytest
from harness import wait_until
from hostile import CHUNKED, UPSTREAM_ERRORS, obedient, request, resident, statuses

MIB = 1024


@pytest.fixture(autouse=True)
def small_quarantine(monkeypatch):
    """What ASan keeps of freed memory is not growth."""
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64")


def settled(read, still=0.5):
    """What `read` gives when it has not changed for a while."""
    seen, since = read(), time.monotonic()

    def is_still():
        nonlocal seen, since
        now = read()
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > still

    wait_until(is_still, 30, "an end of the changes")
    return seen


def connect(proxy, window=None):
    client = socket.socket()
    if window:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
    client.settimeout(5)
    client.connect(("127.0.0.1", proxy.http_port))
    return client


def test_answers_that_nobody_reads_stop_the_requests_behind_them(through):
    """64 KiB wait at most; else 40 bytes of request could make us hold an answer of any number, each."""
    answered = []

    def script(_, connection):
        while True:
            answered.append(connection.read_head())
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"#" * 60000)

    proxy = through(script, workers=1)
    before = resident(proxy)
    with connect(proxy, 4096) as client:
        client.sendall(request() * 900)
        assert settled(lambda: len(answered)) < 200 and resident(proxy) < before + 16 * MIB
        assert proxy.request(host="foo.example").status == 200
        bodies = 0  # heads hold no such byte
        while bodies < 900 * 60000:
            bodies += client.recv(1 << 20).count(b"#")
    assert len(answered) == 901


def read_all(client):
    received = b""
    try:
        while True:
            part = client.recv(65536)
            if not part:
                return received
            received += part
    except ConnectionError:
        return received


SLOW = {
    "nothing": (b"", None), "a byte": (b"G", 408), "half a head": (request()[:-2], 408), "no body": (request(method="POST", headers="Content-Length: 5\r\n"), 408),
    "half a body": (request(method="POST", headers="Content-Length: 5\r\n", body=b"ab"), 408), "half a large body": (request(method="POST", headers="Content-Length: 500000\r\n", body=b"a" * 99999), 408),
    "half a chunk line": (request(method="POST", headers=CHUNKED, body=b"5"), 408), "half a chunk": (request(method="POST", headers=CHUNKED, body=b"5\r\nab"), 408),
    "no last chunk": (request(method="POST", headers=CHUNKED, body=b"2\r\nab\r\n"), 408), "half the trailers": (request(method="POST", headers=CHUNKED, body=b"0\r\nX: y\r\n"), 408),
    "not continued": (request(method="POST", headers="Expect: 100-continue\r\nContent-Length: 5\r\n"), 408),
}


def test_clients_that_stop_have_a_time(through):
    proxy = through(obedient, settings={"client-header-timeout": "1", "client-body-timeout": "1", "keep-alive": "1"})
    clients = {}
    for name, (data, _) in SLOW.items():
        clients[name] = connect(proxy)
        clients[name].sendall(data)
    wrong = {}
    for name, client in clients.items():
        with client:
            final = [status for status in statuses(read_all(client)) if status >= 200]
        if final != ([SLOW[name][1]] if SLOW[name][1] else []):
            wrong[name] = final
    assert not wrong
    wait_until(lambda: proxy.metric("moongate_connections") == 0, what="connections to end")


STALLS = {
    "nothing": (b"", [504]), "half a status line": (b"HTTP/1.", [504]), "half a head": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", [504]),
    "only 100": (b"HTTP/1.1 100 Continue\r\n\r\n", [504]), "no body": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", [200]),
    "half a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", [200]), "half a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", [200]),
    "no trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", [200]), "until close": (b"HTTP/1.0 200 OK\r\n\r\nab", [200]),
}


def test_upstreams_that_stall_have_a_time(through):
    """Whatever had come before must not look like a whole answer."""

    def script(_, connection):
        head = connection.read_head().decode()
        connection.send(STALLS[unquote(re.search(r"/(\S*) ", head).group(1))][0])
        connection.raw.recv(1)

    annotations = {"nginx.ingress.kubernetes.io/proxy-read-timeout": "1", "nginx.ingress.kubernetes.io/proxy-next-upstream": "off"}
    proxy = through(script, annotations, expect_errors=UPSTREAM_ERRORS)
    clients, wrong = {}, {}
    for name in STALLS:
        clients[name] = connect(proxy)
        clients[name].sendall(request("/" + quote(name), headers="Connection: close\r\n"))
    for name, client in clients.items():
        with client:
            client.settimeout(5)
            answer = read_all(client)
        if statuses(answer) != STALLS[name][1] or (answer.endswith(b"0\r\n\r\n")):
            wrong[name] = answer
    assert not wrong


def test_an_upstream_that_does_not_read_has_a_time(through):
    proxy = through(lambda _, connection: time.sleep(4), {"nginx.ingress.kubernetes.io/proxy-send-timeout": "1", "nginx.ingress.kubernetes.io/proxy-body-size": "0"},
                    expect_errors=UPSTREAM_ERRORS)
    before = resident(proxy)
    with connect(proxy) as client:
        client.sendall(request(method="POST", headers="Content-Length: 99000000\r\n"))
        client.setblocking(False)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            try:
                client.send(b"x" * 65536)
            except BlockingIOError:
                time.sleep(0.01)
            except ConnectionError:
                break
            if select.select([client], [], [], 0)[0]:
                break
        assert time.monotonic() < end
        client.setblocking(True)
        client.settimeout(3)
        assert statuses(client.recv(1000)) == [504]
    assert resident(proxy) < before + 16 * MIB
