"""Slow clients and slow upstreams: everything has a time, and what waits is bounded."""
import os
import socket
import time

import pytest
from harness import wait_until
from hostile import request, resident

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
            connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60000)

    proxy = through(script, workers=1)
    before = resident(proxy)
    with connect(proxy, 4096) as client:
        client.sendall(request() * 900)
        assert settled(lambda: len(answered)) < 200 and resident(proxy) < before + 16 * MIB
        assert proxy.request(host="foo.example").status == 200
        received = 0
        while received < 900 * 60000:
            received += len(client.recv(1 << 20))
    assert len(answered) == 901
