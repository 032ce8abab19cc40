"""Hostile clients and hostile upstreams, over raw bytes."""
import os
import socket
import ssl
import struct
import time

import pytest
from harness import wait_until
from hostile import CHUNKED, EVIL, OK, UPSTREAM_ERRORS, obedient, request, resident, statuses

REFUSED = {
    "length and coding": (request(method="POST", headers="Content-Length: 4\r\n" + CHUNKED, body=b"0\r\n\r\n"), 400),
    "two lengths": (request(method="POST", headers="Content-Length: 2\r\nContent-Length: 3\r\n", body=b"abc"), 400),
    "equal lengths": (request(method="POST", headers="Content-Length: 2\r\nContent-Length: 2\r\n", body=b"ab"), 400),
    "length list": (request(method="POST", headers="Content-Length: 2, 2\r\n", body=b"ab"), 400),
    "signed length": (request(method="POST", headers="Content-Length: +2\r\n", body=b"ab"), 400),
    "length overflow": (request(method="POST", headers="Content-Length: 18446744073709551617\r\n", body=b"a"), 400),
    "two codings": (request(method="POST", headers=CHUNKED + CHUNKED, body=b"0\r\n\r\n"), 400),
    "other coding": (request(method="POST", headers="Transfer-Encoding: gzip, chunked\r\n", body=b"0\r\n\r\n"), 501),
    "almost chunked": (request(method="POST", headers="Transfer-Encoding: xchunked\r\n", body=b"0\r\n\r\n"), 400),
    "vertical tab": (request(method="POST", headers="Transfer-Encoding: \x0bchunked\r\n", body=b"0\r\n\r\n"), 400),
    "space before the colon": (request(method="POST", headers="Transfer-Encoding : chunked\r\n", body=b"0\r\n\r\n"), 400),
    "folded coding": (request(method="POST", headers="Transfer-Encoding:\r\n chunked\r\n", body=b"0\r\n\r\n"), 400),
    "bare CR": (request(method="POST", headers="X: a\rTransfer-Encoding: chunked\r\n"), 400),
    "bare LF": (request(headers="X: a\nY: b\r\n"), 400),
    "coding in 1.0": (request(method="POST", headers=CHUNKED, version="1.0", body=b"0\r\n\r\n"), 400),
    "two hosts": (request(headers="Host: evil\r\n"), 400),
    "chunk overflow": (request(method="POST", headers=CHUNKED, body=b"fffffffffffffffff\r\nab"), 400),
    "chunk with LF": (request(method="POST", headers=CHUNKED, body=b"2\nab\n0\n\n"), 400),
    "chunk extension with LF": (request(method="POST", headers=CHUNKED, body=b"2;a\nab\r\n0\r\n\r\n"), 400),
    "chunk without its end": (request(method="POST", headers=CHUNKED, body=b"2\r\nabXX0\r\n\r\n"), 400),
    "framing in trailers": (request(method="POST", headers=CHUNKED, body=b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "climbing path": (request("/%2e%2E/x"), 400),
    "climbing behind %2f": (request("/..%2f.."), 400),
    "NUL in the path": (request("/%00"), 400),
    "host with a quote": (request(host='"x"'), 400),
    "host with userinfo": (request(host="a@foo.example"), 400),
    "TRACE": (request(method="TRACE"), 405),
    "CONNECT": (request("foo.example:80", method="CONNECT"), 405),
    "long line": (request("/" + "a" * 9000), 414),
    "many cookies": (request(headers="Cookie: a=b\r\n" * 2000), 431),
    "large cookie": (request(headers="Cookie: " + "a" * 60000 + "\r\n"), 431),
}


def test_what_parsers_may_read_differently_never_reaches_the_application(through):
    proxy = through(obedient)
    smuggled = request("/smuggled")
    wrong = {}
    for name, (data, status) in REFUSED.items():
        answer = proxy.raw(data + smuggled, half_close=False)
        if statuses(answer) != [status]:
            wrong[name] = answer[:100]
    assert not wrong
    assert not any("/smuggled" in head for head in proxy.origin.heads)


def test_connection_does_not_strip_what_is_ours(through):
    proxy = through(obedient)
    answer = proxy.raw(request(method="POST", body=b"ab", headers="Connection: close, Host, Content-Length, X-Forwarded-For, X-Real-IP, X-Forwarded-Proto\r\nContent-Length: 2\r\n"
                               "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX_Real_IP: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n"), half_close=False)
    assert statuses(answer) == [200]
    head = proxy.origin.heads[0]
    for line in ("Host: foo.example", "Content-Length: 2", "X-Real-IP: 127.0.0.1", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: foo.example"):
        assert head.count(f"\r\n{line}\r\n") == 1, (line, head)
    assert "6.6.6.6" not in head


def test_the_absolute_form_wins_over_host(through):
    proxy = through(obedient)
    assert statuses(proxy.raw(request("http://other.example/x", headers="Connection: close\r\n"), half_close=False)) == [404]
    assert statuses(proxy.raw(request("http://foo.example/x", host="other.example", headers="Connection: close\r\n"), half_close=False)) == [200]
    assert proxy.origin.heads[0].startswith("GET /x HTTP/1.1\r\nHost: foo.example\r\n")


def test_upgrades_that_are_none(through):
    proxy = through(obedient)
    h2c = "Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    for headers in ("Connection: close\r\nUpgrade: websocket\r\n", "Connection: close, Upgrade\r\n", h2c):
        assert statuses(proxy.raw(request(headers=headers), half_close=False)) == [200]
    assert not any("upgrade" in head.lower() or "http2-settings" in head.lower() for head in proxy.origin.heads)


def test_left_over_answers_are_nobodys(through):
    """An answer behind an answer must not be taken for that of the next request, not even of one already waiting."""

    def script(_, connection):
        while True:
            head = connection.read_head()
            connection.send(OK.replace(b"ok", b"SF") if b"/safe" in head else (b"HTTP/1.1 204 N\r\n\r\n" if b"/204" in head else OK) + EVIL)

    proxy = through(script, workers=1)
    pairs = b"".join(request(path) for path in ("/x", "/safe", "/204", "/safe") * 5)
    answer = proxy.raw(pairs + request("/safe", headers="Connection: close\r\n"), half_close=False)
    assert answer.count(b"HTTP/1.1 2") == 21 and answer.count(b"SF") == 11 and b"EVIL" not in answer


BAD_ANSWERS = {
    "garbage": b"\x00\x01garbage\r\n\r\n", "another version": OK.replace(b"1.1", b"2.0"), "length and coding": OK.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "two lengths": OK.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n"), "negative length": OK.replace(b": 2", b": -2"), "bare LF": OK.replace(b"\r\n", b"\n"),
    "NUL": OK.replace(b"OK", b"O\0K"), "fold": OK.replace(b"\r\n\r\n", b"\r\n x\r\n\r\n"), "101 unasked": b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nEVIL",
    "1xx flood": b"HTTP/1.1 102 P\r\n\r\n" * 1000 + OK, "endless head": b"HTTP/1.1 200 OK\r\n" + b"X: aaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 9000,
}


def test_bad_answers_are_502_and_counted(through):
    current = [b""]

    def script(_, connection):
        connection.read_head()
        connection.send(current[0])

    proxy = through(script, expect_errors=UPSTREAM_ERRORS)
    wrong = {}
    for name, current[0] in BAD_ANSWERS.items():
        answer = proxy.raw(request(headers="Connection: close\r\n"), half_close=False)
        if statuses(answer)[-1:] != [502] or b"EVIL" in answer:
            wrong[name] = answer[:100]
    assert not wrong
    assert proxy.metric("moongate_limit_informational_total") == 1
    assert proxy.metric("moongate_limit_head_bytes_total") >= 1


def test_a_flood_of_pipelined_requests_does_not_grow_memory(through, monkeypatch):
    """What ASan keeps of freed memory is not growth: its quarantine is made small."""
    monkeypatch.setenv("ASAN_OPTIONS", os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64")
    proxy = through(obedient, workers=1)
    flood = request() * 900
    assert statuses(proxy.raw(flood, half_close=False, timeout=2)).count(200) == 900
    before = resident(proxy)
    for _ in range(3):
        assert statuses(proxy.raw(flood, half_close=False, timeout=1)).count(200) == 900
    assert resident(proxy) < before + 16384


def test_resets_at_every_byte(through):
    proxy = through(obedient)
    data = request(method="POST", headers=CHUNKED, body=b"2\r\nab\r\n0\r\n\r\n")
    for end in range(len(data) + 1):
        client = socket.create_connection(("127.0.0.1", proxy.http_port), 5)
        client.sendall(data[:end])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    assert statuses(proxy.raw(request(headers="Connection: close\r\n"), half_close=False)) == [200]
    wait_until(lambda: proxy.metric("moongate_exchanges") == 0, what="exchanges to end")


def test_a_head_byte_by_byte_has_a_time(through):
    proxy = through(obedient, settings={"client-header-timeout": "1"})
    with socket.create_connection(("127.0.0.1", proxy.http_port), 5) as client:
        begun = time.monotonic()
        client.settimeout(0.1)
        received = None
        for byte in request("/" + "a" * 60):
            try:
                client.sendall(bytes([byte]))
                received = client.recv(1000)
                break
            except socket.timeout:
                continue
            except ConnectionError:
                received = b""
                break
        assert received is not None and time.monotonic() - begun < 3
        assert received == b"" or received.startswith(b"HTTP/1.1 408")


def test_log_lines_stay_lines(through):
    proxy = through(obedient)
    proxy.raw(request('/q?"x\\y', headers='Connection: close\r\nUser-Agent: a"b\\ \xc3\xa9\tz\r\n'), half_close=False)
    line = wait_until(lambda: proxy.access.find(r'.*GET /q.*'), what="the access log's line").group(0)
    assert "\\x22" in line and "\\x5C" in line and "\t" not in line and line.count('"') == 6


def test_paths_with_catastrophic_backtracking(through):
    proxy = through(obedient, {"nginx.ingress.kubernetes.io/use-regex": "true"}, path="/(a+)+$", path_type="ImplementationSpecific", expect_errors=["regex", "match limit"])
    begun = time.monotonic()
    answer = proxy.raw(request("/" + "a" * 4000 + "b", headers="Connection: close\r\n"), half_close=False)
    assert statuses(answer) == [404] and time.monotonic() - begun < 2


@pytest.mark.parametrize("header, status", [
    (b"PROXY TCP4 6.6.6.6 7.7.7.7 1 2\r\n", [200]), (b"PROXY TCP4 6.6.6.6\r\n", []), (b"PROXY " + b"x" * 300, []), (b"\r\n\r\n\0\r\nQUIT\n\x2f\x11\0\x0c" + b"x" * 12, []),
    (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x02xx", []), (b"", [])])
def test_proxy_protocol_garbage(through, header, status):
    proxy = through(obedient, settings={"use-proxy-protocol": "true", "proxy-real-ip-cidr": "127.0.0.0/8"}, expect_errors=["PROXY"])
    assert statuses(proxy.raw(header + request(headers="Connection: close\r\n"), half_close=False)) == status
    if status:
        assert "X-Real-IP: 6.6.6.6\r\n" in proxy.origin.heads[0]


def test_tls_garbage(through):
    proxy = through(obedient)
    for data in (b"\x16\x03\x01\xff\xff" + b"\x01" * 5000, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", request(), b"\x00" * 100):
        with socket.create_connection(("127.0.0.1", proxy.https_port), 5) as client:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(4096):
                    pass
            except ConnectionError:
                pass
    context = ssl._create_unverified_context()
    for name in ("a" * 63 + ".example", "foo.example", "*.example", "xn--80ak6aa92e.example"):
        with socket.create_connection(("127.0.0.1", proxy.https_port), 5) as raw, context.wrap_socket(raw, server_hostname=name) as client:
            client.sendall(request(headers="Connection: close\r\n"))
            assert client.recv(1000).startswith(b"HTTP/1.1 ")


def test_notes_to_the_proxy_stay_inside(through):
    def script(_, connection):
        connection.read_head()
        connection.send(OK.replace(b"\r\n\r\n", b"\r\nX-Accel-Redirect: /inner\r\nx-accel-buffering: no\r\nX-Accelerated: 1\r\n\r\n"))

    answer = through(script).raw(request(headers="Connection: close\r\n"), half_close=False)
    assert statuses(answer) == [200] and b"accel-" not in answer.lower() and b"X-Accelerated: 1\r\n" in answer
